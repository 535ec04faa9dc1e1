//! Where the time of a forward pass goes: every operation, layer and whole pass, for shapes from one token to 4096.
//!
//! ```text
//! cargo bench --bench layers                        # the built-in model
//! MLX_EMBED_MODEL=DIR cargo bench --bench layers    # any other
//! MLX_EMBED_KERNELS=mlx cargo bench --bench layers  # one kind of kernels rather than each
//! cargo bench --bench layers -- 1x128               # what has this in its name
//! ```
//!
//! The first takes nine minutes on two cores with AVX2, most of them for long shapes on MLX's own operations.
//!
//! A benchmark is named `kernels/shape/operation`. What kernels compute at once is one operation, named after all that
//! it computes; on MLX's own kernels the same parts are operations of their own. An iteration is one call of it, in one
//! layer after the other, and its time the device's: [`mlx_embed::bench`] says how. Beside the time stand GFLOP/s, GB/s
//! with the share of the roofline that was measured in the same run, and behind each benchmark what the host needed to
//! build the graph. All of it goes to `target/layers.csv`, of which `benches/record/layers.py` makes a page with plots.

use std::cell::Cell;
use std::fmt::Write;
use std::fs;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use mlx_embed::bench::{Bench, Level, Operation, Roofline, Sample, Shape, Work};
use mlx_embed::mlx::gpu_backend;
use mlx_embed::{Device, EmbedOptions, Embedder, Error, LoadOptions};

const SHAPES: [[usize; 2]; 7] = [[1, 1], [1, 16], [1, 128], [1, 512], [1, 4096], [10, 16], [32, 128]];

/// Samples of each benchmark; criterion wants ten at least.
const SAMPLES: usize = 10;

/// A shape whose pass takes longer is left out: MLX's own operations may need minutes for it.
const LONGEST: Duration = Duration::from_secs(40);

const RECORD: &str = "target/layers.csv";

const SENTENCE: &str =
    "A kettle sings on the stove while rain, the first in weeks, runs down the window of the kitchen. ";

/// Device time, with rates in the units of a roofline.
struct DeviceTime {
    wall: WallTime,
    /// The least time that the device could take for an iteration, in nanoseconds; zero if it isn't known.
    least: Rc<Cell<f64>>,
}

impl Measurement for DeviceTime {
    type Intermediate = Instant;
    type Value = Duration;

    fn start(&self) -> Instant {
        self.wall.start()
    }

    fn end(&self, start: Instant) -> Duration {
        self.wall.end(start)
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        self.wall.add(a, b)
    }

    fn zero(&self) -> Duration {
        self.wall.zero()
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        self.wall.to_f64(value)
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        self
    }
}

impl ValueFormatter for DeviceTime {
    fn format_throughput(&self, throughput: &Throughput, nanoseconds: f64) -> String {
        match throughput {
            Throughput::Elements(count) => format!("{:.2} GFLOP/s", *count as f64 / nanoseconds),
            Throughput::Bytes(count) => {
                let share = match self.least.get() {
                    0.0 => String::new(),
                    least => format!(" ({:.0} % of the roof)", least / nanoseconds * 100.0),
                };
                format!("{:.2} GB/s{share}", *count as f64 / nanoseconds)
            }
            other => self.wall.formatter().format_throughput(other, nanoseconds),
        }
    }

    fn scale_values(&self, typical: f64, values: &mut [f64]) -> &'static str {
        self.wall.formatter().scale_values(typical, values)
    }

    fn scale_throughputs(&self, typical: f64, throughput: &Throughput, values: &mut [f64]) -> &'static str {
        self.wall.formatter().scale_throughputs(typical, throughput, values)
    }

    fn scale_for_machines(&self, values: &mut [f64]) -> &'static str {
        self.wall.formatter().scale_for_machines(values)
    }
}

fn load(options: LoadOptions) -> Result<Embedder, Error> {
    let load = |options| match std::env::var_os("MLX_EMBED_MODEL").filter(|dir| !dir.is_empty()) {
        Some(dir) => Embedder::load_with(dir, options),
        None => Embedder::default_model_with(options),
    };
    // Timing needs no model that was made for so many tokens, where it can take them at all.
    let longer = LoadOptions { max_tokens: Some(4096), ..options.clone() };
    load(longer).or_else(|_| load(options))
}

/// Each kind of kernels that this machine can choose between, or the one that the environment names.
fn backends() -> Vec<LoadOptions> {
    let cpu = |kernels: Option<&str>| LoadOptions {
        device: Device::Cpu,
        kernels: kernels.map(str::to_owned),
        ..Default::default()
    };
    if std::env::var_os("MLX_EMBED_KERNELS").is_some_and(|name| !name.is_empty()) {
        return vec![cpu(None)];
    }
    let mut backends = vec![cpu(None), cpu(Some("mlx"))];
    if gpu_backend().is_some() {
        backends.push(LoadOptions { device: Device::Gpu, ..Default::default() });
    }
    backends
}

