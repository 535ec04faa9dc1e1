//! Vectors of tokens: late interaction.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::batch;
use crate::checkpoint::{Checkpoint, Purpose};
use crate::engine::Computed;
use crate::error::{Error, InputError};
use crate::handle::handle;
use crate::options::{EmbedOptions, LoadOptions};
use crate::pooling;
use crate::request::{
    Before, Finish, Pending, Plan, Reply, Sending, Shared, Sides, all, each, of_side, unless_one_failed,
};
use crate::stream::EmbedIter;
use crate::text::Side;

/// Turns queries and documents into a vector for each token, which [`TokenVectors::maxsim`] compares: late interaction, or
/// multi-vector retrieval (Khattab and Zaharia, 2020). For checkpoints of PyLate, of sentence-transformers 6, of ColBERT
/// itself, and for bge-m3.
///
/// A handle on an engine like [`Embedder`](crate::Embedder)'s, whose page says what runs when, and how it ends.
///
/// Queries and documents are read in different ways ([`Role`]): each has a marker and a limit of its own
/// ([`Info::late_interaction`](crate::Info::late_interaction)); many checkpoints fill queries up with mask tokens, which have vectors too, and leave
/// punctuation of documents without one. What is longer than its limit is cut, and its result says so.
/// [`LoadOptions::max_tokens`] is the limit of documents.
///
/// ```no_run
/// use mlx_embed::{MultiVectorEmbedder, Role};
///
/// let embedder = MultiVectorEmbedder::load("path/to/GTE-ModernColBERT-v1")?;
/// let query = embedder.embed(&["where do cats sleep?"], Role::Query)?.remove(0);
/// let documents = embedder.embed(&["Cats sleep in the sun.", "Roses need water."], Role::Document)?;
/// for document in &documents {
///     println!("{:.3}", query.maxsim(document));
/// }
/// # Ok::<(), mlx_embed::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct MultiVectorEmbedder {
    shared: Arc<Shared>,
}

/// Whether a text is a query or a document: late interaction reads them differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// A query, which documents are searched for.
    Query,
    /// A document, which queries are compared with.
    Document,
}

/// The vectors of a text's tokens, and what became of the text.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TokenVectors {
    /// f32 `[vectors, dims]`, row after row, in the order of the tokens.
    pub vectors: Vec<f32>,
    /// Numbers in each vector.
    pub dims: usize,
    /// The token id that each vector belongs to, `[vectors]`.
    pub token_ids: Vec<u32>,
    /// Tokens that the model saw, with markers, mask tokens and those that have no vector.
    pub tokens: usize,
    /// Whether the text was longer than the limit, so that its end was cut.
    pub truncated: bool,
    /// Whether the vectors were not computed for this call, but came from the cache or from an identical text's computation.
    pub cached: bool,
    /// From the call until the text's batch began, tokenisation included.
    pub queue_time: Duration,
    /// How long its batch ran; zero if `cached`.
    pub device_time: Duration,
}

impl TokenVectors {
    /// Each vector, `[dims]`; none where `dims` is 0.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        let numbers = if self.dims == 0 { &[][..] } else { &self.vectors };
        numbers.chunks_exact(self.dims.max(1))
    }

    /// How well a document answers this query: for each vector of the query its largest dot product with a vector of the
    /// document, summed up. 0 where one of the two has no vectors.
    ///
    /// # Panics
    /// When the two have vectors of different widths.
    pub fn maxsim(&self, document: &Self) -> f32 {
        assert_eq!(self.dims, document.dims, "vectors of different widths have no dot product");
        if document.token_ids.is_empty() {
            return 0.0;
        }
        let largest = |query| {
            let products = document.rows().map(|document| dot(query, document));
            products.fold(f32::NEG_INFINITY, f32::max)
        };
        self.rows().map(largest).sum()
    }
}

/// Eight sums side by side, so that the compiler uses vectors.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; 8];
    let (a, b) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a.zip(b) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f32>() + rest
}

