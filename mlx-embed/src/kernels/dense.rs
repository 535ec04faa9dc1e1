//! Matrices of floating-point numbers in the order in which the kernels read them, in the type that the file has.
//!
//! Outputs go in pairs of panels of sixteen: for each input the pair's 32 numbers, side by side.

use std::io;

use half::f16;

use super::Engine;
use super::buffer::Weights;
use super::emit::Sink;
use super::packed::{PAIR, PackedOrder, Start, pairs, place};
use super::pool::Pool;
use super::product::Products;
use super::round::{Laid, MAX_ROWS};
use super::source::{Floats, Scales, Source};

/// Bytes of rows that a thread goes over pair after pair. They should stay in its second-level cache beside a pair.
const CHUNK_BYTES: usize = 512 << 10;

/// A dense matrix, `[outputs, inputs]`.
#[derive(Debug)]
pub(crate) struct Dense {
    memory: Weights,
    number: Number,
    inputs: usize,
    /// Outputs of all matrices; what fills up the last pair is zero.
    outputs: usize,
    pairs: usize,
}

/// The type of the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    F32,
    Bf16,
    F16,
}

impl Number {
    /// A type that holds every number of a matrix. Infinities and what is no number have no place in an f16.
    fn of(source: &Source<'_>) -> Self {
        match *source {
            Source::Dense(Floats::Bf16(_)) => Self::Bf16,
            Source::Dense(Floats::F16(data)) if data.iter().all(|x| x.is_finite()) => Self::F16,
            // A number of four bits times a power of two, unless that is too small or large.
            Source::Quantized { scales: Scales::Mxfp8(scales), .. }
                if scales.iter().all(|scale| (16..240).contains(scale)) =>
            {
                Self::Bf16
            }
            _ => Self::F32,
        }
    }

    fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }
}

impl Dense {
    /// Packs matrices `[rows, inputs]`; `None` if they are of several types or don't go together.
    pub(crate) fn pack(
        sources: &[Source<'_>],
        inputs: usize,
        order: PackedOrder,
        pool: &Pool,
    ) -> io::Result<Option<Self>> {
        let numbers: Vec<Number> = sources.iter().map(Number::of).collect();
        let rows: Vec<usize> = sources.iter().map(|source| source.rows(inputs)).collect();
        let (Some(&number), Some(pairs)) = (numbers.first(), pairs(&rows, order)) else { return Ok(None) };
        if numbers.iter().any(|&other| other != number) {
            return Ok(None);
        }
        let row = |pair, lane| place(&rows, order, pair, lane).map(|(matrix, row)| (&sources[matrix], row));
        Self::fill(number, [rows.iter().sum(), inputs, pairs], row, pool).map(Some)
    }

    /// Packs one matrix, whichever it is.
    pub(crate) fn pack_one(source: &Source<'_>, inputs: usize, pool: &Pool) -> io::Result<Self> {
        let rows = source.rows(inputs);
        let row = |pair, lane| Some((source, pair * PAIR + lane)).filter(|&(_, row)| row < rows);
        Self::fill(Number::of(source), [rows, inputs, rows.div_ceil(PAIR)], row, pool)
    }

    /// `row` says which matrix's row a lane of a pair holds.
    fn fill<'a>(
        number: Number,
        [outputs, inputs, pairs]: [usize; 3],
        row: impl Fn(usize, usize) -> Option<(&'a Source<'a>, usize)> + Sync,
        pool: &Pool,
    ) -> io::Result<Self> {
        let pair_bytes = inputs * PAIR * number.bytes();
        let mut memory = Weights::zeroed(pairs * pair_bytes)?;
        let start = Start(memory.as_mut_ptr());
        pool.run(pairs, &|pair| {
            let start = &start;
            let row = |lane| row(pair, lane);
            // SAFETY: the memory holds `pairs` pairs of numbers of this type, and each task writes its own.
            unsafe {
                let to = start.0.add(pair * pair_bytes);
                match number {
                    Number::F32 => pack_pair(inputs, to.cast(), row, |x: f32| x),
                    // Either has room for the number as it is.
                    Number::Bf16 => pack_pair(inputs, to.cast(), row, |x| (x.to_bits() >> 16) as u16),
                    Number::F16 => pack_pair(inputs, to.cast(), row, f16::from_f32),
                }
            }
        });
        Ok(Self { memory, number, inputs, outputs, pairs })
    }

    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    fn pair(&self, pair: usize) -> *const u8 {
        assert!(pair < self.pairs);
        // SAFETY: the memory holds `pairs` pairs.
        unsafe { self.memory.as_ptr().add(pair * self.inputs * PAIR * self.number.bytes()) }
    }
}

/// Lays out a pair, lane by lane; what has no row stays zero.
///
/// # Safety
/// `to` has room for `inputs * PAIR` numbers that nobody else uses meanwhile.
unsafe fn pack_pair<'a, T>(
    inputs: usize,
    to: *mut T,
    row: impl Fn(usize) -> Option<(&'a Source<'a>, usize)>,
    convert: impl Fn(f32) -> T,
) {
    let mut numbers = vec![0.0; inputs];
    for lane in 0..PAIR {
        let Some((source, row)) = row(lane) else { continue };
        source.row(row, &mut numbers);
        for (k, &number) in numbers.iter().enumerate() {
            // SAFETY: within the pair.
            unsafe { to.add(k * PAIR + lane).write(convert(number)) };
        }
    }
}

impl Engine {
    /// # Safety
    /// `laid` points at rows that [`Engine::lay`] has written, as long as those of `dense`, and `sink` at room for their
    /// products, which nobody else uses meanwhile.
    pub(super) unsafe fn multiply_dense(&self, dense: &Dense, laid: &Laid, sink: Sink<'_>) {
        let tiles = laid.tiles;
        let chunk = (CHUNK_BYTES / (self.family.rows() * laid.stride() * size_of::<f32>())).max(1);
        let chunks = tiles.count().div_ceil(chunk);
        let chunk = tiles.count().div_ceil(chunks);
        let tasks = dense.pairs * chunks;
        self.pool.run(tasks, &|task| {
            let mut out = Products([0.0; MAX_ROWS * PAIR]);
            let (first, pair) = (task / dense.pairs * chunk, task % dense.pairs);
            for index in first..tiles.count().min(first + chunk) {
                let tile = tiles.get(index);
                sink.prefetch(tile, pair);
                // SAFETY: the family was detected; rows and pair have as many inputs; the sink's tiles and pair are this
                // task's.
                unsafe {
                    let function = self.family.tiles[tile.rows - 1].dense[dense.number as usize];
                    let rows = laid.x.add(tile.first * laid.stride());
                    function(rows, dense.pair(pair), dense.inputs, out.0.as_mut_ptr());
                    (self.family.emit)(&sink, tile, pair, &out);
                }
            }
        });
    }
}
