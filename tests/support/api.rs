//! Programs over the safe API, made of bytes: any operations on any arrays, streams and threads. Each step ends in an
//! error or in an array that holds what its shape says.

use std::sync::Arc;
use std::{panic, thread};

use arbitrary::{Arbitrary, Unstructured};
use half::{bf16, f16};
use mlx_embed::mlx::host::{HostError, HostInput, HostKernel, HostOutput, OutputSpec, host_kernel};
use mlx_embed::mlx::ops::{QuantMode, QuantizedRef, RopeFrequencies, RopeSettings};
use mlx_embed::mlx::{Array, Dtype, Element, MlxError, Stream, memory, ops};

/// Larger results are dropped before anything is computed: a fuzzer's memory is for many programs.
const MOST_ELEMENTS: usize = 1 << 12;
const MOST_ARRAYS: usize = 16;
const MOST_STEPS: usize = 48;

const DTYPES: [Dtype; 7] =
    [Dtype::Bool, Dtype::U8, Dtype::U32, Dtype::I32, Dtype::F16, Dtype::Bf16, Dtype::F32];

type Made<T> = Result<T, Stop>;

/// Why a program ends or a step has no result.
enum Stop {
    /// There are no bytes left.
    Over,
    Refused,
}

impl From<arbitrary::Error> for Stop {
    fn from(_: arbitrary::Error) -> Self {
        Self::Over
    }
}

impl From<MlxError> for Stop {
    fn from(error: MlxError) -> Self {
        assert!(!error.message().is_empty() && !error.operation().is_empty());
        Self::Refused
    }
}

/// Runs the program that `bytes` are: on this thread, or cut in parts on several at a time.
pub fn run(bytes: &[u8]) {
    let Some((&threads, bytes)) = bytes.split_first() else { return };
    match usize::from(threads % 4) {
        0 | 1 => run_here(bytes),
        threads => thread::scope(|scope| {
            let parts = bytes.chunks(bytes.len().div_ceil(threads).max(1));
            let running: Vec<_> = parts.map(|part| scope.spawn(move || run_here(part))).collect();
            // To the end of their thread-locals, too, which a scope does not wait for: a checker of leaks looks next.
            for thread in running {
                thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic));
            }
        }),
    }
}

fn run_here(bytes: &[u8]) {
    let mut program = Program { bytes: Unstructured::new(bytes), arrays: Vec::new(), streams: Vec::new() };
    for _ in 0..MOST_STEPS {
        match program.step() {
            Ok(()) | Err(Stop::Refused) => {}
            Err(Stop::Over) => break,
        }
    }
    // What nobody has asked for yet is asked for now, also where its stream is gone.
    program.streams.clear();
    for array in &program.arrays {
        check(array);
    }
}

struct Program<'a> {
    bytes: Unstructured<'a>,
    arrays: Vec<Array>,
    streams: Vec<Stream>,
}

