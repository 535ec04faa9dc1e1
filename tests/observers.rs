//! A subscriber of tracing that panics. It is the whole process's, so it has a test binary of its own.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use mlx_embed::{EmbedOptions, Error, Shutdown, State};
use mlx_embed_tests::golden;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

static BROKEN: AtomicBool = AtomicBool::new(false);
static PANICS: AtomicUsize = AtomicUsize::new(0);

struct Panics;

fn perhaps_panic() {
    if BROKEN.load(Ordering::SeqCst) {
        PANICS.fetch_add(1, Ordering::SeqCst);
        panic!("a subscriber of somebody's own");
    }
}

impl Subscriber for Panics {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        perhaps_panic();
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {
        perhaps_panic();
    }
    fn record_follows_from(&self, _: &Id, _: &Id) {
        perhaps_panic();
    }
    fn event(&self, _: &Event<'_>) {
        perhaps_panic();
    }
    fn enter(&self, _: &Id) {
        perhaps_panic();
    }
    fn exit(&self, _: &Id) {
        perhaps_panic();
    }
    fn try_close(&self, _: Id) -> bool {
        perhaps_panic();
        true
    }
}

#[test]
fn a_subscriber_that_panics_leaves_nobody_waiting() {
    tracing::subscriber::set_global_default(Panics).expect("no other test is in this binary");
    let embedder = golden::load("qwen3-affine-4bit-g64");
    embedder.embed(["while it works"]).unwrap();
    BROKEN.store(true, Ordering::SeqCst);
    let options = EmbedOptions { timeout: Some(Duration::from_secs(600)), ..Default::default() };
    for text in ["short".to_owned(), "many words ".repeat(1000)] {
        let results = [embedder.embed_with(&[&text], &options), embedder.submit(&[&text], &options).wait()];
        for result in results {
            assert!(!matches!(result, Err(Error::DeadlineExceeded { .. })), "it was left waiting");
            result.unwrap();
        }
    }
    assert!(PANICS.load(Ordering::SeqCst) > 0, "the subscriber was asked for nothing");
    assert_eq!(embedder.state(), State::Running);
    embedder.shut_down(Shutdown::Finish);
    BROKEN.store(false, Ordering::SeqCst);
}
