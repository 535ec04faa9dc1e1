//! Operations that there is no memory for, or no thread, in a process that is allowed little of it.
#![cfg(target_os = "linux")]
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, ExitStatus, Output, exit};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{env, thread};

use mlx_embed::mlx::{Array, Dtype, MlxError, Stream, ops};
use tempfile::tempdir;

const INSIDE: &str = "MLX_EMBED_TEST_LITTLE_MEMORY";
const SIZE: i32 = 1 << 20;

/// Runs a test of this file in a process of its own, behind a shell's commands.
fn inside(test: &str, commands: &str, variables: &[(&str, &str)]) -> Output {
    Command::new("sh")
        .args(["-c", &format!("{commands} exec \"$@\""), "sh"])
        .arg(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .envs(variables.iter().copied())
        .output()
        .unwrap()
}

#[test]
fn products_that_fail_write_to_nobody_elses_memory() {
    if env::var_os(INSIDE).is_some() {
        return fail_beside_another_thread();
    }
    // 3 GiB, in KiB.
    let output = inside("products_that_fail_write_to_nobody_elses_memory", "ulimit -v 3145728;", &[]);
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

#[test]
fn streams_without_a_thread_keep_nobody_waiting() {
    if env::var_os(INSIDE).is_some() {
        return evaluate_without_threads();
    }
    // A thread's stack is as large as the first limit says, unless it asks for another size.
    let limits = "ulimit -S -s 4194304; ulimit -S -v 3145728;";
    let output = inside("streams_without_a_thread_keep_nobody_waiting", limits, &[]);
    assert!(output.status.success(), "{output:?}");
}

/// Nothing can be computed until the process may have as much memory as it likes. Then everything can.
fn evaluate_without_threads() {
    let x = Array::from_slice(&[1.0_f32, 2.0], &[2]).unwrap();
    let double = || ops::add(&x, &x, &Stream::cpu()?)?.as_slice::<f32>().map(<[f32]>::to_vec);
    for round in 0..300 {
        let error = double().expect_err("a thread");
        assert!(error.to_string().contains("unavailable"), "round {round}: {error}");
    }
    let process = format!("--pid={}", std::process::id());
    assert!(Command::new("prlimit").args([&process, "--as=unlimited:"]).status().unwrap().success());
    let watch = thread::spawn(|| {
        thread::sleep(Duration::from_secs(120));
        eprintln!("it hangs");
        exit(1);
    });
    for _ in 0..300 {
        assert_eq!(double().unwrap(), [2.0, 4.0]);
    }
    drop(watch);
}

#[test]
fn small_allocations_that_fail_end_the_process_or_are_errors() {
    if env::var_os(INSIDE).is_some() {
        exit(i32::from(catch_unwind(AssertUnwindSafe(compute_again)).is_err()));
    }
    let dir = tempdir().unwrap();
    let library = dir.path().join("fails.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/no_memory/fails.cpp");
    let compiled = Command::new("c++")
        .args(["-std=c++17", "-shared", "-fPIC", "-o"])
        .arg(&library)
        .args([source, "-ldl"])
        .output()
        .unwrap();
    assert!(compiled.status.success(), "{compiled:?}");
    let variables = [("LD_PRELOAD", library.to_str().unwrap()), ("FAILS_STEP", "1")];
    let output = inside("small_allocations_that_fail_end_the_process_or_are_errors", "", &variables);
    let (said, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let ends: Vec<ExitStatus> = said
        .lines()
        .filter_map(|line| line.strip_prefix("allocation ")?.split_once(": "))
        .map(|(_, status)| ExitStatus::from_raw(status.parse().unwrap()))
        .collect();
    let aborted = ends.iter().filter(|end| end.signal() == Some(6)).count();
    let whole = ends.iter().filter(|end| end.success()).count();
    println!("{} allocations: {aborted} ended the process, {whole} did not", ends.len());
    assert!(output.status.success() && ends.len() > 100, "{said}{told}");
    assert_eq!(aborted + whole, ends.len(), "{said}{told}");
    // Where nothing may be thrown, C++ says so.
    let reasons = ["no memory for a task of MLX's", "instance of 'std::bad_alloc'"];
    let explained: usize = reasons.iter().map(|reason| told.matches(reason).count()).sum();
    assert_eq!(aborted, explained, "{said}{told}");
    assert!(aborted > 0 && whole > 0, "{said}{told}");
}

/// What fails once is right the next time, on this thread and on another.
fn compute_again() {
    let expected = [8.0_f32, 10.0, 16.0, 18.0];
    let compute = || {
        compute().or_else(|error| {
            eprintln!("{error}");
            compute()
        })
    };
    assert_eq!(compute().unwrap(), expected);
    assert_eq!(compute().unwrap(), expected);
    assert_eq!(thread::spawn(move || compute().unwrap()).join().unwrap(), expected);
}

/// A few operations on two streams.
fn compute() -> Result<Vec<f32>, MlxError> {
    let (one, two) = (Stream::cpu()?, Stream::cpu()?);
    let x = Array::from_slice(&[1.0_f32, 2.0, 3.0, 4.0], &[2, 2])?;
    let halves = ops::astype(&x, Dtype::F16, &one)?;
    let turned = ops::transpose(&halves, &[1, 0], &two)?;
    let twice = ops::concatenate(&[turned.clone(), turned], 1, &one)?;
    let ids = Array::from_slice(&[0_u32, 0], &[2])?;
    let rows = ops::take(&twice, &ids, 0, &two)?;
    let square = ops::slice_axis(&rows, 1, 0, 2, &one)?;
    // Of rows [1, 3].
    let product = ops::matmul(&halves, &ops::transpose(&square, &[1, 0], &one)?, &two)?;
    let more = ops::add(&product, &ops::broadcast_to(&square, &[2, 2], &one)?, &one)?;
    let flat = ops::reshape(&more, &[4], &two)?;
    ops::astype(&flat, Dtype::F32, &one)?.to_vec(&two)
}
