//! Callbacks as operations: they see what they were promised, and let go of what they hold exactly once.
#![cfg(not(any(feature = "cuda-12", feature = "cuda-13", target_os = "macos")))]

mod support;

use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mlx_sys as sys;
use support::host::{Inputs, Outputs, Spec, node, one};
use support::{Array, Arrays, Stream, call};

const F32: sys::mlx_dtype = sys::mlx_dtype__MLX_FLOAT32;

fn message() -> String {
    support::message().unwrap_or_default()
}

/// The elements of a row-contiguous f32 input.
fn read(input: &sys::mlxsys_host_input) -> &[f32] {
    assert!(input.row_contiguous && input.dtype == F32);
    // SAFETY: so described by MLX, and live during the callback.
    unsafe { std::slice::from_raw_parts(input.data.cast(), input.size) }
}

/// The elements of an f32 output, which the caller knows to be initialised or only writes.
#[allow(clippy::mut_from_ref, reason = "each output is asked for once")]
fn write(output: &sys::mlxsys_host_output) -> &mut [f32] {
    assert!(output.dtype == F32);
    // SAFETY: so described by MLX, live during the callback and nobody else's.
    unsafe { std::slice::from_raw_parts_mut(output.data.cast(), output.size) }
}

fn double(inputs: Inputs<'_>, outputs: Outputs<'_>) -> Result<(), String> {
    for (to, from) in write(&outputs[0]).iter_mut().zip(read(&inputs[0])) {
        *to = 2.0 * from;
    }
    Ok(())
}

#[test]
fn it_is_an_operation_among_others() {
    let s = Stream::cpu();
    let x = Array::f32(&[1.0, 2.0, 3.0, 4.0], &[2, 2]);
    let sum = call!(mlx_add(x.0, x.0, s.0));
    let doubled = one(&s, &[&sum], (&[2, 2], F32, -1), double);
    assert_eq!(doubled.shape(), [2, 2]);
    assert_eq!(call!(mlx_add(doubled.0, x.0, s.0)).to_f32(), [5.0, 10.0, 15.0, 20.0]);
    // Row-contiguous by MLX's own account.
    let mut dense = false;
    // SAFETY: a live array.
    assert_eq!(unsafe { sys::_mlx_array_is_row_contiguous(&mut dense, doubled.0) }, 0);
    assert!(dense);
}

#[test]
fn inputs_come_as_they_lie() {
    let s = Stream::cpu();
    let x = Array::f32(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3]);
    let turned = call!(mlx_transpose_axes(x.0, [1, 0].as_ptr(), 2, s.0));
    let column = call!(mlx_slice(x.0, [0, 1].as_ptr(), 2, [2, 2].as_ptr(), 2, [1, 1].as_ptr(), 2, s.0));
    let back = call!(mlx_slice(x.0, [1, 2].as_ptr(), 2, [-3, -4].as_ptr(), 2, [-1, -1].as_ptr(), 2, s.0));
    let flags = Array::i32(&[1, 0], &[2]);
    let scalar = Array::f32(&[9.0], &[]);
    let out = one(&s, &[&turned, &column, &back, &flags, &scalar], (&[], F32, -1), |inputs, outputs| {
        // SAFETY: MLX describes live arrays.
        let described: Vec<(&[i32], &[i64], f32, bool)> = inputs
            .iter()
            .map(|i| unsafe {
                let shape = std::slice::from_raw_parts(i.shape, i.ndim);
                let strides = std::slice::from_raw_parts(i.strides, i.ndim);
                (shape, strides, *i.data.cast::<f32>(), i.row_contiguous)
            })
            .collect();
        assert_eq!(described[0], (&[3, 2][..], &[1, 3][..], 1.0, false));
        assert_eq!(described[1], (&[2, 1][..], &[3, 1][..], 2.0, false));
        assert_eq!(described[2], (&[2, 3][..], &[-3, -1][..], 6.0, false));
        assert_eq!(inputs[3].dtype, sys::mlx_dtype__MLX_INT32);
        assert_eq!((inputs[4].ndim, inputs[4].size, inputs[4].row_contiguous), (0, 1, true));
        write(&outputs[0])[0] = 1.0;
        Ok(())
    });
    assert_eq!(out.eval(), 0, "{}", message());
    assert_eq!(out.to_f32(), [1.0]);
}

