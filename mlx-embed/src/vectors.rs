//! Functions on vectors: comparing them, finding the nearest, storing them in fewer bytes.
//!
//! ```
//! use mlx_embed::{Embedding, vectors};
//!
//! let documents = [Embedding::new(vec![0.6, 0.8]), Embedding::new(vec![1.0, 0.0]), Embedding::new(vec![0.0, 1.0])];
//! let query = Embedding::new(vec![0.0, 1.0]);
//! assert_eq!(vectors::top_k(&query, &documents, 2), [(2, 1.0), (0, 0.8)]);
//! ```
//!
//! Products are summed in f64, so that rounding does not grow with the length of a vector.

use half::f16;

use crate::options::Embedding;

/// The dot product of two vectors, `sum(a[i] * b[i])`. For vectors of length 1, which most models give, it is the
/// cosine.
///
/// # Panics
/// When the vectors differ in the number of their components.
pub fn dot(a: impl AsRef<[f32]>, b: impl AsRef<[f32]>) -> f64 {
    let (a, b) = (a.as_ref(), b.as_ref());
    assert_eq!(a.len(), b.len(), "vectors of different models, or of different dims, can't be compared");
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

/// The cosine of the angle between two vectors, `dot(a, b) / (|a| * |b|)`: from -1 to 1. NaN if a vector is all zeros.
///
/// # Panics
/// As [`dot`].
pub fn cosine(a: impl AsRef<[f32]>, b: impl AsRef<[f32]>) -> f64 {
    let (a, b) = (a.as_ref(), b.as_ref());
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// The `k` nearest vectors: those with the largest [`dot`] product with `query`, the largest first. Each comes as its
/// place, counted from 0, and its product.
///
/// There are fewer than `k` where there are no more vectors. Of equal products the first comes first, and NaN comes
/// last.
///
/// It computes the product of every vector, which takes milliseconds for 100,000. For millions use an index.
///
/// # Panics
/// As [`dot`].
pub fn top_k<V: AsRef<[f32]>>(
    query: impl AsRef<[f32]>,
    vectors: impl IntoIterator<Item = V>,
    k: usize,
) -> Vec<(usize, f32)> {
    let query = query.as_ref();
    let product = |(place, vector): (usize, V)| (place, dot(query, vector) as f32);
    let mut found: Vec<(usize, f32)> = vectors.into_iter().enumerate().map(product).collect();
    let key = |product: f32| if product.is_nan() { f32::NEG_INFINITY } else { product };
    let order = |a: &(usize, f32), b: &(usize, f32)| key(b.1).total_cmp(&key(a.1)).then(a.0.cmp(&b.0));
    if k < found.len() {
        if k > 0 {
            found.select_nth_unstable_by(k - 1, order);
        }
        found.truncate(k);
    }
    found.sort_unstable_by(order);
    found
}

/// All vectors in one, f32 `[embeddings, dims]` in row-major order, as matrix libraries and databases take them.
pub fn flat(embeddings: &[Embedding]) -> Vec<f32> {
    embeddings.iter().flat_map(|embedding| &embedding.vector).copied().collect()
}

/// The vector in half the memory: each number as the nearest f16. Of a vector of length 1, a number above 2^-14 changes
/// by at most 2^-11 of itself, and a smaller one by at most 2^-25.
pub fn to_f16(vector: impl AsRef<[f32]>) -> Vec<f16> {
    vector.as_ref().iter().map(|&number| f16::from_f32(number)).collect()
}

/// A vector in a quarter of the memory: whole numbers of 8 bits, and a scale. [`to_int8`] makes it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Int8Vector {
    /// The numbers divided by the scale and rounded: from -127 to 127.
    pub values: Vec<i8>,
    /// `values[i] * scale` is the vector's number, off by at most half a scale.
    pub scale: f32,
}

impl Int8Vector {
    /// The dot product with another vector, as [`dot`] has it.
    ///
    /// # Panics
    /// As [`dot`].
    pub fn dot(&self, other: &Self) -> f64 {
        assert_eq!(
            self.values.len(),
            other.values.len(),
            "vectors of different models, or of different dims, can't be compared"
        );
        let products = self.values.iter().zip(&other.values).map(|(&a, &b)| i64::from(a) * i64::from(b));
        products.sum::<i64>() as f64 * f64::from(self.scale) * f64::from(other.scale)
    }
}

/// The vector in 8 bits a number. The scale is its largest absolute value divided by 127, so nothing has to be
/// calibrated. Numbers that are not finite count as 0.
///
/// ```
/// use mlx_embed::vectors::{dot, to_int8};
///
/// let (a, b) = ([0.6, 0.8], [0.8, 0.6]);
/// assert!((to_int8(a).dot(&to_int8(b)) - dot(a, b)).abs() < 0.01);
/// ```
pub fn to_int8(vector: impl AsRef<[f32]>) -> Int8Vector {
    let vector = vector.as_ref();
    let finite = |&number: &f32| if number.is_finite() { number } else { 0.0 };
    let largest = vector.iter().map(finite).fold(0.0_f32, |largest, number| largest.max(number.abs()));
    let scale = largest / 127.0;
    // Of numbers so small that the scale vanishes nothing is left.
    let inverse = if scale.is_normal() { 1.0 / scale } else { 0.0 };
    let values = vector.iter().map(|number| (finite(number) * inverse).round_ties_even() as i8).collect();
    Int8Vector { values, scale }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cosines_do_not_depend_on_lengths() {
        assert_eq!(cosine([3.0, 0.0], [5.0, 0.0]), 1.0);
        assert_eq!(cosine([3.0, 0.0], [0.0, 0.1]), 0.0);
        assert_eq!(cosine([1e-20, 0.0], [-1e20, 0.0]), -1.0);
        assert!(cosine([0.0], [1.0]).is_nan());
    }

    #[test]
    #[should_panic(expected = "different dims")]
    fn vectors_of_different_widths_are_not_compared() {
        dot([1.0], [1.0, 2.0]);
    }

    #[test]
    fn fewer_than_k_are_all() {
        assert_eq!(top_k([1.0], [[2.0], [3.0]], 9), [(1, 3.0), (0, 2.0)]);
        assert_eq!(top_k([1.0], [[2.0], [3.0]], 0), []);
        assert_eq!(top_k([1.0], Vec::<Vec<f32>>::new(), 3), []);
    }

    #[test]
    fn what_is_no_number_comes_last() {
        let found = top_k([1.0], [[f32::NAN], [-1.0], [f32::NEG_INFINITY], [2.0]], 4);
        assert_eq!(found.iter().map(|(place, _)| *place).collect::<Vec<_>>(), [3, 1, 0, 2]);
    }

    #[test]
    fn a_matrix_has_a_row_a_vector() {
        assert_eq!(
            flat(&[Embedding::new(vec![1.0, 2.0]), Embedding::new(vec![3.0, 4.0])]),
            [1.0, 2.0, 3.0, 4.0]
        );
    }

    #[test]
    fn eight_bits_of_what_has_no_numbers_are_none() {
        assert_eq!(to_int8([0.0, f32::NAN, f32::INFINITY]).values, [0, 0, 0]);
        assert_eq!(to_int8([1e-40, -1e-40]).values, [0, 0]);
        assert!(to_int8([]).values.is_empty());
    }

    proptest! {
        #[test]
        fn the_best_k_are_the_first_k_of_all(
            numbers in prop::collection::vec(-4_i8..5, 0..60),
            k in 0_usize..70,
        ) {
            let vectors: Vec<[f32; 1]> = numbers.iter().map(|&number| [f32::from(number)]).collect();
            let mut all: Vec<(usize, f32)> = vectors.iter().map(|vector| vector[0]).enumerate().collect();
            all.sort_by(|a, b| b.1.total_cmp(&a.1));
            all.truncate(k);
            prop_assert_eq!(top_k([1.0], &vectors, k), all);
        }

        #[test]
        fn eight_bits_are_off_by_half_a_step(numbers in prop::collection::vec(-1e30_f32..1e30, 1..50)) {
            let Int8Vector { values, scale } = to_int8(&numbers);
            for (&number, &value) in numbers.iter().zip(&values) {
                prop_assert!((f32::from(value) * scale - number).abs() <= scale * 0.5001);
            }
            prop_assert!(values.iter().any(|value| value.abs() == 127) || scale == 0.0);
        }

        #[test]
        fn sixteen_bits_are_close(number in -1.0_f32..1.0) {
            let most = (number.abs() * 2_f32.powi(-11)).max(2_f32.powi(-25));
            prop_assert!((to_f16([number])[0].to_f32() - number).abs() <= most);
        }
    }
}
