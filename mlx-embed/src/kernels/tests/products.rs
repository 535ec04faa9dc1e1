//! Products of rows with matrices, and what becomes of them.

use super::draw::Draw;
use super::simd::Nearest;
use super::weights::Matrix;
use super::*;

/// One matrix of a projection, or several that were packed as one.
struct Factor {
    matrices: Vec<Matrix>,
    held: Held,
    bias: Option<Vec<f32>>,
}

enum Held {
    Packed(Packed),
    Dense(Dense),
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Packed(packed) => packed.layout.fmt(f),
            Self::Dense(_) => f.write_str("dense"),
        }
    }
}

impl Factor {
    fn outputs(&self) -> usize {
        self.matrices.iter().map(|matrix| matrix.rows).sum()
    }

    fn part(&self) -> Part<'_> {
        let weights = match &self.held {
            Held::Packed(packed) => Weights::Packed(packed),
            Held::Dense(dense) => Weights::Dense(dense),
        };
        Part { weights, bias: self.bias.as_deref() }
    }

    /// What a kernel makes of rows `x`.
    fn products(&self, engine: &Engine, x: &[f32], limbs: Limbs<'_>) -> Vec<f32> {
        let inputs = self.matrices[0].inputs;
        let mut out = unwritten(x.len() / inputs * self.outputs());
        engine.project(x, None, inputs, limbs, &[self.part()], Output::Store(&mut out));
        out
    }

    /// These with what they are in f64, of one matrix.
    fn products_beside_f64(&self, engine: &Engine, x: &[f32], limbs: Limbs<'_>) -> Vec<(f32, f64)> {
        let inputs = self.matrices[0].inputs;
        let exact = |(i, got): (usize, f32)| {
            let (row, output) = (i / self.outputs(), i % self.outputs());
            let terms =
                (0..inputs).map(|k| f64::from(x[row * inputs + k]) * self.matrices[0].value(output, k));
            (got, terms.sum())
        };
        self.products(engine, x, limbs).into_iter().enumerate().map(exact).collect()
    }

    /// By how much these are off, as a share of their size.
    fn error(&self, engine: &Engine, x: &[f32], limbs: Limbs<'_>) -> f64 {
        let (mut error, mut size) = (0.0, 0.0);
        for (got, want) in self.products_beside_f64(engine, x, limbs) {
            error += (f64::from(got) - want).powi(2);
            size += want.powi(2);
        }
        (error / size).sqrt()
    }
}

/// How rounding goes; see [`Limbs`].
struct Rule {
    times: Option<f32>,
    rows: Vec<bool>,
}

