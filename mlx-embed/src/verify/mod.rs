//! Does a checkpoint compute here what a reference implementation computes with it? Layer by layer.
//!
//! [`Embedder::verify`](crate::Embedder::verify) runs texts through a model and looks at every hidden state on the way.
//! With a [`Golden`] file, which `tools/golden/make.py` makes of any checkpoint with mlx-lm or transformers in f32, it
//! compares each of them with the reference's and names the first layer that leaves its [`Tolerance`]. With or without
//! one it asks what needs no reference: are hidden states finite, the same bits twice, and the same in any company.
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

mod golden;
mod measure;
mod report;
mod samples;
mod tolerance;

use std::collections::VecDeque;

use crate::embedder::Embedder;
use crate::error::{Error, InputError};
use crate::info::Info;
use crate::mlx::Dtype;
use crate::options::EmbedOptions;
use crate::runner::{HiddenStates, Runner};

use golden::Geometry;
use measure::{cosine, larger, max_abs, median, project, relative_error, smaller};

pub use golden::{Golden, GoldenError, GoldenText};
pub use report::{
    Against, Check, Layer, LayerComparison, OtherTokens, Question, VectorComparison, Verification,
};
pub use samples::SAMPLES;
pub use tolerance::Tolerance;

/// Tokens, padding included, from which on a batch gets no more texts: every hidden state of theirs is held at once.
const BATCH_TOKENS: usize = 512;

/// Others of a text's length that it runs among.
const EQUALS: usize = 3;

/// Orders in which a call's texts are shuffled.
const SHUFFLES: usize = 3;

/// The golden file beside the embedder's checkpoint, if there is one.
pub(crate) fn golden_beside(embedder: &Embedder) -> Result<Option<Golden>, GoldenError> {
    Golden::beside(&embedder.shared().place)
}

/// See [`Embedder::verify`].
pub(crate) fn run(embedder: &Embedder, golden: Option<&Golden>) -> Result<Verification, Error> {
    let texts = match golden {
        Some(golden) => {
            check_model(golden, embedder.info())?;
            golden.texts().iter().map(|text| text.ids.clone()).collect()
        }
        None => {
            let ids = SAMPLES.iter().map(|text| embedder.token_ids(text, &EmbedOptions::default()));
            ids.collect::<Result<Vec<_>, _>>()?
        }
    };
    Verifier { embedder, texts }.run(golden)
}

/// Fails where a golden file can't be this model's.
fn check_model(golden: &Golden, info: &Info) -> Result<(), GoldenError> {
    let other = |reason: String| Err(GoldenError::OtherModel { path: golden.path().to_owned(), reason });
    let ours = Geometry {
        layers: info.config.layers,
        hidden_size: info.config.hidden_size.unsigned_abs() as usize,
        vocab_size: info.config.vocab_size.unsigned_abs() as usize,
    };
    if golden.facts.model != ours {
        return other(format!("that has {}, this one {ours}", golden.facts.model));
    }
    match golden.texts().iter().map(|text| text.ids.len()).max() {
        Some(longest) if longest > info.max_tokens => {
            other(format!("a text has {longest} tokens, and this one takes {}", info.max_tokens))
        }
        _ => Ok(()),
    }
}

impl std::fmt::Display for Geometry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { layers, hidden_size, vocab_size } = self;
        write!(f, "{layers} layers of width {hidden_size} and {vocab_size} tokens")
    }
}

/// A run of texts through a model.
struct Verifier<'a> {
    embedder: &'a Embedder,
    texts: Vec<Vec<u32>>,
}

/// The vectors of texts; `None` for one that is not finite.
type Vectors = Vec<Option<Vec<f32>>>;

