//! What models give beside vectors of texts, as numbers that are compared with the reference's: vectors of tokens, and
//! weights of the vocabulary's tokens.

use std::sync::Arc;

use crate::checkpoint::Purpose;
use crate::error::{Error, GoldenError};
use crate::info::Info;
use crate::multi_vector::{MultiVectorEmbedder, Role, TokenVectors};
use crate::options::{EmbedOptions, Embedding, Lane};
use crate::request::{self, Before, Finish, Plan, Reply, Results, Shared};
use crate::sparse::{SparseEmbedder, SparseVector};

use super::golden::{Golden, GoldenText, Holds};
use super::{SAMPLES, Verification, Verifier};

/// A result as a list of numbers.
pub(super) trait Numbers: Reply {
    fn numbers(self, info: &Info) -> Vec<f32>;
}

impl Numbers for Embedding {
    fn numbers(self, _info: &Info) -> Vec<f32> {
        self.vector
    }
}

impl Numbers for TokenVectors {
    fn numbers(self, _info: &Info) -> Vec<f32> {
        self.vectors
    }
}

impl Numbers for SparseVector {
    fn numbers(self, info: &Info) -> Vec<f32> {
        let mut all = vec![0.0; info.embedding_size];
        self.weights.into_iter().for_each(|(token, weight)| all[token as usize] = weight);
        all
    }
}

/// The results of one call.
pub(super) type Embed = fn(&Arc<Shared>, Vec<Vec<u32>>, Finish) -> Result<Results<Vec<f32>>, Error>;

/// As `R`.
pub(super) fn embed<R: Numbers>(
    shared: &Arc<Shared>,
    texts: Vec<Vec<u32>>,
    finish: Finish,
) -> Result<Results<Vec<f32>>, Error> {
    let plan = Plan::new(Before::Prompt("".into()), finish, texts.len(), Lane::Auto, None, false);
    let results: Results<R> = shared.send_ids(texts, Ok(plan), None, request::each).wait()?;
    Ok(results.into_iter().map(|result| result.map(|result| result.numbers(&shared.info))).collect())
}

/// What a model for this purpose gives, as golden files hold it.
pub(super) fn of_purpose(purpose: Purpose) -> Holds {
    match purpose {
        Purpose::Vectors => Holds::Vectors,
        Purpose::Scores => Holds::Scores,
        Purpose::Sparse => Holds::Sparse,
        Purpose::TokenVectors => Holds::Tokens,
    }
}

/// A vector that was found, and the reference's.
pub(super) type Pair<'a> = (&'a [f32], &'a [f32]);

/// What is found of text `index`, vector by vector beside what the golden file has of it; `None` if it has nothing. A
/// vector of a token that should have none, or that has none, stands beside nothing.
pub(super) fn pairs<'a>(
    golden: &'a Golden,
    shared: &Shared,
    index: usize,
    found: &'a [f32],
) -> Option<Vec<Pair<'a>>> {
    match shared.purpose {
        Purpose::Vectors => Some(vec![(found, golden.embedding(index, shared.info.pooling)?)]),
        Purpose::Scores => None,
        Purpose::Sparse => Some(vec![(found, golden.token_weights(index)?)]),
        Purpose::TokenVectors => {
            let (expected, width) = golden.token_vectors(index)?;
            let (text, sides) = (&golden.texts()[index], shared.sides.as_ref()?);
            let side = if role(text) == Role::Query { &sides.query } else { &sides.document };
            let rows = found.chunks_exact(width).zip(&text.ids).enumerate();
            let rows = rows.filter(|(place, (_, id))| side.left_out.keeps(*place, **id));
            let mut rows: Vec<&[f32]> = rows.map(|(_, (row, _))| row).collect();
            let mut expected: Vec<&[f32]> = expected.chunks_exact(width).collect();
            let most = rows.len().max(expected.len());
            rows.resize(most, &[]);
            expected.resize(most, &[]);
            Some(rows.into_iter().zip(expected).collect())
        }
    }
}

fn role(text: &GoldenText) -> Role {
    if text.side.as_deref() == Some("query") { Role::Query } else { Role::Document }
}

impl MultiVectorEmbedder {
    /// The golden file beside the checkpoint, `golden.safetensors`, if there is one.
    ///
    /// # Errors
    /// When the file is there and can't be used; the message says why.
    pub fn golden(&self) -> Result<Option<Golden>, GoldenError> {
        Golden::beside(&self.shared().place)
    }

    /// As [`Embedder::verify`](crate::Embedder::verify), with a vector for each token instead of one for each text.
    ///
    /// # Errors
    /// When the golden file is of another model, or the model fails.
    pub fn verify(&self, golden: Option<&Golden>) -> Result<Verification, Error> {
        let read = |text: &str, role| self.tokens(text, role, &EmbedOptions::default());
        let tokens = |text: &GoldenText| read(&text.text, role(text));
        let roles = [Role::Query, Role::Document];
        let samples =
            || SAMPLES.iter().zip(roles.iter().cycle()).map(|(text, role)| read(text, *role)).collect();
        Verifier::new(self.shared(), golden, &tokens, samples, embed::<TokenVectors>)?.run(golden)
    }
}

impl SparseEmbedder {
    /// The golden file beside the checkpoint, `golden.safetensors`, if there is one.
    ///
    /// # Errors
    /// When the file is there and can't be used; the message says why.
    pub fn golden(&self) -> Result<Option<Golden>, GoldenError> {
        Golden::beside(&self.shared().place)
    }

    /// As [`Embedder::verify`](crate::Embedder::verify), with a weight for each token of the vocabulary instead of a
    /// vector.
    ///
    /// # Errors
    /// When the golden file is of another model, or the model fails.
    pub fn verify(&self, golden: Option<&Golden>) -> Result<Verification, Error> {
        let read = |text: &str, options: &EmbedOptions| self.token_ids(text, options);
        let tokens = |text: &GoldenText| {
            read(&text.text, &EmbedOptions { prompt: text.prompt(), ..Default::default() })
        };
        let samples = || SAMPLES.iter().map(|text| read(text, &EmbedOptions::default())).collect();
        Verifier::new(self.shared(), golden, &tokens, samples, embed::<SparseVector>)?.run(golden)
    }
}
