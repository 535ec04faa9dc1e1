//! Products of f32 by tensor cores, which multiply f16 and sum in f32.
//!
//! A row is multiplied with a power of two, so that nothing in it is too large or too small for an f16, and its product with
//! another one (Ootomo and Yokota, 2022). Where 11 bits of a number don't suffice, what they leave out is a second f16:
//! `(a + a') w + a w'`, for `a' w'` is below what a sum in f32 keeps. Rows have both, for one product of twice as many inputs.

use std::rc::Rc;

use super::arguments::{AfterArguments, HalveArguments, HalvesArguments};
use super::format::Numbers;
use super::kernels::wrong;
use super::matrix::{Fixed, Matrix};
use super::ops::{ByProduct, Ops, expect_tensor};
use super::queue::{Role, Tensor};
use super::recorder::{Factors, Multiplied};
use super::tiles::{After, up};
use super::upload::Room;
use crate::mlx::Stream;
use crate::mlx::array::Array;
use crate::mlx::dtype::Dtype;
use crate::mlx::error::MlxError;

/// f16 of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bits {
    /// One.
    Eleven,
    /// Two: a number, and what it leaves out.
    TwentyTwo,
}

impl Bits {
    /// Of activations.
    pub(crate) fn of(numbers: Numbers) -> Self {
        if numbers == Numbers::F16 { Self::Eleven } else { Self::TwentyTwo }
    }

    fn parts(self) -> i32 {
        if self == Self::Eleven { 1 } else { 2 }
    }
}

/// A matrix of f16: `[outputs, inputs]` or, where numbers have a second part, that behind it in each row.
#[derive(Debug)]
pub(crate) struct Halves {
    weight: Fixed,
    bits: Bits,
    pub(super) outputs: i32,
    pub(super) inputs: i32,
    /// It is times two to the power of this.
    pub(super) exponent: i32,
}

impl Halves {
    /// Where it lies, if a number is one f16.
    pub(super) fn of_eleven_bits(&self) -> Option<u64> {
        (self.bits == Bits::Eleven).then_some(self.weight.pointer)
    }

    /// A matrix of f16 `[outputs, inputs]`, times two to the power of `exponent`. Inputs are a multiple of 8.
    pub(crate) fn of_f16(weight: Fixed, exponent: i32) -> Result<Self, MlxError> {
        let &[outputs, inputs] = weight.shape() else {
            return Err(wrong("product", format!("{weight:?} is no matrix")));
        };
        weight.expect("product", &[outputs, inputs], Dtype::F16)?;
        if padded(inputs) != inputs {
            return Err(wrong("product", format!("rows of {weight:?} don't begin at multiples of 16 bytes")));
        }
        Ok(Self { weight, bits: Bits::Eleven, outputs, inputs, exponent })
    }
}

/// Rows of f16 begin at multiples of 16 bytes.
fn padded(inputs: i32) -> i32 {
    up(inputs, 8) * 8
}

/// Rows of activations, which products multiply.
#[derive(Debug)]
pub(crate) enum Rows {
    /// Of the type of activations.
    Plain(Tensor),
    /// Of f32, ready for products.
    Halved(Halved),
    /// Of f16, ready for products, and times two to the power of this.
    Shifted(Tensor, i32),
}

/// The left factor of a product.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Left<'a> {
    Plain(&'a Tensor),
    Halved(&'a Halved),
}

/// The exponent of the power of two that keeps numbers up to `bound` within f16, with room for rounding.
pub(crate) fn shift_within(bound: f32) -> i32 {
    if bound > 0.0 && bound.is_finite() { (15.0 - bound.log2().ceil()).clamp(-48.0, 48.0) as i32 } else { 0 }
}

impl Left<'_> {
    pub(crate) fn tokens(self) -> i32 {
        match self {
            Self::Plain(rows) => rows.shape()[0],
            Self::Halved(rows) => rows.numbers.shape()[0],
        }
    }
}

