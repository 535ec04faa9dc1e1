//! The functions in queries: what the library gives, whatever becomes of partitions, nulls and errors.
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

mod support;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, DictionaryArray, LargeStringArray, RecordBatch, StringArray, StringViewArray,
};
use datafusion::arrow::datatypes::{Float32Type, Float64Type, Int32Type};
use datafusion::datasource::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};
use mlx_embed::{EmbedOptions, Embedder, LoadOptions, Prompt, Reranker};

use support::{ask, failure, golden, rows_of, text};

fn embedder(case: &str) -> Embedder {
    Embedder::load(golden(case)).unwrap()
}

/// A table `docs` of rows of `id` and `body`, null in every tenth, in `partitions` parts.
fn docs(ctx: &SessionContext, rows: usize, partitions: usize) {
    let part = |part: usize| vec![rows_of((0..rows).filter(move |row| row % partitions == part))];
    let parts: Vec<Vec<RecordBatch>> = (0..partitions).map(part).collect();
    let table = MemTable::try_new(parts[0][0].schema(), parts).unwrap();
    ctx.register_table("docs", Arc::new(table)).unwrap();
}

fn context(embedder: &Embedder) -> SessionContext {
    let config = SessionConfig::new().with_target_partitions(4);
    let ctx = SessionContext::new_with_config(config).enable_url_table();
    mlx_embed_datafusion::register(&ctx, embedder.clone());
    ctx
}

