//! Between callers on any thread and the one thread that owns a model.
//!
//! Callers make requests of tokenised texts and hold a [`Ticket`] for each. [`queue`] decides what runs together and
//! when, [`worker`] runs it, and results go back through the tickets. Every request ends: with its results, or with an
//! error when it is too late, the engine is shut down or its thread dies.

mod cache;
mod meters;
mod prefixes;
pub(crate) mod queue;
mod sync;
mod ticket;
mod worker;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle, ThreadId};
use std::time::{Duration, Instant};

use crate::error::{Error, InputError, panic_message};

pub(crate) use cache::VectorCache;
pub(crate) use meters::{Ended, Meters};
use queue::{Ending, Job, Limits, Queue, QueueLane, Refused, Request, RequestId};
pub(crate) use ticket::Ticket;
pub(crate) use worker::Model;
use worker::{Task, Worker};

/// A text's vector as the model gives it, neither cut nor normalised, and how it came about.
#[derive(Debug, Clone)]
pub(crate) struct Computed {
    pub(crate) vector: Arc<[f32]>,
    pub(crate) tokens: usize,
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
    span: tracing::Span,
    /// Its place in the queue, once it has one.
    id: OnceLock<RequestId>,
    gone: AtomicBool,
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
            span: tracing::Span::current(),
            id: OnceLock::new(),
            gone: AtomicBool::new(false),
        })
    }

    /// Whether nobody waits for the answer any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }

    pub(crate) fn too_late(&self) -> Error {
        Error::DeadlineExceeded { waited: self.arrived.elapsed() }
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
    ids: Arc<[u32]>,
    hash: u64,
    /// How many of its first tokens pooling leaves out.
    left_out: usize,
    prompt: Option<SharedPrompt>,
    truncated: bool,
    /// Which of its caller's texts it is.
    slot: usize,
    caller: Arc<Caller>,
}

impl Text {
    pub(crate) fn new(
        caller: &Arc<Caller>,
        slot: usize,
        ids: Arc<[u32]>,
        left_out: usize,
        truncated: bool,
        prompt: Option<SharedPrompt>,
    ) -> Self {
        let mut hasher = DefaultHasher::new();
        (&ids, left_out).hash(&mut hasher);
        Self { hash: hasher.finish(), ids, left_out, prompt, truncated, slot, caller: Arc::clone(caller) }
    }

    fn is_same(&self, other: &Self) -> bool {
        self.hash == other.hash && self.ids == other.ids && self.left_out == other.left_out
    }
}

impl Job for Text {
    fn tokens(&self) -> usize {
        self.ids.len()
    }

    fn goes_with(&self, other: &Self) -> bool {
        let same_prompt = match (&self.prompt, &other.prompt) {
            (None, None) => true,
            (Some(a), Some(b)) => a.shared == b.shared && a.ids == b.ids,
            _ => false,
        };
        same_prompt && self.left_out == other.left_out
    }
}

pub(crate) type TextQueue<S> = Queue<Text, Task<S>>;

/// Whether an [`Embedder`](crate::Embedder) still works.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// It takes requests.
    Running,
    /// It was shut down.
    ShutDown,
    /// Its thread has died, after a panic or because the device stopped working. Load the model anew.
    Dead {
        /// Why.
        reason: String,
    },
}

/// What both sides know about how it ended.
#[derive(Debug, Default)]
struct Fate {
    death: OnceLock<String>,
}

impl Fate {
    fn error(&self) -> Error {
        let reason = self.death.get().cloned().unwrap_or_else(|| "it was shut down".into());
        Error::Stopped { reason }
    }

    /// Ends the requests that these texts belong to.
    fn tell(&self, texts: &[Text]) {
        for Text { caller, .. } in texts {
            // Once for each request: later failures of the same one change nothing.
            if !caller.ticket.is_done() {
                caller.ticket.fail(self.error());
            }
        }
    }
}

/// What [`Engine::start`] needs besides the model.
#[derive(Debug)]
pub(crate) struct EngineOptions {
    pub(crate) limits: Limits,
    pub(crate) cache: Option<Arc<VectorCache>>,
    /// Bytes of keys and values of prompts to keep.
    pub(crate) prompt_cache: usize,
    pub(crate) meters: Arc<Meters>,
}

