//! Whether a thread runs a kernel of the graph ([`host`](super::host)), where waiting for MLX would be waiting for itself.

use std::cell::Cell;

use super::error::MlxError;

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// As long as it lives this thread runs what is a kernel's own.
pub(super) struct Inside {
    before: bool,
}

impl Inside {
    pub(super) fn enter() -> Self {
        Self { before: INSIDE.try_with(|inside| inside.replace(true)).unwrap_or(true) }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let _ = INSIDE.try_with(|inside| inside.set(self.before));
    }
}

/// Refuses what waits for tasks of all streams: a kernel is one of them. MLX's evaluation does where a hundred are queued.
pub(super) fn check_outside(operation: &'static str) -> Result<(), MlxError> {
    if INSIDE.try_with(Cell::get).unwrap_or(false) {
        return Err(MlxError::new(
            operation,
            "it may wait for all streams, of which one runs this kernel; compute with MLX outside of kernels",
        ));
    }
    Ok(())
}
