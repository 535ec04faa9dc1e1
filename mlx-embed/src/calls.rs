//! The ways to call a model, whatever it gives for a text.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::embedder::Shutdown;
use crate::engine::queue::Ending;
use crate::error::{Error, InputError};
use crate::file::OpenFile;
use crate::info::Info;
use crate::options::EmbedOptions;
use crate::request::{
    Convert, Pending, Plan, Reply, Results, Sending, Shared, all, each, one, unless_one_failed,
};
use crate::stream::{EmbedIter, EmbedStream, Patience, WINDOW_TEXTS, Windows};
use crate::text::{Prompt, TextToken};
use crate::warm_up::{self, WarmUp};

impl Shared {
    /// One text.
    pub(crate) fn embed_one<R: Reply>(
        self: &Arc<Self>,
        text: impl AsRef<str>,
        options: &EmbedOptions,
    ) -> Result<R, Error> {
        let sending = Sending { timeout: options.timeout, waits: true, held: false };
        self.send(&[text], self.plan(options, 1, false), sending, one).wait()
    }

    /// Texts, all or nothing.
    pub(crate) fn embed<T: AsRef<str>, R: Reply>(
        self: &Arc<Self>,
        texts: &[T],
        options: &EmbedOptions,
    ) -> Result<Vec<R>, Error> {
        unless_one_failed(self.embed_each(texts, options)?)
    }

    /// Texts, a result each.
    pub(crate) fn embed_each<T: AsRef<str>, R: Reply>(
        self: &Arc<Self>,
        texts: &[T],
        options: &EmbedOptions,
    ) -> Result<Results<R>, Error> {
        self.call(texts, self.plan(options, texts.len(), false), options.timeout)
    }

    /// Texts by a plan, a result each.
    pub(crate) fn call<T: AsRef<str>, R: Reply>(
        self: &Arc<Self>,
        texts: &[T],
        plan: Result<Plan, Error>,
        timeout: Option<Duration>,
    ) -> Result<Results<R>, Error> {
        if texts.len() <= WINDOW_TEXTS {
            let sending = Sending { timeout, waits: true, held: false };
            return self.send(texts, plan, sending, each).wait();
        }
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        Windows::new(self, texts.iter(), plan, Patience::Until(deadline)).collect()
    }

    /// A stream of texts.
    pub(crate) fn embed_iter<T, I, R>(
        self: &Arc<Self>,
        texts: I,
        options: &EmbedOptions,
    ) -> EmbedIter<I::IntoIter, R>
    where
        T: AsRef<str>,
        I: IntoIterator<Item = T>,
        R: Reply,
    {
        // As many as a lane's threshold does not know: more than a query.
        self.iter(texts, self.plan(options, usize::MAX, false), options.timeout)
    }

    /// A stream of texts, for async code.
    pub(crate) fn embed_stream<T, I, R>(
        self: &Arc<Self>,
        texts: I,
        options: &EmbedOptions,
    ) -> EmbedStream<I::IntoIter, R>
    where
        T: AsRef<str>,
        I: IntoIterator<Item = T>,
        R: Reply,
    {
        EmbedStream::new(self.embed_iter(texts, options))
    }

    /// A stream of texts by a plan.
    pub(crate) fn iter<T, I, R>(
        self: &Arc<Self>,
        texts: I,
        plan: Result<Plan, Error>,
        timeout: Option<Duration>,
    ) -> EmbedIter<I::IntoIter, R>
    where
        T: AsRef<str>,
        I: IntoIterator<Item = T>,
        R: Reply,
    {
        EmbedIter::new(Windows::new(self, texts.into_iter(), plan, Patience::PerWindow(timeout)))
    }

    /// Texts that nobody waits for on this thread.
    pub(crate) fn submit<T: AsRef<str>, R>(
        self: &Arc<Self>,
        texts: &[T],
        options: &EmbedOptions,
        convert: Convert<R>,
    ) -> Pending<R> {
        let plan = self.plan(options, texts.len(), true);
        self.send(texts, plan, Sending::later(options.timeout), convert)
    }

    /// Token ids; `refuse` is what the call does by default when the queue is full.
    pub(crate) fn embed_ids<R: Reply>(
        self: &Arc<Self>,
        texts: Vec<Vec<u32>>,
        options: &EmbedOptions,
        refuse: bool,
    ) -> Pending<Vec<R>> {
        let check = |(index, ids): (usize, &Vec<u32>)| {
            self.check_ids(ids).map_err(|source| Error::Input { index, source })
        };
        let checked = texts.iter().enumerate().try_for_each(check);
        let plan = checked.and_then(|()| self.plan(options, texts.len(), refuse));
        self.send_ids(texts, plan, options.timeout, all)
    }