impl Program<'_> {
    fn step(&mut self) -> Made<()> {
        if self.streams.is_empty() || self.bytes.ratio(1, 24)? {
            self.streams.push(Stream::cpu()?);
        }
        if self.streams.len() > 3 || self.bytes.ratio(1, 24)? {
            let index = self.bytes.choose_index(self.streams.len())?;
            drop(self.streams.swap_remove(index));
            return Ok(());
        }
        let stream = self.bytes.choose_index(self.streams.len())?;
        if self.arrays.len() < 2 || self.bytes.ratio(1, 5)? {
            let array = self.leaf()?;
            self.keep(array);
            return Ok(());
        }
        let made = self.operation(stream)?;
        for array in made {
            self.keep(array);
        }
        Ok(())
    }

    fn keep(&mut self, array: Array) {
        assert!(array.shape().iter().all(|&size| size >= 0), "{array:?}");
        let count = array.shape().iter().try_fold(1_usize, |count, &size| count.checked_mul(size as usize));
        assert_eq!(count, Some(array.size()), "{array:?}");
        if array.size() > MOST_ELEMENTS {
            return;
        }
        if self.arrays.len() == MOST_ARRAYS {
            self.arrays.remove(0);
        }
        self.arrays.push(array);
    }

    fn array(&mut self) -> Made<Array> {
        let index = self.bytes.choose_index(self.arrays.len())?;
        Ok(self.arrays[index].clone())
    }

    fn dtype(&mut self) -> Made<Dtype> {
        Ok(*self.bytes.choose(&DTYPES)?)
    }

    /// Mostly a small one, at times any.
    fn number(&mut self) -> Made<i32> {
        Ok(match self.bytes.int_in_range(0..=15)? {
            0 => i32::arbitrary(&mut self.bytes)?,
            1 => *self.bytes.choose(&[i32::MIN, i32::MAX, -1, 0, 65536, 1 << 30])?,
            2 => *self.bytes.choose(&[16, 32, 64, 128])?,
            _ => self.bytes.int_in_range(-3..=9)?,
        })
    }

    fn numbers(&mut self) -> Made<Vec<i32>> {
        let count = if self.bytes.ratio(1, 64)? { 40 } else { self.bytes.int_in_range(0..=5)? };
        (0..count).map(|_| self.number()).collect()
    }

    /// A shape that memory holds.
    fn shape(&mut self) -> Made<Vec<i32>> {
        let mut left = MOST_ELEMENTS as i32;
        let mut shape = Vec::new();
        for _ in 0..self.bytes.int_in_range(0..=4)? {
            let size = *self.bytes.choose(&[0, 1, 1, 2, 2, 3, 4, 8, 16, 32, 64])?;
            left /= size.max(1);
            if left > 0 {
                shape.push(size);
            }
        }
        Ok(shape)
    }

    fn leaf(&mut self) -> Made<Array> {
        let shape = if self.bytes.ratio(1, 12)? { self.numbers()? } else { self.shape()? };
        let product = shape.iter().try_fold(1_i32, |count, &size| count.checked_mul(size)).unwrap_or(0);
        let count = usize::try_from(product).unwrap_or(0).min(MOST_ELEMENTS);
        let seed = i32::from(u8::arbitrary(&mut self.bytes)?);
        let at = |index: usize| index as i32 * 7 + seed;
        let bytes = || (0..count).map(|index| at(index) as u8).collect::<Vec<u8>>();
        Ok(match self.dtype()? {
            Dtype::Bool => of(count, &shape, |index| at(index) % 2 == 0)?,
            Dtype::U8 => Array::from_slice(&bytes(), &shape)?,
            Dtype::U32 => of(count, &shape, |index| (at(index) as u32).wrapping_mul(2_654_435_761))?,
            Dtype::I32 => of(count, &shape, |index| at(index) % 11 - 5)?,
            Dtype::F16 => of(count, &shape, |index| f16::from_f32(at(index) as f32 / 8.0))?,
            Dtype::Bf16 => of(count, &shape, |index| bf16::from_f32(at(index) as f32 / 8.0))?,
            Dtype::F32 if seed == 255 => Array::from_bytes(&bytes(), &shape, self.dtype()?)?,
            _ => of(count, &shape, |index| at(index) as f32 / 8.0)?,
        })
    }

    fn operation(&mut self, stream: usize) -> Made<Vec<Array>> {
        let a = self.array()?;
        let choice = self.bytes.int_in_range(0..=21)?;
        // What an operation takes beside `a`, read before the stream is borrowed.
        let (b, c) = (self.array()?, self.array()?);
        let (dtype, numbers, n, m) = (self.dtype()?, self.numbers()?, self.number()?, self.number()?);
        let flag = self.bytes.ratio(1, 2)?;
        let s = &self.streams[stream];
        let one = match choice {
            0 => ops::add(&a, &b, s)?,
            1 => ops::multiply(&a, &b, s)?,
            2 => ops::matmul(&a, &b, s)?,
            3 => ops::sigmoid(&a, s)?,
            4 => ops::contiguous(&a, s)?,
            5 => ops::astype(&a, dtype, s)?,
            6 => ops::view(&a, dtype, s)?,
            7 => ops::reshape(&a, &numbers, s)?,
            8 => ops::transpose(&a, &numbers, s)?,
            9 => {
                let axes: Vec<i32> = (0..a.ndim() as i32).rev().collect();
                ops::transpose(&a, &axes, s)?
            }
            10 => ops::flat_slice(&a, usize::try_from(n).unwrap_or(usize::MAX), m, s)?,
            11 => {
                ops::slice_axis(&a, numbers.first().map_or(0, |&axis| axis.unsigned_abs() as usize), n, m, s)?
            }
            12 => ops::take(&a, &b, n, s)?,
            13 => ops::broadcast_to(&a, &numbers, s)?,
            14 if flag => ops::concatenate(&[a, b, c], n, s)?,
            14 => ops::concatenate(&[a], n, s)?,
            15 => {
                let w = quantized(&b, &c, flag.then_some(&c), n, m);
                ops::quantized_matmul(&a, w, s)?
            }
            16 => ops::dequantize(quantized(&a, &b, flag.then_some(&c), n, m), dtype, s)?,
            17 => ops::rms_norm(&a, Some(&b), n as f32, s)?,
            18 => {
                let frequencies =
                    if flag { RopeFrequencies::Base(m as f32) } else { RopeFrequencies::Periods(&b) };
                let traditional = m % 2 == 0;
                ops::rope(&a, RopeSettings { dims: n, traditional, frequencies, scale: 1.5, offset: m }, s)?
            }
            19 => ops::causal_attention(&a, &b, &c, n as f32, s)?,
            20 => {
                let output = if flag {
                    OutputSpec::in_place(n.unsigned_abs() as usize, a.shape(), a.dtype().unwrap_or(dtype))
                } else {
                    OutputSpec::new(&numbers, dtype)
                };
                if numbers.iter().map(|&size| f64::from(size.max(1))).product::<f64>() > MOST_ELEMENTS as f64
                {
                    return Ok(Vec::new());
                }
                return Ok(host_kernel(Arc::new(Looks), &[&a, &b], [output], s)?.into());
            }
            _ => {
                match n {
                    0 => ops::eval([&a, &b, &c])?,
                    1 => s.synchronize()?,
                    2 => memory::clear_cache()?,
                    _ => check(&a),
                }
                return Ok(Vec::new());
            }
        };
        Ok(vec![one])
    }
}

