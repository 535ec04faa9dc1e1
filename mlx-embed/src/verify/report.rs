//! What a verification found.

use std::fmt;
use std::path::PathBuf;

use serde::{Serialize, Serializer};

use crate::mlx::{Backend, Dtype};
use crate::model::Precision;

use super::Tolerance;

/// A place in the decoder whose result is checked, in the order in which data passes them. In JSON a decoder layer is
/// its number, counted from 0 as in the tensors' names; the others are `"embed_tokens"` and `"norm"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layer {
    /// After the embedding table.
    EmbedTokens,
    /// After the decoder layer of this number: the residual stream.
    Decoder(usize),
    /// After the final norm.
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

/// What [`Embedder::verify`](crate::Embedder::verify) found, or its like of another handle. In JSON, numbers that are
/// not finite are `null`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Verification {
    /// Whether everything is within its tolerance.
    pub passed: bool,
    /// The first layer whose results are beyond their tolerance, not finite, not the same twice, or not the same in a
    /// batch. `None` if there is none, also where only vectors or token ids differ.
    pub first_divergent_layer: Option<Layer>,
    /// What failed, a sentence each.
    pub failures: Vec<String>,
    /// The checkpoint directory.
    pub model: PathBuf,
    /// The device's kind.
    pub backend: Backend,
    /// The family of kernels that ran, or `mlx` for MLX's own operations.
    pub kernels: &'static str,
    /// How closely this crate's kernels follow the checkpoint; `None` if MLX's operations ran.
    pub precision: Option<Precision>,
    /// Element type of the hidden states.
    pub activation: Dtype,
    /// How many texts were run.
    pub texts: usize,
    /// How many tokens they have together.
    pub tokens: usize,
    /// The tolerance that was applied.
    pub tolerance: Tolerance,
    /// The comparison with the golden file; `None` without one.
    pub against: Option<Against>,
    /// The checks that need no golden file.
    pub checks: Vec<Check>,
}

/// A comparison with a golden file.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Against {
    /// Path of the golden file.
    pub file: PathBuf,
    /// Which implementation computed it.
    pub reference: String,
    /// Whether the golden file was made with these weights files, by their hashes.
    pub same_weights: bool,
    /// Texts whose token ids differ from the reference's.
    pub other_tokens: Vec<OtherTokens>,
    /// One comparison for each hidden state, in order.
    pub layers: Vec<LayerComparison>,
    /// The comparison of vectors; `None` if the file has none for this pooling.
    pub vectors: Option<VectorComparison>,
    /// Of a reranker, the comparison of scores; `None` for other handles.
    pub scores: Option<ScoreComparison>,
}

/// Hidden states after one layer beside the reference's, over all tokens of all texts.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LayerComparison {
    /// The layer.
    pub layer: Layer,
    /// Lowest cosine between a token's state and the reference's, over the tokens whose whole states the file has.
    pub cosine: f64,
    /// Largest absolute difference of a component, over the same tokens.
    pub max_abs: f64,
    /// Largest error of a token: `|found - reference| / |reference|`, in Euclidean norms. It is exact for tokens whose
    /// whole states the file has, and else estimated from projections.
    pub error: f64,
    /// The median of the tokens' errors.
    pub median_error: f64,
    /// The largest error that is allowed. A few tokens may exceed it; see [`Tolerance::strays`].
    pub allowed_error: f64,
    /// The largest median that is allowed.
    pub allowed_median_error: f64,
    /// How many tokens have an error above the allowed one.
    pub beyond: usize,
    /// The text with the largest error, counted from 0.
    pub text: usize,
    /// The token with the largest error, counted from 0 in its text.
    pub token: usize,
    /// Whether the median is within its tolerance, and no more tokens exceed theirs than may.
    pub passed: bool,
}

/// Vectors beside the reference's.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct VectorComparison {
    /// Lowest cosine of a vector and the reference's.
    pub cosine: f64,
    /// The mean of the cosines.
    pub mean_cosine: f64,
    /// Largest absolute difference of a component, divided by the length of the reference's vector. Where vectors are
    /// rounded to whole numbers, 1 is taken off the difference first.
    pub max_abs: f64,
    /// The text with the lowest cosine, counted from 0.
    pub text: usize,
    /// Whether cosine and largest difference are within their tolerances.
    pub passed: bool,
}

/// Scores beside the reference's.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ScoreComparison {
    /// Largest absolute difference of a score.
    pub max_abs: f64,
    /// The pair with the largest difference, counted from 0.
    pub pair: usize,
    /// Whether it is within [`Tolerance::max_abs`].
    pub passed: bool,
}

/// A text for which this tokenizer gives other token ids than the reference's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OtherTokens {
    /// The text, counted from 0.
    pub text: usize,
    /// The reference's ids.
    pub expected: Vec<u32>,
    /// The ids found here. Empty if the text can't be tokenised or its prompt is unknown.
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
    /// Does a text have the same result alone and padded, in a batch with longer and shorter texts?
    Padded,
    /// Does a text have the same result alone and in a batch of texts of its length?
    EqualLengths,
    /// Do texts that are sent in another order get the vectors that they get alone?
    Shuffled,
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Finite => "every hidden state is finite",
            Self::Determinism => "the same text gives the same bits twice",
            Self::Padded => "a text has the same result alone and padded in a batch",
            Self::EqualLengths => "a text has the same result alone and among others of its length",
            Self::Shuffled => "texts in another order have the same vectors as alone",
        })
    }
}

/// An answer to a [`Question`] that needs no golden file.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Check {
    /// The question.
    pub question: Question,
    /// Largest error of a token or a vector, as in [`LayerComparison::error`]; 0 if all bits are the same.
    pub error: f64,
    /// The error that is allowed; 0 means that all bits have to be the same.
    pub tolerance: f64,
    /// The first layer whose error is above the tolerance.
    pub first_divergent_layer: Option<Layer>,
    /// The text with the largest error, counted from 0; `None` if there is no error.
    pub text: Option<usize>,
    /// Whether the error is within the tolerance.
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