/// What one benchmark measures.
#[derive(Clone, Copy)]
struct Target {
    shape: Shape,
    level: Level,
    operation: Operation,
    /// Multiplies and adds of a whole call: where the last layer's are fewer, they are another size of it.
    whole: f64,
    in_layers: bool,
}

impl Target {
    /// A sample of it: a `spare` one, or one that is measured now, over `calls` layers. What that tells of other
    /// operations is spare then, for their benchmarks.
    fn sample(
        &self,
        bench: &mut Bench,
        spare: &mut Vec<(Level, Sample)>,
        calls: usize,
    ) -> Result<Sample, Error> {
        if let Some(sample) = self.take(spare) {
            // Criterion goes by the clock for how many it asks for, so a spare one takes its time too.
            thread::sleep(sample.host + sample.device);
            return Ok(sample);
        }
        loop {
            let samples = match (self.level, self.in_layers) {
                (Level::Model, _) => bench.pass(self.shape, self.level)?,
                (_, true) => bench.layers(self.shape, self.level, calls)?,
                (_, false) => bench.ends(self.shape, self.level)?,
            };
            spare.extend(samples.into_iter().map(|sample| (self.level, sample)));
            if let Some(sample) = self.take(spare) {
                return Ok(sample);
            }
        }
    }

    fn take(&self, spare: &mut Vec<(Level, Sample)>) -> Option<Sample> {
        let place = spare.iter().position(|(level, sample)| {
            let is_whole = sample.work.total_operations() * 2.0 >= self.whole;
            *level == self.level && sample.operation == self.operation && is_whole
        })?;
        Some(spare.remove(place).1)
    }
}

/// The operations of a pass, each with the quickest of its largest calls.
fn targets(shape: Shape, level: Level, samples: &[Sample]) -> Vec<(Target, Sample)> {
    let mut targets: Vec<(Target, Sample)> = Vec::new();
    for sample in samples {
        let whole = sample.work.total_operations();
        let in_layers = sample.layer.is_some();
        let target = Target { shape, level, operation: sample.operation, whole, in_layers };
        match targets.iter_mut().find(|(known, _)| known.operation == sample.operation) {
            Some((known, quickest))
                if known.whole < whole || (known.whole == whole && sample.device < quickest.device) =>
            {
                (*known, *quickest) = (target, sample.clone());
            }
            Some(_) => {}
            None => targets.push((target, sample.clone())),
        }
    }
    targets
}

/// What was measured, as lines of CSV.
struct Record(String);

impl Record {
    fn new() -> Self {
        Self("kernels,shape,operation,calls,host_us,device_us,gflop,mb,f32_gflops,half_gflops,int16_gflops,int8_gflops,\
              gb_per_s,least_us\n"
            .to_owned())
    }

    /// What the lines behind this one were measured with.
    fn about(&mut self, embedder: &Embedder, threads: usize) {
        let info = embedder.info();
        let precision = info.precision.map_or(String::new(), |precision| format!(", {precision}"));
        let _ = writeln!(
            self.0,
            "# {}: {} on {}{precision}, {threads} threads; {} layers, {} parameters; MLX {}",
            info.model.display(),
            info.kernels,
            info.backend,
            info.config.layers,
            info.parameters,
            info.mlx_version
        );
    }

    /// A line of an operation: medians of a call, its work, and the roofs of the run.
    fn add(
        &mut self,
        kernels: &str,
        target: &Target,
        calls: usize,
        times: [Duration; 2],
        at: (&Work, &Roofline),
    ) {
        let (work, roofline) = at;
        let giga = |rate: Option<f64>| rate.map_or(String::new(), |rate| format!("{:.1}", rate / 1e9));
        let [host, device] = times.map(|time| time.as_secs_f64() * 1e6);
        let least = roofline
            .least_time(work)
            .map_or(String::new(), |time| format!("{:.3}", time.as_secs_f64() * 1e6));
        // Writing to a string can't fail.
        let _ = writeln!(
            self.0,
            "{kernels},{},{},{calls},{host:.3},{device:.3},{:.6},{:.6},{},{},{},{},{:.2},{least}",
            target.shape,
            target.operation,
            work.total_operations() / 1e9,
            work.bytes / 1e6,
            giga(roofline.f32),
            giga(roofline.half),
            giga(roofline.int16),
            giga(roofline.int8),
            roofline.bytes / 1e9,
        );
    }
}

