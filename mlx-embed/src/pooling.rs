//! Hidden states to one vector a text.

use serde::{Deserialize, Serialize};

use crate::batch::Batch;

/// How a text's hidden states become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Pooling {
    /// The last token's, which under causal attention is the only one that has seen the whole text.
    LastToken,
    /// The mean over all tokens, or over those behind the prompt where the checkpoint says so.
    Mean,
    /// The first token's.
    Cls,
    /// Of each component the largest over all tokens.
    Max,
    /// The sum over all tokens, divided by the square root of their number.
    MeanSqrtLen,
    /// The mean over all tokens, in which the n-th has the weight n.
    WeightedMean,
}

impl std::fmt::Display for Pooling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::LastToken => "last-token",
            Self::Mean => "mean",
            Self::Cls => "cls",
            Self::Max => "max",
            Self::MeanSqrtLen => "mean-sqrt-len",
            Self::WeightedMean => "weighted-mean",
        })
    }
}

/// Tokens that all texts of a batch begin with and whose hidden states are no longer in it, as a mean needs them, and
/// those in it that are left out.
#[derive(Debug, Default)]
pub(crate) struct Before {
    tokens: usize,
    /// `[D]`, or nothing without tokens.
    sums: Vec<f32>,
    /// The first tokens of each of the batch's texts, so many, are no part of what is pooled.
    left_out: usize,
}

impl Before {
    /// `hidden` is `[tokens, D]`, after the final norm.
    pub(crate) fn new(hidden: &[f32], width: usize) -> Self {
        let mut sums = vec![0.0; width];
        let rows = hidden.chunks_exact(width);
        let tokens = rows.len();
        rows.for_each(|row| add(&mut sums, row));
        Self { tokens, sums, left_out: 0 }
    }

    /// Nothing before, and so many tokens at the beginning of each text left out.
    pub(crate) fn leaving_out(tokens: usize) -> Self {
        Self { left_out: tokens, ..Self::default() }
    }

    /// How many of a text's tokens in the batch are left out, and how many the mean is over. A text of which nothing
    /// is left has a mean of zeros, as in sentence-transformers.
    fn share(&self, length: usize) -> (usize, f32) {
        let left_out = self.left_out.min(length);
        (left_out, (self.tokens + length - left_out).max(1) as f32)
    }
}

fn add(sums: &mut [f32], row: &[f32]) {
    sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
}

impl Pooling {
    /// Whether one token's hidden state is all that it needs.
    pub(crate) fn is_of_one_token(self) -> bool {
        matches!(self, Self::LastToken | Self::Cls)
    }

    /// Whether it can go on from what was kept of a prompt.
    pub(crate) fn continues(self) -> bool {
        matches!(self, Self::LastToken | Self::Mean)
    }

    /// The one row of each text that pooling needs, counted over the batch's tokens; `None` if it needs them all.
    /// The first `left_out` tokens of each text don't count.
    pub(crate) fn rows(self, batch: &Batch, left_out: usize) -> Option<Vec<u32>> {
        let row = |(start, &length): (&usize, &usize)| match self {
            Self::LastToken => (start + length.saturating_sub(1)) as u32,
            _ if left_out < length => (start + left_out) as u32,
            _ => *start as u32,
        };
        self.is_of_one_token().then(|| batch.starts.iter().zip(batch.lengths.iter()).map(row).collect())
    }

    /// One f32 vector a text, row after row, of what the batch holds of it and of what was before.
    ///
    /// # Shape
    /// `hidden` `[B, D]` if [`Pooling::rows`] named rows, else `[T, D]` as the batch lies; result `B * D` numbers.
    pub(crate) fn pool(self, hidden: Vec<f32>, batch: &Batch, before: &Before) -> Vec<f32> {
        match self {
            Self::LastToken | Self::Cls => hidden,
            Self::Mean => mean(&hidden, batch, before),
            _ => {
                let width = hidden.len() / batch.ids.len().max(1);
                let places = batch.starts.iter().zip(batch.lengths.iter());
                places
                    .flat_map(|(&start, &length)| {
                        let (left_out, _) = before.share(length);
                        self.over(
                            &hidden[(start + left_out) * width..(start + length) * width],
                            width,
                            left_out,
                        )
                    })
                    .collect()
            }
        }
    }

