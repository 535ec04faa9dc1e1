//! The thread that owns a model, and the way to it.

use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use crate::checkpoint::Checkpoint;
use crate::error::{Error, panic_message};
use crate::runner::{Runner, RunnerOptions};

type Job = Box<dyn FnOnce(&Runner) + Send>;

/// The thread that owns the model. It ends, and frees the model, when the worker is dropped.
#[derive(Debug)]
pub(crate) struct Worker {
    /// `None` only while dropping.
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Loads the model on a thread of its own and waits for it.
    pub(crate) fn start(checkpoint: Checkpoint, options: RunnerOptions) -> Result<Self, Error> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (started, start) = mpsc::sync_channel(1);
        let body = move || {
            match Runner::load(&checkpoint, &options) {
                Ok(runner) => {
                    // The mapped files live on in the runner.
                    drop(checkpoint);
                    // Nobody to tell means that `start` is gone, and with it the queue's other end.
                    let _ = started.send(Ok(()));
                    for job in queue {
                        job(&runner);
                    }
                    runner.unload();
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            }
        };
        let thread = thread::Builder::new()
            .name("mlx-embed".into())
            .spawn(body)
            .map_err(|error| Error::Stopped { reason: format!("its thread could not start: {error}") })?;
        let worker = Self { jobs: Some(jobs), thread: Some(thread) };
        match start.recv() {
            Ok(result) => result.map(|()| worker),
            Err(_) => Err(Error::Stopped { reason: "it panicked while loading".into() }),
        }
    }

    /// Runs `work` on the model's thread and waits for the result. A panic in it becomes an error for this call only.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Runner) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let gone = || Error::Stopped { reason: "its thread has ended".into() };
        let (reply, answer) = mpsc::sync_channel(1);
        let job: Job = Box::new(move |runner| {
            let result = panic::catch_unwind(AssertUnwindSafe(|| work(runner))).unwrap_or_else(|payload| {
                Err(Error::Stopped { reason: format!("a panic: {}", panic_message(&*payload)) })
            });
            // A caller that has gone away needs no answer.
            let _ = reply.send(result);
        });
        self.jobs.as_ref().ok_or_else(gone)?.send(job).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Closing the queue ends the thread's loop; waiting makes "dropped" mean "freed".
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic was reported to the caller it concerned.
            let _ = thread.join();
        }
    }
}
