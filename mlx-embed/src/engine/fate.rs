//! Whether an engine works, and what its end was.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::queue::Ending;
use super::{Text, TextQueue};
use crate::error::Error;

/// Whether an [`Embedder`](crate::Embedder) still works.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// It takes requests.
    Running,
    /// It takes requests, but not all of its GPUs work any more. Load the model again to use those that do again.
    Degraded {
        /// What happened to each lost GPU.
        lost: Vec<String>,
    },
    /// It was shut down.
    ShutDown,
    /// Its thread has died: after a panic, because the device stopped working, or because its weights files were written
    /// to. Load the model again.
    Dead {
        /// Why.
        reason: String,
    },
}

impl State {
    /// Whether it takes requests.
    #[must_use]
    pub fn takes_requests(&self) -> bool {
        matches!(self, Self::Running | Self::Degraded { .. })
    }
}

/// What both sides know about how it ended.
#[derive(Debug)]
pub(super) struct Fate {
    /// Why threads died, in that order, and how many there were.
    lost: Mutex<Vec<String>>,
    pub(super) threads: usize,
}

impl Fate {
    pub(super) fn new(threads: usize) -> Self {
        Self { lost: Mutex::default(), threads }
    }

    pub(super) fn lost(&self) -> MutexGuard<'_, Vec<String>> {
        // The list is whole after every step.
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread has died. The last one takes the queue along.
    pub(super) fn lose<S: ?Sized>(&self, reason: String, queue: &TextQueue<S>) {
        let is_last = {
            let mut lost = self.lost();
            lost.push(reason);
            lost.len() == self.threads
        };
        if is_last {
            self.tell(&queue.close(Ending::Return));
        }
    }

    /// Why nothing is done any more, unless it was shut down.
    pub(super) fn death(&self) -> Option<String> {
        let lost = self.lost();
        // The first reason is the cause of later ones.
        lost.first().filter(|_| lost.len() >= self.threads).cloned()
    }

    pub(super) fn reason(&self) -> String {
        self.death().unwrap_or_else(|| "it was shut down".into())
    }

    pub(super) fn error(&self) -> Error {
        Error::Stopped { reason: self.reason() }
    }

    /// Ends the requests that these texts belong to.
    pub(super) fn tell(&self, texts: &[Text]) {
        if !texts.is_empty() {
            tell(texts, &self.reason());
        }
    }
}

/// Ends the requests that these texts belong to, for this reason.
pub(super) fn tell(texts: &[Text], reason: &str) {
    for caller in texts.iter().map(|text| &text.caller) {
        // Once for each request: later failures of the same one change nothing.
        if !caller.ticket.is_done() {
            caller.ticket.fail(Error::Stopped { reason: reason.to_owned() });
        }
    }
}
