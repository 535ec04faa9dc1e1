//! What a verification found.

use std::fmt;
use std::path::PathBuf;

use serde::{Serialize, Serializer};

use crate::mlx::{Backend, Dtype};
use crate::model::Precision;

use super::Tolerance;

/// A place in the decoder whose result is looked at, in the order of the data's way. As JSON a decoder layer is its
/// number, counted from 0 as in the tensors' names; the others are `"embed_tokens"` and `"norm"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layer {
    /// The embedding table.
    EmbedTokens,
    /// The decoder layer of this number: the residual stream behind it.
    Decoder(usize),
    /// The final norm.
    Norm,
}

impl Layer {
    /// The layer behind which hidden state number `state` of `states` lies.
    pub(super) fn of_state(state: usize, states: usize) -> Self {
        match state {
            0 => Self::EmbedTokens,
            _ if state + 1 == states => Self::Norm,
            _ => Self::Decoder(state - 1),
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmbedTokens => f.write_str("embed_tokens"),
            Self::Decoder(number) => write!(f, "layers.{number}"),
            Self::Norm => f.write_str("norm"),
        }
    }
}

impl Serialize for Layer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Decoder(number) => serializer.serialize_u64(*number as u64),
            _ => serializer.collect_str(self),
        }
    }
}

/// What [`Embedder::verify`](crate::Embedder::verify) or [`Reranker::verify`](crate::Reranker::verify) found. Numbers that are not finite are `null` in JSON.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Verification {
    /// Whether nothing is off.
    pub passed: bool,
    /// The first layer whose results are off: beyond their tolerance, not finite, not the same twice or not the same in
    /// company. `None` also where only vectors or token ids are off.
    pub first_divergent_layer: Option<Layer>,
    /// What is off, in words.
    pub failures: Vec<String>,
    /// The checkpoint directory.
    pub model: PathBuf,
    /// What ran it.
    pub backend: Backend,
    /// The family of kernels, or `mlx` for MLX's own operations.
    pub kernels: &'static str,
    /// How closely this crate's kernels follow the checkpoint; `None` where they don't run.
    pub precision: Option<Precision>,
    /// Type of the hidden states.
    pub activation: Dtype,
    /// Texts that were run.
    pub texts: usize,
    /// Their tokens.
    pub tokens: usize,
    /// What is allowed.
    pub tolerance: Tolerance,
    /// The comparison with a golden file; `None` if there was none.
    pub against: Option<Against>,
    /// What needs no golden file.
    pub checks: Vec<Check>,
}

/// A comparison with a golden file.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Against {
    /// The golden file.
    pub file: PathBuf,
    /// What computed it.
    pub reference: String,
    /// Whether the weights files are those that it was made with.
    pub same_weights: bool,
    /// Texts whose token ids differ from the reference's.
    pub other_tokens: Vec<OtherTokens>,
    /// One for each hidden state, in order.
    pub layers: Vec<LayerComparison>,
    /// The vectors; `None` if the file has none for this pooling.
    pub vectors: Option<VectorComparison>,
    /// Of a reranker, the pairs' scores; `None` for an embedder.
    pub scores: Option<ScoreComparison>,
}

/// Hidden states after one layer beside the reference's, over all tokens of all texts.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LayerComparison {
    /// The layer.
    pub layer: Layer,
    /// Lowest cosine of a token's state to the reference's, over tokens whose states the file holds whole.
    pub cosine: f64,
    /// Largest difference of a component, over the same tokens.
    pub max_abs: f64,
    /// Largest error of a token: length of the difference over length of the reference's state. Exact where the file
    /// holds the state whole, else estimated from its projections.
    pub error: f64,
    /// The median of the tokens' errors.
    pub median_error: f64,
    /// What is allowed of the largest error, but for some tokens; see [`Tolerance::strays`].
    pub allowed_error: f64,
    /// What is allowed of the median.
    pub allowed_median_error: f64,
    /// Tokens whose error is beyond what is allowed.
    pub beyond: usize,
    /// The text with the largest error.
    pub text: usize,
    /// The token of it.
    pub token: usize,
    /// Whether the median is allowed and no more tokens are beyond than may be.
    pub passed: bool,
}

