//! An error thrown in C++ arrives as a return code and a message. The handler belongs to the process, so this is a
//! test binary of its own.

mod support;

use mlx_sys as sys;
use support::{Array, Stream, keep_messages};

fn message() -> String {
    support::message().expect("no message")
}

#[test]
fn a_shape_mismatch_is_a_return_code_and_a_message() {
    keep_messages();
    let stream = Stream::cpu();
    let (a, b) = (Array::noise(&[2, 3], 1), Array::noise(&[4, 5], 2));
    let mut out = Array::none();
    // SAFETY: live handles.
    assert_ne!(unsafe { sys::mlx_matmul(&mut out.0, a.0, b.0, stream.0) }, 0);
    assert!(out.0.ctx.is_null());
    let message = message();
    assert!(message.contains("[matmul]"), "{message}");
    assert!(message.contains(" at mlx/c/ops.cpp:"), "the file is named from mlx-c's root: {message}");
}

#[test]
fn an_error_comes_to_the_thread_that_made_it() {
    keep_messages();
    std::thread::spawn(|| {
        let stream = Stream::cpu();
        let array = Array::noise(&[2, 3], 1);
        let mut out = Array::none();
        // SAFETY: live handles, and a shape of one dimension.
        assert_ne!(unsafe { sys::mlx_reshape(&mut out.0, array.0, [5].as_ptr(), 1, stream.0) }, 0);
        assert!(message().contains("[reshape]"));
    })
    .join()
    .unwrap();
    assert!(support::message().is_none());
}

#[test]
fn percent_signs_in_a_message_stand_for_themselves() {
    keep_messages();
    let stream = Stream::cpu();
    // SAFETY: the maps and the stream are live, the path is a C string.
    unsafe {
        let mut arrays = sys::mlx_map_string_to_array_new();
        let mut strings = sys::mlx_map_string_to_string_new();
        let path = c"no/100%s%n.safetensors";
        assert_ne!(sys::mlx_load_safetensors(&mut arrays, &mut strings, path.as_ptr(), stream.0), 0);
        sys::mlx_map_string_to_array_free(arrays);
        sys::mlx_map_string_to_string_free(strings);
    }
    let message = message();
    assert!(message.contains("100%s%n"), "{message}");
}

#[test]
fn an_empty_handle_is_an_error() {
    keep_messages();
    let stream = Stream::cpu();
    let (none, mut out) = (Array::none(), Array::none());
    // SAFETY: empty handles are allowed arguments.
    assert_ne!(unsafe { sys::mlx_sigmoid(&mut out.0, none.0, stream.0) }, 0);
    assert!(message().contains("non-empty"));
}

#[test]
fn no_threads_are_too_few_for_blas() {
    keep_messages();
    // SAFETY: takes a number.
    assert_ne!(unsafe { sys::mlxsys_blas_set_num_threads(0) }, 0);
    assert!(message().contains("at least one thread"));
}
