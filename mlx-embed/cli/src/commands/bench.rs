//! `mlx-embed bench`: how long forward passes take, from token ids to vectors.

use std::fmt;
use std::io::{self, BufRead, Write};
use std::num::NonZeroUsize;
use std::str::FromStr;
use std::time::Instant;

use clap::Args;
use mlx_embed::{EmbedOptions, Embedder};
use serde::{Deserialize, Serialize};

use crate::error::CliError;
use crate::options::{CommonArgs, at_least_one};
use crate::random::Random;
use crate::report;

/// Arguments of `bench`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct BenchArgs {
    /// Shapes to measure: number of texts, and tokens of each, as BATCHxTOKENS
    ///
    /// [default: 1x8,1x16,10x16,1x128,1x512]
    #[arg(long, value_name = "SHAPES", value_delimiter = ',')]
    shapes: Option<Vec<Shape>>,

    /// Timed passes of each shape, after one that isn't timed
    #[arg(long, value_name = "N", default_value = "15", value_parser = at_least_one)]
    rounds: NonZeroUsize,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Time one pass for each JSON line {"batch": B, "tokens": T} on standard input, and answer each with a line
    #[arg(long, conflicts_with_all = ["shapes", "rounds", "json"])]
    stdin: bool,

    #[command(flatten)]
    common: CommonArgs,
}

const EXAMPLES: &str = "\
Examples:
  mlx-embed bench --model DIR
  mlx-embed bench --model DIR --shapes 1x16,32x128 --rounds 7 --threads 2
  mlx-embed bench --model DIR --precision fast --json

A pass goes from token ids to vectors, without tokenising; the ids are random,
and others each time. Shapes are measured in turn, so that whatever else the
machine does disturbs all alike. Options about texts change nothing here.";

/// Shapes that are measured unless others are asked for.
const SHAPES: [[usize; 2]; 5] = [[1, 8], [1, 16], [10, 16], [1, 128], [1, 512]];

/// So many texts of so many tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Shape {
    batch: usize,
    tokens: usize,
}

/// Most tokens of a shape: ids alone take four bytes each, and everything is measured in memory.
const MOST_TOKENS: usize = 1 << 24;

impl Shape {
    fn check(self) -> Result<Self, String> {
        match self.batch.checked_mul(self.tokens) {
            Some(0) => Err("a shape needs at least one text of at least one token".to_owned()),
            Some(tokens) if tokens <= MOST_TOKENS => Ok(self),
            _ => Err(format!("a shape may have {MOST_TOKENS} tokens at most")),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.batch, self.tokens)
    }
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('x').and_then(|(batch, tokens)| {
            Some(Self { batch: batch.trim().parse().ok()?, tokens: tokens.trim().parse().ok()? })
        });
        numbers.ok_or("give BATCHxTOKENS, such as 10x16".to_owned())?.check()
    }
}

#[derive(Debug, Serialize)]
struct Report {
    shapes: Vec<Measured>,
    rounds: usize,
    kernels: &'static str,
    precision: Option<mlx_embed::Precision>,
    device: mlx_embed::mlx::Backend,
    mlx_embed_version: &'static str,
    mlx_version: String,
}

/// Times of one shape.
#[derive(Debug, Serialize)]
struct Measured {
    #[serde(flatten)]
    shape: Shape,
    min_ms: f64,
    p50_ms: f64,
    p95_ms: f64,
    tokens_per_s: f64,
}

impl Measured {
    /// `times` are sorted.
    fn new(shape: Shape, times: &[f64]) -> Self {
        let p50_ms = quantile(times, 0.5);
        Self {
            shape,
            min_ms: quantile(times, 0.0),
            p50_ms,
            p95_ms: quantile(times, 0.95),
            tokens_per_s: (shape.batch * shape.tokens) as f64 / p50_ms * 1e3,
        }
    }
}

