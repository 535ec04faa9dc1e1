//! `bench --layers`: where the time of a pass goes, held against what the device could do.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mlx_embed::bench::{Arithmetic, Bench, Level, Operation, Part, Roofline, Sample, Work};
use mlx_embed::{EmbedOptions, Embedder};
use serde::Serialize;

use super::{Shape, quantile};
use crate::error::CliError;
use crate::options::CommonArgs;
use crate::process::Processor;

/// A shape whose passes have taken this long altogether is not run again.
const PATIENCE: Duration = Duration::from_secs(60);

/// Loads that are timed, the first one aside.
const LOADS: usize = 3;

/// Texts that are tokenised, by the sentences in each.
const TOKENISED: [usize; 3] = [1, 10, 100];

/// Everything that a run measured.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) machine: Machine,
    pub(super) model: Model,
    /// The best that the device did in bursts between the measurements.
    pub(super) roofline: Roofs,
    /// Asking the device for next to nothing.
    pub(super) waiting_us: f64,
    pub(super) load: Load,
    pub(super) tokenisation: Vec<Tokenisation>,
    pub(super) shapes: Vec<Measured>,
}

/// What ran the model.
#[derive(Debug, Serialize)]
pub(super) struct Machine {
    pub(super) processor: Processor,
    pub(super) device: mlx_embed::mlx::Backend,
    pub(super) kernels: &'static str,
    pub(super) precision: Option<mlx_embed::Precision>,
    pub(super) threads: usize,
    mlx_embed_version: &'static str,
    pub(super) mlx_version: String,
}

/// What was run.
#[derive(Debug, Serialize)]
pub(super) struct Model {
    pub(super) path: PathBuf,
    pub(super) parameters: u64,
    weights_bytes: u64,
    storage: BTreeMap<String, BTreeMap<String, usize>>,
    pub(super) layers: usize,
    pub(super) pooling: mlx_embed::Pooling,
}

/// Roofs in units that people use.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Roofs {
    pub(super) f32_gflops: Option<f64>,
    pub(super) half_gflops: Option<f64>,
    pub(super) int16_gflops: Option<f64>,
    pub(super) int8_gflops: Option<f64>,
    pub(super) gb_per_s: f64,
}

impl Roofs {
    fn new(roofline: &Roofline) -> Self {
        let giga = |rate: Option<f64>| rate.map(|rate| rate / 1e9);
        Self {
            f32_gflops: giga(roofline.f32),
            half_gflops: giga(roofline.half),
            int16_gflops: giga(roofline.int16),
            int8_gflops: giga(roofline.int8),
            gb_per_s: roofline.bytes / 1e9,
        }
    }

    /// Those that were measured, lowest first.
    pub(super) fn peaks(&self) -> Vec<(&'static str, f64)> {
        let all = [
            ("f32", self.f32_gflops),
            ("half", self.half_gflops),
            ("int16", self.int16_gflops),
            ("int8", self.int8_gflops),
        ];
        let mut peaks: Vec<_> = all.into_iter().filter_map(|(name, peak)| Some((name, peak?))).collect();
        peaks.sort_by(|a, b| a.1.total_cmp(&b.1));
        peaks
    }
}

/// Loading, with the files in the system's cache.
#[derive(Debug, Serialize)]
pub(super) struct Load {
    rounds: usize,
    pub(super) p50_ms: f64,
    pub(super) gb_per_s: f64,
    pub(super) share_of_roof: f64,
}

/// Tokenising one text on one thread.
#[derive(Debug, Serialize)]
pub(super) struct Tokenisation {
    pub(super) bytes: usize,
    pub(super) tokens: usize,
    pub(super) p50_us: f64,
    tokens_per_s: f64,
    pub(super) mb_per_s: f64,
}

/// One shape.
#[derive(Debug, Serialize)]
pub(super) struct Measured {
    #[serde(flatten)]
    pub(super) shape: Shape,
    /// Passes at each level.
    pub(super) rounds: usize,
    /// In the order in which a pass meets them.
    pub(super) operations: Vec<Line>,
    /// A layer, computed at once.
    pub(super) layer: Line,
    /// A whole pass, computed at once.
    pub(super) model: Line,
    pub(super) layers: Vec<Layer>,
}

