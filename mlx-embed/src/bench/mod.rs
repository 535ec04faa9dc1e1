//! Where the time of a forward pass goes, operation by operation (feature `bench`).
//!
//! A [`Bench`] runs an [`Embedder`]'s own passes and times their operations: there is no second model to keep in step.
//! An operation is what is computed at once: one part of the decoder, or several where a kernel fuses them. A [`Roofline`]
//! has the most that the device can do, measured too, so that each time can be compared with the least possible.
//!
//! ```no_run
//! use mlx_embed::Embedder;
//! use mlx_embed::bench::{Bench, Level, Shape};
//!
//! let embedder = Embedder::load("path/to/model")?;
//! let mut bench = Bench::new(&embedder)?;
//! let roofline = bench.roofline()?;
//! for sample in bench.pass(Shape { texts: 1, tokens: 128 }, Level::Operations)? {
//!     let share = roofline.least_time(&sample.work).map(|least| least.as_secs_f64() / sample.device.as_secs_f64());
//!     println!("{:?} {}: {:?}, share of the roofline {share:?}", sample.layer, sample.operation, sample.device);
//! }
//! # Ok::<(), mlx_embed::Error>(())
//! ```
//!
//! # What is timed
//! - **Operations** ([`Level::Operations`]): each is computed before the next one is built.
//! - **Layers** ([`Level::Layers`]) and the **model** ([`Level::Model`]) are computed at once, as users' passes are.
//!   They take less time than the sum of their operations.
//! - **Host** time goes into building the graph, **device** time into computing it. A GPU's operations are computed one
//!   at a time here, so each has the time of an empty request ([`Bench::waiting`]) taken off.
//! - Weights come from memory, not from caches. Before each pass more memory is read than the caches hold, and a pass
//!   reads each layer's weights once. A small model that is used again and again is faster than that.
//!
//! # What is counted
//! - [`Work::operations`] counts a multiply and an add as two. Of attention it counts the pairs of tokens that the mask
//!   leaves.
//! - [`Work::bytes`] is the least that has to be moved: weights once, as the checkpoint stores them, and the inputs and
//!   outputs of the operation. Those of a small shape stay in the caches.

mod work;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

pub use crate::watch::{Arithmetic, Level, Part};

use crate::checkpoint::{Checkpoint, Purpose};
use crate::embedder::Embedder;
use crate::error::{Error, InputError};
use crate::kernels::{Pool, peak};
use crate::mlx::Dtype;
use crate::watch::Record;
use work::Geometry;

/// Memory that is read to measure reading, and to have weights out of the caches: 512 MiB, about twice what the largest
/// caches hold.
const READ_WORDS: usize = 64 << 20;

/// The size of a batch: so many texts of so many tokens each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Shape {
    /// Number of texts.
    pub texts: usize,
    /// Tokens of each text.
    pub tokens: usize,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.texts, self.tokens)
    }
}

/// What is computed at once: one part of the decoder, or several where a kernel fuses them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Operation {
    parts: &'static [Part],
}

impl Operation {
    /// The parts of the decoder, in order.
    pub fn parts(&self) -> &'static [Part] {
        self.parts
    }
}

/// Names of the parts, such as `RMSNorm + q/k/v`.
impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, part) in self.parts.iter().enumerate() {
            let between = if index == 0 { "" } else { " + " };
            write!(f, "{between}{}", part.name())?;
        }
        Ok(())
    }
}

/// The least that an operation has to do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Work {
    /// Number of multiplies and adds, for each type of number that is multiplied.
    pub operations: Vec<(Arithmetic, f64)>,
    /// Bytes to be read and written.
    pub bytes: f64,
}

impl Work {
    /// Number of multiplies and adds of all types together.
    pub fn total_operations(&self) -> f64 {
        // An empty sum of floats is -0.
        self.operations.iter().map(|(_, count)| count).fold(0.0, |sum, count| sum + count)
    }
}

/// The measured time of an operation.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The operation.
    pub operation: Operation,
    /// The decoder layer that it belongs to, counted from 0; `None` outside the layers.
    pub layer: Option<usize>,
    /// Time for building its part of the graph. Zero inside a kernel.
    pub host: Duration,
    /// Time for computing it.
    pub device: Duration,
    /// The work that it had to do.
    pub work: Work,
}

/// The most that the device can do, as measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Roofline {
    /// Operations a second on f32.
    pub f32: Option<f64>,
    /// Operations a second on f16 or bf16, whichever the checkpoint has; GPUs only.
    pub half: Option<f64>,
    /// Operations a second on 16-bit integers; CPUs only.
    pub int16: Option<f64>,
    /// Operations a second on 8-bit integers; CPUs only.
    pub int8: Option<f64>,
    /// Bytes a second: read from memory on a CPU, read and written on a GPU. Infinite after [`Bench::keep_caches`].
    pub bytes: f64,
}

