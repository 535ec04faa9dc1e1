//! Moments that something is to happen at.
//!
//! Like the queue it locks with `super::sync` only, and calls nobody back: what is due is handed to the one thread that
//! asks for it.

use std::collections::BTreeMap;
use std::time::Instant;

use super::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What is to happen, by when.
#[derive(Debug)]
pub(crate) struct Timer<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<T> {
    set: BTreeMap<Alarm, T>,
    next: u64,
    closed: bool,
}

/// Names what was set; an earlier one is smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Alarm {
    at: Instant,
    number: u64,
}

impl<T> Timer<T> {
    pub(crate) fn new() -> Self {
        let state = State { set: BTreeMap::new(), next: 0, closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // No change below stops halfway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands `what` out at `at`, unless it is taken back before.
    pub(crate) fn set(&self, at: Instant, what: T) -> Alarm {
        let mut state = self.lock();
        let alarm = Alarm { at, number: state.next };
        state.next += 1;
        state.set.insert(alarm, what);
        let is_first = state.set.first_key_value().is_some_and(|(&first, _)| first == alarm);
        drop(state);
        if is_first {
            self.changed.notify_all();
        }
        alarm
    }

    /// Takes back what was set, if it was not handed out.
    pub(crate) fn take_back(&self, alarm: Alarm) -> Option<T> {
        self.lock().set.remove(&alarm)
    }

    /// Waits for what is due next; `None` when the timer is closed.
    pub(crate) fn next(&self) -> Option<T> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            let first = state.set.first_key_value().map(|(alarm, _)| alarm.at);
            state = match first {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(at) => {
                    let left = at.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return state.set.pop_first().map(|(_, what)| what);
                    }
                    self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Ends whoever waits, and hands back what was set.
    pub(crate) fn close(&self) -> Vec<T> {
        let mut state = self.lock();
        state.closed = true;
        let set = std::mem::take(&mut state.set);
        drop(state);
        self.changed.notify_all();
        set.into_values().collect()
    }
}