/// What an operation takes and does.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    pub(super) name: String,
    parts: Vec<Part>,
    /// In a pass.
    pub(super) calls: usize,
    /// Of all its calls in a pass, host and device.
    pub(super) pass_ms: f64,
    /// Of one call, as are all that follow. Zero for what is inside a kernel.
    pub(super) host_us: f64,
    pub(super) device_us: f64,
    device_min_us: f64,
    device_p95_us: f64,
    pub(super) operations: f64,
    pub(super) bytes: f64,
    pub(super) gflops: Option<f64>,
    pub(super) gb_per_s: Option<f64>,
    pub(super) arithmetic: Option<Arithmetic>,
    pub(super) bound: Option<Bound>,
    /// The least time that the device could take, of the time that it takes.
    pub(super) share_of_roof: Option<f64>,
}

/// Which roof is the nearer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Bound {
    Memory,
    Compute,
}

/// One layer's operations, each computed by itself.
#[derive(Debug, Serialize)]
pub(super) struct Layer {
    pub(super) layer: usize,
    /// Operations by name, host and device time in microseconds, in order.
    pub(super) operations: Vec<(String, f64)>,
}

/// The samples of a shape, pass by pass.
#[derive(Debug, Default)]
struct Passes {
    operations: Vec<Vec<Sample>>,
    layers: Vec<Vec<Sample>>,
    model: Vec<Vec<Sample>>,
    spent: Duration,
}

pub(super) fn run(
    common: &CommonArgs,
    embedder: &Embedder,
    shapes: &[Shape],
    rounds: usize,
) -> Result<Report, CliError> {
    let mut bench = Bench::new(embedder)?;
    let mut roofline = Roofline::default();
    let mut passes: Vec<Passes> = shapes.iter().map(|_| Passes::default()).collect();
    for round in 0..=rounds {
        for (shape, passes) in shapes.iter().zip(&mut passes) {
            roofline.raise(&bench.roofline()?);
            // The first round makes what later ones find, except for shapes that take so long that it does not matter.
            if round == 1 && passes.spent < PATIENCE / 4 {
                *passes = Passes::default();
            }
            if passes.spent < PATIENCE {
                passes.run(&mut bench, *shape)?;
            }
        }
    }
    for _ in 0..10 {
        roofline.raise(&bench.roofline()?);
    }
    let info = embedder.info();
    let measured = shapes.iter().zip(&passes);
    Ok(Report {
        machine: Machine {
            processor: Processor::read(),
            device: info.backend,
            kernels: info.kernels,
            precision: info.precision,
            threads: bench.threads(),
            mlx_embed_version: env!("CARGO_PKG_VERSION"),
            mlx_version: info.mlx_version.clone(),
        },
        model: Model {
            path: info.model.clone(),
            parameters: info.parameters,
            weights_bytes: info.weights_bytes,
            storage: info.storage.clone(),
            layers: info.config.layers,
            pooling: info.pooling,
        },
        roofline: Roofs::new(&roofline),
        waiting_us: micros(bench.waiting()),
        tokenisation: tokenisation(embedder)?,
        load: load(common, embedder, &roofline)?,
        shapes: measured.map(|(shape, passes)| passes.measured(*shape, &roofline)).collect(),
    })
}

impl Passes {
    fn run(&mut self, bench: &mut Bench, shape: Shape) -> Result<(), CliError> {
        let start = Instant::now();
        let shape = mlx_embed::bench::Shape { texts: shape.batch, tokens: shape.tokens };
        self.model.push(bench.pass(shape, Level::Model)?);
        self.layers.push(bench.pass(shape, Level::Layers)?);
        self.operations.push(bench.pass(shape, Level::Operations)?);
        self.spent += start.elapsed();
        Ok(())
    }

    fn measured(&self, shape: Shape, roofline: &Roofline) -> Measured {
        let operations = by_operation(&self.operations);
        let lines = operations.iter().map(|operation| line(*operation, &self.operations, roofline)).collect();
        let only = |passes: &[Vec<Sample>], part| {
            let of_part = |operation: &Operation| operation.parts() == [part];
            let found = by_operation(passes).into_iter().find(of_part);
            found.map_or_else(Line::empty, |operation| line(operation, passes, roofline))
        };
        Measured {
            shape,
            rounds: self.operations.len(),
            operations: lines,
            layer: only(&self.layers, Part::Layer),
            model: only(&self.model, Part::Model),
            layers: layers(&operations, &self.operations),
        }
    }
}

/// The operations of a pass, in order.
fn by_operation(passes: &[Vec<Sample>]) -> Vec<Operation> {
    let mut operations = Vec::new();
    for sample in passes.first().into_iter().flatten() {
        if !operations.contains(&sample.operation) {
            operations.push(sample.operation);
        }
    }
    operations
}

