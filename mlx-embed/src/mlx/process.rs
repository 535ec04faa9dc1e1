//! A process told from its forks without a system call each time: on some machines it takes a thirtieth of what a
//! request costs beside its model.

use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::error::MlxError;

/// How many forks lie between this process and the program's start. Counted from the first [`Process::this`] on.
static FORKS: AtomicU32 = AtomicU32::new(0);

unsafe extern "C" {
    fn pthread_atfork(
        before: Option<unsafe extern "C" fn()>,
        in_parent: Option<unsafe extern "C" fn()>,
        in_child: Option<unsafe extern "C" fn()>,
    ) -> c_int;
}

/// Runs in each child before `fork` returns there, where nothing may be called that a handler of a signal may not.
extern "C" fn count() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// A process, as told from those that it is a fork of and from its own forks. A child made without the C library's
/// `fork`, by a bare system call, passes for its parent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Process(u32);

impl Process {
    /// This process.
    pub(crate) fn this() -> Result<Self, MlxError> {
        static COUNTS: AtomicBool = AtomicBool::new(false);
        // No lock, which a fork could inherit locked. Threads that come here at once count a fork several times, which
        // makes it no less another process.
        if !COUNTS.load(Ordering::Acquire) {
            // SAFETY: the handler stays for as long as this code, for which the C library takes it back, and touches
            // nothing but an atomic number.
            let code = unsafe { pthread_atfork(None, None, Some(count)) };
            if code != 0 {
                let error = std::io::Error::from_raw_os_error(code);
                return Err(MlxError::new("pthread_atfork", format!("forks can't be told apart: {error}")));
            }
            COUNTS.store(true, Ordering::Release);
        }
        Ok(Self(FORKS.load(Ordering::Relaxed)))
    }

    /// Whether the caller runs in it.
    pub(crate) fn is_this(self) -> bool {
        self.0 == FORKS.load(Ordering::Relaxed)
    }
}
