//! Damaged checkpoints load or are refused with a reason, and what loads gives finite vectors: the inputs that fuzzers
//! found worth keeping (`fuzz/seeds`), and a few hundred at random.
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use std::fs;
use std::path::Path;

use mlx_embed_tests::damage::TARGETS;
use mlx_embed_tests::files;

fn body(target: &str) -> fn(&[u8]) {
    TARGETS.iter().find(|(name, _)| *name == target).unwrap().1
}

/// The input's name is in the output of a test that fails.
fn run_committed(target: &str) {
    let inputs = files::below(Path::new("fuzz/seeds").join(target));
    assert!(inputs.len() >= 3, "the inputs of {target} are missing");
    for path in inputs {
        println!("{}", path.display());
        body(target)(&fs::read(&path).unwrap());
    }
}

fn run_random(target: &str, inputs: u32) {
    let mut state = 0x9e37_79b9_u32;
    let mut draw = move || {
        // xorshift32
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    for _ in 0..inputs {
        let length = draw() % 200;
        let input: Vec<u8> = (0..length).map(|_| draw() as u8).collect();
        println!("{input:?}");
        body(target)(&input);
    }
}

#[test]
fn damaged_safetensors() {
    run_committed("safetensors");
    run_random("safetensors", 100);
}

#[test]
fn damaged_configs() {
    run_committed("config");
    run_random("config", 300);
}

#[test]
fn damaged_tokenizers() {
    run_committed("tokenizer");
    run_random("tokenizer", 300);
}

#[test]
fn damaged_torch_files() {
    run_committed("torch_file");
    run_random("torch_file", 300);
}

#[test]
fn contradictory_quantisations() {
    run_committed("quantization");
    run_random("quantization", 300);
}