impl Rule {
    fn limbs(&self, rows: std::ops::Range<usize>) -> Limbs<'_> {
        match self.times {
            Some(times) => Limbs::TwoAbove { times, rows: &self.rows[rows] },
            None => Limbs::Two,
        }
    }

    /// The magnitude up to which a group of row `row`, which is `x`, has one limb.
    fn one_limb(&self, row: usize, x: &[f64]) -> f64 {
        let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        match self.times {
            Some(times) if !self.rows[row] => f64::from(times) * mean.sqrt(),
            _ => -1.0,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Store,
    Add,
    Activated(Activation),
    Gated(Activation),
}

/// A projection.
struct Case {
    inputs: usize,
    rows: usize,
    x: Vec<f32>,
    norm: Option<Vec<f32>>,
    rule: Rule,
    factors: Vec<Factor>,
    kind: Kind,
    residual: Vec<f32>,
}

const EPS: f32 = 1e-5;

impl Draw {
    /// Matrices of one form, packed as one.
    fn packed(&mut self, inputs: usize, heights: &[usize], order: PackedOrder) -> Factor {
        let sizes: Vec<usize> =
            [32, 64, 128].into_iter().filter(|size| inputs.is_multiple_of(*size)).collect();
        let (bits, group_size) = (self.one_of(&BITS), self.one_of(&sizes));
        let (kind, dense) = (self.below(3), self.one_in(3));
        let mut matrix = |&rows: &usize| match dense {
            true => self.dense(rows, inputs, kind),
            false => self.affine(rows, inputs, bits, group_size),
        };
        let matrices: Vec<Matrix> = heights.iter().map(&mut matrix).collect();
        pack(matrices, inputs, order)
    }

    /// A few matrices, stacked in one or each in its own way.
    fn factors(&mut self, inputs: usize, kind: Kind) -> Vec<Factor> {
        let height = |draw: &mut Self| {
            let (some, more) = (draw.within(1, 20), draw.within(1, 100));
            if cfg!(miri) { draw.one_of(&[some, 32]) } else { draw.one_of(&[some, more, 32, 64]) }
        };
        if matches!(kind, Kind::Gated(_)) {
            let rows = height(self);
            if self.one_in(2) {
                return vec![self.packed(inputs, &[rows, rows], PackedOrder::Interleaved)];
            }
            return (0..2).map(|_| self.factor(inputs, rows)).collect();
        }
        if self.one_in(2) {
            let heights: Vec<usize> = (0..self.within(1, 3)).map(|_| height(self)).collect();
            let mut factor = self.packed(inputs, &heights, PackedOrder::Stacked);
            factor.bias = (!self.one_in(3)).then(|| self.numbers(factor.outputs()));
            return vec![factor];
        }
        (0..self.within(1, 3))
            .map(|_| {
                let rows = height(self);
                self.factor(inputs, rows)
            })
            .collect()
    }

    fn factor(&mut self, inputs: usize, rows: usize) -> Factor {
        let matrix = self.matrix(rows, inputs);
        let mut factor = pack(vec![matrix], inputs, PackedOrder::Stacked);
        factor.bias = (!self.one_in(3)).then(|| self.numbers(rows));
        factor
    }

    fn projection(&mut self) -> Case {
        let inputs = 32 * if cfg!(miri) { self.within(1, 4) } else { self.one_of(&[1, 2, 4, 8, 12, 20]) };
        let (tile, tiles) = (self.within(1, 12), self.within(1, if cfg!(miri) { 5 } else { 40 }));
        let rows = self.one_of(&[1, 2, tile, tiles]);
        let activation = self.one_of(&ACTIVATIONS);
        let kind =
            self.one_of(&[Kind::Store, Kind::Add, Kind::Activated(activation), Kind::Gated(activation)]);
        let factors = self.factors(inputs, kind);
        let outputs: usize = factors.iter().map(Factor::outputs).sum();
        // About as many groups above as below; or none, or almost all.
        let times = (!self.one_in(3)).then(|| self.one_of(&[0.1, 2.0, 3.5, 1e9]));
        Case {
            x: self.numbers(rows * inputs),
            norm: self.one_in(2).then(|| self.numbers(inputs)),
            rule: Rule { times, rows: (0..rows).map(|_| self.one_in(4)).collect() },
            residual: self.numbers(rows * outputs),
            inputs,
            rows,
            factors,
            kind,
        }
    }
}

/// As a model packs them.
fn pack(matrices: Vec<Matrix>, inputs: usize, order: PackedOrder) -> Factor {
    pack_as(matrices, inputs, order, Fit::Exact)
}

fn pack_as(matrices: Vec<Matrix>, inputs: usize, order: PackedOrder, fit: Fit) -> Factor {
    let sources: Vec<_> =
        matrices.iter().map(|matrix| InMemory { source: matrix.source(), columns: inputs }).collect();
    let pool = Pool::new(1).unwrap();
    let packed = Packed::pack(&sources, inputs, order, fit, &pool).unwrap();
    let held = match packed {
        Some(packed) => Held::Packed(packed),
        None => Held::Dense(match &sources[..] {
            [one] => Dense::pack_one(one, inputs, &pool).unwrap(),
            all => Dense::pack(all, inputs, order, &pool).unwrap().unwrap(),
        }),
    };
    Factor { held, matrices, bias: None }
}

const BITS: [usize; 6] = [2, 3, 4, 5, 6, 8];

const TANH: Activation = Activation::Other(Function(f32::tanh));
const ACTIVATIONS: [Activation; 5] =
    [Activation::Silu, Activation::GeluErf, Activation::GeluTanh, Activation::Relu, TANH];

/// An activation of a number that is off by `most`, and how far it may be off.
fn act(activation: Activation, x: f64, most: f64) -> (f64, f64) {
    let value = match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluErf => x * normal(x),
        Activation::GeluTanh => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            x / 2.0 * (1.0 + u.tanh())
        }
        Activation::Relu => x.max(0.0),
        Activation::Other(_) => x.tanh(),
    };
    // No slope is above 1.13. Of GELU it is the function by which a number is multiplied that is as near as this, to 1 or to 0.
    let gelu = matches!(activation, Activation::GeluErf | Activation::GeluTanh);
    let approximate = if gelu { 2e-7 * x.abs() } else { 0.0 };
    (value, 1.13 * most + 2e-6 * value.abs() + approximate + 1e-30)
}

