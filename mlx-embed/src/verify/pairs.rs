//! Pairs of a reranker, and their scores beside the reference's.

use crate::error::{Error, GoldenError};
use crate::info::Info;
use crate::options::{Embedding, RerankOptions};
use crate::reranker::{Reranker, logit};

use super::golden::{Golden, GoldenText};
use super::measure::larger;
use super::outputs::embed;
use super::{SAMPLES, ScoreComparison, Tolerance, Vectors, Verification, Verifier};

impl Reranker {
    /// The golden file beside the checkpoint, `golden.safetensors`, if there is one.
    ///
    /// # Errors
    /// When the file is there and can't be used; the message says why.
    pub fn golden(&self) -> Result<Option<Golden>, GoldenError> {
        Golden::beside(&self.shared().place)
    }

    /// As [`Embedder::verify`](crate::Embedder::verify), with pairs instead of texts and scores instead of vectors.
    ///
    /// # Errors
    /// When the golden file is of another model, or the model fails.
    pub fn verify(&self, golden: Option<&Golden>) -> Result<Verification, Error> {
        let options = RerankOptions::default();
        let marked =
            |query: &str, document: &str| self.tokens(query, document, &options)?.marked(self.shared());
        let tokens = |text: &GoldenText| marked(text.query.as_deref().unwrap_or_default(), &text.text);
        // The first is short, so that it leaves room.
        let samples = || SAMPLES.iter().map(|document| marked(SAMPLES[0], document)).collect();
        Verifier::new(self.shared(), golden, &tokens, samples, embed::<Embedding>)?.run(golden)
    }
}

/// Scores by the pairs' logits beside the golden file's, where that has some.
pub(super) fn compare(
    golden: &Golden,
    logits: &Vectors,
    info: &Info,
    tolerance: &Tolerance,
) -> Option<ScoreComparison> {
    let activation = info.reranker.as_ref()?.activation.function();
    let (mut largest, mut worst) = (0.0, 0);
    for (index, logits) in logits.iter().enumerate() {
        let logit = logits.as_ref().map_or(f32::NAN, |logits| logit(logits));
        let score = activation.map_or(logit, |activation| activation(logit));
        let off = (f64::from(score) - f64::from(golden.score(index)?)).abs();
        if larger(largest, off).to_bits() != f64::to_bits(largest) {
            (largest, worst) = (larger(largest, off), index);
        }
    }
    Some(ScoreComparison { max_abs: largest, pair: worst, passed: largest <= tolerance.max_abs })
}
