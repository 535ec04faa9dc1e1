//! Where the time of a pass goes, for whoever measures it.
//!
//! The decoder says where one of its operations ends and the next begins. Unless someone watches, that costs a look at
//! an `Option`. Watched, each operation is computed before the next is built, so that its time is its own.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::mlx::{Array, Building, Dtype, MlxError, ops};

use super::{Hidden, Kernels, Output, State, cuda};

/// A part of what a decoder computes. Kernels may compute several in one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Part {
    /// Rows of the embedding table, looked up and expanded.
    Gather,
    /// The RMSNorm before attention.
    InputNorm,
    /// The projections to queries, keys and values.
    Qkv,
    /// The RMSNorm of each head of queries and keys.
    HeadNorms,
    /// The rotation of queries and keys.
    Rope,
    /// Scores, softmax, and the sum of values.
    Attention,
    /// The output projection, added to the residual stream.
    Output,
    /// The RMSNorm before the feed-forward part.
    PostAttentionNorm,
    /// The gate and up projections.
    GateUp,
    /// `silu(gate) * up`.
    SwiGlu,
    /// The down projection, added to the residual stream.
    Down,
    /// The RMSNorm behind the last layer.
    FinalNorm,
    /// Hidden states to one vector a text.
    Pooling,
    /// What is not arithmetic: building the graph, handing operations to the device, waking its threads.
    Dispatch,
    /// A whole layer.
    Layer,
    /// Everything from token ids to vectors.
    Model,
}

impl Part {
    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gather => "embedding gather",
            Self::InputNorm => "input RMSNorm",
            Self::Qkv => "q/k/v",
            Self::HeadNorms => "q/k norm",
            Self::Rope => "RoPE",
            Self::Attention => "attention",
            Self::Output => "o",
            Self::PostAttentionNorm => "post-attention RMSNorm",
            Self::GateUp => "gate/up",
            Self::SwiGlu => "SwiGLU",
            Self::Down => "down",
            Self::FinalNorm => "final RMSNorm",
            Self::Pooling => "pooling",
            Self::Dispatch => "graph and dispatch",
            Self::Layer => "layer",
            Self::Model => "model",
        }
    }
}

/// The numbers that an operation multiplies, which decide how fast a device could.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Arithmetic {
    /// 32-bit floats.
    F32,
    /// f16 or bf16.
    Half,
    /// 16-bit integers, as two digits of 8 bits or at once.
    Int16,
    /// 8-bit integers.
    Int8,
}

impl Arithmetic {
    fn of(array: Option<&&Array>) -> Self {
        match array.and_then(|array| array.dtype()) {
            Some(Dtype::F32) => Self::F32,
            // Beside MLX's graph is bf16.
            _ => Self::Half,
        }
    }
}

/// How finely a pass is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Each operation is computed by itself.
    Operations,
    /// Each layer is computed by itself.
    Layers,
    /// The whole pass is computed at once, as users' passes are.
    Model,
}

/// One operation's time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record {
    pub(crate) parts: &'static [Part],
    pub(crate) arithmetic: Arithmetic,
    /// None outside the layers.
    pub(crate) layer: Option<usize>,
    /// Building its part of the graph.
    pub(crate) host: Duration,
    /// Computing it.
    pub(crate) device: Duration,
}

/// Records operations' times.
#[derive(Debug)]
pub(crate) struct Watch {
    level: Level,
    /// The layer that runs; `usize::MAX` outside.
    layer: AtomicUsize,
    records: Mutex<Vec<Record>>,
}

/// What an operation makes.
pub(super) trait Made {
    fn arrays(&self) -> Vec<&Array>;
}

impl Made for Array {
    fn arrays(&self) -> Vec<&Array> {
        vec![self]
    }
}

impl<const N: usize> Made for [Array; N] {
    fn arrays(&self) -> Vec<&Array> {
        self.iter().collect()
    }
}

/// What is not on MLX's graph is waited for by [`Kernels::wait`].
impl Made for State {
    fn arrays(&self) -> Vec<&Array> {
        match self {
            State::Array(x) => vec![x],
            State::Tensor(_) => Vec::new(),
        }
    }
}

impl Made for Hidden {
    fn arrays(&self) -> Vec<&Array> {
        self.x.arrays()
    }
}

/// An embedding, and where kernels for a GPU run.
impl Made for (Hidden, Option<cuda::Call>) {
    fn arrays(&self) -> Vec<&Array> {
        self.0.arrays()
    }
}

