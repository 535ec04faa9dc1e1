//! A caller's request, and its texts on their way.

use std::cell::Cell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::output::Output;
use super::queue::{Job, RequestId};
use super::ticket::Ticket;
use crate::batch::{Entry, Reading};
use crate::error::{Error, InputError};
use crate::panics::quietly;

/// A text's result as the model gives it, and how it came about.
#[derive(Debug, Clone)]
pub(crate) struct Computed {
    pub(crate) output: Output,
    /// What the model saw.
    pub(crate) ids: Arc<[u32]>,
    pub(crate) truncated: bool,
    pub(crate) cached: bool,
    pub(crate) queue_time: Duration,
    pub(crate) device_time: Duration,
}

/// What becomes of a text.
pub(crate) type Outcome = Result<Computed, InputError>;

/// Who asked, and where the answer goes.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) ticket: Ticket<Outcome, Error>,
    pub(crate) arrived: Instant,
    pub(crate) deadline: Option<Instant>,
    pub(super) span: tracing::Span,
    /// Its place in the queue, once it has one.
    pub(super) id: OnceLock<RequestId>,
    pub(super) gone: AtomicBool,
}

impl Caller {
    /// One that waits for so many texts.
    pub(crate) fn new(texts: usize, timeout: Option<Duration>) -> Arc<Self> {
        let arrived = Instant::now();
        Arc::new(Self {
            ticket: Ticket::new(texts),
            arrived,
            // A time beyond what the clock can count is none.
            deadline: timeout.and_then(|timeout| arrived.checked_add(timeout)),
            span: quietly(tracing::Span::current).unwrap_or_else(tracing::Span::none),
            id: OnceLock::new(),
            gone: AtomicBool::new(false),
        })
    }

    /// Whether nobody waits for the answer any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }

    /// Whether its time is over.
    pub(crate) fn is_late(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }

    pub(crate) fn too_late(&self) -> Error {
        Error::DeadlineExceeded { waited: self.arrived.elapsed() }
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        // The last handle of a span tells its subscriber.
        let span = std::mem::replace(&mut self.span, tracing::Span::none());
        quietly(|| drop(span));
    }
}

/// The beginning that a text has in common with others, and whose keys and values may be kept.
#[derive(Debug, Clone)]
pub(crate) struct SharedPrompt {
    /// The prompt's own tokens.
    pub(crate) ids: Arc<[u32]>,
    /// How many of them the text begins with.
    pub(crate) shared: usize,
}

/// A tokenised text on its way.
#[derive(Debug)]
pub(crate) struct Text {
    pub(super) ids: Arc<[u32]>,
    pub(super) hash: u64,
    pub(super) reading: Reading,
    pub(super) prompt: Option<SharedPrompt>,
    pub(super) truncated: bool,
    /// Which of its caller's texts it is.
    pub(super) slot: usize,
    pub(super) caller: Arc<Caller>,
    settled: Cell<bool>,
}

impl Text {
    pub(crate) fn new(
        caller: &Arc<Caller>,
        slot: usize,
        ids: Arc<[u32]>,
        reading: Reading,
        truncated: bool,
        prompt: Option<SharedPrompt>,
    ) -> Self {
        let mut hasher = DefaultHasher::new();
        (&ids, reading).hash(&mut hasher);
        let (hash, caller) = (hasher.finish(), Arc::clone(caller));
        Self { hash, ids, reading, prompt, truncated, slot, caller, settled: Cell::new(false) }
    }

    /// Brings its outcome to its caller.
    pub(super) fn settle(&self, outcome: Outcome) {
        self.settled.set(true);
        self.caller.ticket.settle(self.slot, outcome);
    }

    /// It, or what of it follows its first `skipped` tokens.
    pub(super) fn entry(&self, skipped: usize) -> Entry<'_> {
        Entry { ids: &self.ids[skipped..], reading: self.reading }
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.hash == other.hash && self.ids == other.ids && self.reading == other.reading
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        // However it came to this, its caller must not wait for ever. A failure that is told already stays.
        if !self.settled.get() && !self.caller.is_gone() {
            self.caller.ticket.fail(given_up());
        }
    }
}

/// The error of a request that something in this process let go.
pub(crate) fn given_up() -> Error {
    Error::Stopped { reason: "the request was dropped on its way, after a panic; see the log".into() }
}

impl Job for Text {
    fn tokens(&self) -> usize {
        self.ids.len()
    }

    fn bytes(&self) -> usize {
        size_of_val(&*self.ids)
    }

    fn goes_with(&self, other: &Self) -> bool {
        let same_prompt = match (&self.prompt, &other.prompt) {
            (None, None) => true,
            (Some(a), Some(b)) => a.shared == b.shared && a.ids == b.ids,
            _ => false,
        };
        same_prompt && self.reading.left_out == other.reading.left_out
    }
}
