//! The public handle.

use std::path::Path;
use std::sync::Arc;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, InputError};
use crate::handle::handle;
use crate::options::{EmbedOptions, Embedding, LoadOptions};
use crate::request::{Pending, Shared, all, each, one};
use crate::stream::{EmbedIter, EmbedStream};
use crate::text::{Prompt, TextToken};

/// Turns texts into vectors.
///
/// It is a handle: cloning is cheap, and all clones share one model, which runs on its own thread behind a queue.
/// Use it from as many threads and tasks as you like.
///
/// # Calls
///
/// | | block | return a [`Pending`], a future | |
/// | --- | --- | --- | --- |
/// | one text | [`embed_one`](Self::embed_one) | [`submit_one`](Self::submit_one) | |
/// | texts | [`embed`](Self::embed), [`embed_with`](Self::embed_with) | [`submit`](Self::submit) | all or nothing |
/// | texts | [`embed_each`](Self::embed_each) | [`submit_each`](Self::submit_each) | a result each |
/// | token ids | [`embed_token_ids`](Self::embed_token_ids) | [`submit_token_ids`](Self::submit_token_ids) | all or nothing |
/// | any number | [`embed_iter`](Self::embed_iter) | [`embed_stream`](Self::embed_stream), a stream | drawn as fast as they are embedded |
///
/// # What runs when
/// - If the model is idle, a request starts at once. Requests that come while it is busy run together in the next batch, up
///   to [`batch_tokens`](LoadOptions::batch_tokens). No request waits for a window of time to pass.
/// - Queries go before bulk ([`Lane`](crate::Lane)): a query gets in between two batches of a bulk job, and of eight batches
///   at least one is bulk's.
/// - Texts are tokenised on the caller's side, never on the model's thread. If the tokenizer allows it, only the part of a
///   long text is read on which its first [`Info::max_tokens`](crate::Info::max_tokens) tokens depend.
/// - Identical texts that wait together are computed once.
/// - A request that fails does so alone.
/// - A prompt is computed once: its keys and values are kept ([`LoadOptions::prompt_cache`]), and later texts with this prompt
///   cost only their own tokens.
///
/// # Shutdown
/// The model is freed when the last handle and the last [`Pending`] are gone; [`Embedder::shut_down`] frees it earlier. If
/// the model's thread dies, after a panic or with its device, every request ends with [`Error::Stopped`], and
/// [`Embedder::state`] says so.
///
/// # Observability
/// Spans and events of [`tracing`](https://docs.rs/tracing): a span `mlx_embed.batch` follows from the spans of the
/// requests in it. With a recorder of the [`metrics`](https://docs.rs/metrics) facade that is installed before loading,
/// labelled with `model`:
///
/// | metric | kind | |
/// | --- | --- | --- |
/// | `mlx_embed_requests_total` | counter | by `outcome`: done, refused, late, cancelled, failed |
/// | `mlx_embed_request_duration_seconds` | histogram | from call to result |
/// | `mlx_embed_queue_duration_seconds` | histogram | a text's time until its batch began |
/// | `mlx_embed_batch_duration_seconds` | histogram | a batch's time on the device |
/// | `mlx_embed_batch_texts`, `mlx_embed_batch_tokens` | histogram | what ran together |
/// | `mlx_embed_texts_total`, `mlx_embed_tokens_total` | counter | what ran |
/// | `mlx_embed_reused_tokens_total` | counter | tokens of prompts among them that were not computed again |
/// | `mlx_embed_queue_texts` | gauge | texts that wait, by `lane` |
/// | `mlx_embed_cache_hits_total`, `mlx_embed_cache_misses_total` | counter | of the vector cache |
/// | `mlx_embed_shared_texts_total` | counter | texts that got an identical one's vector |
///
/// # Example
///
/// ```no_run
/// use mlx_embed::Embedder;
///
/// let embedder = Embedder::load("path/to/Qwen3-Embedding-0.6B-4bit-DWQ")?;
/// for embedding in embedder.embed(["The cat sat on the mat", "A feline rested on the rug"])? {
///     println!("{} numbers from {} tokens", embedding.vector.len(), embedding.tokens);
/// }
/// # Ok::<(), mlx_embed::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Embedder {
    shared: Arc<Shared>,
}

/// What becomes of queued requests at [`Embedder::shut_down`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// They are embedded: all texts of calls that were accepted, also those that are still being tokenised or sent, and the
    /// texts that an [`EmbedIter`] has drawn.
    Finish,
    /// They end with [`Error::Stopped`]; only the batch that runs is finished.
    Return,
}

