//! Rust code as a node of MLX's graph: what a kernel may do, and what it can't do wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mlx_embed::mlx::host::{HostError, HostInput, HostKernel, HostOutput, OutputSpec, host_kernel};
use mlx_embed::mlx::{Array, Dtype, MlxError, Stream, ops};

type Body = dyn Fn(&[HostInput<'_>], &mut [HostOutput<'_>]) -> Result<(), HostError> + Send + Sync;

/// A kernel of a closure's.
struct Probe(Box<Body>);

impl HostKernel for Probe {
    fn name(&self) -> &str {
        "probe"
    }

    fn run(&self, inputs: &[HostInput<'_>], outputs: &mut [HostOutput<'_>]) -> Result<(), HostError> {
        (self.0)(inputs, outputs)
    }
}

fn probe(
    inputs: &[&Array],
    output: OutputSpec<'_>,
    stream: &Stream,
    body: impl Fn(&[HostInput<'_>], &mut [HostOutput<'_>]) -> Result<(), HostError> + Send + Sync + 'static,
) -> Array {
    let [out] =
        host_kernel(Arc::new(Probe(Box::new(body))), inputs, [output], stream).expect("a node that fits");
    out
}

fn f32s(shape: &[i32]) -> OutputSpec<'_> {
    OutputSpec::new(shape, Dtype::F32)
}

/// What a kernel made of a matrix and its transpose says.
fn failure(
    output: OutputSpec<'_>,
    body: impl Fn(&[HostInput<'_>], &mut [HostOutput<'_>]) -> Result<(), HostError> + Send + Sync + 'static,
) -> String {
    let s = Stream::cpu().expect("a stream");
    let x = Array::from_slice(&[1.0_f32, 2.0, 3.0, 4.0], &[2, 2]).expect("four elements");
    let turned = ops::transpose(&x, &[1, 0], &s).expect("a matrix");
    let error = probe(&[&x, &turned], output, &s, body).eval().expect_err("a kernel that fails");
    assert_eq!(error.operation(), "eval");
    error.message().to_owned()
}

#[test]
fn strided_inputs_can_be_read_row_by_row_and_element_by_element() {
    let s = Stream::cpu().unwrap();
    // [B, L, H, E] = [1, 2, 3, 2] seen as [B, H, L, E].
    let values: Vec<f32> = (0..12_u8).map(f32::from).collect();
    let x = Array::from_slice(&values, &[1, 2, 3, 2]).unwrap();
    let heads = ops::transpose(&x, &[0, 2, 1, 3], &s).unwrap();
    let turned = ops::transpose(&x, &[3, 2, 1, 0], &s).unwrap();
    let out = probe(&[&heads, &turned], f32s(&[2]), &s, |inputs, outputs| {
        let [heads, turned] = inputs else { return Err("two inputs".into()) };
        assert_eq!((heads.shape(), heads.strides()), (&[1, 3, 2, 2][..], &[12, 2, 6, 1][..]));
        assert!(!heads.is_row_contiguous());
        assert_eq!((heads.size(), heads.dtype()), (12, Some(Dtype::F32)));
        assert_eq!(heads.row::<f32>(&[0, 2, 1])?, [10.0, 11.0]);
        assert_eq!(heads.get::<f32>(&[0, 1, 1, 0])?, 8.0);
        assert_eq!(heads.to_vec::<f32>()?, [0.0, 1.0, 6.0, 7.0, 2.0, 3.0, 8.0, 9.0, 4.0, 5.0, 10.0, 11.0]);
        assert_eq!(
            turned.to_vec::<f32>()?,
            [0.0, 6.0, 2.0, 8.0, 4.0, 10.0, 1.0, 7.0, 3.0, 9.0, 5.0, 11.0]
                .chunks(2)
                .flatten()
                .copied()
                .collect::<Vec<f32>>()
        );
        assert!(turned.row::<f32>(&[0, 0, 0]).is_ok(), "one element has no gaps");
        outputs[0].copy_from_slice(&[1.0_f32, 2.0])?;
        Ok(())
    });
    assert_eq!(out.to_vec::<f32>(&s).unwrap(), [1.0, 2.0]);
}

