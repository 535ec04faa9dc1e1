//! Operations that there is no memory for, in a process that is allowed little of it.
#![cfg(target_os = "linux")]
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{env, thread};

use mlx_embed::mlx::{Array, Stream, ops};

const INSIDE: &str = "MLX_EMBED_TEST_LITTLE_MEMORY";
const SIZE: i32 = 1 << 20;

#[test]
fn products_that_fail_write_to_nobody_elses_memory() {
    if env::var_os(INSIDE).is_some() {
        return fail_beside_another_thread();
    }
    // 3 GiB, in KiB.
    let output = Command::new("sh")
        .args(["-c", "ulimit -v 3145728; exec \"$@\"", "sh"])
        .arg(env::current_exe().unwrap())
        .args(["--exact", "products_that_fail_write_to_nobody_elses_memory", "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// A product copies its first operand, and finds no memory for a copy of the second. Another thread then gets the first
/// one's memory.
fn fail_beside_another_thread() {
    let ended = AtomicBool::new(false);
    let zeros = vec![0.0_f32; SIZE as usize];
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                let array = Array::from_slice(&zeros, &[SIZE]).unwrap();
                // The copy, had it got this memory, would be done by then, and it writes the last element last.
                thread::sleep(Duration::from_millis(10));
                assert_eq!(array.as_slice::<f32>().unwrap().last(), Some(&0.0));
            }
        });
        let stream = Stream::cpu().unwrap();
        let pairs = Array::from_slice(&vec![1.0_f32; 2 * SIZE as usize], &[SIZE, 2]).unwrap();
        let firsts =
            ops::slice_axis(&ops::transpose(&pairs, &[1, 0], &stream).unwrap(), 0, 0, 1, &stream).unwrap();
        let one = Array::from_slice(&[1.0_f32], &[1, 1]).unwrap();
        let many = ops::broadcast_to(&one, &[SIZE, 1024], &stream).unwrap();
        for _ in 0..500 {
            let product = ops::matmul(&firsts, &many, &stream).unwrap();
            let error = product.eval().unwrap_err();
            assert!(error.to_string().contains("no memory"), "{error}");
        }
        ended.store(true, Ordering::Relaxed);
        other.join().unwrap();
    });
}
