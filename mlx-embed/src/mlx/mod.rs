//! Safe MLX: arrays, streams, errors and memory, as far as an embedder needs them.
//!
//! `unsafe` is allowed in this module, and each block states what it relies on. The code above it has none, which the
//! compiler enforces.
//!
//! ```
//! use mlx_embed::mlx::{Array, Stream, ops};
//!
//! let stream = Stream::cpu()?;
//! let a = Array::from_slice(&[1.0_f32, 2.0, 3.0, 4.0], &[2, 2])?;
//! let b = ops::matmul(&a, &a, &stream)?;
//! assert_eq!(b.to_vec::<f32>(&stream)?, [7.0, 10.0, 15.0, 22.0]);
//!
//! // A mistake is a value with MLX's message, not the end of the process.
//! let error = ops::reshape(&a, &[3], &stream).unwrap_err();
//! assert_eq!(error.operation(), "reshape");
//! # Ok::<(), mlx_embed::mlx::MlxError>(())
//! ```
//!
//! [`host`] makes Rust code an operation like those in [`ops`].
//!
//! # Safety
//! No safe call here is undefined behaviour, whatever its arguments, on the CPU or on a GPU, from any thread, and also
//! while the process ends. There are two exceptions:
//! - Another process that changes a mapped weights file. A mapped file that is cut short while it is read ends the process
//!   with SIGBUS.
//! - With a GPU, and elsewhere than on Linux, the destructor of a thread-local that a thread had before it first used MLX. It
//!   must not use MLX, as what MLX has of the thread is gone by then.
//!
//! # Fork
//! A child of the C library's `fork` has none of its parent's threads. Streams have to be made anew there: arrays that
//! were to be computed on the parent's streams fail. With a GPU, fork before MLX is first used.
#![allow(unsafe_code)]

mod array;
mod checks;
mod compiled;
pub(crate) mod cuda;
mod device;
mod dtype;
mod error;
mod exit;
pub mod host;
mod inside;
mod lost;
mod mapped;
pub mod memory;
pub mod ops;
mod process;
mod quantized;
mod read;
mod shape;
mod start;
mod stream;
mod waiting;

pub use array::Array;
pub use compiled::CompiledKernels;
pub use device::{Backend, gpu_backend};
pub(crate) use device::{Turn, end_thread, gpu_count, has_cpu};
pub use dtype::{Dtype, Element};
pub use error::MlxError;
pub use lost::lost_gpus;
pub(crate) use lost::{loss, loss_of, may_end_thread, survive_failure};
pub(crate) use mapped::MappedArrays;
pub(crate) use process::Process;
pub use stream::Stream;
#[cfg(feature = "bench")]
pub(crate) use waiting::Building;

/// Version of mlx-c that this crate was built with, such as `0.7.0`.
pub const C_VERSION: &str = mlx_sys::MLXC_VERSION;

/// Version of the MLX core that this process runs on, such as `0.32.2`.
pub fn version() -> String {
    error::install_handler();
    // SAFETY: an empty string handle is filled, copied while alive and freed once.
    unsafe {
        let mut text = mlx_sys::mlx_string_new();
        let version = if mlx_sys::mlx_version(&mut text) == 0 {
            std::ffi::CStr::from_ptr(mlx_sys::mlx_string_data(text)).to_string_lossy().into_owned()
        } else {
            "unknown".to_owned()
        };
        mlx_sys::mlx_string_free(text);
        version
    }
}

/// Sets the number of threads that matrix products on the CPU use. The setting is the process's.
pub(crate) fn set_blas_threads(threads: usize) -> Result<(), MlxError> {
    error::install_handler();
    let threads = i32::try_from(threads).unwrap_or(i32::MAX);
    // SAFETY: takes a plain number.
    error::check("blas_set_num_threads", unsafe { mlx_sys::mlxsys_blas_set_num_threads(threads) })
}
