//! Matrices of floating-point numbers in the order in which the kernels read them, in the type that the file has.
//!
//! Outputs go in pairs of panels of sixteen: for each input the pair's 32 numbers, side by side.

use half::f16;

use super::Engine;
use super::buffer::{Upcoming, Weights};
use super::emit::Sink;
use super::packed::{PackedOrder, Start, each_band, pairs};
use super::pool::Pool;
use super::product::Products;
use super::round::{Laid, MAX_ROWS};
use super::rows::{self, ByRows, PackError, RowBuffer};
use super::simd::{FloatType, PAIR};
use super::source::{Floats, Scales, Source};

/// Bytes of rows that a thread goes over pair after pair. They should stay in its second-level cache beside a pair.
const CHUNK_BYTES: usize = 512 << 10;

/// A dense matrix, `[outputs, inputs]`.
#[derive(Debug)]
pub(crate) struct Dense {
    memory: Weights,
    number: FloatType,
    inputs: usize,
    /// Outputs of all matrices; what fills up the last pair is zero.
    outputs: usize,
    pairs: usize,
}

impl FloatType {
    /// A type that holds every number of a matrix. Infinities and what is no number have no place in an f16.
    fn of<R: ByRows>(matrix: &R, pool: &Pool) -> Result<Self, R::Error> {
        let mut buffer = RowBuffer::default();
        let (narrow, holds): (_, fn(Source<'_>) -> bool) = match matrix.read(0..0, &mut buffer)? {
            Source::Dense(Floats::Bf16(_)) => return Ok(Self::Bf16),
            Source::Dense(Floats::F16(_)) => (Self::F16, |source| match source {
                Source::Dense(Floats::F16(data)) => data.iter().all(|x| x.is_finite()),
                _ => false,
            }),
            // A number of four bits times a power of two, unless that is too small or large.
            Source::Quantized { scales: Scales::Mxfp8(_), .. } => (Self::Bf16, |source| match source {
                Source::Quantized { scales: Scales::Mxfp8(scales), .. } => {
                    scales.iter().all(|scale| (16..240).contains(scale))
                }
                _ => false,
            }),
            _ => return Ok(Self::F32),
        };
        Ok(if rows::all(matrix, pool, holds)? { narrow } else { Self::F32 })
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
    pub(crate) fn pack<R: ByRows>(
        matrices: &[R],
        inputs: usize,
        order: PackedOrder,
        pool: &Pool,
    ) -> Result<Option<Self>, PackError<R::Error>> {
        let numbers: Vec<FloatType> = matrices
            .iter()
            .map(|matrix| FloatType::of(matrix, pool))
            .collect::<Result<_, _>>()
            .map_err(PackError::Rows)?;
        let rows: Vec<usize> = matrices.iter().map(ByRows::count).collect();
        let (Some(&number), Some(pairs)) = (numbers.first(), pairs(&rows, order)) else { return Ok(None) };
        if numbers.iter().any(|&other| other != number) {
            return Ok(None);
        }
        Self::fill(number, matrices, [inputs, pairs], order, pool).map(Some)
    }

    /// Packs one matrix, whichever it is.
    pub(crate) fn pack_one<R: ByRows>(
        matrix: &R,
        inputs: usize,
        pool: &Pool,
    ) -> Result<Self, PackError<R::Error>> {
        let number = FloatType::of(matrix, pool).map_err(PackError::Rows)?;
        let pairs = matrix.count().div_ceil(PAIR);
        Self::fill(number, std::slice::from_ref(matrix), [inputs, pairs], PackedOrder::Stacked, pool)
    }

    fn fill<R: ByRows>(
        number: FloatType,
        matrices: &[R],
        [inputs, pairs]: [usize; 2],
        order: PackedOrder,
        pool: &Pool,
    ) -> Result<Self, PackError<R::Error>> {
        let pair_bytes = inputs * PAIR * number.bytes();
        let mut memory = Weights::zeroed(pairs * pair_bytes).map_err(PackError::Memory)?;
        let start = Start(memory.as_mut_ptr());
        each_band(matrices, order, [pairs, pair_bytes], pool, &|_, source, places| {
            let (start, rows) = (&start, (inputs, source));
            // SAFETY: the memory holds `pairs` pairs of numbers of this type, and each band writes its own rows.
            unsafe {
                match number {
                    FloatType::F32 => pack_rows(rows, start.0.cast::<f32>(), places, |x| x),
                    // Either has room for the number as it is.
                    FloatType::Bf16 => {
                        pack_rows(rows, start.0.cast::<u16>(), places, |x| (x.to_bits() >> 16) as u16);
                    }
                    FloatType::F16 => pack_rows(rows, start.0.cast::<f16>(), places, f16::from_f32),
                }
            }
        })
        .map_err(PackError::Rows)?;
        let outputs = matrices.iter().map(ByRows::count).sum();
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
        unsafe { self.memory.as_ptr().add(pair * self.pair_bytes()) }
    }

    fn pair_bytes(&self) -> usize {
        self.inputs * PAIR * self.number.bytes()
    }
}

/// Lays out rows of so many inputs, each in its lane of its pair. What of a pair has no row stays zero.
///
/// # Safety
/// `to` has room for the numbers of all pairs, and nobody else uses those of these rows meanwhile.
unsafe fn pack_rows<T>(
    (inputs, source): (usize, Source<'_>),
    to: *mut T,
    places: &mut dyn Iterator<Item = (usize, usize)>,
    convert: impl Fn(f32) -> T,
) {
    let mut numbers = vec![0.0; inputs];
    for (row, (pair, lane)) in places.enumerate() {
        source.row(row, &mut numbers);
        for (k, &number) in numbers.iter().enumerate() {
            // SAFETY: within the pair.
            unsafe { to.add((pair * inputs + k) * PAIR + lane).write(convert(number)) };
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
            let range = first..tiles.count().min(first + chunk);
            // Threads do neighbouring tasks, so the next pair is likely to be this one's, and is asked for in parts.
            let next = Upcoming::new(dense.pair((pair + 1) % dense.pairs), dense.pair_bytes(), range.len());
            for index in range.clone() {
                let tile = tiles.get(index);
                sink.prefetch(tile, pair);
                next.prefetch(index - range.start);
                // SAFETY: the family was detected; rows and pair have as many inputs; the sink's tiles and pair are this
                // task's.
                unsafe {
                    let function = self.family.tiles[tile.rows - 1].dense[dense.number as usize];
                    let rows = laid.x.add(tile.first * laid.stride());
                    function(rows, dense.pair(pair), dense.inputs, out.0.as_mut_ptr());
                    (self.family.emit)(&sink, tile, pair, out.0.as_ptr());
                }
            }
        });
    }
}
