//! Rotary position embedding with the frequencies that the config asks for.
//!
//! The formulas are those of mlx-lm's `rope_utils`, which is the reference for MLX checkpoints.

use std::f64::consts::TAU;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::checkpoint::RopeScaling;
use crate::checkpoint::rope::{QueryGrowth, RopeSpec};

/// The angles of one rotary embedding.
#[derive(Debug)]
pub(super) struct Rope {
    dims: usize,
    traditional: bool,
    frequencies: Frequencies,
    /// Factor on positions.
    position_scale: f32,
    /// Factor on the rotated vectors.
    magnitude: f32,
    query_growth: Option<QueryGrowth>,
    angles: AngleCache,
    query_angles: AngleCache,
}

#[derive(Debug)]
pub(super) enum Frequencies {
    Base(f32),
    /// The base for a batch of `L` tokens is `base * (factor * L / longest - (factor - 1))^(E / (E - 2))`, from
    /// `L = longest` on.
    Dynamic {
        base: f64,
        factor: f64,
        longest: usize,
    },
    /// The reciprocals of the frequencies, `[E / 2]`, where they don't follow from a base.
    Periods(Vec<f32>),
}

impl Rope {
    pub(super) fn new(spec: &RopeSpec) -> Self {
        let base = f64::from(spec.base);
        let dims = spec.dims as f64;
        // base^(2i / E), the reciprocal of the i-th frequency.
        let periods = |count: usize| (0..count).map(move |i| base.powf(2.0 * i as f64 / dims));
        let half = spec.dims / 2;

        let mut position_scale = 1.0;
        let mut magnitude = 1.0;
        let frequencies = match &spec.scaling {
            RopeScaling::None => Frequencies::Base(spec.base),
            RopeScaling::Linear { factor } => {
                position_scale = 1.0 / factor;
                Frequencies::Base(spec.base)
            }
            RopeScaling::Dynamic { factor } => {
                Frequencies::Dynamic { base, factor: f64::from(*factor), longest: spec.longest }
            }
            RopeScaling::Llama3 { .. } => {
                Frequencies::periods(periods(half).map(|period| llama3(period, &spec.scaling)))
            }
            RopeScaling::Yarn { factor, attention_factor, mscale, mscale_all_dim, .. } => {
                magnitude = match attention_factor {
                    Some(attention_factor) => f64::from(*attention_factor),
                    None => yarn_mscale(*factor, *mscale) / yarn_mscale(*factor, *mscale_all_dim),
                };
                let ramp = yarn_ramp(spec);
                Frequencies::periods(periods(half).enumerate().map(|(i, period)| {
                    let stretched = f64::from(*factor) * period;
                    let keep = 1.0 - ramp(i);
                    stretched * period / (stretched * keep + period * (1.0 - keep))
                }))
            }
            // Longer texts than these factors are for are refused when the model is loaded.
            RopeScaling::LongRope { short_factor, attention_factor, .. } => {
                magnitude = f64::from(*attention_factor);
                let factor = |i: usize| f64::from(*short_factor.get(i).unwrap_or(&short_factor[0]));
                Frequencies::periods(periods(half).enumerate().map(|(i, period)| factor(i) * period))
            }
            RopeScaling::Proportional { partial_rotary_factor, factor } => {
                let rotated = (dims * f64::from(*partial_rotary_factor)) as usize;
                let rotating = periods(rotated.div_ceil(2)).map(|period| f64::from(*factor) * period);
                let still = std::iter::repeat_n(f64::INFINITY, (spec.dims - rotated) / 2);
                Frequencies::periods(rotating.chain(still))
            }
        };
        Self {
            dims: spec.dims,
            traditional: spec.traditional,
            frequencies,
            position_scale,
            magnitude: magnitude as f32,
            query_growth: spec.query_growth,
            angles: AngleCache::default(),
            query_angles: AngleCache::default(),
        }
    }

    pub(super) fn dims(&self) -> usize {
        self.dims
    }

    pub(super) fn frequencies(&self) -> &Frequencies {
        &self.frequencies
    }

    pub(super) fn position_scale(&self) -> f32 {
        self.position_scale
    }

    pub(super) fn magnitude(&self) -> f32 {
        self.magnitude
    }

    /// The base for a batch whose longest text has `tokens`.
    pub(super) fn base(&self, tokens: usize) -> f64 {
        match self.frequencies {
            Frequencies::Base(base) => f64::from(base),
            Frequencies::Dynamic { base, factor, longest } => {
                let growth = factor * tokens.max(longest) as f64 / longest as f64 - (factor - 1.0);
                let dims = self.dims as f64;
                base * growth.powf(dims / (dims - 2.0))
            }
            Frequencies::Periods(_) => f64::NAN,
        }
    }

    /// Whether neighbours rotate together rather than halves.
    pub(super) fn traditional(&self) -> bool {
        self.traditional
    }