impl Reply for TokenVectors {
    fn of(computed: Computed, finish: &Finish) -> Self {
        let Computed { output, ids, truncated, cached, queue_time, device_time } = computed;
        let numbers = output.to_numbers();
        let width = numbers.len() / ids.len().max(1);
        let (mut vectors, mut token_ids) = (Vec::with_capacity(numbers.len()), Vec::new());
        let rows = numbers.chunks_exact(width.max(1)).zip(ids.iter().map(|&token| batch::id(token)));
        for (place, (row, id)) in rows.enumerate() {
            if finish.left_out.as_ref().is_none_or(|left_out| left_out.keeps(place, id)) {
                let mut row = row.to_vec();
                pooling::finish(&mut row, finish.dims, finish.normalize);
                vectors.extend(row);
                token_ids.push(id);
            }
        }
        let dims = finish.dims.unwrap_or(width);
        Self { vectors, dims, token_ids, tokens: ids.len(), truncated, cached, queue_time, device_time }
    }
}

impl MultiVectorEmbedder {
    /// Loads a checkpoint directory, as [`Embedder::load`](crate::Embedder::load) does. It is one of these:
    ///
    /// - PyLate's: `modules.json` has a Transformer and Dense modules alone.
    /// - sentence-transformers' `MultiVectorEncoder`, whose markers are its prompts.
    /// - ColBERT's own: `config.json` names `HF_ColBERT`.
    /// - bge-m3's: there is a `colbert_linear.pt` or `colbert_linear.safetensors`. Queries and documents are read alike, and
    ///   the first token has no vector.
    ///
    /// # Errors
    /// As there; also when the checkpoint is no late-interaction model, or a marker is no token of its tokenizer.
    pub fn load(dir: impl AsRef<Path>) -> Result<Self, Error> {
        Self::load_with(dir, LoadOptions::default())
    }

    /// As [`MultiVectorEmbedder::load`], with options. [`LoadOptions::pooling`] has no meaning here and is refused.
    ///
    /// # Errors
    /// As [`MultiVectorEmbedder::load`]; also when an option doesn't fit the model or the machine.
    pub fn load_with(dir: impl AsRef<Path>, options: LoadOptions) -> Result<Self, Error> {
        Self::of_checkpoint(Self::open(dir.as_ref())?, &options, Arc::default())
    }

    /// As [`Embedder::check_options`](crate::Embedder::check_options).
    ///
    /// # Errors
    /// When one doesn't fit; the message says what would.
    pub fn check_options(&self, role: Role, options: &EmbedOptions) -> Result<(), Error> {
        self.plan(role, 1, options, false).map(|_| ())
    }

    /// Embeds texts: a vector for each token of each text, in order. A text's vectors do not depend on the others in the call.
    ///
    /// # Errors
    /// When a text has no tokens, or the model fails. No number is ever NaN or infinite.
    pub fn embed<T: AsRef<str>>(&self, texts: &[T], role: Role) -> Result<Vec<TokenVectors>, Error> {
        self.embed_with(texts, role, &EmbedOptions::default())
    }

    /// As [`MultiVectorEmbedder::embed`], with options. A text's default prompt is the checkpoint's prompt `query`, or
    /// `document`, if it has one; `dims` and `normalize` concern each vector.
    ///
    /// # Errors
    /// As [`MultiVectorEmbedder::embed`]; also when an option doesn't fit the model, the queue is full, or the time is over.
    pub fn embed_with<T: AsRef<str>>(
        &self,
        texts: &[T],
        role: Role,
        options: &EmbedOptions,
    ) -> Result<Vec<TokenVectors>, Error> {
        unless_one_failed(self.embed_each(texts, role, options)?)
    }

    /// As [`MultiVectorEmbedder::embed_with`], but a text that can't be embedded fails alone: each text has its own result.
    ///
    /// # Errors
    /// When an option doesn't fit the model, the model fails as a whole, the queue is full, or the time is over.
    pub fn embed_each<T: AsRef<str>>(
        &self,
        texts: &[T],
        role: Role,
        options: &EmbedOptions,
    ) -> Result<Vec<Result<TokenVectors, InputError>>, Error> {
        self.shared.call(texts, self.plan(role, texts.len(), options, false), options.timeout)
    }

    /// Vectors of an iterator's texts, in order, as [`Embedder::embed_iter`](crate::Embedder::embed_iter).
    pub fn embed_iter<T, I>(
        &self,
        texts: I,
        role: Role,
        options: &EmbedOptions,
    ) -> EmbedIter<I::IntoIter, TokenVectors>
    where
        T: AsRef<str>,
        I: IntoIterator<Item = T>,
    {
        let plan = self.plan(role, usize::MAX, options, false);
        self.shared.iter(texts, plan, options.timeout)
    }

