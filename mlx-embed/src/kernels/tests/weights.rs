//! Random matrices of every form, and what they mean in f64.

use half::{bf16, f16};

use super::draw::Draw;
use super::{Floats, Scales, Source};

/// Numbers that own themselves.
#[derive(Debug, Clone)]
pub(super) enum Numbers {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

impl Numbers {
    fn draw(draw: &mut Draw, kind: usize, count: usize, factor: f32) -> Self {
        let numbers = (0..count).map(|_| draw.number() * factor);
        match kind {
            0 => Self::F32(numbers.collect()),
            1 => Self::F16(numbers.map(f16::from_f32).collect()),
            _ => Self::Bf16(numbers.map(bf16::from_f32).collect()),
        }
    }

    fn floats(&self) -> Floats<'_> {
        match self {
            Self::F32(x) => Floats::F32(x),
            Self::F16(x) => Floats::F16(x),
            Self::Bf16(x) => Floats::Bf16(x),
        }
    }

    fn get(&self, index: usize) -> f64 {
        match self {
            Self::F32(x) => x[index].into(),
            Self::F16(x) => x[index].to_f64(),
            Self::Bf16(x) => x[index].to_f64(),
        }
    }
}

#[derive(Debug, Clone)]
enum Form {
    Dense(Numbers),
    Affine { scales: Numbers, biases: Numbers },
    Mxfp4(Vec<u8>),
    Mxfp8(Vec<u8>),
    Nvfp4(Vec<u8>),
}

/// A matrix `[rows, inputs]`.
#[derive(Clone)]
pub(super) struct Matrix {
    words: Vec<u32>,
    bits: usize,
    pub(super) group_size: usize,
    form: Form,
    pub(super) rows: usize,
    pub(super) inputs: usize,
}

impl std::fmt::Debug for Matrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { rows, inputs, bits, group_size, .. } = self;
        let form = match &self.form {
            Form::Dense(_) => "dense",
            Form::Affine { scales: Numbers::Bf16(_), .. } => "affine bf16",
            Form::Affine { .. } => "affine",
            Form::Mxfp4(_) => "mxfp4",
            Form::Mxfp8(_) => "mxfp8",
            Form::Nvfp4(_) => "nvfp4",
        };
        write!(f, "{form} [{rows}, {inputs}], {bits} bits by {group_size}")
    }
}

impl Draw {
    pub(super) fn affine(&mut self, rows: usize, inputs: usize, bits: usize, group_size: usize) -> Matrix {
        let groups = rows * inputs / group_size;
        let kind = self.below(3);
        let factor = 1.0 / (1 << bits) as f32;
        let scales = Numbers::draw(self, kind, groups, factor);
        // Scales and biases are of one type, but nothing hangs on it.
        let kind = if self.one_in(8) { self.below(3) } else { kind };
        let biases = Numbers::draw(self, kind, groups, 0.5);
        self.quantized(rows, inputs, bits, group_size, Form::Affine { scales, biases })
    }

    /// f32, f16 or bf16.
    pub(super) fn dense(&mut self, rows: usize, inputs: usize, kind: usize) -> Matrix {
        let form = Form::Dense(Numbers::draw(self, kind, rows * inputs, 1.0));
        Matrix { words: Vec::new(), bits: 0, group_size: 1, form, rows, inputs }
    }

    /// A matrix of any form whose groups fit.
    pub(super) fn matrix(&mut self, rows: usize, inputs: usize) -> Matrix {
        let sizes: Vec<usize> =
            [32, 64, 128].into_iter().filter(|size| inputs.is_multiple_of(*size)).collect();
        let group_size = self.one_of(&sizes);
        match self.below(10) {
            kind @ 0..=2 => self.dense(rows, inputs, kind),
            3 => {
                let form = Form::Mxfp4(self.powers(rows * inputs / 32));
                self.quantized(rows, inputs, 4, 32, form)
            }
            4 => self.mxfp8(rows, inputs),
            5 => self.nvfp4(rows, inputs, 126),
            _ => {
                let bits = self.one_of(&[2, 3, 4, 5, 6, 8]);
                self.affine(rows, inputs, bits, group_size)
            }
        }
    }

