//! From the host's memory to the GPU's own.
//!
//! Through memory of the host that is pinned: what MLX makes of the host's numbers lies in memory that both see, and each of
//! its pages is mapped when the host first writes it, and moves when the GPU first reads it.

use super::kernels::wrong;
use super::matrix::Fixed;
use super::ops::Ops;
use super::queue::{Queue, pointer};
use crate::mlx::array::Array;
use crate::mlx::dtype::Dtype;
use crate::mlx::error::MlxError;
use crate::mlx::{Stream, ops, shape};

/// Memory of a GPU that is filled from its front on.
#[derive(Debug)]
pub(super) struct Room {
    at: u64,
    left: usize,
}

impl Room {
    pub(super) fn new(at: u64, size: usize) -> Self {
        Self { at, left: size }
    }

    /// # Safety
    /// The memory lives until the queue has been waited for, or is in a tensor of this queue, and nobody else uses it
    /// meanwhile.
    pub(super) unsafe fn put(&mut self, queue: &Queue, bytes: &[u8]) -> Result<(), MlxError> {
        if bytes.len() > self.left {
            return Err(wrong("upload", format!("{} bytes where {} are missing", bytes.len(), self.left)));
        }
        // SAFETY: there is room for them; the rest is the caller's promise.
        unsafe { queue.send(self.at, bytes)? };
        self.at += bytes.len() as u64;
        self.left -= bytes.len();
        Ok(())
    }

    pub(super) fn expect_full(&self) -> Result<(), MlxError> {
        if self.left == 0 { Ok(()) } else { Err(wrong("upload", format!("{} bytes are missing", self.left))) }
    }
}

/// Who reads what is uploaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    /// This crate's kernels, as long as there is the model.
    Kernels,
    /// MLX's own operations, once: it has memory of its own, which can go again.
    Mlx,
}

/// Numbers on their way to the GPU.
#[derive(Debug)]
pub(crate) struct Upload<'a> {
    queue: &'a Queue,
    memory: (Array, u64),
    room: Room,
    shape: Vec<i32>,
    dtype: Dtype,
}

impl<'a> Upload<'a> {
    fn new(
        queue: &'a Queue,
        whom: For,
        shape: &[i32],
        dtype: Dtype,
        stream: &Stream,
    ) -> Result<Self, MlxError> {
        let elements = shape.iter().try_fold(1_i32, |all, &size| all.checked_mul(size));
        let Some(elements) = elements.filter(|&elements| elements > 0) else {
            return Err(wrong("upload", format!("{shape:?} has no elements, or too many")));
        };
        let nbytes = elements as usize * dtype.size();
        let memory = match whom {
            For::Kernels => queue.room(nbytes, stream)?,
            For::Mlx => queue.own_room(nbytes, stream)?,
        };
        let room = Room::new(memory.1, nbytes);
        Ok(Self { queue, memory, room, shape: shape.to_vec(), dtype })
    }

    /// The bytes that come next, in row order.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<(), MlxError> {
        // SAFETY: the queue keeps the memory until it has been waited for, and nobody else knows of it yet.
        unsafe { self.room.put(self.queue, bytes) }
    }

    /// For kernels of the same queue, which come after.
    pub(crate) fn fixed(self) -> Result<Fixed, MlxError> {
        self.room.expect_full()?;
        Ok(Fixed::in_room(self.memory, &self.shape, self.dtype))
    }

    /// For MLX's own operations: waits.
    pub(crate) fn array(self, stream: &Stream) -> Result<Array, MlxError> {
        self.room.expect_full()?;
        self.queue.synchronize()?;
        let (memory, at) = &self.memory;
        let first = ((at - pointer(memory)?) / size_of::<u32>() as u64) as i32;
        let elements: i32 = self.shape.iter().product();
        let words = (elements as usize * self.dtype.size()).div_ceil(size_of::<u32>()) as i32;
        let words = ops::slice_axis(memory, 0, first, first + words, stream)?;
        let numbers = ops::view(&words, self.dtype, stream)?;
        let array = ops::reshape(&ops::slice_axis(&numbers, 0, 0, elements, stream)?, &self.shape, stream)?;
        array.eval()?;
        Ok(array)
    }
}

impl Ops {
    /// Numbers of this shape, to be put there.
    pub(crate) fn upload(
        &self,
        whom: For,
        shape: &[i32],
        dtype: Dtype,
        stream: &Stream,
    ) -> Result<Upload<'_>, MlxError> {
        Upload::new(&self.queue, whom, shape, dtype, stream)
    }
}

/// Copies arrays to a GPU for MLX's own operations.
#[derive(Debug)]
pub(crate) struct Uploads(Queue);

impl Uploads {
    /// To the GPU with this index.
    pub(crate) fn new(gpu: i32) -> Result<Self, MlxError> {
        Queue::new(gpu).map(Self)
    }

    /// Whether [`Uploads::array`] takes so many bytes of this type. MLX counts elements in an i32.
    pub(crate) fn takes(nbytes: usize, dtype: Dtype) -> bool {
        nbytes > 0 && dtype != Dtype::Bool && i32::try_from(nbytes / dtype.size()).is_ok()
    }

    /// The elements that lie at `bytes`, in row order.
    pub(crate) fn array(
        &self,
        bytes: &[u8],
        shape: &[i32],
        dtype: Dtype,
        stream: &Stream,
    ) -> Result<Array, MlxError> {
        shape::expect_filled("upload", bytes.len(), shape, dtype)?;
        let mut upload = Upload::new(&self.0, For::Mlx, shape, dtype, stream)?;
        upload.put(bytes)?;
        upload.array(stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_mlx_can_count_is_taken() {
        let takes = [(4, Dtype::Bf16), (2, Dtype::Bf16), (4 << 30, Dtype::F32)];
        let leaves = [(0, Dtype::F32), (4, Dtype::Bool), (4 << 30, Dtype::Bf16)];
        for (nbytes, dtype) in takes {
            assert!(Uploads::takes(nbytes, dtype), "{nbytes} bytes of {dtype}");
        }
        for (nbytes, dtype) in leaves {
            assert!(!Uploads::takes(nbytes, dtype), "{nbytes} bytes of {dtype}");
        }
    }
}
