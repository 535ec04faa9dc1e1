#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use std::ffi::c_int;
use std::process::Command;

use super::*;
use crate::mlx::{Array, memory, ops};

unsafe extern "C" {
    fn fork() -> c_int;
    fn waitpid(process: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn _exit(code: c_int) -> !;
}

fn product(stream: &Stream) -> Array {
    let ones = Array::from_slice(&[1.0_f32; 64 * 64], &[64, 64]).unwrap();
    ops::matmul(&ones, &ones, stream).unwrap()
}

/// What a fork does; it has this thread alone.
fn compute_in_fork(inherited: &Array) -> bool {
    let refused = inherited.eval().is_err_and(|error| error.message().contains("fork"));
    let stream = Stream::cpu().unwrap();
    memory::set_cache_limit(1 << 20).unwrap();
    memory::clear_cache().unwrap();
    refused && product(&stream).to_vec::<f32>(&stream).unwrap() == [64.0; 64 * 64]
}

#[test]
#[ignore = "a child of the next"]
fn forks() {
    let stream = Stream::cpu().unwrap();
    product(&stream).eval().unwrap();
    let lazy = product(&stream);
    // While another thread computes, too.
    std::thread::spawn(|| {
        let stream = Stream::cpu().unwrap();
        for _ in 0.. {
            product(&stream).eval().unwrap();
        }
    });
    for _ in 0..5 {
        // SAFETY: the child does what any process may do after a fork as far as this crate goes, and ends without
        // destructors; the parent waits for it.
        let ended = unsafe {
            let child = fork();
            if child == 0 {
                _exit(if compute_in_fork(&lazy) { 42 } else { 1 });
            }
            let mut status = 0;
            assert_eq!(waitpid(child, &mut status, 0), child);
            status
        };
        // The code is in the second byte.
        assert_eq!(ended, 42 << 8);
    }
    assert_eq!(lazy.to_vec::<f32>(&stream).unwrap(), [64.0; 64 * 64]);
    println!("forked");
}

/// A process of its own, since other tests' threads would be forked as well.
#[test]
fn a_fork_computes_on_streams_of_its_own() {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "mlx::stream::tests::forks", "--ignored", "--test-threads=1", "--nocapture"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(
        child.status.success() && said.contains("forked"),
        "{said}{}",
        String::from_utf8_lossy(&child.stderr)
    );
}

#[test]
fn streams_are_held_once_each() {
    let (a, b) = (Stream::cpu().unwrap(), Stream::cpu().unwrap());
    let both = a.held().and(b.held());
    assert_eq!(both.queues().len(), 2);
    assert_eq!(both.and(a.held()).queues().len(), 2);
    assert_eq!(b.held().and(&both).queues().len(), 2);
    assert_eq!(a.held().and(&Streams::default()).queues().len(), 1);
    assert_eq!(Streams::default().and(&Streams::default()).queues().len(), 0);
}
