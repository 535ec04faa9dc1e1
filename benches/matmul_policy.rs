//! Where a 4-bit product on the CPU should change from the packed kernel to dequantising the matrix and calling BLAS.
//!
//! `cargo bench --bench matmul_policy`; the crossover is `CPU_PACKED_ROWS` in `mlx-embed/src/model/mlx/linear.rs`.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use mlx_embed::mlx::ops::{self, QuantMode, QuantizedRef};
use mlx_embed::mlx::{Array, Dtype, MlxError, Stream};

const COLUMNS: usize = 1024;
const ROWS: usize = 3072;
const GROUP: usize = 64;

fn policies(criterion: &mut Criterion) -> Result<(), MlxError> {
    let stream = Stream::cpu()?;
    let words: Vec<u32> = (0..(ROWS * COLUMNS / 8) as u32).map(|i| i.wrapping_mul(2_654_435_761)).collect();
    let weight = Array::from_slice(&words, &[ROWS as i32, (COLUMNS / 8) as i32])?;
    let per_group = |value: f32| {
        Array::from_slice(&vec![value; ROWS * COLUMNS / GROUP], &[ROWS as i32, (COLUMNS / GROUP) as i32])
    };
    let (scales, biases) = (per_group(0.004)?, per_group(-0.03)?);
    let parts = QuantizedRef {
        weight: &weight,
        scales: &scales,
        biases: Some(&biases),
        group_size: GROUP as i32,
        bits: 4,
        mode: QuantMode::Affine,
    };
    let mut group = criterion.benchmark_group("4-bit product, 1024 to 3072");
    group.sample_size(20);
    for rows in [1_usize, 2, 3, 4, 8, 16, 160] {
        let x: Vec<f32> = (0..rows * COLUMNS).map(|i| (i % 17) as f32 * 0.1 - 0.8).collect();
        let x = Array::from_slice(&x, &[rows as i32, COLUMNS as i32])?;
        let packed = || ops::quantized_matmul(&x, parts, &stream)?.eval();
        let dequantized = || {
            let matrix = ops::dequantize(parts, Dtype::F32, &stream)?;
            ops::matmul(&x, &ops::transpose(&matrix, &[1, 0], &stream)?, &stream)?.eval()
        };
        if rows <= 16 {
            group.bench_function(BenchmarkId::new("packed", rows), |bencher| bencher.iter(packed));
        }
        group.bench_function(BenchmarkId::new("dequantized", rows), |bencher| bencher.iter(dequantized));
    }
    group.finish();
    Ok(())
}

fn run(criterion: &mut Criterion) {
    if let Err(error) = policies(criterion) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

criterion_group!(benches, run);
criterion_main!(benches);