fn vector(column: &ArrayRef, row: usize) -> Option<Vec<f32>> {
    let list = column.as_fixed_size_list();
    list.is_valid(row).then(|| list.value(row).as_primitive::<Float32Type>().values().to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_are_the_library_s_in_whichever_partition() {
    let embedder = embedder("st-mean");
    let texts: Vec<String> = (0..3000).map(text).collect();
    let expected = embedder.embed(&texts).unwrap();
    for partitions in [1, 4, 9] {
        let ctx = context(&embedder);
        docs(&ctx, texts.len(), partitions);
        let found = ask(&ctx, "SELECT id, embed(body) AS v FROM docs ORDER BY id").await;
        assert_eq!(found.num_rows(), texts.len());
        for (row, expected) in expected.iter().enumerate() {
            let expected = (row % 10 != 9).then(|| expected.vector.clone());
            assert_eq!(vector(found.column(1), row), expected, "{partitions} partitions, row {row}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strings_of_every_type_are_texts() {
    let embedder = embedder("st-mean");
    let ctx = context(&embedder);
    let texts = ["a cat", "a feline"];
    let dictionary: DictionaryArray<Int32Type> = texts.into_iter().collect();
    let columns: [(&str, ArrayRef); 4] = [
        ("small", Arc::new(StringArray::from(texts.to_vec()))),
        ("large", Arc::new(LargeStringArray::from(texts.to_vec()))),
        ("view", Arc::new(StringViewArray::from(texts.to_vec()))),
        ("dictionary", Arc::new(dictionary)),
    ];
    ctx.register_batch("docs", RecordBatch::try_from_iter(columns).unwrap()).unwrap();
    let expected = embedder.embed(texts).unwrap();
    for column in ["small", "large", "view", "dictionary"] {
        let found = ask(&ctx, &format!("SELECT embed({column}) FROM docs")).await;
        for (row, expected) in expected.iter().enumerate() {
            assert_eq!(vector(found.column(0), row).as_ref(), Some(&expected.vector), "{column}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_are_the_checkpoint_s_by_name() {
    let embedder = embedder("st-last-token");
    let ctx = context(&embedder);
    docs(&ctx, 5, 2);
    let options = EmbedOptions { prompt: Prompt::Named("query".to_owned()), ..Default::default() };
    let expected = embedder.embed_with(&(0..5).map(text).collect::<Vec<_>>(), &options).unwrap();
    for query in [
        "SELECT embed(body, prompt => 'query') AS v FROM docs ORDER BY id",
        "SELECT embed(prompt => 'query', text => body) AS v FROM docs ORDER BY id",
        "SELECT embed(body, 'query') AS v FROM docs ORDER BY id",
    ] {
        let found = ask(&ctx, query).await;
        for (row, expected) in expected.iter().enumerate() {
            assert_eq!(vector(found.column(0), row).as_ref(), Some(&expected.vector), "{query}");
        }
    }
    let error = failure(&ctx, "SELECT embed(body, 'querry') FROM docs").await;
    assert!(error.contains("embed(body") && error.contains("querry") && error.contains("query"), "{error}");
    let error = failure(&ctx, "SELECT embed(body, prompt => body) FROM docs").await;
    assert!(error.contains("`prompt` is one of the checkpoint's prompts for all rows"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn constants_empty_tables_and_nulls_are_what_they_are() {
    let embedder = embedder("st-mean");
    let ctx = context(&embedder);
    docs(&ctx, 30, 3);
    let one = embedder.embed_one("a cat").unwrap();
    let found = ask(&ctx, "SELECT embed('a cat') AS v, id FROM docs").await;
    assert_eq!(found.num_rows(), 30);
    assert!((0..30).all(|row| vector(found.column(0), row).as_ref() == Some(&one.vector)));
    let found = ask(&ctx, "SELECT embed('a cat')").await;
    assert_eq!(vector(found.column(0), 0), Some(one.vector));
    let found = ask(&ctx, "SELECT embed(NULL) AS v, cosine(NULL, embed('a')) AS c FROM docs").await;
    assert_eq!((found.num_rows(), found.column(0).null_count(), found.column(1).null_count()), (30, 30, 30));
    let found = ask(&ctx, "SELECT embed(body) FROM docs WHERE id < 0").await;
    assert_eq!(found.num_rows(), 0);
    let found = ask(&ctx, "SELECT embed('') AS v").await;
    assert!(vector(found.column(0), 0).is_some(), "the empty text is one");
}

#[tokio::test(flavor = "multi_thread")]
async fn cosines_of_vectors_of_any_type() {
    let embedder = embedder("st-mean");
    let ctx = context(&embedder);
    docs(&ctx, 100, 4);
    let query = "SELECT id, cosine(embed(body), embed('row 7')) AS c FROM docs WHERE body IS NOT NULL ORDER BY c DESC";
    let found = ask(&ctx, query).await;
    let seven = embedder.embed_one("row 7").unwrap();
    let texts: Vec<String> = (0..100).map(text).collect();
    let vectors = embedder.embed(&texts).unwrap();
    let (ids, cosines) = (
        found.column(0).as_primitive::<datafusion::arrow::datatypes::Int64Type>(),
        found.column(1).as_primitive::<Float64Type>(),
    );
    assert_eq!(found.num_rows(), 90);
    for row in 0..90 {
        let expected = mlx_embed::vectors::cosine(&vectors[ids.value(row) as usize], &seven);
        assert!((cosines.value(row) - expected).abs() < 1e-12);
        assert!(row == 0 || cosines.value(row) <= cosines.value(row - 1));
    }
    for (a, b, cosine) in [
        ("[1.0, 0.0]", "[1, 1]", 0.5_f64.sqrt()),
        ("arrow_cast([1, 0], 'FixedSizeList(2, Int8)')", "[2.0, 0.0]", 1.0),
        ("arrow_cast([1.0, 0.0], 'List(Float16)')", "arrow_cast([-1.0, 0.0], 'LargeList(Float32)')", -1.0),
    ] {
        let found = ask(&ctx, &format!("SELECT cosine({a}, {b})")).await;
        let found = found.column(0).as_primitive::<Float64Type>().value(0);
        assert!((found - cosine).abs() < 1e-12, "{a}, {b}: {found}");
    }
    let found = ask(&ctx, "SELECT cosine([0.0], [1.0])").await;
    assert!(found.column(0).as_primitive::<Float64Type>().value(0).is_nan());
    for (query, part) in [
        ("SELECT cosine([1.0], [1.0, 2.0])", "have 1 and 2 numbers"),
        ("SELECT cosine('a', [1.0])", "both are lists of numbers"),
        ("SELECT cosine([1.0])", "1 arguments are given"),
        ("SELECT cosine([1.0, NULL], [1.0, 2.0])", "null among a vector's numbers"),
        ("SELECT embed(id) FROM docs", "embed"),
        ("SELECT embed()", "embed"),
        ("SELECT embed('a', 'b', 'c')", "embed"),
        ("SELECT rerank('a', 'b')", "rerank"),
    ] {
        let error = failure(&ctx, query).await;
        assert!(error.contains(part), "{query}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_stand_in_where_group_and_order() {
    let embedder = embedder("st-mean");
    let ctx = context(&embedder);
    docs(&ctx, 50, 4);
    let close = "SELECT id FROM docs WHERE cosine(embed(body), embed('row 7 has the number 433')) > 0.999999";
    let found = ask(&ctx, close).await;
    assert_eq!(found.column(0).as_primitive::<datafusion::arrow::datatypes::Int64Type>().values(), &[7]);
    let grouped = "SELECT round(c, 1) AS r, count(*) FROM \
        (SELECT cosine(embed(body), embed('row')) AS c FROM docs) GROUP BY r ORDER BY r";
    assert!(ask(&ctx, grouped).await.num_rows() > 0);
    let joined = "SELECT a.id, b.id FROM (SELECT id, embed(body) AS v FROM docs WHERE id < 5) a \
        JOIN (SELECT id, embed(body) AS v FROM docs WHERE id < 5) b ON cosine(a.v, b.v) > 0.999999";
    assert_eq!(ask(&ctx, joined).await.num_rows(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_tables_and_tables_become_files() {
    let dir = tempfile::tempdir().unwrap();
    let embedder = embedder("st-mean");
    let ctx = context(&embedder);
    docs(&ctx, 40, 1);
    for part in 0..3 {
        let to = dir.path().join(format!("docs-{part}.parquet"));
        ask(&ctx, &format!("COPY (SELECT * FROM docs WHERE id % 3 = {part}) TO '{}'", to.display())).await;
    }
    let output = dir.path().join("vectors.parquet");
    let (all, to) = (dir.path().join("docs-*.parquet"), output.display());
    ask(&ctx, &format!("COPY (SELECT id, embed(body) AS embedding FROM '{}') TO '{to}'", all.display()))
        .await;
    let found = ask(&ctx, &format!("SELECT id, embedding FROM '{to}' ORDER BY id")).await;
    assert_eq!(found.num_rows(), 40);
    let expected = embedder.embed_one(text(17)).unwrap();
    assert_eq!(vector(found.column(1), 17), Some(expected.vector));
    assert_eq!(vector(found.column(1), 19), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn scores_are_the_library_s() {
    let reranker = Reranker::load(golden("families/reranker-bert-sigmoid")).unwrap();
    let ctx = context(&embedder("st-mean"));
    mlx_embed_datafusion::register_reranker(&ctx, reranker.clone());
    docs(&ctx, 600, 3);
    let scores = |query: &str| {
        let texts: Vec<String> = (0..600).map(text).collect();
        let mut ranked = reranker.rerank(query, &texts).unwrap();
        ranked.sort_by_key(|ranked| ranked.index);
        ranked.into_iter().map(|ranked| ranked.score).collect::<Vec<f32>>()
    };
    let (cats, dogs) = (scores("cats"), scores("dogs"));
    let found = ask(
        &ctx,
        "SELECT id, rerank('cats', body) AS a, rerank(query => CASE WHEN id % 2 = 0 THEN 'dogs' ELSE 'cats' END, text => body) AS b \
         FROM docs ORDER BY id",
    )
    .await;
    let (a, b) =
        (found.column(1).as_primitive::<Float32Type>(), found.column(2).as_primitive::<Float32Type>());
    for row in 0..600 {
        assert_eq!(a.is_null(row), row % 10 == 9);
        if a.is_valid(row) {
            assert!((a.value(row) - cats[row]).abs() < 1e-6, "row {row}");
            let expected = if row % 2 == 0 { dogs[row] } else { cats[row] };
            assert!((b.value(row) - expected).abs() < 1e-6, "row {row}");
        }
    }
    let found = ask(&ctx, "SELECT rerank(NULL, body) AS s FROM docs").await;
    assert_eq!(found.column(0).null_count(), 600);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_cannot_be_embedded_ends_the_query_and_is_named() {
    let options = LoadOptions { max_text_bytes: NonZeroUsize::new(24), ..Default::default() };
    let embedder = Embedder::load_with(golden("st-mean"), options).unwrap();
    let ctx = context(&embedder);
    docs(&ctx, 20, 1);
    let error = failure(&ctx, "SELECT embed(body) FROM docs").await;
    assert!(error.contains("embed(body)") && error.contains("24"), "{error}");
    assert!(error.contains("text 1"), "the second row of the batch is the first that is too long: {error}");
    let found = ask(&ctx, "SELECT embed(body) FROM docs WHERE length(body) <= 24").await;
    assert!(found.num_rows() > 0, "others are not in the way");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_is_dropped_frees_the_model() {
    let embedder = Embedder::default_model().unwrap();
    let ctx = context(&embedder);
    docs(&ctx, 200_000, 4);
    let frame = ctx
        .sql("SELECT max(cosine(embed(body), embed('a'))) FROM (SELECT repeat(body, 20) AS body FROM docs)");
    let query = tokio::spawn(frame.await.unwrap().collect());
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!query.is_finished(), "it takes minutes");
    query.abort();
    assert!(query.await.unwrap_err().is_cancelled());
    let start = Instant::now();
    embedder.embed_one("who is next?").unwrap();
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    // Nothing of the query stands in the bulk lane any more either.
    let texts: Vec<String> = (0..100).map(text).collect();
    embedder.embed(&texts).unwrap();
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}
