//! Weights as whole numbers: `scale * level + bias`, a scale and a bias a group.

use super::source::{Floats, Scales, Source, e4m3, e8m0, value};

/// Twice the values of a 4-bit float (E2M1), and 12 more, so that none is below zero.
const FP4: [u8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];

/// Most inputs of a group.
pub(super) const MAX_GROUP: usize = 128;

/// Which matrices become whole numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    /// Those that are so as they are.
    Exact,
    /// All whose inputs make whole groups: the others are rounded to 8 bits.
    Nearest,
}

/// Rows of a matrix, `[rows, inputs]`, as whole numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Levels<'a> {
    pub(super) source: Source<'a>,
    pub(super) form: Form,
    pub(super) inputs: usize,
    /// Whether they are the nearest to the matrix's numbers rather than these themselves.
    pub(super) rounded: bool,
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
    /// Of a matrix of which a few rows are given, and whether its numbers are rounded to that. `None` if `fit` leaves the
    /// matrix as it is, or the inputs make no whole groups.
    pub(super) fn new(source: &Source<'_>, inputs: usize, fit: Fit) -> Option<(Self, bool)> {
        let exact = Self::exact(source);
        let form = match fit {
            Fit::Exact => exact?,
            Fit::Nearest => exact.unwrap_or_else(|| Self::nearest(inputs)),
        };
        inputs.is_multiple_of(form.group_size).then_some((form, exact.is_none()))
    }

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

    /// Of a matrix that is rounded. Large groups cost less time: of MiniLM's pass those of 128 save a twelfth beside those
    /// of 64, and 0.0001 of cosine. A number that stands out makes all of its group coarse, so they are for rows that have
    /// three of them at least.
    fn nearest(inputs: usize) -> Self {
        let fits = |size: usize| inputs.is_multiple_of(size) && (size < 128 || inputs >= 3 * size);
        let group_size = [128, 64].into_iter().find(|&size| fits(size)).unwrap_or(32);
        Self { bits: 8, small: false, group_size, bf16: true }
    }
}

impl Levels<'_> {
    /// The levels of every group of a row, their scale and their bias.
    pub(super) fn row(&self, row: usize, each: impl FnMut(usize, &[u8], f32, f32)) {
        match self.source {
            Source::Quantized { words, bits, scales, .. } if !self.rounded => {
                self.own_row(row, words, bits, scales, each);
            }
            _ => self.rounded_row(row, each),
        }
    }

    fn own_row(
        &self,
        row: usize,
        words: &[u32],
        bits: usize,
        scales: Scales<'_>,
        mut each: impl FnMut(usize, &[u8], f32, f32),
    ) {
        let size = self.form.group_size;
        let mut levels = [0_u8; MAX_GROUP];
        let levels = &mut levels[..size];
        let words = &words[row * self.inputs * bits / 32..(row + 1) * self.inputs * bits / 32];
        let groups = self.inputs / size;
        for group in 0..groups {
            let index = row * groups + group;
            unpack(words, bits, group * size, levels);
            let (scale, bias) = match scales {
                Scales::Affine { scales, biases } => (scales.get(index), biases.get(index)),
                Scales::Mxfp4(scales) => halved(e8m0(scales[index])),
                Scales::Nvfp4(scales) => halved(e4m3(scales[index])),
                Scales::Mxfp8(_) => return,
            };
            if !matches!(scales, Scales::Affine { .. }) {
                levels.iter_mut().for_each(|level| *level = FP4[usize::from(*level & 15)]);
            }
            each(group, levels, scale, bias);
        }
    }

    fn rounded_row(&self, row: usize, mut each: impl FnMut(usize, &[u8], f32, f32)) {
        let size = self.form.group_size;
        let mut numbers = vec![0.0; self.inputs];
        self.source.row(row, &mut numbers);
        let mut levels = [0_u8; MAX_GROUP];
        let levels = &mut levels[..size];
        for (group, numbers) in numbers.chunks_exact(size).enumerate() {
            let (scale, bias) = nearest(numbers, levels);
            each(group, levels, scale, bias);
        }
    }
}

/// The values of a group, which begins with the value `first` of a row of words. Those of 4 and 8 bits, which most
/// checkpoints have, come a word at a time: one by one they are a tenth of what loading the built-in model takes.
fn unpack(words: &[u32], bits: usize, first: usize, to: &mut [u8]) {
    let words_of_group = &words[first * bits / 32..];
    match bits {
        4 => to.as_chunks_mut::<8>().0.iter_mut().zip(words_of_group).for_each(|(to, word)| {
            *to = std::array::from_fn(|i| (word >> (4 * i) & 15) as u8);
        }),
        8 => to.as_chunks_mut::<4>().0.iter_mut().zip(words_of_group).for_each(|(to, word)| {
            *to = word.to_le_bytes();
        }),
        _ => to.iter_mut().zip(first..).for_each(|(to, index)| *to = value(words, bits, index) as u8),
    }
}

