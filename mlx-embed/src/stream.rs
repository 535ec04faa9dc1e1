//! Many texts, a window at a time.

use std::collections::VecDeque;
use std::future::Future;
use std::iter::Fuse;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use std::vec;

use futures_core::Stream;

use crate::engine::Admission;
use crate::error::{Error, InputError};
use crate::options::Embedding;
use crate::request::{Convert, Pending, Plan, Reply, Results, Sending, Shared, each};
use crate::runner::Inspect;

/// Texts of a window. Calls with more send them in windows, so that the model starts before the last is tokenised.
pub(crate) const WINDOW_TEXTS: usize = 256;

/// Bytes of text in a window for each token of a batch: about two batches' worth, so that texts of like length find
/// each other.
const WINDOW_BYTES_PER_TOKEN: usize = 8;

/// Windows that are under way at once: one runs, one waits, one is tokenised.
const WINDOWS: usize = 3;

/// The embeddings of an iterator's texts, in order. [`Embedder::embed_iter`](crate::Embedder::embed_iter) makes it.
///
/// Texts are drawn only as fast as they are embedded, so a few hundred are held at a time. After an error of one text
/// ([`Error::Input`], which has its index) it goes on with the next text. After any other error it ends.
#[derive(Debug)]
pub struct EmbedIter<I, R = Embedding> {
    windows: Windows<I, R>,
    index: usize,
}

impl<T: AsRef<str>, I: Iterator<Item = T>, R> EmbedIter<I, R> {
    pub(crate) fn new(windows: Windows<I, R>) -> Self {
        Self { windows, index: 0 }
    }
}

impl<T: AsRef<str>, I: Iterator<Item = T>, R> Iterator for EmbedIter<I, R> {
    type Item = Result<R, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let result = self.windows.next();
        self.of(result)
    }
}

impl<I, R> EmbedIter<I, R> {
    /// The next text's result, of which a failure says which text's it is.
    fn of(&mut self, result: Option<Result<Result<R, InputError>, Error>>) -> Option<Result<R, Error>> {
        let index = self.index;
        self.index += 1;
        Some(result?.and_then(|result| result.map_err(|source| Error::Input { index, source })))
    }
}

/// The embeddings of an iterator's texts, in order, as a stream.
/// [`Embedder::embed_stream`](crate::Embedder::embed_stream) makes it. It draws texts, and goes on after errors, as
/// [`EmbedIter`] does.
#[derive(Debug)]
pub struct EmbedStream<I, R = Embedding>(EmbedIter<I, R>);

impl<T: AsRef<str>, I: Iterator<Item = T>, R> EmbedStream<I, R> {
    pub(crate) fn new(texts: EmbedIter<I, R>) -> Self {
        Self(texts)
    }
}

/// Nothing in it is pinned.
impl<I, R> Unpin for EmbedStream<I, R> {}

impl<T: AsRef<str>, I: Iterator<Item = T>, R> Stream for EmbedStream<I, R> {
    type Item = Result<R, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let texts = &mut self.get_mut().0;
        let result = ready!(texts.windows.poll_next(context));
        Poll::Ready(texts.of(result))
    }
}

/// How long requests of a stream may take.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Patience {
    /// Each window so long.
    PerWindow(Option<Duration>),
    /// All of it until then: one call, which is finished once it is begun.
    Until(Option<Instant>),
}

/// Texts that are drawn, embedded and handed on in windows.
#[derive(Debug)]
pub(crate) struct Windows<I, R> {
    shared: Arc<Shared>,
    texts: Fuse<I>,
    plan: Option<Result<Plan, Error>>,
    patience: Patience,
    /// What keeps the engine from finishing before the last window is sent.
    hold: Option<Admission<dyn Inspect>>,
    convert: Convert<Results<R>>,
    under_way: VecDeque<Pending<Results<R>>>,
    ready: vec::IntoIter<Result<R, InputError>>,
}

