//! What a kernel sees of arrays while it runs.

use std::marker::PhantomData;
use std::mem::MaybeUninit;

use mlx_sys as sys;

use crate::mlx::dtype::{Dtype, Element};
use crate::mlx::error::MlxError;
use crate::mlx::read::elements;

/// An input of a kernel while it runs.
#[derive(Debug)]
pub struct HostInput<'a> {
    raw: sys::mlxsys_host_input,
    _memory: PhantomData<&'a [u8]>,
}

// SAFETY: a view of memory that nobody writes while it lives, as a shared slice is.
unsafe impl Send for HostInput<'_> {}
// SAFETY: as above.
unsafe impl Sync for HostInput<'_> {}

impl<'a> HostInput<'a> {
    /// # Safety
    /// `raw` is as `mlxsys.h` describes it, and all it points at stays alive and unchanged for `'a`.
    pub(super) unsafe fn new(raw: sys::mlxsys_host_input) -> Self {
        Self { raw, _memory: PhantomData }
    }

    /// Sizes of the dimensions.
    pub fn shape(&self) -> &'a [i32] {
        // SAFETY: as `new` was promised.
        unsafe { slice(self.raw.shape, self.raw.ndim) }
    }

    /// How many elements apart neighbours of each dimension are: 0 where an array was broadcast, negative where it was
    /// reversed.
    pub fn strides(&self) -> &'a [i64] {
        // SAFETY: as `new` was promised.
        unsafe { slice(self.raw.strides, self.raw.ndim) }
    }

    /// Number of elements.
    pub fn size(&self) -> usize {
        self.raw.size
    }

    /// Element type; `None` for MLX's types that this crate doesn't use.
    pub fn dtype(&self) -> Option<Dtype> {
        Dtype::from_raw(self.raw.dtype)
    }

    /// Whether the elements lie in row order without gaps.
    pub fn is_row_contiguous(&self) -> bool {
        self.raw.row_contiguous
    }

    /// All elements in row order, where they lie.
    ///
    /// # Errors
    /// When they are of another type, don't lie in row order, or have become an output's.
    pub fn as_slice<T: Element>(&self) -> Result<&'a [T], MlxError> {
        self.check::<T>()?;
        if !self.raw.row_contiguous && self.raw.size > 0 {
            return Err(MlxError::new(
                OPERATION,
                format!(
                    "an input of shape {:?} does not lie in row order (strides {:?}); put ops::contiguous before it",
                    self.shape(),
                    self.strides()
                ),
            ));
        }
        // SAFETY: row-contiguous, so `size` elements of `T`, which `check` compared, lie there for `'a`.
        unsafe { elements(OPERATION, self.raw.data, self.raw.size) }
    }

    /// The last dimension, at an index of all dimensions before it. It is for strided inputs whose rows have no gaps,
    /// such as the heads of `[B, L, H, E]` seen as `[B, H, L, E]`.
    ///
    /// # Errors
    /// When the elements are of another type, have gaps within a row, or have become an output's, or the index is
    /// outside the shape.
    pub fn row<T: Element>(&self, index: &[usize]) -> Result<&'a [T], MlxError> {
        self.check::<T>()?;
        let (Some((&len, outer)), Some(&stride)) = (self.shape().split_last(), self.strides().last()) else {
            return Err(MlxError::new(OPERATION, "an input without dimensions has no rows"));
        };
        let start = self.offset(index, outer)?;
        if stride != 1 && len > 1 {
            return Err(MlxError::new(OPERATION, format!("an input's rows have gaps (stride {stride})")));
        }
        // SAFETY: the index lies in the shape, so MLX has the elements of that row at this offset, `stride` apart, of
        // type `T` and for `'a`.
        unsafe {
            let data = self.raw.data.cast::<T>().wrapping_offset(start);
            elements(OPERATION, data.cast(), usize::try_from(len).unwrap_or_default())
        }
    }

    /// One element, at any strides.
    ///
    /// # Errors
    /// When the elements are of another type or have become an output's, or the index is outside the shape.
    pub fn get<T: Element>(&self, index: &[usize]) -> Result<T, MlxError> {
        self.check::<T>()?;
        let start = self.offset(index, self.shape())?;
        let data = self.raw.data.cast::<T>().wrapping_offset(start);
        // SAFETY: the index lies in the shape, so MLX has an element of type `T` at this offset.
        let element = unsafe { elements::<T>(OPERATION, data.cast(), 1)? };
        Ok(element[0])
    }

    /// A copy of all elements in row order, at any strides.
    ///
    /// # Errors
    /// When they are of another type or have become an output's.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>, MlxError> {
        if self.raw.row_contiguous || self.raw.size == 0 {
            return self.as_slice().map(<[T]>::to_vec);
        }
        let mut out = Vec::with_capacity(self.raw.size);
        let mut index = vec![0; self.raw.ndim];
        for _ in 0..self.raw.size {
            out.push(self.get(&index)?);
            for (at, &len) in index.iter_mut().zip(self.shape()).rev() {
                *at += 1;
                if i32::try_from(*at).is_ok_and(|at| at < len) {
                    break;
                }
                *at = 0;
            }
        }
        Ok(out)
    }

    /// Where `index` lies, in elements. `shape` is this input's, or its first dimensions.
    fn offset(&self, index: &[usize], shape: &[i32]) -> Result<isize, MlxError> {
        let inside = index.len() == shape.len()
            && index.iter().zip(shape).all(|(&at, &len)| i32::try_from(at).is_ok_and(|at| at < len));
        if !inside {
            return Err(MlxError::new(OPERATION, format!("index {index:?} does not lie in {shape:?}")));
        }
        Ok(index.iter().zip(self.strides()).map(|(&at, &stride)| at as isize * stride as isize).sum())
    }

    fn check<T: Element>(&self) -> Result<(), MlxError> {
        check_type::<T>("input", self.dtype())?;
        if self.raw.data.is_null() && self.raw.size > 0 {
            return Err(MlxError::new(
                OPERATION,
                "an input's elements are in the output that is in its place",
            ));
        }
        Ok(())
    }
}