/// Rounds a group to 8 bits between its smallest and its largest number, or zero; returns scale and bias, which are bf16.
///
/// Where a number is infinite or none, or the group spans more than an f32 holds, the scale is none either, so that no
/// product is.
fn nearest(numbers: &[f32], levels: &mut [u8]) -> (f32, f32) {
    const TOP: f32 = 255.0;
    let least = numbers.iter().fold(0.0_f32, |least, &x| least.min(x));
    let most = numbers.iter().fold(0.0_f32, |most, &x| most.max(x));
    let bias = -bf16_above(-least);
    let scale = bf16_above((most - bias) / TOP);
    if !scale.is_finite() || !numbers.iter().all(|x| x.is_finite()) {
        levels.fill(0);
        return (f32::NAN, f32::NAN);
    }
    // Zeros alone have no scale.
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    for (level, x) in levels.iter_mut().zip(numbers) {
        *level = ((x - bias) * inverse).round() as u8;
    }
    (scale, bias)
}

/// The least bf16 that is not below a number without a sign.
fn bf16_above(x: f32) -> f32 {
    f32::from_bits((x.to_bits() + 0xffff) & 0xffff_0000)
}

/// Scale and bias of [`FP4`]'s levels.
fn halved(scale: f32) -> (f32, f32) {
    (scale / 2.0, -6.0 * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(source: Source<'_>, inputs: usize, fit: Fit) -> Option<Levels<'_>> {
        Form::new(&source, inputs, fit).map(|(form, rounded)| Levels { source, form, inputs, rounded })
    }

    /// Level, scale and bias of each number of a row that is rounded.
    fn rounded(row: &[f32]) -> Vec<(u8, f32, f32)> {
        let levels = levels(Source::Dense(Floats::F32(row)), row.len(), Fit::Nearest).unwrap();
        let mut all = Vec::new();
        levels.row(0, |_, levels, scale, bias| all.extend(levels.iter().map(|&level| (level, scale, bias))));
        all
    }

    #[test]
    fn rounded_numbers_are_off_by_half_a_step_at_most() {
        for (inputs, groups) in [(32, 1), (64, 1), (96, 3), (128, 2), (384, 3)] {
            let row: Vec<f32> = (0..inputs).map(|i| ((i * i * 37 % 101) as f32 - 33.0) * 0.01).collect();
            let found = rounded(&row);
            assert_eq!(found.len(), inputs);
            let mut scales: Vec<f32> = found.iter().map(|&(_, scale, _)| scale).collect();
            scales.dedup();
            assert!(scales.len() <= groups, "{inputs}");
            for (x, (level, scale, bias)) in row.iter().zip(found) {
                assert!(scale > 0.0 && scale < 1.02 / 255.0, "{scale}");
                assert!([scale, bias].iter().all(|x| x.to_bits() & 0xffff == 0), "{scale} {bias}");
                let off = (scale * f32::from(level) + bias - x).abs();
                assert!(off <= scale * 0.5001, "{x}: {level} of {scale} and {bias}");
            }
        }
    }

    #[test]
    fn zeros_stay_zeros_and_no_numbers_stay_none() {
        assert!(rounded(&[0.0; 64]).iter().all(|&(_, scale, bias)| (scale, bias) == (0.0, 0.0)));
        let alike = rounded(&[-0.3; 64]);
        assert!(
            alike.iter().all(|&(level, scale, bias)| (scale * f32::from(level) + bias + 0.3).abs() < 1e-3)
        );
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut row = [1.0; 384];
            row[3] = odd;
            let found = rounded(&row);
            assert!(found[..128].iter().all(|(_, scale, _)| scale.is_nan()), "{odd}");
            assert!(found[128..].iter().all(|(_, scale, _)| scale.is_finite()), "{odd}");
        }
        let mut row = [f32::MAX; 64];
        row[0] = f32::MIN;
        assert!(rounded(&row)[0].1.is_nan());
        let tiny = rounded(&[f32::from_bits(3); 32]);
        assert!(tiny.iter().all(|(_, scale, bias)| scale.is_finite() && bias.is_finite()));
    }

    #[test]
    fn a_group_is_unpacked_as_its_values_are() {
        let words: Vec<u32> = (0..64_u32).map(|i| i.wrapping_mul(0x9e37_79b9) ^ i << 7).collect();
        for bits in [2, 3, 4, 5, 6, 8] {
            for (first, size) in [(0, 32), (32, 32), (64, 64), (128, 128), (48, 16)] {
                if first * bits % 32 != 0 {
                    continue;
                }
                let mut found = vec![0; size];
                unpack(&words, bits, first, &mut found);
                let expected: Vec<u8> =
                    (first..first + size).map(|index| value(&words, bits, index) as u8).collect();
                assert_eq!(found, expected, "{bits} bits from {first} on");
            }
        }
    }

    #[test]
    fn whole_numbers_are_kept_and_odd_sizes_left() {
        let source = Source::Dense(Floats::F32(&[1.0; 48]));
        assert!(levels(source, 48, Fit::Nearest).is_none());
        assert!(levels(Source::Dense(Floats::F32(&[1.0; 64])), 64, Fit::Exact).is_none());
        let (words, scales, biases) = ([0x0302_0100_u32; 8], [0.5; 1], [0.25; 1]);
        let affine = Scales::Affine { scales: Floats::F32(&scales), biases: Floats::F32(&biases) };
        let source = Source::Quantized { words: &words, bits: 8, group_size: 32, scales: affine };
        let levels = levels(source, 32, Fit::Nearest).unwrap();
        assert!(!levels.rounded && !levels.form.bf16);
        levels.row(0, |_, levels, scale, bias| {
            assert_eq!((&levels[..4], scale, bias), (&[0, 1, 2, 3][..], 0.5, 0.25));
        });
    }
}
