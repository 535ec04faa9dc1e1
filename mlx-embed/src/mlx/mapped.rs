//! Files mapped into memory, and arrays that lie in them.

use std::cell::RefCell;
use std::ffi::c_void;
use std::io;
use std::sync::Arc;

use memmap2::Mmap;

use super::array::{Array, dims};
use super::cuda::Uploads;
use super::device::Backend;
use super::dtype::Dtype;
use super::error::{MlxError, check, install_handler};
use super::ops;
use super::stream::{Stream, Streams};
use crate::file::OpenFile;

/// A whole file's bytes: a read-only, private mapping, or part of this program.
///
/// A mapping shows what other processes do to the file. [`OpenFile::check_unchanged`] before and after a use tells
/// whether one wrote to it or cut it short in between; a file that is replaced by renaming another to its name stays as
/// it was here. Three things remain. A page behind the end of a file that was cut raises SIGBUS when it is touched: a cut
/// in the middle of a use ends the process. A write within the resolution of the file system's clock after the file was
/// mapped, and one whose writer sets the time back, are not seen. And a writer that maps the file may be seen late.
#[derive(Debug)]
enum Bytes {
    Mapped(Arc<Mmap>),
    Embedded(&'static [u8]),
}

impl Bytes {
    fn of(file: &OpenFile) -> io::Result<Self> {
        Ok(match file.source() {
            // SAFETY: the mapping is private and read-only. That the file isn't cut short while it is read is the
            // caller's contract, documented above; changed bytes are still valid numbers.
            Ok(file) => Self::Mapped(Arc::new(unsafe { Mmap::map(file)? })),
            Err(bytes) => Self::Embedded(bytes),
        })
    }
}

/// MLX reads the eight bytes before a CPU buffer as the buffer's size, so the base array starts behind the file's
/// first eight bytes (in safetensors: the header's length), which are then the ones read.
const CPU_BUFFER_HEADER: usize = 8;

/// The bytes of a mapped file as one MLX array, from which tensors are sliced without a copy.
///
/// The base array stays alive as long as this value, and every view shares its buffer. So MLX never finds a view to be
/// its buffer's only owner, which is its condition for reusing (overwriting) an input's memory for an output.
#[derive(Debug)]
pub(crate) struct MappedArrays {
    bytes: Bytes,
    /// u32 `[ceil((file length - skipped) / 4)]`; `None` where tensors are copied.
    base: Option<Array>,
    /// Bytes at the front of the file that the base array leaves out.
    skipped: usize,
    /// Where tensors are copied to an NVIDIA GPU. Made when the first is.
    uploads: RefCell<Option<Uploads>>,
}

impl MappedArrays {
    /// Wraps the file for `stream`'s backend: in place on the CPU and on Metal, copied tensor by tensor on CUDA, whose
    /// build of MLX can't take foreign memory, not even on its CPU device. What is part of this program is small and
    /// copied, too.
    pub(crate) fn new(file: &OpenFile, stream: &Stream) -> Result<Self, MlxError> {
        let bytes = Bytes::of(file).map_err(|error| MlxError::new("map", error.to_string()))?;
        let map = match &bytes {
            Bytes::Mapped(map) if can_map()? => Arc::clone(map),
            _ => return Ok(Self { bytes, base: None, skipped: 0, uploads: RefCell::default() }),
        };
        // Metal takes memory in place only where it starts on a page.
        let skipped = if stream.backend() == Backend::Cpu { CPU_BUFFER_HEADER } else { 0 };
        let base = Self::wrap(&map, skipped)?;
        Ok(Self { bytes, base, skipped, uploads: RefCell::default() })
    }

    fn wrap(map: &Arc<Mmap>, skipped: usize) -> Result<Option<Array>, MlxError> {
        // Words rather than bytes, because MLX counts elements in an i32: this reaches to 8 GiB a file.
        let words = map.len().saturating_sub(skipped).div_ceil(size_of::<u32>());
        let (Ok(words), true) = (i32::try_from(words), words > 0) else {
            return Ok(None);
        };
        let owner = Box::into_raw(Box::new(Arc::clone(map)));
        let shape = [words];
        let array = Array::from_call("array_new_mapped", Streams::default(), |out| {
            // SAFETY: the mapping holds `skipped` readable bytes before the address and, up to the end of its last
            // page, `words` words from it on; `owner` keeps it alive until MLX calls `release`, exactly once, also
            // when the call fails.
            unsafe {
                mlx_sys::mlxsys_array_new_mapped(
                    out,
                    map.as_ptr().add(skipped).cast(),
                    shape.as_ptr(),
                    dims(&shape),
                    Dtype::U32.to_raw(),
                    owner.cast(),
                    Some(release),
                )
            }
        })?;
        Ok(Some(array))
    }

    /// The tensor at `offset..offset + nbytes` of the file.
    pub(crate) fn tensor(
        &self,
        offset: usize,
        nbytes: usize,
        shape: &[i32],
        dtype: Dtype,
        stream: &Stream,
    ) -> Result<Array, MlxError> {
        let word = size_of::<u32>();
        if let Some(base) = &self.base
            && offset >= self.skipped
            && (offset - self.skipped).is_multiple_of(word)
            && nbytes.is_multiple_of(word)
            && nbytes > 0
            && let Ok(words) = i32::try_from(nbytes / word)
            && i32::try_from(nbytes / dtype.size()).is_ok()
        {
            let words = ops::slice_of_rows(base, (offset - self.skipped) / word, words, stream)?;
            let flat = ops::view(&words, dtype, stream)?;
            let tensor = ops::reshape(&flat, shape, stream)?;
            // Now, so that forward passes start from plain data instead of repeating these three steps.
            tensor.eval()?;
            return Ok(tensor);
        }
        let all: &[u8] = match &self.bytes {
            Bytes::Mapped(map) => map,
            Bytes::Embedded(bytes) => bytes,
        };
        let bytes = offset
            .checked_add(nbytes)
            .and_then(|end| all.get(offset..end))
            .ok_or_else(|| MlxError::new("array_new_data", "the tensor lies outside its file"))?;
        if stream.backend() != Backend::Cuda || !Uploads::takes(nbytes, dtype) {
            return Array::from_bytes(bytes, shape, dtype);
        }
        let mut uploads = self.uploads.borrow_mut();
        let uploads = match &mut *uploads {
            Some(uploads) => uploads,
            none => none.insert(Uploads::new(stream.gpu_index())?),
        };
        uploads.array(bytes, shape, dtype, stream)
    }

    /// Lets go of the memory that tensors were copied through.
    pub(crate) fn end_uploads(&self) {
        self.uploads.take();
    }
}

fn can_map() -> Result<bool, MlxError> {
    install_handler();
    let mut can = false;
    // SAFETY: writes one bool through a valid pointer.
    check("array_can_map", unsafe { mlx_sys::mlxsys_array_can_map(&mut can) })?;
    Ok(can)
}

extern "C" fn release(owner: *mut c_void) {
    // SAFETY: `owner` is the pointer made by `Box::into_raw` in `wrap`, and MLX hands it back once. Unmapping doesn't
    // panic.
    drop(unsafe { Box::from_raw(owner.cast::<Arc<Mmap>>()) });
}
