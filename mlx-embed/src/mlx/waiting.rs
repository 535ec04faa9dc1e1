//! How long a thread waits for arrays to be computed.

use std::cell::Cell;
use std::time::{Duration, Instant};

thread_local! {
    /// All of this thread's waiting so far.
    static WAITED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Counts the time that `compute` takes as waiting.
pub(super) fn waiting<T>(compute: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let made = compute();
    WAITED.set(WAITED.get() + start.elapsed());
    made
}

/// Tells building a graph from waiting for what of it is computed meanwhile.
#[cfg(feature = "bench")]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Building {
    start: Instant,
    waited: Duration,
}

#[cfg(feature = "bench")]
impl Building {
    pub(crate) fn start() -> Self {
        Self { start: Instant::now(), waited: WAITED.get() }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// What of it this thread did not wait.
    pub(crate) fn host(&self) -> Duration {
        self.elapsed().saturating_sub(WAITED.get() - self.waited)
    }
}
