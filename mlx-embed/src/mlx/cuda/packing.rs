//! From a checkpoint's packed matrices to those that products read, and to bf16 or f16.

use super::arguments::{DequantizeArguments, PackArguments};
use super::format::Format;
use super::halves::Halves;
use super::kernels::wrong;
use super::matrix::{Dense, Fixed, Matrix, Packed};
use super::ops::Ops;
use super::queue::{ALIGNMENT, Role, Tensor};
use super::tiles::up;
use super::upload::Room;
use crate::mlx::Stream;
use crate::mlx::dtype::Dtype;
use crate::mlx::error::MlxError;

/// A quantised matrix as a checkpoint stores it, or several, on the way to the GPU.
#[derive(Debug)]
pub(crate) struct Stored<'a> {
    ops: &'a Ops,
    format: Format,
    outputs: i32,
    inputs: i32,
    _memory: Tensor,
    /// Where they begin.
    starts: [u64; 3],
    rooms: [Room; 3],
    /// Bits of the largest scale and bias, without their signs.
    largest: [u16; 2],
}

/// A part of a quantised matrix, row after row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// u32 `[outputs, inputs * bits / 32]`
    Weight,
    /// Of what products multiply, of affine ones, else u8: `[outputs, inputs / group]`
    Scales,
    /// As scales; affine only.
    Biases,
}

impl Stored<'_> {
    /// The bytes of a part that come next.
    pub(crate) fn put(&mut self, part: Part, bytes: &[u8]) -> Result<(), MlxError> {
        if part != Part::Weight && self.ops.geometry().numbers.is_wide() {
            let largest = &mut self.largest[part as usize - 1];
            *largest = (*largest).max(largest_bits(self.format, bytes));
        }
        // SAFETY: it is the memory of a tensor of this queue, so what was launched before comes first.
        unsafe { self.rooms[part as usize].put(&self.ops.queue, bytes) }
    }

    /// The matrix as products read it. Of two matrices that `alternate`, the first eight outputs come first, then the second
    /// one's first eight, and so on.
    pub(crate) fn pack(self, alternate: bool, stream: &Stream) -> Result<Packed, MlxError> {
        let Self { ops, format, outputs, inputs, starts: [weight, scales, biases], largest, .. } = self;
        self.rooms.iter().try_for_each(Room::expect_full)?;
        if alternate && outputs % 16 != 0 {
            return Err(wrong("pack", format!("{outputs} outputs don't alternate eight by eight")));
        }
        let padded = (up(outputs, 64) * 64) as usize;
        let words = padded * (inputs / 32 * format.bits()) as usize;
        let factors = padded * (inputs / format.group()) as usize;
        let room = ops.queue.room((words + factors) * size_of::<u32>(), stream)?;
        let packed = Fixed::in_room(room, &[words as i32], Dtype::U32);
        let factors = packed.pointer + (words * size_of::<u32>()) as u64;
        let biases = if format.has_biases() { biases } else { 0 };
        let exponent = if ops.geometry().numbers.is_wide() { format.exponent(largest) } else { 0 };
        let arguments = PackArguments {
            weight,
            scales,
            biases,
            packed: packed.pointer,
            factors,
            n: outputs,
            inputs,
            alternates: alternate.into(),
            exponent,
        };
        let (pack, _) = ops.packing(format)?;
        // SAFETY: a block reads rows below `outputs` of the three parts, which are there, and writes one of the blocks of 64 by
        // 64 that there is room for, in memory that the queue keeps until it has been waited for.
        unsafe { ops.queue.launch(pack, &arguments, [inputs / 64, up(outputs, 64), 1])? };
        Ok(Packed { format, weight: packed, factors, outputs, inputs, exponent: -exponent })
    }
}

/// Bits of the largest of these scales or biases, without their signs.
fn largest_bits(format: Format, bytes: &[u8]) -> u16 {
    if format.has_biases() {
        let (pairs, _) = bytes.as_chunks::<2>();
        pairs.iter().fold(0, |largest, pair| largest.max(u16::from_le_bytes(*pair) & 0x7fff))
    } else {
        // 255 is no number.
        bytes.iter().filter(|&&bits| bits < 255).fold(0, |largest, &bits| largest.max(u16::from(bits)))
    }
}

