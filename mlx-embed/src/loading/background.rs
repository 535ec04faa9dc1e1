//! Loading on a thread of its own.

use std::future::Future;
use std::panic::{self, AssertUnwindSafe};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::thread;

use crate::embedder::Embedder;
use crate::engine::{Ticket, check_process};
use crate::error::Error;
use crate::mlx::Process;
use crate::panics::panic_message;

/// How much of a model is loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadProgress {
    /// Layers of the model that are loaded by now.
    pub layers: usize,
    /// Layers that the model has; 0 until the checkpoint is opened.
    pub of: usize,
}

/// What the loading thread writes and others read.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    layers: AtomicUsize,
    pub(super) of: AtomicUsize,
}

impl Steps {
    pub(super) fn layer(&self) {
        self.layers.fetch_add(1, Ordering::Relaxed);
    }
}

/// A model that is being loaded on a thread of its own, an [`Embedder`] or another handle. It is a future, and can be
/// waited for without a runtime, too. [`Embedder::load_in_background`] makes it.
///
/// Dropping it does not stop the loading: the thread loads to the end, and then frees the model.
///
/// ```no_run
/// use mlx_embed::{Embedder, LoadOptions};
///
/// let loading = Embedder::load_in_background("path/to/a/checkpoint", LoadOptions::default());
/// while !loading.is_done() {
///     let progress = loading.progress();
///     println!("{} of {} layers", progress.layers, progress.of);
///     std::thread::sleep(std::time::Duration::from_millis(100));
/// }
/// let embedder = loading.wait()?;
/// # Ok::<(), mlx_embed::Error>(())
/// ```
#[derive(Debug)]
pub struct Loading<T = Embedder> {
    ticket: Arc<Ticket<T, Error>>,
    steps: Arc<Steps>,
    /// The process that has the thread; `None` where there is none.
    process: Option<Process>,
}

impl<T: Send + 'static> Loading<T> {
    /// Runs `load` on a thread.
    pub(crate) fn start(load: impl FnOnce(Arc<Steps>) -> Result<T, Error> + Send + 'static) -> Self {
        let mut loading = Self { ticket: Arc::new(Ticket::new(1)), steps: Arc::default(), process: None };
        match Process::this() {
            Ok(process) => loading.process = Some(process),
            Err(error) => {
                loading.ticket.fail(error.into());
                return loading;
            }
        }
        let (ticket, steps) = (Arc::clone(&loading.ticket), Arc::clone(&loading.steps));
        let body = move || {
            let loaded = panic::catch_unwind(AssertUnwindSafe(|| load(steps))).unwrap_or_else(|payload| {
                let reason = format!("a panic while loading: {}", panic_message(&*payload));
                Err(Error::Stopped { reason })
            });
            match loaded {
                Ok(model) => ticket.settle(0, model),
                Err(error) => ticket.fail(error),
            }
        };
        if let Err(error) = thread::Builder::new().name("mlx-embed-load".into()).spawn(body) {
            let reason = format!("a thread to load on could not start: {error}");
            loading.ticket.fail(Error::Stopped { reason });
        }
        loading
    }

    /// How much is loaded.
    pub fn progress(&self) -> LoadProgress {
        LoadProgress {
            layers: self.steps.layers.load(Ordering::Relaxed),
            of: self.steps.of.load(Ordering::Relaxed),
        }
    }

    /// Whether it has ended, with a model or with an error. Neither [`Loading::wait`] nor `await` waits then.
    pub fn is_done(&self) -> bool {
        self.check_process().is_err() || self.ticket.is_done()
    }

    /// Blocks until the model is loaded.
    ///
    /// # Errors
    /// As the handle's own `load_with`, such as [`Embedder::load_with`].
    pub fn wait(self) -> Result<T, Error> {
        self.check_process()?;
        // Without a deadline there always is a result.
        only(self.ticket.wait(None).unwrap_or_else(|| Ok(Vec::new())))
    }
}

impl<T> Future for Loading<T> {
    type Output = Result<T, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.check_process() {
            Ok(()) => self.ticket.poll(context).map(only),
            Err(forked) => Poll::Ready(Err(forked)),
        }
    }
}

impl<T> Loading<T> {
    /// Fails in forks of the process that has the thread.
    fn check_process(&self) -> Result<(), Error> {
        self.process.map_or(Ok(()), check_process)
    }
}

fn only<T>(loaded: Result<Vec<T>, Error>) -> Result<T, Error> {
    loaded?.pop().ok_or_else(|| Error::Stopped { reason: "its loading was asked for twice".into() })
}
