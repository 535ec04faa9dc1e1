//! A panic in a Rust callback stays on the Rust side of the boundary.

mod support;

use std::any::Any;
use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use mlx_sys as sys;
use support::{Array, Arrays};

struct Callback {
    panics: bool,
    caught: Option<Box<dyn Any + Send>>,
}

/// The pattern that every callback into Rust follows: catch, remember, report failure.
extern "C" fn trampoline(
    out: *mut sys::mlx_vector_array,
    input: sys::mlx_vector_array,
    data: *mut c_void,
) -> c_int {
    // SAFETY: `data` is the callback below, alive and used by nobody else during the call.
    let callback = unsafe { &mut *data.cast::<Callback>() };
    let body = AssertUnwindSafe(|| {
        assert!(!callback.panics, "on purpose");
        // SAFETY: both vectors are live during the call.
        unsafe { sys::mlx_vector_array_set(out, input) }
    });
    match catch_unwind(body) {
        Ok(code) => code,
        Err(panic) => {
            callback.caught = Some(panic);
            1
        }
    }
}

/// Applies the closure, plain or compiled, and returns its code and its result.
fn apply(callback: &mut Callback, compiled: bool) -> (c_int, Arrays) {
    let input = Arrays::new(&[&Array::f32(&[3.0], &[1])]);
    let mut out = Arrays::new(&[]);
    support::keep_messages();
    // SAFETY: handles are live and freed once; `callback` outlives the closure.
    unsafe {
        let mut closure =
            sys::mlx_closure_new_func_payload(Some(trampoline), ptr::from_mut(callback).cast(), None);
        if compiled {
            let mut compiled = sys::mlx_closure_new();
            assert_eq!(sys::mlx_compile(&mut compiled, closure, false), 0);
            sys::mlx_closure_free(std::mem::replace(&mut closure, compiled));
        }
        let code = sys::mlx_closure_apply(&mut out.0, closure, input.0);
        sys::mlx_closure_free(closure);
        (code, out)
    }
}

#[test]
fn a_panic_becomes_a_code_and_can_be_taken_up_again() {
    for compiled in [false, true] {
        let mut callback = Callback { panics: true, caught: None };
        let (code, _) = apply(&mut callback, compiled);
        assert_ne!(code, 0);
        let panic = callback.caught.take().expect("the panic was caught");
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"on purpose"));

        // And the next call works.
        callback.panics = false;
        let (code, out) = apply(&mut callback, compiled);
        assert_eq!(code, 0);
        assert_eq!(out.get(0).to_f32(), [3.0]);
    }
}
