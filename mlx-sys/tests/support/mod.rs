//! Just enough ownership around the raw functions for tests to read well.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod host;

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

use mlx_sys as sys;

/// An array that is freed at its end.
pub(crate) struct Array(pub(crate) sys::mlx_array);

impl Array {
    /// An empty handle: a slot for a result, or "no such argument".
    pub(crate) fn none() -> Self {
        // SAFETY: no precondition.
        Self(unsafe { sys::mlx_array_new() })
    }

    pub(crate) fn f32(values: &[f32], shape: &[c_int]) -> Self {
        Self::of(values, shape, sys::mlx_dtype__MLX_FLOAT32)
    }

    pub(crate) fn i32(values: &[i32], shape: &[c_int]) -> Self {
        Self::of(values, shape, sys::mlx_dtype__MLX_INT32)
    }

    fn of<T>(values: &[T], shape: &[c_int], dtype: sys::mlx_dtype) -> Self {
        assert_eq!(values.len(), size(shape));
        // SAFETY: `values` holds as many elements as the shape says, and MLX copies them.
        Self(unsafe { sys::mlx_array_new_data(values.as_ptr().cast(), shape.as_ptr(), len(shape), dtype) })
    }

    /// `count` numbers between -1 and 1, the same ones for the same seed.
    pub(crate) fn noise(shape: &[c_int], mut seed: u32) -> Self {
        let mut next = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        Self::f32(&(0..size(shape)).map(|_| next()).collect::<Vec<_>>(), shape)
    }

    pub(crate) fn shape(&self) -> Vec<c_int> {
        // SAFETY: the array is live; MLX gives `ndim` dimensions.
        unsafe { copy(sys::mlx_array_shape(self.0), sys::mlx_array_ndim(self.0)) }
    }

    pub(crate) fn eval(&self) -> c_int {
        // SAFETY: the array is live.
        unsafe { sys::mlx_array_eval(self.0) }
    }

    /// The elements in row order, evaluated and copied out.
    pub(crate) fn to_f32(&self) -> Vec<f32> {
        let stream = Stream::cpu();
        let dense = call!(mlx_contiguous(self.0, false, stream.0));
        // SAFETY: live arrays; evaluated and dense, so `size` elements follow the pointer.
        unsafe {
            assert_eq!(sys::mlx_array_dtype(dense.0), sys::mlx_dtype__MLX_FLOAT32);
            assert_eq!(sys::mlx_array_eval(dense.0), 0);
            copy(sys::mlx_array_data_float32(dense.0), sys::mlx_array_size(dense.0))
        }
    }
}

impl Drop for Array {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and freed once.
        unsafe { sys::mlx_array_free(self.0) };
    }
}

/// Several arrays, freed at their end.
pub(crate) struct Arrays(pub(crate) sys::mlx_vector_array);

impl Arrays {
    pub(crate) fn new(arrays: &[&Array]) -> Self {
        // SAFETY: live arrays; the vector keeps references of its own.
        unsafe {
            let vector = sys::mlx_vector_array_new();
            for array in arrays {
                assert_eq!(sys::mlx_vector_array_append_value(vector, array.0), 0);
            }
            Self(vector)
        }
    }

    pub(crate) fn get(&self, index: usize) -> Array {
        let mut out = Array::none();
        // SAFETY: both live; an index out of range is an error of MLX's.
        assert_eq!(unsafe { sys::mlx_vector_array_get(&mut out.0, self.0, index) }, 0);
        out
    }
}

impl Drop for Arrays {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and freed once.
        unsafe { sys::mlx_vector_array_free(self.0) };
    }
}

/// A CPU stream of this thread's, freed at its end.
pub(crate) struct Stream(pub(crate) sys::mlx_stream);

impl Stream {
    pub(crate) fn cpu() -> Self {
        // SAFETY: no precondition.
        Self(unsafe { sys::mlx_default_cpu_stream_new() })
    }

    /// One that nobody else has.
    pub(crate) fn own() -> Self {
        let mut stream = sys::mlx_stream { ctx: ptr::null_mut() };
        // SAFETY: stores a new handle.
        assert_eq!(unsafe { sys::mlxsys_stream_new_cpu(&mut stream) }, 0);
        Self(stream)
    }

    pub(crate) fn synchronize(&self) -> c_int {
        // SAFETY: the stream is live and this thread's.
        unsafe { sys::mlx_synchronize(self.0) }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and freed once.
        unsafe { sys::mlx_stream_free(self.0) };
    }
}

thread_local! {
    static MESSAGE: RefCell<Option<String>> = const { RefCell::new(None) };
}

extern "C" fn keep(message: *const c_char, _: *mut c_void) {
    // SAFETY: mlx-c passes a string that lives during the call.
    let message = unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned();
    MESSAGE.set(Some(message));
}

/// Keeps what MLX says of errors. The default handler would end the process.
pub(crate) fn keep_messages() {
    // SAFETY: `keep` stays, needs no data and doesn't panic.
    unsafe { sys::mlx_set_error_handler(Some(keep), ptr::null_mut(), None) };
}

/// What it said last on this thread.
pub(crate) fn message() -> Option<String> {
    MESSAGE.take()
}

/// Calls a function whose first argument takes the array it makes, and insists on success.
macro_rules! call {
    ($function:ident($($argument:expr),* $(,)?)) => {{
        let mut out = $crate::support::Array::none();
        // SAFETY: the tests pass live handles, and pointers with the lengths that belong to them.
        assert_eq!(unsafe { mlx_sys::$function(&mut out.0, $($argument),*) }, 0);
        out
    }};
}
pub(crate) use call;

pub(crate) fn assert_close(left: &[f32], right: &[f32], tolerance: f32) {
    assert_eq!(left.len(), right.len());
    for (index, (a, b)) in left.iter().zip(right).enumerate() {
        assert!((a - b).abs() <= tolerance, "element {index}: {a} and {b}");
    }
}

pub(crate) fn size(shape: &[c_int]) -> usize {
    shape.iter().map(|&n| n as usize).product()
}

pub(crate) fn len<T>(slice: &[T]) -> c_int {
    slice.len().try_into().expect("a short slice")
}

/// # Safety
/// `len` elements lie at `start`, if `len` isn't 0.
unsafe fn copy<T: Copy>(start: *const T, len: usize) -> Vec<T> {
    if len == 0 {
        return Vec::new();
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(start, len) }.to_vec()
}