    /// Powers of two within reason.
    fn powers(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.within(117, 130) as u8).collect()
    }

    /// None of the two patterns of an E4M3 that are no numbers.
    pub(super) fn mxfp8(&mut self, rows: usize, inputs: usize) -> Matrix {
        let form = Form::Mxfp8(self.powers(rows * inputs / 32));
        let mut matrix = self.quantized(rows, inputs, 8, 32, form);
        for word in &mut matrix.words {
            *word = u32::from_le_bytes(word.to_le_bytes().map(|x| if x & 127 == 127 { x - 1 } else { x }));
        }
        matrix
    }

    /// Of numbers as trained weights have them.
    pub(super) fn normal_mxfp8(&mut self, rows: usize, inputs: usize) -> Matrix {
        let mut matrix = self.mxfp8(rows, inputs);
        let far = |code: u32, number: f32| (small_float(code, 4, 3) - f64::from(number.abs())).abs();
        for word in &mut matrix.words {
            let codes = [(); 4].map(|()| {
                let number = 100.0 * self.normal();
                let nearest = (0..127).min_by(|&a, &b| far(a, number).total_cmp(&far(b, number))).unwrap();
                nearest as u8 | u8::from(number < 0.0) << 7
            });
            *word = u32::from_le_bytes(codes);
        }
        matrix
    }

    /// With scales whose patterns are some neighbouring ones of the first 126.
    pub(super) fn nvfp4(&mut self, rows: usize, inputs: usize, some: usize) -> Matrix {
        let first = self.below(127 - some);
        let scales = (0..rows * inputs / 16).map(|_| (first + self.below(some)) as u8);
        let form = Form::Nvfp4(scales.collect());
        self.quantized(rows, inputs, 4, 16, form)
    }

    fn quantized(
        &mut self,
        rows: usize,
        inputs: usize,
        bits: usize,
        group_size: usize,
        form: Form,
    ) -> Matrix {
        let words = (0..rows * inputs * bits / 32).map(|_| self.word() as u32).collect();
        Matrix { words, bits, group_size, form, rows, inputs }
    }
}

impl Matrix {
    /// All values the same bits.
    pub(super) fn fill(&mut self, word: u32) {
        self.words.fill(word);
    }

    /// Every word one of these.
    pub(super) fn fill_from(&mut self, draw: &mut Draw, words: &[u32]) {
        self.words.iter_mut().for_each(|word| *word = draw.one_of(words));
    }

    /// All scales one and all biases zero.
    pub(super) fn make_plain(&mut self) {
        let groups = self.rows * self.inputs / self.group_size;
        self.form =
            Form::Affine { scales: Numbers::F32(vec![1.0; groups]), biases: Numbers::F32(vec![0.0; groups]) };
    }

    /// Makes a dense matrix's number at `index` another.
    pub(super) fn spoil(&mut self, index: usize, number: f32) {
        match &mut self.form {
            Form::Dense(Numbers::F32(x)) => x[index] = number,
            Form::Dense(Numbers::F16(x)) => x[index] = f16::from_f32(number),
            Form::Dense(Numbers::Bf16(x)) => x[index] = bf16::from_f32(number),
            _ => panic!("{self:?}"),
        }
    }

    pub(super) fn source(&self) -> Source<'_> {
        let scales = match &self.form {
            Form::Dense(numbers) => return Source::Dense(numbers.floats()),
            Form::Affine { scales, biases } => {
                Scales::Affine { scales: scales.floats(), biases: biases.floats() }
            }
            Form::Mxfp4(scales) => Scales::Mxfp4(scales),
            Form::Mxfp8(scales) => Scales::Mxfp8(scales),
            Form::Nvfp4(scales) => Scales::Nvfp4(scales),
        };
        Source::Quantized { words: &self.words, bits: self.bits, group_size: self.group_size, scales }
    }

    /// The number, and the sum of the magnitudes of what it is the sum of.
    pub(super) fn parts(&self, row: usize, column: usize) -> (f64, f64) {
        let index = row * self.inputs + column;
        let group = index / self.group_size;
        let bits = (0..self.bits).map(|i| {
            let bit = index * self.bits + i;
            u32::from(self.words[bit / 32] >> (bit % 32) & 1 == 1) << i
        });
        let q: u32 = bits.sum();
        let power = |bits: u8| power_of_two(i32::from(bits) - 127);
        let number = match &self.form {
            Form::Dense(numbers) => numbers.get(index),
            Form::Affine { scales, biases } => {
                let (scaled, bias) = (scales.get(group) * f64::from(q), biases.get(group));
                return (scaled + bias, scaled.abs() + bias.abs());
            }
            Form::Mxfp4(scales) => power(scales[group]) * small_float(q, 2, 1),
            Form::Mxfp8(scales) => power(scales[group]) * small_float(q, 4, 3),
            Form::Nvfp4(scales) => small_float(scales[group].into(), 4, 3) * small_float(q, 2, 1),
        };
        (number, number.abs())
    }

    pub(super) fn value(&self, row: usize, column: usize) -> f64 {
        self.parts(row, column).0
    }
}

/// 2^exponent, of a normal number. Miri has `powi` and `exp2` err by a last place or two.
fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

/// A float of a sign, some bits of exponent, and some of mantissa.
fn small_float(bits: u32, exponent_bits: u32, mantissa_bits: u32) -> f64 {
    let field = |from: u32, count: u32| f64::from(bits >> from & ((1 << count) - 1));
    let fraction = field(0, mantissa_bits) / f64::from(1 << mantissa_bits);
    let exponent = field(mantissa_bits, exponent_bits) as i32 - ((1 << (exponent_bits - 1)) - 1);
    let subnormal = field(mantissa_bits, exponent_bits) == 0.0;
    let power = power_of_two(exponent);
    let magnitude = if subnormal { fraction * 2.0 * power } else { (1.0 + fraction) * power };
    if field(mantissa_bits + exponent_bits, 1) == 1.0 { -magnitude } else { magnitude }
}