/// The normal distribution: the integral of its density, by Simpson's rule.
fn normal(x: f64) -> f64 {
    let x = x.clamp(-40.0, 40.0);
    let steps = 2000;
    let step = x / f64::from(steps);
    let density = |i: i32| (-(f64::from(i) * step).powi(2) / 2.0).exp();
    let inner: f64 = (1..steps).map(|i| density(i) * if i % 2 == 0 { 2.0 } else { 4.0 }).sum();
    0.5 + (density(0) + inner + density(steps)) * step / 3.0 / (2.0 * std::f64::consts::PI).sqrt()
}

impl Case {
    fn width(&self) -> usize {
        let outputs: usize = self.factors.iter().map(Factor::outputs).sum();
        if matches!(self.kind, Kind::Gated(_)) { outputs / 2 } else { outputs }
    }

    /// Rows `range` of the result, computed without the others.
    fn run(&self, engine: &Engine, range: std::ops::Range<usize>) -> Vec<f32> {
        let parts: Vec<Part<'_>> = self.factors.iter().map(Factor::part).collect();
        let norm = self.norm.as_deref().map(|weight| (weight, EPS));
        let x = &self.x[range.start * self.inputs..range.end * self.inputs];
        let mut out = unwritten(range.len() * self.width());
        let mut sum =
            self.residual.get(range.start * self.width()..range.end * self.width()).map(<[f32]>::to_vec);
        let output = match (self.kind, &mut sum) {
            (Kind::Add, Some(sum)) => Output::Add(sum),
            (Kind::Gated(activation), _) => Output::Gated(activation, &mut out),
            (Kind::Activated(activation), _) => Output::Activated(activation, &mut out),
            _ => Output::Store(&mut out),
        };
        engine.project(x, norm, self.inputs, self.rule.limbs(range), &parts, output);
        sum.filter(|_| self.kind == Kind::Add).unwrap_or(out)
    }

    /// The result of a row, and how far a kernel may be from it.
    fn naive(&self, row: usize) -> Vec<(f64, f64)> {
        let x = &self.x[row * self.inputs..(row + 1) * self.inputs];
        let x = normed(x, self.norm.as_deref().map(|weight| (weight, EPS)));
        let products: Vec<(f64, f64)> = self
            .factors
            .iter()
            .flat_map(|factor| {
                let rows =
                    factor.matrices.iter().flat_map(|matrix| (0..matrix.rows).map(move |i| (matrix, i)));
                let bias = |i: usize| factor.bias.as_ref().map_or(0.0, |bias| f64::from(bias[i]));
                rows.enumerate().map(move |(i, (matrix, output))| (factor, matrix, output, bias(i)))
            })
            .map(|(factor, matrix, output, bias)| {
                let (sum, most) = self.product(row, &x, factor, matrix, output);
                (sum + bias, most + 2e-7 * (sum.abs() + bias.abs()))
            })
            .collect();
        match self.kind {
            Kind::Store => products,
            Kind::Add => {
                let residual = &self.residual[row * self.width()..];
                let add = |((x, most), &y): ((f64, f64), &f32)| {
                    let y = f64::from(y);
                    (x + y, most + 2e-7 * (x.abs() + y.abs()))
                };
                products.into_iter().zip(residual).map(add).collect()
            }
            Kind::Activated(activation) => {
                products.into_iter().map(|(x, most)| act(activation, x, most)).collect()
            }
            Kind::Gated(activation) => {
                let (gates, ups) = products.split_at(products.len() / 2);
                let mix = |(&(gate, gate_most), &(up, up_most)): (&(f64, f64), &(f64, f64))| {
                    let (gate, most) = act(activation, gate, gate_most);
                    (gate * up, gate.abs() * up_most + most * (up.abs() + up_most))
                };
                gates.iter().zip(ups).map(mix).collect()
            }
        }
    }

