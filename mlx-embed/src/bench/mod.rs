//! Where the time of a forward pass goes, operation by operation (feature `bench`).
//!
//! A [`Bench`] runs an [`Embedder`]'s own passes and times what they are made of, so that there is no second model to
//! keep in step: the decoder tells where its operations begin and end, and what kernels compute at once is measured and
//! named as one operation. It also measures what the device could do at best ([`Roofline`]), so that each time can be
//! held against it.
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
//! - **Operations** ([`Level::Operations`]): each is built and computed before the next one is. Kernels that compute
//!   several parts at once are timed as one operation.
//! - **Layers** ([`Level::Layers`]) and the **model** ([`Level::Model`]) are computed at once, as users' passes are.
//!   They take less than the sum of their operations.
//! - **Host** time is spent building the graph; **device** time computing it. A GPU's operations are computed one at a
//!   time here, so the time of asking for nothing at all ([`Bench::waiting`]) is taken off each.
//! - Before each pass more memory is read than caches hold, and a pass reads each layer's weights once: weights come
//!   from memory, as they do on a machine that has other things to do. A small model that is asked again and again
//!   is faster than that.
//!
//! # What is counted
//! [`Work::operations`] counts a multiply and an add as two, and in attention the pairs that the causal mask leaves.
//! [`Work::bytes`] is the least that has to move: weights as the checkpoint stores them, once, and what an operation
//! reads and writes, of which a small shape's stays in caches.

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

/// So many texts of so many tokens each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Shape {
    /// Texts in the batch.
    pub texts: usize,
    /// Tokens of each.
    pub tokens: usize,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.texts, self.tokens)
    }
}

/// What runs at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Operation {
    parts: &'static [Part],
}

impl Operation {
    /// The parts of the decoder that it computes.
    pub fn parts(&self) -> &'static [Part] {
        self.parts
    }
}

/// As people write it: `RMSNorm + q/k/v`.
impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, part) in self.parts.iter().enumerate() {
            let between = if index == 0 { "" } else { " + " };
            write!(f, "{between}{}", part.name())?;
        }
        Ok(())
    }
}

/// What an operation has to do at least.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Work {
    /// Multiplies and adds, by what is multiplied.
    pub operations: Vec<(Arithmetic, f64)>,
    /// Bytes read and written.
    pub bytes: f64,
}

impl Work {
    /// Multiplies and adds of all kinds.
    pub fn total_operations(&self) -> f64 {
        // An empty sum of floats is -0.
        self.operations.iter().map(|(_, count)| count).fold(0.0, |sum, count| sum + count)
    }
}

/// A time that was measured.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Of what.
    pub operation: Operation,
    /// The layer that it belongs to; `None` outside the layers.
    pub layer: Option<usize>,
    /// Building its part of the graph. Zero for what is inside a kernel.
    pub host: Duration,
    /// Computing it.
    pub device: Duration,
    /// What it had to do.
    pub work: Work,
}

/// What the device does at best, measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Roofline {
    /// Operations a second on f32.
    pub f32: Option<f64>,
    /// On f16 or bf16, as the checkpoint has them; GPUs only.
    pub half: Option<f64>,
    /// On 16-bit integers; CPUs only.
    pub int16: Option<f64>,
    /// On 8-bit integers; CPUs only.
    pub int8: Option<f64>,
    /// Bytes a second from memory, and on a GPU from and to it. Infinite where weights stay in the caches.
    pub bytes: f64,
}

impl Roofline {
    /// The higher of each roof: what disturbs a measurement only ever lowers it.
    pub fn raise(&mut self, other: &Self) {
        let higher = |a: Option<f64>, b: Option<f64>| a.into_iter().chain(b).reduce(f64::max);
        self.f32 = higher(self.f32, other.f32);
        self.half = higher(self.half, other.half);
        self.int16 = higher(self.int16, other.int16);
        self.int8 = higher(self.int8, other.int8);
        self.bytes = self.bytes.max(other.bytes);
    }

    /// Operations a second of one kind.
    pub fn operations(&self, arithmetic: Arithmetic) -> Option<f64> {
        match arithmetic {
            Arithmetic::F32 => self.f32,
            Arithmetic::Half => self.half,
            Arithmetic::Int16 => self.int16,
            Arithmetic::Int8 => self.int8,
        }
    }

    /// The least time that the device could do `work` in, with memory and arithmetic side by side; `None` where a roof
    /// was not measured.
    pub fn least_time(&self, work: &Work) -> Option<Duration> {
        let mut computing = 0.0;
        for &(arithmetic, count) in &work.operations {
            computing += count / self.operations(arithmetic)?;
        }
        Duration::try_from_secs_f64(f64::max(computing, work.bytes / self.bytes)).ok()
    }

    /// Whether reading and writing rather than computing takes that least time.
    pub fn memory_bound(&self, work: &Work) -> bool {
        let computing = |&(arithmetic, count): &(Arithmetic, f64)| {
            count / self.operations(arithmetic).unwrap_or(f64::INFINITY)
        };
        work.bytes / self.bytes > work.operations.iter().map(computing).sum()
    }
}

/// Measures the passes of one embedder.
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
    /// Takes 512 MiB of memory on the CPU, and runs a token through the model to see what its kernels are.
    ///
    /// # Errors
    /// When the model fails, its files have gone, or threads can't be started.
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

    /// From now on leaves in the caches what an earlier pass brought there, as when a small model is asked again and again;
    /// asks for the same tokens each time, since [`Precision::Fast`](crate::Precision::Fast) does more for some than for
    /// others; and sets no roof for memory.
    pub fn keep_caches(&mut self) {
        self.keeps_caches = true;
    }

    /// Threads that compute on the CPU.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// How long the device takes to be asked for next to nothing. On a GPU it is taken off each operation's and layer's
    /// time.
    pub fn waiting(&self) -> Duration {
        self.waiting
    }

    /// Measures the device's roofs once, in some tens of milliseconds on the CPU. Call it several times between other
    /// measurements and [`raise`](Roofline::raise) the roofs, so that a busy moment doesn't lower them.
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

    /// Runs one pass and returns the time of everything in it, in order.
    ///
    /// # Errors
    /// When the shape is empty or longer than the model's limit, or the model fails.
    pub fn pass(&mut self, shape: Shape, level: Level) -> Result<Vec<Sample>, Error> {
        self.samples(shape, level, 0..self.geometry.layers)
    }

    /// Runs the next `count` layers or fewer, to the last one at most, and returns the time of what is in them. The
    /// first layer follows the last, so that calls for one layer after the other read each one's weights in turn.
    /// Behind the last layer comes what follows it.
    ///
    /// # Errors
    /// As [`Bench::pass`].
    pub fn layers(&mut self, shape: Shape, level: Level, count: usize) -> Result<Vec<Sample>, Error> {
        let end = self.geometry.layers.min(self.next_layer + count.max(1));
        let range = self.next_layer..end;
        self.next_layer = if end == self.geometry.layers { 0 } else { end };
        self.samples(shape, level, range)
    }

    /// Runs the last layer with what is before the first and behind the last, and returns the time of everything in it.
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
