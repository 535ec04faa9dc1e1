//! What is printed about a run.

use std::time::Duration;

use mlx_embed::mlx::Backend;
use mlx_embed::{Info, Precision};
use serde::Serialize;

use super::drive::{Drive, Run};
use super::meters::Batches;
use super::schedule::Arrivals;
use super::tally::{Counts, Spread, Tally};
use crate::process::Resident;

/// What ran the model.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Machine {
    device: Backend,
    kernels: &'static str,
    precision: Option<Precision>,
    mlx_embed_version: &'static str,
    mlx_version: String,
}

impl Machine {
    pub(super) fn new(info: &Info) -> Self {
        Self {
            device: info.backend,
            kernels: info.kernels,
            precision: info.precision,
            mlx_embed_version: env!("CARGO_PKG_VERSION"),
            mlx_version: info.mlx_version.clone(),
        }
    }

    /// In a few words.
    pub(super) fn line(&self) -> String {
        let precision = self.precision.map_or(String::new(), |precision| format!(", {precision}"));
        format!("{}: {}{precision}", self.device, self.kernels)
    }
}

/// Bytes of memory that the process holds; `null` where the system doesn't tell.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Memory {
    resident_start_bytes: Option<u64>,
    resident_end_bytes: Option<u64>,
    peak_start_bytes: Option<u64>,
    peak_end_bytes: Option<u64>,
}

/// What ran together.
#[derive(Debug, Clone, Serialize)]
struct Together {
    batches: u64,
    texts_per_batch: Option<f64>,
    tokens_per_batch: Option<f64>,
    /// The share of the run's time that the model ran.
    busy: f64,
}

/// A part of a run.
#[derive(Debug, Clone, Serialize)]
struct PhaseReport {
    factor: f64,
    seconds: f64,
    intended_rate: f64,
    #[serde(flatten)]
    counts: Counts,
    #[serde(flatten)]
    latency: Spread,
    /// Whether the next has a lower rate.
    #[serde(skip)]
    is_peak: bool,
    /// After a peak, how long until the requests of a second had P95 under the limit; none if it never came to that.
    recovered_after_s: Option<f64>,
}

/// Everything about a run.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Report {
    /// Requests a second that were meant to start, and those that were done.
    pub(super) intended_rate: f64,
    pub(super) achieved_rate: f64,
    arrivals: Arrivals,
    seconds: f64,
    elapsed_s: f64,
    timeout_ms: Option<f64>,
    limit_ms: f64,
    texts: usize,
    #[serde(flatten)]
    pub(super) counts: Counts,
    errors: u64,
    #[serde(flatten)]
    pub(super) latency: Spread,
    lag: Spread,
    submit: Spread,
    queue: Spread,
    device_time: Spread,
    overhead: Spread,
    tokens_per_text: Option<f64>,
    tokens_per_s: f64,
    #[serde(flatten)]
    together: Together,
    #[serde(flatten)]
    memory: Memory,
    phases: Vec<PhaseReport>,
    #[serde(flatten)]
    machine: Machine,
}

impl Report {
    /// `memory` is what the process held before and after.
    pub(super) fn new(
        drive: &Drive,
        Run { tally, elapsed }: &Run,
        batches: Batches,
        memory: [Option<Resident>; 2],
        machine: Machine,
    ) -> Self {
        let length = drive.length().as_secs_f64();
        let elapsed = elapsed.as_secs_f64();
        let intended: f64 = drive.phases.iter().map(|phase| phase.factor * phase.seconds).sum();
        let [start, end] = memory;
        let counts = tally.counts;
        Self {
            intended_rate: drive.rate * intended / length,
            achieved_rate: counts.done as f64 / elapsed,
            arrivals: drive.arrivals,
            seconds: length,
            elapsed_s: elapsed,
            timeout_ms: drive.timeout.map(|timeout| timeout.as_secs_f64() * 1e3),
            limit_ms: drive.limit.as_secs_f64() * 1e3,
            texts: drive.texts,
            counts,
            errors: counts.requests - counts.done,
            latency: tally.latency.spread(),
            lag: tally.lag.spread(),
            submit: tally.submit.spread(),
            queue: tally.queue.spread(),
            device_time: tally.device.spread(),
            overhead: tally.overhead.spread(),
            tokens_per_text: (tally.texts > 0).then(|| tally.tokens as f64 / tally.texts as f64),
            tokens_per_s: tally.tokens as f64 / elapsed,
            together: Together {
                batches: batches.texts.count,
                texts_per_batch: batches.texts.mean(),
                tokens_per_batch: batches.tokens.mean(),
                busy: batches.seconds.sum / elapsed,
            },
            memory: Memory {
                resident_start_bytes: start.map(|memory| memory.now),
                resident_end_bytes: end.map(|memory| memory.now),
                peak_start_bytes: start.map(|memory| memory.peak),
                peak_end_bytes: end.map(|memory| memory.peak),
            },
            phases: if drive.phases.len() > 1 { phases(drive, tally) } else { Vec::new() },
            machine,
        }
    }