impl Line {
    /// The parts of the decoder that it computes.
    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    fn empty() -> Self {
        Self {
            name: String::new(),
            parts: Vec::new(),
            calls: 0,
            pass_ms: f64::NAN,
            host_us: f64::NAN,
            device_us: f64::NAN,
            device_min_us: f64::NAN,
            device_p95_us: f64::NAN,
            operations: 0.0,
            bytes: 0.0,
            gflops: None,
            gb_per_s: None,
            arithmetic: None,
            bound: None,
            share_of_roof: None,
        }
    }
}

fn line(operation: Operation, passes: &[Vec<Sample>], roofline: &Roofline) -> Line {
    let of_pass = |pass: &[Sample]| -> Vec<Sample> {
        pass.iter().filter(|sample| sample.operation == operation).cloned().collect()
    };
    let sums: Vec<f64> = passes
        .iter()
        .map(|pass| of_pass(pass).iter().map(|sample| micros(sample.host + sample.device)).sum())
        .collect();
    let mut samples: Vec<Sample> = passes.iter().flat_map(|pass| of_pass(pass)).collect();
    let calls = samples.len() / passes.len().max(1);
    // Where only pooled rows go through the end of the last layer, that is another operation by its size.
    let most = samples.iter().map(|sample| sample.work.total_operations()).fold(0.0, f64::max);
    samples.retain(|sample| sample.work.total_operations() * 2.0 >= most);
    let times = |time: fn(&Sample) -> Duration| sorted(samples.iter().map(|sample| micros(time(sample))));
    let (host, device) = (times(|sample| sample.host), times(|sample| sample.device));
    let device_us = quantile(&device, 0.5);
    let work = mean_work(&samples);
    let is_work = work.bytes > 0.0;
    let share = roofline.least_time(&work).filter(|_| is_work).map(|least| micros(least) / device_us);
    let rate = |count: f64| Some(count / device_us / 1e3).filter(|rate| *rate > 0.0 && rate.is_finite());
    let bound = if roofline.memory_bound(&work) { Bound::Memory } else { Bound::Compute };
    Line {
        name: operation.to_string(),
        parts: operation.parts().to_vec(),
        calls,
        pass_ms: quantile(&sorted(sums), 0.5) / 1e3,
        host_us: quantile(&host, 0.5),
        device_us,
        device_min_us: quantile(&device, 0.0),
        device_p95_us: quantile(&device, 0.95),
        operations: work.total_operations(),
        bytes: work.bytes,
        gflops: rate(work.total_operations()),
        gb_per_s: rate(work.bytes),
        // Of several kinds, what most of the work is.
        arithmetic: work.operations.iter().max_by(|a, b| a.1.total_cmp(&b.1)).map(|(kind, _)| *kind),
        bound: is_work.then_some(bound),
        share_of_roof: share.filter(|share| share.is_finite()),
    }
}

/// Layers may be stored differently.
fn mean_work(samples: &[Sample]) -> Work {
    let count = samples.len().max(1) as f64;
    let mut operations: Vec<(Arithmetic, f64)> = Vec::new();
    for (kind, amount) in samples.iter().flat_map(|sample| &sample.work.operations) {
        match operations.iter_mut().find(|(known, _)| known == kind) {
            Some((_, sum)) => *sum += amount / count,
            None => operations.push((*kind, amount / count)),
        }
    }
    Work { operations, bytes: samples.iter().map(|sample| sample.work.bytes).sum::<f64>() / count }
}

fn layers(operations: &[Operation], passes: &[Vec<Sample>]) -> Vec<Layer> {
    let numbers: Vec<usize> = {
        let mut numbers: Vec<usize> = passes.iter().flatten().filter_map(|sample| sample.layer).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    };
    let time = |operation: Operation, layer: usize| {
        let of_pass = |pass: &Vec<Sample>| -> f64 {
            let own =
                pass.iter().filter(|sample| sample.operation == operation && sample.layer == Some(layer));
            own.map(|sample| micros(sample.host + sample.device)).sum()
        };
        quantile(&sorted(passes.iter().map(of_pass)), 0.5)
    };
    let layer = |layer: usize| Layer {
        layer,
        operations: operations
            .iter()
            .map(|&operation| (operation.to_string(), time(operation, layer)))
            .filter(|(_, time)| *time > 0.0)
            .collect(),
    };
    numbers.into_iter().map(layer).collect()
}

