//! Weights as whole numbers: `scale * level + bias`, a scale and a bias a group.
//!
//! Small floats of a wide range become words before a product, of 16 bits with a sign: a product with them takes as long as
//! one with two limbs, and they hold groups of several scales.

use super::round::TWO;
use super::simd::{FP4_TWICE, Nearest, float_word};
use super::source::{Floats, Scales, Source, e4m3, e8m0, value};

/// What [`FP4_TWICE`] is raised by to be levels, none of which is below zero.
const FP4_RAISED: i8 = 12;

/// Most inputs of a group.
pub(super) const MAX_GROUP: usize = 128;

/// Inputs of a group that have a factor, where there are any.
pub(super) const FACTOR_INPUTS: usize = 16;

/// Which matrices become whole numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    /// Those that are so as they are, and small floats by way of words.
    Exact,
    /// All whose inputs make whole groups: the others are rounded to 8 bits, and so are those that would become words.
    Nearest(Nearest),
}

/// Rows of a matrix, `[rows, inputs]`, as whole numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Levels<'a> {
    pub(super) source: Source<'a>,
    pub(super) form: Form,
    pub(super) inputs: usize,
    /// Whether they are the nearest of 8 bits to the matrix's numbers rather than these themselves.
    pub(super) rounded: bool,
}

/// How the numbers of a matrix are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    /// Of a level as it is packed: 4 or 8.
    pub(super) bits: usize,
    /// Whether levels of 8 bits are below 128.
    pub(super) small: bool,
    /// Whether levels are codes of small floats, which become words.
    pub(super) floats: bool,
    /// Whether levels of 8 bits have a sign, and all biases are zero.
    pub(super) signed: bool,
    pub(super) group_size: usize,
    /// Whether scales and biases are bf16; else they are f32.
    pub(super) bf16: bool,
}

impl Form {
    /// Of a matrix of which a few rows are given, and whether its numbers are rounded to 8 bits. `None` if `fit` leaves the
    /// matrix as it is, or the inputs make no whole groups.
    pub(super) fn new(source: &Source<'_>, inputs: usize, fit: Fit) -> Option<(Self, bool)> {
        let floats = Self::floats(source, inputs);
        let (form, rounded) = match (Self::exact(source), fit) {
            (exact, Fit::Exact) => (floats.or(exact)?, false),
            (Some(exact), Fit::Nearest(_)) if floats.is_none() => (exact, false),
            (_, Fit::Nearest(nearest)) => (Self::nearest(inputs, nearest), true),
        };
        inputs.is_multiple_of(form.group_size).then_some((form, rounded))
    }

    /// Of small floats whose scales are so many, or whose range so wide, that they become words.
    fn floats(source: &Source<'_>, inputs: usize) -> Option<Self> {
        let Source::Quantized { bits, scales, .. } = source else { return None };
        let sizes: &[usize] = match scales {
            Scales::Mxfp8(_) => &[32],
            Scales::Nvfp4(_) => &[64, 32],
            Scales::Affine { .. } | Scales::Mxfp4(_) => &[],
        };
        let group_size = *sizes.iter().find(|&&size| inputs.is_multiple_of(size))?;
        Some(Self { bits: *bits, small: false, floats: true, signed: false, group_size, bf16: true })
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
        let (bits, small) = (if narrow { 4 } else { 8 }, bits < 8);
        let form = Self { bits, small, floats: false, signed: false, group_size, bf16 };
        matches!(group_size, 16 | 32 | 64 | 128).then_some(form)
    }