#[test]
fn fresh_outputs_start_on_a_cache_line() {
    let s = Stream::cpu();
    for size in [1, 3, 100, 5000] {
        let out = one(&s, &[], (&[size], F32, -1), |_, outputs| {
            assert_eq!(outputs[0].data as usize % 64, 0);
            write(&outputs[0]).fill(1.5);
            Ok(())
        });
        let sum = call!(mlx_add(out.0, out.0, s.0));
        assert_eq!(sum.to_f32(), vec![3.0; size as usize]);
        assert_eq!(address(&out) % 64, 0);
    }
}

#[test]
fn several_outputs_of_several_types() {
    let s = Stream::cpu();
    let x = Array::f32(&[4.0, 7.0, 5.0], &[3]);
    let specs = [(&[1][..], F32, -1), (&[1, 1][..], sys::mlx_dtype__MLX_UINT32, -1), (&[3][..], F32, 0)];
    let (code, out, released) = node(&s, &[&x], &specs, |inputs, outputs| {
        assert!(inputs[0].data.is_null());
        let values = write(&outputs[2]);
        let best = values.iter().copied().fold(f32::MIN, f32::max);
        write(&outputs[0])[0] = best;
        // SAFETY: an output of one u32.
        unsafe { *outputs[1].data.cast::<u32>() = values.iter().position(|v| *v == best).unwrap() as u32 };
        values.sort_by(f32::total_cmp);
        Ok(())
    });
    assert_eq!(code, 0);
    let (best, at, sorted) = (out.get(0), out.get(1), out.get(2));
    drop(out);
    assert_eq!(sorted.to_f32(), [4.0, 5.0, 7.0]);
    assert_eq!(best.to_f32(), [7.0]);
    // SAFETY: evaluated with its siblings, and one u32.
    assert_eq!(unsafe { *sys::mlx_array_data_uint32(at.0) }, 1);
    drop((best, at, sorted));
    assert_eq!(s.synchronize(), 0);
    assert_eq!(released.load(Ordering::SeqCst), 1);
}

#[test]
fn empty_arrays_pass() {
    let s = Stream::cpu();
    let x = Array::f32(&[], &[0, 3]);
    let out = one(&s, &[&x], (&[0, 3], F32, 0), |inputs, outputs| {
        assert_eq!((inputs[0].size, outputs[0].size), (0, 0));
        Ok(())
    });
    assert_eq!(out.to_f32(), []);
    let turned = call!(mlx_transpose_axes(x.0, [1, 0].as_ptr(), 2, s.0));
    let out = one(&s, &[&turned], (&[3, 0], F32, 0), |_, _| Ok(()));
    assert_eq!(out.to_f32(), []);
    let out = one(&s, &[], (&[2], F32, -1), |_, outputs| {
        write(&outputs[0]).fill(3.0);
        Ok(())
    });
    assert_eq!(out.to_f32(), [3.0, 3.0]);
}

/// Adds one in place, and remembers where.
fn increment(at: &Arc<AtomicUsize>) -> impl Fn(Inputs<'_>, Outputs<'_>) -> Result<(), String> + use<> {
    let at = Arc::clone(at);
    move |inputs, outputs| {
        assert!(inputs[0].data.is_null());
        assert_eq!(outputs[0].in_place_of, 0);
        at.store(outputs[0].data as usize, Ordering::SeqCst);
        write(&outputs[0]).iter_mut().for_each(|x| *x += 1.0);
        Ok(())
    }
}

fn address(array: &Array) -> usize {
    // SAFETY: live and evaluated.
    unsafe { sys::mlx_array_data_float32(array.0) as usize }
}

