//! What the engine tells recorders of metrics and subscribers of tracing.

use std::io;
use std::sync::{Arc, Mutex};

use metrics::Key;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use mlx_embed::{EmbedOptions, Embedder, LoadOptions, Prompt, RerankOptions, Reranker};
use mlx_embed_tests::golden;
use tracing_subscriber::fmt::format::FmtSpan;

const CASE: &str = "qwen3-affine-4bit-g64";

/// What a recorder holds. Asking it empties it, so this is asked once.
struct Metrics(Vec<(Key, DebugValue)>);

impl Metrics {
    fn of(snapshotter: &Snapshotter) -> Self {
        let metrics = snapshotter.snapshot().into_vec().into_iter();
        Self(metrics.map(|(key, _, _, value)| (key.key().clone(), value)).collect())
    }

    /// The one metric of this name and, if given, this label's value.
    fn one(&self, name: &str, label: Option<&str>) -> &DebugValue {
        let labelled = |key: &Key| label.is_none_or(|label| key.labels().any(|found| found.value() == label));
        let found: Vec<_> = self.0.iter().filter(|(key, _)| key.name() == name && labelled(key)).collect();
        let [(_, value)] = found[..] else { panic!("{name}, {label:?}: {found:?}") };
        value
    }

    fn counter(&self, name: &str, label: Option<&str>) -> u64 {
        let DebugValue::Counter(count) = self.one(name, label) else { panic!("{name} is no counter") };
        *count
    }

    fn histogram(&self, name: &str) -> Vec<f64> {
        let DebugValue::Histogram(values) = self.one(name, None) else { panic!("{name} is no histogram") };
        values.iter().map(|value| value.into_inner()).collect()
    }
}

/// Loads a model, and what its recorder holds.
fn recorded<Model>(load: impl FnOnce() -> Model) -> (Model, Snapshotter) {
    let recorder = DebuggingRecorder::new();
    (metrics::with_local_recorder(&recorder, load), recorder.snapshotter())
}

#[test]
fn metrics_tell_requests_batches_tokens_and_the_cache() {
    let name = Some("the shop's".to_owned());
    let options = LoadOptions { vector_cache: 1 << 20, name, ..golden::load_options() };
    let (embedder, snapshotter) = recorded(|| Embedder::load_with(golden::directory(CASE), options).unwrap());
    let tokens: usize =
        embedder.embed(["one", "and another"]).unwrap().iter().map(|embedding| embedding.tokens).sum();
    embedder.embed(["one"]).unwrap();
    embedder
        .embed_with(&["x"], &EmbedOptions { timeout: Some(Default::default()), ..Default::default() })
        .unwrap_err();
    // Where this thread is kept waiting, some of them are done before they are dropped.
    const DROPPED: u64 = 50;
    for index in 0..DROPPED {
        drop(embedder.submit_one(format!("never mind {index}"), &EmbedOptions::default()));
    }
    drop(embedder);

    let metrics = Metrics::of(&snapshotter);
    let requests = |outcome| metrics.counter("mlx_embed_requests_total", Some(outcome));
    assert_eq!((requests("done") + requests("cancelled"), requests("late")), (2 + DROPPED, 1));
    assert!(requests("done") >= 2 && requests("cancelled") > 0, "{} were cancelled", requests("cancelled"));
    assert_eq!(metrics.counter("mlx_embed_cache_hits_total", None), 1);
    assert!(metrics.counter("mlx_embed_cache_misses_total", None) >= 2);
    assert!(metrics.counter("mlx_embed_texts_total", None) >= 2);
    assert!(metrics.counter("mlx_embed_tokens_total", Some("the shop's")) >= tokens as u64);
    assert_eq!(metrics.counter("mlx_embed_shared_texts_total", None), 0);
    assert!(matches!(metrics.one("mlx_embed_queue_texts", Some("query")), DebugValue::Gauge(_)));
}

#[test]
fn a_prompt_that_comes_again_is_reused() {
    let (embedder, snapshotter) = recorded(|| golden::load(CASE));
    let prompt = "Instruct: Given a question, retrieve passages that answer it\nQuery: ";
    let options = EmbedOptions { prompt: Prompt::Text(prompt.into()), ..Default::default() };
    let own = embedder.token_ids(prompt, &EmbedOptions::default()).unwrap().len() as u64;
    for text in ["Where do cats sleep?", "Why?", "Who?"] {
        embedder.embed_with(&[text], &options).unwrap();
    }
    drop(embedder);
    let model = golden::directory(CASE).display().to_string();
    let reused = Metrics::of(&snapshotter).counter("mlx_embed_reused_tokens_total", Some(&model));
    // By the second and the third, all but what its end may share with a text's beginning.
    assert!((2 * (own - 3)..=2 * own).contains(&reused), "{reused} of twice {own}");
}

#[test]
fn what_a_query_puts_before_its_documents_is_computed_once() {
    let folder = golden::directory("families/reranker-qwen3-tied");
    let (reranker, snapshotter) = recorded(|| Reranker::load_with(folder, golden::load_options()).unwrap());
    let empty = reranker.tokens("where do cats sleep?", "", &RerankOptions::default()).unwrap().ids.len();
    let documents = ["on the mat", "at sea", "in the sun", "nowhere", "in boxes"];
    reranker.rerank("where do cats sleep?", &documents).unwrap();
    drop(reranker);
    let reused = Metrics::of(&snapshotter).counter("mlx_embed_reused_tokens_total", None);
    // All but what ends a pair, some 20 tokens, and what its end may share with a document's beginning.
    assert!((5 * (empty as u64 - 30)..=5 * empty as u64).contains(&reused), "{reused} of five times {empty}");
}

#[test]
fn histograms_hold_what_happened() {
    let (embedder, snapshotter) = recorded(|| golden::load(CASE));
    embedder.embed(["one", "and another"]).unwrap();
    drop(embedder);
    let metrics = Metrics::of(&snapshotter);
    assert_eq!(metrics.histogram("mlx_embed_batch_texts"), [2.0]);
    for (name, count) in [
        ("mlx_embed_request_duration_seconds", 1),
        ("mlx_embed_batch_duration_seconds", 1),
        ("mlx_embed_queue_duration_seconds", 2),
    ] {
        let seconds = metrics.histogram(name);
        assert_eq!(seconds.len(), count, "{name}");
        assert!(seconds.iter().all(|&seconds| seconds > 0.0 && seconds < 60.0), "{name}: {seconds:?}");
    }
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no test panicked here").extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_batch_is_a_span_with_its_sizes() {
    let log = Log::default();
    let writer = log.clone();
    // For all threads: batches run on the engine's own.
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_span_events(FmtSpan::CLOSE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    let embedder = golden::load(CASE);
    embedder.embed(["one", "two", "three"]).unwrap();
    drop(embedder);
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("mlx_embed.batch{lane=\"query\" texts=3"), "{log}");
}
