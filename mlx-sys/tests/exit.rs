//! Threads may compute while the process ends, and the end may come from the handler of a signal.
#![cfg(target_os = "linux")]

mod support;

use std::ffi::c_int;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use mlx_sys as sys;
use support::{Array, Stream, call};

const CODE: c_int = 5;

/// What takes longer hangs, also on a machine with other things to do.
const HANGS: Duration = Duration::from_secs(60);

static ROUNDS: AtomicUsize = AtomicUsize::new(0);

fn compute_for_ever() {
    let stream = Stream::cpu();
    let a = Array::noise(&[64, 64], 3);
    loop {
        let mut x = call!(mlx_add(a.0, a.0, stream.0));
        for _ in 0..20 {
            x = call!(mlx_matmul(x.0, a.0, stream.0));
        }
        assert_eq!(x.eval(), 0);
        ROUNDS.fetch_add(1, Ordering::SeqCst);
    }
}

extern "C" fn leave(_: c_int) {
    // SAFETY: `exit` may be called from anywhere, as far as this library is concerned; the handlers that this process
    // has registered allocate nothing.
    unsafe { libc::exit(CODE) }
}

#[test]
#[ignore = "a child of the others"]
fn computes_until_a_signal_comes() {
    let handler: extern "C" fn(c_int) = leave;
    // SAFETY: a function that stays.
    unsafe { libc::signal(libc::SIGUSR1, handler as libc::sighandler_t) };
    for _ in 0..3 {
        thread::spawn(compute_for_ever);
    }
    while ROUNDS.load(Ordering::SeqCst) < 5 {
        thread::sleep(Duration::from_millis(1));
    }
    println!("leaves at {}", since_1970().as_nanos());
    // SAFETY: sends a signal to this very thread, which is not computing.
    unsafe { libc::raise(libc::SIGUSR1) };
    unreachable!("the handler does not return");
}

#[test]
#[ignore = "a child of the others"]
fn is_not_quiet() {
    extern "C" fn never() -> bool {
        false
    }
    extern "C" fn too_late() {
        std::process::abort();
    }
    // SAFETY: functions that stay. What is registered last is called first.
    unsafe {
        libc::atexit(too_late);
        sys::mlxsys_before_exit(Some(never));
    }
    print!("written out");
    std::process::exit(CODE);
}

fn since_1970() -> Duration {
    std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a time after 1970")
}

fn run(child: &str) -> std::process::Output {
    Command::new(std::env::current_exe().expect("a path"))
        .args(["--exact", child, "--ignored", "--test-threads=1", "--nocapture"])
        .output()
        .expect("a child")
}

#[test]
fn mlx_stays_until_the_process_is_gone() {
    // SAFETY: takes no arguments.
    assert!(unsafe { sys::mlxsys_outlives_exit() });
}

#[test]
fn a_signal_ends_a_process_that_computes_with_its_code() {
    let exits = std::env::var("MLX_EMBED_EXITS").map_or(20, |count| count.parse().expect("a number"));
    let mut took = Vec::new();
    for round in 0..exits {
        let output = run("computes_until_a_signal_comes");
        let ended = since_1970();
        assert_eq!(output.status.code(), Some(CODE), "round {round}: signal {:?}", output.status.signal());
        let said = String::from_utf8_lossy(&output.stdout);
        let left = said.split("leaves at ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
        took.push(ended.saturating_sub(Duration::from_nanos(left.expect("the time of the exit"))));
    }
    took.sort();
    println!(
        "{exits} exits by a handler took {:?}, at most {:?}",
        took[took.len() / 2],
        took[took.len() - 1]
    );
    assert!(took[took.len() - 1] < HANGS);
}

#[test]
fn where_others_do_not_rest_the_process_ends_at_once() {
    let output = run("is_not_quiet");
    assert_eq!(output.status.code(), Some(CODE), "signal {:?}", output.status.signal());
    assert!(String::from_utf8_lossy(&output.stdout).contains("written out"));
}

#[test]
fn streams_are_made_while_others_compute() {
    let threads: Vec<_> = (0..3)
        .map(|seed| {
            thread::spawn(move || {
                let (stream, a) = (Stream::own(), Array::noise(&[16], seed));
                for _ in 0..300 {
                    assert_eq!(call!(mlx_add(a.0, a.0, stream.0)).eval(), 0);
                }
            })
        })
        .collect();
    for _ in 0..2000 {
        drop(Stream::own());
    }
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
}

#[test]
fn an_allocation_that_fails_is_an_error() {
    support::keep_messages();
    let stream = Stream::cpu();
    let one = Array::f32(&[1.0], &[1, 1]);
    let mut active = 0;
    // SAFETY: writes one number.
    assert_eq!(unsafe { sys::mlx_get_active_memory(&mut active) }, 0);
    // More than an address space has.
    let shape = [i32::MAX, 1 << 20];
    let wide = call!(mlx_broadcast_to(one.0, shape.as_ptr(), support::len::<i32>(&shape) as usize, stream.0));
    let copy = call!(mlx_contiguous(wide.0, false, stream.0));
    assert_ne!(copy.eval(), 0);
    let mut after = 0;
    // SAFETY: writes one number.
    assert_eq!(unsafe { sys::mlx_get_active_memory(&mut after) }, 0);
    assert!(after < active + (1 << 20), "{after} bytes are counted, and {active} were before");
}
