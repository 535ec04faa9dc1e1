//! Signals by which the system tells that it refuses something: they end the program with its own exit code.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGABRT, SIGXFSZ};
use signal_hook::flag;

/// As for every other failure.
const FAILED: i32 = 1;

/// To be called before anything else runs.
pub(crate) fn handle() {
    // Memory that isn't there ends Rust code, and some C++ code, by `abort`, which has said why.
    let abort = flag::register_conditional_shutdown(SIGABRT, FAILED, Arc::new(AtomicBool::new(true)));
    // A file that grows over the limit (`ulimit -f`) is then an error of the write. The flag is nobody's.
    let limit = flag::register(SIGXFSZ, Arc::default());
    // Without them the signal ends the program, as it does every other.
    let _ = (abort, limit);
}