/// The smallest of the sorted `times` that is at least as large as the share `q` of them.
fn quantile(times: &[f64], q: f64) -> f64 {
    let rank = (q * times.len() as f64).ceil() as usize;
    times.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

pub(crate) fn run(args: &BenchArgs) -> Result<(), CliError> {
    let model = args.common.load()?;
    let mut passes = Passes { embedder: &model.embedder, random: Random::new(1) };
    if args.stdin {
        return answer_lines(&mut passes);
    }
    let usual = || SHAPES.map(|[batch, tokens]| Shape { batch, tokens }).to_vec();
    let (shapes, rounds) = (args.shapes.clone().unwrap_or_else(usual), args.rounds.get());
    let mut times = vec![Vec::new(); shapes.len()];
    for round in 0..=rounds {
        for (shape, times) in shapes.iter().zip(&mut times) {
            let time = passes.run(*shape)?;
            // The first one makes what later ones find: pages, caches, compiled kernels.
            if round > 0 {
                times.push(time);
            }
        }
    }
    let info = model.embedder.info();
    let measured = shapes.iter().zip(&mut times).map(|(shape, times)| {
        times.sort_by(f64::total_cmp);
        Measured::new(*shape, times)
    });
    let report = Report {
        shapes: measured.collect(),
        rounds,
        kernels: info.kernels,
        precision: info.precision,
        device: info.backend,
        mlx_embed_version: env!("CARGO_PKG_VERSION"),
        mlx_version: info.mlx_version.clone(),
    };
    report::print(args.json, &report, Report::table)
}

impl Report {
    fn table(&self) -> String {
        let precision = self.precision.map_or(String::new(), |precision| format!(", {precision}"));
        let mut table = format!(
            "{}: {}{precision}; {} rounds, times in ms\n\n{:>11} {:>9} {:>9} {:>9} {:>10}\n",
            self.device, self.kernels, self.rounds, "shape", "min", "p50", "p95", "tokens/s"
        );
        for Measured { shape, min_ms, p50_ms, p95_ms, tokens_per_s } in &self.shapes {
            let shape = shape.to_string();
            table.push_str(&format!(
                "{shape:>11} {min_ms:>9.2} {p50_ms:>9.2} {p95_ms:>9.2} {tokens_per_s:>10.0}\n"
            ));
        }
        table
    }
}

/// Passes with random token ids.
struct Passes<'a> {
    embedder: &'a Embedder,
    /// Any ids will do, as long as they differ.
    random: Random,
}

impl Passes<'_> {
    /// How long one pass takes, in milliseconds.
    fn run(&mut self, shape: Shape) -> Result<f64, CliError> {
        let vocabulary = self.embedder.info().config.vocab_size.unsigned_abs() as usize;
        let mut text = || (0..shape.tokens).map(|_| self.random.below(vocabulary) as u32).collect();
        let texts: Vec<Vec<u32>> = (0..shape.batch).map(|_| text()).collect();
        let start = Instant::now();
        let vectors = self.embedder.embed_token_ids(texts, &EmbedOptions::default())?;
        let time = start.elapsed();
        std::hint::black_box(vectors);
        Ok(time.as_secs_f64() * 1e3)
    }
}

/// A line of `--stdin`'s answer.
#[derive(Debug, Serialize)]
struct Answer {
    #[serde(flatten)]
    shape: Shape,
    ms: f64,
}

fn answer_lines(passes: &mut Passes<'_>) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    for (number, line) in io::stdin().lock().lines().enumerate() {
        let wrong =
            |reason: String| CliError::Usage(format!("standard input, line {}: {reason}", number + 1));
        let line = line.map_err(|error| wrong(error.to_string()))?;
        let shape: Shape = serde_json::from_str(&line).map_err(|error| wrong(error.to_string()))?;
        let shape = shape.check().map_err(wrong)?;
        let answer = Answer { shape, ms: passes.run(shape)? };
        serde_json::to_writer(&mut stdout, &answer)
            .map_err(io::Error::from)
            .and_then(|()| writeln!(stdout))
            .and_then(|()| stdout.flush())
            .map_err(CliError::on_stdout)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_read_and_checked() {
        assert_eq!("10x16".parse(), Ok(Shape { batch: 10, tokens: 16 }));
        for wrong in ["", "10", "x", "0x16", "3x0", "-1x4", "1x2x3", "99999999x99999999"] {
            assert!(wrong.parse::<Shape>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn quantiles_are_measured_times() {
        let times: Vec<f64> = (1..=20).map(f64::from).collect();
        assert_eq!([0.0, 0.5, 0.95, 1.0].map(|q| quantile(&times, q)), [1.0, 10.0, 19.0, 20.0]);
        assert_eq!(quantile(&[7.0], 0.95), 7.0);
    }
}
