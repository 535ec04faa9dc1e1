//! Callbacks as operations.

use std::ffi::{CString, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mlx_sys as sys;

use super::{Array, Arrays, Stream, keep_messages, message};

pub(crate) type Inputs<'a> = &'a [sys::mlxsys_host_input];
pub(crate) type Outputs<'a> = &'a [sys::mlxsys_host_output];
type Body = dyn Fn(Inputs<'_>, Outputs<'_>) -> Result<(), String> + Send + Sync;

/// A callback, with a count of how often it was let go.
struct Payload {
    body: Box<Body>,
    released: Arc<AtomicUsize>,
}

/// The pattern that every callback follows: catch, report failure.
unsafe extern "C" fn run(
    payload: *mut c_void,
    inputs: *const sys::mlxsys_host_input,
    n_inputs: usize,
    outputs: *const sys::mlxsys_host_output,
    n_outputs: usize,
    message: *mut sys::mlx_string,
) -> c_int {
    // SAFETY: the payload is the one below, and the arrays are as long as said.
    let (payload, inputs, outputs) = unsafe {
        let outputs = std::slice::from_raw_parts(outputs, n_outputs);
        let inputs = if n_inputs == 0 { &[] } else { std::slice::from_raw_parts(inputs, n_inputs) };
        (&*payload.cast::<Payload>(), inputs, outputs)
    };
    let text = match catch_unwind(AssertUnwindSafe(|| (payload.body)(inputs, outputs))) {
        Ok(Ok(())) => return 0,
        Ok(Err(text)) => text,
        Err(panic) => panic.downcast_ref::<&str>().copied().unwrap_or("another panic").to_owned(),
    };
    if text.is_empty() {
        return 7;
    }
    // SAFETY: `message` is ours to fill, and MLX frees the string.
    unsafe { *message = sys::mlx_string_new_data(CString::new(text).expect("no NUL").as_ptr()) };
    1
}

unsafe extern "C" fn release(payload: *mut c_void) {
    // SAFETY: a boxed `Payload`, and this runs once: the tests count it.
    let payload = unsafe { Box::from_raw(payload.cast::<Payload>()) };
    payload.released.fetch_add(1, Ordering::SeqCst);
}

/// Shape, type and the input it is in place of.
pub(crate) type Spec<'a> = (&'a [c_int], sys::mlx_dtype, c_int);

/// Makes a node and hands the callback over; the code, the outputs, and how often the callback was let go.
pub(crate) fn node(
    stream: &Stream,
    inputs: &[&Array],
    specs: &[Spec<'_>],
    body: impl Fn(Inputs<'_>, Outputs<'_>) -> Result<(), String> + Send + Sync + 'static,
) -> (c_int, Arrays, Arc<AtomicUsize>) {
    let released = Arc::new(AtomicUsize::new(0));
    let payload = Box::new(Payload { body: Box::new(body), released: Arc::clone(&released) });
    let specs: Vec<_> = specs
        .iter()
        .map(|(shape, dtype, in_place_of)| sys::mlxsys_host_output_spec {
            shape: shape.as_ptr(),
            ndim: shape.len(),
            dtype: *dtype,
            in_place_of: *in_place_of,
        })
        .collect();
    let inputs = Arrays::new(inputs);
    let mut out = Arrays::new(&[]);
    keep_messages();
    // SAFETY: live handles and specs; the payload is released once.
    let code = unsafe {
        sys::mlxsys_host_kernel(
            &mut out.0,
            c"probe".as_ptr(),
            inputs.0,
            specs.as_ptr(),
            specs.len(),
            Some(run),
            Box::into_raw(payload).cast(),
            Some(release),
            stream.0,
        )
    };
    (code, out, released)
}

/// One output of a node that can be made.
pub(crate) fn one(
    stream: &Stream,
    inputs: &[&Array],
    spec: Spec<'_>,
    body: impl Fn(Inputs<'_>, Outputs<'_>) -> Result<(), String> + Send + Sync + 'static,
) -> Array {
    let (code, out, _) = node(stream, inputs, &[spec], body);
    assert_eq!(code, 0, "{}", message().unwrap_or_default());
    out.get(0)
}
