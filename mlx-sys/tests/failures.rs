//! Callbacks that fail again and again, on the thread that used MLX first: MLX (0.32.2) tells that one of a stream's
//! failure where it hands over the next task.
#![cfg(target_os = "linux")]
#![cfg(not(any(feature = "cuda-12", feature = "cuda-13")))]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use mlx_sys as sys;
use support::host::one;
use support::{Array, Stream, call};

/// What takes longer hangs, also on a machine with other things to do.
const HANGS: Duration = Duration::from_secs(120);

static BEGUN: AtomicUsize = AtomicUsize::new(0);
static ENDED: AtomicUsize = AtomicUsize::new(0);

/// A node that fails, and takes its time at times.
fn failing(input: &Array, stream: &Stream) -> Array {
    one(stream, &[input], (&[2], sys::mlx_dtype__MLX_FLOAT32, -1), |_, _| {
        if BEGUN.fetch_add(1, Ordering::SeqCst).is_multiple_of(8) {
            thread::sleep(Duration::from_micros(200));
        }
        ENDED.fetch_add(1, Ordering::SeqCst);
        Err(String::new())
    })
}

fn sum(x: &Array, stream: &Stream) -> Array {
    call!(mlx_add(x.0, x.0, stream.0))
}

/// Runs a test's body on the thread that uses MLX first, and that alone.
fn on_the_first_thread(body: impl FnOnce() + Send + 'static) {
    let (ended, end) = mpsc::channel();
    let thread = thread::spawn(move || {
        support::keep_messages();
        body();
        ended.send(()).expect("somebody waits");
    });
    match end.recv_timeout(HANGS) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it hangs"),
        _ => thread.join().expect("no panic"),
    }
}

#[test]
fn failures_leave_no_task_behind_and_nobody_waiting() {
    on_the_first_thread(|| {
        let (first, second) = (Stream::cpu(), Stream::own());
        let x = Array::f32(&[1.0, 2.0], &[2]);
        for round in 0..300 {
            let mut failed = sum(&x, &first);
            for node in 0..100 {
                failed = failing(&failed, if node % 4 == 3 && round % 2 == 0 { &second } else { &first });
                failed = sum(&failed, &first);
            }
            assert_ne!(failed.eval(), 0, "round {round}");
            // Failures that nobody was told of.
            let _ = (first.synchronize(), second.synchronize());
            let begun = BEGUN.load(Ordering::SeqCst);
            assert_eq!(begun, ENDED.load(Ordering::SeqCst), "round {round}: a task runs still");
            drop(failed);
            // Nothing is behind it either.
            assert_eq!((first.synchronize(), second.synchronize()), (0, 0), "round {round}");
            assert_eq!(begun, BEGUN.load(Ordering::SeqCst), "round {round}: a task was not waited for");
        }
        let (a, b) = (sum(&x, &first), sum(&x, &second));
        assert_eq!(call!(mlx_add(a.0, b.0, first.0)).to_f32(), [4.0, 8.0]);
    });
}
