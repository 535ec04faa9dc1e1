//! Calls of the tokenizer library that end in an error where it panics.

use std::panic::{self, AssertUnwindSafe};

use crate::panics::panic_message;

/// Calls the tokenizer library, which panics on some damaged files instead of returning an error.
pub(super) fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match panic::catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(payload) => Err(panic_message(&*payload).to_owned()),
    }
}