fn load(common: &CommonArgs, embedder: &Embedder, roofline: &Roofline) -> Result<Load, CliError> {
    let mut times = Vec::new();
    for _ in 0..LOADS {
        let start = Instant::now();
        drop(common.load()?);
        times.push(start.elapsed().as_secs_f64());
    }
    let p50 = quantile(&sorted(times), 0.5);
    let rate = embedder.info().weights_bytes as f64 / p50;
    Ok(Load { rounds: LOADS, p50_ms: p50 * 1e3, gb_per_s: rate / 1e9, share_of_roof: rate / roofline.bytes })
}

fn tokenisation(embedder: &Embedder) -> Result<Vec<Tokenisation>, CliError> {
    let sentence =
        "A kettle sings on the stove while rain, the first in weeks, runs down the window of the kitchen. ";
    let mut lines = Vec::new();
    for sentences in TOKENISED {
        let mut times = Vec::new();
        let (mut bytes, mut tokens) = (0, 0);
        for round in 0..50 {
            // A number, so that no two texts are alike.
            let text = format!("{round}: {}", sentence.repeat(sentences));
            let start = Instant::now();
            tokens = embedder.token_ids(&text, &EmbedOptions::default())?.len();
            times.push(micros(start.elapsed()));
            bytes = text.len();
        }
        let p50_us = quantile(&sorted(times), 0.5);
        lines.push(Tokenisation {
            bytes,
            tokens,
            p50_us,
            tokens_per_s: tokens as f64 / p50_us * 1e6,
            mb_per_s: bytes as f64 / p50_us,
        });
    }
    Ok(lines)
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn sorted(times: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut times: Vec<f64> = times.into_iter().collect();
    times.sort_by(f64::total_cmp);
    times
}

impl Report {
    /// In a line, what ran.
    pub(super) fn title(&self) -> String {
        let Machine { device, kernels, precision, threads, .. } = &self.machine;
        let precision = precision.map_or(String::new(), |precision| format!(", {precision}"));
        let threads = match threads {
            1 => "1 thread".to_owned(),
            threads => format!("{threads} threads"),
        };
        format!("{device}: {kernels}{precision}, {threads}")
    }

    pub(super) fn table(&self) -> String {
        let peaks = self.roofline.peaks();
        let peaks: Vec<String> = peaks.iter().map(|(name, peak)| format!("{name} {peak:.0}")).collect();
        let mut table = format!(
            "{}\nroofline: {} GFLOP/s; memory {:.1} GB/s; asking the device for nothing {:.0} us\n\n",
            self.title(),
            peaks.join(", "),
            self.roofline.gb_per_s,
            self.waiting_us
        );
        let Load { p50_ms, gb_per_s, share_of_roof, .. } = &self.load;
        table.push_str(&format!(
            "load: {p50_ms:.0} ms, {gb_per_s:.2} GB/s of weights, {:.0} % of reading memory\n",
            share_of_roof * 100.0
        ));
        for Tokenisation { bytes, tokens, p50_us, mb_per_s, .. } in &self.tokenisation {
            table.push_str(&format!(
                "tokenisation of {bytes} bytes to {tokens} tokens: {p50_us:.0} us, {mb_per_s:.2} MB/s\n"
            ));
        }
        for measured in &self.shapes {
            table.push_str(&measured.table());
        }
        table
    }
}

impl Measured {
    fn table(&self) -> String {
        let passes = if self.rounds == 1 { "pass" } else { "passes" };
        let mut table = format!(
            "\n{}, {} {passes}\n{:<41} {:>5} {:>9} {:>9} {:>11} {:>8} {:>7} {:>6} {:>7}\n",
            self.shape,
            self.rounds,
            "operation",
            "calls",
            "ms/pass",
            "host us",
            "device us",
            "GFLOP/s",
            "GB/s",
            "roof %",
            "bound"
        );
        let lines = self.operations.iter().chain([&self.layer, &self.model]);
        for line in lines {
            let number = |value: Option<f64>, digits: usize| {
                value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
            };
            let bound = match line.bound {
                Some(Bound::Memory) => "memory",
                Some(Bound::Compute) => "compute",
                None => "-",
            };
            table.push_str(&format!(
                "{:<41} {:>5} {:>9.3} {:>9.1} {:>11.1} {:>8} {:>7} {:>6} {:>7}\n",
                line.name,
                line.calls,
                line.pass_ms,
                line.host_us,
                line.device_us,
                number(line.gflops, 1),
                number(line.gb_per_s, 2),
                number(line.share_of_roof.map(|share| share * 100.0), 0),
                bound
            ));
        }
        table
    }
}
