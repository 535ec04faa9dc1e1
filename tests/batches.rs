//! A text's vector does not depend on what else is in the call, and calls don't depend on their thread.
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use std::num::NonZeroUsize;
use std::thread;

use mlx_embed::{Device, EmbedOptions, Embedder, Embedding, LoadOptions, Precision};
use mlx_embed_tests::compare::max_abs;
use mlx_embed_tests::golden::{self, Golden};

/// Largest difference between a text alone and in company. On the CPU both are f32 and differ by the order of
/// additions alone; on a GPU kernels are chosen by batch size and round to bf16.
fn tolerance() -> f32 {
    if golden::on_gpu() { 2e-2 } else { 1e-6 }
}

const CASES: [&str; 8] = [
    "qwen3-f32",
    "qwen3-affine-4bit-g64",
    "qwen2-affine-4bit-g64",
    "st-mean",
    "qwen3-rope-dynamic",
    // Of sizes that the kernels for NVIDIA GPUs run.
    "qwen3-head-dim-128-affine-4bit-g64",
    "qwen3-head-dim-64-yarn-bf16",
    // With scales of f16.
    "qwen3-three-layers-affine-4bit-g64",
];

fn texts(case: &str) -> Vec<String> {
    Golden::read(case).texts.into_iter().map(|text| text.text).collect()
}

fn alone(embedder: &Embedder, texts: &[String]) -> Vec<Embedding> {
    texts.iter().map(|text| embedder.embed([text]).unwrap().remove(0)).collect()
}

fn assert_same(case: &str, found: &[Embedding], expected: &[Embedding]) {
    assert_eq!(found.len(), expected.len());
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let difference = max_abs(&found.vector, &expected.vector);
        assert!(difference <= tolerance(), "{case}: text {index} differs by {difference:e}");
        assert_eq!((found.tokens, found.truncated), (expected.tokens, expected.truncated));
    }
}

#[test]
fn kernels_for_the_cpu_change_no_bit_by_the_company_of_a_text() {
    for precision in [Precision::Exact, Precision::Fast] {
        for case in CASES {
            let options = LoadOptions { precision, device: Device::Cpu, ..golden::load_options() };
            let embedder = Embedder::load_with(golden::directory(case), options).unwrap();
            let texts = texts(case);
            let in_company = embedder.embed(&texts).unwrap();
            for (a, b) in in_company.iter().zip(alone(&embedder, &texts)) {
                assert_eq!(a.vector, b.vector, "{case}, {precision}");
            }
        }
    }
}

#[test]
fn right_padding_does_not_change_a_row() {
    for case in CASES {
        let (embedder, texts) = (golden::load(case), texts(case));
        assert_same(case, &embedder.embed(&texts).unwrap(), &alone(&embedder, &texts));
    }
}

#[test]
fn an_equal_length_batch_does_not_change_a_row() {
    for case in CASES {
        let (embedder, texts) = (golden::load(case), texts(case));
        for (text, expected) in texts.iter().zip(alone(&embedder, &texts)) {
            let copies = vec![text; 7];
            assert_same(case, &embedder.embed(&copies).unwrap(), &vec![expected; 7]);
        }
    }
}

/// On an NVIDIA GPU batches of one shape are launched kernel by kernel at first, and then as one.
#[test]
fn the_first_batches_of_a_shape_have_the_bits_of_later_ones() {
    const ROUNDS: u32 = 24;
    for case in CASES {
        let round = |round: u32| -> Vec<Vec<u32>> {
            let text = |length: u32| (0..length).map(|i| (7 * round + 3 * length + i) % 50).collect();
            [5, 9, 12].map(text).to_vec()
        };
        let in_order = |rounds: &mut dyn Iterator<Item = u32>| -> Vec<(u32, Vec<Embedding>)> {
            let embedder = golden::load(case);
            rounds
                .map(|number| {
                    (number, embedder.embed_token_ids(round(number), &EmbedOptions::default()).unwrap())
                })
                .collect()
        };
        let forwards = in_order(&mut (0..ROUNDS));
        let backwards = in_order(&mut (0..ROUNDS).rev());
        for ((number, first), (_, second)) in forwards.iter().zip(backwards.iter().rev()) {
            for (a, b) in first.iter().zip(second) {
                assert_eq!(a.vector, b.vector, "{case}, round {number}");
            }
        }
    }
}

#[test]
fn order_is_restored() {
    for case in CASES {
        let (embedder, mut texts) = (golden::load(case), texts(case));
        let mut expected = alone(&embedder, &texts);
        for _ in 0..4 {
            // A fixed shuffle that mixes lengths.
            let half = texts.len() / 2;
            texts.rotate_left(3);
            texts[..half].reverse();
            expected.rotate_left(3);
            expected[..half].reverse();
            assert_same(case, &embedder.embed(&texts).unwrap(), &expected);
        }
    }
}

#[test]
fn a_small_token_budget_only_makes_more_batches() {
    for batch_tokens in [1, 16, 100] {
        let bounded = |options: &mut LoadOptions| options.batch_tokens = NonZeroUsize::new(batch_tokens);
        let embedder = golden::load_with("qwen3-f32", bounded);
        let texts = texts("qwen3-f32");
        let expected = golden::load("qwen3-f32").embed(&texts).unwrap();
        assert_same("qwen3-f32", &embedder.embed(&texts).unwrap(), &expected);
    }
}

#[test]
fn the_same_call_gives_the_same_bits() {
    let (embedder, texts) = (golden::load("qwen3-affine-4bit-g64"), texts("qwen3-affine-4bit-g64"));
    let vectors = || -> Vec<Vec<f32>> {
        embedder.embed(&texts).unwrap().into_iter().map(|embedding| embedding.vector).collect()
    };
    let first = vectors();
    for _ in 0..3 {
        assert_eq!(vectors(), first);
    }
}

#[test]
fn many_threads_share_one_embedder() {
    let (embedder, texts) = (golden::load("qwen3-affine-4bit-g64"), texts("qwen3-affine-4bit-g64"));
    let expected = alone(&embedder, &texts);
    thread::scope(|scope| {
        for start in 0..16 {
            let (embedder, texts, expected) = (embedder.clone(), &texts, &expected);
            scope.spawn(move || {
                for round in 0..20 {
                    let index = (start + round) % texts.len();
                    let found = embedder.embed([&texts[index]]).unwrap();
                    assert_same("shared", &found, &expected[index..=index]);
                }
            });
        }
    });
}

#[test]
fn two_models_in_one_process_do_not_disturb_each_other() {
    thread::scope(|scope| {
        for case in ["qwen3-affine-4bit-g64", "qwen2-f32", "st-mean", "qwen3-mxfp4"] {
            scope.spawn(move || {
                let (embedder, texts) = (golden::load(case), texts(case));
                let expected = alone(&embedder, &texts);
                for _ in 0..10 {
                    assert_same(case, &embedder.embed(&texts).unwrap(), &expected);
                }
            });
        }
    });
}