#[test]
fn a_memory_that_nobody_else_needs_is_handed_over() {
    let s = Stream::cpu();
    let x = Array::f32(&[1.0; 64], &[64]);
    let own = address(&x);
    let at = Arc::new(AtomicUsize::new(0));
    let out = one(&s, &[&x], (&[64], F32, 0), increment(&at));
    drop(x);
    assert_eq!(out.to_f32(), [2.0; 64]);
    assert_eq!((at.load(Ordering::SeqCst), address(&out)), (own, own));

    // So is one in the middle of a buffer, and one that comes from another operation.
    let x = Array::f32(&[1.0; 64], &[4, 16]);
    let own = address(&x);
    let rows = call!(mlx_slice(x.0, [1, 0].as_ptr(), 2, [3, 16].as_ptr(), 2, [1, 1].as_ptr(), 2, s.0));
    drop(x);
    let mut out = one(&s, &[&rows], (&[2, 16], F32, 0), increment(&at));
    drop(rows);
    out = one(&s, &[&out], (&[2, 16], F32, 0), increment(&at));
    assert_eq!(out.to_f32(), [3.0; 32]);
    assert_eq!((at.load(Ordering::SeqCst), address(&out)), (own + 64, own + 64));
}

#[test]
fn a_chain_in_place_stays_where_it_began() {
    let s = Stream::cpu();
    let at = Arc::new(AtomicUsize::new(0));
    let mut x = Array::f32(&[0.0; 256], &[256]);
    let own = address(&x);
    for _ in 0..100 {
        x = one(&s, &[&x], (&[256], F32, 0), increment(&at));
    }
    assert_eq!(x.to_f32(), [100.0; 256]);
    assert_eq!(address(&x), own);
}

