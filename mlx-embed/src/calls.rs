//! The ways to call a model, whatever it gives for a text.

use std::sync::Arc;
use std::time::Instant;

use crate::error::{Error, InputError};
use crate::file::OpenFile;
use crate::options::EmbedOptions;
use crate::request::{Convert, Pending, Reply, Results, Sending, Shared, all, each, one, unless_one_failed};
use crate::stream::{EmbedIter, Patience, WINDOW_TEXTS, Windows};

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
        let plan = self.plan(options, texts.len(), false);
        if texts.len() <= WINDOW_TEXTS {
            let sending = Sending { timeout: options.timeout, waits: true, held: false };
            return self.send(texts, plan, sending, each).wait();
        }
        let deadline = options.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
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
        let plan = self.plan(options, usize::MAX, false);
        EmbedIter::new(Windows::new(self, texts.into_iter(), plan, Patience::PerWindow(options.timeout)))
    }

    /// Texts that nobody waits for on this thread.
    pub(crate) fn submit<T: AsRef<str>, R>(
        self: &Arc<Self>,
        texts: &[T],
        options: &EmbedOptions,
        convert: Convert<R>,
    ) -> Pending<R> {
        let sending = Sending { timeout: options.timeout, ..Default::default() };
        self.send(texts, self.plan(options, texts.len(), true), sending, convert)
    }

    /// Token ids; `refuse` is what the call does by default when the queue is full.
    pub(crate) fn embed_ids<R: Reply>(
        self: &Arc<Self>,
        texts: Vec<Vec<u32>>,
        options: &EmbedOptions,
        refuse: bool,
    ) -> Pending<Vec<R>> {
        let check = |(index, ids): (usize, &Vec<u32>)| {
            let (tokens, max_tokens) = (ids.len(), self.info.max_tokens);
            let fits =
                if tokens > max_tokens { Err(InputError::TooLong { tokens, max_tokens }) } else { Ok(()) };
            fits.and_then(|()| self.check_ids(ids)).map_err(|source| Error::Input { index, source })
        };
        let checked = texts.iter().enumerate().try_for_each(check);
        let plan = checked.and_then(|()| self.plan(options, texts.len(), refuse));
        self.send_ids(texts, plan, options.timeout, all)
    }

    /// Whether the model takes these ids.
    pub(crate) fn check_ids(&self, ids: &[u32]) -> Result<(), InputError> {
        if ids.is_empty() {
            return Err(InputError::Empty);
        }
        InputError::check_vocabulary(ids, self.info.config.vocab_size.unsigned_abs())
    }

    /// The token ids that the model sees for a text.
    pub(crate) fn token_ids(&self, text: &str, options: &EmbedOptions) -> Result<Vec<u32>, Error> {
        let prompt = self.prompts.resolve(&options.prompt)?;
        let (bytes, max_bytes) = (prompt.len().saturating_add(text.len()), self.max_text_bytes);
        if bytes > max_bytes {
            return Err(Error::Input { index: 0, source: InputError::TooManyBytes { bytes, max_bytes } });
        }
        let tokens = self.text.encode(prompt, text, self.info.max_tokens);
        tokens.map(|tokens| tokens.ids).map_err(|source| Error::Input { index: 0, source })
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
}
