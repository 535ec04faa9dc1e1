//! Sparse vectors: a weight for each token of the vocabulary, most of them 0.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::checkpoint::{Checkpoint, Purpose};
use crate::engine::{Computed, Output};
use crate::error::{Error, InputError};
use crate::handle::handle;
use crate::options::{EmbedOptions, LoadOptions};
use crate::request::{Finish, Pending, Reply, Shared, all, each};
use crate::stream::EmbedIter;

/// Turns texts into sparse vectors: weights of the vocabulary's tokens.
///
/// SPLADE's checkpoints have the head of a masked language model: a token's weight is the largest `log(1 + relu(logit))`
/// over the text's tokens (Formal et al., 2021). bge-m3 gives a weight to each token that the text has.
///
/// A handle on an engine like [`Embedder`](crate::Embedder)'s, whose page says what runs when, and how it ends.
///
/// ```no_run
/// use mlx_embed::SparseEmbedder;
///
/// let embedder = SparseEmbedder::load("path/to/splade-cocondenser")?;
/// let vectors = embedder.embed(&["where do cats sleep?", "Cats sleep in the sun."])?;
/// println!("{:.3}", vectors[0].dot(&vectors[1]));
/// for &(token, weight) in &vectors[0].weights {
///     println!("{} {weight:.3}", embedder.token(token).unwrap_or_default());
/// }
/// # Ok::<(), mlx_embed::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct SparseEmbedder {
    shared: Arc<Shared>,
}

/// A text's sparse vector, and what became of the text.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct SparseVector {
    /// Token ids and their weights, in rising order of ids. Weights are above 0; all other tokens have 0.
    pub weights: Vec<(u32, f32)>,
    /// Tokens that the model saw, prompt included.
    pub tokens: usize,
    /// Whether the text was longer than the limit, so that its end was cut.
    pub truncated: bool,
    /// Whether the vector was not computed for this call, but came from the cache or from an identical text's computation.
    pub cached: bool,
    /// From the call until the text's batch began, tokenisation included.
    pub queue_time: Duration,
    /// How long its batch ran; zero if `cached`.
    pub device_time: Duration,
}

impl SparseVector {
    /// The dot product of two sparse vectors, by which they are compared.
    pub fn dot(&self, other: &Self) -> f32 {
        let (mut a, mut b) = (self.weights.iter().peekable(), other.weights.iter().peekable());
        let mut sum = 0.0;
        while let (Some(&&(left, x)), Some(&&(right, y))) = (a.peek(), b.peek()) {
            if left == right {
                sum += x * y;
            }
            if left <= right {
                a.next();
            }
            if right <= left {
                b.next();
            }
        }
        sum
    }
}

impl Reply for SparseVector {
    fn of(computed: Computed, finish: &Finish) -> Self {
        let Computed { output, ids, truncated, cached, queue_time, device_time } = computed;
        let weights = match output {
            Output::Weights(weights) => {
                let keeps = |id| finish.left_out.as_ref().is_none_or(|left_out| left_out.keeps(0, id));
                weights.iter().copied().filter(|(id, _)| keeps(*id)).collect()
            }
            Output::Numbers(numbers) => (0..).zip(numbers.iter().copied()).collect(),
        };
        Self { weights, tokens: ids.len(), truncated, cached, queue_time, device_time }
    }
}

impl SparseEmbedder {
    /// Loads a checkpoint directory, as [`Embedder::load`](crate::Embedder::load) does.
    ///
    /// # Errors
    /// As there; also when the checkpoint is no sparse encoder: neither is there a `sparse_linear.pt` or
    /// `sparse_linear.safetensors`, nor does `modules.json` name MLMTransformer and SpladePooling, nor, without that file,
    /// `config.json` a masked language model.
    pub fn load(dir: impl AsRef<Path>) -> Result<Self, Error> {
        Self::load_with(dir, LoadOptions::default())
    }

    /// As [`SparseEmbedder::load`], with options. [`LoadOptions::pooling`] has no meaning here and is refused.
    ///
    /// # Errors
    /// As [`SparseEmbedder::load`]; also when an option doesn't fit the model or the machine.
    pub fn load_with(dir: impl AsRef<Path>, options: LoadOptions) -> Result<Self, Error> {
        Self::of_checkpoint(Self::open(dir.as_ref())?, &options, Arc::default())
    }

