//! Which threads an engine's requests depend on.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// The threads that an engine's requests depend on: those that compute, tokenise and keep time. They also run wakers,
/// recorders and subscribers, which must not wait for what these threads do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Crew(u64);

thread_local! {
    static CREW: Cell<Option<Crew>> = const { Cell::new(None) };
}

impl Crew {
    /// One without threads.
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// This thread is one of them from now on.
    pub(crate) fn enter(self) {
        CREW.set(Some(self));
    }

    pub(super) fn is_here(self) -> bool {
        CREW.get() == Some(self)
    }
}
