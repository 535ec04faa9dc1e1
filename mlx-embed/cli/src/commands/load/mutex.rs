//! The engine beside the obvious alternative: a mutex around the model.

use std::panic;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use mlx_embed::{Embedding, Error};
use serde::Serialize;

use super::report::{Machine, milliseconds};
use super::sentences::Sentences;
use super::tally::{Spread, Times};
use crate::options::Model;

/// Rounds of each; they take turns, so that what disturbs the machine disturbs both.
const ROUNDS: usize = 5;

/// What is compared.
#[derive(Debug)]
pub(super) struct Comparison {
    pub(super) threads: usize,
    /// Texts of a request.
    pub(super) texts: usize,
    /// Length of a round.
    pub(super) round: Duration,
}

/// One of the two.
#[derive(Debug)]
struct Side {
    name: &'static str,
    requests: u64,
    /// Requests a second, a round each.
    rates: Vec<f64>,
    latency: Times,
}

#[derive(Debug, Serialize)]
struct SideReport {
    #[serde(skip)]
    name: &'static str,
    requests: u64,
    /// The median of the rounds, and each.
    requests_per_s: f64,
    texts_per_s: f64,
    round_requests_per_s: Vec<f64>,
    #[serde(flatten)]
    latency: Spread,
}

#[derive(Debug, Serialize)]
pub(super) struct ComparisonReport {
    threads: usize,
    texts: usize,
    rounds: usize,
    round_s: f64,
    mutex: SideReport,
    engine: SideReport,
    /// Engine over mutex: the median of the rounds' ratios.
    throughput_ratio: f64,
    /// Mutex over engine.
    p99_ratio: Option<f64>,
    #[serde(flatten)]
    machine: Machine,
}

impl Comparison {
    pub(super) fn run(&self, model: &Model, sentences: &Sentences) -> Result<ComparisonReport, Error> {
        let lock = Mutex::new(());
        let embed = |texts: &[String]| model.embedder.embed_with(texts, &model.options);
        let embed_alone = |texts: &[String]| {
            let _alone = lock.lock().unwrap_or_else(PoisonError::into_inner);
            embed(texts)
        };
        let [mut mutex, mut engine] = ["mutex", "engine"].map(Side::new);
        for _ in 0..ROUNDS {
            self.round(&mut mutex, sentences, &embed_alone)?;
            self.round(&mut engine, sentences, &embed)?;
        }
        let ratios: Vec<f64> =
            engine.rates.iter().zip(&mutex.rates).map(|(engine, mutex)| engine / mutex).collect();
        let [mutex, engine] = [mutex, engine].map(|side| side.report(self.texts));
        let p99_ratio = mutex.latency.p99_ms.zip(engine.latency.p99_ms).map(|(mutex, engine)| mutex / engine);
        Ok(ComparisonReport {
            threads: self.threads,
            texts: self.texts,
            rounds: ROUNDS,
            round_s: self.round.as_secs_f64(),
            mutex,
            engine,
            throughput_ratio: median(&ratios),
            p99_ratio,
            machine: Machine::new(model.embedder.info()),
        })
    }

    /// Each thread sends its next request when it has the answer to the last.
    fn round(
        &self,
        side: &mut Side,
        sentences: &Sentences,
        embed: &(impl Fn(&[String]) -> Result<Vec<Embedding>, Error> + Sync),
    ) -> Result<(), Error> {
        let start = Instant::now();
        let caller = || {
            let mut latency = Times::new();
            // Once at least: on a busy machine a thread may begin after the round's end.
            loop {
                let texts = sentences.next(self.texts);
                let called = Instant::now();
                embed(&texts)?;
                latency.record(called.elapsed());
                if start.elapsed() >= self.round {
                    return Ok(latency);
                }
            }
        };
        let results: Vec<Result<Times, Error>> = thread::scope(|scope| {
            let callers: Vec<_> = (0..self.threads).map(|_| scope.spawn(caller)).collect();
            let join = |caller: thread::ScopedJoinHandle<'_, _>| {
                caller.join().unwrap_or_else(|payload| panic::resume_unwind(payload))
            };
            callers.into_iter().map(join).collect()
        });
        let seconds = start.elapsed().as_secs_f64();
        let mut requests = 0;
        for latency in results {
            let latency = latency?;
            requests += latency.count();
            side.latency.add(&latency);
        }
        side.requests += requests;
        side.rates.push(requests as f64 / seconds);
        Ok(())
    }
}

impl Side {
    fn new(name: &'static str) -> Self {
        Self { name, requests: 0, rates: Vec::new(), latency: Times::new() }
    }

    fn report(self, texts: usize) -> SideReport {
        let requests_per_s = median(&self.rates);
        SideReport {
            name: self.name,
            requests: self.requests,
            requests_per_s,
            texts_per_s: requests_per_s * texts as f64,
            round_requests_per_s: self.rates,
            latency: self.latency.spread(),
        }
    }
}

impl ComparisonReport {
    pub(super) fn table(&self) -> String {
        let Self { threads, texts, rounds, round_s, .. } = self;
        let mut table = format!(
            "{}; {threads} threads, {texts} texts a request, {rounds} rounds of {round_s} s each\n\n\
             {:9} {:>11} {:>9} {:>9} {:>9} {:>9}\n",
            self.machine.line(),
            "",
            "requests/s",
            "texts/s",
            "p50 ms",
            "p95 ms",
            "p99 ms"
        );
        for side in [&self.mutex, &self.engine] {
            let Spread { p50_ms, p95_ms, p99_ms, .. } = &side.latency;
            let [p50, p95, p99] = [p50_ms, p95_ms, p99_ms].map(milliseconds);
            table.push_str(&format!(
                "{:9} {:>11.1} {:>9.1} {p50:>9} {p95:>9} {p99:>9}\n",
                side.name, side.requests_per_s, side.texts_per_s
            ));
        }
        table.push_str(&format!("\nthe engine does {:.2} times as many", self.throughput_ratio));
        if let Some(ratio) = self.p99_ratio {
            table.push_str(&format!(", with P99 {ratio:.2} times as short"));
        }
        table.push('\n');
        table
    }
}

/// The middle one, or the upper of the two in the middle.
fn median(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