impl Rows {
    pub(crate) fn left(&self) -> Left<'_> {
        match self {
            Self::Plain(rows) | Self::Shifted(rows, _) => Left::Plain(rows),
            Self::Halved(rows) => Left::Halved(rows),
        }
    }

    pub(crate) fn tensor(&self) -> Result<&Tensor, MlxError> {
        match self {
            Self::Plain(rows) => Ok(rows),
            Self::Halved(_) | Self::Shifted(..) => Err(halved()),
        }
    }

    pub(crate) fn into_tensor(self) -> Result<Tensor, MlxError> {
        match self {
            Self::Plain(rows) => Ok(rows),
            Self::Halved(_) | Self::Shifted(..) => Err(halved()),
        }
    }

    /// The rows, and the power of two that they are times.
    pub(crate) fn into_shifted(self) -> Result<(Tensor, i32), MlxError> {
        match self {
            Self::Plain(rows) => Ok((rows, 0)),
            Self::Shifted(rows, exponent) => Ok((rows, exponent)),
            Self::Halved(_) => Err(halved()),
        }
    }

    /// Where a kernel writes plain ones.
    pub(super) fn plain(&self) -> u64 {
        if let Self::Plain(rows) = self { rows.pointer() } else { 0 }
    }

    /// Where it writes halved ones.
    pub(super) fn halved(&self) -> HalvesArguments {
        if let Self::Halved(rows) = self { rows.arguments() } else { HalvesArguments::default() }
    }
}

#[cold]
fn halved() -> MlxError {
    wrong("product", "rows are of f16, for products alone".into())
}

/// Rows of f32 as products multiply them; the second part of a number comes first.
#[derive(Debug)]
pub(crate) struct Halved {
    numbers: Tensor, // f16
    /// What they have to be multiplied with.
    scales: Rc<Tensor>, // f32 [T, 1]
    inputs: i32,
    bits: Bits,
}

impl Halved {
    pub(super) fn numbers(&self) -> &Tensor {
        &self.numbers
    }

    /// Where the scales are.
    pub(super) fn scales(&self) -> u64 {
        self.scales.pointer()
    }

    pub(super) fn expect_scales(&self, what: &'static str, rows: i32) -> Result<(), MlxError> {
        expect_tensor(what, &self.scales, [rows, 1], Dtype::F32)
    }

    pub(super) fn arguments(&self) -> HalvesArguments {
        let (out, scales) = (self.numbers.pointer(), self.scales.pointer());
        let [_, width] = self.numbers.shape();
        let (high_at, low_at) = if self.bits == Bits::TwentyTwo { (padded(self.inputs), 0) } else { (0, -1) };
        HalvesArguments { out, scales, width, high_at, low_at }
    }
}

/// Products of rows of f32.
#[derive(Debug)]
pub(crate) struct Product {
    pub(super) numbers: Tensor,
    /// What rows are still to be multiplied with, where they are of f32: f32 `[T, 1]`.
    scales: Option<Rc<Tensor>>,
}

impl Product {
    /// One that has all.
    pub(super) fn whole(numbers: Tensor) -> Self {
        Self { numbers, scales: None }
    }

    /// Where the scales are, if there are any.
    pub(super) fn scales(&self) -> u64 {
        self.scales.as_ref().map_or(0, |scales| scales.pointer())
    }

    pub(super) fn expect(
        &self,
        what: &'static str,
        shape: [i32; 2],
        numbers: Numbers,
    ) -> Result<(), MlxError> {
        expect_tensor(what, &self.numbers, shape, numbers.dtype())?;
        match &self.scales {
            Some(scales) => expect_tensor(what, scales, [shape[0], 1], Dtype::F32),
            None if numbers.is_wide() => Err(wrong(what, "a product of f32 without scales".into())),
            None => Ok(()),
        }
    }
}

/// A matrix of f32 on the way to the GPU.
#[derive(Debug)]
pub(crate) struct Wide<'a> {
    ops: &'a Ops,
    memory: Tensor,
    room: Room,
}

impl Wide<'_> {
    /// The bytes that come next, in row order.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<(), MlxError> {
        // SAFETY: it is the memory of a tensor of this queue, so what was launched before comes first.
        unsafe { self.room.put(&self.ops.queue, bytes) }
    }

    pub(crate) fn halves(self, bits: Bits, stream: &Stream) -> Result<Halves, MlxError> {
        self.room.expect_full()?;
        self.ops.halves_of(self.memory.pointer(), self.memory.shape(), bits, stream)
    }
}

