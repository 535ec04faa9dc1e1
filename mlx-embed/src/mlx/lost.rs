//! GPUs that have failed for good.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

thread_local! {
    /// The GPU that this thread has a stream on.
    static GPU: Cell<Option<i32>> = const { Cell::new(None) };
}

/// This thread has a stream on this GPU from now on.
pub(super) fn enter(gpu: i32) {
    GPU.set(Some(gpu));
}

/// GPUs that have failed for good, with what CUDA said.
static LOST: Mutex<Vec<(i32, String)>> = Mutex::new(Vec::new());

/// Whether [`LOST`] has any.
static ANY_LOST: AtomicBool = AtomicBool::new(false);

fn lost() -> MutexGuard<'static, Vec<(i32, String)>> {
    // The list is whole after every step.
    LOST.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why this GPU is of no use to this process any more.
pub(crate) fn loss_of(gpu: i32) -> Option<String> {
    if !ANY_LOST.load(Ordering::Acquire) {
        return None;
    }
    let lost = lost();
    let (_, message) = lost.iter().find(|(index, _)| *index == gpu)?;
    Some(format!("GPU {gpu} has failed for good, and this process can't use it any more: {message}"))
}

/// Why the GPU of this thread is of no use any more.
pub(crate) fn loss() -> Option<String> {
    GPU.try_with(Cell::get).ok().flatten().and_then(loss_of)
}

/// NVIDIA GPUs that have failed for good, each with its number and CUDA's message. This process can't use them any more,
/// nor load a model there. Only a new process can.
pub fn lost_gpus() -> Vec<(usize, String)> {
    if !ANY_LOST.load(Ordering::Acquire) {
        return Vec::new();
    }
    lost().iter().map(|(gpu, message)| (usize::try_from(*gpu).unwrap_or_default(), message.clone())).collect()
}

/// Whether this thread may end. After a fault in a GPU's kernel all that CUDA is asked fails, and MLX ends the process
/// where it is in a destructor, as it is at the end of a thread that has a stream.
pub(crate) fn may_end_thread() -> bool {
    loss().is_none()
}

/// Looks whether this thread's GPU has failed for good, and sees to it that what is destroyed after that doesn't end the
/// process. Comes with every error of MLX's, and before a model is freed: the fault may be another model's.
pub(crate) fn survive_failure(message: &str) {
    // SAFETY: takes no arguments.
    if !unsafe { mlx_sys::mlxsys_cuda_survive() } {
        return;
    }
    keep_all();
    let Some(gpu) = GPU.try_with(Cell::get).ok().flatten() else { return };
    let mut lost = lost();
    if lost.iter().all(|(index, _)| *index != gpu) {
        lost.push((gpu, message.to_owned()));
        ANY_LOST.store(true, Ordering::Release);
    }
}

/// Whether MLX keeps nothing any more; held while its bound is set.
pub(super) static KEEPS_NOTHING: Mutex<bool> = Mutex::new(false);

/// Has MLX keep whatever is freed, as CUDA frees nothing of a GPU that has failed. Where several GPUs are in use the others
/// must not get it: there arrays of the one that failed are not freed at all.
fn keep_all() {
    // Held where MLX fails to set the bound, which is why this is called.
    if let Ok(is_off) = KEEPS_NOTHING.try_lock()
        && !*is_off
    {
        let mut before = 0;
        // SAFETY: writes one size through a valid pointer.
        unsafe { mlx_sys::mlx_set_cache_limit(&mut before, usize::MAX) };
    }
}
