//! Elements of an array, copied or where they lie.

use std::ffi::c_void;

use super::array::Array;
use super::dtype::{Dtype, Element};
use super::error::{MlxError, check, last_error};
use super::ops;
use super::stream::Stream;

impl Array {
    /// Computes the graph, and copies the elements in row-major order.
    ///
    /// # Errors
    /// When the graph fails, or the elements are not of type `T`.
    pub fn to_vec<T: Element>(&self, stream: &Stream) -> Result<Vec<T>, MlxError> {
        if self.dtype() != Some(T::DTYPE) {
            return Err(MlxError::new(
                "array_data",
                format!("the array holds {:?}, not {}", self.dtype(), T::DTYPE),
            ));
        }
        ops::contiguous(self, stream)?.as_slice().map(<[T]>::to_vec)
    }

    /// Computes the graph, and returns the elements where they lie, in row-major order.
    ///
    /// # Errors
    /// When the graph fails, the elements are not of type `T`, or they don't lie in row-major order, as after a
    /// transpose (see [`ops::contiguous`]).
    pub fn as_slice<T: Element>(&self) -> Result<&[T], MlxError> {
        if self.dtype() != Some(T::DTYPE) {
            return Err(MlxError::new(
                "array_data",
                format!("the array holds {:?}, not {}", self.dtype(), T::DTYPE),
            ));
        }
        self.eval()?;
        if self.size() == 0 {
            return Ok(&[]);
        }
        if !self.is_row_contiguous()? {
            return Err(MlxError::new(
                "array_data",
                format!("an array of shape {:?} does not lie in row-major order", self.shape()),
            ));
        }
        let data = self.data_ptr()?;
        // SAFETY: evaluated and row-contiguous, so `size` elements of `T` lie at `data`. They stay there and unchanged
        // as long as the handle, which the result borrows: MLX reuses an array's memory only once it finds the
        // operation that reads it to be the only one that refers to it, and the handle is another.
        unsafe { elements("array_data", data, self.size()) }
    }

    /// Whether the elements of an evaluated array lie in row order without gaps.
    pub(super) fn is_row_contiguous(&self) -> Result<bool, MlxError> {
        let mut in_row_order = false;
        // SAFETY: `raw` is a live array; the call writes one bool through a valid pointer.
        let code = unsafe { mlx_sys::_mlx_array_is_row_contiguous(&mut in_row_order, self.raw()) };
        check("array_data", code)?;
        Ok(in_row_order)
    }

    /// Address of the first element of an evaluated array.
    pub(super) fn data_ptr(&self) -> Result<*const c_void, MlxError> {
        // SAFETY: `raw` is live and evaluated; all these accessors return the same untyped address, so the one that
        // exists on every platform serves the half types too.
        let data = unsafe {
            match self.dtype() {
                Some(Dtype::Bool) => mlx_sys::mlx_array_data_bool(self.raw()).cast(),
                Some(Dtype::U8) => mlx_sys::mlx_array_data_uint8(self.raw()).cast(),
                Some(Dtype::I8) => mlx_sys::mlx_array_data_int8(self.raw()).cast(),
                Some(Dtype::U32) => mlx_sys::mlx_array_data_uint32(self.raw()).cast(),
                Some(Dtype::I32) => mlx_sys::mlx_array_data_int32(self.raw()).cast(),
                Some(Dtype::F32) => mlx_sys::mlx_array_data_float32(self.raw()).cast(),
                Some(Dtype::F16 | Dtype::Bf16) => mlx_sys::mlx_array_data_uint16(self.raw()).cast::<c_void>(),
                None => std::ptr::null(),
            }
        };
        if data.is_null() {
            return Err(last_error("array_data"));
        }
        Ok(data)
    }
}

/// The `len` elements at `data`, once it is sure that they are what `T` may be.
///
/// # Safety
/// If `len` is not 0, `len` initialised elements of the MLX type of `T` lie at `data`, alive and unchanged for `'a`.
pub(super) unsafe fn elements<'a, T: Element>(
    operation: &'static str,
    data: *const c_void,
    len: usize,
) -> Result<&'a [T], MlxError> {
    if len == 0 {
        return Ok(&[]);
    }
    let data = data.cast::<T>();
    // Elements of another type may have been viewed as these, from an odd address or with bytes that no bool has.
    if !data.is_aligned() {
        return Err(MlxError::new(operation, format!("the elements are not aligned for {}", T::DTYPE)));
    }
    if T::DTYPE == Dtype::Bool {
        // SAFETY: the caller's promise, and a bool is a byte.
        let bytes = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), len) };
        if bytes.iter().any(|&byte| byte > 1) {
            return Err(MlxError::new(operation, "the elements are bytes that no bool has"));
        }
    }
    // SAFETY: the caller's promise, and aligned.
    Ok(unsafe { std::slice::from_raw_parts(data, len) })
}
