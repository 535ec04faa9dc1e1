//! Each check can fail. What takes a whole checkpoint to plant is in the workspace's `tests/verify.rs`.

use std::path::Path;

use super::*;
use crate::options::LoadOptions;
use crate::runner::Device;

/// Ids below the golden checkpoints' vocabulary, without a pattern.
fn ids(count: usize, seed: usize) -> Vec<u32> {
    (0..count).map(|place| ((place * 31 + seed) * 7919 % 280) as u32).collect()
}

fn check(found: &Verification, question: Question) -> &Check {
    found.checks.iter().find(|check| check.question == question).unwrap()
}

#[test]
fn company_that_changes_a_text_is_found() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/qwen3-rope-dynamic");
    if !dir.is_dir() {
        return;
    }
    let options = LoadOptions {
        device: Device::Cpu,
        kernels: Some("mlx".into()),
        max_tokens: Some(64),
        ..LoadOptions::default()
    };
    let embedder = Embedder::load_with(dir, options).unwrap();
    let texts = vec![ids(5, 1), ids(60, 2), ids(9, 3)];
    // Positions stretch with the longest text of a batch: put together, the short ones change.
    let verify = |apart| {
        let tokens = |text: &GoldenText| Ok(text.tokens());
        let texts = texts.clone();
        let (shared, normalized, embed) = (embedder.shared(), true, embed::<Embedding> as Embed);
        let verifier = Verifier { shared, tokens: &tokens, texts, apart, normalized, embed };
        verifier.run(None).unwrap()
    };
    let together = verify(false);
    assert_eq!(together.first_divergent_layer, Some(Layer::Decoder(0)));
    assert!(!together.passed && !check(&together, Question::Padded).passed);
    assert!(check(&together, Question::EqualLengths).passed && check(&together, Question::Shuffled).passed);
    let apart = verify(true);
    assert!(apart.passed, "{:?}", apart.failures);
}

#[test]
fn a_bit_that_differs_is_found_where_the_same_bits_are_asked_for() {
    let mut worst = vec![Worst::default(); 4];
    for (state, worst) in worst.iter_mut().enumerate() {
        let flipped = f32::from_bits(1.0_f32.to_bits() ^ u32::from(state == 2));
        worst.add(relative_error(&[flipped, 2.0], &[1.0, 2.0]), 7);
    }
    let check = Check::of(Question::Determinism, &worst, 0.0);
    assert!(!check.passed && check.error > 0.0);
    assert_eq!((check.first_divergent_layer, check.text), (Some(Layer::Decoder(1)), Some(7)));
    assert!(Check::of(Question::Determinism, &worst[..2], 0.0).passed);
    assert!(Check::of(Question::Padded, &worst, 1e-6).passed);
}

#[test]
fn few_tokens_may_stray_where_rounding_is_coarse_and_none_where_it_is_not() {
    let report = |step: f64, strays: f64, bad: usize| {
        let tolerance = Tolerance { step, strays, cosine: 0.0, max_abs: 1.0, company: 0.0 };
        let mut all = Differences::default();
        (0..100).for_each(|token| all.add(if token < bad { 50.0 } else { 0.0 }, 0, token));
        all.report(Layer::Decoder(0), 1, &tolerance).passed
    };
    assert!(report(1e-2, 0.02, 2) && !report(1e-2, 0.02, 3));
    assert!(report(6e-5, 0.0, 0) && !report(6e-5, 0.0, 1));
}

#[test]
fn a_median_beyond_its_tolerance_fails_though_no_token_does() {
    let tolerance = Tolerance { step: 1e-2, strays: 0.02, cosine: 0.0, max_abs: 1.0, company: 0.0 };
    let report = |error: f64, layer: usize| {
        let mut all = Differences::default();
        (0..9).for_each(|token| all.add(error, 0, token));
        all.report(Layer::Decoder(layer), 9, &tolerance).passed
    };
    // 3e-2 after the first layer, 9e-2 after the ninth.
    assert!(report(2.9e-2, 0) && !report(3.1e-2, 0) && report(8.9e-2, 8) && !report(9.1e-2, 8));
}

#[test]
fn others_of_a_length_differ_and_shuffling_loses_no_text() {
    let equals = equals_of(&ids(9, 4));
    assert!(equals.iter().all(|text| text.len() == 9));
    assert!((1..equals.len()).all(|other| equals[other] != equals[0]));
    for length in [0, 1, 2, 11] {
        for round in 0..SHUFFLES {
            let mut order: Vec<usize> = (0..length).collect();
            shuffle(&mut order, round);
            assert!(length < 3 || !order.is_sorted(), "{order:?}");
            order.sort_unstable();
            assert!(order.into_iter().eq(0..length));
        }
    }
}
