//! Hidden states beside those that they should be: what is collected over texts, and what it comes to.

use crate::vectors::cosine;

use super::golden::Golden;
use super::measure::{larger, max_abs, median, project, relative_error, smaller};
use super::{Check, Layer, LayerComparison, Question, Tolerance};

/// Adds what the states of one text differ by from the golden file's, each to its layer.
pub(super) fn compare_states(golden: &Golden, text: usize, found: &[Vec<f32>], layers: &mut [Differences]) {
    let width = golden.facts.model.hidden_size;
    let directions = &golden.directions;
    for ((found, golden), layer) in found.iter().zip(golden.states(text)).zip(layers) {
        for (place, &token) in golden.rows.iter().enumerate() {
            let found = &found[token * width..(token + 1) * width];
            let expected = &golden.whole[place * width..(place + 1) * width];
            let cosine = cosine(found, expected);
            layer.cosine = Some(layer.cosine.map_or(cosine, |lowest| smaller(lowest, cosine)));
            layer.max_abs = larger(layer.max_abs, max_abs(found, expected));
            layer.add(relative_error(found, expected), text, token);
        }
        let count = directions.len() / width;
        if golden.sketch.is_empty() {
            continue;
        }
        let projected = project(found, directions, width);
        let tokens = projected.chunks_exact(count).zip(golden.sketch.chunks_exact(count)).enumerate();
        for (token, (found, expected)) in tokens.filter(|(token, _)| !golden.rows.contains(token)) {
            layer.add(relative_error(found, expected), text, token);
        }
    }
}

/// What the tokens' states after one layer differ by from the reference's.
#[derive(Debug, Clone, Default)]
pub(super) struct Differences {
    cosine: Option<f64>,
    max_abs: f64,
    errors: Vec<f64>,
    worst: Worst,
    /// Of the worst text.
    token: usize,
}

impl Differences {
    pub(super) fn add(&mut self, error: f64, text: usize, token: usize) {
        self.errors.push(error);
        if self.worst.add(error, text) {
            self.token = token;
        }
    }

    pub(super) fn report(mut self, layer: Layer, layers: usize, tolerance: &Tolerance) -> LayerComparison {
        let (error, median_error) = (self.worst.error, median(&mut self.errors));
        let allowed = (tolerance.median_error(layer, layers), tolerance.error(layer, layers));
        let beyond = self.errors.iter().filter(|&&error| is_beyond(error, allowed.1)).count();
        LayerComparison {
            layer,
            cosine: self.cosine.unwrap_or(f64::NAN),
            max_abs: self.max_abs,
            error,
            median_error,
            allowed_error: allowed.1,
            allowed_median_error: allowed.0,
            beyond,
            text: self.worst.text.unwrap_or_default(),
            token: self.token,
            passed: beyond as f64 <= tolerance.strays * self.errors.len() as f64 && median_error <= allowed.0,
        }
    }
}

/// The largest error, and whose it is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Worst {
    pub(super) error: f64,
    pub(super) text: Option<usize>,
}

impl Worst {
    /// Whether it is the largest so far.
    pub(super) fn add(&mut self, error: f64, text: usize) -> bool {
        let largest = larger(self.error, error);
        let grows = self.text.is_none() || largest.to_bits() != self.error.to_bits();
        if grows {
            *self = Self { error: largest, text: Some(text) };
        }
        grows
    }
}

impl Check {
    /// `worst` has an entry for each state.
    pub(super) fn of(question: Question, worst: &[Worst], tolerance: f64) -> Self {
        let beyond = worst.iter().position(|worst| is_beyond(worst.error, tolerance));
        let mut all = Worst::default();
        for each in worst {
            if let Some(text) = each.text {
                all.add(each.error, text);
            }
        }
        Self {
            question,
            error: all.error,
            tolerance,
            first_divergent_layer: beyond.map(|state| Layer::of_state(state, worst.len())),
            text: all.text.filter(|_| all.error != 0.0),
            passed: beyond.is_none(),
        }
    }
}

/// What is not a number is beyond any tolerance.
fn is_beyond(error: f64, tolerance: f64) -> bool {
    error.is_nan() || error > tolerance
}
