//! How fast batches go, for decisions about time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Batches that are remembered.
const RECENT: usize = 32;

/// What an estimate adds to the median: a request that is started should be done in time more often than not.
const MARGIN: f64 = 1.3;

/// An estimate older than this loses half its weight every such time.
const STALE: Duration = Duration::from_secs(1);

/// Times of the last batches.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Seconds a token, batch by batch.
    recent: VecDeque<f64>,
    /// Their median: one batch that stalled says nothing about the next.
    median: Option<f64>,
    last: Option<Instant>,
}

impl Pace {
    pub(crate) fn record(&mut self, tokens: usize, took: Duration, now: Instant) {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(took.as_secs_f64() / tokens.max(1) as f64);
        let mut sorted: Vec<f64> = self.recent.iter().copied().collect();
        sorted.sort_unstable_by(f64::total_cmp);
        self.median = sorted.get((sorted.len() - 1) / 2).copied();
        self.last = self.last.max(Some(now));
    }

    /// How long `tokens` will take, rather too long than too short; nothing before the first batch.
    ///
    /// The estimate shrinks while nothing runs. Otherwise one slow batch could make every later request look hopeless,
    /// and with none run the estimate would never be put right.
    pub(crate) fn estimate(&self, tokens: usize, now: Instant) -> Duration {
        let (Some(per_token), Some(last)) = (self.median, self.last) else {
            return Duration::ZERO;
        };
        let age = now.saturating_duration_since(last).as_secs_f64() / STALE.as_secs_f64();
        let trust = if age <= 1.0 { 1.0 } else { 0.5_f64.powf(age - 1.0) };
        Duration::try_from_secs_f64(per_token * tokens as f64 * MARGIN * trust).unwrap_or(Duration::MAX)
    }

    /// Tokens that run within `time`; `None` before the first batch.
    pub(crate) fn tokens_within(&self, time: Duration) -> Option<usize> {
        self.median.map(|per_token| (time.as_secs_f64() / per_token) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn without_a_batch_nothing_is_estimated() {
        let pace = Pace::default();
        assert_eq!(pace.estimate(1000, Instant::now()), Duration::ZERO);
        assert_eq!(pace.tokens_within(MS), None);
    }

    #[test]
    fn estimates_are_the_recent_median_with_a_margin() {
        let now = Instant::now();
        let mut pace = Pace::default();
        for _ in 0..RECENT {
            pace.record(10, 700 * MS, now);
        }
        for _ in 0..RECENT {
            pace.record(10, 20 * MS, now);
        }
        assert_eq!(pace.estimate(100, now).as_millis(), 260);
        assert_eq!(pace.tokens_within(11 * MS), Some(5));
    }

    #[test]
    fn a_batch_that_stalled_changes_no_estimate() {
        let now = Instant::now();
        let mut pace = Pace::default();
        for took in [20, 21, 3000, 20, 19] {
            pace.record(10, took * MS, now);
        }
        assert_eq!(pace.estimate(10, now), Duration::from_millis(26));
    }

    #[test]
    fn an_estimate_that_nothing_renews_is_doubted() {
        let now = Instant::now();
        let mut pace = Pace::default();
        pace.record(10, 100 * MS, now);
        assert_eq!(pace.estimate(10, now + STALE), pace.estimate(10, now));
        assert_eq!(pace.estimate(10, now + 3 * STALE).as_millis(), 32);
    }
}
