//! A process told from its forks without a system call each time: on some machines it takes a thirtieth of what a
//! request costs beside its model.

use std::ffi::c_int;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

    /// Another than of those that it is a fork of, and of its own forks.
    pub(super) fn number(self) -> u32 {
        self.0
    }

    /// Whether the caller runs in it.
    pub(crate) fn is_this(self) -> bool {
        self.0 == FORKS.load(Ordering::Relaxed)
    }
}

/// What each process has one of, such as a lock: a fork gets it anew. Its parent's would stay locked there for ever if a
/// thread held it as the process was forked, since the fork doesn't have that thread.
pub(super) struct PerProcess<T: 'static>(AtomicPtr<Made<T>>);

struct Made<T> {
    process: Process,
    value: T,
}

impl<T: Default + Sync> PerProcess<T> {
    pub(super) const fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// This process's. A fork leaves its parent's as it is.
    pub(super) fn get(&'static self) -> &'static T {
        // Where forks can't be counted, they pass for this process.
        let process = Process::this().unwrap_or(Process(0));
        loop {
            let found = self.0.load(Ordering::Acquire);
            // SAFETY: null, or from a box that is never freed, whose value is `Sync`.
            if let Some(made) = unsafe { found.as_ref() }
                && made.process == process
            {
                return &made.value;
            }
            let new = Box::into_raw(Box::new(Made { process, value: T::default() }));
            if self.0.compare_exchange(found, new, Ordering::AcqRel, Ordering::Acquire).is_err() {
                // SAFETY: made two lines above, and seen by nobody else.
                drop(unsafe { Box::from_raw(new) });
            }
        }
    }
}
