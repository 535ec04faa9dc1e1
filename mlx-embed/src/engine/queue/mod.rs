//! What waits for the model: requests in two lanes, bounded, in the order in which they came.
//!
//! The queue knows jobs by their tokens and deadlines only. It calls nobody back: jobs that it takes out for any other
//! reason than to be run are handed to the caller, who tells their owners without holding the queue's lock. It locks
//! with `super::sync` and nothing else, so that a test can run it under every order of its threads' steps.

mod lane;
mod pace;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use crate::batch::{Packing, Sharing};
use lane::Lane;
use pace::Pace;

/// Query batches that may pass a waiting bulk job before one of its own runs.
const QUERIES_PER_BULK: usize = 7;

/// Batches are not cut below this, however slow the model: smaller ones waste its time.
const LEAST_TOKENS: usize = 64;

/// One text.
pub(crate) trait Job {
    /// Tokens of it.
    fn tokens(&self) -> usize;
    /// Whether it may share a batch with `other`.
    fn goes_with(&self, other: &Self) -> bool;
}

/// Names a request within its queue; later ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RequestId(u64);

/// Which line a request stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QueueLane {
    Query,
    Bulk,
}

/// Jobs that came together.
#[derive(Debug)]
pub(crate) struct Request<J> {
    pub(crate) lane: QueueLane,
    pub(crate) deadline: Option<Instant>,
    pub(crate) jobs: VecDeque<J>,
    /// Whether it is refused when the lane is full.
    pub(crate) refusable: bool,
}

/// Why a request was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// There are so many jobs in the lane.
    Full {
        queued: usize,
    },
    Closed,
}

/// How a queue ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// What is queued is still run.
    Finish,
    /// What is queued is handed back.
    Return,
}

/// What is to be done next.
#[derive(Debug)]
pub(crate) enum Work<J, T> {
    /// A task of the model's owner.
    Task(T),
    /// Jobs to run together, and those that are too late. One of the two may be empty.
    Batch(Batch<J>),
    /// Nothing any more.
    End,
}

#[derive(Debug)]
pub(crate) struct Batch<J> {
    pub(crate) lane: QueueLane,
    pub(crate) jobs: Vec<J>,
    pub(crate) expired: Vec<J>,
}

/// What a queue may hold, and how batches are cut.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Jobs in a lane.
    pub(crate) capacity: usize,
    /// Tokens in a batch.
    pub(crate) batch_tokens: usize,
    /// Tokens in a batch from which on company makes none of them cheaper: it would only be later for the first.
    pub(crate) enough_tokens: usize,
    /// How long a batch should take while others wait.
    pub(crate) batch_time: Duration,
    pub(crate) sharing: Sharing,
}

/// Requests for one thread that runs them; `T` is whatever else that thread is asked to do.
#[derive(Debug)]
pub(crate) struct Queue<J, T> {
    limits: Limits,
    state: Mutex<State<J, T>>,
    work: Condvar,
}

#[derive(Debug)]
struct State<J, T> {
    query: Lane<J>,
    bulk: Lane<J>,
    tasks: VecDeque<T>,
    next_id: u64,
    /// Query batches since bulk jobs began to wait.
    passed: usize,
    pace: Pace,
    closed: bool,
}