    /// A row times an output's weights, rounded in groups if these are packed so.
    fn product(&self, row: usize, x: &[f64], factor: &Factor, matrix: &Matrix, output: usize) -> (f64, f64) {
        let group_size = match &factor.held {
            Held::Packed(packed) => Some(packed.layout.group_size),
            Held::Dense(_) => None,
        };
        let one_limb = self.rule.one_limb(row, x);
        let (mut sum, mut most) = (0.0, 1e-30);
        for (group, x) in x.chunks(group_size.unwrap_or(x.len())).enumerate() {
            let largest = x.iter().fold(0.0_f64, |largest, x| largest.max(x.abs()));
            let step = match group_size {
                None => 0.0,
                // Which side of the limit it falls on is a matter of f32.
                Some(_) if largest <= one_limb * (1.0 + 1e-5) => largest / 127.0,
                Some(_) => largest / 32_639.0,
            };
            let first = group * group_size.unwrap_or(0);
            let off = match &factor.held {
                Held::Packed(packed) if packed.rounded_to().is_some() => {
                    words_off(matrix, (0..x.len()).map(|k| matrix.value(output, first + k)))
                }
                _ => 0.0,
            };
            for (k, x) in x.iter().enumerate() {
                let (weight, magnitude) = matrix.parts(output, first + k);
                sum += x * weight;
                // Half a step of rounding, and f32's own errors: of some sums a group, or of one an input.
                let eps = if group_size.is_some() { 2e-6 } else { 1e-7 * self.inputs as f64 };
                most += 0.502 * step * weight.abs() + off * x.abs() + eps * x.abs() * magnitude;
            }
        }
        (sum, most)
    }

    fn describe(&self, engine: &Engine) -> String {
        let factors: Vec<_> = self.factors.iter().map(|f| (&f.held, &f.matrices, f.bias.is_some())).collect();
        let (rows, inputs, kind, times) = (self.rows, self.inputs, self.kind, self.rule.times);
        format!("{:?}: {rows} rows of {inputs}, {kind:?}, {times:?}, {factors:?}", engine.family)
    }
}

/// How far a word may be from one of these weights, its group: a factor is rounded where there are any, and times 12 at most.
fn words_off(matrix: &Matrix, weights: impl Iterator<Item = f64>) -> f64 {
    let (sum, largest) = weights
        .fold((0.0, 0.0_f64), |(sum, largest), weight| (sum + weight.abs(), largest.max(weight.abs())));
    let times = if matrix.group_size == 16 { 12.0 } else { 1.0 };
    times * (sum / 65_400.0).max(largest / 32_760.0)
}

#[test]
fn a_product_is_a_sum_over_inputs() {
    for_cases(150, |engines, draw| {
        let case = draw.projection();
        let naive: Vec<(f64, f64)> = (0..case.rows).flat_map(|row| case.naive(row)).collect();
        for engine in engines {
            assert_near(&case.run(engine, 0..case.rows), &naive, || case.describe(engine));
        }
    });
}

#[test]
fn a_row_is_the_same_bits_whatever_rows_are_beside_it() {
    for_cases(150, |engines, draw| {
        let case = draw.projection();
        for engine in engines {
            let whole = case.run(engine, 0..case.rows);
            for _ in 0..3 {
                let first = draw.below(case.rows);
                let range = first..draw.within(first + 1, case.rows);
                let some = case.run(engine, range.clone());
                let same = &whole[range.start * case.width()..range.end * case.width()];
                assert_eq!(bits(&some), bits(same), "{}: rows {range:?} alone", case.describe(engine));
            }
        }
    });
}

