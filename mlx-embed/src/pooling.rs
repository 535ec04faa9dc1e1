//! Hidden states to one vector a text.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::batch::Batch;

/// One way in which a text's hidden states, `[tokens, hidden]`, become one vector, `[hidden]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PoolingMode {
    /// The hidden state of the last token. Under causal attention no other token has seen the whole text.
    LastToken,
    /// The mean of all tokens' hidden states. Tokens of the prompt are left out where the checkpoint says so.
    Mean,
    /// The hidden state of the first token.
    Cls,
    /// The largest value over all tokens, for each component by itself.
    Max,
    /// The sum over all tokens, divided by the square root of their number.
    MeanSqrtLen,
    /// The mean over all tokens, in which token `n`, counted from 1, has the weight `n`.
    WeightedMean,
}

impl PoolingMode {
    const ALL: [Self; 6] =
        [Self::LastToken, Self::Mean, Self::Cls, Self::Max, Self::MeanSqrtLen, Self::WeightedMean];

    const fn name(self) -> &'static str {
        match self {
            Self::LastToken => "last-token",
            Self::Mean => "mean",
            Self::Cls => "cls",
            Self::Max => "max",
            Self::MeanSqrtLen => "mean-sqrt-len",
            Self::WeightedMean => "weighted-mean",
        }
    }
}

impl fmt::Display for PoolingMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a text's hidden states become one vector: in one way, or in several, whose vectors are concatenated.
///
/// A [`PoolingMode`] converts into it. Its text, in JSON too, is `mean` for one way, or `cls+mean` for several.
///
/// ```
/// use mlx_embed::{Pooling, PoolingMode};
///
/// let joined = Pooling::joined(&[PoolingMode::Cls, PoolingMode::Mean])?;
/// assert_eq!(joined, "cls+mean".parse::<Pooling>()?);
/// assert_eq!(Pooling::from(PoolingMode::Mean).to_string(), "mean");
/// # Ok::<(), mlx_embed::PoolingError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Pooling {
    /// Those that are used come first.
    modes: [Option<PoolingMode>; PoolingMode::ALL.len()],
}

impl Pooling {
    /// Several ways, whose vectors are concatenated in this order. The vector has `[modes * hidden]` numbers.
    ///
    /// # Errors
    /// When `modes` is empty, or names one way twice.
    pub fn joined(modes: &[PoolingMode]) -> Result<Self, PoolingError> {
        let mut all = [None; PoolingMode::ALL.len()];
        for (index, mode) in modes.iter().enumerate() {
            if modes[..index].contains(mode) {
                return Err(PoolingError(format!("names {mode} twice")));
            }
            all[index] = Some(*mode);
        }
        if modes.is_empty() { Err(PoolingError("names no way".into())) } else { Ok(Self { modes: all }) }
    }

    /// Its ways, in the order of their vectors.
    pub fn modes(self) -> impl Iterator<Item = PoolingMode> {
        self.modes.into_iter().flatten()
    }

    /// Numbers of a pooled vector, of hidden states of so many.
    pub(crate) fn width(self, hidden: usize) -> usize {
        self.modes().count() * hidden
    }

    /// Whether the last token's hidden state is among what it takes.
    pub(crate) fn takes_last_token(self) -> bool {
        self.modes().any(|mode| mode == PoolingMode::LastToken)
    }

    /// Whether tokens at a text's beginning that are left out change anything.
    pub(crate) fn can_leave_out(self) -> bool {
        self != PoolingMode::LastToken
    }

    /// Whether one token's hidden state is all that it needs.
    pub(crate) fn is_of_one_token(self) -> bool {
        self == PoolingMode::LastToken || self == PoolingMode::Cls
    }

    /// Whether it can go on from what was kept of a prompt. The first token's state alone is the prompt's own.
    pub(crate) fn continues(self) -> bool {
        self != PoolingMode::Cls
    }

    /// The one row of each text that pooling needs, counted over the batch's tokens; `None` if it needs them all.
    /// The first `left_out` tokens of each text don't count.
    pub(crate) fn rows(self, batch: &Batch, left_out: usize) -> Option<Vec<u32>> {
        let row = |(start, &length): (&usize, &usize)| {
            if self == PoolingMode::LastToken {
                (start + length.saturating_sub(1)) as u32
            } else if left_out < length {
                (start + left_out) as u32
            } else {
                *start as u32
            }
        };
        self.is_of_one_token().then(|| batch.starts.iter().zip(batch.lengths.iter()).map(row).collect())
    }