/// The middle one; zero of none.
fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn operations(
    criterion: &mut Criterion<DeviceTime>,
    least: &Cell<f64>,
    embedder: &Embedder,
    record: &mut Record,
) -> Result<(), Error> {
    let mut bench = Bench::new(embedder)?;
    let mut roofline = Roofline::default();
    record.about(embedder, bench.threads());
    for [texts, tokens] in SHAPES.into_iter().filter(|[_, tokens]| *tokens <= embedder.info().max_tokens) {
        let shape = Shape { texts, tokens };
        let name = format!("{}/{shape}", embedder.info().kernels);
        for _ in 0..5 {
            roofline.raise(&bench.roofline()?);
        }
        let start = Instant::now();
        let whole = bench.pass(shape, Level::Model)?;
        let took = start.elapsed();
        if took > LONGEST {
            println!("{name}: left out, since a pass takes {} s", took.as_secs());
            continue;
        }
        let mut found = targets(shape, Level::Model, &whole);
        let mut pass = whole;
        for level in [Level::Layers, Level::Operations] {
            let samples = bench.pass(shape, level)?;
            found.splice(0..0, targets(shape, level, &samples));
            pass.extend(samples);
        }
        let mut group = criterion.benchmark_group(&name);
        group.sampling_mode(SamplingMode::Flat).sample_size(SAMPLES).warm_up_time(Duration::from_millis(1));
        let mut spare = Vec::new();
        for (target, first) in found {
            let time = |sample: &Sample| sample.device;
            let counted = [first.work.total_operations(), first.work.bytes].map(|count| count as u64);
            match counted {
                [0, 0] => {}
                [0, bytes] => drop(group.throughput(Throughput::Bytes(bytes))),
                [elements, bytes] => drop(group.throughput(Throughput::ElementsAndBytes { elements, bytes })),
            }
            let nanoseconds = roofline.least_time(&first.work).map_or(0.0, |time| time.as_secs_f64() * 1e9);
            least.set(nanoseconds);
            // A pass's calls a sample where those are short, one where they are long.
            let calls = if time(&first) < Duration::from_millis(5) { 4 } else { 1 };
            let enough = time(&first).max(Duration::from_nanos(100)) * (SAMPLES * calls) as u32;
            group.measurement_time(enough);
            let (mut hosts, mut devices) = (Vec::new(), Vec::new());
            let mut failed = None;
            group.bench_function(BenchmarkId::from_parameter(target.operation), |bencher| {
                bencher.iter_custom(|count| {
                    let mut sum = Duration::ZERO;
                    for _ in 0..count {
                        match target.sample(&mut bench, &mut spare, calls) {
                            Ok(sample) => {
                                sum += time(&sample);
                                hosts.push(sample.host);
                                devices.push(sample.device);
                            }
                            Err(error) => {
                                failed = Some(error);
                                break;
                            }
                        }
                    }
                    sum
                });
            });
            if let Some(error) = failed {
                return Err(error);
            }
            // None where the command line asks for other benchmarks.
            if hosts.is_empty() {
                continue;
            }
            let times = [median(&mut hosts), median(&mut devices)];
            println!(
                "{:24}host:   {:.1} us to build the graph, median of {} calls",
                "",
                times[0].as_secs_f64() * 1e6,
                hosts.len()
            );
            let calls = pass.iter().filter(|sample| sample.operation == target.operation).count();
            record.add(embedder.info().kernels, &target, calls, times, (&first.work, &roofline));
        }
        group.finish();
    }
    Ok(())
}

fn beside(criterion: &mut Criterion<DeviceTime>, least: &Cell<f64>) -> Result<(), Error> {
    least.set(0.0);
    let embedder = load(LoadOptions { device: Device::Cpu, ..Default::default() })?;
    let mut group = criterion.benchmark_group("tokenisation");
    for sentences in [1, 10, 100] {
        let text = SENTENCE.repeat(sentences);
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(format!("{} bytes", text.len())), |bencher| {
            bencher.iter(|| embedder.token_ids(&text, &EmbedOptions::default()))
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("load");
    group.throughput(Throughput::Bytes(embedder.info().weights_bytes));
    group.sampling_mode(SamplingMode::Flat).sample_size(SAMPLES);
    for options in backends() {
        let kernels = load(options.clone())?.info().kernels;
        group.bench_function(BenchmarkId::from_parameter(kernels), |bencher| {
            bencher.iter_with_large_drop(|| load(options.clone()))
        });
    }
    group.finish();
    Ok(())
}

fn run() -> Result<(), Error> {
    let least = Rc::new(Cell::new(0.0));
    let measurement = DeviceTime { wall: WallTime, least: Rc::clone(&least) };
    let mut criterion = Criterion::default().with_measurement(measurement).configure_from_args();
    let mut record = Record::new();
    for options in backends() {
        operations(&mut criterion, &least, &load(options)?, &mut record)?;
    }
    beside(&mut criterion, &least)?;
    criterion.final_summary();
    match fs::write(RECORD, record.0) {
        Ok(()) => println!("{RECORD}; benches/record/layers.py {RECORD} > layers.html draws it"),
        Err(error) => println!("{RECORD} was not written: {error}"),
    }
    Ok(())
}

fn main() -> Result<(), Error> {
    // Under `cargo test --benches` nothing is measured.
    if std::env::args().any(|argument| argument == "--test") {
        return Ok(());
    }
    run()
}
