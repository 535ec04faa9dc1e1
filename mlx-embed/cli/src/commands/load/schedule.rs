//! When requests are meant to start, decided before any is sent.

use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;

use crate::random::Random;

/// How the gaps between requests are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Arrivals {
    /// Exponential, as those of independent callers
    Poisson,
    /// Equal
    Constant,
}

/// A part of a run: the rate times `factor`, so many seconds long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Phase {
    pub(super) factor: f64,
    pub(super) seconds: f64,
}

impl FromStr for Phase {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let phase = text.split_once('x').and_then(|(factor, seconds)| {
            let (factor, seconds) = (factor.trim().parse().ok()?, seconds.trim().parse().ok()?);
            let fits = (0.01..=100.0).contains(&factor) && (0.01..=86_400.0).contains(&seconds);
            fits.then_some(Self { factor, seconds })
        });
        phase.ok_or_else(|| {
            "give FACTORxSECONDS such as 2x5: the rate times 0.01 to 100, for 0.01 to 86400 seconds"
                .to_owned()
        })
    }
}

/// A request's intended start.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Arrival {
    /// Since the run began.
    pub(super) at: Duration,
    /// The phase that it belongs to, counted from 0.
    pub(super) phase: usize,
}

/// Intended starts, in order.
#[derive(Debug)]
pub(super) struct Schedule<'a> {
    rate: f64,
    phases: &'a [Phase],
    /// `None` for equal gaps.
    random: Option<Random>,
    /// The unit of a gap, in mean gaps.
    unit: f64,
    requests: u64,
    made: u64,
    phase: usize,
    /// When the phase began, and where in it the last request started.
    began: f64,
    within: f64,
}

/// How many requests phases have: rate times seconds, rounded.
pub(super) fn requests(rate: f64, phases: &[Phase]) -> u64 {
    mean_gaps(rate, phases).round() as u64
}

fn mean_gaps(rate: f64, phases: &[Phase]) -> f64 {
    phases.iter().map(|phase| rate * phase.factor * phase.seconds).sum()
}

impl<'a> Schedule<'a> {
    /// Starts at `rate` requests a second times the phases' factors. The same seed makes the same gaps in every run.
    pub(super) fn new(rate: f64, phases: &'a [Phase], arrivals: Arrivals) -> Self {
        let requests = requests(rate, phases);
        let random = (arrivals == Arrivals::Poisson).then(|| Random::new(1));
        // Of all sequences of gaps, those that have just so many starts: runs of either kind ask the same amount.
        let unit = random.clone().map_or(1.0, |mut random| {
            let sum: f64 = (0..=requests).map(|_| exponential(&mut random)).sum();
            mean_gaps(rate, phases) / sum
        });
        Self { rate, phases, random, unit, requests, made: 0, phase: 0, began: 0.0, within: 0.0 }
    }

    /// The gap to the next start, in mean gaps.
    fn gap(&mut self) -> f64 {
        match &mut self.random {
            Some(random) => exponential(random) * self.unit,
            // Half a gap before the first and after the last.
            None if self.made == 0 => 0.5,
            None => 1.0,
        }
    }
}

fn exponential(random: &mut Random) -> f64 {
    -random.share().ln()
}

impl Iterator for Schedule<'_> {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        if self.made == self.requests {
            return None;
        }
        let mut gap = self.gap();
        self.made += 1;
        loop {
            let Phase { factor, seconds } = self.phases.get(self.phase)?;
            let rate = self.rate * factor;
            // What of a gap is left at a phase's end passes at the next one's rate.
            let left = (seconds - self.within) * rate;
            if gap < left {
                self.within += gap / rate;
                let at = Duration::from_secs_f64(self.began + self.within);
                return Some(Arrival { at, phase: self.phase });
            }
            gap -= left;
            self.began += seconds;
            self.within = 0.0;
            self.phase += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEADY: [Phase; 1] = [Phase { factor: 1.0, seconds: 10.0 }];

    #[test]
    fn equal_gaps_make_rate_times_seconds() {
        let starts: Vec<f64> =
            Schedule::new(50.0, &STEADY, Arrivals::Constant).map(|each| each.at.as_secs_f64()).collect();
        assert_eq!(starts.len(), 500);
        assert!((starts[0] - 0.01).abs() < 1e-6 && (starts[499] - 9.99).abs() < 1e-6, "{starts:?}");
    }

    #[test]
    fn exponential_gaps_have_their_mean_and_spread() {
        let phases = [Phase { factor: 1.0, seconds: 1000.0 }];
        let starts: Vec<f64> =
            Schedule::new(20.0, &phases, Arrivals::Poisson).map(|each| each.at.as_secs_f64()).collect();
        let gaps: Vec<f64> = starts.windows(2).map(|pair| (pair[1] - pair[0]) * 20.0).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean - 1.0).abs() < 0.03 && (variance - 1.0).abs() < 0.1, "{mean} {variance}");
        assert_eq!(starts.len(), 20_000);
        assert!(starts.is_sorted() && starts[19_999] < 1000.0);
    }

    #[test]
    fn phases_have_their_own_rates() {
        let phases = ["1x2", "4x2", "0.5x2"].map(|phase| phase.parse().unwrap());
        let mut counts = [0; 3];
        for Arrival { at, phase } in Schedule::new(10.0, &phases, Arrivals::Constant) {
            counts[phase] += 1;
            assert_eq!((at.as_secs_f64() / 2.0) as usize, phase);
        }
        assert_eq!(counts, [20, 80, 10]);
    }

    #[test]
    fn phases_are_read_and_checked() {
        assert_eq!("2x5".parse(), Ok(Phase { factor: 2.0, seconds: 5.0 }));
        for wrong in ["", "2", "x", "2x", "0x5", "2x0", "-1x5", "nanx5", "2xinf", "2x5x1"] {
            assert!(wrong.parse::<Phase>().is_err(), "{wrong}");
        }
    }
}
