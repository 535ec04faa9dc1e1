//! The decoder: token ids to hidden states.
//!
//! Shapes in comments use one set of letters: B batch, L tokens, D hidden, H heads, K key and value heads, E head_dim.

mod attention;
pub(crate) mod cuda;
mod decoder;
mod host;
mod linear;
mod mlp;
mod norm;
mod reuse;
mod rope;
#[cfg_attr(not(feature = "bench"), allow(dead_code, unreachable_pub, reason = "only benchmarks watch"))]
mod watch;

use std::rc::Rc;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::kernels::{Digits, Engine};
use crate::mlx::cuda::Tensor;
use crate::mlx::{Array, MlxError, Stream};

pub use cuda::MatmulPolicy;
pub(crate) use decoder::{Decoder, Output, Rows};
pub(crate) use reuse::{KeysValues, Reuse};
#[cfg(feature = "bench")]
pub(crate) use watch::Record;
pub(crate) use watch::Watch;
use watch::Watched;
#[cfg(feature = "bench")]
pub use watch::{Arithmetic, Level, Part};
#[cfg(not(feature = "bench"))]
use watch::{Arithmetic, Part};

/// What the operations of a decoder are made of.
#[derive(Debug)]
pub(crate) enum Kernels {
    /// MLX's own operations, on any device.
    Mlx,
    /// This crate's kernels for the CPU.
    Host(Arc<Engine>, Precision),
    /// This crate's kernels for NVIDIA GPUs.
    Cuda(Rc<cuda::Cuda>),
}

/// One forward pass: what all layers need to know besides the hidden state.
#[derive(Debug)]
struct Pass<'a> {
    texts: Arc<Texts>,
    /// Where the kernels for NVIDIA GPUs run.
    cuda: Option<cuda::Call>,
    rope: &'a rope::Rope,
    stream: &'a Stream,
}

impl Pass<'_> {
    fn cuda(&self) -> Result<&cuda::Call, MlxError> {
        self.cuda.as_ref().ok_or_else(|| MlxError::new("cuda", "the batch was not made for these kernels"))
    }
}

/// Activations.
#[derive(Debug)]
enum State {
    /// On MLX's lazy graph: `[B, L, W]`.
    Array(Array),
    /// In an NVIDIA GPU's memory: `[T, W]`.
    Tensor(Tensor),
}

impl State {
    fn array(&self) -> Result<&Array, MlxError> {
        match self {
            Self::Array(array) => Ok(array),
            Self::Tensor(_) => Err(MlxError::new("forward", "activations are not on MLX's graph")),
        }
    }

    fn tensor(&self) -> Result<&Tensor, MlxError> {
        match self {
            Self::Tensor(tensor) => Ok(tensor),
            Self::Array(_) => Err(MlxError::new("forward", "activations are on MLX's graph")),
        }
    }
}

#[cold]
fn no_norm() -> MlxError {
    MlxError::new("cuda", "the layer before ran on other kernels")
}

/// The residual stream between two operations.
#[derive(Debug)]
struct Hidden {
    x: State,
    /// What the kernels for NVIDIA GPUs have computed ahead.
    ahead: Option<cuda::Ahead>,
}

impl Hidden {
    fn cuda(&self) -> Result<&cuda::Ahead, MlxError> {
        self.ahead.as_ref().ok_or_else(no_norm)
    }
}

impl From<Array> for Hidden {
    fn from(x: Array) -> Self {
        Self { x: State::Array(x), ahead: None }
    }
}

impl From<(Tensor, cuda::Ahead)> for Hidden {
    fn from((x, ahead): (Tensor, cuda::Ahead)) -> Self {
        Self { x: State::Tensor(x), ahead: Some(ahead) }
    }
}

/// How closely this crate's kernels for the CPU follow 4- and 8-bit checkpoints computed in f32.
///
/// Weights are used as the checkpoint has them. What is rounded are the numbers that are multiplied with them, a group
/// of inputs at a time. Everything else is f32 in either case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Precision {
    /// To 16 bits: a product differs from the one in f32 by some 3e-5 of its size.
    #[default]
    Exact,
    /// To 8 bits, and to 16 where a group stands out of its row: nearly twice as fast. Vectors differ from the exact
    /// ones by what `tools/smollm2` measures for a trained model.
    Fast,
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Exact => "exact",
            Self::Fast => "fast",
        })
    }
}

/// Texts of at most so many tokens keep 16 bits throughout: what a token among so few becomes hangs on a hair.
const SHORT_TEXT: usize = 5;

/// Fewer tokens than this are not reused. After so many no text is short, so what they become hangs on nothing behind
/// them.
pub(crate) const LEAST_REUSED: usize = SHORT_TEXT;

/// Which activations of a layer keep 16 bits.
///
/// Measured on a trained decoder by `tools/smollm2/rounding.py`: groups that stand out a lot matter everywhere, and in
/// the first two fifths of the layers, where massive activations (Sun et al., 2024) arise, also those that stand out a
/// little.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Rule {
    All,
    /// Those above 5 times the row's root mean square.
    Early,
    /// Those above 16 times the row's root mean square.
    Late,
}

impl Precision {
    fn rule(self, layer: usize, layers: usize) -> Rule {
        match self {
            Self::Exact => Rule::All,
            Self::Fast if 5 * layer < 2 * layers => Rule::Early,
            Self::Fast => Rule::Late,
        }
    }
}

/// What the rotation of queries and keys is made of.
fn rotation(head_norms: bool) -> &'static [Part] {
    if head_norms { &[Part::HeadNorms, Part::Rope] } else { &[Part::Rope] }
}

impl Kernels {
    /// Waits for what runs beside MLX's graph.
    fn wait(&self) -> Result<(), MlxError> {
        match self {
            Self::Cuda(cuda) => cuda.wait(),
            Self::Mlx | Self::Host(..) => Ok(()),
        }
    }
}

/// A joined batch's texts, as the kernels for the CPU need to know them.
#[derive(Debug)]
struct Texts {
    lengths: Arc<[usize]>,
    /// Tokens that each text continues.
    past: usize,
    /// For each token whether it is one of a short text.
    short: Vec<bool>,
    /// For each text whether it is short.
    short_texts: Vec<bool>,
    /// Who measures this pass.
    watch: Option<Arc<Watch>>,
}

impl Texts {
    fn new(lengths: &Arc<[usize]>, reuse: &Reuse<'_>, watch: Option<&Arc<Watch>>) -> Self {
        let past = reuse.past();
        // What is kept is the start of longer texts.
        let kept = matches!(reuse, Reuse::Keep(_));
        let short = |length: usize| !kept && past + length <= SHORT_TEXT;
        Self {
            lengths: Arc::clone(lengths),
            past,
            short: lengths.iter().flat_map(|&length| std::iter::repeat_n(short(length), length)).collect(),
            short_texts: lengths.iter().map(|&length| short(length)).collect(),
            watch: watch.cloned(),
        }
    }

    /// Where operations begin and end is told to this.
    fn watched(&self) -> Watched<'_> {
        Watched::new(self.watch.as_deref())
    }

    /// The digits that `rule` gives `rows` rows: all tokens, or one of each text.
    fn digits(&self, rule: Rule, rows: usize) -> Digits<'_> {
        let short = if rows == self.short.len() { &self.short } else { &self.short_texts };
        match rule {
            Rule::All => Digits::Two,
            Rule::Early => Digits::TwoAbove { times: 5.0, rows: short },
            Rule::Late => Digits::TwoAbove { times: 16.0, rows: short },
        }
    }
}
