//! A process that ends while its threads load, embed and compute ends with its own code, whatever they are doing.
//!
//! `MLX_EMBED_EXITS` is the number of processes for each mode.
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use std::env;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use mlx_embed_tests::child;
use mlx_embed_tests::exits::{self, HANGS, LEAVES, TASK};

fn exits() -> Option<usize> {
    env::var("MLX_EMBED_EXITS").ok().map(|count| count.parse().unwrap())
}

/// The program that ends: this one, or that which `tools/checks/run abort` has built in another way.
fn program() -> Command {
    env::var_os("MLX_EMBED_EXIT_PROGRAM").map_or_else(|| child::of("child"), Command::new)
}

/// Runs `mode` as often as asked for, at different moments, half of the time to the end of `main` and else to an `exit`
/// with a code. Each has to be gone soon after it left, by far less than it takes for [`HANGS`]; how long that took is
/// printed where the number of exits is given.
fn ends_with_its_own_code(mode: &str) {
    let mut took = Vec::new();
    for round in 0..exits().unwrap_or(20) {
        let code = if round % 2 == 0 { 0 } else { 7 };
        let task = format!("{mode} {code} {}", round * 3 % 40);
        let (output, ended) = child::run(program().env(TASK, task), mode, 2 * HANGS);
        let (status, said) = (output.status, child::said(&output));
        assert_eq!(status.code(), Some(code), "{mode}, round {round}: {status}\n{said}");
        let left = said.split(LEAVES).nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
        let left = left.unwrap_or_else(|| panic!("{mode}, round {round}: {said}"));
        let left = UNIX_EPOCH + Duration::from_nanos(left);
        let after = ended.duration_since(left).unwrap_or_default();
        assert!(after < HANGS, "{mode}, round {round}: {after:?} from its exit to its end");
        took.push(after);
    }
    if exits().is_some() {
        took.sort();
        let at = |part: f64| took[(took.len() as f64 * part) as usize].as_secs_f64() * 1e3;
        let [median, nearly_all] = [0.5, 0.99].map(at);
        let most = took[took.len() - 1].as_secs_f64() * 1e3;
        println!("{mode}: {} exits took {median:.1} ms, 99 % {nearly_all:.1}, at most {most:.1}", took.len());
    }
}

#[test]
#[ignore = "a child of the others"]
fn child() {
    if let Ok(task) = env::var(TASK) {
        exits::run(&task);
    }
}

#[test]
fn while_an_embedder_embeds() {
    ends_with_its_own_code("embedder");
}

#[test]
fn while_embedders_compute_with_operations_of_mlx() {
    ends_with_its_own_code("embedder-mlx");
}

#[test]
fn while_an_embedder_in_a_static_embeds() {
    ends_with_its_own_code("static");
}

#[test]
fn while_threads_evaluate_arrays() {
    ends_with_its_own_code("arrays");
}

#[test]
fn while_models_are_loaded_and_dropped() {
    ends_with_its_own_code("load");
}

#[test]
fn while_models_are_loaded_in_the_background() {
    ends_with_its_own_code("background");
}