impl Verifier<'_> {
    fn run(&self, golden: Option<&Golden>) -> Result<Verification, Error> {
        let info = self.embedder.info();
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
        for batch in self.batches() {
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
        self.embedder.shared().engine.ask(move |runner: &Runner| runner.hidden_states(&refs(&texts)))
    }

    /// Adds each token's error of `found` to its state's worst.
    fn compare_tokens(&self, found: &[Vec<f32>], expected: &[Vec<f32>], text: usize, worst: &mut [Worst]) {
        let width = self.embedder.info().config.hidden_size.unsigned_abs() as usize;
        for ((found, expected), worst) in found.iter().zip(expected).zip(worst) {
            for (found, expected) in found.chunks_exact(width).zip(expected.chunks_exact(width)) {
                worst.add(relative_error(found, expected), text);
            }
        }
    }

    /// All texts: the longest one with the shortest ones beside it, and so on with what is left. Texts of other lengths
    /// stay apart where the embedder keeps them so.
    fn batches(&self) -> Vec<Vec<usize>> {
        let Info { config, max_tokens, .. } = self.embedder.info();
        let apart = config.frequencies_depend_on_length(*max_tokens);
        let length = |index: usize| self.texts[index].len();
        let mut left: VecDeque<usize> = (0..self.texts.len()).collect();
        left.make_contiguous().sort_by_key(|&index| length(index));
        let mut batches = Vec::new();
        while let Some(longest) = left.pop_back() {
            let mut batch = vec![longest];
            while batch.len() == 1 || (batch.len() + 1) * length(longest) <= BATCH_TOKENS {
                let next = if apart {
                    left.pop_back_if(|&mut index| length(index) == length(longest))
                } else {
                    left.pop_front()
                };
                let Some(next) = next else { break };
                batch.push(next);
            }
            batches.push(batch);
        }
        batches
    }

    /// Normalised vectors of one call.
    fn vectors(&self, texts: Vec<Vec<u32>>) -> Result<Option<Vec<Vec<f32>>>, Error> {
        let options = EmbedOptions { normalize: Some(true), ..Default::default() };
        match self.embedder.embed_token_ids(texts, &options) {
            Ok(embeddings) => Ok(Some(embeddings.into_iter().map(|embedding| embedding.vector).collect())),
            Err(Error::Input { source: InputError::NotFinite, .. }) => Ok(None),
            Err(error) => Err(error),
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
                        worst.add(relative_error(vector, alone), index);
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
        let states = layers.len();
        let layers = layers.into_iter().enumerate();
        let here: Vec<(String, String)> = self.embedder.weights_sha256()?;
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
        })
    }

    fn other_tokens(&self, golden: &Golden) -> Result<Vec<OtherTokens>, Error> {
        let mut others = Vec::new();
        for (index, text) in golden.texts().iter().enumerate() {
            let options = EmbedOptions { prompt: text.prompt(), ..Default::default() };
            let found = self.embedder.token_ids(&text.text, &options)?;
            if found != text.ids {
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
        let pooling = self.embedder.info().pooling;
        let (mut lowest, mut sum, mut largest, mut worst) = (f64::INFINITY, 0.0, 0.0, 0);
        for (index, found) in vectors.iter().enumerate() {
            let expected = golden.embedding(index, pooling)?;
            let (cosine, max_abs) = match found {
                Some(found) => (cosine(found, expected), max_abs(found, expected)),
                None => (f64::NAN, f64::NAN),
            };
            if smaller(lowest, cosine).to_bits() != lowest.to_bits() {
                worst = index;
            }
            (lowest, sum, largest) = (smaller(lowest, cosine), sum + cosine, larger(largest, max_abs));
        }
        Some(VectorComparison {
            cosine: lowest,
            mean_cosine: sum / vectors.len() as f64,
            max_abs: largest,
            text: worst,
            passed: lowest >= tolerance.cosine && largest <= tolerance.max_abs,
        })
    }
}

fn compare_states(golden: &Golden, text: usize, found: &[Vec<f32>], layers: &mut [Differences]) {
    let width = golden.facts.model.hidden_size;
    let directions = &golden.directions;
    for ((found, golden), layer) in found.iter().zip(golden.states(text)).zip(layers) {
        let row = |data: &[f32], row: usize| data[row * width..(row + 1) * width].to_vec();
        for (place, &token) in golden.rows.iter().enumerate() {
            let (found, expected) = (row(found, token), row(golden.whole, place));
            layer.cosine = Some(
                layer
                    .cosine
                    .map_or(cosine(&found, &expected), |lowest| smaller(lowest, cosine(&found, &expected))),
            );
            layer.max_abs = larger(layer.max_abs, max_abs(&found, &expected));
            layer.add(relative_error(&found, &expected), text, token);
        }
        let count = directions.len() / width;
        if golden.sketch.is_empty() {
            continue;
        }
        let projected = project(found, directions, width);
        let tokens = projected.chunks_exact(count).zip(golden.sketch.chunks_exact(count)).enumerate();
        for (token, (found, expected)) in tokens.filter(|(token, _)| !golden.rows.contains(token)) {
            layer.add(relative_error(found, expected), text, token);
        }
    }
}

/// What the tokens' states after one layer differ by from the reference's.
#[derive(Debug, Clone, Default)]
struct Differences {
    cosine: Option<f64>,
    max_abs: f64,
    errors: Vec<f64>,
    worst: Worst,
    /// Of the worst text.
    token: usize,
}

impl Differences {
    fn add(&mut self, error: f64, text: usize, token: usize) {
        self.errors.push(error);
        if self.worst.add(error, text) {
            self.token = token;
        }
    }

    fn report(mut self, layer: Layer, layers: usize, tolerance: &Tolerance) -> LayerComparison {
        let (error, median_error) = (self.worst.error, median(&mut self.errors));
        let allowed = (tolerance.median_error(layer, layers), tolerance.error(layer, layers));
        // Not `>`, so that what is not a number is beyond.
        let beyond = self.errors.iter().filter(|&&error| !(error <= allowed.1)).count();
        LayerComparison {
            layer,
            cosine: self.cosine.unwrap_or(f64::NAN),
            max_abs: self.max_abs,
            error,
            median_error,
            allowed_error: allowed.1,
            allowed_median_error: allowed.0,
            beyond,
            text: self.worst.text.unwrap_or_default(),
            token: self.token,
            passed: beyond as f64 <= tolerance.strays * self.errors.len() as f64 && median_error <= allowed.0,
        }
    }
}

/// The largest error, and whose it is.
#[derive(Debug, Clone, Copy, Default)]
struct Worst {
    error: f64,
    text: Option<usize>,
}

impl Worst {
    /// Whether it is the largest so far.
    fn add(&mut self, error: f64, text: usize) -> bool {
        let largest = larger(self.error, error);
        let grows = self.text.is_none() || largest.to_bits() != self.error.to_bits();
        if grows {
            *self = Self { error: largest, text: Some(text) };
        }
        grows
    }
}

impl Check {
    /// `worst` has an entry for each state.
    fn of(question: Question, worst: &[Worst], tolerance: f64) -> Self {
        // Not `>`, so that what is not a number is beyond.
        let beyond = worst.iter().position(|worst| !(worst.error <= tolerance));
        let mut all = Worst::default();
        for each in worst {
            if let Some(text) = each.text {
                all.add(each.error, text);
            }
        }
        Self {
            question,
            error: all.error,
            tolerance,
            first_divergent_layer: beyond.map(|state| Layer::of_state(state, worst.len())),
            text: all.text.filter(|_| all.error != 0.0),
            passed: beyond.is_none(),
        }
    }
}

fn failures(first: Option<Layer>, against: Option<&Against>, checks: &[Check]) -> Vec<String> {
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

fn refs(texts: &[Vec<u32>]) -> Vec<&[u32]> {
    texts.iter().map(Vec::as_slice).collect()
}

/// A text and others of its length that begin differently, all of its tokens.
fn equals_of(ids: &[u32]) -> Vec<Vec<u32>> {
    let turned = |by: usize| {
        let mut other = ids.to_vec();
        other.rotate_left(by * ids.len() / (EQUALS + 1));
        other
    };
    (0..=EQUALS).map(turned).collect()
}

/// A fixed order that mixes lengths, another one each round.
fn shuffle(order: &mut [usize], round: usize) {
    let half = order.len() / 2;
    for turn in 0..=round {
        order.rotate_left((3 + turn).min(order.len()));
        order[..half].reverse();
    }
}
