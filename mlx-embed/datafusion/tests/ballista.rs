//! Queries on a cluster: what one process gives, and what is refused.
#![cfg(feature = "ballista")]
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

mod support;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::config::SchedulerConfig;
use ballista_scheduler::scheduler_process::start_server;
use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::DataType;
use datafusion::prelude::SessionContext;
use mlx_embed::{Checkpoint, Embedder, LoadOptions, Precision, Reranker};
use mlx_embed_datafusion::ballista::{ModelId, executor, remote, scheduler, wait_for};
use tempfile::TempDir;

use support::{ask, failure, golden, rows_of};

const EMBEDDER: &str = "st-last-token";
const RERANKER: &str = "families/reranker-bert-sigmoid";

fn options(precision: Precision) -> LoadOptions {
    LoadOptions { precision, ..Default::default() }
}

fn id_with(case: &str, precision: Precision) -> ModelId {
    ModelId::of(&Checkpoint::open(golden(case)).unwrap(), &options(precision)).unwrap()
}

fn id(case: &str) -> ModelId {
    id_with(case, Precision::Exact)
}

fn reranker_id() -> ModelId {
    ModelId::of(&Checkpoint::open_reranker(golden(RERANKER)).unwrap(), &LoadOptions::default()).unwrap()
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// The port of a scheduler that runs until the test ends.
async fn start_scheduler(adapt: fn(SchedulerConfig) -> SchedulerConfig) -> u16 {
    let port = free_port();
    let config = adapt(SchedulerConfig { bind_port: port, ..Default::default() });
    let cluster = BallistaCluster::new_from_config(&config).await.unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    tokio::spawn(async move { start_server(cluster, address, Arc::new(config)).await.unwrap() });
    wait_for(&address.to_string(), Duration::from_secs(60)).await.unwrap();
    port
}

/// Starts an executor, whose files lie in `work_dir`.
fn start_executor(scheduler_port: u16, work_dir: &TempDir, embedder: &str, with_reranker: bool) {
    let config = ExecutorProcessConfig {
        scheduler_port,
        port: free_port(),
        vcores: 2,
        work_dir: Some(work_dir.path().to_str().unwrap().to_owned()),
        ..Default::default()
    };
    let reranker = with_reranker.then(|| (reranker_id(), Reranker::load(golden(RERANKER)).unwrap()));
    let embedder = (id(embedder), Embedder::load(golden(embedder)).unwrap());
    let config = executor(config, embedder, reranker).unwrap();
    tokio::spawn(async move { start_executor_process(Arc::new(config)).await.unwrap() });
}

/// Five files of 40 rows, in which every tenth body is null.
async fn write_docs(dir: &Path) {
    let ctx = SessionContext::new();
    for part in 0..5 {
        let to = dir.join(format!("docs-{part}.parquet"));
        ctx.read_batch(rows_of((0..40).map(|row| row * 5 + part)))
            .unwrap()
            .write_parquet(to.to_str().unwrap(), Default::default(), None)
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_answers_as_one_process_does() {
    let (docs, work) =
        (tempfile::tempdir().unwrap(), [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()]);
    write_docs(docs.path()).await;
    let port = start_scheduler(scheduler).await;
    work.iter().for_each(|work| start_executor(port, work, EMBEDDER, true));
    let cluster = remote(&format!("127.0.0.1:{port}"), id(EMBEDDER), Some(reranker_id())).await.unwrap();
    let cluster = cluster.enable_url_table();
    let local = SessionContext::new().enable_url_table();
    mlx_embed_datafusion::register(&local, Embedder::load(golden(EMBEDDER)).unwrap());
    mlx_embed_datafusion::register_reranker(&local, Reranker::load(golden(RERANKER)).unwrap());
    let docs = format!("'{}/'", docs.path().display());
    for (rows, query) in [
        (200, "SELECT id, embed(body) AS v FROM DOCS ORDER BY id"),
        (200, "SELECT id, embed(body, prompt => 'query') AS v, length(body) AS n FROM DOCS ORDER BY id"),
        (
            5,
            "SELECT id, cosine(embed(body), embed('row 7')) AS c FROM DOCS WHERE id < 100 ORDER BY c DESC NULLS LAST, id LIMIT 5",
        ),
        (1, "SELECT id FROM DOCS WHERE cosine(embed(body), embed('row 7 has the number 433')) > 0.999999"),
        (200, "SELECT id, rerank('cats', body) AS s, rerank(body, 'cats') AS t FROM DOCS ORDER BY id"),
        (
            10,
            "SELECT id % 10 AS k, count(c) AS n, min(c) AS least FROM \
              (SELECT id, cosine(embed(body), embed('row')) AS c FROM DOCS) GROUP BY k ORDER BY k",
        ),
        (
            9,
            "SELECT a.id AS a, b.id AS b FROM (SELECT id, body, embed(body) AS v FROM DOCS WHERE id < 10) a \
             JOIN (SELECT id, body, embed(body) AS v FROM DOCS) b ON a.body = b.body \
             WHERE cosine(a.v, b.v) > 0.999999 ORDER BY a.id",
        ),
        (1, "SELECT cosine(embed('a cat'), embed('a feline')) AS c"),
        (0, "SELECT embed(body) AS v FROM DOCS WHERE id < 0"),
    ] {
        let query = query.replace("DOCS", &docs);
        let (found, expected) = (ask(&cluster, &query).await, ask(&local, &query).await);
        assert_eq!((found.num_rows(), expected.num_rows()), (rows, rows), "{query}");
        for (name, found) in found.schema().fields().iter().map(|field| field.name()).zip(found.columns()) {
            assert!(found == expected.column_by_name(name).unwrap(), "{query}: {name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_becomes_a_file_on_a_cluster() {
    let (docs, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let work = tempfile::tempdir().unwrap();
    write_docs(docs.path()).await;
    let port = start_scheduler(scheduler).await;
    start_executor(port, &work, EMBEDDER, false);
    let cluster = remote(&format!("127.0.0.1:{port}"), id(EMBEDDER), None).await.unwrap().enable_url_table();
    let to = out.path().join("vectors.parquet");
    let select = format!("SELECT id, embed(body) AS v FROM '{}/'", docs.path().display());
    ask(&cluster, &format!("COPY ({select}) TO '{}'", to.display())).await;
    let (written, asked) = (
        ask(
            &SessionContext::new().enable_url_table(),
            &format!("SELECT * FROM '{}' ORDER BY id", to.display()),
        )
        .await,
        ask(&cluster, &format!("{select} ORDER BY id")).await,
    );
    assert_eq!(written.num_rows(), 200);
    assert!(written.columns() == asked.columns());
}

/// A message of gRPC holds 16 MiB; 8,192 vectors of 1,024 numbers are 32.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_larger_than_a_message_arrives() {
    let (docs, work) =
        (tempfile::tempdir().unwrap(), [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()]);
    write_docs(docs.path()).await;
    let port = start_scheduler(scheduler).await;
    work.iter().for_each(|work| start_executor(port, work, EMBEDDER, false));
    let cluster = remote(&format!("127.0.0.1:{port}"), id(EMBEDDER), None).await.unwrap().enable_url_table();
    // Rows are wide instead of many: the model takes long for many in a test's build.
    let query = format!(
        "SELECT id, embed(body) AS v, repeat(chr(65 + id % 26), 600000) AS wide FROM '{}/' ORDER BY id",
        docs.path().display()
    );
    let found = ask(&cluster, &query).await;
    assert_eq!(found.num_rows(), 200);
    assert!(found.get_array_memory_size() > 100 << 20);
    let wide = found.column_by_name("wide").unwrap();
    let wide = datafusion::arrow::compute::cast(wide, &DataType::LargeUtf8).unwrap();
    let wide = wide.as_string::<i64>();
    for row in 0..200 {
        let letter = char::from(b'A' + (row % 26) as u8);
        assert!(wide.value(row).len() == 600_000 && wide.value(row).chars().all(|c| c == letter), "{row}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_of_two_models_never_meet() {
    let (docs, work) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_docs(docs.path()).await;
    let port = start_scheduler(scheduler).await;
    start_executor(port, &work, EMBEDDER, false);
    let query = format!("SELECT embed(body) FROM '{}/'", docs.path().display());
    let fast = id_with(EMBEDDER, Precision::Fast);
    for (model, parts) in
        [(id("st-mean"), ["st-mean (", "has st-last-token ("]), (fast, ["fast, SHA-256", "exact, SHA-256"])]
    {
        let cluster = remote(&format!("127.0.0.1:{port}"), model, None).await.unwrap().enable_url_table();
        let error = failure(&cluster, &query).await;
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        assert!(error.contains("start every executor and the client with the same model"), "{error}");
    }
    let cluster = remote(&format!("127.0.0.1:{port}"), id(EMBEDDER), Some(reranker_id())).await.unwrap();
    let query = format!("SELECT rerank('a', body) FROM '{}/'", docs.path().display());
    let error = failure(&cluster.enable_url_table(), &query).await;
    assert!(error.contains("this executor has none for it; start it with --reranker DIR"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduler_without_these_functions_and_none_are_told() {
    let port = start_scheduler(|stock| stock).await;
    let cluster = remote(&format!("127.0.0.1:{port}"), id(EMBEDDER), None).await.unwrap();
    let error = failure(&cluster, "SELECT embed('a cat')").await;
    assert!(error.contains("not provided for scalar function embed"), "{error}");
    let address = format!("127.0.0.1:{}", free_port());
    let error = remote(&address, id(EMBEDDER), None).await.err().unwrap().to_string();
    assert!(error.contains(&format!("no scheduler answers at {address}")), "{error}");
}