impl<T: AsRef<str>, I: Iterator<Item = T>, R> Windows<I, R> {
    pub(crate) fn new(shared: &Arc<Shared>, texts: I, plan: Result<Plan, Error>, patience: Patience) -> Self
    where
        R: Reply,
    {
        let hold = match (patience, &plan) {
            (Patience::Until(_), Ok(plan)) => shared.engine.hold(&plan.ask(0, 0, false)),
            _ => None,
        };
        Self {
            shared: Arc::clone(shared),
            hold,
            texts: texts.fuse(),
            plan: Some(plan),
            patience,
            convert: each,
            under_way: VecDeque::new(),
            ready: Vec::new().into_iter(),
        }
    }

    /// Draws texts until enough windows are under way. `waits` says whether this thread waits for them anyway.
    fn fill(&mut self, waits: bool) {
        // Texts are drawn by code of the caller's. If that panics, those that it gave before are lost, and the results
        // of later ones would pass for theirs: so it ends then.
        let plan = self.plan.take();
        if let Some(Ok(plan)) = &plan {
            self.send(plan, waits);
        }
        self.plan = plan;
    }

    fn send(&mut self, plan: &Plan, waits: bool) {
        let window_bytes = self.shared.info.batch_tokens.saturating_mul(WINDOW_BYTES_PER_TOKEN);
        while self.under_way.len() < WINDOWS {
            let mut window = Vec::new();
            let mut bytes = 0;
            while window.len() < WINDOW_TEXTS && bytes < window_bytes {
                let Some(text) = self.texts.next() else { break };
                bytes += text.as_ref().len();
                window.push(text);
            }
            if window.is_empty() {
                self.hold = None;
                return;
            }
            let timeout = match self.patience {
                Patience::PerWindow(timeout) => timeout,
                Patience::Until(deadline) => {
                    deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
                }
            };
            let sending = Sending { timeout, waits, held: self.hold.is_some() };
            self.under_way.push_back(self.shared.send(&window, Ok(plan.clone()), sending, self.convert));
        }
    }
}

impl<T: AsRef<str>, I: Iterator<Item = T>, R> Iterator for Windows<I, R> {
    type Item = Result<Result<R, InputError>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(result) = self.ready.next() {
                return Some(Ok(result));
            }
            self.fill(true);
            let answer = match self.plan.take()? {
                Err(error) => Err(error),
                Ok(plan) => {
                    let answer = self.under_way.pop_front()?.wait();
                    self.plan = Some(Ok(plan));
                    answer
                }
            };
            if let Some(error) = self.take(answer) {
                return Some(Err(error));
            }
        }
    }
}

impl<T: AsRef<str>, I: Iterator<Item = T>, R> Windows<I, R> {
    /// As [`Iterator::next`], without waiting.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Result<R, InputError>, Error>>> {
        loop {
            if let Some(result) = self.ready.next() {
                return Poll::Ready(Some(Ok(result)));
            }
            self.fill(false);
            let answer = match self.plan.take() {
                None => return Poll::Ready(None),
                Some(Err(error)) => Err(error),
                Some(plan) => {
                    self.plan = Some(plan);
                    let Some(first) = self.under_way.front_mut() else { return Poll::Ready(None) };
                    let answer = ready!(Pin::new(first).poll(context));
                    self.under_way.pop_front();
                    answer
                }
            };
            if let Some(error) = self.take(answer) {
                return Poll::Ready(Some(Err(error)));
            }
        }
    }

    /// Takes a window's results, or ends with the error.
    fn take(&mut self, answer: Result<Results<R>, Error>) -> Option<Error> {
        match answer {
            Ok(results) => {
                self.ready = results.into_iter();
                None
            }
            Err(error) => {
                // What is still under way is taken back.
                self.plan = None;
                self.under_way.clear();
                Some(error)
            }
        }
    }
}