impl Ops {
    /// Room for a matrix as it is stored. Its number of inputs is a multiple of 64, and its format one that these kernels
    /// were compiled for.
    pub(crate) fn stored(
        &self,
        format: Format,
        [outputs, inputs]: [i32; 2],
        stream: &Stream,
    ) -> Result<Stored<'_>, MlxError> {
        let no = |why: &str| Err(wrong("pack", format!("{outputs} by {inputs} of {format:?} {why}")));
        if inputs < 64 || inputs % 64 != 0 || inputs % format.group() != 0 || outputs < 1 {
            return no("does not have 64 inputs a time");
        }
        // The kernels count in 32 bits.
        if i64::from(up(outputs, 64)) * 64 * i64::from(inputs) >= 1 << 31 {
            return no("is too large");
        }
        let groups = outputs as usize * (inputs / format.group()) as usize;
        let scales = groups * format.scales(Dtype::Bf16).size();
        let weight = outputs as usize * (inputs / 32 * format.bits()) as usize * size_of::<u32>();
        let sizes = [weight, scales, if format.has_biases() { scales } else { 0 }];
        let [second, third] = [weight, scales].map(|size| size.next_multiple_of(ALIGNMENT));
        let words = (second + third + sizes[2]).div_ceil(size_of::<u32>());
        let memory = self.queue.tensor(Role::Stored, [1, words as i32], Dtype::U32, stream)?;
        let starts = [0, second, second + third].map(|offset| memory.pointer() + offset as u64);
        let rooms = [0, 1, 2].map(|part| Room::new(starts[part], sizes[part]));
        Ok(Stored { ops: self, format, outputs, inputs, _memory: memory, starts, rooms, largest: [0; 2] })
    }

    /// The matrix in bf16, `[outputs, inputs]`, to stay.
    pub(crate) fn dequantize(&self, w: &Packed, stream: &Stream) -> Result<Dense, MlxError> {
        Dense::fixed(self.dequantized_to_stay(w, stream)?)
    }

    /// The matrix for rows of f32, to stay.
    pub(crate) fn dequantize_to_halves(&self, w: &Packed, stream: &Stream) -> Result<Halves, MlxError> {
        Halves::of_f16(self.dequantized_to_stay(w, stream)?, w.exponent)
    }

    fn dequantized_to_stay(&self, w: &Packed, stream: &Stream) -> Result<Fixed, MlxError> {
        let dtype = self.geometry().numbers.multiplied();
        let numbers = w.outputs as usize * w.inputs as usize;
        let room = self.queue.room(numbers * dtype.size(), stream)?;
        let weight = Fixed::in_room(room, &[w.outputs, w.inputs], dtype);
        // The kernel reads the packed matrix while the one before it, which may have packed that, still runs.
        self.synchronize()?;
        self.dequantize_to(w, weight.pointer)?;
        Ok(weight)
    }

    /// The matrix as it is multiplied, for one product.
    pub(crate) fn dequantized<'a>(&self, w: &Packed, stream: &Stream) -> Result<Matrix<'a>, MlxError> {
        let dtype = self.geometry().numbers.multiplied();
        let out = self.queue.tensor(Role::Dequantized, [w.outputs, w.inputs], dtype, stream)?;
        self.dequantize_to(w, out.pointer())?;
        Ok(Matrix::Dequantized(out, w.exponent))
    }

    fn dequantize_to(&self, w: &Packed, out: u64) -> Result<(), MlxError> {
        let (_, dequantize) = self.packing(w.format)?;
        let (weight, factors) = (w.weight.pointer, w.factors);
        let arguments = DequantizeArguments { weight, factors, out, n: w.outputs, inputs: w.inputs };
        // SAFETY: a block reads and writes one of `w`'s blocks of 64 by 64, and of the outputs those that there are; both
        // callers have room for `outputs * inputs` numbers of two bytes.
        unsafe { self.queue.launch(dequantize, &arguments, [w.inputs / 64, up(w.outputs, 64), 1]) }
    }
}
