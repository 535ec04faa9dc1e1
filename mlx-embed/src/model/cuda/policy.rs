//! When weights are dequantised for a product.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{UnknownWord, of_word};
use crate::mlx::MlxError;
use crate::mlx::cuda::write_whole;

/// How an NVIDIA GPU multiplies with quantised weights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum MatmulPolicy {
    /// Packed weights for few tokens, dequantised weights for many. The crossover is measured when a model is loaded,
    /// and remembered for this machine.
    #[default]
    Auto,
    /// Packed weights, always.
    Packed,
    /// Weights that are dequantised to bf16, or f16 where their scales are, for each product, always.
    Dequantized,
    /// As [`MatmulPolicy::Auto`], but dequantised weights stay in memory: two bytes a parameter beside the packed ones.
    Resident,
}

impl MatmulPolicy {
    /// Every value.
    pub const ALL: &[Self] = &[Self::Auto, Self::Packed, Self::Dequantized, Self::Resident];
}

impl std::str::FromStr for MatmulPolicy {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        of_word(word)
    }
}

impl std::fmt::Display for MatmulPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Packed => "packed",
            Self::Dequantized => "dequantized",
            Self::Resident => "resident",
        })
    }
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Calibration {
    /// Device, model and kernels that it holds for.
    of: String,
    /// Tokens, and the times of both ways.
    pub(crate) times: Vec<(i32, Duration, Duration)>,
    pub(crate) dequantize_from: i32,
}

/// Numbers of tokens to measure at. Ten texts of 16 are among them: products of bf16 take a step at 128 rows, which no line
/// from there to 192 shows.
const TOKENS: [i32; 12] = [16, 32, 64, 128, 160, 192, 256, 384, 512, 1024, 2048, 4096];

/// Each is measured so often; the fastest counts.
const ROUNDS: usize = 4;

impl Calibration {
    /// Measures with `run`, which runs so many tokens on packed weights or, where it says so, on dequantised ones.
    pub(super) fn measure(
        of: String,
        mut run: impl FnMut(i32, bool) -> Result<(), MlxError>,
    ) -> Result<Self, MlxError> {
        let mut times = Vec::new();
        for tokens in TOKENS {
            let mut fastest = [Duration::MAX; 2];
            // The first round is for what is done once, such as choosing MLX's kernels.
            for round in 0..=ROUNDS {
                for (dequantized, fastest) in [false, true].into_iter().zip(&mut fastest) {
                    let start = Instant::now();
                    run(tokens, dequantized)?;
                    if round > 0 {
                        *fastest = start.elapsed().min(*fastest);
                    }
                }
            }
            times.push((tokens, fastest[0], fastest[1]));
        }
        let dequantize_from = crossover(&times);
        Ok(Self { of, times, dequantize_from })
    }

    /// What was measured before for the same, if it was.
    pub(super) fn read(of: &str, path: &Path) -> Option<Self> {
        let read: Self = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        (read.of == of).then_some(read)
    }

    pub(super) fn write(&self, path: &Path) -> std::io::Result<()> {
        write_whole(path, &serde_json::to_vec(self)?)
    }
}

/// From how many tokens on dequantised weights are faster: between the last measured number at which they were not and the
/// next, where straight lines through the times cross.
fn crossover(times: &[(i32, Duration, Duration)]) -> i32 {
    let behind = |&(_, packed, dequantized): &(i32, Duration, Duration)| {
        packed.as_secs_f64() - dequantized.as_secs_f64()
    };
    let Some(last) = times.iter().rposition(|time| behind(time) <= 0.0) else { return 0 };
    let Some(next) = times.get(last + 1) else { return i32::MAX };
    let (before, after) = (behind(&times[last]), behind(next));
    let share = before / (before - after);
    times[last].0 + ((next.0 - times[last].0) as f64 * share).ceil().max(1.0) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(packed: [u64; 3], dequantized: [u64; 3]) -> Vec<(i32, Duration, Duration)> {
        let time = Duration::from_micros;
        (0..3).map(|i| (100 * (i as i32 + 1), time(packed[i]), time(dequantized[i]))).collect()
    }

    #[test]
    fn the_crossing_lies_between_measurements() {
        assert_eq!(crossover(&times([10, 20, 40], [20, 20, 20])), 201);
        assert_eq!(crossover(&times([10, 20, 40], [20, 30, 30])), 250);
        assert_eq!(crossover(&times([10, 20, 30], [20, 30, 40])), i32::MAX);
        assert_eq!(crossover(&times([20, 30, 40], [10, 20, 30])), 0);
        // One that is out of line doesn't count against what comes behind it.
        assert_eq!(crossover(&times([30, 10, 40], [20, 20, 20])), 234);
    }

    #[test]
    fn calibrations_are_kept_for_what_they_hold_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("calibration.json");
        let mut runs = 0;
        let measured = Calibration::measure("this".into(), |tokens, dequantized| {
            runs += 1;
            assert!(tokens >= TOKENS[0]);
            std::thread::sleep(Duration::from_micros(if dequantized { 300 } else { tokens as u64 }));
            Ok(())
        })
        .unwrap();
        assert_eq!(runs, TOKENS.len() * 2 * (ROUNDS + 1));
        assert_eq!(Calibration::read("this", &path), None);
        measured.write(&path).unwrap();
        assert_eq!(Calibration::read("this", &path), Some(measured));
        assert_eq!(Calibration::read("that", &path), None);
        fs::write(&path, b"{\"of\": \"this\"").unwrap();
        assert_eq!(Calibration::read("this", &path), None);
    }
}
