//! Weight matrices as a checkpoint stores them, row by row.

use std::ops::Range;

use super::simd::FP4_TWICE;

/// Numbers in the type that the file has.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Floats<'a> {
    F32(&'a [f32]),
    F16(&'a [half::f16]),
    Bf16(&'a [half::bf16]),
    /// Whole numbers, of tables.
    I8(&'a [i8]),
}

impl<'a> Floats<'a> {
    /// Some of them.
    fn range(self, range: Range<usize>) -> Self {
        match self {
            Self::F32(data) => Self::F32(&data[range]),
            Self::F16(data) => Self::F16(&data[range]),
            Self::Bf16(data) => Self::Bf16(&data[range]),
            Self::I8(data) => Self::I8(&data[range]),
        }
    }

    #[inline]
    pub(super) fn get(&self, index: usize) -> f32 {
        match self {
            Self::F32(data) => data[index],
            Self::F16(data) => data[index].to_f32(),
            Self::Bf16(data) => data[index].to_f32(),
            Self::I8(data) => f32::from(data[index]),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::F32(data) => data.len(),
            Self::F16(data) => data.len(),
            Self::Bf16(data) => data.len(),
            Self::I8(data) => data.len(),
        }
    }

    /// Numbers from `start` on.
    pub(super) fn row(&self, start: usize, out: &mut [f32]) {
        let end = start + out.len();
        match self {
            Self::F32(data) => out.copy_from_slice(&data[start..end]),
            Self::F16(data) => half::slice::HalfFloatSliceExt::convert_to_f32_slice(&data[start..end], out),
            Self::Bf16(data) => half::slice::HalfFloatSliceExt::convert_to_f32_slice(&data[start..end], out),
            Self::I8(data) => {
                out.iter_mut().zip(&data[start..end]).for_each(|(x, &number)| *x = f32::from(number));
            }
        }
    }
}

/// How the scale of a group is stored.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Scales<'a> {
    /// `scale * q + bias`, each `[rows, columns / group_size]`.
    Affine { scales: Floats<'a>, biases: Floats<'a> },
    /// Values are floats of 4 bits (E2M1), scales powers of two (E8M0).
    Mxfp4(&'a [u8]),
    /// Values are floats of 8 bits (E4M3), scales powers of two (E8M0).
    Mxfp8(&'a [u8]),
    /// Values are floats of 4 bits (E2M1), scales floats of 8 bits (E4M3).
    Nvfp4(&'a [u8]),
}

/// A matrix `[rows, columns]`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Source<'a> {
    Dense(Floats<'a>),
    Quantized {
        /// Packed values, lowest bits first, `columns * bits / 32` words a row.
        words: &'a [u32],
        bits: usize,
        group_size: usize,
        scales: Scales<'a>,
    },
}

/// E2M1: the value of a 4-bit float.
fn e2m1(bits: u32) -> f32 {
    f32::from(FP4_TWICE[bits as usize & 15]) / 2.0
}

/// E8M0: a power of two.
pub(super) fn e8m0(bits: u8) -> f32 {
    // Exponent 0 stands for 2^-127, which as an f32 is subnormal.
    if bits == 0 { f32::from_bits(0x0040_0000) } else { f32::from_bits(u32::from(bits) << 23) }
}

/// E4M3: sign, four bits of exponent with bias 7, three of mantissa; no infinities, all ones is NaN.
pub(super) fn e4m3(bits: u8) -> f32 {
    let (exponent, mantissa) = (u32::from(bits >> 3 & 15), u32::from(bits & 7));
    let magnitude = match (exponent, mantissa) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa as f32 / 512.0,
        // The same fields in an f32, whose exponent has bias 127.
        _ => f32::from_bits((exponent + 120) << 23 | mantissa << 20),
    };
    if bits & 0x80 != 0 { -magnitude } else { magnitude }
}

impl<'a> Source<'a> {
    /// Some rows of a matrix with so many columns.
    pub(super) fn of_rows(self, rows: Range<usize>, columns: usize) -> Self {
        let of = |in_row: usize| rows.start * in_row..rows.end * in_row;
        match self {
            Self::Dense(data) => Self::Dense(data.range(of(columns))),
            Self::Quantized { words, bits, group_size, scales } => {
                let groups = of(columns / group_size);
                let scales = match scales {
                    Scales::Affine { scales, biases } => {
                        Scales::Affine { scales: scales.range(groups.clone()), biases: biases.range(groups) }
                    }
                    Scales::Mxfp4(scales) => Scales::Mxfp4(&scales[groups]),
                    Scales::Mxfp8(scales) => Scales::Mxfp8(&scales[groups]),
                    Scales::Nvfp4(scales) => Scales::Nvfp4(&scales[groups]),
                };
                Self::Quantized { words: &words[of(columns * bits / 32)], bits, group_size, scales }
            }
        }
    }

    /// How many rows of `columns` it has.
    ///
    /// # Panics
    /// When numbers, values or scales don't make whole rows; the checkpoint's own checks let none such through.
    pub(super) fn rows(&self, columns: usize) -> usize {
        match *self {
            Self::Dense(data) => {
                assert!(data.len().is_multiple_of(columns));
                data.len() / columns
            }
            Self::Quantized { words, bits, group_size, scales } => {
                let rows = words.len() * 32 / bits / columns;
                assert_eq!(rows * columns * bits / 32, words.len());
                let groups = rows * columns / group_size;
                match scales {
                    Scales::Affine { scales, biases } => {
                        assert_eq!([scales.len(), biases.len()], [groups; 2])
                    }
                    Scales::Mxfp4(scales) | Scales::Mxfp8(scales) | Scales::Nvfp4(scales) => {
                        assert_eq!(scales.len(), groups);
                    }
                }
                rows
            }
        }
    }

    /// The numbers of row `row` of a matrix with `out.len()` columns.
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        let columns = out.len();
        match *self {
            Self::Dense(data) => data.row(row * columns, out),
            Self::Quantized { words, bits, group_size, scales } => {
                let words = &words[row * columns * bits / 32..(row + 1) * columns * bits / 32];
                let first_group = row * (columns / group_size);
                for (group, out) in out.chunks_exact_mut(group_size).enumerate() {
                    let values = (0..group_size).map(|i| value(words, bits, group * group_size + i));
                    let group = first_group + group;
                    match scales {
                        Scales::Affine { scales, biases } => {
                            let (scale, bias) = (scales.get(group), biases.get(group));
                            out.iter_mut().zip(values).for_each(|(x, q)| *x = scale * q as f32 + bias);
                        }
                        Scales::Mxfp4(scales) => {
                            let scale = e8m0(scales[group]);
                            out.iter_mut().zip(values).for_each(|(x, q)| *x = scale * e2m1(q));
                        }
                        Scales::Mxfp8(scales) => {
                            let scale = e8m0(scales[group]);
                            out.iter_mut().zip(values).for_each(|(x, q)| *x = scale * e4m3(q as u8));
                        }
                        Scales::Nvfp4(scales) => {
                            let scale = e4m3(scales[group]);
                            out.iter_mut().zip(values).for_each(|(x, q)| *x = scale * e2m1(q));
                        }
                    }
                }
            }
        }
    }
}

/// The `index`-th value of `bits` bits in a row of words. Values of 3, 5 and 6 bits may straddle two words.
#[inline]
pub(super) fn value(words: &[u32], bits: usize, index: usize) -> u32 {
    let bit = index * bits;
    let (word, shift) = (bit / 32, bit % 32);
    let mut value = words[word] >> shift;
    if shift + bits > 32 {
        value |= words[word + 1] << (32 - shift);
    }
    value & ((1_u64 << bits) - 1) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_may_straddle_words() {
        // 3 bits: 1, 2, .., 7, 0, 1, .. laid end to end.
        let mut words = [0_u32; 3];
        for i in 0..32 {
            let value = (i as u128 + 1) % 8;
            for bit in 0..3 {
                if value >> bit & 1 == 1 {
                    words[(3 * i + bit) / 32] |= 1 << ((3 * i + bit) % 32);
                }
            }
        }
        for i in 0..32 {
            assert_eq!(value(&words, 3, i), (i as u32 + 1) % 8, "value {i}");
        }
    }

    #[test]
    fn an_affine_row_is_scale_times_value_plus_bias() {
        let words = [0x7654_3210_u32, 0xfedc_ba98, 0, 0, 0x1111_1111, 0x1111_1111, 0, 0];
        let source = Source::Quantized {
            words: &words,
            bits: 4,
            group_size: 32,
            scales: Scales::Affine { scales: Floats::F32(&[0.5, 2.0]), biases: Floats::F32(&[1.0, -1.0]) },
        };
        let mut row = [0.0; 32];
        source.row(0, &mut row);
        for (i, &x) in row[..16].iter().enumerate() {
            assert_eq!(x, 0.5 * i as f32 + 1.0);
        }
        source.row(1, &mut row);
        assert_eq!(row[..16], [1.0; 16]);
    }

    #[test]
    fn small_floats_have_their_standard_values() {
        assert_eq!([e8m0(127), e8m0(128), e8m0(0)], [1.0, 2.0, f32::MIN_POSITIVE / 2.0]);
        assert_eq!([e4m3(0x38), e4m3(0x01), e4m3(0x7e), e4m3(0xb8)], [1.0, 1.0 / 512.0, 448.0, -1.0]);
        assert!(e4m3(0x7f).is_nan());
    }
}
