//! A process that ends while its threads load, embed and compute ends with its own code, whatever they are doing.
//!
//! `MLX_EMBED_EXITS` is the number of processes for each mode.
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, SystemTime};
use std::{env, thread};

use mlx_embed_tests::exits::{self, HANGS, LEAVES, TASK};

fn exits() -> Option<usize> {
    env::var("MLX_EMBED_EXITS").ok().map(|count| count.parse().unwrap())
}

/// The program that ends: this one, or that which `tools/checks/run abort` has built in another way.
fn program() -> Command {
    env::var_os("MLX_EMBED_EXIT_PROGRAM").map_or_else(
        || {
            let mut program = Command::new(env::current_exe().unwrap());
            program.args(["--exact", "child", "--ignored", "--test-threads=1", "--nocapture"]);
            program
        },
        Command::new,
    )
}

/// Runs `mode` as often as asked for, at different moments, half of the time to the end of `main` and else to an `exit`
/// with a code. Each has to be gone soon after it left, by far less than it takes for [`HANGS`]; how long that took is
/// printed where the number of exits is given.
fn ends_with_its_own_code(mode: &str) {
    let mut took = Vec::new();
    for round in 0..exits().unwrap_or(20) {
        let code = if round % 2 == 0 { 0 } else { 7 };
        let child = program()
            .env(TASK, format!("{mode} {code} {}", round * 3 % 40))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (Output { status, stdout, stderr }, ended) = finish(child, mode);
        let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert_eq!(status.code(), Some(code), "{mode}, round {round}: {status}\n{said}");
        let left = said.split(LEAVES).nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
        let left = left.unwrap_or_else(|| panic!("{mode}, round {round}: {said}"));
        let after = ended.saturating_sub(Duration::from_nanos(left));
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

/// Waits for the end, and says when that was, since 1970.
fn finish(mut child: Child, mode: &str) -> (Output, Duration) {
    let start = SystemTime::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed().is_ok_and(|elapsed| elapsed > 2 * HANGS) {
            child.kill().unwrap();
            panic!("{mode}: did not end in {:?}", 2 * HANGS);
        }
        thread::sleep(Duration::from_millis(1));
    }
    let ended = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    (child.wait_with_output().unwrap(), ended)
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
