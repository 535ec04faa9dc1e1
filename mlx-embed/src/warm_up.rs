//! Batches that are run before a request comes.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::{Error, InputError};
use crate::mlx::Backend;

/// A batch that [`Embedder::warm_up`](crate::Embedder::warm_up) ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WarmUp {
    /// Texts in it.
    pub texts: usize,
    /// Tokens of each.
    pub tokens: usize,
    /// Time of the first run, with everything that had to be compiled, allocated or read.
    pub first: Duration,
    /// Time of the second run.
    pub again: Duration,
}

/// Shapes to run, `[texts, tokens]`. On a GPU kernels are compiled for lengths and counts of several magnitudes; the CPU
/// has nothing to compile, so that one small batch and one full one do.
pub(crate) fn shapes(backend: Backend, max_tokens: usize, batch_tokens: usize) -> Vec<[usize; 2]> {
    let longest = max_tokens.min(batch_tokens).max(1);
    let lengths: Vec<usize> = match backend {
        Backend::Cpu => vec![16.min(longest)],
        Backend::Metal | Backend::Cuda => {
            let magnitudes = std::iter::successors(Some(16), |length| Some(length * 4));
            magnitudes.take_while(|&length| length < longest).chain([longest]).collect()
        }
    };
    let mut shapes: Vec<[usize; 2]> = lengths
        .into_iter()
        .flat_map(|length| [[1, length], [(batch_tokens / length).max(1), length]])
        .collect();
    shapes.dedup();
    shapes
}

/// Token ids of so many texts of so many tokens: any will do.
pub(crate) fn texts(texts: usize, tokens: usize, vocab_size: u32) -> Vec<Vec<u32>> {
    let id = |text: usize, token: usize| (text * 7919 + token * 104_729) as u32 % vocab_size;
    (0..texts).map(|text| (0..tokens).map(|token| id(text, token)).collect()).collect()
}

/// Runs a batch twice.
pub(crate) fn run<T>(
    ids: &[Vec<u32>],
    embed: impl Fn(&[&[u32]]) -> Result<Vec<Result<T, InputError>>, Error>,
) -> Result<WarmUp, Error> {
    let rows: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    let time = || {
        let start = Instant::now();
        embed(&rows).map(|_| start.elapsed())
    };
    Ok(WarmUp { texts: ids.len(), tokens: ids.first().map_or(0, Vec::len), first: time()?, again: time()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_reach_from_one_short_text_to_a_full_batch() {
        assert_eq!(shapes(Backend::Cpu, 8192, 512), [[1, 16], [32, 16]]);
        let gpu = shapes(Backend::Cuda, 32_768, 4096);
        assert_eq!((gpu[0], gpu[gpu.len() - 1]), ([1, 16], [1, 4096]));
        assert!(gpu.iter().all(|[texts, tokens]| texts * tokens <= 4096));
    }

    #[test]
    fn shapes_keep_to_the_models_limits() {
        assert_eq!(shapes(Backend::Cpu, 4, 2), [[1, 2]]);
        assert!(shapes(Backend::Cuda, 100, 4096).iter().all(|[_, tokens]| *tokens <= 100));
    }
}