/// An output of a kernel while it runs. Its elements lie in row order without gaps.
#[derive(Debug)]
pub struct HostOutput<'a> {
    raw: sys::mlxsys_host_output,
    written: bool,
    _memory: PhantomData<&'a mut [u8]>,
}

// SAFETY: the only way to its memory while it lives, as a mutable slice is.
unsafe impl Send for HostOutput<'_> {}
// SAFETY: shared, it shows its shape and type alone.
unsafe impl Sync for HostOutput<'_> {}

impl HostOutput<'_> {
    /// # Safety
    /// `raw` is as `mlxsys.h` describes it, and for as long as this lives, all it points at stays alive and nobody
    /// else uses the elements.
    pub(super) unsafe fn new(raw: sys::mlxsys_host_output) -> Self {
        Self { raw, written: raw.in_place_of >= 0, _memory: PhantomData }
    }

    /// Sizes of the dimensions.
    pub fn shape(&self) -> &[i32] {
        // SAFETY: as `new` was promised.
        unsafe { slice(self.raw.shape, self.raw.ndim) }
    }

    /// Number of elements.
    pub fn size(&self) -> usize {
        self.raw.size
    }

    /// Element type.
    pub fn dtype(&self) -> Option<Dtype> {
        Dtype::from_raw(self.raw.dtype)
    }

    /// Number of the input whose elements the output starts with, if any.
    pub fn in_place_of(&self) -> Option<usize> {
        usize::try_from(self.raw.in_place_of).ok()
    }

    pub(super) fn is_written(&self) -> bool {
        self.written || self.raw.size == 0
    }

    pub(super) fn zero(&mut self) {
        let bytes = self.raw.size * self.dtype().map_or(0, Dtype::size);
        // SAFETY: the output is `size` elements long, and zero bytes are a value of every element type.
        unsafe { std::ptr::write_bytes(self.raw.data.cast::<u8>(), 0, bytes) };
        self.written = true;
    }

    /// The elements: the input's where the output is in place of one, else those written so far, and zeros for the
    /// others.
    ///
    /// # Errors
    /// When they are of another type.
    pub fn as_mut_slice<T: Element>(&mut self) -> Result<&mut [T], MlxError> {
        check_type::<T>("output", self.dtype())?;
        if self.raw.size == 0 {
            return Ok(&mut []);
        }
        if !self.written {
            self.zero();
        }
        // SAFETY: `size` initialised elements of `T` lie there, and `self` is the only way to them. `elements` has
        // checked what could be wrong with them.
        unsafe {
            elements::<T>(OPERATION, self.raw.data, self.raw.size)?;
            Ok(std::slice::from_raw_parts_mut(self.raw.data.cast(), self.raw.size))
        }
    }

    /// The elements as memory to write to. What was there before is lost. Call [`HostOutput::assume_written`] once all
    /// are written: without it the kernel fails.
    ///
    /// # Errors
    /// When they are of another type.
    pub fn as_uninit_slice<T: Element>(&mut self) -> Result<&mut [MaybeUninit<T>], MlxError> {
        check_type::<T>("output", self.dtype())?;
        if self.raw.size == 0 {
            return Ok(&mut []);
        }
        self.written = false;
        let data = self.raw.data.cast::<MaybeUninit<T>>();
        if !data.is_aligned() {
            return Err(MlxError::new(OPERATION, "an output is not aligned for its type"));
        }
        // SAFETY: memory for `size` elements of `T` lies there, aligned, and `self` is the only way to it.
        Ok(unsafe { std::slice::from_raw_parts_mut(data, self.raw.size) })
    }

    /// Declares that all elements have been written.
    ///
    /// # Safety
    /// Since the last call of [`HostOutput::as_uninit_slice`], each element has been written with a value of the
    /// output's type.
    pub unsafe fn assume_written(&mut self) {
        self.written = true;
    }

    /// Fills all elements by a function, which is given them as memory to write to and gives them back written.
    ///
    /// # Errors
    /// When they are of another type, or the function does not give back all of them.
    pub fn fill_with<T: Element>(
        &mut self,
        write: impl for<'a> FnOnce(&'a mut [MaybeUninit<T>]) -> &'a mut [T],
    ) -> Result<(), MlxError> {
        let elements = self.as_uninit_slice()?;
        let (start, len) = (elements.as_ptr().cast::<T>(), elements.len());
        let written = write(elements);
        // The same memory, as values: so that is what it holds.
        if len > 0 && (written.as_ptr(), written.len()) != (start, len) {
            return Err(MlxError::new(OPERATION, "an output came back from another place or in part"));
        }
        self.written = true;
        Ok(())
    }

    /// Writes each element as a function of its place in row order.
    ///
    /// # Errors
    /// When the elements are of another type.
    pub fn write_with<T: Element>(&mut self, mut value: impl FnMut(usize) -> T) -> Result<(), MlxError> {
        for (index, element) in self.as_uninit_slice()?.iter_mut().enumerate() {
            element.write(value(index));
        }
        self.written = true;
        Ok(())
    }

    /// Writes all elements, given in row order.
    ///
    /// # Errors
    /// When they are of another type, or there are more or fewer.
    pub fn copy_from_slice<T: Element>(&mut self, values: &[T]) -> Result<(), MlxError> {
        if values.len() != self.raw.size {
            return Err(MlxError::new(
                OPERATION,
                format!("{} elements do not fill an output of shape {:?}", values.len(), self.shape()),
            ));
        }
        for (element, value) in self.as_uninit_slice()?.iter_mut().zip(values) {
            element.write(*value);
        }
        self.written = true;
        Ok(())
    }
}

const OPERATION: &str = "host_kernel";

fn check_type<T: Element>(what: &str, dtype: Option<Dtype>) -> Result<(), MlxError> {
    if dtype == Some(T::DTYPE) {
        return Ok(());
    }
    let has = dtype.map_or_else(|| "another type".to_owned(), |dtype| dtype.to_string());
    Err(MlxError::new(OPERATION, format!("an {what} holds {has}, not {}", T::DTYPE)))
}

/// # Safety
/// If `len` is not 0, `len` values lie at `data`, alive and unchanged for `'a`.
unsafe fn slice<'a, T>(data: *const T, len: usize) -> &'a [T] {
    if len == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(data, len) }
}