    /// Whether the model takes these ids, as many as they are.
    pub(crate) fn check_ids(&self, ids: &[u32]) -> Result<(), InputError> {
        let (tokens, max_tokens) = (ids.len(), self.info.max_tokens);
        match tokens {
            0 => Err(InputError::Empty),
            _ if tokens > max_tokens => Err(InputError::TooLong { tokens, max_tokens }),
            _ => InputError::check_vocabulary(ids, self.info.config.vocab_size.unsigned_abs()),
        }
    }

    /// Where tokens of type 1 begin, if the model takes these types for so many tokens; else why it doesn't.
    pub(crate) fn check_types(&self, types: &[u32], tokens: usize) -> Result<Option<usize>, String> {
        let second = types.iter().position(|&kind| kind != 0);
        let is_pair = types.len() == tokens && types.is_sorted() && types.iter().all(|&kind| kind <= 1);
        if !is_pair || second.is_some() && self.token_types < 2 {
            return Err("are not one for each id, 0 and then 1 where the model has two".into());
        }
        Ok(second)
    }

    /// The token ids that the model sees for a text.
    pub(crate) fn token_ids(&self, text: &str, options: &EmbedOptions) -> Result<Vec<u32>, Error> {
        let prompt = self.prompts.resolve(&options.prompt)?;
        self.check_bytes(prompt, text)?;
        let tokens = self.text.encode(prompt, text, self.info.max_tokens);
        tokens.map(|tokens| tokens.ids).map_err(|source| Error::Input { index: 0, source })
    }

    /// A text's tokens with their places, none of them cut.
    pub(crate) fn tokenize_text(
        &self,
        text: &str,
        prompt: &Prompt,
        special: bool,
    ) -> Result<Vec<TextToken>, Error> {
        let prompt = self.prompts.resolve(prompt)?;
        self.check_bytes(prompt, text)?;
        let whole =
            if prompt.is_empty() { Cow::Borrowed(text) } else { Cow::Owned(format!("{prompt}{text}")) };
        self.text.spans(&whole, special).map_err(|source| Error::Input { index: 0, source })
    }

    /// Refuses a text with more bytes than one may have.
    pub(crate) fn check_bytes(&self, prompt: &str, text: &str) -> Result<(), Error> {
        let (bytes, max_bytes) = (prompt.len().saturating_add(text.len()), self.max_text_bytes);
        if bytes <= max_bytes {
            return Ok(());
        }
        Err(Error::Input { index: 0, source: InputError::TooManyBytes { bytes, max_bytes } })
    }

    /// The SHA-256 of each weights file, by name.
    pub(crate) fn weights_sha256(&self) -> Result<Vec<(String, String)>, Error> {
        let hash = |(name, file): (&String, &Arc<OpenFile>)| match file.sha256() {
            Ok(hash) => Ok((name.clone(), hash)),
            Err(error) => Err(Error::WeightsChanged {
                path: file.path().display().to_string(),
                reason: error.to_string(),
            }),
        };
        self.info.weights_files.iter().zip(&self.weights).map(hash).collect()
    }

    /// Every hidden state on the way of one text's tokens, f32 `[tokens, hidden]` each.
    pub(crate) fn hidden_states(&self, tokens: Vec<u32>) -> Result<Vec<Vec<f32>>, Error> {
        let mut states = self.engine.ask(move |model| model.hidden_states(&[&tokens]))?;
        Ok(states.texts.pop().unwrap_or_default())
    }

    /// Runs batches of the shapes that requests will make.
    pub(crate) fn warm_up(&self) -> Result<Vec<WarmUp>, Error> {
        let Info { config, max_tokens, batch_tokens, backend, .. } = &self.info;
        let shapes = warm_up::shapes(*backend, *max_tokens, *batch_tokens);
        let vocab_size = config.vocab_size.unsigned_abs();
        let run = |[texts, tokens]: [usize; 2]| {
            let ids = warm_up::texts(texts, tokens, vocab_size);
            self.engine.ask(move |model| warm_up::run(&ids, |ids| model.embed(ids)))
        };
        shapes.into_iter().map(run).collect()
    }

    /// Takes no more requests, and returns when the model is freed.
    pub(crate) fn shut_down(&self, queued: Shutdown) {
        self.engine.shut_down(match queued {
            Shutdown::Finish => Ending::Finish,
            Shutdown::Return => Ending::Return,
        });
    }
}