    /// Of a matrix that is rounded. Large groups cost less time: of MiniLM's pass those of 128 save a twelfth beside those
    /// of 64, and 0.0001 of cosine. A number that stands out makes all of its group coarse, so they are for rows that have
    /// three of them at least. Beside rows of seven bits they are half as large, since a product loses a third more there,
    /// and rows that would have smaller ones keep their bits.
    fn nearest(inputs: usize, nearest: Nearest) -> Self {
        let fits = |size: usize| inputs.is_multiple_of(size) && (size < 128 || inputs >= 3 * size);
        let size = [128, 64].into_iter().find(|&size| fits(size)).unwrap_or(32);
        let signed = nearest == Nearest::SignedBytes && size == 128;
        let group_size = if signed { 64 } else { size };
        Self { bits: 8, small: false, floats: false, signed, group_size, bf16: true }
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
                levels
                    .iter_mut()
                    .for_each(|level| *level = (FP4_TWICE[usize::from(*level & 15)] + FP4_RAISED) as u8);
            }
            each(group, levels, scale, bias);
        }
    }

    /// The codes of every group of a row, the factors of each sixteen of them, and the scale of the words that they become.
    /// Codes of 8 bits have no factors. Returns whether the words are all that the row is.
    pub(super) fn floats(&self, row: usize, mut each: impl FnMut(usize, &[u8], &[i16], f32)) -> bool {
        let Source::Quantized { words, bits, scales, .. } = self.source else { return false };
        let size = self.form.group_size;
        let mut numbers = vec![0.0; self.inputs];
        self.source.row(row, &mut numbers);
        let words = &words[row * self.inputs * bits / 32..(row + 1) * self.inputs * bits / 32];
        let first_factor = row * self.inputs / FACTOR_INPUTS;
        let mut codes = [0_u8; MAX_GROUP];
        let mut factors = [0_i16; MAX_GROUP / FACTOR_INPUTS];
        let mut whole = true;
        for (group, numbers) in numbers.chunks_exact(size).enumerate() {
            let codes = &mut codes[..size];
            let (factors, scale) = match scales {
                Scales::Nvfp4(scales) => {
                    let factors = &mut factors[..size / FACTOR_INPUTS];
                    let halves =
                        scales[first_factor + group * factors.len()..].iter().map(|&x| e4m3(x) / 2.0);
                    unpack(words, bits, group * size, codes);
                    let scale = nearest_factors(numbers, halves, factors);
                    (&*factors, scale)
                }
                _ => (&[][..], nearest_words(numbers, codes)),
            };
            let word = |i: usize| match factors {
                [] => float_word(codes[i]),
                _ => i16::from(FP4_TWICE[usize::from(codes[i])]) * factors[i / FACTOR_INPUTS],
            };
            whole &= numbers.iter().enumerate().all(|(i, &x)| scale * f32::from(word(i)) == x);
            each(group, codes, factors, scale);
        }
        whole
    }

    fn rounded_row(&self, row: usize, mut each: impl FnMut(usize, &[u8], f32, f32)) {
        let size = self.form.group_size;
        let mut numbers = vec![0.0; self.inputs];
        self.source.row(row, &mut numbers);
        let mut levels = [0_u8; MAX_GROUP];
        let levels = &mut levels[..size];
        for (group, numbers) in numbers.chunks_exact(size).enumerate() {
            let (scale, bias) = if self.form.signed {
                (nearest_signed(numbers, levels), 0.0)
            } else {
                nearest(numbers, levels)
            };
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

/// The same to 8 bits with a sign, of which the lowest is not used; returns the scale.
fn nearest_signed(numbers: &[f32], levels: &mut [u8]) -> f32 {
    const TOP: f32 = 127.0;
    let scale = bf16_above(numbers.iter().fold(0.0_f32, |most, x| most.max(x.abs())) / TOP);
    if !scale.is_finite() || !numbers.iter().all(|x| x.is_finite()) {
        levels.fill(0);
        return f32::NAN;
    }
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    for (level, x) in levels.iter_mut().zip(numbers) {
        *level = (x * inverse).round().clamp(-TOP, TOP) as i8 as u8;
    }
    scale
}

/// Largest sum of the magnitudes of a group's words: times the largest of rounded activations it fits the 32 bits in which
/// products are added.
const MOST_WORDS: f64 = (i32::MAX / TWO as i32) as f64;

/// The step of words of such magnitudes, which is a bf16: the least power of two with which their sum fits, though rounding
/// adds up to `more` to it, and none is above `largest`. Where a magnitude is infinite or none, so is the step.
fn step(magnitudes: impl Iterator<Item = f64> + Clone, more: f64, largest: f64) -> f32 {
    let sum: f64 = magnitudes.clone().sum();
    if !sum.is_finite() {
        return f32::NAN;
    }
    let least = (sum / (MOST_WORDS - more)).max(magnitudes.fold(0.0, f64::max) / largest);
    power_above(least.max(f32::MIN_POSITIVE.into())) as f32
}

/// Rounds a group to words in equal steps, which it returns, and these to codes, which have room for all that numbers of four
/// bits round to.
///
/// A number is off by at most a 65,700th of the sum of its group's magnitudes, or a 32,767th of the largest where that is
/// more, and by nothing if it is a whole number of steps.
fn nearest_words(numbers: &[f32], codes: &mut [u8]) -> f32 {
    let magnitudes = numbers.iter().map(|x| f64::from(x.abs()));
    let step = step(magnitudes, numbers.len() as f64 / 2.0, i16::MAX.into());
    for (code, x) in codes.iter_mut().zip(numbers) {
        // None becomes zero, whose product with no number is none.
        *code = float_code((x / step).round_ties_even() as i16);
    }
    step
}

/// Rounds half the scales of a group of 4-bit floats to factors in equal steps, which it returns.
///
/// A number is off by at most a 5400th of the sum of its group's magnitudes, or a 2700th of the largest where that is more, and
/// by nothing if half of its scale is a whole number of steps: those of neighbours are, unless one is a tenth of another.
fn nearest_factors(numbers: &[f32], halves: impl Iterator<Item = f32>, factors: &mut [i16]) -> f32 {
    const LARGEST: i16 = FP4_TWICE[7] as i16;
    let magnitudes = numbers.iter().map(|x| f64::from(x.abs()));
    let more = numbers.len() as f64 / 2.0 * f64::from(LARGEST);
    let step = step(magnitudes, more, f64::from(i16::MAX / LARGEST) * f64::from(LARGEST));
    for (factor, half) in factors.iter_mut().zip(halves) {
        *factor = (half / step).round_ties_even() as i16;
    }
    step
}

/// The code of a word with four bits at most between its first and its last one; see
/// [`Simd::float_words`](super::simd::Simd::float_words).
fn float_code(word: i16) -> u8 {
    let magnitude = word.unsigned_abs();
    let exponent = (u16::BITS - magnitude.leading_zeros()).saturating_sub(3);
    let mantissa = magnitude >> exponent.saturating_sub(1) & 7;
    u8::from(word < 0) << 7 | (exponent as u8) << 3 | mantissa as u8
}

/// The least power of two that is not below a number that is one at least of the normal ones.
fn power_above(x: f64) -> f64 {
    const FRACTION: u64 = (1 << (f64::MANTISSA_DIGITS - 1)) - 1;
    f64::from_bits((x.to_bits() + FRACTION) & !FRACTION)
}

/// The least bf16 that is not below a number without a sign.
fn bf16_above(x: f32) -> f32 {
    f32::from_bits((x.to_bits() + 0xffff) & 0xffff_0000)
}

/// Scale and bias of levels of 4-bit floats.
fn halved(scale: f32) -> (f32, f32) {
    (scale / 2.0, -6.0 * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(source: Source<'_>, inputs: usize, fit: Fit) -> Option<Levels<'_>> {
        Form::new(&source, inputs, fit).map(|(form, rounded)| Levels { source, form, inputs, rounded })
    }

    const WAYS: [Nearest; 2] = [Nearest::Bytes, Nearest::SignedBytes];

    /// Level, scale and bias of each number of a row that is rounded.
    fn rounded(row: &[f32], nearest: Nearest) -> Vec<(i32, f32, f32)> {
        let levels = levels(Source::Dense(Floats::F32(row)), row.len(), Fit::Nearest(nearest)).unwrap();
        let signed = levels.form.signed;
        assert_eq!(signed, nearest == Nearest::SignedBytes && row.len() == 384);
        let number = |&level: &u8| if signed { i32::from(level as i8) } else { level.into() };
        let mut all = Vec::new();
        levels.row(0, |_, levels, scale, bias| {
            all.extend(levels.iter().map(|level| (number(level), scale, bias)));
        });
        all
    }

    #[test]
    fn rounded_numbers_are_off_by_half_a_step_at_most() {
        let sizes = [(32, [1, 1]), (64, [1, 1]), (96, [3, 3]), (128, [2, 2]), (384, [3, 6])];
        for (way, (inputs, groups)) in [0, 1].into_iter().flat_map(|way| sizes.map(|size| (way, size))) {
            let row: Vec<f32> = (0..inputs).map(|i| ((i * i * 37 % 101) as f32 - 33.0) * 0.01).collect();
            let found = rounded(&row, WAYS[way]);
            assert_eq!(found.len(), inputs);
            let mut scales: Vec<f32> = found.iter().map(|&(_, scale, _)| scale).collect();
            scales.dedup();
            assert!(scales.len() <= groups[way], "{inputs}");
            let signed = way == 1 && inputs == 384;
            for (x, (level, scale, bias)) in row.iter().zip(found) {
                // From the least number to the largest, or from zero to the one of them that is further from it.
                let step = if signed { 0.67 / 127.0 } else { 1.0 / 255.0 };
                assert!(scale > 0.0 && scale < 1.02 * step, "{scale}");
                assert!(!signed || level.abs() <= 127 && bias == 0.0, "{level} {bias}");
                assert!([scale, bias].iter().all(|x| x.to_bits() & 0xffff == 0), "{scale} {bias}");
                let off = (scale * level as f32 + bias - x).abs();
                assert!(off <= scale * 0.5001, "{x}: {level} of {scale} and {bias}");
            }
        }
    }

    #[test]
    fn codes_stand_for_all_words_that_numbers_of_four_bits_round_to() {
        let values = (0..=255).map(e4m3).filter(|x| x.is_finite());
        for x in values {
            for exponent in -9..=2 {
                let word = (x / 2.0_f32.powi(exponent)).round_ties_even();
                if word.abs() <= f32::from(i16::MAX) {
                    assert_eq!(f32::from(float_word(float_code(word as i16))), word, "{x} by 2^{exponent}");
                }
            }
        }
    }

    #[test]
    fn zeros_stay_zeros_and_no_numbers_stay_none() {
        for way in WAYS {
            assert!(rounded(&[0.0; 64], way).iter().all(|&(_, scale, bias)| (scale, bias) == (0.0, 0.0)));
            let alike = rounded(&[-0.3; 64], way);
            let off = |&(level, scale, bias): &(i32, f32, f32)| (scale * level as f32 + bias + 0.3).abs();
            assert!(alike.iter().all(|number| off(number) < 1.2e-3));
            no_numbers_stay_none(way);
        }
    }

    fn no_numbers_stay_none(way: Nearest) {
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut row = [1.0; 384];
            row[3] = odd;
            let found = rounded(&row, way);
            let group = if way == Nearest::SignedBytes { 64 } else { 128 };
            assert!(found[..group].iter().all(|(_, scale, _)| scale.is_nan()), "{odd}");
            assert!(found[128..].iter().all(|(_, scale, _)| scale.is_finite()), "{odd}");
        }
        let mut row = [f32::MAX; 384];
        row[0] = f32::MIN;
        assert_eq!(rounded(&row, way)[0].1.is_nan(), way == Nearest::Bytes);
        let tiny = rounded(&[f32::from_bits(3); 32], way);
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
        assert!(levels(source, 48, Fit::Nearest(Nearest::Bytes)).is_none());
        assert!(levels(Source::Dense(Floats::F32(&[1.0; 64])), 64, Fit::Exact).is_none());
        let (words, scales, biases) = ([0x0302_0100_u32; 8], [0.5; 1], [0.25; 1]);
        let affine = Scales::Affine { scales: Floats::F32(&scales), biases: Floats::F32(&biases) };
        let source = Source::Quantized { words: &words, bits: 8, group_size: 32, scales: affine };
        let levels = levels(source, 32, Fit::Nearest(Nearest::SignedBytes)).unwrap();
        assert!(!levels.rounded && !levels.form.bf16);
        levels.row(0, |_, levels, scale, bias| {
            assert_eq!((&levels[..4], scale, bias), (&[0, 1, 2, 3][..], 0.5, 0.25));
        });
    }
}
