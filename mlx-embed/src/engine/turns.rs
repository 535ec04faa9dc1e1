//! Jobs of many steps that share a few threads.
//!
//! A thread takes a job, does one step and puts it back at its lane's end, so that jobs go on side by side whatever
//! their lengths. Queries go before bulk as in the queue. Steps that may take long never have all threads at once, so
//! that a short one waits for no long one. It locks with `super::sync` only.

use std::collections::VecDeque;

use super::queue::QueueLane;
use super::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Query steps that may pass a waiting bulk job before one of its own.
const QUERIES_PER_BULK: usize = 7;

/// A job in steps.
pub(crate) trait Steps {
    fn lane(&self) -> QueueLane;
    /// Whether the next step may take long.
    fn is_long(&self) -> bool;
}

/// Jobs that wait for a thread.
#[derive(Debug)]
pub(crate) struct Turns<J> {
    threads: usize,
    state: Mutex<State<J>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<J> {
    query: VecDeque<J>,
    bulk: VecDeque<J>,
    /// Query steps since bulk jobs began to wait.
    passed: usize,
    /// Long steps that are being done.
    long: usize,
    closed: bool,
}

/// A step that somebody does.
#[derive(Debug)]
#[must_use = "it goes back when the step is done"]
pub(crate) struct Turn {
    long: bool,
}

impl<J: Steps> Turns<J> {
    /// For so many threads, two at least.
    pub(crate) fn new(threads: usize) -> Self {
        let state =
            State { query: VecDeque::new(), bulk: VecDeque::new(), passed: 0, long: 0, closed: false };
        Self { threads: threads.max(2), state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<J>> {
        // No change below stops halfway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a job at its lane's end. Hands it back if there will be no more turns.
    pub(crate) fn push(&self, job: J) -> Result<(), J> {
        let mut state = self.lock();
        if state.closed {
            return Err(job);
        }
        state.lane(job.lane()).push_back(job);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Waits for a job whose turn it is; `None` when there are no more.
    pub(crate) fn next(&self) -> Option<(J, Turn)> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(job) = state.pick(self.threads - 1) {
                let turn = Turn { long: job.is_long() };
                state.long += usize::from(turn.long);
                return Some((job, turn));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends a turn.
    pub(crate) fn done(&self, turn: Turn) {
        if turn.long {
            self.lock().long -= 1;
            self.changed.notify_all();
        }
    }

    /// Ends all turns, and hands back the jobs that wait.
    pub(crate) fn close(&self) -> Vec<J> {
        let mut state = self.lock();
        state.closed = true;
        let State { query, bulk, .. } = &mut *state;
        let jobs = query.drain(..).chain(bulk.drain(..)).collect();
        drop(state);
        self.changed.notify_all();
        jobs
    }
}

impl<J: Steps> State<J> {
    fn lane(&mut self, lane: QueueLane) -> &mut VecDeque<J> {
        match lane {
            QueueLane::Query => &mut self.query,
            QueueLane::Bulk => &mut self.bulk,
        }
    }

    /// The first job whose step may begin now, of the lane whose turn it is, else of the other.
    fn pick(&mut self, most_long: usize) -> Option<J> {
        let allowed = self.long < most_long;
        let first = |jobs: &VecDeque<J>| jobs.iter().position(|job| allowed || !job.is_long());
        let (query, bulk) = (first(&self.query), first(&self.bulk));
        let bulk_turn = bulk.is_some() && (query.is_none() || self.passed >= QUERIES_PER_BULK);
        self.passed = if bulk.is_some() && !bulk_turn { self.passed + 1 } else { 0 };
        match (bulk_turn, query, bulk) {
            (true, _, Some(at)) => self.bulk.remove(at),
            (false, Some(at), _) => self.query.remove(at),
            _ => None,
        }
    }
}