impl Roofline {
    /// Takes the higher of each value. A busy machine only ever makes a measurement lower.
    pub fn raise(&mut self, other: &Self) {
        let higher = |a: Option<f64>, b: Option<f64>| a.into_iter().chain(b).reduce(f64::max);
        self.f32 = higher(self.f32, other.f32);
        self.half = higher(self.half, other.half);
        self.int16 = higher(self.int16, other.int16);
        self.int8 = higher(self.int8, other.int8);
        self.bytes = self.bytes.max(other.bytes);
    }

    /// Operations a second on this type of number; `None` if that was not measured.
    pub fn operations(&self, arithmetic: Arithmetic) -> Option<f64> {
        match arithmetic {
            Arithmetic::F32 => self.f32,
            Arithmetic::Half => self.half,
            Arithmetic::Int16 => self.int16,
            Arithmetic::Int8 => self.int8,
        }
    }

    /// The least time in which the device could do `work`, if memory and arithmetic run side by side. `None` if one of
    /// the values was not measured.
    pub fn least_time(&self, work: &Work) -> Option<Duration> {
        let mut computing = 0.0;
        for &(arithmetic, count) in &work.operations {
            computing += count / self.operations(arithmetic)?;
        }
        Duration::try_from_secs_f64(f64::max(computing, work.bytes / self.bytes)).ok()
    }

    /// Whether moving bytes takes longer than computing, in [`Roofline::least_time`].
    pub fn memory_bound(&self, work: &Work) -> bool {
        let computing = |&(arithmetic, count): &(Arithmetic, f64)| {
            count / self.operations(arithmetic).unwrap_or(f64::INFINITY)
        };
        work.bytes / self.bytes > work.operations.iter().map(computing).sum()
    }
}

/// Measures the passes of an embedder.
#[derive(Debug)]
pub struct Bench {
    embedder: Embedder,
    geometry: Geometry,
    /// What each part multiplies.
    arithmetic: BTreeMap<Part, Arithmetic>,
    pool: Option<Pool>,
    memory: Vec<u64>,
    threads: usize,
    half: bool,
    waiting: Duration,
    /// Passes so far: each has other token ids.
    passes: usize,
    next_layer: usize,
    keeps_caches: bool,
}

impl Bench {
    /// Takes 512 MiB of memory on the CPU, and runs one token through the model to learn what its kernels are.
    ///
    /// # Errors
    /// When the model fails, its files are gone, or threads can't be started.
    pub fn new(embedder: &Embedder) -> Result<Self, Error> {
        let shared = embedder.shared();
        let (threads, gpu, waiting) = shared.engine.ask(|model| {
            let runner = model.measured();
            let mut waiting = runner.waiting()?;
            for _ in 0..20 {
                waiting = waiting.min(runner.waiting()?);
            }
            Ok((runner.threads(), runner.on_gpu(), waiting))
        })?;
        let pool = |error: std::io::Error| Error::Stopped {
            reason: format!("{threads} threads for measuring could not start: {error}"),
        };
        let mut bench = Self {
            embedder: embedder.clone(),
            geometry: Geometry::new(
                &Checkpoint::read(shared.place.clone(), Purpose::Vectors)?,
                shared.info.pooling,
            ),
            arithmetic: BTreeMap::new(),
            pool: if gpu { None } else { Some(Pool::new(threads).map_err(pool)?) },
            memory: if gpu { Vec::new() } else { vec![1; READ_WORDS] },
            threads,
            half: false,
            waiting,
            passes: 0,
            next_layer: 0,
            keeps_caches: false,
        };
        let one = Shape { texts: 1, tokens: 1 };
        for record in bench.run(one, Level::Operations, 0..bench.geometry.layers)? {
            for part in record.parts {
                bench.arithmetic.insert(*part, record.arithmetic);
            }
        }
        bench.half = bench.arithmetic.values().any(|&arithmetic| arithmetic == Arithmetic::Half);
        bench.geometry.number_bytes = if bench.half { 2.0 } else { 4.0 };
        Ok(bench)
    }

    /// Measures from now on as if the model were used again and again: weights stay in the caches. Each pass then has
    /// the same tokens, since [`Precision::Fast`](crate::Precision::Fast) does more work for some tokens than for
    /// others. The roofline has no limit for memory.
    pub fn keep_caches(&mut self) {
        self.keeps_caches = true;
    }

    /// Number of threads that compute on the CPU.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The time of a request that computes nothing. On a GPU it is taken off the time of each operation and each layer.
    pub fn waiting(&self) -> Duration {
        self.waiting
    }