    /// One text's vector of all its rows that count, the first of which is its token number `first`.
    fn over(self, rows: &[f32], width: usize, first: usize) -> Vec<f32> {
        let count = (rows.len() / width).max(1) as f32;
        let mut vector = vec![if self == Self::Max { f32::NEG_INFINITY } else { 0.0 }; width];
        let mut weights = 0.0;
        for (index, row) in rows.chunks_exact(width).enumerate() {
            let weight = (first + index + 1) as f32;
            weights += weight;
            for (sum, &x) in vector.iter_mut().zip(row) {
                match self {
                    // NaN stays, to be told.
                    Self::Max => *sum = if x > *sum || x.is_nan() { x } else { *sum },
                    Self::WeightedMean => *sum += weight * x,
                    _ => *sum += x,
                }
            }
        }
        let divisor = match self {
            Self::MeanSqrtLen => count.sqrt(),
            Self::WeightedMean if weights > 0.0 => weights,
            _ => 1.0,
        };
        vector.iter_mut().for_each(|x| *x /= divisor);
        vector
    }
}

/// The mean of each text's rows.
fn mean(hidden: &[f32], batch: &Batch, before: &Before) -> Vec<f32> {
    let width = hidden.len() / batch.ids.len().max(1);
    let mut pooled = Vec::with_capacity(batch.lengths.len() * width);
    for (&start, &length) in batch.starts.iter().zip(batch.lengths.iter()) {
        // From the first token on, so that the sum's bits don't depend on where it was broken off.
        let mut sums = before.sums.clone();
        sums.resize(width, 0.0);
        let (left_out, tokens) = before.share(length);
        for row in hidden[(start + left_out) * width..(start + length) * width].chunks_exact(width) {
            add(&mut sums, row);
        }
        pooled.extend(sums.iter().map(|sum| sum / tokens));
    }
    pooled
}

