//! Between callers on any thread and the thread that owns a model, or several that each have it on a device of their own.
//!
//! Callers take room, make requests of tokenised texts and hold a [`Ticket`] for each. [`queue`] decides what runs
//! together and when, [`worker`] runs it, and results go back through the tickets. Every request ends: with its results,
//! or with an error when it is too late, the engine is shut down or its thread dies. That is by construction: a [`Text`]
//! that is dropped without a result fails its request.

mod cache;
mod crew;
mod fate;
mod meters;
mod model;
mod output;
mod prefixes;
pub(crate) mod queue;
mod request;
mod sync;
mod ticket;
mod timer;
pub(crate) mod turns;
mod worker;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crate::error::Error;
use crate::mlx::Process;
use crate::panics::{panic_message, quietly};

pub(crate) use cache::VectorCache;
pub(crate) use crew::Crew;
use fate::Fate;
pub use fate::State;
pub(crate) use meters::{Ended, Meters};
pub(crate) use model::{Model, Outputs};
pub(crate) use output::Output;
use queue::{Ask, Ending, Job, Limits, Queue, Refused, Request, Room};
pub(crate) use request::{Caller, Computed, Outcome, SharedPrompt, Text, given_up};
pub(crate) use ticket::Ticket;
pub(crate) use timer::Alarm;
use timer::Timer;
use worker::{Task, Worker};

pub(crate) type TextQueue<S> = Queue<Text, Task<S>>;

/// What [`Engine::start`] needs besides the model.
#[derive(Debug, Clone)]
pub(crate) struct EngineOptions {
    pub(crate) limits: Limits,
    pub(crate) cache: Option<Arc<VectorCache>>,
    /// Bytes of keys and values of prompts to keep.
    pub(crate) prompt_cache: usize,
    pub(crate) meters: Arc<Meters>,
}

/// Room that a request has in the queue while its texts are tokenised. It goes back when this is dropped.
pub(crate) struct Admission<S: ?Sized + 'static> {
    queue: Arc<TextQueue<S>>,
    room: Option<Room>,
}

impl<S: ?Sized + 'static> std::fmt::Debug for Admission<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admission").field("room", &self.room).finish_non_exhaustive()
    }
}

impl<S: ?Sized + 'static> Drop for Admission<S> {
    fn drop(&mut self) {
        if let Some(room) = self.room.take() {
            self.queue.leave(room);
        }
    }
}

const FORKED: &str = "this process is a fork of the one that loaded the model, and has none of its threads: load it here, \
                      after forking";

/// Fails in forks of a process: they have none of its threads, and what these held while it was forked is held for ever.
pub(crate) fn check_process(process: Process) -> Result<(), Error> {
    if process.is_this() { Ok(()) } else { Err(Error::Stopped { reason: FORKED.into() }) }
}

/// The queue and the threads behind it. They end, and free the model, when this is dropped. `S` is what is seen of the model.
pub(crate) struct Engine<S: ?Sized + 'static> {
    queue: Arc<TextQueue<S>>,
    fate: Arc<Fate>,
    timer: Arc<Timer<Weak<Caller>>>,
    /// Whether the timer's thread runs; it starts with the first alarm.
    timer_thread: OnceLock<bool>,
    threads: Mutex<Vec<WorkerThread>>,
    crew: Crew,
    /// The process that has the threads.
    process: Process,
}

#[derive(Debug)]
struct WorkerThread {
    handle: JoinHandle<()>,
    /// Tells that the thread is done but won't end.
    sleeps: mpsc::Receiver<()>,
}

/// An engine whose model is still being loaded.
pub(crate) struct Starting<S: ?Sized + 'static> {
    engine: Engine<S>,
    /// What each thread says.
    started: mpsc::Receiver<Result<(), Error>>,
}

impl<S: ?Sized + 'static> Starting<S> {
    /// Waits for the model.
    pub(crate) fn wait(self) -> Result<Engine<S>, Error> {
        for _ in 0..self.engine.fate.threads {
            let panicked = |_| Error::Stopped { reason: "it panicked while loading".into() };
            self.started.recv().map_err(panicked)??;
        }
        Ok(self.engine)
    }
}