    /// One f32 vector a text, row after row, of what the batch holds of it and of what was before.
    ///
    /// # Shape
    /// `hidden` `[B, D]` if [`Pooling::rows`] named rows, else `[T, D]` as the batch lies; result [`Pooling::width`]
    /// numbers a text.
    pub(crate) fn pool(self, hidden: Vec<f32>, batch: &Batch, before: Before<'_>) -> Vec<f32> {
        if self.is_of_one_token() {
            return hidden;
        }
        let width = hidden.len() / batch.ids.len().max(1);
        let Before { hidden: past, left_out } = before;
        let started = self.start(width).over(past, 0, left_out);
        let mut pooled = Vec::with_capacity(batch.lengths.len() * self.width(width));
        for (&start, &length) in batch.starts.iter().zip(batch.lengths.iter()) {
            let rows = &hidden[start * width..(start + length) * width];
            pooled.extend(started.clone().over(rows, past.len() / width, left_out).finish());
        }
        pooled
    }

    /// The vector of a text of which no row has come yet, `width` numbers a row.
    pub(crate) fn start(self, width: usize) -> Started {
        Started(self.modes().map(|mode| Partial::new(mode, width)).collect())
    }
}

/// Why something names no pooling.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("pooling {0}")]
pub struct PoolingError(String);

impl From<PoolingMode> for Pooling {
    fn from(mode: PoolingMode) -> Self {
        let mut modes = [None; PoolingMode::ALL.len()];
        modes[0] = Some(mode);
        Self { modes }
    }
}

impl PartialEq<PoolingMode> for Pooling {
    /// Whether this is the only way.
    fn eq(&self, mode: &PoolingMode) -> bool {
        *self == Self::from(*mode)
    }
}

impl FromStr for Pooling {
    type Err = PoolingError;

    fn from_str(text: &str) -> Result<Self, PoolingError> {
        let mode = |name: &str| PoolingMode::ALL.into_iter().find(|mode| mode.name() == name);
        let modes: Option<Vec<PoolingMode>> = text.split('+').map(mode).collect();
        match modes {
            Some(modes) => Self::joined(&modes),
            None => {
                let known = PoolingMode::ALL.map(PoolingMode::name).join(", ");
                Err(PoolingError(format!("is `{text}`; give {known}, or several of them joined by +")))
            }
        }
    }
}

impl TryFrom<String> for Pooling {
    type Error = PoolingError;

    fn try_from(text: String) -> Result<Self, PoolingError> {
        text.parse()
    }
}

impl From<Pooling> for String {
    fn from(pooling: Pooling) -> Self {
        pooling.to_string()
    }
}

impl fmt::Display for Pooling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mode) in self.modes().enumerate() {
            write!(f, "{}{mode}", if index == 0 { "" } else { "+" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Pooling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pooling({self})")
    }
}

/// What a batch doesn't hold of its texts, and what of them is no part of what is pooled.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Before<'a> {
    /// Hidden states of the tokens that all of them begin with, `[tokens, D]`, where pooling needs them.
    pub(crate) hidden: &'a [f32],
    /// Of each whole text so many tokens are left out.
    pub(crate) left_out: usize,
}

/// A text's vector while its rows come to it: what each way has so far.
#[derive(Debug, Clone)]
pub(crate) struct Started(Vec<Partial>);

impl Started {
    /// And these rows, the first of which is the text's token number `first`. The text's first `left_out` tokens don't count.
    pub(crate) fn over(self, rows: &[f32], first: usize, left_out: usize) -> Self {
        Self(self.0.into_iter().map(|partial| partial.over(rows, first, left_out)).collect())
    }

    /// The vector, [`Pooling::width`] numbers.
    pub(crate) fn finish(self) -> impl Iterator<Item = f32> {
        self.0.into_iter().flat_map(Partial::finish)
    }
}

/// One way's vector while a text's tokens come to it, from the first on, so that its bits don't depend on where they were
/// broken off.
#[derive(Debug, Clone)]
struct Partial {
    mode: PoolingMode,
    vector: Vec<f32>,
    /// The sum of weights.
    weight: f32,
}

impl Partial {
    fn new(mode: PoolingMode, width: usize) -> Self {
        let least = if mode == PoolingMode::Max { f32::NEG_INFINITY } else { 0.0 };
        Self { mode, vector: vec![least; width], weight: 0.0 }
    }

    /// And these rows, the first of which is the text's token number `first`.
    fn over(mut self, rows: &[f32], first: usize, left_out: usize) -> Self {
        let rows = (first..).zip(rows.chunks_exact(self.vector.len()));
        match self.mode {
            PoolingMode::LastToken => rows.last().into_iter().for_each(|(_, row)| self.take(row)),
            // Where nothing is left it is the text's first after all, as in sentence-transformers.
            PoolingMode::Cls => rows
                .filter(|(position, _)| *position == 0 || *position == left_out)
                .for_each(|(_, row)| self.take(row)),
            _ => rows
                .filter(|(position, _)| *position >= left_out)
                .for_each(|(position, row)| self.add(row, position)),
        }
        self
    }

