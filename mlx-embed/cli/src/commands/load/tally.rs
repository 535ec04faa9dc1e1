//! What became of a run's requests.

use std::time::Duration;

use hdrhistogram::Histogram;
use mlx_embed::{Embedding, Error};
use serde::Serialize;

/// Times, in a histogram of fixed size.
#[derive(Debug, Clone)]
pub(super) struct Times(Histogram<u64>);

/// Quantiles of times; none where there was no time.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Spread {
    pub(super) p50_ms: Option<f64>,
    pub(super) p95_ms: Option<f64>,
    pub(super) p99_ms: Option<f64>,
    pub(super) p999_ms: Option<f64>,
    pub(super) max_ms: Option<f64>,
}

impl Times {
    pub(super) fn new() -> Self {
        // Nanoseconds, to three digits; it grows with the largest of them, up to 300 KB for an hour.
        match Histogram::new(3) {
            Ok(histogram) => Self(histogram),
            Err(error) => unreachable!("three digits are allowed: {error}"),
        }
    }

    pub(super) fn record(&mut self, time: Duration) {
        // A histogram that grows takes every time but those of centuries.
        let _ = self.0.record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(super) fn count(&self) -> u64 {
        self.0.len()
    }

    pub(super) fn clear(&mut self) {
        self.0.reset();
    }

    /// The smallest time that is at least as long as the share `q` of them, in milliseconds.
    pub(super) fn quantile_ms(&self, q: f64) -> Option<f64> {
        (!self.0.is_empty()).then(|| self.0.value_at_quantile(q) as f64 / 1e6)
    }

    pub(super) fn spread(&self) -> Spread {
        let [p50_ms, p95_ms, p99_ms, p999_ms, max_ms] =
            [0.5, 0.95, 0.99, 0.999, 1.0].map(|q| self.quantile_ms(q));
        Spread { p50_ms, p95_ms, p99_ms, p999_ms, max_ms }
    }
}

/// How many requests ended how.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Counts {
    pub(super) requests: u64,
    pub(super) done: u64,
    /// The queue was full.
    pub(super) refused: u64,
    /// The timeout passed or could not be met.
    pub(super) late: u64,
    pub(super) failed: u64,
}

impl Counts {
    fn count(&mut self, outcome: &Result<Vec<Embedding>, Error>) {
        self.requests += 1;
        *match outcome {
            Ok(_) => &mut self.done,
            Err(Error::QueueFull { .. }) => &mut self.refused,
            Err(Error::DeadlineExceeded { .. }) => &mut self.late,
            Err(_) => &mut self.failed,
        } += 1;
    }
}

/// A request that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// Its intended start since the run's, and the phase of that.
    pub(super) at: Duration,
    pub(super) phase: usize,
    /// From the intended start to the call.
    pub(super) lag: Duration,
    /// How long the call kept its thread.
    pub(super) submit: Duration,
    /// From the call to its result.
    pub(super) took: Duration,
    pub(super) outcome: Result<Vec<Embedding>, Error>,
}

/// Requests by their intended start: the unit in which a recovery is told.
const WINDOW: Duration = Duration::from_millis(100);

/// Windows in a second.
const SECOND: usize = 10;

/// Requests that started in a window of time, and those of them that did not get their result within the limit.
#[derive(Debug, Clone, Copy, Default)]
struct Window {
    requests: u32,
    over: u32,
}

/// Everything that is counted about a run. Its size does not depend on how many requests there are.
#[derive(Debug)]
pub(super) struct Tally {
    limit: Duration,
    pub(super) counts: Counts,
    /// Of requests that were done, from their intended start to their result.
    pub(super) latency: Times,
    pub(super) lag: Times,
    pub(super) submit: Times,
    pub(super) queue: Times,
    pub(super) device: Times,
    pub(super) overhead: Times,
    pub(super) texts: u64,
    pub(super) tokens: u64,
    pub(super) phases: Vec<(Counts, Times)>,
    windows: Vec<Window>,
    pub(super) failure: Option<String>,
}

impl Tally {
    /// For a run with so many phases that is so long, with a limit on the latency.
    pub(super) fn new(phases: usize, length: Duration, limit: Duration) -> Self {
        Self {
            limit,
            counts: Counts::default(),
            latency: Times::new(),
            lag: Times::new(),
            submit: Times::new(),
            queue: Times::new(),
            device: Times::new(),
            overhead: Times::new(),
            texts: 0,
            tokens: 0,
            phases: vec![(Counts::default(), Times::new()); phases],
            windows: vec![Window::default(); window_of(length) + 1],
            failure: None,
        }
    }