#[test]
fn mistakes_of_a_kernel_are_errors_of_the_evaluation() {
    type Case = (&'static str, fn(&[HostInput<'_>], &mut [HostOutput<'_>]) -> Result<(), HostError>);
    let cases: [Case; 12] = [
        ("[probe] no such token at 7", |_, _| Err("no such token at 7".into())),
        ("[probe] invalid digit found in string", |_, _| Ok("x".parse::<i32>().map(drop)?)),
        ("[probe] left output 0 unwritten", |_, _| Ok(())),
        ("[probe] left output 0 unwritten", |_, outputs| {
            outputs[0].as_mut_slice::<f32>()?.fill(1.0);
            outputs[0].as_uninit_slice::<f32>()?;
            Ok(())
        }),
        ("[probe] an input holds f32, not i32", |inputs, _| Ok(inputs[0].as_slice::<i32>().map(drop)?)),
        ("[probe] an output holds f32, not u8", |_, outputs| {
            Ok(outputs[0].as_mut_slice::<u8>().map(drop)?)
        }),
        (
            "[probe] an input of shape [2, 2] does not lie in row order (strides [1, 2]); \
             put ops::contiguous before it",
            |inputs, _| Ok(inputs[1].as_slice::<f32>().map(drop)?),
        ),
        ("[probe] an input's rows have gaps (stride 2)", |inputs, _| {
            Ok(inputs[1].row::<f32>(&[0]).map(drop)?)
        }),
        ("[probe] index [2] does not lie in [2]", |inputs, _| Ok(inputs[0].row::<f32>(&[2]).map(drop)?)),
        ("[probe] index [0] does not lie in [2, 2]", |inputs, _| Ok(inputs[0].get::<f32>(&[0]).map(drop)?)),
        ("[probe] 3 elements do not fill an output of shape [2, 2]", |_, outputs| {
            Ok(outputs[0].copy_from_slice(&[1.0_f32; 3]).map(drop)?)
        }),
        ("[probe] panicked: on purpose", |_, _| panic!("on purpose")),
    ];
    for (expected, body) in cases {
        assert_eq!(failure(f32s(&[2, 2]), body), expected);
    }
    let in_place = OutputSpec::in_place(0, &[2, 2], Dtype::F32);
    let taken = failure(in_place, |inputs, _| Ok(inputs[0].as_slice::<f32>().map(drop)?));
    assert_eq!(taken, "[probe] an input's elements are in the output that is in its place");
}

#[test]
fn after_a_failure_kernels_are_skipped_and_the_stream_goes_on() {
    // On a thread of its own and on this one: MLX passes errors on in two ways.
    let round = || {
        let s = Stream::cpu().unwrap();
        for round in 0..300 {
            let ran = Arc::new(AtomicUsize::new(0));
            let mut x = Array::from_slice(&[1.0_f32; 4], &[4]).unwrap();
            for step in 0..5 {
                let ran = Arc::clone(&ran);
                x = probe(&[&x], f32s(&[4]), &s, move |inputs, outputs| {
                    ran.fetch_add(1, Ordering::SeqCst);
                    if step == 2 {
                        return Err(format!("round {round}").into());
                    }
                    let x = inputs[0].as_slice::<f32>()?;
                    Ok(outputs[0].write_with(|i| x[i] + 1.0)?)
                });
                x = ops::add(&x, &x, &s).unwrap();
            }
            assert_eq!(x.eval().unwrap_err().message(), format!("[probe] round {round}"));
            assert_eq!(ran.load(Ordering::SeqCst), 3);
            s.synchronize().unwrap();
        }
        let x = Array::from_slice(&[1.0_f32], &[1]).unwrap();
        let y = probe(&[&x], OutputSpec::in_place(0, &[1], Dtype::F32), &s, |_, outputs| {
            outputs[0].as_mut_slice::<f32>()?[0] += 1.0;
            Ok(())
        });
        assert_eq!(y.to_vec::<f32>(&s).unwrap(), [2.0]);
    };
    round();
    std::thread::spawn(round).join().unwrap();
}

#[test]
fn fresh_memory_is_zeros_or_written() {
    let s = Stream::cpu().unwrap();
    // Memory that has been used before, so that it isn't zero by chance.
    for _ in 0..3 {
        let used = probe(&[], f32s(&[512]), &s, |_, outputs| Ok(outputs[0].write_with(|i| i as f32 + 1.0)?));
        assert_eq!(used.as_slice::<f32>().unwrap()[511], 512.0);
        drop(used);
        s.synchronize().unwrap();
        let zeros = probe(&[], f32s(&[512]), &s, |_, outputs| {
            assert!(outputs[0].as_mut_slice::<f32>()?.iter().all(|x| *x == 0.0));
            Ok(())
        });
        assert_eq!(zeros.to_vec::<f32>(&s).unwrap(), [0.0; 512]);
    }
    let written = probe(&[], f32s(&[512]), &s, |_, outputs| {
        for (i, element) in outputs[0].as_uninit_slice::<f32>()?.iter_mut().enumerate() {
            element.write(i as f32);
        }
        // SAFETY: the loop has written each element.
        unsafe { outputs[0].assume_written() };
        assert_eq!(outputs[0].as_mut_slice::<f32>()?[511], 511.0);
        Ok(())
    });
    assert_eq!(written.as_slice::<f32>().unwrap()[7], 7.0);
}

#[test]
fn in_place_reuses_what_nobody_else_needs() {
    let s = Stream::cpu().unwrap();
    let increment = |x: &Array| {
        probe(&[x], OutputSpec::in_place(0, &[64], Dtype::F32), &s, |inputs, outputs| {
            assert_eq!(outputs[0].in_place_of(), Some(0));
            assert_eq!(
                (inputs[0].shape(), outputs[0].shape(), outputs[0].size()),
                (&[64][..], &[64][..], 64)
            );
            outputs[0].as_mut_slice::<f32>()?.iter_mut().for_each(|x| *x += 1.0);
            Ok(())
        })
    };
    let x = Array::from_slice(&[1.0_f32; 64], &[64]).unwrap();
    let own = x.as_slice::<f32>().unwrap().as_ptr();
    let held = increment(&x);
    assert_ne!(held.as_slice::<f32>().unwrap().as_ptr(), own);
    assert_eq!(x.as_slice::<f32>().unwrap(), [1.0; 64]);
    s.synchronize().unwrap();

    let free = increment(&x);
    drop(x);
    assert_eq!(free.as_slice::<f32>().unwrap(), [2.0; 64]);
    assert_eq!(free.as_slice::<f32>().unwrap().as_ptr(), own);
}

#[test]
fn several_outputs_come_in_order() {
    struct DivMod;
    impl HostKernel for DivMod {
        fn name(&self) -> &str {
            "div_mod"
        }

        fn run(&self, inputs: &[HostInput<'_>], outputs: &mut [HostOutput<'_>]) -> Result<(), HostError> {
            let (a, b) = (inputs[0].as_slice::<i32>()?, inputs[1].get::<i32>(&[])?);
            let [quotient, remainder] = outputs else { return Err("two outputs".into()) };
            quotient.write_with(|i| a[i] / b)?;
            Ok(remainder.write_with(|i| (a[i] % b) as u32)?)
        }
    }
    let s = Stream::cpu().unwrap();
    let a = Array::from_slice(&[7, 8, 9], &[3]).unwrap();
    let b = Array::from_slice(&[4], &[]).unwrap();
    let outputs = [OutputSpec::new(&[3], Dtype::I32), OutputSpec::new(&[3], Dtype::U32)];
    let kernel: Arc<dyn HostKernel> = Arc::new(DivMod);
    let [quotient, remainder] = host_kernel(kernel, &[&a, &b], outputs, &s).unwrap();
    assert_eq!(quotient.to_vec::<i32>(&s).unwrap(), [1, 2, 2]);
    assert_eq!(remainder.to_vec::<u32>(&s).unwrap(), [3, 0, 1]);
}

#[test]
fn what_bytes_cannot_be_is_refused() {
    let s = Stream::cpu().unwrap();
    let bytes = Array::from_slice(&[0_u8, 1, 2, 3, 4, 5, 6, 7], &[8]).unwrap();
    let error = ops::view(&bytes, Dtype::Bool, &s).unwrap_err();
    assert!(error.message().contains("bools"), "{error}");
    // Bytes at an odd address are seen as numbers where they can be read as such.
    let odd = ops::view(&ops::flat_slice(&bytes, 1, 4, &s).unwrap(), Dtype::F32, &s).unwrap();
    let expected = f32::from_le_bytes([1, 2, 3, 4]);
    assert_eq!(odd.as_slice::<f32>().unwrap(), [expected]);
    let out = probe(&[&bytes, &odd], f32s(&[1]), &s, move |inputs, outputs| {
        assert!(inputs[0].as_slice::<bool>().is_err());
        assert!(inputs[0].get::<bool>(&[0]).is_err());
        assert_eq!(inputs[1].get::<f32>(&[0])?, expected);
        Ok(outputs[0].write_with(|_| 1.0_f32)?)
    });
    out.eval().unwrap();
}

#[test]
fn empty_arrays_pass() {
    let s = Stream::cpu().unwrap();
    let x = Array::from_slice::<f32>(&[], &[0, 4]).unwrap();
    assert!(x.as_slice::<f32>().unwrap().is_empty());
    let out = probe(&[&x], OutputSpec::in_place(0, &[0, 4], Dtype::F32), &s, |inputs, outputs| {
        assert!(inputs[0].as_slice::<f32>()?.is_empty());
        assert!(inputs[0].to_vec::<f32>()?.is_empty());
        assert!(inputs[0].row::<f32>(&[0]).is_err());
        assert!(outputs[0].as_mut_slice::<f32>()?.is_empty());
        Ok(())
    });
    assert!(out.to_vec::<f32>(&s).unwrap().is_empty());
}

#[test]
fn elements_are_seen_where_they_lie() {
    let s = Stream::cpu().unwrap();
    let x = Array::from_slice(&[1.0_f32, 2.0, 3.0, 4.0], &[2, 2]).unwrap();
    assert_eq!(x.as_slice::<f32>().unwrap(), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(ops::add(&x, &x, &s).unwrap().as_slice::<f32>().unwrap(), [2.0, 4.0, 6.0, 8.0]);
    let row = ops::slice_axis(&x, 0, 1, 2, &s).unwrap();
    assert_eq!(row.as_slice::<f32>().unwrap(), [3.0, 4.0]);
    assert!(x.as_slice::<u32>().unwrap_err().message().contains("F32"));
    let turned = ops::transpose(&x, &[1, 0], &s).unwrap();
    assert!(turned.as_slice::<f32>().unwrap_err().message().contains("row-major"));
}

#[test]
fn what_does_not_fit_is_refused_at_once() {
    let s = Stream::cpu().unwrap();
    let x = Array::from_slice(&[1.0_f32, 2.0], &[2]).unwrap();
    let refused = |output: OutputSpec<'_>| -> MlxError {
        host_kernel(Arc::new(Probe(Box::new(|_, _| Ok(())))), &[&x], [output], &s).unwrap_err()
    };
    assert!(refused(f32s(&[-1])).message().contains("negative"));
    assert!(refused(OutputSpec::in_place(1, &[2], Dtype::F32)).message().contains("not there"));
    assert!(refused(OutputSpec::in_place(usize::MAX, &[2], Dtype::F32)).message().contains("not there"));
    assert!(refused(OutputSpec::in_place(0, &[1, 2], Dtype::F32)).message().contains("another shape"));
    assert_eq!(refused(f32s(&[-1])).operation(), "host_kernel");
}

#[test]
fn a_kernel_is_let_go_whatever_its_drop_does() {
    struct Bad(Arc<AtomicUsize>);
    impl HostKernel for Bad {
        fn name(&self) -> &str {
            "bad\0name"
        }

        fn run(&self, _: &[HostInput<'_>], _: &mut [HostOutput<'_>]) -> Result<(), HostError> {
            std::panic::panic_any(17)
        }
    }
    impl Drop for Bad {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
            panic!("on purpose, in drop");
        }
    }
    let s = Stream::cpu().unwrap();
    let dropped = Arc::new(AtomicUsize::new(0));
    let [out] = host_kernel(Arc::new(Bad(Arc::clone(&dropped))), &[], [f32s(&[1])], &s).unwrap();
    assert_eq!(out.eval().unwrap_err().message(), "[bad\0name] panicked: no message");
    drop(out);
    s.synchronize().unwrap();
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
}

