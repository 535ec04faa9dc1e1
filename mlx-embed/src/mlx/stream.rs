//! Streams, and how long they live.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::device::{Backend, Turn, enter_gpu, gpu_backend};
use super::error::{MlxError, check, check_results, last_error};
use super::exit;
use super::inside::check_outside;
use super::lost::loss;
use super::process::{PerProcess, Process};
use super::start::start;
use super::waiting::waiting;

/// A queue of operations on one device. Every operation takes one.
///
/// MLX wants a stream to be used by one thread at a time. So a `Stream` can't be sent to another thread:
///
/// ```compile_fail,E0277
/// fn sendable<T: Send>() {}
/// sendable::<mlx_embed::mlx::Stream>();
/// ```
///
/// Nor can it be shared:
///
/// ```compile_fail,E0277
/// fn shareable<T: Sync>() {}
/// shareable::<mlx_embed::mlx::Stream>();
/// ```
///
/// An array keeps the streams that it is computed on: a `Stream` may be dropped before its arrays.
#[derive(Debug)]
pub struct Stream {
    queue: Rc<Queue>,
    held: Streams,
    _thread_bound: PhantomData<*const ()>,
}

/// MLX's stream, for one thread at a time.
#[derive(Debug)]
struct Queue {
    raw: mlx_sys::mlx_stream,
    backend: Backend,
    gpu: i32,
    /// The process whose thread works the queue off.
    process: Process,
}

/// A CPU stream that no thread uses.
struct Idle(mlx_sys::mlx_stream);

// SAFETY: made by `mlxsys_stream_new_cpu`, which any thread may use as long as only one does; this list holds
// streams that none does.
unsafe impl Send for Idle {}

/// All CPU streams of this process that are not in use.
#[derive(Default)]
struct Pool {
    /// How many it made.
    made: usize,
    idle: Vec<Idle>,
}

/// MLX keeps what it knows of CPU streams in one table, which every evaluation reads. Where new ones can't be kept from
/// being written to it meanwhile, all that there will ever be are made before the first is used. MLX never ends a stream
/// nor the thread behind it, and at times waits for all there are: elsewhere they are made as they are needed.
const MADE_AT_ONCE: usize = if cfg!(target_os = "linux") { 1 } else { MOST_CPU_STREAMS };

/// Most streams of the CPU. Each that was used has a thread.
const MOST_CPU_STREAMS: usize = 1024;

/// Not its parent's, of whose threads a fork has none.
static POOL: PerProcess<Mutex<Pool>> = PerProcess::new();

thread_local! {
    /// The CPU stream that is MLX's default on this thread, held for as long as it is that.
    static DEFAULT: RefCell<Option<Rc<Queue>>> = const { RefCell::new(None) };
}

fn pool() -> MutexGuard<'static, Pool> {
    // The list is whole after every step, so another thread's panic can't have broken it.
    POOL.get().lock().unwrap_or_else(PoisonError::into_inner)
}

fn make_gpu(gpu: i32) -> Result<mlx_sys::mlx_stream, MlxError> {
    // SAFETY: plain constructors; the device handle is freed once, after its only use.
    let raw = unsafe {
        let device = mlx_sys::mlx_device_new_type(mlx_sys::mlx_device_type__MLX_GPU, gpu);
        let raw = mlx_sys::mlx_stream_new_device(device);
        mlx_sys::mlx_device_free(device);
        raw
    };
    if raw.ctx.is_null() { Err(last_error("stream_new")) } else { Ok(raw) }
}

fn make_cpu() -> Result<Idle, MlxError> {
    let mut raw = mlx_sys::mlx_stream { ctx: std::ptr::null_mut() };
    // SAFETY: stores a new handle.
    check("stream_new", unsafe { mlx_sys::mlxsys_stream_new_cpu(&mut raw) })?;
    Ok(Idle(raw))
}

fn take_idle() -> Result<mlx_sys::mlx_stream, MlxError> {
    exit::register_cpu();
    let mut pool = pool();
    if pool.idle.is_empty() && pool.made < MOST_CPU_STREAMS {
        let made = (0..MADE_AT_ONCE).map(|_| make_cpu()).collect::<Result<Vec<_>, _>>()?;
        pool.made += made.len();
        pool.idle.extend(made);
    }
    pool.idle.pop().map(|Idle(raw)| raw).ok_or_else(|| {
        let reason = "drop streams, and arrays that were computed on them";
        MlxError::new("stream_new", format!("all {MOST_CPU_STREAMS} streams of the CPU are in use; {reason}"))
    })
}

impl Queue {
    fn check_process(&self) -> Result<(), MlxError> {
        if self.process.is_this() {
            return Ok(());
        }
        Err(MlxError::new(
            "eval",
            "this process is a fork of the one that made the stream, and has none of its threads; load or make it anew",
        ))
    }