impl Ops {
    /// Room for a matrix of f32.
    pub(crate) fn wide(&self, shape: [i32; 2], stream: &Stream) -> Result<Wide<'_>, MlxError> {
        let elements = i64::from(shape[0]) * i64::from(shape[1]);
        if shape[0] < 1 || shape[1] < 1 || elements >= 1 << 31 {
            return Err(wrong("product", format!("a matrix of {shape:?} has no numbers, or too many")));
        }
        let memory = self.queue.tensor(Role::Stored, shape, Dtype::F32, stream)?;
        let room = Room::new(memory.pointer(), elements as usize * Dtype::F32.size());
        Ok(Wide { ops: self, memory, room })
    }

    /// A matrix of f32 as products multiply it.
    pub(crate) fn halves(&self, matrix: Array, bits: Bits, stream: &Stream) -> Result<Halves, MlxError> {
        let matrix = Fixed::new(matrix)?;
        let &[outputs, inputs] = matrix.shape() else {
            return Err(wrong("product", format!("{matrix:?} is no matrix")));
        };
        matrix.expect("product", &[outputs, inputs], Dtype::F32)?;
        let halves = self.halves_of(matrix.pointer, [outputs, inputs], bits, stream)?;
        // MLX gives the memory to others when the matrix goes.
        self.synchronize()?;
        Ok(halves)
    }

    /// Of f32 `[outputs, inputs]` at `from`.
    fn halves_of(
        &self,
        from: u64,
        [outputs, inputs]: [i32; 2],
        bits: Bits,
        stream: &Stream,
    ) -> Result<Halves, MlxError> {
        let padded = padded(inputs);
        let width = bits.parts() * padded;
        let scales = self.queue.tensor(Role::Scales, [outputs, 1], Dtype::F32, stream)?;
        let to = HalvesArguments { scales: scales.pointer(), width, low_at: -1, ..Default::default() };
        self.launch_halve(outputs, HalveArguments { from, to, columns: inputs, padded, factor: 0.0 })?;
        // One scale for all rows, that of the largest.
        let largest = self.queue.read(&scales)?.into_iter().fold(f32::MIN_POSITIVE, f32::max);
        let room = self.queue.room(outputs as usize * width as usize * Dtype::F16.size(), stream)?;
        let weight = Fixed::in_room(room, &[outputs, width], Dtype::F16);
        let low_at = if bits == Bits::TwentyTwo { padded } else { -1 };
        let to = HalvesArguments { out: weight.pointer, low_at, ..to };
        let factor = largest.recip();
        self.launch_halve(outputs, HalveArguments { from, to, columns: inputs, padded, factor })?;
        Ok(Halves { weight, bits, outputs, inputs, exponent: largest.log2() as i32 })
    }

    /// Room for rows that a kernel halves.
    pub(super) fn room_for_halves(
        &self,
        [tokens, inputs]: [i32; 2],
        stream: &Stream,
    ) -> Result<Halved, MlxError> {
        let bits = Bits::of(self.geometry().numbers);
        let shape = [tokens, bits.parts() * padded(inputs)];
        let numbers = self.queue.tensor(Role::Halves, shape, Dtype::F16, stream)?;
        let scales = Rc::new(self.queue.tensor(Role::Scales, [tokens, 1], Dtype::F32, stream)?);
        Ok(Halved { numbers, scales, inputs, bits })
    }

    /// `a` f32 `[T, inputs]`.
    fn halve(&self, a: &Tensor, stream: &Stream) -> Result<Halved, MlxError> {
        let [tokens, inputs] = a.shape();
        expect_tensor("halve", a, [tokens, inputs], Dtype::F32)?;
        let halved = self.room_for_halves([tokens, inputs], stream)?;
        let (from, to) = (a.pointer(), halved.arguments());
        let padded = padded(inputs);
        self.launch_halve(tokens, HalveArguments { from, to, columns: inputs, padded, factor: 0.0 })?;
        Ok(halved)
    }

    /// Of so many rows. Callers have room for all that it names.
    fn launch_halve(&self, rows: i32, of: HalveArguments) -> Result<(), MlxError> {
        if of.columns % 4 != 0 {
            return Err(wrong("halve", format!("{} numbers are not four by four", of.columns)));
        }
        let halve =
            self.halve_kernel.as_ref().ok_or_else(|| wrong("halve", "activations are of bf16".into()))?;
        // SAFETY: a block has a row of `columns` numbers of f32, and writes one of `width` numbers of f16, of which both parts are
        // `padded`, and one scale; all callers made room for these.
        unsafe { self.queue.launch(halve, &of, [rows, 1, 1]) }
    }

    /// `a w^T` of f32 for matrices whose outputs lie side by side, `width` in all. Each is given with its first output.
    pub(super) fn product_of_f32(
        &self,
        a: Left<'_>,
        matrices: &[(i32, Matrix<'_>)],
        width: i32,
        stream: &Stream,
    ) -> Result<Product, MlxError> {
        let made;
        let Halved { numbers, scales, inputs, bits } = match a {
            Left::Halved(halved) => halved,
            Left::Plain(rows) => {
                made = self.halve(rows, stream)?;
                &made
            }
        };
        let (tokens, padded) = (a.tokens(), padded(*inputs));
        let out = self.queue.tensor(Role::Both, [tokens, width], Dtype::F32, stream)?;
        for (first, w) in matrices {
            let [outputs, needed] = w.shape();
            if needed != *inputs {
                return Err(wrong("product", format!("{inputs} numbers a row where {needed} are needed")));
            }
            let (pointer, of_matrix, exponent) = match w {
                Matrix::Packed(packed) => {
                    let by = self.by_product(After::Nothing, tokens, w)?;
                    self.packed_product(by, numbers, packed.exponent, (&out, *first))?;
                    continue;
                }
                Matrix::Halves(w) => (w.weight.pointer, w.bits, w.exponent),
                Matrix::Dequantized(w, exponent) if w.dtype() == Dtype::F16 => {
                    (w.pointer(), Bits::Eleven, *exponent)
                }
                _ => return Err(wrong("product", "the matrix is none for rows of f32".into())),
            };
            // Where a product begins in a row of `a` and of `w`, and over how many numbers it goes. The small ones come first.
            let steps: &[[i32; 3]] = match (bits, of_matrix) {
                (Bits::Eleven, Bits::Eleven) => &[[0, 0, padded]],
                (Bits::Eleven, Bits::TwentyTwo) => &[[0, padded, padded], [0, 0, padded]],
                (Bits::TwentyTwo, Bits::Eleven) => &[[0, 0, padded], [padded, 0, padded]],
                (Bits::TwentyTwo, Bits::TwentyTwo) => &[[0, 0, 2 * padded], [padded, 0, padded]],
            };
            for (index, &[a_at, w_at, inputs]) in steps.iter().enumerate() {
                let at = |pointer: u64, first: i32| pointer + first as u64 * Dtype::F16.size() as u64;
                let of = Factors {
                    numbers: Multiplied::F16,
                    a: at(numbers.pointer(), a_at),
                    w: at(pointer, w_at),
                    tokens,
                    outputs,
                    inputs,
                    a_stride: bits.parts() * padded,
                    w_stride: of_matrix.parts() * padded,
                    exponent,
                    adds: index > 0,
                };
                // SAFETY: rows of both have their parts behind one another, `padded` numbers each; `a` is in a tensor, and the matrix
                // is the model's or in a tensor, too.
                unsafe { self.queue.matmul(of, (&out, *first), stream)? };
            }
        }
        Ok(Product { numbers: out, scales: Some(Rc::clone(scales)) })
    }

    /// The product of rows of f16 with a packed matrix, as columns of `out` from `first` on.
    fn packed_product(
        &self,
        by: Option<ByProduct<'_>>,
        a: &Tensor,
        exponent: i32,
        (out, first): (&Tensor, i32),
    ) -> Result<(), MlxError> {
        let ([_, width], by) = (out.shape(), by.filter(|by| by.fits(first, out)));
        let by = by.ok_or_else(|| wrong("product", format!("from column {first} of {width}")))?;
        let out = out.pointer() + first as u64 * Dtype::F32.size() as u64;
        let then = AfterArguments { out, width, factor: 2_f32.powi(exponent), ..Default::default() };
        // SAFETY: the columns of the result were checked above.
        unsafe { by.launch(&self.queue, a, then) }
    }
}
