//! Does a checkpoint give here what a reference implementation computes with it? Layer by layer.
//!
//! [`Embedder::verify`](crate::Embedder::verify) runs texts through a model and looks at every hidden state on the way.
//! So do [`MultiVectorEmbedder::verify`](crate::MultiVectorEmbedder::verify),
//! [`SparseEmbedder::verify`](crate::SparseEmbedder::verify) and, with pairs,
//! [`Reranker::verify`](crate::Reranker::verify).
//!
//! - With a [`Golden`] file each hidden state is compared with the reference's. The report names the first layer that is
//!   beyond its [`Tolerance`]. `tools/golden/make.py` makes such a file for any checkpoint, with mlx-lm or transformers
//!   in f64.
//! - With or without one, three things are checked that need no reference. Hidden states are finite. The same text gives
//!   the same bits twice. A text's result does not depend on the texts beside it.
//!
//! ```no_run
//! use mlx_embed::Embedder;
//! use mlx_embed::verify::Golden;
//!
//! let embedder = Embedder::load("path/to/Qwen3-Embedding-0.6B-4bit-DWQ")?;
//! let verification = embedder.verify(Some(&Golden::open("qwen3.golden.safetensors")?))?;
//! if let Some(layer) = verification.first_divergent_layer {
//!     println!("it is {layer} where results begin to be off");
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod company;
mod compare;
mod golden;
mod measure;
mod outputs;
mod pairs;
mod report;
mod samples;
#[cfg(test)]
mod tests;
mod tolerance;

use std::sync::Arc;

use crate::checkpoint::{ModuleSpec, Purpose};
use crate::embedder::Embedder;
use crate::error::{Error, InputError};
use crate::info::Info;
use crate::mlx::Dtype;
use crate::options::{EmbedOptions, Embedding};
use crate::request::{Finish, Shared};
use crate::runner::HiddenStates;
use crate::text::TextError;
use crate::vectors::cosine;

use company::{SHUFFLES, batches, equals_of, shuffle};
use compare::{Differences, Worst, compare_states};
use golden::{Geometry, Holds};
use measure::{larger, length, max_abs, relative_error, smaller};
use outputs::{Embed, embed};
use report::failures;

pub use crate::error::GoldenError;
pub use golden::{Golden, GoldenText};
pub use report::{
    Against, Check, Layer, LayerComparison, OtherTokens, Question, ScoreComparison, VectorComparison,
    Verification,
};
pub use samples::SAMPLES;
pub use tolerance::Tolerance;

impl Embedder {
    /// The golden file beside the checkpoint, `golden.safetensors`, if there is one. The built-in model has one.
    ///
    /// # Errors
    /// When the file is there and can't be used; the message says why.
    pub fn golden(&self) -> Result<Option<Golden>, GoldenError> {
        Golden::beside(&self.shared().place)
    }

    /// Runs texts through the model and checks every hidden state: by itself, and against the reference's if there is a
    /// golden file. The texts are the golden file's, or else a dozen that this crate brings. See
    /// [`verify`](crate::verify).
    ///
    /// Each text runs about eight times. A difference that is found is no error: it is in the result.
    ///
    /// # Errors
    /// When the golden file is of another model, or the model fails.
    pub fn verify(&self, golden: Option<&Golden>) -> Result<Verification, Error> {
        let tokens = |text: &GoldenText| {
            let options = EmbedOptions { prompt: text.prompt(), ..Default::default() };
            self.token_ids(&text.text, &options)
        };
        let samples = || {
            let ids = SAMPLES.iter().map(|text| self.token_ids(text, &EmbedOptions::default()));
            ids.collect()
        };
        Verifier::new(self.shared(), golden, &tokens, samples, embed::<Embedding>)?.run(golden)
    }
}