    fn synchronize(&self) -> Result<(), MlxError> {
        self.check_process()?;
        if self.backend == Backend::Cuda
            && let Some(reason) = loss()
        {
            // MLX would wait for an event that no longer comes.
            return Err(MlxError::new("synchronize", reason));
        }
        let _computing = exit::computing();
        // SAFETY: `raw` is a live stream that only this thread uses.
        check_results("synchronize", unsafe { mlx_sys::mlx_synchronize(self.raw) })
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        if !self.process.is_this() {
            return;
        }
        // An error here belongs to work whose result nobody asked for.
        let _ = self.synchronize();
        match self.backend {
            Backend::Cpu => pool().idle.push(Idle(self.raw)),
            // SAFETY: made by `make_gpu` and freed nowhere else.
            Backend::Metal | Backend::Cuda => unsafe {
                mlx_sys::mlx_stream_free(self.raw);
            },
        }
    }
}

impl Stream {
    /// A stream on the CPU. A process can have 1024 of them at a time.
    ///
    /// # Errors
    /// When all are in use, by other streams or by arrays that are computed on them.
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
        start()?;
        let process = Process::this()?;
        let raw = match backend {
            Backend::Cpu => take_idle()?,
            Backend::Metal | Backend::Cuda => {
                enter_gpu(gpu)?;
                let raw = make_gpu(gpu)?;
                exit::register_gpu();
                raw
            }
        };
        let queue = Rc::new(Queue { raw, backend, gpu, process });
        let held = Streams(Some(Rc::new([Rc::clone(&queue)])));
        let stream = Self { queue, held, _thread_bound: PhantomData };
        stream.make_default()?;
        Ok(stream)
    }

    /// Has MLX take this stream for what it does on its own account.
    fn make_default(&self) -> Result<(), MlxError> {
        let is_default = |default: &RefCell<Option<Rc<Queue>>>| {
            default
                .try_borrow()
                .is_ok_and(|default| default.as_ref().is_some_and(|default| Rc::ptr_eq(default, &self.queue)))
        };
        if DEFAULT.try_with(is_default).unwrap_or(false) {
            return Ok(());
        }
        // SAFETY: `raw` is a live stream; the setting is this thread's.
        check("set_default_stream", unsafe { mlx_sys::mlx_set_default_stream(self.queue.raw) })?;
        // A GPU's is nobody else's afterwards, and must not be ended by a thread that is being torn down.
        if self.queue.backend == Backend::Cpu {
            let before = DEFAULT.try_with(|default| default.replace(Some(Rc::clone(&self.queue))));
            drop(before);
        }
        Ok(())
    }

    /// The kind of device that runs this stream's operations.
    pub fn backend(&self) -> Backend {
        self.queue.backend
    }

    /// Which of the GPUs it is.
    pub(super) fn gpu_index(&self) -> i32 {
        self.queue.gpu
    }

    /// Waits until all operations on this stream are done.
    ///
    /// # Errors
    /// When an operation on the stream failed.
    pub fn synchronize(&self) -> Result<(), MlxError> {
        self.queue.synchronize()
    }

    /// [`Backend::turn`] of its backend.
    pub(crate) fn turn(&self) -> Option<Turn> {
        self.queue.backend.turn()
    }

    /// What an operation on this stream hands to MLX.
    pub(super) fn raw(&self) -> Result<mlx_sys::mlx_stream, MlxError> {
        self.make_default()?;
        Ok(self.queue.raw)
    }

    pub(super) fn held(&self) -> &Streams {
        &self.held
    }
}

/// The streams, each once, that an array's graph is to be computed on. While it holds them no other thread gets them.
#[derive(Debug, Clone, Default)]
pub(super) struct Streams(Option<Rc<[Rc<Queue>]>>);

impl Streams {
    fn queues(&self) -> &[Rc<Queue>] {
        self.0.as_deref().unwrap_or_default()
    }

    fn holds(&self, others: &Self) -> bool {
        let holds = |other: &Rc<Queue>| self.queues().iter().any(|queue| Rc::ptr_eq(queue, other));
        others.queues().iter().all(holds)
    }

    /// Those of both.
    pub(super) fn and(&self, others: &Self) -> Self {
        if self.holds(others) {
            return self.clone();
        }
        if others.holds(self) {
            return others.clone();
        }
        let mut all = self.queues().to_vec();
        all.extend(
            others
                .queues()
                .iter()
                .filter(|other| !all.iter().any(|queue| Rc::ptr_eq(queue, other)))
                .cloned()
                .collect::<Vec<_>>(),
        );
        Self(Some(all.into()))
    }

    /// Whether this process has the threads that work them off.
    fn check_process(&self) -> Result<(), MlxError> {
        self.queues().iter().try_for_each(|queue| queue.check_process())
    }

    /// Runs a call that computes arrays on these.
    pub(super) fn compute(&self, call: impl FnOnce() -> std::ffi::c_int) -> Result<(), MlxError> {
        check_outside("eval")?;
        self.check_process()?;
        let computed = {
            let _computing = exit::computing();
            check_results("eval", waiting(call))
        };
        if computed.is_err() {
            self.settle();
        }
        computed
    }

    /// Waits for what a failed evaluation has begun: it reads and writes arrays that may be dropped next.
    #[cold]
    fn settle(&self) {
        for queue in self.queues() {
            // It failed already.
            let _ = queue.synchronize();
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests;
