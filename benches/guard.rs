//! How near each kernel comes to the processor's roofs, one thread, for `tools/regression_guard/run` to hold against a
//! record.
//!
//! ```text
//! cargo bench --bench guard                    # JSON: for each family and precision, each operation's share
//! cargo bench --bench guard -- "avx2 exact"    # of this one alone
//! ```
//!
//! Operations and roofs are measured in turn, and the shortest time of each counts: what else the machine does lengthens
//! some of them, but hardly all. Weights stay in the caches, and what only moves numbers is left out: the speed of memory
//! depends on neighbours.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use mlx_embed::bench::{Bench, Level, Roofline, Sample, Shape};
use mlx_embed::{Device, Embedder, Error, LoadOptions, Precision, kernel_families};

/// Long enough for every kernel's usual form.
const SHAPE: Shape = Shape { texts: 1, tokens: 128 };

/// Multiplies and adds a byte, below which memory and caches have more to say than kernels.
const LEAST_INTENSITY: f64 = 10.0;

/// Kernels whose operations take so long that none goes undisturbed on a busy machine. Their instructions are counted.
const COUNTED: &str = "portable";

/// How long a family and precision are measured, and how many passes at least.
const TIME: Duration = Duration::from_secs(3);
const LEAST_PASSES: usize = 8;

/// By operation, the least time that the processor could take, of the shortest that it took.
fn shares(kernels: &str, precision: Precision) -> Result<BTreeMap<String, f64>, Error> {
    let embedder = Embedder::default_model_with(LoadOptions {
        device: Device::Cpu,
        kernels: Some(kernels.to_owned()),
        precision,
        threads: NonZeroUsize::new(1),
        ..Default::default()
    })?;
    let mut bench = Bench::new(&embedder)?;
    bench.keep_caches();
    let mut roofline = Roofline::default();
    let mut shortest: BTreeMap<String, Sample> = BTreeMap::new();
    let start = Instant::now();
    let mut passes = 0;
    while passes < LEAST_PASSES || start.elapsed() < TIME {
        roofline.raise(&bench.roofline()?);
        for sample in bench.pass(SHAPE, Level::Operations)? {
            let known = shortest.entry(sample.operation.to_string()).or_insert_with(|| sample.clone());
            if sample.device < known.device {
                *known = sample;
            }
        }
        passes += 1;
    }
    let share = |(name, sample): (String, Sample)| {
        let operations_a_byte = sample.work.total_operations() / sample.work.bytes;
        let least = roofline.least_time(&sample.work).filter(|_| operations_a_byte >= LEAST_INTENSITY)?;
        Some((name, least.as_secs_f64() / sample.device.as_secs_f64()))
    };
    Ok(shortest.into_iter().filter_map(share).collect())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Under `cargo test --benches` nothing is measured.
    if std::env::args().any(|argument| argument == "--test") {
        return Ok(());
    }
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let mut all = BTreeMap::new();
    for kernels in kernel_families().into_iter().filter(|kernels| *kernels != COUNTED) {
        for precision in [Precision::Exact, Precision::Fast] {
            let name = format!("{kernels} {precision}");
            if wanted.is_empty() || wanted.contains(&name) {
                all.insert(name, shares(kernels, precision)?);
            }
        }
    }
    println!("{}", serde_json::to_string_pretty(&all)?);
    Ok(())
}
