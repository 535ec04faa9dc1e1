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
    /// Bytes that it takes while it waits.
    fn bytes(&self) -> usize;
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
    pub(crate) deadline: Option<Instant>,
    pub(crate) jobs: VecDeque<J>,
}

/// A request before its jobs are made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask {
    pub(crate) lane: QueueLane,
    /// How many jobs there will be at most.
    pub(crate) jobs: usize,
    /// Bytes of what they are made of.
    pub(crate) bytes: usize,
    /// Whether it is refused when the lane is full.
    pub(crate) refusable: bool,
    /// Whether it is part of a call that has a [`Room`] of its own, and so is finished with it.
    pub(crate) held: bool,
}

/// Room in a queue for jobs that are still being made. A queue that is to finish waits for whoever has one, so it goes
/// back by [`Queue::push`] or [`Queue::leave`].
#[derive(Debug)]
#[must_use = "a queue waits for it to come back"]
pub(crate) struct Room {
    lane: QueueLane,
    jobs: usize,
    bytes: usize,
}

/// Why a request was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// There are so many jobs in the lane, of so many bytes.
    Full {
        queued: usize,
        bytes: usize,
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
    /// Bytes of the jobs in a lane.
    pub(crate) bytes: usize,
    /// Tokens in a batch.
    pub(crate) batch_tokens: usize,
    /// Tokens in a batch from which on company makes none of them cheaper: it would only be later for the first.
    pub(crate) enough_tokens: usize,
    /// How long a batch should take while others wait.
    pub(crate) batch_time: Duration,
    pub(crate) sharing: Sharing,
}

/// Requests for the threads that run them; `T` is whatever else one of these threads is asked to do.
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
    /// Rooms that are out.
    rooms: usize,
    closed: Option<Ending>,
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
            rooms: 0,
            closed: None,
        };
        Self { limits, state: Mutex::new(state), work: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<J, T>> {
        // Nothing below panics halfway through a change, so what another thread's panic left is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes room for jobs, before the work of making them.
    pub(crate) fn enter(&self, ask: &Ask) -> Result<Room, Refused> {
        let mut state = self.lock();
        state.check_room(&self.limits, ask)?;
        let Ask { lane, jobs, bytes, .. } = *ask;
        state.lane(lane).expect(jobs, bytes);
        state.rooms += 1;
        Ok(Room { lane, jobs, bytes })
    }

    /// Gives room back.
    pub(crate) fn leave(&self, room: Room) {
        self.lock().give_back(room);
        // It may have been the last that the end waited for.
        self.work.notify_all();
    }

    /// Puts a request at the end of its lane. Hands its jobs back if the queue returns what is queued.
    pub(crate) fn push(&self, room: Room, request: Request<J>) -> Result<RequestId, VecDeque<J>> {
        let mut state = self.lock();
        let lane = room.lane;
        state.give_back(room);
        if state.closed == Some(Ending::Return) {
            drop(state);
            return Err(request.jobs);
        }
        let id = RequestId(state.next_id);
        state.next_id += 1;
        state.lane(lane).push(id, request);
        drop(state);
        self.work.notify_one();
        Ok(id)
    }

    /// Asks for a task, which goes before all jobs. Hands it back if the queue is closed.
    pub(crate) fn ask(&self, task: T) -> Result<(), T> {
        let mut state = self.lock();
        if state.closed.is_some() {
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

    /// Waits for work. For the threads that do it.
    pub(crate) fn next(&self) -> Work<J, T> {
        let mut state = self.lock();
        loop {
            if let Some(task) = state.tasks.pop_front() {
                return Work::Task(task);
            }
            let batch = state.pick(&self.limits);
            if !batch.jobs.is_empty() || !batch.expired.is_empty() {
                let more = state.query.jobs() + state.bulk.jobs() > 0;
                drop(state);
                if more {
                    // They came with one call, of which one thread was told.
                    self.work.notify_one();
                }
                return Work::Batch(batch);
            }
            let over = match state.closed {
                None => false,
                // What was taken is finished, also where it is still being made.
                Some(Ending::Finish) => state.rooms == 0,
                Some(Ending::Return) => true,
            };
            if over {
                return Work::End;
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Says how long a batch took that ended at `end`, which makes later decisions about time better.
    pub(crate) fn record(&self, tokens: usize, took: Duration, end: Instant) {
        self.lock().pace.record(tokens, took, end);
    }

    /// Takes no more requests, and hands back what is queued unless it is to be finished.
    pub(crate) fn close(&self, ending: Ending) -> Vec<J> {
        let mut returned = Vec::new();
        let mut state = self.lock();
        if state.closed != Some(Ending::Return) {
            state.closed = Some(ending);
        }
        if ending == Ending::Return {
            state.query.clear(&mut returned);
            state.bulk.clear(&mut returned);
            // Whoever asked for a task learns from its end that there will be no answer.
            state.tasks.clear();
        }
        drop(state);
        self.work.notify_all();
        returned
    }

    /// Whether it takes no more requests.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed.is_some()
    }

    /// Whether it hands back what comes.
    pub(crate) fn returns(&self) -> bool {
        self.lock().closed == Some(Ending::Return)
    }

    /// Jobs in both lanes, those that are still being made included: queries, bulk.
    pub(crate) fn depth(&self) -> [usize; 2] {
        let state = self.lock();
        [state.query.depth(), state.bulk.depth()]
    }
}

impl<J: Job, T> State<J, T> {
    fn lane(&mut self, lane: QueueLane) -> &mut Lane<J> {
        match lane {
            QueueLane::Query => &mut self.query,
            QueueLane::Bulk => &mut self.bulk,
        }
    }

    fn give_back(&mut self, room: Room) {
        self.lane(room.lane).expect_no_more(room.jobs, room.bytes);
        self.rooms -= 1;
    }

    fn check_room(&mut self, limits: &Limits, ask: &Ask) -> Result<(), Refused> {
        match self.closed {
            None => {}
            Some(Ending::Finish) if ask.held => {}
            Some(_) => return Err(Refused::Closed),
        }
        let lane = self.lane(ask.lane);
        let (queued, bytes) = (lane.depth(), lane.bytes());
        let over = queued.saturating_add(ask.jobs) > limits.capacity
            || bytes.saturating_add(ask.bytes) > limits.bytes;
        // Whatever its size, a request finds room in an empty lane.
        if ask.refusable && queued > 0 && over { Err(Refused::Full { queued, bytes }) } else { Ok(()) }
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