impl<S: ?Sized + 'static> Engine<S> {
    /// Loads the model as often as there are `loads`, each on a thread of its own.
    pub(crate) fn start<M: Model<Seen = S>>(
        loads: Vec<impl FnOnce() -> Result<M, Error> + Send + 'static>,
        options: &EngineOptions,
    ) -> Result<Starting<S>, Error> {
        let (started, start) = mpsc::sync_channel(loads.len());
        let engine = Self {
            queue: Arc::new(Queue::new(options.limits)),
            fate: Arc::new(Fate::new(loads.len())),
            timer: Arc::new(Timer::new()),
            timer_thread: OnceLock::new(),
            threads: Mutex::default(),
            crew: Crew::new(),
            process: Process::this()?,
        };
        for load in loads {
            // A failure here ends those that were started.
            let thread = engine.start_thread(load, started.clone(), options.clone())?;
            engine.threads().push(thread);
        }
        Ok(Starting { engine, started: start })
    }

    fn threads(&self) -> MutexGuard<'_, Vec<WorkerThread>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start_thread<M: Model<Seen = S>>(
        &self,
        load: impl FnOnce() -> Result<M, Error> + Send + 'static,
        started: mpsc::SyncSender<Result<(), Error>>,
        options: EngineOptions,
    ) -> Result<WorkerThread, Error> {
        let (asleep, sleeps) = mpsc::sync_channel(1);
        let (queue, fate, crew) = (Arc::clone(&self.queue), Arc::clone(&self.fate), self.crew);
        let body = move || {
            crew.enter();
            match load() {
                Ok(model) => {
                    // Nobody to tell means that the engine is gone, and its queue closed.
                    let _ = started.send(Ok(()));
                    drop(started);
                    Worker::new(model, queue, fate, options).run();
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            }
            if !M::may_end_thread() {
                let _ = asleep.send(());
                loop {
                    thread::park();
                }
            }
        };
        let handle = thread::Builder::new()
            .name("mlx-embed".into())
            .spawn(body)
            .map_err(|error| Error::Stopped { reason: format!("its thread could not start: {error}") })?;
        Ok(WorkerThread { handle, sleeps })
    }

    /// Takes room for a request. What can't be had fails the caller's ticket.
    pub(crate) fn admit(&self, caller: &Caller, ask: &Ask) -> Option<Admission<S>> {
        if let Err(forked) = self.check_process() {
            caller.ticket.fail(forked);
            return None;
        }
        match self.queue.enter(ask) {
            Ok(room) => Some(Admission { queue: Arc::clone(&self.queue), room: Some(room) }),
            Err(refused) => {
                caller.ticket.fail(match refused {
                    Refused::Full { queued, bytes } => Error::QueueFull { queued, bytes },
                    Refused::Closed => self.fate.error(),
                });
                None
            }
        }
    }

    /// Keeps the engine from finishing until the result is dropped; `None` if it takes no more requests.
    pub(crate) fn hold(&self, ask: &Ask) -> Option<Admission<S>> {
        if self.is_forked() {
            return None;
        }
        let room = self.queue.enter(&Ask { jobs: 0, bytes: 0, refusable: false, ..*ask }).ok()?;
        Some(Admission { queue: Arc::clone(&self.queue), room: Some(room) })
    }

    /// Queues texts of one caller. What can't be queued fails the caller's ticket.
    pub(crate) fn push(&self, caller: &Arc<Caller>, mut admission: Admission<S>, texts: Vec<Text>) {
        let Some(room) = admission.room.take_if(|_| !texts.is_empty()) else { return };
        let mut jobs = VecDeque::from(texts);
        // Where batches are padded, neighbours should be of like length. Stable, so that equal inputs make equal batches.
        jobs.make_contiguous().sort_by_key(|text| std::cmp::Reverse(text.tokens()));
        match self.queue.push(room, Request { deadline: caller.deadline, jobs }) {
            Ok(id) => {
                // Set once, here.
                let _ = caller.id.set(id);
                // The caller may have gone before it could know its place.
                if caller.is_gone() {
                    self.queue.cancel(id);
                }
            }
            Err(returned) => {
                caller.ticket.fail(self.fate.error());
                drop(returned);
            }
        }
    }

    /// Why a request should not go on before it is queued: nobody waits for it, it is late, or the engine takes no more.
    pub(crate) fn gives_up(&self, caller: &Caller) -> bool {
        caller.is_gone() || caller.is_late() || caller.ticket.is_done() || self.queue.returns()
    }

    /// Ends a request of which [`Engine::gives_up`] has said so.
    pub(crate) fn give_up(&self, caller: &Caller) {
        caller.ticket.fail(if caller.is_late() { caller.too_late() } else { self.fate.error() });
    }

    /// Wakes the caller when its time is over, and ends its request then.
    pub(crate) fn wake_at(&self, deadline: Instant, caller: &Arc<Caller>) -> Option<Alarm> {
        let start = || {
            let (timer, queue, crew) = (Arc::clone(&self.timer), Arc::clone(&self.queue), self.crew);
            let body = move || {
                crew.enter();
                while let Some(caller) = timer.next() {
                    // The last hold on a waker may end here.
                    quietly(|| {
                        let Some(caller) = caller.upgrade() else { return };
                        let waiting = caller.id.get().map(|&id| queue.cancel(id));
                        caller.ticket.fail(caller.too_late());
                        drop(waiting);
                    });
                }
            };
            thread::Builder::new().name("mlx-embed-timer".into()).spawn(body).is_ok()
        };
        // Without a thread its caller hears of it when the batch is done that runs then.
        self.timer_thread.get_or_init(start).then(|| self.timer.set(deadline, Arc::downgrade(caller)))
    }

    /// Nobody is to be woken any more.
    pub(crate) fn forget(&self, alarm: Alarm) {
        self.timer.take_back(alarm);
    }

    /// Nobody waits for this caller's answer any more: what is still queued costs nothing then.
    pub(crate) fn abandon(&self, caller: &Caller) {
        caller.gone.store(true, Ordering::SeqCst);
        if let Some(&id) = caller.id.get() {
            self.queue.cancel(id);
        }
    }

    /// Runs `work` on the model's thread, before what is queued, and waits for its result.
    pub(crate) fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&S) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, answer) = mpsc::sync_channel(1);
        let task = Task(Box::new(move |model: &S| {
            let (result, payload) = match panic::catch_unwind(AssertUnwindSafe(|| work(model))) {
                Ok(result) => (result, None),
                Err(payload) => {
                    let reason = format!("a panic: {}", panic_message(&*payload));
                    (Err(Error::Stopped { reason }), Some(payload))
                }
            };
            // A caller that has gone away needs no answer.
            let _ = reply.send(result);
            if let Some(payload) = payload {
                panic::resume_unwind(payload);
            }
        }));
        self.check_process()?;
        if self.is_own_thread() {
            return Err(Error::WaitsForItself);
        }
        self.queue.ask(task).map_err(|_| self.fate.error())?;
        // The task is dropped without an answer when the engine ends before it.
        answer.recv().map_err(|_| self.fate.error())?
    }

    /// Fails where this process is a fork of the one that loaded the model.
    pub(crate) fn check_process(&self) -> Result<(), Error> {
        check_process(self.process)
    }

    pub(crate) fn is_forked(&self) -> bool {
        !self.process.is_this()
    }

    /// The process that has its threads.
    pub(crate) fn process(&self) -> Process {
        self.process
    }

    pub(crate) fn state(&self) -> State {
        if self.is_forked() {
            return State::Dead { reason: FORKED.into() };
        }
        let lost = self.fate.lost().clone();
        match self.fate.death() {
            Some(reason) => State::Dead { reason },
            None if self.queue.is_closed() => State::ShutDown,
            None if lost.is_empty() => State::Running,
            None => State::Degraded { lost },
        }
    }

    /// Texts that wait, those that are being tokenised included: queries, bulk.
    pub(crate) fn queued(&self) -> [usize; 2] {
        if self.is_forked() { [0, 0] } else { self.queue.depth() }
    }

    /// Whether this thread is one of those that requests depend on.
    pub(crate) fn is_own_thread(&self) -> bool {
        self.crew.is_here()
    }

    /// What a thread has to enter that requests depend on.
    pub(crate) fn crew(&self) -> Crew {
        self.crew
    }

    /// Takes no more requests, and returns when the threads have ended and the model is freed.
    pub(crate) fn shut_down(&self, ending: Ending) {
        if self.is_forked() {
            return;
        }
        self.fate.tell(&self.queue.close(ending));
        // A waker may do this on one of the engine's own threads, which can't wait for itself; they end by themselves
        // once the waker returns.
        if self.is_own_thread() {
            return;
        }
        for WorkerThread { handle, sleeps } in self.threads().drain(..) {
            if sleeps.recv().is_err() {
                // A panic was told to the callers whom it concerned.
                let _ = handle.join();
            }
        }
    }
}

impl<S: ?Sized + 'static> std::fmt::Debug for Engine<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("queue", &self.queue).field("fate", &self.fate).finish_non_exhaustive()
    }
}

impl<S: ?Sized + 'static> Drop for Engine<S> {
    fn drop(&mut self) {
        if self.is_forked() {
            // Handles of threads that are not there can't be given back.
            std::mem::forget(std::mem::take(&mut self.threads));
            return;
        }
        self.timer.close();
        // With the last handle gone nobody waits for an answer.
        self.shut_down(Ending::Return);
    }
}
