//! What this machine's processor does at best, as JSON: `cargo run --release --features bench,default-model --example
//! roofline -- 2` for two threads.
//!
//! GFLOP/s of f32, of products of 16-bit and of 8-bit integers (null where it has none), and GB/s of reading memory: the
//! best of eight bursts of each.

use std::error::Error;
use std::num::NonZeroUsize;

use mlx_embed::bench::{Bench, Roofline};
use mlx_embed::{Device, Embedder, LoadOptions};

fn main() -> Result<(), Box<dyn Error>> {
    let threads = std::env::args().nth(1).map(|threads| threads.parse::<NonZeroUsize>());
    let threads = threads.transpose().map_err(|_| "usage: roofline [THREADS], a whole number from 1")?;
    let options = LoadOptions { device: Device::Cpu, threads, ..Default::default() };
    let bench = Bench::new(&Embedder::default_model_with(options)?)?;
    let mut best = Roofline::default();
    for _ in 0..8 {
        best.raise(&bench.roofline()?);
    }
    let giga = |rate: Option<f64>| rate.map_or("null".to_owned(), |rate| format!("{:.1}", rate / 1e9));
    let [f32, int16, int8, read] = [best.f32, best.int16, best.int8, Some(best.bytes)].map(giga);
    println!(r#"{{"f32": {f32}, "int16": {int16}, "int8": {int8}, "read": {read}}}"#);
    Ok(())
}