#[test]
fn a_memory_that_somebody_holds_is_copied() {
    let s = Stream::cpu();
    let at = Arc::new(AtomicUsize::new(0));
    let x = Array::f32(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3]);
    let out = one(&s, &[&x], (&[2, 3], F32, 0), increment(&at));
    assert_eq!(out.to_f32(), [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    assert_eq!(x.to_f32(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_ne!(at.load(Ordering::SeqCst), address(&x));

    // A view holds it as well, and strides are straightened by the copy.
    for held in [true, false] {
        let turned = call!(mlx_transpose_axes(x.0, [1, 0].as_ptr(), 2, s.0));
        let out = one(&s, &[&turned], (&[3, 2], F32, 0), increment(&at));
        let turned = held.then_some(turned);
        assert_eq!(out.to_f32(), [2.0, 5.0, 3.0, 6.0, 4.0, 7.0]);
        drop(turned);
    }
    let x4 = Array::noise(&[2, 3, 4, 5], 1);
    let turned = call!(mlx_transpose_axes(x4.0, [3, 1, 0, 2].as_ptr(), 4, s.0));
    let out = one(&s, &[&turned], (&[5, 3, 2, 4], F32, 0), increment(&at));
    let expected: Vec<f32> = turned.to_f32().iter().map(|x| x + 1.0).collect();
    assert_eq!(out.to_f32(), expected);

    // And so does a second place among the inputs.
    let y = Array::f32(&[1.0, 2.0], &[2]);
    let twice = one(&s, &[&y, &y], (&[2], F32, 0), |inputs, outputs| {
        for (to, from) in write(&outputs[0]).iter_mut().zip(read(&inputs[1])) {
            *to = *to * 10.0 + from;
        }
        Ok(())
    });
    drop(y);
    assert_eq!(twice.to_f32(), [11.0, 22.0]);
}

#[test]
fn mapped_memory_is_not_written_while_its_base_lives() {
    let s = Stream::cpu();
    let words: Vec<f32> = [0.0; 2].into_iter().chain([1.0; 1024]).collect();
    let mut base = Array::none();
    // SAFETY: the word before the data is in `words`, which outlives the arrays.
    let code = unsafe {
        sys::mlxsys_array_new_mapped(
            &mut base.0,
            words[2..].as_ptr().cast(),
            [1024].as_ptr(),
            1,
            F32,
            ptr::null_mut(),
            None,
        )
    };
    assert_eq!(code, 0);
    let at = Arc::new(AtomicUsize::new(0));
    let view = call!(mlx_as_strided(base.0, [1024].as_ptr(), 1, [1].as_ptr(), 1, 0, s.0));
    assert_eq!(view.eval(), 0);
    let out = one(&s, &[&view], (&[1024], F32, 0), increment(&at));
    drop(view);
    assert_eq!(out.to_f32(), [2.0; 1024]);
    assert_eq!(s.synchronize(), 0);
    assert!(words[2..].iter().all(|x| *x == 1.0));
    drop(base);
}

#[test]
fn a_failure_is_the_evaluations_and_the_stream_goes_on() {
    let s = Stream::cpu();
    let x = Array::f32(&[1.0, 2.0], &[2]);
    for (text, expected) in
        [("no such token: 100% at 7", "[probe] no such token: 100% at 7"), ("", "[probe] failed with code 7")]
    {
        let (code, outputs, released) = node(&s, &[&x], &[(&[2], F32, -1)], move |_, _| Err(text.to_owned()));
        assert_eq!(code, 0);
        let out = outputs.get(0);
        drop(outputs);
        // What comes behind it finds zeros, not what lay in the memory.
        let seen = Arc::new(AtomicUsize::new(0));
        let last = one(&s, &[&out], (&[2], F32, -1), {
            let seen = Arc::clone(&seen);
            move |inputs, outputs| {
                seen.fetch_add(read(&inputs[0]).iter().filter(|x| **x == 0.0).count(), Ordering::SeqCst);
                double(inputs, outputs)
            }
        });
        drop(out);
        assert_ne!(last.eval(), 0);
        let message = message();
        assert!(message.starts_with(expected), "{message}");
        drop(last);
        assert_eq!(s.synchronize(), 0, "the error was told once");
        assert!([0, 2].contains(&seen.load(Ordering::SeqCst)));
        assert_eq!(released.load(Ordering::SeqCst), 1);

        assert_eq!(one(&s, &[&x], (&[2], F32, -1), double).to_f32(), [2.0, 4.0]);
    }
}

#[test]
fn a_panic_stays_on_the_rust_side() {
    let s = Stream::cpu();
    let out = one(&s, &[], (&[1], F32, -1), |_, _| panic!("on purpose"));
    assert_ne!(out.eval(), 0);
    assert!(message().starts_with("[probe] on purpose"));
}

#[test]
fn the_callback_is_let_go_once() {
    let s = Stream::cpu();
    let x = Array::f32(&[1.0], &[1]);

    // Never evaluated.
    let (_, out, released) = node(&s, &[&x], &[(&[1], F32, -1)], double);
    assert_eq!(released.load(Ordering::SeqCst), 0);
    drop(out);
    assert_eq!(released.load(Ordering::SeqCst), 1);

    // Several outputs, never evaluated, let go one by one.
    let (_, out, released) = node(&s, &[&x], &[(&[1], F32, -1), (&[1], F32, -1)], double);
    let (first, second) = (out.get(0), out.get(1));
    drop((out, first));
    assert_eq!(released.load(Ordering::SeqCst), 0);
    drop(second);
    assert_eq!(released.load(Ordering::SeqCst), 1);

    // Evaluated: with the task, whatever becomes of the result.
    let (_, out, released) = node(&s, &[&x], &[(&[1], F32, -1)], double);
    let out = out.get(0);
    assert_eq!(out.to_f32(), [2.0]);
    assert_eq!(s.synchronize(), 0);
    assert_eq!(released.load(Ordering::SeqCst), 1);
}

#[test]
fn what_cannot_be_made_lets_the_callback_go_as_well() {
    let s = Stream::cpu();
    let x = Array::f32(&[1.0, 2.0], &[2]);
    let cases: [(&str, &[Spec<'_>]); 7] = [
        ("needs an output", &[]),
        ("is negative", &[(&[-1], F32, -1)]),
        ("more elements", &[(&[1 << 20, 1 << 20], F32, -1)]),
        ("that is not there", &[(&[2], F32, 1)]),
        ("of another shape", &[(&[3], F32, 0)]),
        ("or type", &[(&[2], sys::mlx_dtype__MLX_INT32, 0)]),
        ("the same input", &[(&[2], F32, 0), (&[2], F32, 0)]),
    ];
    for (expected, specs) in cases {
        let (code, _, released) = node(&s, &[&x], specs, double);
        assert_ne!(code, 0, "{expected}");
        let message = message();
        assert!(message.starts_with("[mlxsys_host_kernel]") && message.contains(expected), "{message}");
        assert_eq!(released.load(Ordering::SeqCst), 1, "{expected}");
    }
    // SAFETY: handles are live and freed once.
    unsafe {
        let device = sys::mlx_device_new_type(sys::mlx_device_type__MLX_GPU, 0);
        // A GPU's default stream has a name even where there is no GPU.
        let gpu = Stream(sys::mlx_stream_new());
        let mut raw = gpu.0;
        if sys::mlx_get_default_stream(&mut raw, device) == 0 {
            let gpu = Stream(raw);
            let (code, _, released) = node(&gpu, &[&x], &[(&[2], F32, -1)], double);
            assert_ne!(code, 0);
            assert!(message().contains("one of a GPU"));
            assert_eq!(released.load(Ordering::SeqCst), 1);
        }
        sys::mlx_device_free(device);
    }
}

#[test]
fn a_thousand_nodes_in_a_row() {
    let s = Stream::cpu();
    let mut x = Array::f32(&[0.0; 8], &[8]);
    for _ in 0..1000 {
        x = one(&s, &[&x], (&[8], F32, -1), |inputs, outputs| {
            write(&outputs[0]).iter_mut().zip(read(&inputs[0])).for_each(|(to, from)| *to = from + 1.0);
            Ok(())
        });
    }
    assert_eq!(x.to_f32(), [1000.0; 8]);
}

#[test]
fn another_streams_results_arrive_and_so_do_its_failures() {
    let (first, second) = (Stream::cpu(), Stream::own());
    let x = Array::f32(&[1.0; 4096], &[4096]);
    let mid = one(&first, &[&x], (&[4096], F32, -1), double);
    let out = one(&second, &[&mid], (&[4096], F32, -1), double);
    assert_eq!(out.to_f32(), [4.0; 4096]);

    let mid = one(&first, &[&x], (&[4096], F32, -1), |_, _| Err("first".to_owned()));
    let out = one(&second, &[&mid], (&[4096], F32, -1), double);
    assert_ne!(out.eval(), 0);
    assert!(message().starts_with("[probe] first"));
}

/// A graph of a host kernel that MLX may transform.
extern "C" fn graph(
    out: *mut sys::mlx_vector_array,
    input: sys::mlx_vector_array,
    calls: *mut c_void,
) -> c_int {
    let body = AssertUnwindSafe(|| {
        // SAFETY: the vectors and the counter live during the call.
        unsafe {
            (*calls.cast::<AtomicUsize>()).fetch_add(1, Ordering::SeqCst);
            let mut x = Array::none();
            assert_eq!(sys::mlx_vector_array_get(&mut x.0, input, 0), 0);
            let y = one(&Stream::cpu(), &[&x], (&[2], F32, 0), increment(&Arc::default()));
            sys::mlx_vector_array_set_value(out, y.0)
        }
    });
    catch_unwind(body).unwrap_or(1)
}

#[test]
fn compilation_keeps_it_and_derivatives_are_refused() {
    let calls = AtomicUsize::new(0);
    let x = Array::f32(&[1.0, 2.0], &[2]);
    let inputs = Arrays::new(&[&x]);
    let mut out = Arrays::new(&[]);
    support::keep_messages();
    // SAFETY: handles are live and freed once; `calls` outlives the closures.
    unsafe {
        let payload = ptr::from_ref(&calls).cast_mut().cast();
        let closure = sys::mlx_closure_new_func_payload(Some(graph), payload, None);
        let mut compiled = sys::mlx_closure_new();
        assert_eq!(sys::mlx_compile(&mut compiled, closure, false), 0);
        for _ in 0..3 {
            assert_eq!(sys::mlx_closure_apply(&mut out.0, compiled, inputs.0), 0, "{}", message());
            assert_eq!(out.get(0).to_f32(), [2.0, 3.0]);
        }
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        assert_eq!(x.to_f32(), [1.0, 2.0]);

        let (mut values, mut gradients) = (Arrays::new(&[]), Arrays::new(&[]));
        let tangent = Array::f32(&[1.0, 1.0], &[2]);
        let tangents = Arrays::new(&[&tangent]);
        let code = sys::mlx_vjp(&mut values.0, &mut gradients.0, closure, inputs.0, tangents.0);
        assert_ne!(code, 0);
        let message = message();
        assert!(message.contains("Not implemented for probe"), "{message}");
        sys::mlx_closure_free(compiled);
        sys::mlx_closure_free(closure);
    }
}
