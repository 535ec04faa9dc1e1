//! Programs that nobody would write on purpose, without `unsafe`: each ends in an error or in what it says.
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use mlx_embed::mlx::host::{HostError, HostInput, HostKernel, HostOutput, OutputSpec, host_kernel};
use mlx_embed::mlx::{Array, Dtype, MlxError, Stream, memory, ops};

/// More steps than a stack has room for calls.
const DEEP: usize = 200_000;

fn ones(count: usize) -> Array {
    Array::from_slice(&vec![1.0_f32; count], &[count as i32]).unwrap()
}

#[test]
fn graphs_of_any_depth_are_computed_and_dropped() {
    let stream = Stream::cpu().unwrap();
    let chain = || {
        let one = ones(2);
        (0..DEEP).fold(one.clone(), |sum, _| ops::add(&sum, &one, &stream).unwrap())
    };
    assert_eq!(chain().to_vec::<f32>(&stream).unwrap(), [DEEP as f32 + 1.0; 2]);
    drop(chain());
    // Views of views, each of its own shape.
    let viewed = (0..DEEP).fold(ones(6), |array, step| {
        ops::reshape(&array, if step % 2 == 0 { &[2, 3] } else { &[6] }, &stream).unwrap()
    });
    drop(viewed);
}

/// Passes its first input on.
struct Pass;

impl HostKernel for Pass {
    fn name(&self) -> &str {
        "pass"
    }

    fn run(&self, inputs: &[HostInput<'_>], outputs: &mut [HostOutput<'_>]) -> Result<(), HostError> {
        Ok(outputs[0].copy_from_slice(&inputs[0].to_vec::<f32>()?)?)
    }
}

fn pass<K: HostKernel>(kernel: K, inputs: &[&Array], stream: &Stream) -> Result<Array, MlxError> {
    let [array] = host_kernel(Arc::new(kernel), inputs, [OutputSpec::new(&[2], Dtype::F32)], stream)?;
    Ok(array)
}

#[test]
fn chains_of_kernels_of_any_length_are_dropped() {
    let stream = Stream::cpu().unwrap();
    let chain = |length: usize| (0..length).fold(ones(2), |array, _| pass(Pass, &[&array], &stream).unwrap());
    drop(chain(DEEP));
    assert_eq!(chain(DEEP / 20).to_vec::<f32>(&stream).unwrap(), [1.0; 2]);
}

#[test]
fn operations_take_any_number_of_inputs() {
    let stream = Stream::cpu().unwrap();
    let many: Vec<Array> = (0..20_000).map(|_| ones(2)).collect();
    let joined = ops::concatenate(&many, 0, &stream).unwrap();
    assert_eq!(joined.to_vec::<f32>(&stream).unwrap().len(), 40_000);
    let inputs: Vec<&Array> = many.iter().collect();
    assert_eq!(pass(Pass, &inputs, &stream).unwrap().to_vec::<f32>(&stream).unwrap(), [1.0; 2]);
    ops::eval(&many).unwrap();
    ops::eval([]).unwrap();
}

/// Computes with MLX while MLX computes it.
struct Computes;

fn five() -> Result<f32, MlxError> {
    let stream = Stream::cpu()?;
    let two = Array::from_slice(&[2.0_f32], &[1])?;
    let five = ops::add(&ops::multiply(&two, &two, &stream)?, &ones(1), &stream)?;
    Ok(five.to_vec::<f32>(&stream)?[0])
}

/// What waits for others' tasks, and so might wait for the kernel that asks.
fn assert_refused_inside() {
    let refused = [five().map(drop), memory::clear_cache(), memory::set_cache_limit(1 << 20).map(drop)];
    for refused in refused {
        assert!(refused.unwrap_err().message().contains("outside of kernels"));
    }
}

impl HostKernel for Computes {
    fn name(&self) -> &str {
        "computes"
    }

    fn run(&self, _: &[HostInput<'_>], outputs: &mut [HostOutput<'_>]) -> Result<(), HostError> {
        // Until as much is queued as MLX allows.
        thread::sleep(Duration::from_millis(50));
        assert_refused_inside();
        Ok(outputs[0].write_with(|_| 5.0_f32)?)
    }
}

#[test]
fn a_kernel_that_computes_with_mlx_gets_an_error_and_waits_for_nobody() {
    let stream = Stream::cpu().unwrap();
    let mut array = pass(Computes, &[&ones(2)], &stream).unwrap();
    for _ in 0..400 {
        array = ops::add(&array, &ones(2), &stream).unwrap();
    }
    assert_eq!(array.to_vec::<f32>(&stream).unwrap(), [405.0; 2]);
    assert_eq!(five().unwrap(), 5.0);
    memory::clear_cache().unwrap();
}

