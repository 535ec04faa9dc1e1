//! What happens to computing threads when the process ends.
//!
//! `exit` runs the destructors of the libraries while all other threads go on. On Linux MLX's objects on the CPU have
//! none (see `mlx-sys/native/exit.cpp`): threads compute until the process is gone. Elsewhere, and with a GPU, whose
//! driver has destructors of its own, `exit` first keeps others from beginning to compute and waits shortly for those
//! that have begun.

use std::sync::TryLockError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::device::{TURN, WAITING};

/// How long `exit` waits for others.
const PATIENCE: Duration = Duration::from_millis(50);

static ENDS: AtomicBool = AtomicBool::new(false);
static COMPUTING: AtomicUsize = AtomicUsize::new(0);
/// Whether computing on the CPU has to be over before the process ends.
static CPU_HAS_TO_REST: AtomicBool = AtomicBool::new(false);

/// As long as it lives its thread computes.
pub(super) struct Computing(());

/// To be held while MLX computes. Once the process ends it doesn't return.
pub(super) fn computing() -> Computing {
    COMPUTING.fetch_add(1, Ordering::SeqCst);
    if ENDS.load(Ordering::SeqCst) {
        COMPUTING.fetch_sub(1, Ordering::SeqCst);
        loop {
            thread::park();
        }
    }
    Computing(())
}

impl Drop for Computing {
    fn drop(&mut self) {
        COMPUTING.fetch_sub(1, Ordering::SeqCst);
    }
}

/// To be called once there are streams of the CPU.
pub(super) fn register_cpu() {
    // SAFETY: takes no arguments.
    if unsafe { !mlx_sys::mlxsys_outlives_exit() } {
        CPU_HAS_TO_REST.store(true, Ordering::SeqCst);
        register();
    }
}

/// To be called once there is a stream of a GPU.
pub(super) fn register_gpu() {
    register();
}

fn register() {
    // No lock, which a fork could inherit locked.
    static IS_DONE: AtomicBool = AtomicBool::new(false);
    if !IS_DONE.swap(true, Ordering::Relaxed) {
        // SAFETY: the function stays for the life of the process, and doesn't unwind.
        unsafe { mlx_sys::mlxsys_before_exit(Some(quiet)) }
    }
}

/// Whether nobody computes any more, nor will. It waits without a lock, as it may be called by a handler of a signal.
extern "C" fn quiet() -> bool {
    let start = Instant::now();
    let rests = |is_quiet: &dyn Fn() -> bool| {
        while !is_quiet() {
            if start.elapsed() > PATIENCE {
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
        true
    };
    let gpu = rests(&|| match TURN.try_lock() {
        Ok(turn) => {
            // For ever: whoever wants a turn now waits until the process is gone.
            std::mem::forget(turn);
            true
        }
        Err(TryLockError::Poisoned(turn)) => {
            std::mem::forget(turn);
            true
        }
        Err(TryLockError::WouldBlock) => false,
    });
    let gpu = gpu && rests(&|| WAITING.load(Ordering::SeqCst) == 0);
    if !CPU_HAS_TO_REST.load(Ordering::SeqCst) {
        return gpu;
    }
    ENDS.store(true, Ordering::SeqCst);
    gpu && rests(&|| COMPUTING.load(Ordering::SeqCst) == 0)
}
