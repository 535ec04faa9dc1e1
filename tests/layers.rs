//! What measuring a pass tells, on every kind of kernels.
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::time::Duration;

use mlx_embed::bench::{Arithmetic, Bench, Level, Part, Roofline, Sample, Shape, Work};
use mlx_embed::{Device, Embedder, Error, InputError, LoadOptions, Precision, kernel_families};

const SHAPE: Shape = Shape { texts: 2, tokens: 7 };

/// What a layer of the built-in model computes.
const LAYER: [Part; 10] = [
    Part::InputNorm,
    Part::Qkv,
    Part::HeadNorms,
    Part::Rope,
    Part::Attention,
    Part::Output,
    Part::PostAttentionNorm,
    Part::GateUp,
    Part::SwiGlu,
    Part::Down,
];

fn load(kernels: &str, precision: Precision) -> Embedder {
    let options = LoadOptions {
        device: Device::Cpu,
        kernels: Some(kernels.to_owned()),
        precision,
        threads: NonZeroUsize::new(2),
        ..Default::default()
    };
    Embedder::default_model_with(options).unwrap()
}

fn layer_samples(samples: &[Sample], layer: usize) -> Vec<&Sample> {
    samples.iter().filter(|sample| sample.layer == Some(layer)).collect()
}

#[test]
fn every_part_of_every_layer_is_measured_once() {
    for kernels in kernel_families().into_iter().chain(["mlx"]) {
        let embedder = load(kernels, Precision::Exact);
        let mut bench = Bench::new(&embedder).unwrap();
        let samples = bench.pass(SHAPE, Level::Operations).unwrap();
        for layer in 0..embedder.info().config.layers {
            let parts: Vec<Part> = layer_samples(&samples, layer)
                .iter()
                .flat_map(|sample| sample.operation.parts())
                .copied()
                .collect();
            assert_eq!(parts, LAYER, "{kernels}, layer {layer}");
        }
        let outside: BTreeSet<Part> = samples
            .iter()
            .filter(|sample| sample.layer.is_none())
            .flat_map(|sample| sample.operation.parts())
            .copied()
            .collect();
        assert_eq!(outside, BTreeSet::from([Part::Gather, Part::FinalNorm, Part::Pooling]), "{kernels}");
    }
}

#[test]
fn what_is_computed_while_it_is_built_is_the_devices_time() {
    // Attention has too many scores to hold at once, so MLX computes some queries' after the others'.
    let shape = Shape { texts: 12, tokens: 512 };
    let mut bench = Bench::new(&load("mlx", Precision::Exact)).unwrap();
    let mut samples = bench.layers(shape, Level::Operations, 1).unwrap();
    samples.extend(bench.layers(shape, Level::Layers, 1).unwrap());
    samples.extend(bench.pass(shape, Level::Model).unwrap());
    for part in [Part::Attention, Part::Layer, Part::Model] {
        let sample = samples.iter().find(|sample| sample.operation.parts() == [part]).unwrap();
        assert!(sample.device > sample.host, "{sample:?}");
    }
}

#[test]
fn what_kernels_fuse_is_one_operation_named_after_its_parts() {
    let names = |kernels: &str| -> Vec<String> {
        let mut bench = Bench::new(&load(kernels, Precision::Exact)).unwrap();
        let samples = bench.pass(SHAPE, Level::Operations).unwrap();
        layer_samples(&samples, 0).iter().map(|sample| sample.operation.to_string()).collect()
    };
    let host = names("portable");
    assert!(host.contains(&"post-attention RMSNorm + gate/up + SwiGLU".to_owned()), "{host:?}");
    assert!(host.contains(&"input RMSNorm + q/k/v".to_owned()), "{host:?}");
    let mlx = names("mlx");
    assert_eq!(mlx, host);
    assert!(mlx.contains(&"q/k norm + RoPE".to_owned()), "{mlx:?}");
}

#[test]
fn a_pass_has_the_work_of_its_layers() {
    let embedder = load("portable", Precision::Exact);
    let mut bench = Bench::new(&embedder).unwrap();
    let model = bench.pass(SHAPE, Level::Model).unwrap();
    let [model] = &model[..] else { panic!("{model:?}") };
    let layers = bench.pass(SHAPE, Level::Layers).unwrap();
    let config = &embedder.info().config;
    assert_eq!(layers.iter().filter(|sample| sample.layer.is_some()).count(), config.layers);
    let sum: f64 = layers.iter().map(|sample| sample.work.total_operations()).sum();
    let whole = model.work.total_operations();
    assert!(sum < whole && whole < sum * 1.01, "{sum} of {whole}");
    // Two for each weight of a layer and token, and what attention and norms add.
    let [hidden, intermediate] = [config.hidden_size, config.intermediate_size].map(f64::from);
    let heads = f64::from((2 * config.heads + 2 * config.kv_heads) * config.head_dim);
    let tokens = (SHAPE.texts * SHAPE.tokens) as f64;
    let products = 2.0 * tokens * hidden * (heads + 3.0 * intermediate) * config.layers as f64;
    assert!(products < whole && whole < products * 1.05, "{products} of {whole}");
    // The weights alone have to be read.
    let weights = (embedder.info().parameters as f64 - hidden * f64::from(config.vocab_size)) / 2.0;
    assert!(
        model.work.bytes > weights && model.work.bytes < weights * 1.5,
        "{} of {weights}",
        model.work.bytes
    );
}