impl Embedder {
    /// Loads a checkpoint directory: `config.json`, `tokenizer.json`, safetensors weights and, where there are any,
    /// the files of sentence-transformers.
    ///
    /// # Errors
    /// When a file is missing, damaged or of a kind that isn't supported; the message names it.
    pub fn load(dir: impl AsRef<Path>) -> Result<Self, Error> {
        Self::load_with(dir, LoadOptions::default())
    }

    /// As [`Embedder::load`], with options.
    ///
    /// # Errors
    /// As [`Embedder::load`]; also when an option doesn't fit the model or the machine.
    pub fn load_with(dir: impl AsRef<Path>, options: LoadOptions) -> Result<Self, Error> {
        Self::of_checkpoint(Self::open(dir.as_ref())?, &options, Arc::default())
    }

    /// Loads the built-in model: small, for English, 384 numbers a vector. Its card is
    /// `models/default/README.md`.
    ///
    /// ```no_run
    /// let embedder = mlx_embed::Embedder::default_model()?;
    /// let vector = embedder.embed_one("The cat sat on the mat")?.vector;
    /// assert_eq!(vector.len(), 384);
    /// # Ok::<(), mlx_embed::Error>(())
    /// ```
    ///
    /// # Errors
    /// When MLX can't be used on this machine.
    #[cfg(feature = "default-model")]
    pub fn default_model() -> Result<Self, Error> {
        Self::default_model_with(LoadOptions::default())
    }

    /// As [`Embedder::default_model`], with options. Unless a device is asked for, it runs on the CPU, if this build of MLX
    /// has one: a text takes a millisecond there, while a process's first text on a GPU takes most of a second.
    ///
    /// # Errors
    /// As [`Embedder::default_model`]; also when an option doesn't fit the model or the machine.
    #[cfg(feature = "default-model")]
    pub fn default_model_with(mut options: LoadOptions) -> Result<Self, Error> {
        if options.device == crate::Device::Auto && crate::mlx::has_cpu() {
            options.device = crate::Device::Cpu;
        }
        Self::of_checkpoint(Checkpoint::default_model()?, &options, Arc::default())
    }

    /// How many numbers a vector has, unless [`EmbedOptions::dims`] asks for fewer.
    pub fn dimensions(&self) -> usize {
        self.shared.info.embedding_size
    }

    /// Checks whether options fit the model, before there is anything to embed.
    ///
    /// # Errors
    /// When one doesn't fit; the message says what would.
    pub fn check_options(&self, options: &EmbedOptions) -> Result<(), Error> {
        self.shared.plan(options, 1, false).map(|_| ())
    }

    /// Embeds texts with the checkpoint's own settings: a vector for each, in order. Takes slices, arrays and `Vec`s.
    ///
    /// A text's vector does not depend on the others in the call.
    ///
    /// # Errors
    /// When a text has no tokens, or the model fails. No vector is ever NaN or infinite.
    pub fn embed<T: AsRef<str>>(&self, texts: impl AsRef<[T]>) -> Result<Vec<Embedding>, Error> {
        self.shared.embed(texts.as_ref(), &EmbedOptions::default())
    }

    /// As [`Embedder::embed`], for one text.
    ///
    /// # Errors
    /// As [`Embedder::embed`].
    pub fn embed_one(&self, text: impl AsRef<str>) -> Result<Embedding, Error> {
        self.shared.embed_one(text, &EmbedOptions::default())
    }

    /// As [`Embedder::embed`], with options.
    ///
    /// # Errors
    /// As [`Embedder::embed`]; also when an option doesn't fit the model, the queue is full, or the time is over.
    pub fn embed_with<T: AsRef<str>>(
        &self,
        texts: &[T],
        options: &EmbedOptions,
    ) -> Result<Vec<Embedding>, Error> {
        self.shared.embed(texts, options)
    }

    /// As [`Embedder::embed_with`], but a text that can't be embedded fails alone: each text has its own result.
    ///
    /// # Errors
    /// When an option doesn't fit the model, the model fails as a whole, the queue is full, or the time is over.
    pub fn embed_each<T: AsRef<str>>(
        &self,
        texts: &[T],
        options: &EmbedOptions,
    ) -> Result<Vec<Result<Embedding, InputError>>, Error> {
        self.shared.embed_each(texts, options)
    }