/// The queue and the thread behind it. The thread ends, and frees the model, when this is dropped. `S` is what is seen of
/// the model.
pub(crate) struct Engine<S: ?Sized + 'static> {
    queue: Arc<TextQueue<S>>,
    fate: Arc<Fate>,
    thread: Mutex<Option<WorkerThread>>,
    thread_id: ThreadId,
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
    started: mpsc::Receiver<Result<(), Error>>,
}

impl<S: ?Sized + 'static> Starting<S> {
    /// Waits for the model.
    pub(crate) fn wait(self) -> Result<Engine<S>, Error> {
        match self.started.recv() {
            Ok(result) => result.map(|()| self.engine),
            Err(_) => Err(Error::Stopped { reason: "it panicked while loading".into() }),
        }
    }
}

impl<S: ?Sized + 'static> Engine<S> {
    /// Loads the model on a thread of its own.
    pub(crate) fn start<M: Model<Seen = S>>(
        load: impl FnOnce() -> Result<M, Error> + Send + 'static,
        options: EngineOptions,
    ) -> Result<Starting<S>, Error> {
        let queue = Arc::new(Queue::new(options.limits));
        let fate = Arc::new(Fate::default());
        let (started, start) = mpsc::sync_channel(1);
        let (asleep, sleeps) = mpsc::sync_channel(1);
        let body = {
            let (queue, fate) = (Arc::clone(&queue), Arc::clone(&fate));
            move || {
                match load() {
                    Ok(model) => {
                        // Nobody to tell means that the engine is gone, and its queue closed.
                        let _ = started.send(Ok(()));
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
            }
        };
        let handle = thread::Builder::new()
            .name("mlx-embed".into())
            .spawn(body)
            .map_err(|error| Error::Stopped { reason: format!("its thread could not start: {error}") })?;
        let thread_id = handle.thread().id();
        let thread = Mutex::new(Some(WorkerThread { handle, sleeps }));
        let engine = Self { queue, fate, thread, thread_id };
        Ok(Starting { engine, started: start })
    }

    /// Queues texts of one caller. What can't be queued fails the caller's ticket.
    pub(crate) fn push(&self, caller: &Arc<Caller>, lane: QueueLane, texts: Vec<Text>, refusable: bool) {
        if texts.is_empty() {
            return;
        }
        let mut jobs = VecDeque::from(texts);
        // Where batches are padded, neighbours should be of like length. Stable, so that equal inputs make equal batches.
        jobs.make_contiguous().sort_by_key(|text| std::cmp::Reverse(text.tokens()));
        match self.queue.push(Request { lane, deadline: caller.deadline, jobs, refusable }) {
            Ok(id) => {
                // Set once, here.
                let _ = caller.id.set(id);
                // The caller may have gone before it could know its place.
                if caller.is_gone() {
                    self.queue.cancel(id);
                }
            }
            Err(refused) => caller.ticket.fail(self.refusal(&refused)),
        }
    }

    /// Fails early where [`Engine::push`] would refuse.
    pub(crate) fn check_room(&self, lane: QueueLane, texts: usize) -> Result<(), Error> {
        self.queue.check_room(lane, texts).map_err(|refused| self.refusal(&refused))
    }

    fn refusal(&self, refused: &Refused) -> Error {
        match *refused {
            Refused::Full { queued } => Error::QueueFull { queued },
            Refused::Closed => self.fate.error(),
        }
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
        self.queue.ask(task).map_err(|_| self.fate.error())?;
        // The task is dropped without an answer when the engine ends before it.
        answer.recv().map_err(|_| self.fate.error())?
    }

    pub(crate) fn state(&self) -> State {
        match self.fate.death.get() {
            Some(reason) => State::Dead { reason: reason.clone() },
            None if self.queue.is_closed() => State::ShutDown,
            None => State::Running,
        }
    }

    /// Texts that wait: queries, bulk.
    pub(crate) fn queued(&self) -> [usize; 2] {
        self.queue.depth()
    }

    /// Takes no more requests, and returns when the thread has ended and the model is freed.
    pub(crate) fn shut_down(&self, ending: Ending) {
        self.fate.tell(&self.queue.close(ending));
        // A waker that drops the last handle does so on the engine's own thread, which can't wait for itself; it ends
        // by itself once the waker returns.
        if thread::current().id() == self.thread_id {
            return;
        }
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(WorkerThread { handle, sleeps }) = thread.take()
            && sleeps.recv().is_err()
        {
            // A panic was told to the callers whom it concerned.
            let _ = handle.join();
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
        // With the last handle gone nobody waits for an answer.
        self.shut_down(Ending::Return);
    }
}
