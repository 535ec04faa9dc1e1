//! What comes before MLX is first used in a process.

use std::sync::OnceLock;

use super::error::{MlxError, check, install_handler};
use super::process::Process;

static STARTED_IN: OnceLock<Process> = OnceLock::new();

/// Whether this process is a fork of the one that MLX was first used in. Threads of MLX's are not there any more.
pub(super) fn is_fork() -> bool {
    STARTED_IN.get().is_some_and(|process| !process.is_this())
}

/// Comes before whatever makes MLX allocate memory, and does something once.
pub(super) fn start() -> Result<(), MlxError> {
    let process = Process::this()?;
    STARTED_IN.get_or_init(|| {
        install_handler();
        // It is for using less memory: where it fails, nothing but that is lost.
        // SAFETY: takes no arguments.
        let _ = check("cuda_prepare", unsafe { mlx_sys::mlxsys_cuda_prepare() });
        process
    });
    Ok(())
}