#[test]
fn a_panic_whose_payload_panics_when_dropped_is_an_error_like_others() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("on purpose, in the payload's drop");
        }
    }
    let s = Stream::cpu().unwrap();
    let out = probe(&[], f32s(&[1]), &s, |_, _| std::panic::panic_any(Bomb));
    assert_eq!(out.eval().unwrap_err().message(), "[probe] panicked: no message");

    struct Nameless(std::thread::ThreadId);
    impl HostKernel for Nameless {
        fn name(&self) -> &str {
            if std::thread::current().id() != self.0 {
                std::panic::panic_any(Bomb)
            }
            "nameless"
        }

        fn run(&self, _: &[HostInput<'_>], _: &mut [HostOutput<'_>]) -> Result<(), HostError> {
            std::panic::panic_any(Bomb)
        }
    }
    let kernel = Arc::new(Nameless(std::thread::current().id()));
    let [out] = host_kernel(kernel, &[], [f32s(&[1])], &s).unwrap();
    assert_eq!(out.eval().unwrap_err().message(), "[] panicked: no message");
}

#[test]
fn threads_keep_their_failures_apart() {
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            std::thread::spawn(move || {
                let s = Stream::cpu().unwrap();
                for round in 0..50 {
                    let out = probe(&[], f32s(&[8]), &s, move |_, outputs| {
                        if thread % 2 == 0 {
                            return Err(format!("{thread} {round}").into());
                        }
                        Ok(outputs[0].write_with(|i| i as f32)?)
                    });
                    match out.to_vec::<f32>(&s) {
                        Ok(values) => assert_eq!((thread % 2, values[7]), (1, 7.0)),
                        Err(error) => assert_eq!(error.message(), format!("[probe] {thread} {round}")),
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}
