//! Operations of your own on the CPU: Rust code as a node of MLX's graph.
//!
//! MLX takes kernels of a program's own for Metal and for CUDA; this is the same for the CPU. A [`HostKernel`] says what
//! to compute, and [`host_kernel`] puts it into the graph. There it is an operation like any other: it is lazy, runs in
//! order with the others on its stream, and has its memory from MLX's allocator.
//!
//! ```
//! use std::sync::Arc;
//!
//! use mlx_embed::mlx::host::{HostError, HostInput, HostKernel, HostOutput, OutputSpec, host_kernel};
//! use mlx_embed::mlx::{Array, Dtype, Stream, ops};
//!
//! struct Scale(f32);
//!
//! impl HostKernel for Scale {
//!     fn name(&self) -> &str {
//!         "scale"
//!     }
//!
//!     fn run(&self, inputs: &[HostInput<'_>], outputs: &mut [HostOutput<'_>]) -> Result<(), HostError> {
//!         let x = inputs[0].as_slice::<f32>()?;
//!         outputs[0].write_with(|i| self.0 * x[i])?;
//!         Ok(())
//!     }
//! }
//!
//! let stream = Stream::cpu()?;
//! let x = Array::from_slice(&[1.0_f32, 2.0, 3.0, 4.0], &[2, 2])?;
//! let output = OutputSpec::new(x.shape(), Dtype::F32);
//! let [scaled] = host_kernel(Arc::new(Scale(10.0)), &[&x], [output], &stream)?;
//! let y = ops::add(&scaled, &x, &stream)?;
//! assert_eq!(y.to_vec::<f32>(&stream)?, [11.0, 22.0, 33.0, 44.0]);
//! # Ok::<(), mlx_embed::mlx::MlxError>(())
//! ```
//!
//! # What a kernel is given
//! - **Inputs** lie where MLX has them: transposed and sliced arrays have strides, and are not copied. A kernel that
//!   needs rows without gaps asks for them with [`HostInput::as_slice`], which fails for other inputs. Its caller puts
//!   [`ops::contiguous`](super::ops::contiguous) before it, which copies only if it must. Addresses are aligned for the
//!   element type and for nothing more.
//! - **Outputs** lie in row order without gaps, in new memory that starts at a cache line (64 bytes).
//!   [`HostOutput::as_mut_slice`] fills it with zeros the first time. [`HostOutput::write_with`],
//!   [`HostOutput::copy_from_slice`] and [`HostOutput::as_uninit_slice`] don't.
//! - **In place**: an output may start with the elements of an input ([`OutputSpec::in_place`]). MLX hands over the
//!   input's memory if nobody else uses it, and copies it otherwise. The kernel finds the elements in the output only,
//!   so it never has two names for one memory. Weights in a mapped file are used by their checkpoint, so they are always
//!   copied.
//!
//! # Where it runs
//! On the thread of the stream, while kernels of other streams run on theirs. The arrays' memory stays until the kernel
//! has returned. A kernel may use threads of its own. It can't compute with MLX, which is an error. It must not wait for
//! code that does: that may be waiting for the kernel.
//!
//! # Failure
//! An error that [`HostKernel::run`] returns, or a panic in it, becomes the [`MlxError`] of the evaluation. Kernels
//! queued behind it are skipped. MLX's own operations go on with zeros for the results, and the stream goes on working.
//! Drop the arrays that the failed evaluation was to compute: their elements mean nothing.
//!
//! There are no derivatives.
//!
//! # Cost
//! A few microseconds for each node, most of them MLX's own. `cargo run --release --example host_kernel` measures it.

mod arrays;

use std::any::Any;
use std::ffi::{CString, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use mlx_sys as sys;

pub use arrays::{HostInput, HostOutput};

use super::Stream;
use super::array::Array;
use super::dtype::Dtype;
use super::error::{Failure, MlxError, check};
use super::inside::Inside;
use super::ops::{ArrayVec, held};
use super::start::start;
use crate::panics::quietly;

/// An error of a kernel: any error type, or a string.
pub type HostError = Box<dyn std::error::Error + Send + Sync>;

/// Rust code that [`host_kernel`] makes a node of MLX's graph.
pub trait HostKernel: Send + Sync + 'static {
    /// Name of the kernel in messages.
    fn name(&self) -> &str;

    /// Computes all elements of all outputs.
    ///
    /// # Errors
    /// Any error of the kernel's own. Leaving an output unwritten is an error of the evaluation, too.
    fn run(&self, inputs: &[HostInput<'_>], outputs: &mut [HostOutput<'_>]) -> Result<(), HostError>;
}