    /// Queues texts and returns at once, as [`Embedder::submit`](crate::Embedder::submit).
    pub fn submit<T: AsRef<str>>(
        &self,
        texts: &[T],
        role: Role,
        options: &EmbedOptions,
    ) -> Pending<Vec<TokenVectors>> {
        let plan = self.plan(role, texts.len(), options, true);
        self.shared.send(texts, plan, Sending::later(options.timeout), all)
    }

    /// As [`MultiVectorEmbedder::submit`], but each text has its own result, as in [`MultiVectorEmbedder::embed_each`].
    pub fn submit_each<T: AsRef<str>>(
        &self,
        texts: &[T],
        role: Role,
        options: &EmbedOptions,
    ) -> Pending<Vec<Result<TokenVectors, InputError>>> {
        let plan = self.plan(role, texts.len(), options, true);
        self.shared.send(texts, plan, Sending::later(options.timeout), each)
    }

    /// The token ids that the model sees for `text`: prompt, marker and mask tokens included.
    ///
    /// # Errors
    /// When the text has no tokens, or there is no such prompt.
    pub fn token_ids(&self, text: &str, role: Role, options: &EmbedOptions) -> Result<Vec<u32>, Error> {
        let marked = self.tokens(text, role, options)?;
        Ok(marked.into_iter().map(batch::id).collect())
    }

    /// Token ids with marks on those that none sees.
    pub(crate) fn tokens(&self, text: &str, role: Role, options: &EmbedOptions) -> Result<Vec<u32>, Error> {
        let (prompt, side) = self.side(role, options)?;
        self.shared.check_bytes(prompt, text)?;
        let input = |source| Error::Input { index: 0, source };
        // Without a reason to stop there always is a result.
        let tokens = side.encode(&self.shared.text, prompt, text, &|| false);
        tokens.unwrap_or(Err(InputError::Empty)).map(of_side).map_err(input)
    }

    fn plan(&self, role: Role, texts: usize, options: &EmbedOptions, refuse: bool) -> Result<Plan, Error> {
        let (prompt, side) = self.side(role, options)?;
        let before = Before::Side(prompt.into(), Arc::clone(side));
        let left_out = Some(Arc::clone(&side.left_out));
        let finish = Finish { left_out, ..self.shared.finish(options)? };
        Ok(Plan::new(before, finish, texts, options.lane, options.when_full, refuse))
    }

    /// What goes before a text, and how it is read.
    fn side<'a>(&'a self, role: Role, options: &'a EmbedOptions) -> Result<(&'a str, &'a Arc<Side>), Error> {
        let Sides { query, document } = self.shared.sides.as_ref().ok_or_else(|| Error::Stopped {
            reason: "it was loaded without a way to read queries and documents".into(),
        })?;
        let (side, name) = match role {
            Role::Query => (query, "query"),
            Role::Document => (document, "document"),
        };
        Ok((self.shared.prompts.resolve_for(&options.prompt, name)?, side))
    }
}

handle!(MultiVectorEmbedder, |dir| Checkpoint::open_for(dir, Purpose::TokenVectors), "texts");

#[cfg(test)]
mod tests {
    use super::*;

    fn vectors(rows: &[[f32; 2]]) -> TokenVectors {
        let (queue_time, device_time) = (Duration::ZERO, Duration::ZERO);
        let (vectors, token_ids) = (rows.concat(), vec![1; rows.len()]);
        let (tokens, truncated, cached) = (rows.len(), false, false);
        TokenVectors { vectors, dims: 2, token_ids, tokens, truncated, cached, queue_time, device_time }
    }

    #[test]
    fn maxsim_adds_up_what_each_of_the_querys_vectors_finds() {
        let query = vectors(&[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]);
        let document = vectors(&[[0.5, 0.25], [0.25, 0.75]]);
        assert_eq!(query.maxsim(&document), 0.5 + 0.75 - 0.25);
        assert_eq!(document.maxsim(&query), 0.5 + 0.75);
        assert_eq!(query.maxsim(&vectors(&[])), 0.0);
        assert_eq!(vectors(&[]).maxsim(&document), 0.0);
    }

    #[test]
    fn there_are_no_rows_without_a_width() {
        let none = TokenVectors { dims: 0, ..vectors(&[[1.0, 0.0]]) };
        assert_eq!(none.rows().len(), 0);
        assert_eq!(none.maxsim(&none), 0.0);
    }
}