impl<J: Job, T> Queue<J, T> {
    pub(crate) fn new(limits: Limits) -> Self {
        let state = State {
            query: Lane::new(),
            bulk: Lane::new(),
            tasks: VecDeque::new(),
            next_id: 0,
            passed: 0,
            pace: Pace::default(),
            closed: false,
        };
        Self { limits, state: Mutex::new(state), work: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<J, T>> {
        // Nothing below panics halfway through a change, so what another thread's panic left is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a request at the end of its lane.
    pub(crate) fn push(&self, request: Request<J>) -> Result<RequestId, Refused> {
        let mut state = self.lock();
        state.check_room(&self.limits, request.lane, request.jobs.len(), request.refusable)?;
        let id = RequestId(state.next_id);
        state.next_id += 1;
        state.lane(request.lane).push(id, request);
        drop(state);
        self.work.notify_one();
        Ok(id)
    }

    /// Whether `jobs` more would be taken now: a look before the work of making them.
    pub(crate) fn check_room(&self, lane: QueueLane, jobs: usize) -> Result<(), Refused> {
        self.lock().check_room(&self.limits, lane, jobs, true)
    }

    /// Asks for a task, which goes before all jobs. Hands it back if the queue is closed.
    pub(crate) fn ask(&self, task: T) -> Result<(), T> {
        let mut state = self.lock();
        if state.closed {
            return Err(task);
        }
        state.tasks.push_back(task);
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    /// Takes out what is left of a request.
    pub(crate) fn cancel(&self, id: RequestId) -> Vec<J> {
        let mut state = self.lock();
        let jobs = state.query.remove(id);
        if jobs.is_empty() { state.bulk.remove(id) } else { jobs }
    }

    /// Takes out jobs that need not be run any more.
    pub(crate) fn extract(&self, mut wanted: impl FnMut(&J) -> bool) -> Vec<J> {
        let mut jobs = Vec::new();
        let mut state = self.lock();
        state.query.extract(&mut jobs, &mut wanted);
        state.bulk.extract(&mut jobs, &mut wanted);
        jobs
    }

    /// Waits for work. For the one thread that does it.
    pub(crate) fn next(&self) -> Work<J, T> {
        let mut state = self.lock();
        loop {
            if let Some(task) = state.tasks.pop_front() {
                return Work::Task(task);
            }
            let batch = state.pick(&self.limits);
            if !batch.jobs.is_empty() || !batch.expired.is_empty() {
                return Work::Batch(batch);
            }
            if state.closed {
                return Work::End;
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Says how long a batch took, which makes later decisions about time better.
    pub(crate) fn record(&self, tokens: usize, took: Duration) {
        self.lock().pace.record(tokens, took, Instant::now());
    }

    /// Takes no more requests, and hands back what is queued unless it is to be finished.
    pub(crate) fn close(&self, ending: Ending) -> Vec<J> {
        let mut returned = Vec::new();
        let mut state = self.lock();
        state.closed = true;
        if ending == Ending::Return {
            state.query.clear(&mut returned);
            state.bulk.clear(&mut returned);
            // Whoever asked for a task learns from its end that there will be no answer.
            state.tasks.clear();
        }
        drop(state);
        self.work.notify_one();
        returned
    }

    /// Whether it takes no more requests.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Jobs in both lanes: queries, bulk.
    pub(crate) fn depth(&self) -> [usize; 2] {
        let state = self.lock();
        [state.query.jobs(), state.bulk.jobs()]
    }
}

impl<J: Job, T> State<J, T> {
    fn lane(&mut self, lane: QueueLane) -> &mut Lane<J> {
        match lane {
            QueueLane::Query => &mut self.query,
            QueueLane::Bulk => &mut self.bulk,
        }
    }

    fn check_room(
        &mut self,
        limits: &Limits,
        lane: QueueLane,
        jobs: usize,
        refusable: bool,
    ) -> Result<(), Refused> {
        if self.closed {
            return Err(Refused::Closed);
        }
        let queued = self.lane(lane).jobs();
        // Whatever its size, a request finds room in an empty lane.
        let full = queued > 0 && queued + jobs > limits.capacity;
        if full && refusable { Err(Refused::Full { queued }) } else { Ok(()) }
    }

    fn pick(&mut self, limits: &Limits) -> Batch<J> {
        let now = Instant::now();
        let mut expired = Vec::new();
        self.query.expire(now, &mut expired);
        self.bulk.expire(now, &mut expired);
        let bulk_waits = self.bulk.jobs() > 0;
        let bulk_turn = bulk_waits && (self.query.jobs() == 0 || self.passed >= QUERIES_PER_BULK);
        let lane = if bulk_turn { QueueLane::Bulk } else { QueueLane::Query };
        self.passed = if bulk_waits && !bulk_turn { self.passed + 1 } else { 0 };

        let contended = self.query.requests() + self.bulk.requests() > 1;
        let budget = match self.pace.tokens_within(limits.batch_time) {
            // While others wait, and in the bulk lane, where a query may come any time, a batch should be over soon.
            Some(tokens) if contended || bulk_turn => tokens.max(LEAST_TOKENS).min(limits.batch_tokens),
            _ => limits.batch_tokens,
        };
        let mut packing = Packing::new(budget, limits.sharing);
        let Self { query, bulk, pace, .. } = self;
        let lane_of = if bulk_turn { bulk } else { query };
        let jobs = lane_of.pick(&mut packing, limits.enough_tokens, contended, pace, now, &mut expired);
        Batch { lane, jobs, expired }
    }
}