    fn take(&mut self, row: &[f32]) {
        self.vector.copy_from_slice(row);
    }

    fn add(&mut self, row: &[f32], position: usize) {
        let weight = if self.mode == PoolingMode::WeightedMean { (position + 1) as f32 } else { 1.0 };
        self.weight += weight;
        let largest = self.mode == PoolingMode::Max;
        for (sum, &x) in self.vector.iter_mut().zip(row) {
            *sum = match largest {
                false => *sum + weight * x,
                // NaN stays, to be told.
                true if x > *sum || x.is_nan() => x,
                true => *sum,
            };
        }
    }

    /// A text of which nothing is left has a mean of zeros, as in sentence-transformers.
    fn finish(mut self) -> Vec<f32> {
        let divisor = match self.mode {
            PoolingMode::Mean | PoolingMode::WeightedMean => self.weight.max(1.0),
            PoolingMode::MeanSqrtLen => self.weight.max(1.0).sqrt(),
            PoolingMode::Cls | PoolingMode::LastToken | PoolingMode::Max => return self.vector,
        };
        self.vector.iter_mut().for_each(|x| *x /= divisor);
        self.vector
    }
}

/// Cuts `vector` to its first `dims` numbers and scales it to length 1.
///
/// Cutting comes first, as Matryoshka models are trained (Kusupati et al., 2022).
pub(crate) fn finish(vector: &mut Vec<f32>, dims: Option<usize>, normalize: bool) {
    if let Some(dims) = dims {
        vector.truncate(dims);
    }
    if normalize {
        self::normalize(vector);
    }
}

