//! The owned handle of an MLX array.

use std::ffi::c_void;

use super::dtype::{Dtype, Element};
use super::error::{MlxError, check, last_error};
use super::lost::loss;
use super::shape;
use super::start::start;
use super::stream::Streams;

/// An n-dimensional array in MLX's lazy graph.
///
/// Operations (see [`ops`](super::ops)) only build the graph; [`Array::eval`], or reading the elements, computes it. A
/// clone shares the array's memory. An `Array` can't leave the thread of the streams that it is used with:
///
/// ```compile_fail,E0277
/// fn sendable<T: Send>() {}
/// sendable::<mlx_embed::mlx::Array>();
/// ```
pub struct Array {
    /// A pointer, as models hold hundreds of arrays.
    own: Box<Own>,
}

struct Own {
    raw: mlx_sys::mlx_array,
    /// What it takes to compute it.
    streams: Streams,
    /// Whether its dimensions, or those of what it is computed from, were permuted: its elements may lie in columns.
    permuted: bool,
}

impl Array {
    /// Copies `data`, in row-major order, into a new array.
    ///
    /// # Errors
    /// When the shape doesn't have `data.len()` elements, or memory runs out.
    pub fn from_slice<T: Element>(data: &[T], shape: &[i32]) -> Result<Self, MlxError> {
        // SAFETY: a slice of `T` is `size_of_val` initialised bytes of the matching MLX type.
        unsafe { Self::copy_from(data.as_ptr().cast(), size_of_val(data), shape, T::DTYPE) }
    }

    /// Copies raw little-endian `bytes` into a new array, in row-major order, as a safetensors file has them.
    ///
    /// # Errors
    /// When the shape doesn't take exactly `bytes.len()` bytes, or memory runs out.
    pub fn from_bytes(bytes: &[u8], shape: &[i32], dtype: Dtype) -> Result<Self, MlxError> {
        if dtype == Dtype::Bool {
            return Err(MlxError::new("array_new_data", "raw bytes can't become bools"));
        }
        // SAFETY: any bit pattern is a value of the remaining types.
        unsafe { Self::copy_from(bytes.as_ptr().cast(), bytes.len(), shape, dtype) }
    }

    /// # Safety
    /// `data` must point to `nbytes` readable bytes that are valid values of `dtype`.
    unsafe fn copy_from(
        data: *const c_void,
        nbytes: usize,
        shape: &[i32],
        dtype: Dtype,
    ) -> Result<Self, MlxError> {
        start()?;
        shape::expect_filled("array_new_data", nbytes, shape, dtype)?;
        // SAFETY: the caller vouches for `data`; MLX reads exactly the bytes counted above.
        let raw = unsafe { mlx_sys::mlx_array_new_data(data, shape.as_ptr(), dims(shape), dtype.to_raw()) };
        Self::from_raw("array_new_data", raw)
    }

    fn own(raw: mlx_sys::mlx_array, streams: Streams) -> Self {
        Self { own: Box::new(Own { raw, streams, permuted: false }) }
    }

    fn from_raw(operation: &'static str, raw: mlx_sys::mlx_array) -> Result<Self, MlxError> {
        if raw.ctx.is_null() { Err(last_error(operation)) } else { Ok(Self::own(raw, Streams::default())) }
    }

    /// Runs an mlx-c function that stores its result through its first argument. The result is to be computed on
    /// `streams`.
    ///
    /// Nothing is computed yet, so that a shape which MLX can't count does no harm as long as it doesn't leave this
    /// function.
    pub(super) fn from_call(
        operation: &'static str,
        streams: Streams,
        call: impl FnOnce(*mut mlx_sys::mlx_array) -> std::ffi::c_int,
    ) -> Result<Self, MlxError> {
        // SAFETY: an empty handle, which every mlx-c function accepts as its result slot.
        let mut out = Self::own(unsafe { mlx_sys::mlx_array_new() }, streams);
        check(operation, call(&mut out.own.raw))?;
        shape::count(operation, out.shape())?;
        Ok(out)
    }

    pub(super) fn raw(&self) -> mlx_sys::mlx_array {
        self.own.raw
    }

    pub(super) fn is_permuted(&self) -> bool {
        self.own.permuted
    }

    pub(super) fn permuted(mut self, permuted: bool) -> Self {
        self.own.permuted = permuted;
        self
    }

    pub(super) fn streams(&self) -> &Streams {
        &self.own.streams
    }

    /// Sizes of the dimensions.
    pub fn shape(&self) -> &[i32] {
        let ndim = self.ndim();
        if ndim == 0 {
            return &[];
        }
        // SAFETY: MLX keeps `ndim` ints at this address as long as the array, which `self` borrows, is alive.
        unsafe { std::slice::from_raw_parts(mlx_sys::mlx_array_shape(self.own.raw), ndim) }
    }

    /// Number of dimensions.
    pub fn ndim(&self) -> usize {
        // SAFETY: `raw` is a live array.
        unsafe { mlx_sys::mlx_array_ndim(self.own.raw) }
    }

    /// Number of elements.
    pub fn size(&self) -> usize {
        // SAFETY: `raw` is a live array.
        unsafe { mlx_sys::mlx_array_size(self.own.raw) }
    }

    /// Size of the elements in bytes.
    pub fn nbytes(&self) -> usize {
        // SAFETY: `raw` is a live array.
        unsafe { mlx_sys::mlx_array_nbytes(self.own.raw) }
    }

    /// Element type; `None` for MLX's types that this crate doesn't use.
    pub fn dtype(&self) -> Option<Dtype> {
        // SAFETY: `raw` is a live array.
        Dtype::from_raw(unsafe { mlx_sys::mlx_array_dtype(self.own.raw) })
    }

    /// Computes the graph up to this array, and waits for it.
    ///
    /// # Errors
    /// When an operation in the graph fails. Also when called from a kernel ([`host`](super::host)), which might wait
    /// for itself.
    pub fn eval(&self) -> Result<(), MlxError> {
        // SAFETY: `raw` is a live array.
        self.own.streams.compute(|| unsafe { mlx_sys::mlx_array_eval(self.own.raw) })
    }
}

/// Dimension count as mlx-c takes it. Shapes here have at most a handful of dimensions.
pub(super) fn dims(shape: &[i32]) -> std::ffi::c_int {
    shape.len() as std::ffi::c_int
}

impl Clone for Array {
    fn clone(&self) -> Self {
        // SAFETY: an empty handle is made to share `self.own.raw`'s array. The call only copies a shared pointer; it
        // fails on an empty source alone, which no `Array` is.
        unsafe {
            let mut raw = mlx_sys::mlx_array_new();
            mlx_sys::mlx_array_set(&mut raw, self.own.raw);
            Self::own(raw, self.own.streams.clone()).permuted(self.own.permuted)
        }
    }
}

impl Drop for Array {
    fn drop(&mut self) {
        if loss().is_some() {
            // MLX would ask CUDA to free it, which fails, and end the process.
            return;
        }
        // SAFETY: every `Array` owns its handle alone; freeing an empty one is allowed.
        unsafe { mlx_sys::mlx_array_free(self.own.raw) };
    }
}

impl std::fmt::Debug for Array {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Printing values would run the graph.
        f.debug_struct("Array")
            .field("shape", &self.shape())
            .field("dtype", &self.dtype())
            .finish_non_exhaustive()
    }
}