fn of<T: Element>(count: usize, shape: &[i32], value: impl Fn(usize) -> T) -> Result<Array, MlxError> {
    Array::from_slice(&(0..count).map(value).collect::<Vec<T>>(), shape)
}

fn quantized<'a>(
    weight: &'a Array,
    scales: &'a Array,
    biases: Option<&'a Array>,
    n: i32,
    m: i32,
) -> QuantizedRef<'a> {
    let modes = [QuantMode::Affine, QuantMode::Mxfp4, QuantMode::Mxfp8, QuantMode::Nvfp4];
    let mode = modes[n.unsigned_abs() as usize % 4];
    let (bits, group_size) = match (mode, m % 3) {
        (_, 0) => (n, m),
        (QuantMode::Mxfp8, _) => (8, 32),
        (QuantMode::Nvfp4, _) => (4, 16),
        (_, 1) => (4, 32),
        _ => (n.clamp(2, 8), 32),
    };
    QuantizedRef { weight, scales, biases, group_size, bits, mode }
}

/// A kernel that looks at its inputs in every way and writes its output.
struct Looks;

impl HostKernel for Looks {
    fn name(&self) -> &str {
        "looks"
    }

    fn run(&self, inputs: &[HostInput<'_>], outputs: &mut [HostOutput<'_>]) -> Result<(), HostError> {
        fn look<T: Element>(input: &HostInput<'_>) -> Result<(), MlxError> {
            let first = vec![0; input.shape().len()];
            let all = input.to_vec::<T>()?;
            assert_eq!(all.len(), input.size());
            let _ = (
                input.as_slice::<T>(),
                input.get::<T>(&first),
                input.row::<T>(&first[..first.len().max(1) - 1]),
            );
            Ok(())
        }
        for input in inputs {
            let _ = match input.dtype() {
                Some(Dtype::Bool) => look::<bool>(input),
                Some(Dtype::U8) => look::<u8>(input),
                Some(Dtype::U32) => look::<u32>(input),
                Some(Dtype::I32) => look::<i32>(input),
                Some(Dtype::F16) => look::<f16>(input),
                Some(Dtype::Bf16) => look::<bf16>(input),
                Some(Dtype::F32) => look::<f32>(input),
                _ => Ok(()),
            };
        }
        for output in outputs {
            match output.dtype() {
                Some(Dtype::F32) => output.as_mut_slice::<f32>()?.reverse(),
                Some(Dtype::U8) => output.write_with(|index| index as u8)?,
                // Left unwritten: an error.
                _ => {}
            }
        }
        Ok(())
    }
}

/// Computes an array and reads all of it.
fn check(array: &Array) {
    fn read<T: Element>(array: &Array) -> Result<usize, MlxError> {
        let stream = Stream::cpu()?;
        let copied = array.to_vec::<T>(&stream)?.len();
        if let Ok(elements) = array.as_slice::<T>() {
            assert_eq!(elements.len(), copied);
        }
        Ok(copied)
    }
    let count = match array.dtype() {
        Some(Dtype::Bool) => read::<bool>(array),
        Some(Dtype::U8) => read::<u8>(array),
        Some(Dtype::U32) => read::<u32>(array),
        Some(Dtype::I32) => read::<i32>(array),
        Some(Dtype::F16) => read::<f16>(array),
        Some(Dtype::Bf16) => read::<bf16>(array),
        Some(Dtype::F32) => read::<f32>(array),
        _ => array.eval().map(|()| array.size()),
    };
    if let Ok(count) = count {
        assert_eq!(count, array.size(), "{array:?}");
    }
}
