//! Many texts, a window at a time.

use std::collections::VecDeque;
use std::iter::Fuse;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::vec;

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

/// The results of an iterator's texts, in order; [`Embedder::embed_iter`](crate::Embedder::embed_iter) makes it.
///
/// Texts are drawn only as fast as they are embedded: a few hundred are held at a time. After an error that concerns
/// one text ([`Error::Input`]) it goes on with the next; after any other it ends.
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
        let result = self.windows.next()?;
        let index = self.index;
        self.index += 1;
        Some(result.and_then(|result| result.map_err(|source| Error::Input { index, source })))
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

    /// Draws texts until enough windows are under way.
    fn fill(&mut self) {
        let Some(Ok(plan)) = &self.plan else { return };
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
            let sending = Sending { timeout, waits: true, held: self.hold.is_some() };
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
            self.fill();
            let answer = match self.plan.take()? {
                Err(error) => Err(error),
                Ok(plan) => {
                    let answer = self.under_way.pop_front()?.wait();
                    self.plan = Some(Ok(plan));
                    answer
                }
            };
            match answer {
                Ok(results) => self.ready = results.into_iter(),
                Err(error) => {
                    // What is still under way is taken back.
                    self.plan = None;
                    self.under_way.clear();
                    return Some(Err(error));
                }
            }
        }
    }
}