/// Cuts `vector` to its first `dims` numbers and scales it to length 1: `x / max(|x|, 1e-12)`.
///
/// Cutting comes first, as Matryoshka models are trained (Kusupati et al., 2022).
pub(crate) fn finish(vector: &mut Vec<f32>, dims: Option<usize>, normalize: bool) {
    if let Some(dims) = dims {
        vector.truncate(dims);
    }
    if normalize {
        let norm = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt().max(1e-12);
        for x in vector {
            *x = (f64::from(*x) / norm) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const WIDTH: usize = 3;

    /// Hidden states of texts, `[tokens * WIDTH]` each.
    fn hidden_states() -> impl Strategy<Value = Vec<Vec<f32>>> {
        let text = (1_usize..20).prop_flat_map(|tokens| vec(-1e3_f32..1e3, tokens * WIDTH));
        vec(text, 1..6)
    }

    /// The texts' states as a batch lays them out; padding is NaN, so that whoever reads it shows.
    fn laid_out(texts: &[Vec<f32>], batch: &Batch) -> Vec<f32> {
        let mut all = vec![f32::NAN; batch.ids.len() * WIDTH];
        for (text, start) in texts.iter().zip(&batch.starts) {
            all[start * WIDTH..start * WIDTH + text.len()].copy_from_slice(text);
        }
        all
    }

    proptest! {
        #[test]
        fn a_mean_is_its_texts_own_however_the_batch_lies(texts in hidden_states()) {
            let ids: Vec<Vec<u32>> = texts.iter().map(|text| vec![1; text.len() / WIDTH]).collect();
            let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
            let (padded, packed) = (Batch::padded(&ids), Batch::packed(&ids));
            let of = |batch: &Batch| mean(&laid_out(&texts, batch), batch, &Before::default());
            prop_assert_eq!(of(&padded), of(&packed));
            for (text, mean) in texts.iter().zip(of(&packed).chunks(WIDTH)) {
                for (column, mean) in mean.iter().enumerate() {
                    let exact: f64 = text.iter().skip(column).step_by(WIDTH).map(|&x| f64::from(x)).sum();
                    let exact = exact / (text.len() / WIDTH) as f64;
                    // A sum of 20 numbers below 1000, rounded to 24 bits each time.
                    prop_assert!((f64::from(*mean) - exact).abs() < 20.0 * 1e3 / f64::from(1 << 23));
                }
            }
        }

        /// As if the rest were all there is, however the batch lies.
        #[test]
        fn tokens_that_are_left_out_leave_no_trace(texts in hidden_states(), left_out in 0_usize..22) {
            let lay = |texts: &[Vec<f32>], before: &Before| {
                let ids: Vec<Vec<u32>> = texts.iter().map(|text| vec![1; text.len() / WIDTH]).collect();
                let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
                let batch = Batch::packed(&ids);
                super::mean(&laid_out(texts, &batch), &batch, before)
            };
            let mut dirty = texts.clone();
            dirty.iter_mut().for_each(|text| {
                let end = text.len().min(left_out * WIDTH);
                text[..end].fill(f32::NAN);
            });
            let rest: Vec<Vec<f32>> =
                texts.iter().map(|text| text[text.len().min(left_out * WIDTH)..].to_vec()).collect();
            let found = lay(&dirty, &Before::leaving_out(left_out));
            for (text, found) in rest.iter().zip(found.chunks(WIDTH)) {
                let expected = match text.is_empty() {
                    true => vec![0.0; WIDTH],
                    false => lay(std::slice::from_ref(text), &Before::default()),
                };
                prop_assert_eq!(found, &expected[..]);
            }
        }

        #[test]
        fn a_mean_has_the_same_bits_wherever_a_prefix_ends(text in vec(-1e3_f32..1e3, 20 * WIDTH), at in 1_usize..20) {
            let mean = |text: &[f32], before: &Before| {
                let ids = vec![1; text.len() / WIDTH];
                let batch = Batch::packed(&[&ids]);
                mean(&laid_out(&[text.to_vec()], &batch), &batch, before)
            };
            let (before, rest) = text.split_at(at * WIDTH);
            prop_assert_eq!(mean(rest, &Before::new(before, WIDTH)), mean(&text, &Before::default()));
        }

        #[test]
        fn a_finished_vector_has_length_1_and_its_own_direction(
            vector in vec(-1e18_f32..1e18, 1..64), dims in 1_usize..64,
        ) {
            let dims = dims.min(vector.len());
            let mut finished = vector.clone();
            finish(&mut finished, Some(dims), true);
            let norm = |x: &[f32]| x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            prop_assert_eq!(finished.len(), dims);
            prop_assume!(norm(&vector[..dims]) > 1e-12);
            prop_assert!((norm(&finished) - 1.0).abs() < 1e-6);
            for (x, before) in finished.iter().zip(&vector) {
                let expected = f64::from(*before) / norm(&vector[..dims]);
                prop_assert!((f64::from(*x) - expected).abs() <= 1e-7);
            }
        }
    }

    #[test]
    fn cutting_comes_before_normalising() {
        let mut vector = vec![3.0, 4.0, 12.0];
        finish(&mut vector, Some(2), true);
        approx::assert_relative_eq!(vector[..], [0.6, 0.8][..], max_relative = 1e-6);
    }

    #[test]
    fn a_zero_vector_stays_finite() {
        let mut vector = vec![0.0; 4];
        finish(&mut vector, None, true);
        assert_eq!(vector, [0.0; 4]);
    }

    #[test]
    fn mean_ignores_padding() {
        let hidden = [1.0_f32, 2.0, 3.0, 4.0, 9.0, 9.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0];
        let batch = Batch::padded(&[&[1, 1], &[1, 1, 1]]);
        let of = |before: &Before, expected: [f32; 4]| {
            let mean = mean(&hidden, &batch, before);
            approx::assert_relative_eq!(mean[..], expected[..], max_relative = 1e-6);
        };
        of(&Before::default(), [2.0, 3.0, 7.0, 8.0]);
        of(&Before::leaving_out(1), [3.0, 4.0, 8.0, 9.0]);
        of(&Before::leaving_out(2), [0.0, 0.0, 9.0, 10.0]);
        // Two more tokens before each text.
        of(&Before::new(&[3.0, 1.0, 5.0, 2.0], 2), [3.0, 2.25, 5.8, 5.4]);
    }

    #[test]
    fn mean_keeps_packed_texts_apart() {
        let hidden = [1.0_f32, 3.0, f32::NAN, 5.0];
        let batch = Batch::packed(&[&[1, 1], &[1], &[1]]);
        let pooled = mean(&hidden, &batch, &Before::default());
        assert!(pooled[0] == 2.0 && pooled[1].is_nan() && pooled[2] == 5.0, "{pooled:?}");
        let before = Before::new(&[7.0, 9.0], 1);
        let pooled = mean(&hidden, &batch, &before);
        assert!(pooled[0] == 5.0 && pooled[1].is_nan() && pooled[2] == 7.0, "{pooled:?}");
    }

    #[test]
    fn rows_point_at_the_pooled_token() {
        let rows = |pooling: Pooling, batch: &Batch| pooling.rows(batch, 0);
        let texts: [&[u32]; 2] = [&[1, 2], &[1, 2, 3, 4]];
        let (padded, packed) = (Batch::padded(&texts), Batch::packed(&texts));
        assert_eq!(rows(Pooling::LastToken, &padded), Some(vec![1, 7]));
        assert_eq!(rows(Pooling::LastToken, &packed), Some(vec![1, 5]));
        assert_eq!(rows(Pooling::Cls, &padded), Some(vec![0, 4]));
        assert_eq!(rows(Pooling::Cls, &packed), Some(vec![0, 2]));
        assert_eq!(rows(Pooling::Mean, &padded), None);
        // A prompt of two tokens leaves nothing of the first text.
        assert_eq!(Pooling::Cls.rows(&padded, 2), Some(vec![0, 6]));
        assert_eq!(Pooling::LastToken.rows(&padded, 2), Some(vec![1, 7]));
    }
}
