//! What comes before MLX is first used in a process.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use super::error::{MlxError, check, install_handler};
use super::process::{PerProcess, Process};

/// No process's number: none has used MLX.
const NONE: u32 = u32::MAX;

/// Of this process and those that it is a fork of, the one that MLX was first used in.
static STARTED_IN: AtomicU32 = AtomicU32::new(NONE);

/// Whether this process is a fork of the one that MLX was first used in. Threads of MLX's are not there any more.
pub(super) fn is_fork() -> bool {
    let started_in = STARTED_IN.load(Ordering::Relaxed);
    started_in != NONE && Process::this().is_ok_and(|process| process.number() != started_in)
}

/// Comes before whatever makes MLX allocate memory, and does something once.
pub(super) fn start() -> Result<(), MlxError> {
    static ONCE: PerProcess<OnceLock<()>> = PerProcess::new();
    let process = Process::this()?;
    ONCE.get().get_or_init(|| {
        install_handler();
        let is_first =
            STARTED_IN.compare_exchange(NONE, process.number(), Ordering::Relaxed, Ordering::Relaxed);
        // It is for using less memory: where it fails, nothing but that is lost.
        if is_first.is_ok() {
            // SAFETY: takes no arguments.
            let _ = check("cuda_prepare", unsafe { mlx_sys::mlxsys_cuda_prepare() });
        }
    });
    Ok(())
}
