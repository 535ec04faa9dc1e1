//! From a checkpoint's packed matrices to those that products read, and to bf16.

use super::arguments::{DequantizeArguments, PackArguments};
use super::format::Format;
use super::kernels::{expect, wrong};
use super::matrix::{Dense, Fixed, Matrix, Packed};
use super::ops::Ops;
use super::queue::{Role, on_gpu, pointer};
use super::tiles::up;
use crate::mlx::Stream;
use crate::mlx::dtype::Dtype;
use crate::mlx::error::MlxError;
use crate::mlx::ops::{self, QuantizedRef};

impl Ops {
    /// The matrix `w` as products read it. Its number of inputs is a multiple of 64, and its format one that these kernels
    /// were compiled for.
    pub(crate) fn pack(&self, w: QuantizedRef<'_>, stream: &Stream) -> Result<Packed, MlxError> {
        let what = "pack";
        let no = |why: &str| Err(wrong(what, format!("{w:?} {why}")));
        let Some(format) = Format::new(w.mode, w.bits, w.group_size) else {
            return no("is in no known format");
        };
        let &[outputs, words] = w.weight.shape() else { return no("is no matrix") };
        let inputs = words.saturating_mul(32) / format.bits();
        if inputs % 64 != 0 || inputs % format.group() != 0 || outputs < 1 {
            return no("does not have 64 inputs a time");
        }
        // The kernels count in 32 bits.
        let padded = up(outputs, 64) * 64;
        if i64::from(padded) * i64::from(inputs) >= 1 << 31 {
            return no("is too large");
        }
        let groups = inputs / format.group();
        expect(what, w.weight, &[outputs, inputs / 32 * format.bits()], Dtype::U32)?;
        expect(what, w.scales, &[outputs, groups], format.scales(Dtype::Bf16))?;
        match w.biases {
            Some(biases) if format.has_biases() => expect(what, biases, &[outputs, groups], Dtype::Bf16)?,
            None if !format.has_biases() => (),
            _ => return no("has biases, or none, against its format"),
        }
        ops::eval([w.weight, w.scales].into_iter().chain(w.biases))?;
        let packed = Packed {
            format,
            weight: Fixed::new(on_gpu((padded * (inputs / 32) * format.bits()) as usize, stream)?)?,
            factors: Fixed::new(on_gpu((padded * groups) as usize, stream)?)?,
            outputs,
            inputs,
        };
        let arguments = PackArguments {
            weight: pointer(w.weight)?,
            scales: pointer(w.scales)?,
            biases: w.biases.map_or(Ok(0), pointer)?,
            packed: packed.weight.pointer,
            factors: packed.factors.pointer,
            n: outputs,
            inputs,
        };
        let (pack, _) = self.packing(format)?;
        // SAFETY: a block reads rows below `outputs` of the three inputs, which were checked above, and writes one of the
        // blocks of 64 by 64 that there is room for.
        unsafe { self.queue.launch(pack, &arguments, [inputs / 64, up(outputs, 64), 1])? };
        // What it was made of may go now.
        self.queue.synchronize()?;
        Ok(packed)
    }

    /// The matrix in bf16, `[outputs, inputs]`, to stay.
    pub(crate) fn dequantize(&self, w: &Packed, stream: &Stream) -> Result<Dense, MlxError> {
        let numbers = w.outputs as usize * w.inputs as usize;
        let weight = Fixed::new(on_gpu(numbers / 2, stream)?)?;
        self.dequantize_to(w, weight.pointer)?;
        Ok(Dense::in_room(weight, w.outputs, w.inputs, Dtype::Bf16))
    }

    /// The matrix in bf16, for one product.
    pub(crate) fn dequantized<'a>(&self, w: &Packed, stream: &Stream) -> Result<Matrix<'a>, MlxError> {
        let out = self.queue.tensor(Role::Dequantized, [w.outputs, w.inputs], Dtype::Bf16, stream)?;
        self.dequantize_to(w, out.pointer())?;
        Ok(Matrix::Dequantized(out))
    }

    fn dequantize_to(&self, w: &Packed, out: u64) -> Result<(), MlxError> {
        let (_, dequantize) = self.packing(w.format)?;
        let (weight, factors) = (w.weight.pointer, w.factors.pointer);
        let arguments = DequantizeArguments { weight, factors, out, n: w.outputs, inputs: w.inputs };
        // SAFETY: a block reads and writes one of `w`'s blocks of 64 by 64, and of the outputs those that there are; both
        // callers have room for `outputs * inputs` numbers of bf16.
        unsafe { self.queue.launch(dequantize, &arguments, [w.inputs / 64, up(w.outputs, 64), 1]) }
    }
}
