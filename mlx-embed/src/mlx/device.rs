//! Devices and streams.

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::error::{MlxError, check, install_handler};
use super::memory;
use super::process::Process;

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
    /// The GPU that this thread has a stream on.
    static GPU: Cell<Option<i32>> = const { Cell::new(None) };
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
    lost().iter().map(|(gpu, message)| (usize::try_from(*gpu).unwrap_or_default(), message.clone())).collect()
}

/// This thread uses this GPU from now on.
pub(super) fn enter_gpu(gpu: i32) -> Result<(), MlxError> {
    if let Some(reason) = loss_of(gpu) {
        return Err(MlxError::new("stream_new", reason));
    }
    GPU.set(Some(gpu));
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
    memory::keep_all();
    let Some(gpu) = GPU.try_with(Cell::get).ok().flatten() else { return };
    let mut lost = lost();
    if lost.iter().all(|(index, _)| *index != gpu) {
        lost.push((gpu, message.to_owned()));
        ANY_LOST.store(true, Ordering::Release);
    }
}

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