    /// Counts a request, and says how long it took if it was done.
    pub(super) fn count(&mut self, ended: Ended) -> Option<Duration> {
        let Ended { at, phase, lag, submit, took, outcome } = ended;
        self.lag.record(lag);
        self.submit.record(submit);
        self.counts.count(&outcome);
        let latency = lag + took;
        let done = outcome.is_ok();
        if let Some((counts, times)) = self.phases.get_mut(phase) {
            counts.count(&outcome);
            if done {
                times.record(latency);
            }
        }
        if let Some(window) = self.windows.get_mut(window_of(at)) {
            window.requests += 1;
            window.over += u32::from(!done || latency > self.limit);
        }
        match outcome {
            Ok(embeddings) => self.done(latency, took, &embeddings),
            Err(Error::QueueFull { .. } | Error::DeadlineExceeded { .. }) => {}
            Err(error) => {
                self.failure.get_or_insert_with(|| error.to_string());
            }
        }
        done.then_some(latency)
    }

    fn done(&mut self, latency: Duration, took: Duration, embeddings: &[Embedding]) {
        // The text that was ready last is what the request waited for.
        let ways = embeddings.iter().map(|each| (each.queue_time, each.device_time));
        let (queue, device) = ways.max_by_key(|(queue, device)| *queue + *device).unwrap_or_default();
        self.latency.record(latency);
        self.queue.record(queue);
        self.device.record(device);
        self.overhead.record(took.saturating_sub(queue + device));
        self.texts += embeddings.len() as u64;
        self.tokens += embeddings.iter().map(|each| each.tokens as u64).sum::<u64>();
    }

    /// Whether every request was done, with P95 under the limit.
    pub(super) fn is_under_limit(&self) -> bool {
        let p95_ms = self.latency.quantile_ms(0.95);
        self.counts.done == self.counts.requests
            && p95_ms.is_some_and(|p95_ms| p95_ms <= self.limit.as_secs_f64() * 1e3)
    }

    /// How long after `end` requests started to be answered in time again: the first moment from which a second's
    /// requests have P95 under the limit, those that were not done counted as over it. To a tenth of a second.
    pub(super) fn recovered_after(&self, end: Duration) -> Option<Duration> {
        let after = self.windows.get(window_of(end)..)?;
        let under = |second: &[Window]| {
            let [requests, over] = second
                .iter()
                .fold([0, 0], |[requests, over], window| [requests + window.requests, over + window.over]);
            requests > 0 && over * 20 <= requests
        };
        let windows = after.windows(SECOND).position(under)?;
        Some(WINDOW * u32::try_from(windows).unwrap_or(u32::MAX))
    }
}

fn window_of(at: Duration) -> usize {
    // Decimal seconds are not whole in binary: 0.3 s is in the window that it begins.
    ((at.as_secs_f64() + 1e-6) / WINDOW.as_secs_f64()) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn ended(at: Duration, took: Duration, outcome: Result<Vec<Embedding>, Error>) -> Ended {
        Ended { at, phase: 0, lag: Duration::ZERO, submit: Duration::ZERO, took, outcome }
    }

    fn tally() -> Tally {
        Tally::new(1, 3000 * MS, 25 * MS)
    }

    #[test]
    fn latency_counts_from_the_intended_start() {
        let mut tally = tally();
        tally.count(Ended { lag: 20 * MS, ..ended(MS, 10 * MS, Ok(Vec::new())) });
        assert!((tally.latency.quantile_ms(0.5).unwrap() - 30.0).abs() < 0.1);
        assert!(!tally.is_under_limit());
    }

    #[test]
    fn requests_that_are_not_done_have_no_latency() {
        let mut tally = tally();
        tally.count(ended(MS, MS, Ok(Vec::new())));
        assert!(tally.is_under_limit());
        tally.count(ended(MS, 99 * MS, Err(Error::QueueFull { queued: 1, bytes: 10 })));
        tally.count(ended(MS, 99 * MS, Err(Error::DeadlineExceeded { waited: MS })));
        tally.count(ended(MS, 99 * MS, Err(Error::Stopped { reason: "a test".into() })));
        let Counts { requests, done, refused, late, failed } = tally.counts;
        assert_eq!([requests, done, refused, late, failed], [4, 1, 1, 1, 1]);
        assert!(tally.latency.quantile_ms(1.0).unwrap() < 2.0);
        assert_eq!(tally.failure.as_deref(), Some("the embedder has stopped: a test"));
        assert!(!tally.is_under_limit());
    }

    #[test]
    fn a_recovery_is_the_first_good_second_after_an_overload() {
        let mut tally = tally();
        for tenth in 0..30_u32 {
            let took = if (5..14).contains(&tenth) { 100 * MS } else { MS };
            tally.count(ended(100 * tenth * MS, took, Ok(Vec::new())));
        }
        assert_eq!(tally.recovered_after(1000 * MS), Some(400 * MS));
        assert_eq!(tally.recovered_after(1500 * MS), Some(Duration::ZERO));
        // No whole second is left.
        assert_eq!(tally.recovered_after(2900 * MS), None);
    }
}