#[test]
fn precision_decides_what_is_multiplied() {
    let products = |kernels, precision| {
        let mut bench = Bench::new(&load(kernels, precision)).unwrap();
        let samples = bench.pass(SHAPE, Level::Operations).unwrap();
        let of = |part: Part| {
            let sample = samples.iter().find(|sample| sample.operation.parts().contains(&part)).unwrap();
            let [(arithmetic, _)] = sample.work.operations[..] else { panic!("{sample:?}") };
            arithmetic
        };
        [of(Part::Qkv), of(Part::Down), of(Part::Attention)]
    };
    use Arithmetic::{F32, Int8, Int16};
    assert_eq!(products("portable", Precision::Exact), [Int16, Int16, F32]);
    assert_eq!(products("portable", Precision::Fast), [Int8, Int8, F32]);
    assert_eq!(products("mlx", Precision::Exact), [F32, F32, F32]);
}

#[test]
fn layers_come_in_turn() {
    let embedder = load("portable", Precision::Exact);
    let mut bench = Bench::new(&embedder).unwrap();
    let mut seen = Vec::new();
    for _ in 0..6 {
        let samples = bench.layers(SHAPE, Level::Layers, 1).unwrap();
        seen.extend(samples.iter().filter_map(|sample| sample.layer));
    }
    assert_eq!(embedder.info().config.layers, 4);
    assert_eq!(seen, [0, 1, 2, 3, 0, 1]);
    let ends = bench.ends(SHAPE, Level::Operations).unwrap();
    assert_eq!(ends.first().unwrap().operation.parts(), [Part::Gather]);
    assert_eq!(ends.last().unwrap().operation.parts(), [Part::Pooling]);
}

#[test]
fn times_are_there_and_apart() {
    let mut bench = Bench::new(&load("mlx", Precision::Exact)).unwrap();
    for level in [Level::Operations, Level::Layers, Level::Model] {
        let [mut host, mut device] = [Duration::ZERO; 2];
        for sample in bench.pass(SHAPE, level).unwrap() {
            host += sample.host;
            device += sample.device;
        }
        // A single operation may be over before a coarse clock ticks.
        assert!(!host.is_zero() && !device.is_zero(), "{level:?}");
    }
}

#[test]
fn the_roofline_is_that_of_a_device() {
    let mut bench = Bench::new(&load("portable", Precision::Exact)).unwrap();
    let mut roofline = bench.roofline().unwrap();
    let Roofline { f32, int16, int8, half, bytes } = roofline;
    // How fast a device is can't be said, only that it moves, and that what was measured was measured.
    for rate in [f32, int16, int8, Some(bytes)].into_iter().flatten() {
        assert!(rate.is_finite() && rate > 0.0, "{roofline:?}");
    }
    assert_eq!((f32.is_some(), half), (int16.is_some(), None), "{roofline:?}");
    let lower = Roofline { f32: Some(1.0), ..Roofline::default() };
    let before = roofline;
    roofline.raise(&lower);
    assert_eq!(roofline.f32, before.f32.or(Some(1.0)));
    assert_eq!(roofline.bytes, before.bytes);
    // What lies in caches is under no roof of memory.
    bench.keep_caches();
    assert!(bench.roofline().unwrap().bytes.is_infinite());
}

#[test]
fn the_nearer_roof_sets_the_least_time() {
    let roofline = Roofline { f32: Some(100.0), int8: Some(400.0), bytes: 10.0, ..Roofline::default() };
    let work = |operations, bytes| Work { operations, bytes };
    let computing = work(vec![(Arithmetic::F32, 200.0), (Arithmetic::Int8, 400.0)], 10.0);
    assert_eq!(roofline.least_time(&computing), Some(Duration::from_secs(3)));
    assert!(!roofline.memory_bound(&computing));
    let moving = work(vec![(Arithmetic::F32, 200.0)], 50.0);
    assert_eq!(roofline.least_time(&moving), Some(Duration::from_secs(5)));
    assert!(roofline.memory_bound(&moving));
    // A roof that nobody measured.
    assert_eq!(roofline.least_time(&work(vec![(Arithmetic::Half, 1.0)], 1.0)), None);
}

#[test]
fn shapes_that_the_model_cannot_run_are_refused() {
    let mut bench = Bench::new(&load("portable", Precision::Exact)).unwrap();
    for (texts, tokens) in [(0, 1), (1, 0)] {
        let error = bench.pass(Shape { texts, tokens }, Level::Model).unwrap_err();
        assert!(matches!(error, Error::Input { source: InputError::Empty, .. }), "{error}");
    }
    let error = bench.pass(Shape { texts: 1, tokens: 513 }, Level::Model).unwrap_err();
    let too_long = matches!(error, Error::Input { source: InputError::TooLong { tokens: 513, .. }, .. });
    assert!(too_long, "{error}");
}