    /// As [`Embedder::check_options`](crate::Embedder::check_options).
    ///
    /// # Errors
    /// When one doesn't fit; the message says what would.
    pub fn check_options(&self, options: &EmbedOptions) -> Result<(), Error> {
        self.shared.plan(options, 1, false).map(|_| ())
    }

    /// Embeds texts: a sparse vector for each, in order. A text's vector does not depend on the others in the call.
    ///
    /// # Errors
    /// When a text has no tokens, or the model fails. No weight is ever NaN or infinite.
    pub fn embed<T: AsRef<str>>(&self, texts: &[T]) -> Result<Vec<SparseVector>, Error> {
        self.embed_with(texts, &EmbedOptions::default())
    }

    /// As [`SparseEmbedder::embed`], with options, of which `dims` and `normalize` have no meaning here and are refused.
    ///
    /// # Errors
    /// As [`SparseEmbedder::embed`]; also when an option doesn't fit the model, the queue is full, or the time is over.
    pub fn embed_with<T: AsRef<str>>(
        &self,
        texts: &[T],
        options: &EmbedOptions,
    ) -> Result<Vec<SparseVector>, Error> {
        self.shared.embed(texts, options)
    }

    /// As [`SparseEmbedder::embed_with`], but a text that can't be embedded fails alone: each text has its own result.
    ///
    /// # Errors
    /// When an option doesn't fit the model, the model fails as a whole, the queue is full, or the time is over.
    pub fn embed_each<T: AsRef<str>>(
        &self,
        texts: &[T],
        options: &EmbedOptions,
    ) -> Result<Vec<Result<SparseVector, InputError>>, Error> {
        self.shared.embed_each(texts, options)
    }

    /// Sparse vectors of an iterator's texts, in order, as [`Embedder::embed_iter`](crate::Embedder::embed_iter).
    pub fn embed_iter<T, I>(&self, texts: I, options: &EmbedOptions) -> EmbedIter<I::IntoIter, SparseVector>
    where
        T: AsRef<str>,
        I: IntoIterator<Item = T>,
    {
        self.shared.embed_iter(texts, options)
    }

    /// Queues texts and returns at once, as [`Embedder::submit`](crate::Embedder::submit).
    pub fn submit<T: AsRef<str>>(&self, texts: &[T], options: &EmbedOptions) -> Pending<Vec<SparseVector>> {
        self.shared.submit(texts, options, all)
    }

    /// As [`SparseEmbedder::submit`], but each text has its own result, as in [`SparseEmbedder::embed_each`].
    pub fn submit_each<T: AsRef<str>>(
        &self,
        texts: &[T],
        options: &EmbedOptions,
    ) -> Pending<Vec<Result<SparseVector, InputError>>> {
        self.shared.submit(texts, options, each)
    }

    /// The token ids that the model sees for `text`, prompt included.
    ///
    /// # Errors
    /// When the text has no tokens, or there is no such prompt.
    pub fn token_ids(&self, text: &str, options: &EmbedOptions) -> Result<Vec<u32>, Error> {
        self.shared.token_ids(text, options)
    }

    /// The written form of a token; `None` where the tokenizer has none of that id.
    pub fn token(&self, id: u32) -> Option<String> {
        self.shared.text.token(id)
    }
}

handle!(SparseEmbedder, |dir| Checkpoint::open_for(dir, Purpose::Sparse), "texts");

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(weights: &[(u32, f32)]) -> SparseVector {
        let (queue_time, device_time) = (Duration::ZERO, Duration::ZERO);
        let weights = weights.to_vec();
        SparseVector { weights, tokens: 1, truncated: false, cached: false, queue_time, device_time }
    }

    #[test]
    fn a_dot_product_is_over_tokens_that_both_have() {
        let a = vector(&[(1, 2.0), (3, 4.0), (9, 1.0)]);
        assert_eq!(a.dot(&vector(&[(0, 5.0), (3, 0.5), (9, 3.0), (12, 7.0)])), 5.0);
        assert_eq!(a.dot(&vector(&[(2, 1.0)])), 0.0);
        assert_eq!(vector(&[]).dot(&a), 0.0);
    }
}