/// Fails where a golden file can't be this model's.
fn check_model(golden: &Golden, shared: &Shared) -> Result<(), GoldenError> {
    let info = &shared.info;
    let other = |reason: String| Err(GoldenError::OtherModel { path: golden.path().to_owned(), reason });
    let wanted = outputs::of_purpose(shared.purpose);
    if golden.holds().all(|found| found != wanted) {
        let found: Vec<&str> = golden.holds().map(Holds::words).collect();
        return other(format!("it holds {}, and no {}", found.join(" and "), wanted.words()));
    }
    let ours = Geometry {
        layers: info.config.layers,
        hidden_size: info.config.hidden_size.unsigned_abs() as usize,
        vocab_size: info.config.vocab_size.unsigned_abs() as usize,
        // Of other results than vectors of texts the file says nothing of that.
        embedding_size: Some(if wanted == Holds::Vectors {
            info.embedding_size
        } else {
            golden.facts.model.width()
        }),
    };
    let theirs = Geometry { embedding_size: Some(golden.facts.model.width()), ..golden.facts.model };
    if theirs != ours {
        return other(format!("that has {}, this one {ours}", golden.facts.model));
    }
    for (index, text) in golden.texts().iter().enumerate() {
        if let Err(reason) = text.check_model(shared) {
            return other(format!("text {index}: {reason}"));
        }
        let width = golden.token_vectors(index).map_or(info.embedding_size, |(_, width)| width);
        if wanted == Holds::Tokens && width != info.embedding_size {
            return other(format!(
                "tokens.{index} has vectors of {width}, this one's have {}",
                info.embedding_size
            ));
        }
    }
    Ok(())
}

impl std::fmt::Display for Geometry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { layers, hidden_size, vocab_size, .. } = self;
        write!(
            f,
            "{layers} layers of width {hidden_size}, {vocab_size} tokens and vectors of {}",
            self.width()
        )
    }
}

/// A run of texts through a model.
struct Verifier<'a> {
    shared: &'a Arc<Shared>,
    /// What this model's tokenizer makes of a golden file's text.
    tokens: &'a Tokens<'a>,
    texts: Vec<Vec<u32>>,
    /// Whether texts of other lengths stay out of each other's batches, as they do where frequencies depend on length.
    apart: bool,
    /// Whether the golden file's vectors have length 1. Logits and weights never do, vectors of tokens always.
    normalized: bool,
    embed: Embed,
}

type Tokens<'a> = dyn Fn(&GoldenText) -> Result<Vec<u32>, Error> + 'a;

/// The vectors of texts; `None` for one that is not finite.
type Vectors = Vec<Option<Vec<f32>>>;

impl<'a> Verifier<'a> {
    /// For a golden file's texts, or for `samples`.
    fn new(
        shared: &'a Arc<Shared>,
        golden: Option<&Golden>,
        tokens: &'a Tokens<'a>,
        samples: impl FnOnce() -> Result<Vec<Vec<u32>>, Error>,
        embed: Embed,
    ) -> Result<Self, Error> {
        let info = &shared.info;
        let texts = match golden {
            Some(golden) => {
                check_model(golden, shared)?;
                golden.texts().iter().map(GoldenText::tokens).collect()
            }
            None => samples()?,
        };
        let apart = info.config.frequencies_depend_on_length(info.max_tokens);
        let normalized = match shared.purpose {
            Purpose::Vectors => golden.is_none_or(|golden| golden.facts.normalized),
            Purpose::TokenVectors => info.normalize,
            Purpose::Scores | Purpose::Sparse => false,
        };
        Ok(Self { shared, tokens, texts, apart, normalized, embed })
    }