#[test]
fn a_row_that_is_no_number_stays_alone() {
    for_cases(100, |engines, draw| {
        let mut case = draw.projection();
        let clean: Vec<Vec<f32>> = engines.iter().map(|engine| case.run(engine, 0..case.rows)).collect();
        let row = draw.below(case.rows);
        for _ in 0..draw.within(1, 3) {
            let x = draw.one_of(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
            case.x[row * case.inputs + draw.below(case.inputs)] = x;
        }
        for (engine, clean) in engines.iter().zip(clean) {
            let broken = case.run(engine, 0..case.rows);
            let rows = clean.chunks_exact(case.width()).zip(broken.chunks_exact(case.width()));
            for (i, (clean, broken)) in rows.enumerate() {
                if i != row {
                    assert_eq!(bits(clean), bits(broken), "{}: row {i}", case.describe(engine));
                } else if !matches!(
                    case.kind,
                    Kind::Activated(Activation::Relu | Activation::Other(_))
                        | Kind::Gated(Activation::Relu | Activation::Other(_))
                ) {
                    // ReLU makes a number of minus infinity, and tanh of either.
                    let lost = broken.iter().filter(|x| x.is_finite()).count();
                    assert_eq!(lost, 0, "{}: row {row}: {broken:?}", case.describe(engine));
                }
            }
        }
    });
}

/// Numbers at the ends of what limbs and weights can be, in groups whose step is one: the result is exact.
#[test]
fn the_largest_digits_and_weights_overflow_nothing() {
    for_cases(40, |engines, draw| {
        let (bits, group_size) = (draw.one_of(&BITS), draw.one_of(&[32, 64, 128]));
        let (rows, outputs) = (draw.within(1, 13), draw.within(1, 40));
        let mut matrix = draw.affine(outputs, group_size, bits, group_size);
        matrix.make_plain();
        if draw.one_in(2) {
            matrix.fill(u32::MAX);
        }
        // Limbs of 127 and 127, -128 and below a carry, one of each sign, and the like.
        let extremes = [32_639.0, -32_639.0, 128.0, -128.0, 127.0, -129.0, 32_384.0, -32_640.0 + 256.0, 0.0];
        let one = draw.one_of(&extremes);
        let mut x: Vec<f32> = (0..rows * group_size)
            .map(|_| if draw.one_in(2) { one } else { draw.one_of(&extremes) })
            .collect();
        x.chunks_exact_mut(group_size).for_each(|row| row[0] = 32_639.0);
        let factor = pack(vec![matrix], group_size, PackedOrder::Stacked);
        for engine in engines {
            for (i, (got, want)) in factor.products_beside_f64(engine, &x, Limbs::Two).into_iter().enumerate()
            {
                assert_eq!(got, want as f32, "{:?}: {:?}: number {i}", engine.family, factor.matrices);
            }
        }
    });
}

/// The same of words, whose sum is what must not be too large.
#[test]
fn the_largest_digits_and_words_overflow_nothing() {
    for_cases(40, |engines, draw| {
        let (rows, outputs) = (draw.within(1, 13), draw.within(1, 40));
        let (mut matrix, inputs) = match draw.one_in(2) {
            true => (draw.mxfp8(outputs, 32), 32),
            false => (draw.nvfp4(outputs, 64, 1), 64),
        };
        // The largest numbers of either sign, of bytes and of nibbles.
        let words: &[u32] =
            if inputs == 32 { &[0x7e7e_7e7e, 0xfefe_fefe, 0x7efe_fe7e] } else { &[0x7777_7777, 0xffff_ffff] };
        let one = [draw.one_of(words)];
        let words = if draw.one_in(2) { &one } else { words };
        matrix.fill_from(draw, words);
        let extremes = [32_639.0, -32_639.0];
        let one = draw.one_of(&extremes);
        let x: Vec<f32> =
            (0..rows * inputs).map(|_| if draw.one_in(2) { one } else { draw.one_of(&extremes) }).collect();
        let factor = pack(vec![matrix], inputs, PackedOrder::Stacked);
        assert!(matches!(&factor.held, Held::Packed(packed) if packed.rounded_to().is_none()));
        for engine in engines {
            for (i, (got, want)) in factor.products_beside_f64(engine, &x, Limbs::Two).into_iter().enumerate()
            {
                assert_eq!(got, want as f32, "{:?}: {:?}: number {i}", engine.family, factor.matrices);
            }
        }
    });
}

/// What words add to the error of rounded activations is small.
#[test]
fn products_with_small_floats_err_by_less_than_3e_5_of_their_size() {
    for_cases(6, |engines, draw| {
        let [rows, outputs, inputs] = if cfg!(miri) { [2, 32, 512] } else { [8, 64, 512] };
        let matrix = match draw.one_in(2) {
            true => draw.normal_mxfp8(outputs, inputs),
            false => draw.nvfp4(outputs, inputs, 24),
        };
        let x: Vec<f32> = (0..rows * inputs).map(|_| draw.normal()).collect();
        let factor = pack(vec![matrix], inputs, PackedOrder::Stacked);
        for engine in engines {
            let share = factor.error(engine, &x, Limbs::Two);
            assert!(share < 3e-5, "{:?}: {:?}: {share:e}", engine.family, factor.matrices);
        }
    });
}

/// Scales of nvfp4 that are near each other lose nothing; where they are not, as where numbers of mxfp8 are not, it says so.
#[test]
fn words_that_are_not_the_numbers_say_so() {
    for_cases(40, |_, draw| {
        let (rows, inputs) = (draw.within(1, 70), 64 * draw.within(1, 4));
        let rounded_to = |matrix| match pack(vec![matrix], inputs, PackedOrder::Stacked).held {
            Held::Packed(packed) => (packed.layout.floats, packed.rounded_to()),
            Held::Dense(_) => (false, None),
        };
        assert_eq!(rounded_to(draw.nvfp4(rows, inputs, 24)), (true, None));
        let matrix = draw.nvfp4(rows, inputs, 126);
        let off = (0..rows * inputs).any(|i| {
            let (row, column) = (i / inputs, i % inputs);
            let group = (0..64).map(|k| matrix.value(row, column / 64 * 64 + k));
            let least = matrix.value(row, column).abs();
            least > 0.0 && least < group.map(f64::abs).sum::<f64>() / 262_144.0
        });
        if off {
            assert_eq!(rounded_to(matrix), (true, Some(16)));
        }
        let mut matrix = draw.mxfp8(rows, inputs);
        assert_eq!(rounded_to(matrix.clone()), (true, Some(16)));
        matrix.fill(0x7e70_6860);
        assert_eq!(rounded_to(matrix), (true, None));
    });
}

/// Whole numbers are multiplied as limbs on some instruction sets and as words on others: sums of either are exact, and
/// what follows is the same arithmetic on all that have the registers of one processor.
#[test]
fn words_and_limbs_give_the_same_bits() {
    for_cases(60, |engines, draw| {
        let (width, group_size) = (draw.one_of(&BITS), draw.one_of(&[32, 64, 128]));
        let (rows, outputs, inputs) =
            (draw.within(1, 40), draw.within(1, 70), group_size * draw.within(1, 9));
        let matrix = match draw.below(6) {
            0 => draw.mxfp8(outputs, inputs),
            1 => draw.nvfp4(outputs, inputs, 126),
            _ => draw.affine(outputs, inputs, width, group_size),
        };
        let factor = pack(vec![matrix], inputs, PackedOrder::Stacked);
        let x: Vec<f32> = (0..rows * inputs).map(|_| draw.number()).collect();
        let mut known: Vec<(&str, Vec<u32>)> = Vec::new();
        for engine in engines {
            let kind = engine.family.name().get(..3).unwrap_or_default();
            let found = bits(&factor.products(engine, &x, Limbs::Two));
            match known.iter().find(|(known, _)| *known == kind) {
                Some((_, known)) => assert_eq!(&found, known, "{:?}: {:?}", engine.family, factor.matrices),
                None => known.push((kind, found)),
            }
        }
    });
}

#[test]
fn rows_of_nothing_and_of_next_to_nothing_stay_finite() {
    for_cases(60, |engines, draw| {
        let mut case = draw.projection();
        let tiny = draw.one_of(&[0.0, 1e-45, 1e-40, 1e-38, 1e-30]);
        case.x.iter_mut().for_each(|x| *x *= tiny);
        for engine in engines {
            let got = case.run(engine, 0..case.rows);
            assert!(got.iter().all(|x| x.is_finite()), "{} {tiny:e}: {got:?}", case.describe(engine));
        }
    });
}

/// An f16 that a kernel can't widen doesn't hide what it is.
#[test]
fn weights_that_are_no_numbers_reach_the_result() {
    for_cases(40, |engines, draw| {
        let (inputs, outputs) = (32 * draw.within(1, 5), draw.within(2, 40));
        let (kind, bad) = (draw.below(3), draw.below(outputs));
        let mut matrix = draw.dense(outputs, inputs, kind);
        matrix.spoil(bad * inputs + draw.below(inputs), draw.one_of(&[f32::NAN, f32::INFINITY]));
        let x = vec![1.0; inputs];
        let factor = pack(vec![matrix.clone()], inputs, PackedOrder::Stacked);
        for engine in engines {
            for (output, got) in factor.products(engine, &x, Limbs::Two).into_iter().enumerate() {
                assert_eq!(got.is_finite(), output != bad, "{:?}: {matrix:?}: {output}", engine.family);
            }
        }
    });
}

/// Dense matrices as `fast` has them, and rows with numbers far from zero.
fn rounded_case(engine: &Engine, draw: &mut Draw) -> Case {
    let inputs = 32 * draw.one_of(&[1, 2, 3, 6, 12, 20]);
    let (rows, outputs, kind) = (draw.within(1, 40), draw.within(1, 70), draw.below(3));
    let matrix = draw.dense(outputs, inputs, kind);
    let times = (!draw.one_in(3)).then(|| draw.one_of(&[0.1, 2.0, 3.5, 1e9]));
    let far = if draw.one_in(3) { draw.one_of(&[-3.0, 0.5, 40.0]) } else { 0.0 };
    Case {
        x: (0..rows * inputs).map(|_| draw.normal() + far).collect(),
        norm: draw.one_in(3).then(|| draw.numbers(inputs)),
        rule: Rule { times, rows: (0..rows).map(|_| draw.one_in(4)).collect() },
        residual: Vec::new(),
        inputs,
        rows,
        factors: vec![pack_as(vec![matrix], inputs, PackedOrder::Stacked, engine.nearest())],
        kind: Kind::Store,
    }
}

impl Case {
    /// A row times an output's weights, and how far a kernel may be from that if it rounds both.
    fn rounded_product(&self, row: usize, output: usize) -> (f64, f64) {
        let (matrix, Held::Packed(packed)) = (&self.factors[0].matrices[0], &self.factors[0].held) else {
            unreachable!("{} inputs make whole groups", self.inputs)
        };
        let x = &self.x[row * self.inputs..(row + 1) * self.inputs];
        let x = normed(x, self.norm.as_deref().map(|weight| (weight, EPS)));
        let one_limb = self.rule.one_limb(row, &x);
        let ends = |x: &[f64]| x.iter().fold((f64::MAX, f64::MIN), |(a, b), &x| (a.min(x), b.max(x)));
        let (mut sum, mut most) = (0.0, 1e-30);
        for (group, x) in x.chunks(packed.layout.group_size).enumerate() {
            let first = group * packed.layout.group_size;
            let w: Vec<f64> = (0..x.len()).map(|k| matrix.value(output, first + k)).collect();
            let ((x_least, x_most), (w_least, w_most)) = (ends(x), ends(&w));
            let largest = x_most.max(-x_least);
            // A step of a bf16, and what an f32 adds where its number is far above the steps.
            let ([x_range, w_range], [one, two]) = if packed.layout.signed {
                ([x_most - x_least, w_most.max(-w_least) / 127.0], [127.0, 16_383.0])
            } else {
                ([largest, (w_most.max(0.0) - w_least.min(0.0)) / 255.0], [127.0, 32_639.0])
            };
            let limit = if largest <= one_limb * (1.0 + 1e-5) { one } else { two };
            let (x_off, w_off) = (0.502 * x_range / limit + 1e-6 * largest, 0.506 * w_range);
            for (x, w) in x.iter().zip(&w) {
                sum += x * w;
                most += x_off * (w.abs() + w_off) + w_off * x.abs() + 4e-6 * largest * (w.abs() + w_off);
            }
        }
        (sum, most)
    }
}

#[test]
fn a_product_with_rounded_weights_is_off_by_what_rounding_takes() {
    for_cases(60, |engines, draw| {
        for engine in engines {
            let Fit::Nearest(_) = engine.nearest() else { continue };
            let case = rounded_case(engine, draw);
            let outputs = case.width();
            let naive: Vec<(f64, f64)> =
                (0..case.rows * outputs).map(|i| case.rounded_product(i / outputs, i % outputs)).collect();
            let whole = case.run(engine, 0..case.rows);
            assert_near(&whole, &naive, || case.describe(engine));
            let first = draw.below(case.rows);
            let range = first..draw.within(first + 1, case.rows);
            let same = &whole[range.start * outputs..range.end * outputs];
            assert_eq!(bits(&case.run(engine, range)), bits(same), "{}", case.describe(engine));
        }
    });
}

/// Bytes of seven bits at either end, in one limb and in two, times weights at either end: a sum that had no room would be off
/// by thousands.
#[test]
fn the_largest_sevens_and_weights_overflow_nothing() {
    for_cases(60, |engines, draw| {
        let inputs = 128 * draw.within(3, 5);
        let (rows, outputs) = (draw.within(1, 13), draw.within(1, 40));
        let mut matrix = draw.dense(outputs, inputs, 0);
        let ends = [127.0, -127.0];
        let (one, mixed) = (draw.one_of(&ends), draw.one_in(2));
        for i in 0..outputs * inputs {
            matrix.spoil(i, if mixed && i % inputs % 32 > 0 { draw.one_of(&ends) } else { one });
        }
        let (most, two) = draw.one_of(&[(127.0, false), (16_383.0, true)]);
        let numbers = [0.0, most, most, if two { 127.0 } else { 0.0 }, if two { 16_256.0 } else { most }];
        let one = draw.one_of(&numbers);
        let mut x: Vec<f32> =
            (0..rows * inputs).map(|_| if draw.one_in(2) { one } else { draw.one_of(&numbers) }).collect();
        x.chunks_exact_mut(32).for_each(|x| (x[0], x[1]) = (0.0, most));
        let short = vec![two; rows];
        for engine in engines {
            let Fit::Nearest(Nearest::SignedBytes) = engine.nearest() else { continue };
            let factor = pack_as(vec![matrix.clone()], inputs, PackedOrder::Stacked, engine.nearest());
            let limbs = Limbs::TwoAbove { times: 1e9, rows: &short };
            for (i, (got, want)) in factor.products_beside_f64(engine, &x, limbs).into_iter().enumerate() {
                let far = (f64::from(got) - want).abs();
                assert!(
                    far <= 1e-6 * f64::from(most) * 127.0 * inputs as f64,
                    "number {i}: {got}, not {want}"
                );
            }
        }
    });
}

#[test]
fn a_row_beside_rounded_weights_that_is_no_number_stays_alone() {
    for_cases(40, |engines, draw| {
        for engine in engines {
            let Fit::Nearest(_) = engine.nearest() else { continue };
            let mut case = rounded_case(engine, draw);
            let clean = case.run(engine, 0..case.rows);
            let row = draw.below(case.rows);
            case.x[row * case.inputs + draw.below(case.inputs)] =
                draw.one_of(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
            let broken = case.run(engine, 0..case.rows);
            let rows = clean.chunks_exact(case.width()).zip(broken.chunks_exact(case.width()));
            for (i, (clean, broken)) in rows.enumerate() {
                if i == row {
                    assert!(!broken.iter().any(|x| x.is_finite()), "{}: row {row}", case.describe(engine));
                } else {
                    assert_eq!(bits(clean), bits(broken), "{}: row {i}", case.describe(engine));
                }
            }
            // Numbers that are alike, that are next to nothing, and that span more than an f32 holds.
            for numbers in [[0.0, 0.0], [-7.0, -7.0], [1e-42, 1e-45], [1e38, 1.000_000_1e38], [-2e38, 2e38]] {
                case.norm = None;
                case.x.iter_mut().for_each(|x| *x = draw.one_of(&numbers) * 1e-3);
                let out = case.run(engine, 0..case.rows);
                assert!(out.iter().all(|x| x.is_finite()), "{}: {numbers:?}", case.describe(engine));
                assert!(numbers != [0.0, 0.0] || out.iter().all(|&x| x == 0.0), "{}", case.describe(engine));
            }
        }
    });
}

/// Of rows with as many inputs as small encoders have.
#[test]
fn products_with_rounded_weights_err_by_a_hundredth_of_their_size() {
    for_cases(4, |engines, draw| {
        let (rows, outputs, inputs) = (8, 64, draw.one_of(&[384, 768]));
        let mut matrix = draw.dense(outputs, inputs, 0);
        (0..outputs * inputs).for_each(|i| matrix.spoil(i, draw.normal()));
        let x: Vec<f32> = (0..rows * inputs).map(|_| draw.normal()).collect();
        let none = vec![false; rows];
        for engine in engines {
            let Fit::Nearest(_) = engine.nearest() else { continue };
            let factor = pack_as(vec![matrix.clone()], inputs, PackedOrder::Stacked, engine.nearest());
            let share = factor.error(engine, &x, Limbs::TwoAbove { times: 16.0, rows: &none });
            assert!(share < 0.0125, "{:?}: {share}", engine.family);
        }
    });
}