impl Made for Output {
    fn arrays(&self) -> Vec<&Array> {
        match self {
            Output::Array(x) => vec![x],
            Output::Host(_) => Vec::new(),
        }
    }
}

impl Watch {
    pub(crate) fn new(level: Level) -> Self {
        Self { level, layer: AtomicUsize::new(usize::MAX), records: Mutex::default() }
    }

    /// What was recorded so far.
    pub(crate) fn take(&self) -> Vec<Record> {
        std::mem::take(&mut self.records())
    }

    fn records(&self) -> MutexGuard<'_, Vec<Record>> {
        // A list of whole records, whatever happened to a thread that added to it.
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, parts: &'static [Part], arithmetic: Arithmetic, host: Duration, device: Duration) {
        let layer = Some(self.layer.load(Ordering::Relaxed)).filter(|&layer| layer != usize::MAX);
        self.records().push(Record { parts, arithmetic, layer, host, device });
    }

    /// Builds and computes an operation. If it turns out to be made of operations that were recorded themselves, what
    /// lies between them is recorded as [`Part::Dispatch`].
    fn stage<T: Made>(
        &self,
        kernels: Option<&Kernels>,
        parts: &'static [Part],
        build: impl FnOnce() -> Result<T, MlxError>,
    ) -> Result<T, MlxError> {
        let inner = self.records().len();
        let building = Building::start();
        let made = build()?;
        let host = building.host();
        let arrays = made.arrays();
        if !arrays.is_empty() {
            ops::eval(arrays.iter().copied())?;
        }
        if let Some(kernels) = kernels {
            kernels.wait()?;
        }
        let whole = building.elapsed();
        let within: Vec<Duration> =
            self.records()[inner..].iter().map(|record| record.host + record.device).collect();
        if within.is_empty() {
            self.record(parts, Arithmetic::of(arrays.first()), host, whole - host);
        } else {
            let between = whole.saturating_sub(within.iter().sum());
            self.record(&[Part::Dispatch], Arithmetic::F32, between, Duration::ZERO);
        }
        Ok(made)
    }
}

/// A watch or none, as a pass takes it along.
#[derive(Debug, Clone, Copy)]
pub(super) struct Watched<'a> {
    watch: Option<&'a Watch>,
    /// Those that may compute beside MLX's graph.
    kernels: Option<&'a Kernels>,
}

impl<'a> Watched<'a> {
    pub(super) fn new(watch: Option<&'a Watch>) -> Self {
        Self { watch, kernels: None }
    }

    /// Waits for these, too, since they may compute beside MLX's graph.
    pub(super) fn beside(self, kernels: &'a Kernels) -> Self {
        Self { kernels: Some(kernels), ..self }
    }

    fn at(self, level: Level) -> Option<&'a Watch> {
        self.watch.filter(|watch| watch.level == level)
    }

    /// Builds an operation, or what the kernels at hand make of it; watched, computes it too.
    pub(super) fn stage<T: Made>(
        self,
        parts: &'static [Part],
        build: impl FnOnce() -> Result<T, MlxError>,
    ) -> Result<T, MlxError> {
        match self.at(Level::Operations) {
            Some(watch) => watch.stage(self.kernels, parts, build),
            None => build(),
        }
    }

    /// The same for a layer with everything in it.
    pub(super) fn layer(
        self,
        index: usize,
        build: impl FnOnce() -> Result<Hidden, MlxError>,
    ) -> Result<Hidden, MlxError> {
        let Some(watch) = self.watch else { return build() };
        watch.layer.store(index, Ordering::Relaxed);
        let made = match self.at(Level::Layers) {
            Some(watch) => watch.stage(self.kernels, &[Part::Layer], build),
            None => build(),
        };
        watch.layer.store(usize::MAX, Ordering::Relaxed);
        made
    }

    /// For a kernel that computes several operations: from here on the first of them runs.
    pub(super) fn laps(self) -> Laps<'a> {
        Laps(self.at(Level::Operations).map(|watch| (watch, Instant::now())))
    }
}

/// Times operations inside a kernel, one after the other.
#[derive(Debug)]
pub(super) struct Laps<'a>(Option<(&'a Watch, Instant)>);

impl Laps<'_> {
    /// An operation is done, and the next begins.
    pub(super) fn done(&mut self, parts: &'static [Part], arithmetic: Arithmetic) {
        if let Some((watch, start)) = &mut self.0 {
            watch.record(parts, arithmetic, Duration::ZERO, start.elapsed());
            *start = Instant::now();
        }
    }
}