    fn run(&self, golden: Option<&Golden>) -> Result<Verification, Error> {
        let info = &self.shared.info;
        let states = info.config.layers + 2;
        let mut layers = vec![Differences::default(); states];
        let [mut finite, mut twice, mut equals, mut padded] =
            [(); 4].map(|()| vec![Worst::default(); states]);
        let mut activation = Dtype::F32;
        for (index, ids) in self.texts.iter().enumerate() {
            let alone = self.hidden_states(&[ids])?;
            activation = alone.dtype;
            let alone = &alone.texts[0];
            for (state, finite) in alone.iter().zip(&mut finite) {
                let is_finite = state.iter().all(|number| number.is_finite());
                finite.add(if is_finite { 0.0 } else { f64::INFINITY }, index);
            }
            if let Some(golden) = golden {
                compare_states(golden, index, alone, &mut layers);
            }
            self.compare_tokens(alone, &self.hidden_states(&[ids])?.texts[0], index, &mut twice);
            let among_equals = self.hidden_states(&refs(&equals_of(ids)))?;
            self.compare_tokens(&among_equals.texts[0], alone, index, &mut equals);
        }
        let lengths: Vec<usize> = self.texts.iter().map(Vec::len).collect();
        for batch in batches(&lengths, self.apart) {
            let texts: Vec<&[u32]> = batch.iter().map(|&index| &self.texts[index][..]).collect();
            let together = self.hidden_states(&texts)?;
            for (&index, together) in batch.iter().zip(&together.texts) {
                let alone = self.hidden_states(&[&self.texts[index]])?;
                self.compare_tokens(together, &alone.texts[0], index, &mut padded);
            }
        }

        let alone = self.vectors_alone()?;
        let tolerance = Tolerance::of(info, activation);
        let checks = vec![
            Check::of(Question::Finite, &finite, 0.0),
            Check::of(Question::Determinism, &twice, 0.0),
            Check::of(Question::Padded, &padded, tolerance.company),
            Check::of(Question::EqualLengths, &equals, tolerance.company),
            self.shuffled(&alone, tolerance.company)?,
        ];
        let against = match golden {
            Some(golden) => Some(self.against(golden, layers, &alone, &tolerance)?),
            None => None,
        };
        let of_layers = against.iter().flat_map(|against| &against.layers);
        let diverges = of_layers.filter(|layer| !layer.passed).map(|layer| layer.layer);
        let first = diverges.chain(checks.iter().filter_map(|check| check.first_divergent_layer)).min();
        let failures = failures(first, against.as_ref(), &checks);
        Ok(Verification {
            passed: failures.is_empty(),
            first_divergent_layer: first,
            failures,
            model: info.model.clone(),
            backend: info.backend,
            kernels: info.kernels,
            precision: info.precision,
            activation,
            texts: self.texts.len(),
            tokens: self.texts.iter().map(Vec::len).sum(),
            tolerance,
            against,
            checks,
        })
    }

    fn hidden_states<T: AsRef<[u32]>>(&self, texts: &[T]) -> Result<HiddenStates, Error> {
        let texts: Vec<Vec<u32>> = texts.iter().map(|ids| ids.as_ref().to_vec()).collect();
        self.shared.engine.ask(move |model| model.hidden_states(&refs(&texts)))
    }

    /// Adds each token's error of `found` to its state's worst.
    fn compare_tokens(&self, found: &[Vec<f32>], expected: &[Vec<f32>], text: usize, worst: &mut [Worst]) {
        let width = self.shared.info.config.hidden_size.unsigned_abs() as usize;
        for ((found, expected), worst) in found.iter().zip(expected).zip(worst) {
            for (found, expected) in found.chunks_exact(width).zip(expected.chunks_exact(width)) {
                worst.add(relative_error(found, expected), text);
            }
        }
    }

    /// Vectors of one call, scaled as the reference's are.
    fn vectors(&self, texts: Vec<Vec<u32>>) -> Result<Option<Vec<Vec<f32>>>, Error> {
        let left_out = self.shared.left_out.clone();
        let finish = Finish { normalize: self.normalized, left_out, ..Finish::default() };
        let vectors: Result<Vec<_>, _> = (self.embed)(self.shared, texts, finish)?.into_iter().collect();
        match vectors {
            Ok(vectors) => Ok(Some(vectors)),
            Err(InputError::NotFinite) => Ok(None),
            Err(source) => Err(Error::Input { index: 0, source }),
        }
    }

    /// What components of vectors may differ by where numbers that hardly differ are rounded to whole ones.
    fn rounding(&self) -> f64 {
        let mut behind = self.shared.info.sentence_transformers.behind.iter().rev();
        // Cutting changes no number.
        match behind.find(|module| !matches!(module, ModuleSpec::Truncate { .. })) {
            Some(ModuleSpec::TanhInt8) => 1.0,
            _ => 0.0,
        }
    }

    fn vectors_alone(&self) -> Result<Vectors, Error> {
        let one = |ids: &Vec<u32>| Ok(self.vectors(vec![ids.clone()])?.and_then(|mut vectors| vectors.pop()));
        self.texts.iter().map(one).collect()
    }

    fn shuffled(&self, alone: &Vectors, tolerance: f64) -> Result<Check, Error> {
        let finite: Vec<usize> = (0..alone.len()).filter(|&index| alone[index].is_some()).collect();
        let mut worst = Worst::default();
        if finite.len() < alone.len() {
            worst.add(f64::NAN, alone.iter().position(Option::is_none).unwrap_or_default());
        }
        for round in 0..SHUFFLES {
            let mut order = finite.clone();
            shuffle(&mut order, round);
            let texts = order.iter().map(|&index| self.texts[index].clone()).collect();
            match self.vectors(texts)? {
                Some(vectors) => {
                    for (&index, vector) in order.iter().zip(&vectors) {
                        let alone = alone[index].as_deref().unwrap_or_default();
                        let same = tolerance > 0.0 && max_abs(vector, alone) <= self.rounding();
                        worst.add(if same { 0.0 } else { relative_error(vector, alone) }, index);
                    }
                }
                None => {
                    worst.add(f64::NAN, 0);
                }
            }
        }
        let check = Check::of(Question::Shuffled, &[worst], tolerance);
        // A vector's error belongs to no layer.
        Ok(Check { first_divergent_layer: None, ..check })
    }

