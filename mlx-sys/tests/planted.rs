//! Faults on purpose, for `tools/ffi/run planted`: what watches the memory of the other tests has to see these.

mod support;

use mlx_sys as sys;
use support::{Array, call};

fn four() -> Array {
    let array = Array::f32(&[1.0, 2.0, 3.0, 4.0], &[4]);
    assert_eq!(array.eval(), 0);
    array
}

#[test]
#[ignore = "reads memory that is not its own"]
fn reads_beyond_the_end() {
    let array = four();
    // SAFETY: none; this is the fault.
    let beyond = unsafe { *sys::mlx_array_data_float32(array.0).add(4) };
    // Something has to depend on the value.
    assert!(beyond.to_bits() != 0x1234_5678);
}

#[test]
#[ignore = "reads memory that is freed"]
fn reads_after_the_free() {
    let array = four();
    // SAFETY: the array lives and is evaluated.
    let data = unsafe { sys::mlx_array_data_float32(array.0) };
    drop(array);
    // SAFETY: none; this is the fault. MLX keeps freed memory for reuse until it is told not to.
    let freed = unsafe {
        sys::mlx_clear_cache();
        *data
    };
    assert!(freed.to_bits() != 0x1234_5678);
}

#[test]
#[ignore = "leaks"]
fn loses_an_array() {
    std::mem::forget(four());
}

#[test]
#[ignore = "races"]
fn makes_streams_without_the_lock() {
    fn make() -> sys::mlx_stream {
        // SAFETY: none; MLX's table is written while others read it. This is the fault.
        unsafe {
            let device = sys::mlx_device_new_type(sys::mlx_device_type__MLX_CPU, 0);
            let stream = sys::mlx_stream_new_thread_unsafe(device);
            sys::mlx_device_free(device);
            stream
        }
    }
    let computes = std::thread::spawn(|| {
        let (a, stream) = (four(), make());
        for _ in 0..20 {
            let sum = call!(mlx_add(a.0, a.0, stream));
            assert_eq!(sum.eval(), 0);
        }
        // SAFETY: the handle is ours and freed once.
        unsafe { sys::mlx_stream_free(stream) };
    });
    for _ in 0..20 {
        // SAFETY: the handle is ours and freed once.
        unsafe { sys::mlx_stream_free(make()) };
    }
    computes.join().expect("no panic");
}