    /// Measures the most that the device can do, in some tens of milliseconds on a CPU. Call it several times between
    /// other measurements and [`raise`](Roofline::raise) the result, so that a busy moment doesn't count.
    ///
    /// # Errors
    /// When the model's thread has ended.
    pub fn roofline(&self) -> Result<Roofline, Error> {
        if let Some(pool) = &self.pool {
            let operations = |kind| peak::operations(pool, kind);
            return Ok(Roofline {
                f32: operations(peak::Kind::F32),
                half: None,
                int16: operations(peak::Kind::Int16),
                int8: operations(peak::Kind::Int8),
                bytes: if self.keeps_caches { f64::INFINITY } else { peak::reading(pool, &self.memory) },
            });
        }
        let half = self.half;
        self.embedder.shared().engine.ask(move |model| {
            let runner = model.measured();
            Ok(Roofline {
                f32: Some(runner.gpu_products(Dtype::F32)?),
                half: if half { Some(runner.gpu_products(Dtype::Bf16)?) } else { None },
                bytes: runner.gpu_reading()?,
                ..Roofline::default()
            })
        })
    }

    /// Runs one pass and returns the times of all its operations, in order.
    ///
    /// # Errors
    /// When the shape is empty or has more tokens than the model takes, or the model fails.
    pub fn pass(&mut self, shape: Shape, level: Level) -> Result<Vec<Sample>, Error> {
        self.samples(shape, level, 0..self.geometry.layers)
    }

    /// Runs the next `count` layers, or as many as are left, and returns the times of their operations. Calls go through
    /// the layers in turn and begin again with the first one, so each call reads other weights. After the last layer
    /// comes what follows it.
    ///
    /// # Errors
    /// As [`Bench::pass`].
    pub fn layers(&mut self, shape: Shape, level: Level, count: usize) -> Result<Vec<Sample>, Error> {
        let end = self.geometry.layers.min(self.next_layer + count.max(1));
        let range = self.next_layer..end;
        self.next_layer = if end == self.geometry.layers { 0 } else { end };
        self.samples(shape, level, range)
    }

    /// Runs what is before the first layer, the last layer, and what follows it. Returns the times of all operations.
    ///
    /// # Errors
    /// As [`Bench::pass`].
    pub fn ends(&mut self, shape: Shape, level: Level) -> Result<Vec<Sample>, Error> {
        self.samples(shape, level, self.geometry.layers - 1..self.geometry.layers)
    }

    fn samples(
        &mut self,
        shape: Shape,
        level: Level,
        layers: std::ops::Range<usize>,
    ) -> Result<Vec<Sample>, Error> {
        let taken_off = match (&self.pool, level) {
            (None, Level::Operations | Level::Layers) => self.waiting,
            _ => Duration::ZERO,
        };
        let records = self.run(shape, level, layers)?;
        let sample = |record: Record| Sample {
            operation: Operation { parts: record.parts },
            layer: record.layer,
            host: record.host,
            device: record.device.saturating_sub(taken_off),
            work: self.geometry.work(&record, shape, &self.arithmetic),
        };
        Ok(records.into_iter().map(sample).collect())
    }

    fn run(
        &mut self,
        shape: Shape,
        level: Level,
        layers: std::ops::Range<usize>,
    ) -> Result<Vec<Record>, Error> {
        let info = self.embedder.info();
        let wrong = match shape {
            Shape { texts: 0, .. } | Shape { tokens: 0, .. } => Some(InputError::Empty),
            Shape { tokens, .. } if tokens > info.max_tokens => {
                Some(InputError::TooLong { tokens, max_tokens: info.max_tokens })
            }
            _ => None,
        };
        if let Some(source) = wrong {
            return Err(Error::Input { index: 0, source });
        }
        if let Some(pool) = self.pool.as_ref().filter(|_| !self.keeps_caches) {
            peak::reading(pool, &self.memory);
        }
        let vocabulary = info.config.vocab_size.unsigned_abs() as usize;
        let first = if self.keeps_caches { 0 } else { self.passes * 7919 };
        self.passes += 1;
        // Any ids will do, as long as they lie apart and change.
        let id = |index: usize| ((first + index).wrapping_mul(2_654_435_761) >> 7) % vocabulary;
        let ids: Vec<u32> = (0..shape.texts * shape.tokens).map(|index| id(index) as u32).collect();
        let ids = Arc::new(ids);
        self.embedder.shared().engine.ask(move |model| {
            let runner = model.measured();
            let texts: Vec<&[u32]> = ids.chunks(shape.tokens).collect();
            runner.measure(&texts, level, layers)
        })
    }
}
