//! MLX's memory counters and limits. They are the process's, not a model's: MLX has one allocator.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::device::{is_fork, start};
use super::error::{MlxError, check};
use super::host::check_outside;

type Result<T> = std::result::Result<T, MlxError>;

fn read(operation: &'static str, call: unsafe extern "C" fn(*mut usize) -> std::ffi::c_int) -> Result<usize> {
    start();
    let mut bytes = 0;
    // SAFETY: the call writes one size through a valid pointer.
    check(operation, unsafe { call(&mut bytes) })?;
    Ok(bytes)
}

/// Bytes in arrays that are alive. Weights that lie in a mapped file are not counted.
///
/// # Errors
/// When MLX's allocator can't be reached.
pub fn active() -> Result<usize> {
    read("get_active_memory", mlx_sys::mlx_get_active_memory)
}

/// Highest value of [`active`] since the start or the last [`reset_peak`].
///
/// # Errors
/// When MLX's allocator can't be reached.
pub fn peak() -> Result<usize> {
    read("get_peak_memory", mlx_sys::mlx_get_peak_memory)
}

/// Bytes that MLX keeps for reuse.
///
/// # Errors
/// When MLX's allocator can't be reached.
pub fn cached() -> Result<usize> {
    read("get_cache_memory", mlx_sys::mlx_get_cache_memory)
}

/// Starts [`peak`] anew.
///
/// # Errors
/// When MLX's allocator can't be reached.
pub fn reset_peak() -> Result<()> {
    start();
    // SAFETY: takes no arguments.
    check("reset_peak_memory", unsafe { mlx_sys::mlx_reset_peak_memory() })
}

/// Gives the memory that MLX keeps for reuse back to the system. In a fork of a process that has used MLX it does
/// nothing.
///
/// # Errors
/// When MLX's allocator can't be reached, or from within a kernel ([`host`](super::host)), as it waits for all streams.
pub fn clear_cache() -> Result<()> {
    start();
    check_outside("clear_cache")?;
    // MLX would wait for threads that a fork doesn't have.
    if is_fork() {
        return Ok(());
    }
    // SAFETY: takes no arguments.
    check("clear_cache", unsafe { mlx_sys::mlx_clear_cache() })
}

/// Bounds what MLX keeps for reuse; returns the bound before. In a fork of a process that has used MLX the bound stays
/// what it was.
///
/// # Errors
/// When MLX's allocator can't be reached, or from within a kernel ([`host`](super::host)), as it waits for all streams.
pub fn set_cache_limit(bytes: usize) -> Result<usize> {
    /// What was set last.
    static LIMIT: AtomicUsize = AtomicUsize::new(0);
    start();
    check_outside("set_cache_limit")?;
    // MLX would wait for threads that a fork doesn't have.
    if is_fork() {
        return Ok(LIMIT.load(Ordering::Relaxed));
    }
    let mut before = 0;
    // SAFETY: writes one size through a valid pointer.
    check("set_cache_limit", unsafe { mlx_sys::mlx_set_cache_limit(&mut before, bytes) })?;
    LIMIT.store(bytes, Ordering::Relaxed);
    Ok(before)
}

/// Sets the memory that evaluation tries to stay within; returns the limit before.
///
/// # Errors
/// When MLX's allocator can't be reached.
pub fn set_limit(bytes: usize) -> Result<usize> {
    start();
    let mut before = 0;
    // SAFETY: writes one size through a valid pointer.
    check("set_memory_limit", unsafe { mlx_sys::mlx_set_memory_limit(&mut before, bytes) })?;
    Ok(before)
}
