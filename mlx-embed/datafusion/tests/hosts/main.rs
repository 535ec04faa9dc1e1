//! Three hosts: a scheduler and two executors, of which one dies.
#![cfg(all(feature = "ballista", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

mod network;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use datafusion::prelude::SessionContext;
use mlx_embed::Embedder;
use network::{Network, Running};
use serde_json::Value;

/// Files, each of which is a task.
const FILES: usize = 24;

/// Rows of each.
const ROWS: usize = 80;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/st-mean");

const SCHEDULER: &str = env!("CARGO_BIN_EXE_mlx-embed-scheduler");
const EXECUTOR: &str = env!("CARGO_BIN_EXE_mlx-embed-executor");
const CLIENT: &str = env!("CARGO_BIN_EXE_mlx-embed-sql");

fn text(id: usize) -> String {
    let words = ["a cat", "sleeps", "on the mat", "while stocks", "fell sharply", "and a kitten", "naps"];
    (0..24)
        .map(|place| words[(id / 7_usize.pow(place % 4) + place as usize) % 7])
        .collect::<Vec<_>>()
        .join(" ")
        + &format!(" {id}")
}

async fn write_files(dir: &Path) {
    let ctx = SessionContext::new();
    for file in 0..FILES {
        let ids: Vec<usize> = (0..ROWS).map(|row| file * ROWS + row).collect();
        let bodies: Vec<String> = ids.iter().map(|&id| text(id)).collect();
        let ids = Int64Array::from_iter_values(ids.iter().map(|&id| id as i64));
        let columns: [(&str, ArrayRef); 2] =
            [("id", Arc::new(ids)), ("body", Arc::new(StringArray::from(bodies)))];
        let rows = ctx.read_batch(RecordBatch::try_from_iter(columns).unwrap()).unwrap();
        let to = dir.join(format!("{file:03}.parquet"));
        rows.write_parquet(to.to_str().unwrap(), Default::default(), None).await.unwrap();
    }
}

fn executor(network: &Network, host: usize, work_dir: &Path) -> Running {
    let mut command = network.on(host, EXECUTOR);
    command.args([
        "--scheduler",
        &format!("{}:50050", Network::address(1)),
        "--host",
        &Network::address(host),
    ]);
    command
        .args([
            "--device",
            "cpu",
            "--threads",
            "1",
            "--tasks",
            "1",
            "--wait",
            "60",
            "--model",
            MODEL,
            "--work-dir",
        ])
        .arg(work_dir);
    Running::start(&mut command)
}

/// Results of tasks.
fn results(dir: &Path) -> usize {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries
        .map(|entry| entry.unwrap().path())
        .map(|path| if path.is_dir() { results(&path) } else { 1 })
        .sum()
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(300), "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[tokio::test]
async fn an_executor_is_killed_and_every_row_is_there_once() {
    let Some(network) = Network::of(3) else { return };
    let [docs, first, second] = [(); 3].map(|()| tempfile::tempdir().unwrap());
    write_files(docs.path()).await;
    let mut scheduler = network.on(1, SCHEDULER);
    scheduler.args(["--host", &Network::address(1), "--executor-timeout", "10"]);
    let _scheduler = Running::start(&mut scheduler);
    let _first = executor(&network, 2, first.path());
    let mut second_executor = executor(&network, 3, second.path());

    let query = format!("SELECT id, embed(body) AS v FROM '{}/'", docs.path().display());
    let client = |query: &str| {
        let mut client = network.on(1, CLIENT);
        client.args(["--scheduler", &format!("{}:50050", Network::address(1)), "--format", "jsonl"]);
        client.args(["--model", MODEL, "--partitions", &FILES.to_string(), query]);
        client.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    wait_until("the cluster answers", || client("SELECT 1").wait_with_output().unwrap().status.success());
    let running = client(&query);
    let output = thread::spawn(|| running.wait_with_output().unwrap());
    // A task's result has a file as soon as it begins.
    wait_until("the second executor has begun its fourth task", || results(second.path()) >= 4);
    second_executor.kill();
    let (done, killed) = (results(first.path()), results(second.path()));
    assert!(done + killed < FILES, "it was killed in the middle: {done} and {killed}");

    let output = output.join().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(results(first.path()) >= FILES, "the first has done what the second had, too");
    let mut found = BTreeMap::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let id = row["id"].as_u64().unwrap() as usize;
        let vector: Vec<f32> =
            row["v"].as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect();
        assert!(found.insert(id, vector).is_none(), "row {id} is there twice");
    }
    let texts: Vec<String> = (0..FILES * ROWS).map(text).collect();
    let expected = Embedder::load(MODEL).unwrap().embed(&texts).unwrap();
    assert_eq!(found.len(), expected.len());
    for ((id, found), expected) in found.iter().zip(&expected) {
        assert!(*found == expected.vector, "row {id}");
    }
}