    pub(super) fn table(&self) -> String {
        let Counts { requests, done, refused, late, failed } = self.counts;
        let timeout = self.timeout_ms.map_or(String::new(), |timeout| format!(", timeout {timeout} ms"));
        let mut table = format!(
            "{}; {} texts a request{}{timeout}\n\n\
             requests  {:.1}/s asked for {:.1} s, {:.1}/s done\n\
             {:9} {requests}: {done} done, {refused} refused, {late} late, {failed} failed\n\n\
             {:9} {:>9} {:>9} {:>9} {:>9} {:>9}\n",
            self.machine.line(),
            self.texts,
            self.tokens_per_text.map_or(String::new(), |tokens| format!(", {tokens:.1} tokens a text")),
            self.intended_rate,
            self.seconds,
            self.achieved_rate,
            "",
            "ms",
            "p50",
            "p95",
            "p99",
            "p99.9",
            "max",
        );
        for (name, spread) in [
            ("latency", &self.latency),
            ("  lag", &self.lag),
            ("  queue", &self.queue),
            ("  device", &self.device_time),
            ("  overhead", &self.overhead),
            ("submit", &self.submit),
        ] {
            let Spread { p50_ms, p95_ms, p99_ms, p999_ms, max_ms } = spread;
            let [p50, p95, p99, p999, max] = [p50_ms, p95_ms, p99_ms, p999_ms, max_ms].map(milliseconds);
            table.push_str(&format!("{name:<10}{p50:>9} {p95:>9} {p99:>9} {p999:>9} {max:>9}\n"));
        }
        self.add_totals(&mut table);
        self.add_phases(&mut table);
        table
    }

    fn add_totals(&self, table: &mut String) {
        let Together { batches, texts_per_batch, tokens_per_batch, busy } = self.together;
        table.push_str(&format!(
            "\ntokens    {:.0}/s; the model ran {:.0} % of the time\n",
            self.tokens_per_s,
            busy * 100.0
        ));
        if let (Some(texts), Some(tokens)) = (texts_per_batch, tokens_per_batch) {
            table.push_str(&format!(
                "batches   {batches}, on average {texts:.1} texts and {tokens:.0} tokens\n"
            ));
        }
        let Memory { resident_start_bytes, resident_end_bytes, peak_start_bytes, peak_end_bytes } =
            self.memory;
        if let (Some(start), Some(end), Some(peak_start), Some(peak)) =
            (resident_start_bytes, resident_end_bytes, peak_start_bytes, peak_end_bytes)
        {
            let [start, end, peak_start, peak] =
                [start, end, peak_start, peak].map(|bytes| bytes as f64 / f64::from(1 << 20));
            table.push_str(&format!(
                "memory    {start:.1} MiB before, {end:.1} after; peak {peak_start:.1} before, {peak:.1} after\n"
            ));
        }
    }

    fn add_phases(&self, table: &mut String) {
        if self.phases.is_empty() {
            return;
        }
        table.push_str(&format!(
            "\n{:>9} {:>9} {:>8} {:>8} {:>8} {:>8} {:>8} {:>9}\n",
            "phase", "asked/s", "requests", "done", "refused", "late", "failed", "p95"
        ));
        for phase in &self.phases {
            let PhaseReport { factor, seconds, intended_rate, counts, latency, .. } = phase;
            let Counts { requests, done, refused, late, failed } = counts;
            let name = format!("{factor}x{seconds}");
            let p95 = milliseconds(&latency.p95_ms);
            table.push_str(&format!(
                "{name:>9} {intended_rate:>9.1} {requests:>8} {done:>8} {refused:>8} {late:>8} {failed:>8} {p95:>9}\n"
            ));
            let limit = format!("P95 under {} ms", self.limit_ms);
            match phase.recovered_after_s {
                Some(seconds) => table.push_str(&format!("{:9} {limit} again {seconds:.1} s later\n", "")),
                None if phase.is_peak => {
                    table.push_str(&format!("{:9} {limit} for no second after it\n", ""))
                }
                None => {}
            }
        }
    }
}

fn phases(drive: &Drive, tally: &Tally) -> Vec<PhaseReport> {
    let mut end = 0.0;
    let phases = drive.phases.iter().zip(&tally.phases).enumerate();
    phases
        .map(|(number, (phase, (counts, latency)))| {
            end += phase.seconds;
            let is_peak = drive.phases.get(number + 1).is_some_and(|next| next.factor < phase.factor);
            let recovered = is_peak.then(|| tally.recovered_after(Duration::from_secs_f64(end)));
            PhaseReport {
                factor: phase.factor,
                seconds: phase.seconds,
                intended_rate: drive.rate * phase.factor,
                counts: *counts,
                latency: latency.spread(),
                is_peak,
                recovered_after_s: recovered.flatten().map(|time| time.as_secs_f64()),
            }
        })
        .collect()
}

/// A time in a column of a table.
pub(super) fn milliseconds(time: &Option<f64>) -> String {
    time.map_or("-".to_owned(), |time| format!("{time:.3}"))
}
