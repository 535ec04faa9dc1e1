//! How far numbers are from those that they should be.

use crate::vectors::dot;

/// The larger one; not a number if either isn't.
pub(super) fn larger(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

/// The smaller one; not a number if either isn't.
pub(super) fn smaller(a: f64, b: f64) -> f64 {
    if a.is_nan() || a < b { a } else { b }
}

/// Length of a vector.
pub(super) fn length(x: &[f32]) -> f64 {
    dot(x, x).sqrt()
}

/// Largest difference of a component.
pub(super) fn max_abs(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).abs()).fold(0.0, larger)
}

/// Length of the difference over length of `expected`. Vectors of the same bits differ by 0, others by more.
pub(super) fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    if found.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits()) {
        return 0.0;
    }
    let squares = found.iter().zip(expected).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2));
    // Zeros of either sign differ in their bits alone.
    larger(squares.sum::<f64>().sqrt() / length(expected), f64::MIN_POSITIVE)
}

/// Products of each row of `x` `[.., D]` with each direction `[K, D]`: `[.., K]`.
pub(super) fn project(x: &[f32], directions: &[f32], width: usize) -> Vec<f32> {
    let rows = x.chunks_exact(width);
    rows.flat_map(|row| directions.chunks_exact(width).map(move |direction| dot(row, direction) as f32))
        .collect()
}

/// The middle one; not a number if any isn't.
pub(super) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.last() {
        Some(last) if last.is_nan() => f64::NAN,
        _ => values.get(values.len() / 2).copied().unwrap_or(0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_number_stays_so() {
        let nan = f64::NAN;
        for pair in [[nan, 1.0], [1.0, nan]] {
            assert!(larger(pair[0], pair[1]).is_nan() && smaller(pair[0], pair[1]).is_nan());
        }
        assert!(relative_error(&[f32::NAN, 1.0], &[1.0, 1.0]).is_nan());
        assert!(max_abs(&[0.0, f32::NAN, 2.0], &[0.0; 3]).is_nan());
        assert!(median(&mut [nan, 1.0, 2.0]).is_nan());
    }

    #[test]
    fn only_the_same_bits_have_no_error() {
        assert_eq!(relative_error(&[0.5, 0.0], &[0.5, 0.0]), 0.0);
        assert!(relative_error(&[0.5, -0.0], &[0.5, 0.0]) > 0.0);
        assert!((relative_error(&[3.0, 5.0], &[3.0, 4.0]) - 0.2).abs() < 1e-12);
        assert_eq!(relative_error(&[1.0], &[0.0]), f64::INFINITY);
    }

    #[test]
    fn projections_are_linear() {
        let directions = [0.5, 0.5, 0.5, -0.5];
        assert_eq!(project(&[1.0, 3.0, -2.0, 0.0], &directions, 2), [2.0, -1.0, -1.0, -1.0]);
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut []), 0.0);
    }
}
