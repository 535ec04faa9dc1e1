//! What becomes of a panic in code that is not this crate's.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};

/// What a caught panic said.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message")
}

/// Does what may run somebody else's code, of which nothing depends on the outcome: a recorder of metrics or a
/// subscriber of tracing that panics must not take others' requests with it.
pub(crate) fn quietly<T>(work: impl FnOnce() -> T) -> Option<T> {
    match panic::catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => Some(done),
        Err(payload) => {
            // Its destructor is somebody else's code as well.
            std::mem::forget(payload);
            None
        }
    }
}