    /// What queries and keys are multiplied with, for a batch whose longest text has `tokens`: for each position the
    /// cosines of its `E / 2` angles, then the sines, each times the magnitude. f32 `[at least tokens, 2, E / 2]`.
    pub(super) fn angles(&self, tokens: usize) -> Arc<[f32]> {
        // Every layer asks, and what it asks for is nearly always there.
        let base = self.base(tokens);
        self.angles.get(base, tokens * self.dims, || self.make_angles(base, tokens.next_power_of_two()))
    }

    /// The same for queries, which may grow with their position.
    pub(super) fn query_angles(&self, tokens: usize) -> Arc<[f32]> {
        let Some(growth) = self.query_growth else { return self.angles(tokens) };
        self.query_angles.get(self.base(tokens), tokens * self.dims, || {
            let mut angles = self.angles(tokens).to_vec();
            for (position, angles) in angles.chunks_exact_mut(self.dims).enumerate() {
                angles.iter_mut().for_each(|x| *x *= growth.at(position));
            }
            angles
        })
    }

    /// Whether queries are multiplied with more than keys.
    pub(super) fn grows(&self) -> bool {
        self.query_growth.is_some()
    }

    /// What queries are multiplied with at these positions, beside the rotation; `None` where it is 1.
    pub(super) fn query_growth(&self, positions: Range<usize>) -> Option<Vec<f32>> {
        self.query_growth.map(|growth| positions.map(|position| growth.at(position)).collect())
    }

    fn make_angles(&self, base: f64, positions: usize) -> Vec<f32> {
        let half = self.dims / 2;
        let frequencies: Vec<f32> = match &self.frequencies {
            Frequencies::Periods(periods) => periods.iter().map(|period| period.recip()).collect(),
            Frequencies::Base(_) | Frequencies::Dynamic { .. } => {
                let dims = self.dims as f64;
                (0..half).map(|i| base.powf(-2.0 * i as f64 / dims) as f32).collect()
            }
        };
        let magnitude = self.magnitude;
        let mut angles = Vec::with_capacity(positions * 2 * half);
        for position in 0..positions {
            // In f32, as the reference and MLX compute it.
            let position = position as f32 * self.position_scale;
            angles.extend(frequencies.iter().map(|frequency| magnitude * (position * frequency).cos()));
            angles.extend(frequencies.iter().map(|frequency| magnitude * (position * frequency).sin()));
        }
        angles
    }
}

/// Angles that are kept from one layer and batch to the next: those of the last base, for as many positions as were
/// asked for so far.
#[derive(Debug, Default)]
struct AngleCache(Mutex<Option<(u64, Arc<[f32]>)>>);

impl AngleCache {
    /// At least `count` numbers for `base`.
    fn get(&self, base: f64, count: usize, make: impl FnOnce() -> Vec<f32>) -> Arc<[f32]> {
        // The cached value is whole whatever happened to another user of it.
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*cached {
            // By its bits: frequencies without a base have NaN for it.
            Some((of, angles)) if *of == base.to_bits() && angles.len() >= count => Arc::clone(angles),
            _ => {
                let angles: Arc<[f32]> = make().into();
                *cached = Some((base.to_bits(), Arc::clone(&angles)));
                angles
            }
        }
    }
}

impl Frequencies {
    fn periods(periods: impl Iterator<Item = f64>) -> Self {
        Self::Periods(periods.map(|period| period as f32).collect())
    }
}

fn llama3(period: f64, scaling: &RopeScaling) -> f64 {
    let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } =
        scaling
    else {
        return period;
    };
    let [factor, low, high, original] =
        [factor, low_freq_factor, high_freq_factor, original_max_position_embeddings]
            .map(|value| f64::from(*value));
    let wavelength = TAU * period;
    if wavelength > original / low {
        period * factor
    } else if wavelength > original / high {
        let smooth = (original / wavelength - low) / (high - low);
        period / ((1.0 - smooth) / factor + smooth)
    } else {
        period
    }
}

fn yarn_mscale(factor: f32, mscale: f32) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * f64::from(mscale) * f64::from(factor).ln() + 1.0 }
}

/// How far the i-th frequency is stretched: 0 not at all, 1 in full.
fn yarn_ramp(spec: &RopeSpec) -> impl Fn(usize) -> f64 + use<> {
    let dims = spec.dims as f64;
    let (low, high) = match spec.scaling {
        RopeScaling::Yarn { original_max_position_embeddings, beta_fast, beta_slow, truncate, .. } => {
            let base = f64::from(spec.base);
            let dim_of = |rotations: f32| {
                dims * (f64::from(original_max_position_embeddings) / (f64::from(rotations) * TAU)).ln()
                    / (2.0 * base.ln())
            };
            let (low, high) = (dim_of(beta_fast), dim_of(beta_slow));
            let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
            (low.max(0.0), high.min(dims - 1.0))
        }
        _ => (0.0, dims),
    };
    // As the reference does, so that the ramp has a slope.
    let high = if low == high { high + 0.001 } else { high };
    move |i| ((i as f64 - low) / (high - low)).clamp(0.0, 1.0)
}
