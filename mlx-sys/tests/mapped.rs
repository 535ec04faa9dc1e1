//! Arrays over memory of the caller's: no copy, and the memory is let go exactly once.
#![cfg(not(any(feature = "cuda-12", feature = "cuda-13", target_os = "macos")))]

mod support;

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mlx_sys as sys;
use support::{Array, Stream, call};

/// Memory with a word before the data, and a count of how often it was let go.
struct Memory {
    words: Vec<f32>,
    released: Arc<AtomicUsize>,
}

/// f32 a size word takes.
const HEAD: usize = size_of::<usize>() / size_of::<f32>();

impl Memory {
    fn new(values: &[f32]) -> (Box<Self>, Arc<AtomicUsize>) {
        let released = Arc::new(AtomicUsize::new(0));
        let words = [0.0; HEAD].into_iter().chain(values.iter().copied()).collect();
        (Box::new(Self { words, released: Arc::clone(&released) }), released)
    }

    /// Where the data starts.
    fn data(&self) -> *const f32 {
        self.words[HEAD..].as_ptr()
    }
}

extern "C" fn release(payload: *mut c_void) {
    // SAFETY: the payload is a boxed `Memory`, and this runs once: the tests count it.
    let memory = unsafe { Box::from_raw(payload.cast::<Memory>()) };
    memory.released.fetch_add(1, Ordering::SeqCst);
}

/// Maps all of `memory` and hands it over; the code and the array.
fn map(memory: Box<Memory>, data: *const f32, shape: &[c_int]) -> (c_int, Array) {
    let mut out = Array::none();
    support::keep_messages();
    // SAFETY: the memory holds the word before the data and what the shape says; the payload is released once.
    let code = unsafe {
        sys::mlxsys_array_new_mapped(
            &mut out.0,
            data.cast(),
            shape.as_ptr(),
            support::len(shape),
            sys::mlx_dtype__MLX_FLOAT32,
            Box::into_raw(memory).cast(),
            Some(release),
        )
    };
    (code, out)
}

#[test]
fn the_cpu_build_can_map() {
    let mut can = false;
    // SAFETY: writes one value.
    assert_eq!(unsafe { sys::mlxsys_array_can_map(&mut can) }, 0);
    assert!(can);
}

#[test]
fn the_array_lies_in_the_callers_memory() {
    let (memory, _) = Memory::new(&[1.0, 2.0, 3.0, 4.0]);
    let data = memory.data();
    let (code, array) = map(memory, data, &[2, 2]);
    assert_eq!(code, 0);
    assert_eq!(array.eval(), 0);
    // SAFETY: the array is live.
    assert_eq!(unsafe { sys::mlx_array_data_float32(array.0) }, data);
    assert_eq!(array.to_f32(), [1.0, 2.0, 3.0, 4.0]);

    // A slice of it lies there too.
    let s = Stream::cpu();
    let row = call!(mlx_slice(array.0, [1, 0].as_ptr(), 2, [2, 2].as_ptr(), 2, [1, 1].as_ptr(), 2, s.0));
    assert_eq!(row.eval(), 0);
    // SAFETY: the array is live, and its data lie in the memory, at element 2.
    unsafe { assert_eq!(sys::mlx_array_data_float32(row.0), data.add(2)) };
}

#[test]
fn the_memory_goes_once_and_with_the_last_view() {
    let (memory, released) = Memory::new(&[1.0, 2.0, 3.0, 4.0]);
    let data = memory.data();
    let (code, array) = map(memory, data, &[4]);
    assert_eq!(code, 0);
    let s = Stream::cpu();
    let view = call!(mlx_reshape(array.0, [2, 2].as_ptr(), 2, s.0));
    assert_eq!(view.eval(), 0);

    drop(array);
    assert_eq!(released.load(Ordering::SeqCst), 0);
    assert_eq!(view.to_f32(), [1.0, 2.0, 3.0, 4.0]);
    drop(view);
    assert_eq!(s.synchronize(), 0);
    assert_eq!(released.load(Ordering::SeqCst), 1);
}

#[test]
fn a_second_reference_keeps_the_memory_unwritten() {
    let (memory, _) = Memory::new(&[1.0; 1024]);
    let data = memory.data();
    let (code, array) = map(memory, data, &[1024]);
    assert_eq!(code, 0);
    let s = Stream::cpu();
    let view = call!(mlx_reshape(array.0, [32, 32].as_ptr(), 2, s.0));
    let sum = call!(mlx_add(view.0, view.0, s.0));
    drop(view);
    assert_eq!(sum.to_f32(), [2.0; 1024]);
    assert_eq!(array.to_f32(), [1.0; 1024]);
}

#[test]
fn a_failure_lets_the_memory_go_as_well() {
    let good = Memory::new(&[0.0; 8]).0.data();
    let cases: [(&str, *const f32, &[c_int]); 3] = [
        ("no data", ptr::null(), &[4]),
        ("misaligned", good.wrapping_byte_add(1), &[4]),
        ("negative", good, &[-1]),
    ];
    for (name, data, shape) in cases {
        let (memory, released) = Memory::new(&[]);
        let (code, array) = map(memory, data, shape);
        assert_ne!(code, 0, "{name}");
        assert!(array.0.ctx.is_null(), "{name}");
        assert_eq!(released.load(Ordering::SeqCst), 1, "{name}");
    }
}
