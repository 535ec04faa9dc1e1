//! Streams and models that come and go while other threads compute.
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use mlx_embed::mlx::{Array, Stream, ops};
use mlx_embed::{Embedder, Error, LoadOptions};
use mlx_embed_tests::{child, golden};

const CASE: &str = "qwen3-affine-4bit-g64";

fn load(kernels: Option<&str>, threads: usize) -> Result<Embedder, Error> {
    let options = LoadOptions {
        kernels: kernels.map(str::to_owned),
        threads: NonZeroUsize::new(threads),
        ..golden::load_options()
    };
    Embedder::load_with(golden::directory(CASE), options)
}

/// How often a test repeats what it does: `usual`, or less where `MLX_EMBED_ROUNDS` says so, as `tools/ffi/run` does.
fn rounds(usual: usize) -> usize {
    std::env::var("MLX_EMBED_ROUNDS").map_or(usual, |most| usual.min(most.parse().unwrap()))
}

/// Work of others, on threads of their own, until this is dropped.
struct Others<'scope> {
    stop: &'scope AtomicBool,
}

impl Drop for Others<'_> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// Runs `work` over and over on some threads while `meanwhile` runs.
fn beside(threads: usize, work: impl Fn() + Sync, meanwhile: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let stops_all = Others { stop: &stop };
                while !stop.load(Ordering::SeqCst) {
                    work();
                }
                drop(stops_all);
            });
        }
        let _others = Others { stop: &stop };
        meanwhile();
    });
}

/// Sums of ten ones, by operations that copy, view and multiply, on `stream`.
fn tens(stream: &Stream) -> Array {
    let ones = Array::from_slice(&[1.0_f32; 100], &[10, 10]).unwrap();
    let turned = ops::transpose(&ones, &[1, 0], stream).unwrap();
    let product = ops::matmul(&turned, &ones, stream).unwrap();
    let halves = [0, 5].map(|at| ops::slice_axis(&product, 1, at, at + 5, stream).unwrap());
    ops::concatenate(&halves, 1, stream).unwrap()
}

#[test]
fn arrays_hold_the_stream_that_they_are_computed_on() {
    let round = || {
        let stream = Stream::cpu().unwrap();
        let lazy = tens(&stream);
        // From here on another thread might be given the stream.
        drop(stream);
        let other = Stream::cpu().unwrap();
        let sum = ops::add(&lazy, &tens(&other), &other).unwrap();
        drop((lazy, other));
        assert_eq!(sum.as_slice::<f32>().unwrap(), [20.0; 100]);
    };
    beside(3, round, || (0..rounds(300)).for_each(|_| round()));
}

#[test]
fn streams_are_made_while_others_compute() {
    let compute = || {
        let stream = Stream::cpu().unwrap();
        for _ in 0..20 {
            assert_eq!(tens(&stream).to_vec::<f32>(&stream).unwrap(), [10.0; 100]);
        }
    };
    beside(2, compute, || {
        let mut held = Vec::new();
        for _ in 0..rounds(40) {
            // As many at a time as were never there before.
            held.extend((0..10).map(|_| Stream::cpu().unwrap()));
            tens(&held[0]).eval().unwrap();
        }
    });
}

#[test]
fn models_are_loaded_while_others_embed() {
    let serving = load(Some("mlx"), 1).unwrap();
    let expected = serving.embed_one("the cat sat").unwrap().vector;
    let embed = || assert_eq!(serving.embed_one("the cat sat").unwrap().vector, expected);
    beside(2, embed, || {
        let mut held = Vec::new();
        for round in 0..rounds(24) {
            held.push(load((round % 2 == 0).then_some("mlx"), 1).unwrap());
            held.last().unwrap().embed_one("loaded").unwrap();
        }
    });
}

#[test]
fn too_many_threads_are_an_error() {
    for threads in [1025, 100_000, usize::MAX] {
        let error = load(None, threads).unwrap_err();
        assert!(matches!(error, Error::Option { option: "threads", .. }), "{error:?}");
        assert!(error.to_string().contains("at most 1024"), "{error}");
    }
}

#[test]
#[ignore = "a child of the next"]
fn counts_its_threads() {
    let count = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let before = count();
    let stream = Stream::cpu().unwrap();
    assert_eq!(count(), before, "threads started with a stream that nobody has used");
    let x = Array::from_slice(&[1.0_f32; 4], &[4]).unwrap();
    ops::add(&x, &x, &stream).unwrap().eval().unwrap();
    assert_eq!(count(), before + 1, "an operation needs the stream's thread alone");
    tens(&stream).eval().unwrap();
    println!("counted");
}

/// OpenBLAS starts its threads when it is loaded, so nothing but a product loads it.
#[cfg(target_os = "linux")]
#[test]
fn threads_start_when_they_are_needed() {
    let output = child::of("counts_its_threads").output().unwrap();
    let said = child::said(&output);
    assert!(output.status.success() && said.contains("counted"), "{said}");
}

#[test]
fn a_stream_in_a_thread_local_is_dropped_with_its_thread() {
    use std::cell::RefCell;

    thread_local! {
        static KEPT: RefCell<Option<(Stream, Array)>> = const { RefCell::new(None) };
    }
    for _ in 0..100 {
        thread::spawn(|| {
            let stream = Stream::cpu().unwrap();
            let array = tens(&stream);
            array.eval().unwrap();
            let lazy = ops::add(&array, &array, &stream).unwrap();
            KEPT.set(Some((stream, lazy)));
        })
        .join()
        .unwrap();
    }
    thread::sleep(Duration::from_millis(1));
}
