//! MLX's memory counters and limits. They hold for the whole process, not for one model: MLX has one allocator.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{MutexGuard, OnceLock, PoisonError};

use super::error::{MlxError, check};
use super::inside::check_outside;
use super::lost::KEEPS_NOTHING;
use super::start::{is_fork, start};

type Result<T> = std::result::Result<T, MlxError>;

fn read(operation: &'static str, call: unsafe extern "C" fn(*mut usize) -> std::ffi::c_int) -> Result<usize> {
    start()?;
    let mut bytes = 0;
    // SAFETY: the call writes one size through a valid pointer.
    check(operation, unsafe { call(&mut bytes) })?;
    Ok(bytes)
}

/// Bytes of the arrays that exist. Weights in a mapped file are not counted.
///
/// # Errors
/// When MLX's allocator can't be reached.
pub fn active() -> Result<usize> {
    read("get_active_memory", mlx_sys::mlx_get_active_memory)
}

/// The highest value of [`active`] since the start of the process or the last [`reset_peak`].
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

/// Lets [`peak`] start again.
///
/// # Errors
/// When MLX's allocator can't be reached.
pub fn reset_peak() -> Result<()> {
    start()?;
    // SAFETY: takes no arguments.
    check("reset_peak_memory", unsafe { mlx_sys::mlx_reset_peak_memory() })
}

/// Gives the memory that MLX keeps for reuse back to the system. In a fork of a process that has used MLX it does
/// nothing.
///
/// # Errors
/// When MLX's allocator can't be reached. Also when called from a kernel ([`host`](super::host)), since it waits for all
/// streams.
pub fn clear_cache() -> Result<()> {
    start()?;
    check_outside("clear_cache")?;
    // MLX would wait for threads that a fork doesn't have.
    if is_fork() {
        return Ok(());
    }
    // SAFETY: takes no arguments.
    check("clear_cache", unsafe { mlx_sys::mlx_clear_cache() })
}

/// What [`set_cache_limit`] was last given.
static LIMIT: AtomicUsize = AtomicUsize::new(0);

fn is_off() -> MutexGuard<'static, bool> {
    // It is whole after every step.
    KEEPS_NOTHING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sets the most bytes that MLX keeps for reuse, and returns the limit before. In a fork of a process that has used MLX
/// the limit stays what it was. A process that has used several NVIDIA GPUs keeps nothing, whatever the limit.
///
/// # Errors
/// When MLX's allocator can't be reached. Also when called from a kernel ([`host`](super::host)), since it waits for all
/// streams.
pub fn set_cache_limit(bytes: usize) -> Result<usize> {
    start()?;
    check_outside("set_cache_limit")?;
    // MLX would wait for threads that a fork doesn't have, as would the lock.
    if is_fork() {
        return Ok(LIMIT.load(Ordering::Relaxed));
    }
    let is_off = is_off();
    let before = if *is_off { LIMIT.load(Ordering::Relaxed) } else { set_cache_limit_of_mlx(bytes)? };
    LIMIT.store(bytes, Ordering::Relaxed);
    Ok(before)
}

/// Where this process comes to use a second GPU, has MLX keep no memory for reuse any more. It has one list for all
/// NVIDIA GPUs, and what it takes from there for another GPU than the memory's it copies in a way that fails.
pub(super) fn keep_apart(gpu: i32) -> Result<()> {
    static FIRST: OnceLock<i32> = OnceLock::new();
    if *FIRST.get_or_init(|| gpu) == gpu {
        return Ok(());
    }
    let mut is_off = is_off();
    if *is_off {
        return Ok(());
    }
    LIMIT.store(set_cache_limit_of_mlx(0)?, Ordering::Relaxed);
    *is_off = true;
    drop(is_off);
    clear_cache()
}

fn set_cache_limit_of_mlx(bytes: usize) -> Result<usize> {
    let mut before = 0;
    // SAFETY: writes one size through a valid pointer.
    check("set_cache_limit", unsafe { mlx_sys::mlx_set_cache_limit(&mut before, bytes) })?;
    Ok(before)
}

/// Sets the bytes of memory that MLX tries to stay within, and returns the limit before.
///
/// # Errors
/// When MLX's allocator can't be reached.
pub fn set_limit(bytes: usize) -> Result<usize> {
    start()?;
    let mut before = 0;
    // SAFETY: writes one size through a valid pointer.
    check("set_memory_limit", unsafe { mlx_sys::mlx_set_memory_limit(&mut before, bytes) })?;
    Ok(before)
}
