//! A process that is forked after a model was loaded: what is the parent's is an error in the child and never waited for,
//! and a model of the child's own works.
#![cfg(target_os = "linux")]
#![allow(unsafe_code, reason = "fork, which the standard library doesn't have")]
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use std::ffi::c_int;
use std::process::Command;
use std::thread;

use mlx_embed::{Embedder, Error, LoadOptions, Shutdown, State};

unsafe extern "C" {
    fn fork() -> c_int;
    fn waitpid(process: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn alarm(seconds: u32) -> u32;
    fn _exit(code: c_int) -> !;
}

fn load(kernels: Option<&str>) -> Embedder {
    let kernels = kernels.map(str::to_owned);
    Embedder::default_model_with(LoadOptions { kernels, ..Default::default() }).unwrap()
}

/// What a fork does; it has this thread alone.
fn in_fork(parents: Embedder, kernels: Option<&str>) -> bool {
    let forked = |error: &Error| error.to_string().contains("fork");
    let refused = parents.embed_one("a text").is_err_and(|error| forked(&error))
        && parents.embed([&"long ".repeat(3000)]).is_err_and(|error| forked(&error))
        && parents.warm_up().is_err_and(|error| forked(&error))
        && matches!(parents.state(), State::Dead { .. });
    parents.shut_down(Shutdown::Finish);
    drop(parents);
    refused && load(kernels).embed_one("a text").is_ok_and(|embedding| embedding.vector.len() == 384)
}

#[test]
#[ignore = "a child of the next"]
fn forks() {
    for kernels in [None, Some("mlx")] {
        let embedder = load(kernels);
        let others = embedder.clone();
        // While other threads use it, too.
        let works = thread::spawn(move || while others.embed(["the cat sat", "on the mat"]).is_ok() {});
        for _ in 0..5 {
            embedder.embed_one("a text").unwrap();
            // SAFETY: the child does what any process may do after a fork as far as this crate goes, and ends without
            // destructors, within a minute; the parent waits for it.
            let ended = unsafe {
                let child = fork();
                if child == 0 {
                    alarm(60);
                    _exit(if in_fork(embedder.clone(), kernels) { 42 } else { 1 });
                }
                let mut status = 0;
                assert_eq!(waitpid(child, &mut status, 0), child);
                status
            };
            // The code is in the second byte.
            assert_eq!(ended, 42 << 8, "{kernels:?}");
        }
        embedder.shut_down(Shutdown::Return);
        works.join().unwrap();
    }
    println!("forked");
}

/// A process of its own, since other tests' threads would be forked as well.
#[test]
fn a_fork_is_told_of_its_parents_models_and_loads_its_own() {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "forks", "--ignored", "--test-threads=1", "--nocapture"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(
        child.status.success() && said.contains("forked"),
        "{said}{}",
        String::from_utf8_lossy(&child.stderr)
    );
}
