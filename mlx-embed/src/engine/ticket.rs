//! What a request's caller holds: where the results of its texts arrive.

use std::panic::{self, AssertUnwindSafe};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// One outcome `V` a text, or one failure `F` of the whole request.
#[derive(Debug)]
pub(crate) struct Ticket<V, F> {
    state: Mutex<State<V, F>>,
    done: Condvar,
}

#[derive(Debug)]
struct State<V, F> {
    outcomes: Vec<Option<V>>,
    missing: usize,
    failure: Option<F>,
    waker: Option<Waker>,
}

impl<V, F> State<V, F> {
    fn is_done(&self) -> bool {
        self.failure.is_some() || self.missing == 0
    }

    /// The result. Who asks for it again is told that there are no outcomes, and doesn't wait for any.
    fn take(&mut self) -> Result<Vec<V>, F> {
        self.missing = 0;
        let outcomes = std::mem::take(&mut self.outcomes);
        match self.failure.take() {
            Some(failure) => Err(failure),
            None => Ok(outcomes.into_iter().flatten().collect()),
        }
    }
}

impl<V, F> Ticket<V, F> {
    /// A ticket for so many texts.
    pub(crate) fn new(texts: usize) -> Self {
        let outcomes = (0..texts).map(|_| None).collect();
        let state = State { outcomes, missing: texts, failure: None, waker: None };
        Self { state: Mutex::new(state), done: Condvar::new() }
    }

    /// Whether the system promises memory for the outcomes of so many texts.
    pub(crate) fn has_memory(texts: usize) -> bool {
        Vec::<Option<V>>::new().try_reserve_exact(texts).is_ok()
    }

    fn lock(&self) -> MutexGuard<'_, State<V, F>> {
        // No change below stops halfway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the outcome of the text in `slot`. Later ones for the same text, or after a failure, change nothing.
    pub(crate) fn settle(&self, slot: usize, outcome: V) {
        self.change(|state| {
            if let (None, Some(place @ None)) = (&state.failure, state.outcomes.get_mut(slot)) {
                *place = Some(outcome);
                state.missing -= 1;
            }
        });
    }

    /// Ends the request, unless it has ended.
    pub(crate) fn fail(&self, failure: F) {
        self.change(|state| {
            // A request without texts has an end from the start, and may still turn out to have a wrong option.
            if state.failure.is_none() && (state.missing > 0 || state.outcomes.is_empty()) {
                state.failure = Some(failure);
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut State<V, F>)) {
        let mut state = self.lock();
        change(&mut state);
        let waker = if state.is_done() { state.waker.take() } else { None };
        let done = state.is_done();
        drop(state);
        if done {
            self.done.notify_all();
        }
        // Without the lock: a waker may run the woken task at once, which looks here again. And whatever a waker does,
        // other requests' results are still to be delivered.
        if let Some(waker) = waker {
            alone(|| waker.wake());
        }
    }

    /// Waits until the request has ended or, if there is one, until the deadline: then the result is `None`.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> Option<Result<Vec<V>, F>> {
        let mut state = self.lock();
        while !state.is_done() {
            state = match deadline {
                None => self.done.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    self.done.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        Some(state.take())
    }

    /// As a future does it. The result is handed out once.
    pub(crate) fn poll(&self, context: &mut Context<'_>) -> Poll<Result<Vec<V>, F>> {
        {
            let mut state = self.lock();
            if state.is_done() {
                return Poll::Ready(state.take());
            }
            if state.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                return Poll::Pending;
            }
        }
        // Without the lock: copying and dropping a waker is somebody else's code, which may look here.
        let waker = context.waker().clone();
        let mut state = self.lock();
        if state.is_done() {
            return Poll::Ready(state.take());
        }
        let before = state.waker.replace(waker);
        drop(state);
        drop(before);
        Poll::Pending
    }

    /// Whether the request has ended.
    pub(crate) fn is_done(&self) -> bool {
        self.lock().is_done()
    }
}

impl<V, F> Drop for Ticket<V, F> {
    fn drop(&mut self) {
        // The last hold on a ticket may be that of the engine's thread.
        let waker = self.lock().waker.take();
        alone(|| drop(waker));
    }
}

/// Runs what is a waker's own. Its panic, and what the panic carries, which is dropped in somebody else's way as well,
/// concern nobody here.
fn alone(work: impl FnOnce()) {
    if let Err(payload) = panic::catch_unwind(AssertUnwindSafe(work)) {
        std::mem::forget(payload);
    }
}