/// Shape, type and memory of a kernel's output.
#[derive(Debug, Clone, Copy)]
pub struct OutputSpec<'a> {
    /// Sizes of the dimensions.
    pub shape: &'a [i32],
    /// Element type.
    pub dtype: Dtype,
    /// Number of the input whose elements the output starts with, if any. It has the output's shape and type.
    pub in_place_of: Option<usize>,
}

impl<'a> OutputSpec<'a> {
    /// An output in new memory.
    pub fn new(shape: &'a [i32], dtype: Dtype) -> Self {
        Self { shape, dtype, in_place_of: None }
    }

    /// An output that starts with the elements of input number `input`. It takes over the input's memory if nobody else
    /// uses it.
    pub fn in_place(input: usize, shape: &'a [i32], dtype: Dtype) -> Self {
        Self { shape, dtype, in_place_of: Some(input) }
    }
}

/// Adds `kernel` to the graph of `stream`, and returns its outputs.
///
/// ```
/// use std::sync::Arc;
///
/// use mlx_embed::mlx::host::{HostError, HostInput, HostKernel, HostOutput, OutputSpec, host_kernel};
/// use mlx_embed::mlx::{Array, Dtype, Stream};
///
/// /// Adds one to each element, in the input's own memory where that is free.
/// struct Increment;
///
/// impl HostKernel for Increment {
///     fn name(&self) -> &str {
///         "increment"
///     }
///
///     fn run(&self, _: &[HostInput<'_>], outputs: &mut [HostOutput<'_>]) -> Result<(), HostError> {
///         outputs[0].as_mut_slice::<i32>()?.iter_mut().for_each(|x| *x += 1);
///         Ok(())
///     }
/// }
///
/// let stream = Stream::cpu()?;
/// let x = Array::from_slice(&[1, 2, 3], &[3])?;
/// let [y] = host_kernel(Arc::new(Increment), &[&x], [OutputSpec::in_place(0, &[3], Dtype::I32)], &stream)?;
/// assert_eq!(y.to_vec::<i32>(&stream)?, [2, 3, 4]);
/// assert_eq!(x.to_vec::<i32>(&stream)?, [1, 2, 3]); // `x` is still ours, so it was copied.
/// # Ok::<(), mlx_embed::mlx::MlxError>(())
/// ```
///
/// # Errors
/// When the stream is not on the CPU, there is no output, or a shape is negative or too large. Also when an output is in
/// place of an input that doesn't exist, has another shape or type, or is another output's already.
pub fn host_kernel<K: HostKernel + ?Sized, const N: usize>(
    kernel: Arc<K>,
    inputs: &[&Array],
    outputs: [OutputSpec<'_>; N],
    stream: &Stream,
) -> Result<[Array; N], MlxError> {
    start()?;
    let name = c_string(kernel.name());
    let streams = held(inputs.iter().copied(), stream);
    let raw_stream = stream.raw()?;
    let inputs = ArrayVec::new(inputs.iter().copied())?;
    let specs = outputs.map(|output| sys::mlxsys_host_output_spec {
        shape: output.shape.as_ptr(),
        ndim: output.shape.len(),
        dtype: output.dtype.to_raw(),
        in_place_of: output.in_place_of.map_or(-1, |input| c_int::try_from(input).unwrap_or(c_int::MAX)),
    });
    let results = ArrayVec::new([])?;
    let mut raw = results.raw();
    let payload = Box::into_raw(Box::new(Node { kernel, failure: Failure::of_this_thread() }));
    // SAFETY: live handles and specs, which mlxsys reads during the call only; it fills the vector that `raw` names.
    // `payload` is the kind that `run` and `release` expect, and mlxsys releases it once, also when the call fails.
    check("host_kernel", unsafe {
        sys::mlxsys_host_kernel(
            &mut raw,
            name.as_ptr(),
            inputs.raw(),
            specs.as_ptr(),
            N,
            Some(run::<K>),
            payload.cast(),
            Some(release::<K>),
            raw_stream,
        )
    })?;
    let arrays: Vec<Array> = (0..N).map(|index| results.get(index, &streams)).collect::<Result<_, _>>()?;
    arrays
        .try_into()
        .map_err(|_| MlxError::new("host_kernel", "MLX made another number of arrays than was asked for"))
}

/// What a node of the graph holds.
struct Node<K: ?Sized> {
    kernel: Arc<K>,
    /// Where the thread that made the node, and so evaluates it, looks for a failure.
    ///
    /// MLX could be told as well. But it runs what is queued behind all the same, and elsewhere than on Linux it loses count
    /// of its tasks now and then (0.32.2, on the thread that used it first): after some ten such losses it waits for ever.
    failure: Arc<Failure>,
}

/// Called by MLX on the stream's thread.
///
/// # Safety
/// `payload` is what [`host_kernel`] made for the same `K`; the arrays hold as many entries as said, alive, and each as
/// `mlxsys.h` describes it.
unsafe extern "C" fn run<K: HostKernel + ?Sized>(
    payload: *mut c_void,
    inputs: *const sys::mlxsys_host_input,
    n_inputs: usize,
    outputs: *const sys::mlxsys_host_output,
    n_outputs: usize,
    _message: *mut sys::mlx_string,
) -> c_int {
    // SAFETY: the caller's promise. MLX holds the memory of all arrays during the call, writes none of it meanwhile,
    // and the outputs are no one else's.
    let (node, inputs, mut outputs) = unsafe {
        let node = &*payload.cast::<Node<K>>();
        let inputs: Vec<_> = (0..n_inputs).map(|i| HostInput::new(*inputs.add(i))).collect();
        let outputs: Vec<_> = (0..n_outputs).map(|i| HostOutput::new(*outputs.add(i))).collect();
        (node, inputs, outputs)
    };
    if !node.failure.is_set() {
        let _inside = Inside::enter();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let result = node.kernel.run(&inputs, &mut outputs).map_err(|error| describe(&error));
            result.map_err(|text| format!("[{}] {text}", node.kernel.name()))?;
            match outputs.iter().position(|output| !output.is_written()) {
                None => Ok(()),
                Some(index) => Err(format!("[{}] left output {index} unwritten", node.kernel.name())),
            }
        }));
        match outcome {
            Ok(Ok(())) => return 0,
            Ok(Err(text)) => node.failure.set(text),
            Err(panic) => {
                let name = quietly(|| node.kernel.name().to_owned()).unwrap_or_default();
                node.failure.set(format!("[{name}] panicked: {}", panic_text(panic)));
            }
        }
    }
    for output in &mut outputs {
        if !output.is_written() {
            output.zero();
        }
    }
    0
}

/// # Safety
/// `payload` is what [`host_kernel`] made for the same `K`, and this is its last use.
unsafe extern "C" fn release<K: HostKernel + ?Sized>(payload: *mut c_void) {
    // SAFETY: the caller's promise.
    let node = unsafe { Box::from_raw(payload.cast::<Node<K>>()) };
    let _inside = Inside::enter();
    // A panic of the kernel's own `Drop` has nobody to go to.
    quietly(|| drop(node));
}

fn describe(error: &HostError) -> String {
    // The message alone: the error that comes of it says what MLX could not do.
    match error.downcast_ref::<MlxError>() {
        Some(error) => error.message().to_owned(),
        None => error.to_string(),
    }
}

fn panic_text(panic: Box<dyn Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => match panic.downcast::<&str>() {
            Ok(text) => (*text).to_owned(),
            Err(panic) => {
                // Its `Drop` is the kernel's own code, too.
                quietly(|| drop(panic));
                "no message".to_owned()
            }
        },
    }
}

fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', " ")).unwrap_or_default()
}