/// Vectors beside the reference's.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct VectorComparison {
    /// Lowest cosine.
    pub cosine: f64,
    /// The mean of the cosines.
    pub mean_cosine: f64,
    /// Largest difference of a component, over the length of the reference's vector; where vectors are rounded to whole
    /// numbers, beyond one.
    pub max_abs: f64,
    /// The text with the lowest cosine.
    pub text: usize,
    /// Whether cosine and largest difference are within their tolerance.
    pub passed: bool,
}

/// Scores beside the reference's.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ScoreComparison {
    /// Largest difference.
    pub max_abs: f64,
    /// The pair that has it.
    pub pair: usize,
    /// Whether it is within [`Tolerance::max_abs`].
    pub passed: bool,
}

/// A text that the reference's tokenizer reads otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OtherTokens {
    /// Which text.
    pub text: usize,
    /// The reference's ids.
    pub expected: Vec<u32>,
    /// This embedder's; none where it can't read the text or has no such prompt.
    pub found: Vec<u32>,
}

/// What a [`Check`] asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Question {
    /// Is every hidden state finite?
    Finite,
    /// Does the same text give the same bits twice?
    Determinism,
    /// Is a text among longer and shorter ones what it is alone?
    Padded,
    /// Is a text among others of its length what it is alone?
    EqualLengths,
    /// Does each text of a shuffled call get the vector that it gets alone?
    Shuffled,
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Finite => "every hidden state is finite",
            Self::Determinism => "the same text gives the same bits twice",
            Self::Padded => "a text among longer and shorter ones is what it is alone",
            Self::EqualLengths => "a text among others of its length is what it is alone",
            Self::Shuffled => "each text of a shuffled call gets the vector that it gets alone",
        })
    }
}

/// An answer to a [`Question`] that needs no golden file.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Check {
    /// What was asked.
    pub question: Question,
    /// Largest error of a token or vector, as in [`LayerComparison::error`]; 0 for the same bits.
    pub error: f64,
    /// What is allowed; 0 asks for the same bits.
    pub tolerance: f64,
    /// The first layer beyond the tolerance.
    pub first_divergent_layer: Option<Layer>,
    /// The text with the largest error.
    pub text: Option<usize>,
    /// The answer.
    pub passed: bool,
}

/// What is off, in words.
pub(super) fn failures(first: Option<Layer>, against: Option<&Against>, checks: &[Check]) -> Vec<String> {
    let mut failures = Vec::new();
    if let Some(layer) = first {
        failures.push(format!("{layer} is the first layer that is off"));
    }
    if let Some(against) = against {
        let beyond: Vec<&LayerComparison> = against.layers.iter().filter(|layer| !layer.passed).collect();
        if let Some(layer) = beyond.first() {
            failures.push(format!(
                "{} of {} layers differ from the reference by more than their tolerance, {} first: error {:.1e} in \
                 token {} of text {}, median {:.1e}",
                beyond.len(),
                against.layers.len(),
                layer.layer,
                layer.error,
                layer.token,
                layer.text,
                layer.median_error
            ));
        }
        if let Some(vectors) = against.vectors.as_ref().filter(|vectors| !vectors.passed) {
            failures.push(format!(
                "vectors differ from the reference: cosine {:.7}, largest difference {:.1e}, text {}",
                vectors.cosine, vectors.max_abs, vectors.text
            ));
        }
        if let Some(scores) = against.scores.as_ref().filter(|scores| !scores.passed) {
            let ScoreComparison { max_abs, pair, .. } = scores;
            failures.push(format!("scores differ from the reference by up to {max_abs:.1e}, pair {pair}"));
        }
        if let Some(other) = against.other_tokens.first() {
            failures.push(format!(
                "{} texts have other token ids than the reference, text {} first",
                against.other_tokens.len(),
                other.text
            ));
        }
    }
    for check in checks.iter().filter(|check| !check.passed) {
        let from = check.first_divergent_layer.map_or(String::new(), |layer| format!(" from {layer} on"));
        failures.push(format!("it is not so that {}: error {:.1e}{from}", check.question, check.error));
    }
    failures
}
