//! How long a thread waits for arrays to be computed.

use std::cell::Cell;
use std::time::{Duration, Instant};

thread_local! {
    static WAITED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// All of this thread's waiting so far.
pub(crate) fn waited() -> Duration {
    WAITED.get()
}

/// Counts the time that `compute` takes as waiting.
pub(super) fn waiting<T>(compute: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let made = compute();
    WAITED.set(WAITED.get() + start.elapsed());
    made
}
