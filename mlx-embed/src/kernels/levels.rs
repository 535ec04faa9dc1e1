//! Weights as whole numbers: `scale * level + bias`, a scale and a bias a group.

use super::source::{Floats, Scales, Source, e4m3, e8m0, value};

/// Twice the values of a 4-bit float (E2M1), and 12 more, so that none is below zero.
const FP4: [u8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];

/// Most inputs of a group.
pub(super) const MAX_GROUP: usize = 128;

/// A matrix `[rows, inputs]` as whole numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Levels<'a> {
    pub(super) source: Source<'a>,
    pub(super) rows: usize,
    pub(super) form: Form,
    inputs: usize,
}

/// How the numbers of a matrix are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    /// Of a level as it is packed: 4 or 8.
    pub(super) bits: usize,
    /// Whether levels of 8 bits are below 128.
    pub(super) small: bool,
    pub(super) group_size: usize,
    /// Whether scales and biases are bf16; else they are f32.
    pub(super) bf16: bool,
}

impl Form {
    /// Of a matrix whose numbers are exactly so.
    fn exact(source: &Source<'_>) -> Option<Self> {
        let Source::Quantized { bits, group_size, scales, .. } = *source else { return None };
        let bf16 = match scales {
            Scales::Affine { scales, biases } => {
                matches!((scales, biases), (Floats::Bf16(_), Floats::Bf16(_)))
            }
            // A power of two or a number of four bits, and six times that.
            Scales::Mxfp4(_) | Scales::Nvfp4(_) => true,
            Scales::Mxfp8(_) => return None,
        };
        let narrow = bits <= 4 && matches!(scales, Scales::Affine { .. });
        let form = Self { bits: if narrow { 4 } else { 8 }, small: bits < 8, group_size, bf16 };
        matches!(group_size, 16 | 32 | 64 | 128).then_some(form)
    }
}

impl<'a> Levels<'a> {
    /// `None` if the numbers are no whole ones in groups that fit.
    pub(super) fn new(source: Source<'a>, inputs: usize) -> Option<Self> {
        let form = Form::exact(&source).filter(|form| inputs.is_multiple_of(form.group_size))?;
        let rows = source.rows(inputs);
        Some(Self { source, rows, form, inputs })
    }

    /// The levels of every group of a row, their scale and their bias.
    pub(super) fn row(&self, row: usize, mut each: impl FnMut(usize, &[u8], f32, f32)) {
        let size = self.form.group_size;
        let mut levels = [0_u8; MAX_GROUP];
        let levels = &mut levels[..size];
        let Source::Quantized { words, bits, scales, .. } = self.source else { return };
        let words = &words[row * self.inputs * bits / 32..(row + 1) * self.inputs * bits / 32];
        let groups = self.inputs / size;
        for group in 0..groups {
            let index = row * groups + group;
            let codes = (0..size).map(|i| value(words, bits, group * size + i) as u8);
            let (scale, bias) = match scales {
                Scales::Affine { scales, biases } => (scales.get(index), biases.get(index)),
                Scales::Mxfp4(scales) => halved(e8m0(scales[index])),
                Scales::Nvfp4(scales) => halved(e4m3(scales[index])),
                Scales::Mxfp8(_) => return,
            };
            match scales {
                Scales::Affine { .. } => levels.iter_mut().zip(codes).for_each(|(to, code)| *to = code),
                _ => levels.iter_mut().zip(codes).for_each(|(to, code)| *to = FP4[usize::from(code & 15)]),
            }
            each(group, levels, scale, bias);
        }
    }
}

/// Scale and bias of [`FP4`]'s levels.
fn halved(scale: f32) -> (f32, f32) {
    (scale / 2.0, -6.0 * scale)
}
