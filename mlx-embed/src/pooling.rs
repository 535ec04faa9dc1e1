//! Hidden states to one vector a text.

use serde::{Deserialize, Serialize};

use crate::mlx::{Array, Dtype, MlxError, Stream, ops};

/// How a text's hidden states become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Pooling {
    /// The last token's, which under causal attention is the only one that has seen the whole text.
    LastToken,
    /// The mean over all tokens.
    Mean,
    /// The first token's.
    Cls,
}

impl std::fmt::Display for Pooling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::LastToken => "last-token",
            Self::Mean => "mean",
            Self::Cls => "cls",
        })
    }
}

impl Pooling {
    /// The one row of each text that pooling needs, counted over `B * L`, u32 `[B]`; `None` if it needs them all.
    pub(crate) fn rows(self, lengths: &[usize], padded: usize) -> Result<Option<Array>, MlxError> {
        let row = |(text, &length): (usize, &usize)| {
            let offset = if self == Self::LastToken { length.saturating_sub(1) } else { 0 };
            (text * padded + offset) as u32
        };
        if self == Self::Mean {
            return Ok(None);
        }
        let rows: Vec<u32> = lengths.iter().enumerate().map(row).collect();
        Ok(Some(Array::from_slice(&rows, &[rows.len() as i32])?))
    }

    /// One f32 vector a text, row after row.
    ///
    /// # Shape
    /// `hidden` `[B, D]` if [`Pooling::rows`] named rows, else `[B, L, D]`; result `B * D` numbers.
    pub(crate) fn pool(
        self,
        hidden: &Array,
        lengths: &[usize],
        stream: &Stream,
    ) -> Result<Vec<f32>, MlxError> {
        let hidden = ops::astype(hidden, Dtype::F32, stream)?;
        match self {
            Self::LastToken | Self::Cls => hidden.to_vec(stream),
            Self::Mean => mean(&hidden, lengths, stream)?.to_vec(stream),
        }
    }
}

/// The mean as a product with a matrix that holds `1 / length` at real tokens and 0 at padding.
fn mean(hidden: &Array, lengths: &[usize], stream: &Stream) -> Result<Array, MlxError> {
    let padded = hidden.shape()[1] as usize;
    let mut shares = vec![0.0_f32; lengths.len() * padded];
    for (row, &length) in shares.chunks_mut(padded).zip(lengths) {
        row[..length].fill(1.0 / length as f32);
    }
    let shares = Array::from_slice(&shares, &[lengths.len() as i32, 1, padded as i32])?; // [B, 1, L]
    ops::matmul(&shares, hidden, stream) // [B, 1, D]
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
    use super::*;

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
        let stream = Stream::cpu().unwrap();
        let hidden = Array::from_slice(&[1.0_f32, 2.0, 3.0, 4.0, 9.0, 9.0], &[1, 3, 2]).unwrap();
        let pooled = Pooling::Mean.pool(&hidden, &[2], &stream).unwrap();
        approx::assert_relative_eq!(pooled[..], [2.0, 3.0][..], max_relative = 1e-6);
    }

    #[test]
    fn rows_point_at_the_pooled_token() {
        let stream = Stream::cpu().unwrap();
        let rows = |pooling: Pooling| {
            let rows = pooling.rows(&[2, 4], 4).unwrap();
            rows.map(|rows| rows.to_vec::<u32>(&stream).unwrap())
        };
        assert_eq!(rows(Pooling::LastToken), Some(vec![1, 7]));
        assert_eq!(rows(Pooling::Cls), Some(vec![0, 4]));
        assert_eq!(rows(Pooling::Mean), None);
    }
}
