//! Every family that this machine runs against plain sums in f64, over random shapes and numbers.
//!
//! `MLX_EMBED_KERNELS` picks one family, `MLX_EMBED_CASES` how many cases each test draws. A failure names its case.

mod attention;
mod draw;
mod products;
mod weights;

use super::*;
use draw::Draw;

/// The families to test.
fn families() -> Vec<&'static Family> {
    let wanted = std::env::var("MLX_EMBED_KERNELS").ok();
    let families: Vec<_> = Family::available()
        .filter(|family| wanted.as_deref().is_none_or(|name| name == family.name()))
        .collect();
    assert!(!families.is_empty(), "this machine doesn't run {wanted:?}");
    families
}

/// Calls `check` with engines of every family and what each case draws.
fn for_cases(cases: usize, check: impl Fn(&[Engine], &mut Draw)) {
    let wanted = std::env::var("MLX_EMBED_CASES").ok().and_then(|cases| cases.parse().ok());
    let cases = wanted.unwrap_or(if cfg!(miri) { 2 } else { cases });
    let families = families();
    for case in 0..cases {
        let engines: Vec<Engine> =
            families.iter().map(|family| Engine::new(family, 1 + case % 3).unwrap()).collect();
        let named = Named(case);
        check(&engines, &mut Draw::new(case as u64));
        std::mem::forget(named);
    }
}

/// Says on the way out of a panic which case it was.
struct Named(usize);

impl Drop for Named {
    fn drop(&mut self) {
        eprintln!("in case {}", self.0);
    }
}

/// Memory for a result, with numbers in it that no result has.
fn unwritten(count: usize) -> Vec<f32> {
    vec![1e33; count]
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|x| x.to_bits()).collect()
}

/// Each number is as near to what it should be as said beside that.
#[track_caller]
fn assert_near(got: &[f32], naive: &[(f64, f64)], case: impl Fn() -> String) {
    assert_eq!(got.len(), naive.len());
    for (i, (&got, &(want, most))) in got.iter().zip(naive).enumerate() {
        let far = (f64::from(got) - want).abs();
        assert!(far <= most, "{}: number {i}: {got}, not {want}: {far:e} of {most:e}", case());
    }
}

/// RMSNorm in f64.
fn normed(x: &[f32], norm: Option<(&[f32], f32)>) -> Vec<f64> {
    let wide = x.iter().map(|&x| f64::from(x));
    let Some((weight, eps)) = norm else { return wide.collect() };
    let mean = wide.clone().map(|x| x * x).sum::<f64>() / x.len() as f64;
    let factor = 1.0 / (mean + f64::from(eps)).sqrt();
    wide.zip(weight).map(|(x, &weight)| x * factor * f64::from(weight)).collect()
}

#[test]
fn a_norm_divides_by_the_root_mean_square() {
    for_cases(60, |engines, draw| {
        let (rows, width) = (draw.within(1, 40), draw.within(1, 300));
        let (x, weight) = (draw.numbers(rows * width), draw.numbers(width));
        for engine in engines {
            let mut out = unwritten(x.len());
            engine.norm(&x, Norm::Rms { weight: &weight, eps: 1e-6 }, &mut out);
            for (row, x) in x.chunks_exact(width).enumerate() {
                let got = &out[row * width..(row + 1) * width];
                for (k, (&got, want)) in got.iter().zip(normed(x, Some((&weight, 1e-6)))).enumerate() {
                    let far = (f64::from(got) - want).abs();
                    assert!(far <= 3e-5 * want.abs(), "{:?}: {row}, {k}: {got}, not {want}", engine.family);
                }
                let mut alone = unwritten(width);
                engine.norm(x, Norm::Rms { weight: &weight, eps: 1e-6 }, &mut alone);
                assert_eq!(bits(got), bits(&alone), "{:?}: row {row} alone", engine.family);
            }
        }
    });
}

#[test]
fn a_layer_norm_takes_the_mean_off_and_divides_by_the_deviation() {
    for_cases(60, |engines, draw| {
        let (rows, width) = (draw.within(1, 40), draw.within(2, 300));
        let (x, weight) = (draw.numbers(rows * width), draw.numbers(width));
        let bias = draw.one_in(2).then(|| draw.numbers(width));
        for engine in engines {
            let mut out = unwritten(x.len());
            let norm = Norm::Layer { weight: &weight, bias: bias.as_deref(), eps: 1e-5 };
            engine.norm(&x, norm, &mut out);
            for (row, (x, got)) in x.chunks_exact(width).zip(out.chunks_exact(width)).enumerate() {
                let wide: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
                let mean = wide.iter().sum::<f64>() / width as f64;
                let variance = wide.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
                let largest = wide.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
                for (k, &got) in got.iter().enumerate() {
                    let factor = f64::from(weight[k]) / (variance + 1e-5).sqrt();
                    let added = bias.as_ref().map_or(0.0, |bias| f64::from(bias[k]));
                    let want = (wide[k] - mean) * factor + added;
                    // The mean is a sum of as many numbers, and the difference to it keeps that sum's error.
                    let most = 1e-5 * (largest * factor.abs() + added.abs());
                    let far = (f64::from(got) - want).abs();
                    assert!(far <= most, "{:?}: {row}, {k}: {got}, not {want}", engine.family);
                }
                let mut alone = unwritten(width);
                engine.norm(x, norm, &mut alone);
                assert_eq!(bits(got), bits(&alone), "{:?}: row {row} alone", engine.family);
            }
        }
    });
}

#[test]
fn a_gathered_row_is_what_its_words_say() {
    for_cases(60, |engines, draw| {
        let (rows, width) = (draw.within(1, 20), 32 * draw.within(1, 8));
        let matrix = draw.matrix(rows, width);
        let in_memory = InMemory { source: matrix.source(), columns: width };
        let mut table = unwritten(rows * width);
        for (row, out) in table.chunks_exact_mut(width).enumerate() {
            in_memory.read(row..row + 1, &mut RowBuffer::default()).unwrap().row(0, out);
        }
        let indices: Vec<usize> = (0..draw.within(1, 40)).map(|_| draw.below(rows)).collect();
        for engine in engines {
            let mut out = unwritten(indices.len() * width);
            engine.gather(&table, &indices, width, &mut out);
            for (&id, got) in indices.iter().zip(out.chunks_exact(width)) {
                for (k, &got) in got.iter().enumerate() {
                    let (want, magnitude) = matrix.parts(id, k);
                    let far = (f64::from(got) - want).abs();
                    let most = 2e-7 * magnitude;
                    assert!(
                        far <= most || got.is_nan() && want.is_nan(),
                        "{matrix:?}: {id}, {k}: {got}, {want}"
                    );
                }
            }
        }
    });
}
