//! What the engine tells the `metrics` facade.

use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};

use super::queue::QueueLane;
use crate::panics::quietly;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Done,
    /// The queue was full.
    Refused,
    /// Its deadline passed.
    Late,
    /// Nobody waited for it any more.
    Cancelled,
    Failed,
}

/// Handles of all meters of one model. They go to the recorder that is installed when the model is loaded. One that
/// panics loses what it was told and disturbs nobody else.
#[derive(Debug)]
pub(crate) struct Meters {
    requests: [Counter; 5],
    texts: Counter,
    tokens: Counter,
    reused_tokens: Counter,
    request_seconds: Histogram,
    queue_seconds: Histogram,
    batch_seconds: Histogram,
    batch_texts: Histogram,
    batch_tokens: Histogram,
    queued: [Gauge; 2],
    cache_hits: Counter,
    cache_misses: Counter,
    shared: Counter,
}

impl Meters {
    /// Meters labelled with the model's name.
    pub(crate) fn new(model: &str) -> Self {
        let count = |name: &'static str, description: &'static str| {
            describe_counter!(name, Unit::Count, description);
            counter!(name, "model" => model.to_owned())
        };
        let histogram = |name: &'static str, unit, description: &'static str| {
            describe_histogram!(name, unit, description);
            histogram!(name, "model" => model.to_owned())
        };
        let seconds = |name, description| histogram(name, Unit::Seconds, description);
        let (requests, queued) = ("mlx_embed_requests_total", "mlx_embed_queue_texts");
        describe_counter!(requests, Unit::Count, "Requests that ended, by outcome");
        let ended =
            |outcome: &'static str| counter!(requests, "model" => model.to_owned(), "outcome" => outcome);
        describe_gauge!(queued, Unit::Count, "Texts that wait, by lane");
        let waiting = |lane: QueueLane| gauge!(queued, "model" => model.to_owned(), "lane" => lane.name());
        Self {
            requests: ["done", "refused", "late", "cancelled", "failed"].map(ended),
            texts: count("mlx_embed_texts_total", "Texts that ran"),
            tokens: count("mlx_embed_tokens_total", "Tokens of the texts that ran"),
            reused_tokens: count(
                "mlx_embed_reused_tokens_total",
                "Tokens of prompts that were not computed again",
            ),
            request_seconds: seconds("mlx_embed_request_duration_seconds", "From call to result"),
            queue_seconds: seconds("mlx_embed_queue_duration_seconds", "A text's time until its batch began"),
            batch_seconds: seconds("mlx_embed_batch_duration_seconds", "A batch's time on the device"),
            batch_texts: histogram("mlx_embed_batch_texts", Unit::Count, "Texts that ran together"),
            batch_tokens: histogram("mlx_embed_batch_tokens", Unit::Count, "Tokens that ran together"),
            queued: [QueueLane::Query, QueueLane::Bulk].map(waiting),
            cache_hits: count("mlx_embed_cache_hits_total", "Texts whose vector was in the cache"),
            cache_misses: count("mlx_embed_cache_misses_total", "Texts whose vector was not in the cache"),
            shared: count("mlx_embed_shared_texts_total", "Texts that got an identical one's vector"),
        }
    }

    pub(crate) fn request(&self, ended: Ended, took: Duration) {
        quietly(|| self.requests[ended as usize].increment(1));
        if ended == Ended::Done {
            quietly(|| self.request_seconds.record(took.as_secs_f64()));
        }
    }

    pub(crate) fn cache(&self, hit: bool) {
        quietly(|| if hit { &self.cache_hits } else { &self.cache_misses }.increment(1));
    }

    /// A batch of so many texts ran.
    pub(super) fn batch(&self, texts: usize, tokens: usize, took: Duration) {
        quietly(|| self.texts.increment(texts as u64));
        quietly(|| self.tokens.increment(tokens as u64));
        quietly(|| self.batch_texts.record(texts as f64));
        quietly(|| self.batch_tokens.record(tokens as f64));
        quietly(|| self.batch_seconds.record(took.as_secs_f64()));
    }

    /// So many of a batch's tokens were kept keys and values.
    pub(super) fn reused(&self, tokens: usize) {
        quietly(|| self.reused_tokens.increment(tokens as u64));
    }

    /// A text waited so long.
    pub(super) fn queue_time(&self, waited: Duration) {
        quietly(|| self.queue_seconds.record(waited.as_secs_f64()));
    }

    /// So many texts got the vector of an identical one.
    pub(super) fn shared(&self, texts: usize) {
        quietly(|| self.shared.increment(texts as u64));
    }

    /// So many texts wait in each lane.
    pub(crate) fn queued(&self, depth: [usize; 2]) {
        for (gauge, texts) in self.queued.iter().zip(depth) {
            quietly(|| gauge.set(texts as f64));
        }
    }
}

impl QueueLane {
    /// As logs and metrics name it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Bulk => "bulk",
        }
    }
}
