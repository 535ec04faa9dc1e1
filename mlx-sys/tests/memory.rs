//! MLX's memory counters and limits. They belong to the process, so this is a test binary of its own.

mod support;

use mlx_sys as sys;
use support::{Array, Stream, call};

fn read(counter: unsafe extern "C" fn(*mut usize) -> std::ffi::c_int) -> usize {
    let mut bytes = 0;
    // SAFETY: writes one number.
    assert_eq!(unsafe { counter(&mut bytes) }, 0);
    bytes
}

#[test]
fn memory_is_counted_and_given_back() {
    const MIB: usize = 1 << 20;
    let mut before = 0;
    // SAFETY: writes one number, the limit so far.
    assert_eq!(unsafe { sys::mlx_set_cache_limit(&mut before, 8 * MIB) }, 0);
    // SAFETY: the same.
    assert_eq!(unsafe { sys::mlx_set_memory_limit(&mut before, 1 << 30) }, 0);
    assert_eq!(read(sys::mlx_get_memory_limit), 1 << 30);

    let start = read(sys::mlx_get_active_memory);
    // SAFETY: no precondition.
    assert_eq!(unsafe { sys::mlx_reset_peak_memory() }, 0);
    let array = Array::noise(&[MIB as i32 / 4], 1);
    let stream = Stream::cpu();
    let sum = call!(mlx_add(array.0, array.0, stream.0));
    assert_eq!(sum.eval(), 0);
    assert!(read(sys::mlx_get_active_memory) >= start + 2 * MIB);
    assert!(read(sys::mlx_get_peak_memory) >= 2 * MIB);

    drop((array, sum));
    assert_eq!(stream.synchronize(), 0);
    // SAFETY: no precondition.
    assert_eq!(unsafe { sys::mlx_clear_cache() }, 0);
    assert_eq!(read(sys::mlx_get_active_memory), start);
    assert_eq!(read(sys::mlx_get_cache_memory), 0);
}