    fn against(
        &self,
        golden: &Golden,
        layers: Vec<Differences>,
        vectors: &Vectors,
        tolerance: &Tolerance,
    ) -> Result<Against, Error> {
        let (info, states) = (&self.shared.info, layers.len());
        let layers = layers.into_iter().enumerate();
        let here: Vec<(String, String)> = self.shared.weights_sha256()?;
        let of_golden = &golden.facts.weights_sha256;
        Ok(Against {
            file: golden.path().to_owned(),
            reference: golden.reference().to_owned(),
            same_weights: here.len() == of_golden.len()
                && here.iter().all(|(name, hash)| of_golden.get(name) == Some(hash)),
            other_tokens: self.other_tokens(golden)?,
            layers: layers
                .map(|(state, all)| all.report(Layer::of_state(state, states), states - 2, tolerance))
                .collect(),
            vectors: self.compare_vectors(golden, vectors, tolerance),
            scores: pairs::compare(golden, vectors, info, tolerance),
        })
    }

    fn other_tokens(&self, golden: &Golden) -> Result<Vec<OtherTokens>, Error> {
        let mut others = Vec::new();
        for (index, text) in golden.texts().iter().enumerate() {
            let found = match (self.tokens)(text) {
                Ok(tokens) => tokens,
                // The reference has ids for this text, and here it is empty or its prompt is missing.
                Err(
                    Error::Input { .. } | Error::Query { .. } | Error::Text(TextError::UnknownPrompt { .. }),
                ) => Vec::new(),
                Err(error) => return Err(error),
            };
            if found != text.tokens() {
                others.push(OtherTokens { text: index, expected: text.ids.clone(), found });
            }
        }
        Ok(others)
    }

    fn compare_vectors(
        &self,
        golden: &Golden,
        vectors: &Vectors,
        tolerance: &Tolerance,
    ) -> Option<VectorComparison> {
        let Info { pooling, sentence_transformers, .. } = &self.shared.info;
        let leaves_prompts_out = !sentence_transformers.include_prompt && pooling.can_leave_out();
        let (mut lowest, mut sum, mut largest, mut worst) = (f64::INFINITY, 0.0, 0.0, 0);
        let mut compared = 0;
        for (index, found) in vectors.iter().enumerate() {
            // Ids don't tell where a prompt ends, so it can't be left out of what is pooled.
            if golden.texts()[index].prompt_name.is_some() && leaves_prompts_out {
                continue;
            }
            for (found, expected) in
                outputs::pairs(golden, self.shared, index, found.as_deref().unwrap_or_default())?
            {
                compared += 1;
                let (cosine, beyond) = self.compare_vector(found, expected);
                if smaller(lowest, cosine).to_bits() != lowest.to_bits() {
                    worst = index;
                }
                (lowest, sum, largest) = (smaller(lowest, cosine), sum + cosine, larger(largest, beyond));
            }
        }
        Some(VectorComparison {
            cosine: lowest,
            mean_cosine: sum / f64::from(compared.max(1)),
            max_abs: largest,
            text: worst,
            passed: lowest >= tolerance.cosine && largest <= tolerance.max_abs,
        })
    }
}

impl Verifier<'_> {
    /// The cosine, and the largest difference as a share of the reference's length.
    fn compare_vector(&self, found: &[f32], expected: &[f32]) -> (f64, f64) {
        // A sparse vector may have no weight at all.
        if !expected.is_empty() && found == expected {
            return (1.0, 0.0);
        }
        let beyond = larger(max_abs(found, expected) - self.rounding(), 0.0);
        // Nothing where there should be a vector has no cosine.
        let cosine = if found.len() == expected.len() { cosine(found, expected) } else { f64::NAN };
        (cosine, beyond / length(expected))
    }
}

fn refs(texts: &[Vec<u32>]) -> Vec<&[u32]> {
    texts.iter().map(Vec::as_slice).collect()
}
