//! Devices and streams.

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use super::error::{MlxError, check, check_results, install_handler, last_error};

/// What MLX's core was built for. One build holds the CPU and at most one GPU backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Backend {
    /// Plain CPU.
    Cpu,
    /// Apple GPUs.
    Metal,
    /// NVIDIA GPUs.
    Cuda,
}

static TURN: Mutex<()> = Mutex::new(());

impl Backend {
    /// Held around everything that touches a GPU: MLX records a GPU's work into graphs that two threads at once break.
    /// On the CPU there is nothing to wait for.
    pub(crate) fn turn(self) -> Option<MutexGuard<'static, ()>> {
        if self == Self::Cpu {
            return None;
        }
        // Registers its destructor before this thread does anything with MLX: see `end_thread`.
        LAST_TURN.with(|_| ());
        // The mutex guards no data, so a panic of the thread before leaves nothing broken.
        Some(TURN.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

thread_local! {
    /// What [`end_thread`] keeps.
    static LAST_TURN: RefCell<Option<MutexGuard<'static, ()>>> = const { RefCell::new(None) };
    /// Whether this thread has seen its GPU fail for good.
    static IS_LOST: Cell<bool> = const { Cell::new(false) };
}

/// Keeps a turn until this thread has ended. MLX ends a GPU thread's streams and graphs when the thread ends, in
/// destructors that no turn of ours surrounds.
///
/// Destructors of thread-locals run in the reverse order of their registration, and a thread takes its first turn before
/// it uses MLX: so what this keeps goes behind what MLX destroys.
///
/// Where this thread's GPU has failed for good nothing is kept, as the thread can't end: see [`may_end_thread`].
pub(crate) fn end_thread(turn: Option<MutexGuard<'static, ()>>) {
    if may_end_thread() {
        LAST_TURN.set(turn);
    }
}

/// Whether this thread may end. After a fault in a GPU's kernel all that CUDA is asked fails, and MLX ends the process
/// where it is in a destructor, as it is at the end of a thread that has a stream.
pub(crate) fn may_end_thread() -> bool {
    !IS_LOST.get()
}

/// Looks whether this thread's GPU has failed for good, and sees to it that what is destroyed after that doesn't end the
/// process. Comes with every error of MLX's, and before a model is freed: the fault may be another model's.
pub(crate) fn survive_failure() {
    // SAFETY: takes no arguments.
    if unsafe { mlx_sys::mlxsys_cuda_survive() } {
        IS_LOST.set(true);
    }
}

/// Comes before whatever makes MLX allocate memory, and does something once.
pub(super) fn start() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        install_handler();
        // It is for using less memory: where it fails, nothing but that is lost.
        // SAFETY: takes no arguments.
        let _ = check("cuda_prepare", unsafe { mlx_sys::mlxsys_cuda_prepare() });
    });
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

/// The GPU backend that this process can use, if there is one.
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

/// A queue of operations on one device, and the handle that every operation takes.
///
/// MLX wants a stream used by one thread at a time, so a `Stream` can't leave its thread:
///
/// ```compile_fail,E0277
/// fn sendable<T: Send>() {}
/// sendable::<mlx_embed::mlx::Stream>();
/// ```
///
/// nor be shared:
///
/// ```compile_fail,E0277
/// fn shareable<T: Sync>() {}
/// shareable::<mlx_embed::mlx::Stream>();
/// ```
///
/// While it lives it is also its thread's default, for what MLX does on its own account.
#[derive(Debug)]
pub struct Stream {
    raw: mlx_sys::mlx_stream,
    backend: Backend,
    _thread_bound: PhantomData<*const ()>,
}

/// A CPU stream that no thread uses.
struct Idle(mlx_sys::mlx_stream);

// SAFETY: made by `mlx_stream_new_thread_unsafe`, which any thread may use as long as only one does; this list holds
// streams that none does.
unsafe impl Send for Idle {}

/// MLX never ends a CPU stream, nor the thread behind it: without this list, each model loaded and dropped would leave
/// one. A GPU's streams end with the thread that made them, and have to: ended with the process, after the driver,
/// they abort it.
static IDLE: Mutex<Vec<Idle>> = Mutex::new(Vec::new());

fn idle() -> MutexGuard<'static, Vec<Idle>> {
    // The list is whole after every step, so another thread's panic can't have broken it.
    IDLE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stream {
    /// A stream on the CPU.
    ///
    /// # Errors
    /// When MLX can't make one.
    pub fn cpu() -> Result<Self, MlxError> {
        Self::new(Backend::Cpu, 0)
    }

    /// A stream on the GPU.
    ///
    /// # Errors
    /// When there is no GPU that this build can use.
    pub fn gpu() -> Result<Self, MlxError> {
        let backend = gpu_backend()
            .ok_or_else(|| MlxError::new("stream_new", "no GPU that this build of MLX can use was found"))?;
        Self::new(backend, 0)
    }

    /// Of GPUs, that with this index.
    pub(crate) fn new(backend: Backend, gpu: i32) -> Result<Self, MlxError> {
        start();
        let reused = if backend == Backend::Cpu { idle().pop() } else { None };
        let raw = match reused {
            Some(Idle(raw)) => raw,
            None => Self::make(backend, gpu)?,
        };
        let stream = Self { raw, backend, _thread_bound: PhantomData };
        // SAFETY: `raw` is a live stream; the setting is this thread's.
        check("set_default_stream", unsafe { mlx_sys::mlx_set_default_stream(raw) })?;
        Ok(stream)
    }

    fn make(backend: Backend, gpu: i32) -> Result<mlx_sys::mlx_stream, MlxError> {
        // SAFETY: plain constructors; the device handle is freed once, after its only use.
        let raw = unsafe {
            let (device, raw);
            match backend {
                Backend::Cpu => {
                    device = mlx_sys::mlx_device_new_type(mlx_sys::mlx_device_type__MLX_CPU, 0);
                    raw = mlx_sys::mlx_stream_new_thread_unsafe(device);
                }
                Backend::Metal | Backend::Cuda => {
                    device = mlx_sys::mlx_device_new_type(mlx_sys::mlx_device_type__MLX_GPU, gpu);
                    raw = mlx_sys::mlx_stream_new_device(device);
                }
            }
            mlx_sys::mlx_device_free(device);
            raw
        };
        if raw.ctx.is_null() { Err(last_error("stream_new")) } else { Ok(raw) }
    }

    /// The backend that runs this stream's operations.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Waits until everything on this stream is done.
    ///
    /// # Errors
    /// When an operation on the stream failed.
    pub fn synchronize(&self) -> Result<(), MlxError> {
        // SAFETY: `raw` is a live stream that only this thread uses.
        check_results("synchronize", unsafe { mlx_sys::mlx_synchronize(self.raw) })
    }

    /// [`Backend::turn`] of its backend.
    pub(crate) fn turn(&self) -> Option<MutexGuard<'static, ()>> {
        self.backend.turn()
    }

    pub(super) fn raw(&self) -> mlx_sys::mlx_stream {
        self.raw
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // An error here belongs to work whose result nobody asked for.
        let _ = self.synchronize();
        match self.backend {
            Backend::Cpu => idle().push(Idle(self.raw)),
            // SAFETY: made by `make` and freed nowhere else.
            Backend::Metal | Backend::Cuda => unsafe {
                mlx_sys::mlx_stream_free(self.raw);
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Registers destructors as C++ does for its thread-locals.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_thread_keeps_its_last_turn_until_foreign_destructors_have_run() {
        use std::ffi::{c_int, c_void};
        use std::sync::atomic::{AtomicBool, Ordering};
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