#[test]
fn a_kernel_that_computes_when_it_is_dropped_gets_an_error() {
    static DROPPED: AtomicUsize = AtomicUsize::new(0);

    struct Last;

    impl HostKernel for Last {
        fn name(&self) -> &str {
            "last"
        }

        fn run(&self, _: &[HostInput<'_>], outputs: &mut [HostOutput<'_>]) -> Result<(), HostError> {
            Ok(outputs[0].write_with(|index| index as f32)?)
        }
    }

    impl Drop for Last {
        fn drop(&mut self) {
            assert_refused_inside();
            DROPPED.fetch_add(1, Ordering::SeqCst);
        }
    }

    let stream = Stream::cpu().unwrap();
    for _ in 0..20 {
        let array = pass(Last, &[&ones(2)], &stream).unwrap();
        assert_eq!(array.to_vec::<f32>(&stream).unwrap(), [0.0, 1.0]);
        // One that nobody asks for is dropped as well.
        drop(pass(Last, &[&ones(2)], &stream).unwrap());
    }
    drop(stream);
    assert_eq!(DROPPED.load(Ordering::SeqCst), 40);
}

#[test]
fn shapes_of_many_dimensions_are_refused() {
    let stream = Stream::cpu().unwrap();
    for dimensions in [33, 70_000] {
        let shape = vec![1; dimensions];
        let refused = |outcome: Result<Array, MlxError>| {
            assert!(outcome.unwrap_err().message().contains("dimensions"), "{dimensions}");
        };
        refused(Array::from_slice(&[1.0_f32], &shape));
        refused(ops::reshape(&ones(1), &shape, &stream));
        refused(ops::broadcast_to(&ones(1), &shape, &stream));
        let made = host_kernel(Arc::new(Pass), &[&ones(1)], [OutputSpec::new(&shape, Dtype::F32)], &stream);
        refused(made.map(|[array]| array));
    }
}

/// What a thread has first is destroyed last, behind what this crate and MLX keep for the thread.
#[cfg(target_os = "linux")]
#[test]
fn destructors_at_a_threads_end_may_compute() {
    use std::cell::Cell;

    static DROPPED: AtomicUsize = AtomicUsize::new(0);

    struct First;

    impl Drop for First {
        fn drop(&mut self) {
            compute_and_err();
            DROPPED.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn compute_and_err() {
        assert_eq!(five().unwrap(), 5.0);
        assert!(ops::add(&ones(2), &ones(3), &Stream::cpu().unwrap()).is_err());
        memory::clear_cache().unwrap();
    }

    thread_local! {
        static FIRST: Cell<Option<First>> = const { Cell::new(None) };
    }

    if mlx_embed::mlx::gpu_backend().is_some() {
        return;
    }
    for ended in 1..20 {
        let end = thread::spawn(|| {
            FIRST.set(Some(First));
            compute_and_err();
        });
        end.join().unwrap();
        assert_eq!(DROPPED.load(Ordering::SeqCst), ended);
    }
}

#[test]
fn what_is_forgotten_is_lost_and_nothing_else() {
    let stream = Stream::cpu().unwrap();
    for _ in 0..100 {
        std::mem::forget(ops::add(&ones(2), &ones(2), &stream).unwrap());
    }
    std::mem::forget(Stream::cpu().unwrap());
    assert_eq!(five().unwrap(), 5.0);
}

/// The second half of each row of a transposed matrix: neither it nor its transpose lies without gaps, so products copy
/// it, and jump far for each element.
fn scattered(size: i32, stream: &Stream) -> Array {
    let whole = Array::from_slice(&vec![1.0_f32; (2 * size * size) as usize], &[size, 2 * size]).unwrap();
    let half = ops::slice_axis(&ops::transpose(&whole, &[1, 0], stream).unwrap(), 0, size, 2 * size, stream)
        .unwrap();
    half.eval().unwrap();
    half
}

/// MLX lets go of the copies of a product's operands before they are written where the product has no elements.
#[test]
fn products_without_elements_write_to_nobody_elses_memory() {
    const SIZE: i32 = 1024;
    let (slow, quick) = (Stream::cpu().unwrap(), Stream::cpu().unwrap());
    let half = scattered(SIZE, &slow);
    let none = Array::from_slice::<f32>(&[], &[0, SIZE]).unwrap();
    let zeros = Array::from_slice(&vec![0.0_f32; (SIZE * SIZE) as usize], &[SIZE, SIZE]).unwrap();
    for _ in 0..20 {
        memory::clear_cache().unwrap();
        let empty = ops::matmul(&none, &half, &slow).unwrap();
        let sum = ops::add(&zeros, &zeros, &quick).unwrap();
        ops::eval([&sum, &empty]).unwrap();
        assert_eq!(empty.shape(), [0, SIZE]);
        assert!(sum.as_slice::<f32>().unwrap().iter().all(|&x| x == 0.0));
    }
}
