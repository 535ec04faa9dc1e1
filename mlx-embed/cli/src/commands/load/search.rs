//! The highest rate that a model keeps up with.

use std::time::Duration;

use serde::Serialize;

use super::report::{Report, milliseconds};
use super::tally::Counts;

/// The search ends when the highest good rate and the lowest bad one differ by less than this.
const PRECISION: f64 = 1.05;

/// A run of the search.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Step {
    rate: f64,
    #[serde(flatten)]
    counts: Counts,
    p95_ms: Option<f64>,
    p99_ms: Option<f64>,
    under_limit: bool,
}

impl Step {
    pub(super) fn new(rate: f64, report: &Report, under_limit: bool) -> Self {
        let latency = &report.latency;
        Self { rate, counts: report.counts, p95_ms: latency.p95_ms, p99_ms: latency.p99_ms, under_limit }
    }

    /// For people.
    pub(super) fn line(&self) -> String {
        let Counts { requests, done, .. } = self.counts;
        format!(
            "{:>9.2} {requests:>8} {done:>8} {:>9} {:>9}  {}",
            self.rate,
            milliseconds(&self.p95_ms),
            milliseconds(&self.p99_ms),
            if self.under_limit { "kept up" } else { "too fast" }
        )
    }
}

/// The columns of [`Step::line`].
pub(super) fn heading() -> String {
    format!("{:>9} {:>8} {:>8} {:>9} {:>9}", "rate", "requests", "done", "p95 ms", "p99 ms")
}

/// What is known about rates: doubled or halved until there is a good and a bad one, then the middle between them.
#[derive(Debug)]
pub(super) struct Bisection {
    next: f64,
    good: Option<f64>,
    bad: Option<f64>,
    /// Below this a run has no request.
    least: f64,
}

impl Bisection {
    pub(super) fn new(first: f64, length: Duration) -> Self {
        Self { next: first, good: None, bad: None, least: 1.0 / length.as_secs_f64() }
    }

    /// The rate to try next; `None` at the end.
    pub(super) fn next(&self) -> Option<f64> {
        let narrow = matches!((self.good, self.bad), (Some(good), Some(bad)) if bad / good < PRECISION);
        (!narrow && self.next >= self.least && self.next <= super::MOST_RATE).then_some(self.next)
    }

    /// Says what came of that rate.
    pub(super) fn learn(&mut self, is_good: bool) {
        if is_good {
            self.good = Some(self.next);
        } else {
            self.bad = Some(self.next);
        }
        self.next = match (self.good, self.bad) {
            (Some(good), Some(bad)) => (good * bad).sqrt(),
            (Some(good), None) => good * 2.0,
            _ => self.next / 2.0,
        };
    }
}

/// What a search found.
#[derive(Debug, Serialize)]
pub(super) struct Found {
    /// `null` if the model kept up with none.
    pub(super) highest_rate: Option<f64>,
    pub(super) limit_ms: f64,
    pub(super) steps: Vec<Step>,
    /// The run at that rate.
    pub(super) at_highest_rate: Option<Report>,
}

impl Found {
    pub(super) fn table(&self) -> String {
        let mut table = heading();
        table.push('\n');
        for step in &self.steps {
            table.push_str(&step.line());
            table.push('\n');
        }
        match (self.highest_rate, &self.at_highest_rate) {
            (Some(rate), Some(report)) => table.push_str(&format!(
                "\nP95 stays under {} ms up to {rate:.1} requests/s. That run:\n\n{}",
                self.limit_ms,
                report.table()
            )),
            _ => table.push_str(&format!(
                "\nP95 is over {} ms at every rate; give a higher --limit or fewer --texts\n",
                self.limit_ms
            )),
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(first: f64, highest: f64) -> (Option<f64>, usize) {
        let mut bisection = Bisection::new(first, Duration::from_secs(10));
        let mut steps = 0;
        while let Some(rate) = bisection.next() {
            bisection.learn(rate <= highest);
            steps += 1;
        }
        (bisection.good, steps)
    }

    #[test]
    fn the_highest_rate_is_found_from_either_side() {
        for first in [1.0, 100.0, 5000.0] {
            let (good, steps) = search(first, 123.0);
            let good = good.unwrap();
            assert!(good <= 123.0 && good * PRECISION > 123.0, "{good}");
            assert!(steps < 16, "{steps}");
        }
    }

    #[test]
    fn where_no_rate_is_good_it_ends() {
        assert_eq!(search(100.0, 0.0).0, None);
    }

    #[test]
    fn where_every_rate_is_good_it_ends() {
        assert!(search(100.0, f64::INFINITY).0.is_some());
    }
}
