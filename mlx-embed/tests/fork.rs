//! A process that is forked after MLX was used or a model loaded: what is the parent's is an error in the child and never
//! waited for, and streams and models of the child's own work.
#![cfg(target_os = "linux")]
#![allow(unsafe_code, reason = "fork, which the standard library doesn't have")]
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use std::ffi::c_int;
use std::future::Future;
use std::pin::Pin;
use std::process::Command;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use mlx_embed::mlx::{Array, Stream, memory, ops};
use mlx_embed::{EmbedOptions, Embedder, Error, LoadOptions, Shutdown, State, WhenFull};

unsafe extern "C" {
    fn fork() -> c_int;
    fn waitpid(process: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn alarm(seconds: u32) -> u32;
    fn _exit(code: c_int) -> !;
}

/// Asserts that `work` says yes in a fork, which has this thread alone.
fn assert_in_fork(work: impl FnOnce() -> bool) {
    // SAFETY: the child does what any process may do after a fork as far as this crate goes, and ends without destructors,
    // within a minute; the parent waits for it.
    let ended = unsafe {
        let child = fork();
        if child == 0 {
            alarm(60);
            _exit(if work() { 42 } else { 1 });
        }
        let mut status = 0;
        assert_eq!(waitpid(child, &mut status, 0), child);
        status
    };
    // The code is in the second byte.
    assert_eq!(ended, 42 << 8);
}

/// Runs a test of this file in a process of its own, since other tests' threads would be forked as well.
fn assert_alone(test: &str) {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--test-threads=1", "--nocapture"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(
        child.status.success() && said.contains("forked"),
        "{said}{}",
        String::from_utf8_lossy(&child.stderr)
    );
}

fn product(stream: &Stream) -> Array {
    let ones = Array::from_slice(&[1.0_f32; 64 * 64], &[64, 64]).unwrap();
    ops::matmul(&ones, &ones, stream).unwrap()
}

/// What a fork computes.
fn computes(inherited: &Array) -> bool {
    let refused = inherited.eval().is_err_and(|error| error.message().contains("fork"));
    let stream = Stream::cpu().unwrap();
    memory::set_cache_limit(1 << 20).unwrap();
    memory::clear_cache().unwrap();
    refused && product(&stream).to_vec::<f32>(&stream).unwrap() == [64.0; 64 * 64]
}

#[test]
#[ignore = "a child of the next"]
fn forks_while_streams_compute() {
    let stream = Stream::cpu().unwrap();
    product(&stream).eval().unwrap();
    let lazy = product(&stream);
    // While other threads compute, and make streams.
    thread::spawn(|| {
        let stream = Stream::cpu().unwrap();
        for _ in 0.. {
            product(&stream).eval().unwrap();
        }
    });
    thread::spawn(|| {
        let streams: Vec<Stream> = (0..1000).map(|_| Stream::cpu().unwrap()).collect();
        streams.len()
    });
    for _ in 0..50 {
        assert_in_fork(|| computes(&lazy));
    }
    assert_eq!(lazy.to_vec::<f32>(&stream).unwrap(), [64.0; 64 * 64]);
    println!("forked");
}

#[test]
fn a_fork_computes_on_streams_of_its_own() {
    assert_alone("forks_while_streams_compute");
}

fn load(kernels: Option<&str>) -> Embedder {
    let kernels = kernels.map(str::to_owned);
    Embedder::default_model_with(LoadOptions { kernels, ..Default::default() }).unwrap()
}

/// What a fork asks of its parent's model, and of its own.
fn embeds(parents: Embedder, kernels: Option<&str>) -> bool {
    let forked = |error: &Error| error.to_string().contains("fork");
    let refused = parents.embed_one("a text").is_err_and(|error| forked(&error))
        && parents.embed([&"long ".repeat(3000)]).is_err_and(|error| forked(&error))
        && parents.warm_up().is_err_and(|error| forked(&error))
        && matches!(parents.state(), State::Dead { .. });
    parents.shut_down(Shutdown::Finish);
    drop(parents);
    let own = load(kernels);
    let computed = own.embed_one("a text").is_ok_and(|embedding| embedding.vector.len() == 384);
    // What is the child's own is not its child's.
    assert_in_fork(|| own.embed_one("a text").is_err_and(|error| forked(&error)));
    refused && computed
}

#[test]
#[ignore = "a child of the next"]
fn forks_while_models_embed() {
    for kernels in [None, Some("mlx")] {
        let embedder = load(kernels);
        let others = embedder.clone();
        // While other threads use it, too.
        let works = thread::spawn(move || while others.embed(["the cat sat", "on the mat"]).is_ok() {});
        for _ in 0..5 {
            embedder.embed_one("a text").unwrap();
            assert_in_fork(|| embeds(embedder.clone(), kernels));
        }
        embedder.shut_down(Shutdown::Return);
        works.join().unwrap();
    }
    println!("forked");
}

/// Polls once, with a waker that nobody listens to.
fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
#[ignore = "a child of the next"]
fn forks_while_requests_are_under_way() {
    let embedder = load(None);
    let texts: Vec<String> = (0..2000).map(|number| format!("{number} and some words more")).collect();
    let options = EmbedOptions { timeout: Some(Duration::from_secs(3600)), ..Default::default() };
    let forked = |error: &Error| error.to_string().contains("fork");
    for round in 0..10 {
        let submit =
            || embedder.submit(&texts, &EmbedOptions { when_full: Some(WhenFull::Wait), ..options.clone() });
        let (waited, mut polled, dropped) = (submit(), submit(), submit());
        assert!(poll_once(&mut polled).is_pending());
        let mut drawn = embedder.embed_iter(&texts, &options);
        drawn.next().unwrap().unwrap();
        let tokenised = embedder.submit(&["long ".repeat(3000)], &options);
        let folder = format!("no such folder {round}");
        let mut loading = Embedder::load_in_background(&folder, LoadOptions::default());
        assert_in_fork(|| {
            let told = waited.is_done()
                && waited.wait().is_err_and(|error| forked(&error))
                && matches!(poll_once(&mut polled), Poll::Ready(Err(error)) if forked(&error))
                && tokenised.wait().is_err_and(|error| forked(&error))
                && drawn.find_map(Result::err).is_some_and(|error| forked(&error))
                && loading.is_done()
                && matches!(poll_once(&mut loading), Poll::Ready(Err(error)) if forked(&error))
                && loading.wait().is_err_and(|error| forked(&error));
            drop((dropped, polled, drawn, embedder.clone()));
            told
        });
    }
    println!("forked");
}

#[test]
fn a_fork_is_told_of_its_parents_requests() {
    assert_alone("forks_while_requests_are_under_way");
}

#[test]
fn a_fork_is_told_of_its_parents_models_and_loads_its_own() {
    assert_alone("forks_while_models_embed");
}