/// Scales `vector` to length 1: `x / max(|x|, 1e-12)`.
pub(crate) fn normalize(vector: &mut [f32]) {
    let norm = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt().max(1e-12);
    for x in vector {
        *x = (f64::from(*x) / norm) as f32;
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

    fn mean(hidden: &[f32], batch: &Batch, before: Before<'_>) -> Vec<f32> {
        Pooling::from(PoolingMode::Mean).pool(hidden.to_vec(), batch, before)
    }

    fn all(hidden: &[f32], batch: &Batch, before: Before<'_>) -> Vec<f32> {
        Pooling::joined(&PoolingMode::ALL).unwrap().pool(hidden.to_vec(), batch, before)
    }

    fn leaving_out(left_out: usize) -> Before<'static> {
        Before { hidden: &[], left_out }
    }

    fn behind(hidden: &[f32]) -> Before<'_> {
        Before { hidden, left_out: 0 }
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
            let laid_out = |batch: &Batch| laid_out(&texts, batch);
            let of = |batch: &Batch| mean(&laid_out(batch), batch, Before::default());
            prop_assert_eq!(of(&padded), of(&packed));
            let of_all = |batch: &Batch| all(&laid_out(batch), batch, Before::default());
            prop_assert_eq!(of_all(&padded), of_all(&packed));
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
            let lay = |texts: &[Vec<f32>], before: Before<'_>| {
                let ids: Vec<Vec<u32>> = texts.iter().map(|text| vec![1; text.len() / WIDTH]).collect();
                let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
                let batch = Batch::packed(&ids);
                mean(&laid_out(texts, &batch), &batch, before)
            };
            let mut dirty = texts.clone();
            dirty.iter_mut().for_each(|text| {
                let end = text.len().min(left_out * WIDTH);
                text[..end].fill(f32::NAN);
            });
            let rest: Vec<Vec<f32>> =
                texts.iter().map(|text| text[text.len().min(left_out * WIDTH)..].to_vec()).collect();
            let found = lay(&dirty, leaving_out(left_out));
            for (text, found) in rest.iter().zip(found.chunks(WIDTH)) {
                let expected = match text.is_empty() {
                    true => vec![0.0; WIDTH],
                    false => lay(std::slice::from_ref(text), Before::default()),
                };
                prop_assert_eq!(found, &expected[..]);
            }
        }

        #[test]
        fn vectors_have_the_same_bits_wherever_a_prefix_ends(
            text in vec(-1e3_f32..1e3, 20 * WIDTH), at in 1_usize..20, left_out in 0_usize..22,
        ) {
            let all = |text: &[f32], before: &[f32]| {
                let ids = vec![1; text.len() / WIDTH];
                let batch = Batch::packed(&[&ids]);
                let all = all(text, &batch, Before { hidden: before, left_out });
                all.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
            };
            let (before, rest) = text.split_at(at * WIDTH);
            prop_assert_eq!(all(rest, before), all(&text, &[]));
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
        let of = |before: Before<'_>, expected: [f32; 4]| {
            let mean = mean(&hidden, &batch, before);
            approx::assert_relative_eq!(mean[..], expected[..], max_relative = 1e-6);
        };
        of(Before::default(), [2.0, 3.0, 7.0, 8.0]);
        of(leaving_out(1), [3.0, 4.0, 8.0, 9.0]);
        of(leaving_out(2), [0.0, 0.0, 9.0, 10.0]);
        // Two more tokens before each text.
        of(behind(&[3.0, 1.0, 5.0, 2.0]), [3.0, 2.25, 5.8, 5.4]);
    }

    #[test]
    fn mean_keeps_packed_texts_apart() {
        let hidden = [1.0_f32, 3.0, f32::NAN, 5.0];
        let batch = Batch::packed(&[&[1, 1], &[1], &[1]]);
        let pooled = mean(&hidden, &batch, Before::default());
        assert!(pooled[0] == 2.0 && pooled[1].is_nan() && pooled[2] == 5.0, "{pooled:?}");
        let pooled = mean(&hidden, &batch, behind(&[7.0, 9.0]));
        assert!(pooled[0] == 5.0 && pooled[1].is_nan() && pooled[2] == 7.0, "{pooled:?}");
    }

    #[test]
    fn rows_point_at_the_pooled_token() {
        let of = |mode: PoolingMode, batch: &Batch, left_out| Pooling::from(mode).rows(batch, left_out);
        let rows = |mode, batch: &Batch| of(mode, batch, 0);
        let texts: [&[u32]; 2] = [&[1, 2], &[1, 2, 3, 4]];
        let (padded, packed) = (Batch::padded(&texts), Batch::packed(&texts));
        assert_eq!(rows(PoolingMode::LastToken, &padded), Some(vec![1, 7]));
        assert_eq!(rows(PoolingMode::LastToken, &packed), Some(vec![1, 5]));
        assert_eq!(rows(PoolingMode::Cls, &padded), Some(vec![0, 4]));
        assert_eq!(rows(PoolingMode::Cls, &packed), Some(vec![0, 2]));
        assert_eq!(rows(PoolingMode::Mean, &padded), None);
        // A prompt of two tokens leaves nothing of the first text.
        assert_eq!(of(PoolingMode::Cls, &padded, 2), Some(vec![0, 6]));
        assert_eq!(of(PoolingMode::LastToken, &padded, 2), Some(vec![1, 7]));
    }
    #[test]
    fn joined_vectors_lie_in_the_order_that_was_given() {
        use PoolingMode::{Cls, LastToken, Max, Mean, MeanSqrtLen, WeightedMean};
        let hidden = [1.0_f32, 8.0, 3.0, 2.0, 5.0, 5.0, 7.0, 1.0];
        let batch = Batch::packed(&[&[1; 4]]);
        let joined = Pooling::joined(&[WeightedMean, Cls, MeanSqrtLen, LastToken, Max, Mean]).unwrap();
        assert_eq!((joined.width(2), joined.rows(&batch, 0)), (12, None));
        let of = |before, expected: [f32; 12]| {
            let found = joined.pool(hidden.to_vec(), &batch, before);
            approx::assert_relative_eq!(found[..], expected[..], max_relative = 1e-6);
        };
        of(Before::default(), [5.0, 3.1, 1.0, 8.0, 8.0, 8.0, 7.0, 1.0, 7.0, 8.0, 4.0, 4.0]);
        // Weights count from the text's first token, left out or not.
        let root = 2.0_f32.sqrt();
        of(
            leaving_out(2),
            [43.0 / 7.0, 19.0 / 7.0, 5.0, 5.0, 12.0 / root, 6.0 / root, 7.0, 1.0, 7.0, 5.0, 6.0, 3.0],
        );
        // Of a text that is a prompt and nothing else.
        let nothing =
            [0.0, 0.0, 1.0, 8.0, 0.0, 0.0, 7.0, 1.0, f32::NEG_INFINITY, f32::NEG_INFINITY, 0.0, 0.0];
        assert_eq!(joined.pool(hidden.to_vec(), &batch, leaving_out(4)), nothing);
    }

    #[test]
    fn ways_are_written_as_they_are_read() {
        for text in ["mean", "last-token", "cls+mean", "mean+cls", "max+mean-sqrt-len+weighted-mean"] {
            let pooling: Pooling = text.parse().unwrap();
            assert_eq!(pooling.to_string(), text);
            assert_eq!(serde_json::to_value(pooling).unwrap(), text);
            assert_eq!(serde_json::from_value::<Pooling>(text.into()).unwrap(), pooling);
        }
        for (text, reason) in
            [("median", "last-token, mean, cls"), ("", "is ``"), ("mean+cls+mean", "mean twice")]
        {
            let error = text.parse::<Pooling>().unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
        assert!(Pooling::joined(&[]).is_err());
        assert_ne!(Pooling::joined(&[PoolingMode::Mean, PoolingMode::Cls]).unwrap(), PoolingMode::Mean);
    }
}
