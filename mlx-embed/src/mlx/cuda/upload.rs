//! From the host's memory to the GPU's own.

use super::queue::{Queue, on_gpu, pointer};
use crate::mlx::array::Array;
use crate::mlx::dtype::Dtype;
use crate::mlx::error::MlxError;
use crate::mlx::{Stream, ops, shape};

/// Copies arrays to a GPU through memory of the host that is pinned. What MLX makes of the host's numbers lies in memory
/// that both see: each of its pages is mapped when the host first writes it, and moves when the GPU first reads it.
#[derive(Debug)]
pub(crate) struct Uploads(Queue);

impl Uploads {
    /// To the GPU with this index.
    pub(crate) fn new(gpu: i32) -> Result<Self, MlxError> {
        Queue::new(gpu).map(Self)
    }

    /// Whether [`Uploads::array`] takes so many bytes of this type. MLX counts elements in an i32.
    pub(crate) fn takes(nbytes: usize, dtype: Dtype) -> bool {
        let words = nbytes > 0 && nbytes.is_multiple_of(size_of::<u32>());
        words && dtype != Dtype::Bool && i32::try_from(nbytes / dtype.size()).is_ok()
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
        if !Self::takes(bytes.len(), dtype) {
            let message = format!("{} bytes of {dtype} are no whole words, or too many", bytes.len());
            return shape::refuse("upload", message);
        }
        let words = on_gpu(bytes.len() / size_of::<u32>(), stream)?;
        // SAFETY: there is room for the bytes, and nobody else knows of it yet.
        unsafe { self.0.copy(pointer(&words)?, bytes)? };
        let array = ops::reshape(&ops::view(&words, dtype, stream)?, shape, stream)?;
        array.eval()?;
        Ok(array)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_words_that_mlx_can_count_are_taken() {
        let takes = [(4, Dtype::Bf16), (4, Dtype::U8), (4 << 30, Dtype::F32)];
        let leaves = [(0, Dtype::F32), (2, Dtype::Bf16), (4, Dtype::Bool), (4 << 30, Dtype::Bf16)];
        for (nbytes, dtype) in takes {
            assert!(Uploads::takes(nbytes, dtype), "{nbytes} bytes of {dtype}");
        }
        for (nbytes, dtype) in leaves {
            assert!(!Uploads::takes(nbytes, dtype), "{nbytes} bytes of {dtype}");
        }
    }
}
