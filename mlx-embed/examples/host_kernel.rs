//! An operation of one's own on the CPU, between MLX's: `cargo run --release --example host_kernel`

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use mlx_embed::mlx::host::{HostError, HostInput, HostKernel, HostOutput, OutputSpec, host_kernel};
use mlx_embed::mlx::{Array, Dtype, MlxError, Stream, ops};

/// Squared Euclidean distance of each row of `a` to each row of `b`.
///
/// # Shape
/// `a` `[M, D]`, `b` `[N, D]`, result `[M, N]`.
struct SquaredDistance;

impl HostKernel for SquaredDistance {
    fn name(&self) -> &str {
        "squared_distance"
    }

    fn run(&self, inputs: &[HostInput<'_>], outputs: &mut [HostOutput<'_>]) -> Result<(), HostError> {
        let [a, b] = inputs else {
            return Err("takes two inputs".into());
        };
        // Row by row, so that slices of wider arrays need no copy.
        let rows = |input: &HostInput<'_>| input.shape()[0] as usize;
        let mut distances = Vec::with_capacity(outputs[0].size());
        for i in 0..rows(a) {
            let left = a.row::<f32>(&[i])?;
            for j in 0..rows(b) {
                let right = b.row::<f32>(&[j])?;
                distances.push(left.iter().zip(right).map(|(x, y)| (x - y).powi(2)).sum());
            }
        }
        Ok(outputs[0].copy_from_slice::<f32>(&distances)?)
    }
}

fn squared_distance(a: &Array, b: &Array, stream: &Stream) -> Result<Array, MlxError> {
    let ([m, d], &[n, e]) = (a.shape(), b.shape()) else {
        panic!("two matrices");
    };
    assert_eq!(*d, e, "rows of one length");
    let shape = [*m, n];
    let output = OutputSpec::new(&shape, Dtype::F32);
    let [distances] = host_kernel(Arc::new(SquaredDistance), &[a, b], [output], stream)?;
    Ok(distances)
}

/// Adds one in place: next to no work, so that what remains is the cost of a node.
struct Increment;

impl HostKernel for Increment {
    fn name(&self) -> &str {
        "increment"
    }

    fn run(&self, _: &[HostInput<'_>], outputs: &mut [HostOutput<'_>]) -> Result<(), HostError> {
        outputs[0].as_mut_slice::<f32>()?.iter_mut().for_each(|x| *x += 1.0);
        Ok(())
    }
}

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let stream = Stream::cpu()?;

    // Between two operations of MLX's: one makes its input, one takes its output.
    let points = Array::from_slice(&[0.0_f32, 0.0, 3.0, 4.0, 6.0, 8.0], &[3, 2])?;
    let origin = ops::slice_axis(&points, 0, 0, 1, &stream)?;
    let moved = ops::add(&points, &Array::from_slice(&[0.0_f32, 1.0], &[2])?, &stream)?;
    let distances = squared_distance(&moved, &origin, &stream)?;
    let halves = ops::multiply(&distances, &Array::from_slice(&[0.5_f32], &[1])?, &stream)?;
    println!("half the squared distances: {:?}", halves.to_vec::<f32>(&stream)?);

    let (nodes, rounds) = (1000, 21);
    let kernel = Arc::new(Increment);
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let start = Instant::now();
        let mut x = Array::from_slice(&[0.0_f32; 1024], &[1024])?;
        for _ in 0..nodes {
            [x] = host_kernel(
                Arc::clone(&kernel),
                &[&x],
                [OutputSpec::in_place(0, &[1024], Dtype::F32)],
                &stream,
            )?;
        }
        x.eval()?;
        times.push(start.elapsed());
        assert_eq!(x.as_slice::<f32>()?, [nodes as f32; 1024]);
    }
    times.sort();
    println!("{nodes} nodes in a row: {:?}, median of {rounds}", times[rounds / 2]);
    Ok(())
}
