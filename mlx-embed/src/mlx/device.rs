//! Devices and streams.

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::{MlxError, install_handler};
use super::lost::{enter, loss_of, may_end_thread};
use super::memory;

/// The kind of device that MLX was built for. A build has the CPU and at most one kind of GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Backend {
    /// The CPU.
    Cpu,
    /// Apple GPUs.
    Metal,
    /// NVIDIA GPUs.
    Cuda,
}

pub(super) static TURN: Mutex<()> = Mutex::new(());

impl Backend {
    /// Held around everything that touches a GPU: MLX records a GPU's work into graphs that two threads at once break.
    /// On the CPU there is nothing to wait for.
    pub(crate) fn turn(self) -> Option<Turn> {
        if self == Self::Cpu {
            return None;
        }
        // Registers its destructor before this thread does anything with MLX: see `end_thread`.
        LAST_TURN.with(|_| ());
        HELD.set(Some(take_turn()));
        Some(Turn(PhantomData))
    }
}

/// A thread's turn, which ends when this is dropped. A thread has one at a time.
#[derive(Debug)]
pub(crate) struct Turn(PhantomData<*const ()>);

impl Drop for Turn {
    fn drop(&mut self) {
        HELD.take();
    }
}

fn take_turn() -> MutexGuard<'static, ()> {
    // The mutex guards no data, so a panic of the thread before leaves nothing broken.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Threads that wait for a GPU without their turn.
pub(super) static WAITING: AtomicUsize = AtomicUsize::new(0);

/// Waits for a GPU by a call that is none of MLX's. Others have their turn meanwhile, such as those that use another GPU.
pub(super) fn wait_without_turn<T>(wait: impl FnOnce() -> T) -> T {
    struct Back;
    impl Drop for Back {
        fn drop(&mut self) {
            WAITING.fetch_sub(1, Ordering::SeqCst);
            HELD.set(Some(take_turn()));
        }
    }
    let Some(turn) = HELD.take() else { return wait() };
    WAITING.fetch_add(1, Ordering::SeqCst);
    drop(turn);
    let _back = Back;
    wait()
}

thread_local! {
    /// The turn of this thread, while it has one.
    static HELD: Cell<Option<MutexGuard<'static, ()>>> = const { Cell::new(None) };
    /// What [`end_thread`] keeps.
    static LAST_TURN: RefCell<Option<MutexGuard<'static, ()>>> = const { RefCell::new(None) };
}

/// This thread uses this GPU from now on.
pub(super) fn enter_gpu(gpu: i32) -> Result<(), MlxError> {
    if let Some(reason) = loss_of(gpu) {
        return Err(MlxError::new("stream_new", reason));
    }
    enter(gpu);
    memory::keep_apart(gpu)
}

/// Keeps a turn until this thread has ended. MLX ends a GPU thread's streams and graphs when the thread ends, in
/// destructors that no turn of ours surrounds.
///
/// Destructors of thread-locals run in the reverse order of their registration, and a thread takes its first turn before
/// it uses MLX: so what this keeps goes behind what MLX destroys.
///
/// Where this thread's GPU has failed for good nothing is kept, as the thread can't end: see [`may_end_thread`].
pub(crate) fn end_thread(turn: Option<Turn>) {
    if may_end_thread() {
        LAST_TURN.set(HELD.take());
    }
    drop(turn);
}

impl std::fmt::Display for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Metal => "metal",
            Self::Cuda => "cuda",
        })
    }
}

/// The kind of GPU that this process can use, if there is one.
pub fn gpu_backend() -> Option<Backend> {
    install_handler();
    let available = |query: unsafe extern "C" fn(*mut bool) -> std::ffi::c_int| {
        let mut available = false;
        // SAFETY: the query writes one bool through a valid pointer.
        unsafe { query(&mut available) == 0 && available }
    };
    if available(mlx_sys::mlx_metal_is_available) {
        return Some(Backend::Metal);
    }
    // The CUDA build answers yes by itself; whether there is a GPU behind it is another question.
    if available(mlx_sys::mlx_cuda_is_available) && gpu_count() > 0 {
        return Some(Backend::Cuda);
    }
    None
}

/// Whether this process can compute on the CPU: MLX's CUDA build does without a GPU nothing at all.
pub(crate) fn has_cpu() -> bool {
    let mut cuda = false;
    // SAFETY: the query writes one bool through a valid pointer.
    let known = unsafe { mlx_sys::mlx_cuda_is_available(&mut cuda) == 0 };
    !(known && cuda) || gpu_count() > 0
}

/// How many GPUs this process sees.
pub(crate) fn gpu_count() -> i32 {
    let mut count = 0;
    // SAFETY: writes one int through a valid pointer.
    let code = unsafe { mlx_sys::mlx_device_count(&mut count, mlx_sys::mlx_device_type__MLX_GPU) };
    if code == 0 { count } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Registers destructors as C++ does for its thread-locals.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_thread_keeps_its_last_turn_until_foreign_destructors_have_run() {
        use std::ffi::{c_int, c_void};
        use std::sync::atomic::AtomicBool;
        use std::thread;

        unsafe extern "C" {
            fn __cxa_thread_atexit_impl(
                destructor: unsafe extern "C" fn(*mut c_void),
                object: *mut c_void,
                library: *mut c_void,
            ) -> c_int;
        }
        static WAS_KEPT: AtomicBool = AtomicBool::new(false);
        unsafe extern "C" fn look(_: *mut c_void) {
            let taken = thread::spawn(|| TURN.try_lock().is_err()).join();
            WAS_KEPT.store(taken.unwrap_or(false), Ordering::Relaxed);
        }
        thread::spawn(|| {
            let turn = Backend::Cuda.turn();
            assert!(turn.is_some());
            // SAFETY: the destructor is a function of this program that uses no object.
            let code = unsafe { __cxa_thread_atexit_impl(look, std::ptr::null_mut(), std::ptr::null_mut()) };
            assert_eq!(code, 0);
            end_thread(turn);
        })
        .join()
        .unwrap();
        assert!(WAS_KEPT.load(Ordering::Relaxed), "free before foreign destructors ran");
        assert!(TURN.try_lock().is_ok(), "kept behind the thread's end");
    }
}