    /// Embeds an iterator's texts, in order. Texts are drawn as fast as they are embedded, so that an iterator of any length
    /// takes little memory while the model is kept busy. They wait in the bulk lane unless the options say
    /// [`Lane::Query`](crate::Lane::Query). [`EmbedOptions::timeout`] holds for a few hundred texts at a time.
    ///
    /// ```no_run
    /// use std::io::BufRead;
    ///
    /// use mlx_embed::{EmbedOptions, Embedder};
    ///
    /// let embedder = Embedder::load("path/to/model")?;
    /// let lines = std::io::stdin().lock().lines().map_while(Result::ok);
    /// for embedding in embedder.embed_iter(lines, &EmbedOptions::default()) {
    ///     println!("{:?}", &embedding?.vector[..4]);
    /// }
    /// # Ok::<(), mlx_embed::Error>(())
    /// ```
    pub fn embed_iter<T, I>(&self, texts: I, options: &EmbedOptions) -> EmbedIter<I::IntoIter>
    where
        T: AsRef<str>,
        I: IntoIterator<Item = T>,
    {
        self.shared.embed_iter(texts, options)
    }

    /// As [`Embedder::embed_iter`], for async code: a [`Stream`](futures_core::Stream), which needs no particular runtime.
    /// Polling it draws texts and queues them. Dropping it takes back the texts that are not running yet.
    pub fn embed_stream<T, I>(&self, texts: I, options: &EmbedOptions) -> EmbedStream<I::IntoIter>
    where
        T: AsRef<str>,
        I: IntoIterator<Item = T>,
    {
        self.shared.embed_stream(texts, options)
    }

    /// Queues texts and returns at once. The result can be awaited, or waited for; errors of the options and of the queue
    /// come as the result, too.
    ///
    /// Up to two kilobytes of text are tokenised on this thread, more of it on other threads, which take turns between
    /// requests, a text at a time.
    pub fn submit<T: AsRef<str>>(&self, texts: &[T], options: &EmbedOptions) -> Pending<Vec<Embedding>> {
        self.shared.submit(texts, options, all)
    }

    /// As [`Embedder::submit`], for one text.
    pub fn submit_one(&self, text: impl AsRef<str>, options: &EmbedOptions) -> Pending<Embedding> {
        self.shared.submit(&[text], options, one)
    }

    /// As [`Embedder::submit`], but a text that can't be embedded fails alone: each text has its own result.
    pub fn submit_each<T: AsRef<str>>(
        &self,
        texts: &[T],
        options: &EmbedOptions,
    ) -> Pending<Vec<Result<Embedding, InputError>>> {
        self.shared.submit(texts, options, each)
    }

    /// The token ids that the model sees for `text`, prompt and end token included.
    ///
    /// # Errors
    /// When the text has no tokens, or there is no such prompt.
    pub fn token_ids(&self, text: &str, options: &EmbedOptions) -> Result<Vec<u32>, Error> {
        self.shared.token_ids(text, options)
    }

    /// A text's tokens with their places in prompt and text together. Nothing is cut, and an empty text may have no tokens.
    /// Special tokens around the text are among them only if `special` is set.
    ///
    /// # Errors
    /// When the text has too many bytes, or there is no such prompt.
    pub fn tokenize(&self, text: &str, prompt: &Prompt, special: bool) -> Result<Vec<TextToken>, Error> {
        self.shared.tokenize_text(text, prompt, special)
    }

    /// Embeds token ids, for callers with their own tokenizer. The ids are taken as they are: no prompt and no special
    /// token is added, and nothing is cut.
    ///
    /// # Errors
    /// When a text has no ids, more than [`Info::max_tokens`](crate::Info::max_tokens) or one outside the vocabulary; else as [`Embedder::embed_with`].
    pub fn embed_token_ids(
        &self,
        texts: Vec<Vec<u32>>,
        options: &EmbedOptions,
    ) -> Result<Vec<Embedding>, Error> {
        self.shared.embed_ids(texts, options, false).wait()
    }

    /// As [`Embedder::embed_token_ids`], but returns at once, as [`Embedder::submit`] does.
    pub fn submit_token_ids(&self, texts: Vec<Vec<u32>>, options: &EmbedOptions) -> Pending<Vec<Embedding>> {
        self.shared.embed_ids(texts, options, true)
    }

    /// Every hidden state of one text, for comparing with another implementation layer by layer: the
    /// embeddings, the residual stream after each layer, the result of the final norm. f32 `[tokens, hidden]` each.
    ///
    /// # Errors
    /// When `token_ids` is empty, has more than [`Info::max_tokens`](crate::Info::max_tokens) or one outside the vocabulary, or the model fails.
    pub fn hidden_states(&self, token_ids: &[u32]) -> Result<Vec<Vec<f32>>, Error> {
        self.shared.check_ids(token_ids).map_err(|source| Error::Input { index: 0, source })?;
        self.shared.hidden_states(token_ids.to_vec())
    }
}

handle!(Embedder, Checkpoint::open, "texts");
