//! MLX reports failures through one process-wide handler that runs on the failing thread. Here they become values.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::lost::survive_failure;
use super::process::PerProcess;

/// An MLX operation that failed, with MLX's own message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("MLX could not do `{operation}`: {message}")]
pub struct MlxError {
    operation: &'static str,
    message: String,
}

impl MlxError {
    #[cold]
    pub(crate) fn new(operation: &'static str, message: impl Into<String>) -> Self {
        Self { operation, message: message.into() }
    }

    /// The operation that failed, by MLX's name.
    pub fn operation(&self) -> &'static str {
        self.operation
    }

    /// MLX's message.
    pub fn message(&self) -> &str {
        &self.message
    }
}

thread_local! {
    static LAST_MESSAGE: RefCell<Option<String>> = const { RefCell::new(None) };
}

extern "C" fn remember(message: *const c_char, _data: *mut c_void) {
    if message.is_null() {
        return;
    }
    // SAFETY: mlx-c passes a NUL-terminated string that lives for the duration of this call.
    let message = unsafe { CStr::from_ptr(message) }.to_string_lossy();
    // `try_with` and `try_borrow_mut` because this runs inside C++: a panic must not start here, not even while
    // the thread is being torn down.
    let _ = LAST_MESSAGE.try_with(|slot| {
        if let Ok(mut slot) = slot.try_borrow_mut() {
            *slot = Some(message.into_owned());
        }
    });
}

/// Replaces mlx-c's default handler, which prints and exits the process.
///
/// Everything that makes the first MLX object of a thread calls this; after the first time it costs one atomic load.
pub(super) fn install_handler() {
    static IS_SET: AtomicBool = AtomicBool::new(false);
    // A fork sets it, too, if a thread that it lacks was about to.
    static ONCE: PerProcess<OnceLock<()>> = PerProcess::new();
    if IS_SET.load(Ordering::Acquire) {
        return;
    }
    ONCE.get().get_or_init(|| {
        // SAFETY: the handler is a plain function, valid for the life of the process, and needs no data or destructor.
        unsafe { mlx_sys::mlx_set_error_handler(Some(remember), std::ptr::null_mut(), None) };
        IS_SET.store(true, Ordering::Release);
    });
}

/// Takes the message that the handler left on this thread for `operation`.
#[cold]
pub(super) fn last_error(operation: &'static str) -> MlxError {
    // A thread that is being torn down may have it no more, and still call MLX from a destructor.
    let message = LAST_MESSAGE.try_with(|slot| slot.borrow_mut().take()).ok().flatten();
    let message = match &message {
        // mlx-c appends " at FILE:LINE" of its own source, which says nothing to our users.
        Some(text) => text.rsplit_once(" at ").map_or(text.as_str(), |(head, _)| head),
        None => "MLX gave no message",
    };
    survive_failure(message);
    MlxError::new(operation, message)
}

/// Turns an mlx-c return code into a `Result`.
pub(super) fn check(operation: &'static str, code: c_int) -> Result<(), MlxError> {
    if code == 0 { Ok(()) } else { Err(last_error(operation)) }
}

/// The first failure of a host kernel since the thread that made it last waited for results.
#[derive(Debug, Default)]
pub(super) struct Failure {
    is_set: AtomicBool,
    message: Mutex<Option<String>>,
}

thread_local! {
    static FAILURE: Arc<Failure> = Arc::default();
}

impl Failure {
    /// The one for nodes that this thread makes and so, as arrays don't change threads, evaluates.
    pub(super) fn of_this_thread() -> Arc<Self> {
        // A thread that is being torn down gets one that nobody looks at: it evaluates nothing more.
        FAILURE.try_with(Arc::clone).unwrap_or_default()
    }

    pub(super) fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Acquire)
    }

    pub(super) fn set(&self, message: String) {
        self.message.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(message);
        self.is_set.store(true, Ordering::Release);
    }

    #[cold]
    fn take(&self) -> Option<String> {
        self.is_set.store(false, Ordering::Release);
        self.message.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// [`check`] for calls that wait for results: a host kernel may have failed on the way.
pub(super) fn check_results(operation: &'static str, code: c_int) -> Result<(), MlxError> {
    let take = |failure: &Arc<Failure>| if failure.is_set() { failure.take() } else { None };
    let failure = FAILURE.try_with(take).ok().flatten();
    check(operation, code)?;
    failure.map_or(Ok(()), |message| Err(MlxError::new(operation, message)))
}
