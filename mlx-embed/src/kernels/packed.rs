//! Quantised weights in the order in which the kernels read them.
//!
//! Outputs go in pairs of panels of sixteen, and a pair is one run of memory: for each group of inputs the values, then
//! the scales. A step of four inputs takes 64 bytes a panel, four a lane; in 4 bits two steps share a byte, the first
//! in the low nibbles. Behind the values of floats of 4 bits are the factors of every sixteen inputs, a word a lane.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::buffer::Weights;
use super::levels::{FACTOR_INPUTS, Fit, Form, Levels};
use super::pool::Pool;
use super::rows::{ByRows, PackError, RowBuffer};
use super::simd::{LANES, PAIR};
use super::source::Source;

/// How two or more matrices become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PackedOrder {
    /// One after the other.
    Stacked,
    /// Two of equal height: a pair is a panel of the first and the same panel of the second.
    Interleaved,
}

/// A matrix of whole numbers with scales and biases, `[outputs, inputs]`.
#[derive(Debug)]
pub(crate) struct Packed {
    memory: Weights,
    pub(super) layout: Layout,
    rounded_to: Option<u32>,
}

/// Where things are in [`Packed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) inputs: usize,
    /// Outputs of all matrices; what fills up the last pair is zero.
    pub(super) outputs: usize,
    pub(super) bits: usize,
    /// Whether values of 8 bits are below 128.
    pub(super) small: bool,
    /// Whether values are small floats, which become words of 16 bits.
    pub(super) floats: bool,
    /// Whether values of 8 bits have a sign, for rows of seven bits; there are no biases then.
    pub(super) signed: bool,
    pub(super) group_size: usize,
    /// Whether a scale and its bias share a word as two bf16, else they are two f32.
    pub(super) bf16: bool,
    pub(super) pairs: usize,
}

impl Layout {
    pub(super) fn groups(&self) -> usize {
        self.inputs / self.group_size
    }

    /// Bytes of a group's values in a pair, without factors.
    pub(super) fn levels_bytes(&self) -> usize {
        PAIR * self.group_size * self.bits / 8
    }

    /// Bytes of a group's values in a pair.
    pub(super) fn values_bytes(&self) -> usize {
        let factors = if self.floats && self.bits == 4 { self.group_size / FACTOR_INPUTS } else { 0 };
        self.levels_bytes() + factors * PAIR * size_of::<i16>()
    }

    /// Bytes of a group's scales and biases in a pair.
    pub(super) fn scales_bytes(&self) -> usize {
        PAIR * if self.bf16 { 4 } else { 8 }
    }

    pub(super) fn group_bytes(&self) -> usize {
        self.values_bytes() + self.scales_bytes()
    }

    pub(super) fn pair_bytes(&self) -> usize {
        self.groups() * self.group_bytes()
    }
}

impl Packed {
    /// Packs matrices `[rows, inputs]` that `fit` gives one form; `None` if there is none for them.
    pub(crate) fn pack<R: ByRows>(
        matrices: &[R],
        inputs: usize,
        order: PackedOrder,
        fit: Fit,
        pool: &Pool,
    ) -> Result<Option<Self>, PackError<R::Error>> {
        let forms = matrices.iter().map(|matrix| {
            let mut buffer = RowBuffer::default();
            Ok(Form::new(&matrix.read(0..0, &mut buffer)?, inputs, fit))
        });
        let forms: Vec<Option<(Form, bool)>> = forms.collect::<Result<_, _>>().map_err(PackError::Rows)?;
        let Some(forms) = forms.into_iter().collect::<Option<Vec<_>>>() else { return Ok(None) };
        let rows: Vec<usize> = matrices.iter().map(ByRows::count).collect();
        let Some(layout) = plan(&forms, &rows, inputs, order) else { return Ok(None) };
        let mut memory = Weights::zeroed(layout.pairs * layout.pair_bytes()).map_err(PackError::Memory)?;
        let start = Start(memory.as_mut_ptr());
        let bytes = layout.pair_bytes();
        let inexact = AtomicBool::new(false);
        each_band(matrices, order, [layout.pairs, bytes], pool, &|matrix, source, places| {
            let (start, (form, rounded)) = (&start, forms[matrix]);
            let levels = Levels { source, form, inputs, rounded };
            for (row, (pair, lane)) in places.enumerate() {
                // SAFETY: the memory holds `pairs` pairs and each band writes its own rows.
                unsafe {
                    let pair = start.0.add(pair * bytes);
                    if !layout.floats {
                        pack_row(&layout, &levels, row, pair, lane);
                    } else if !pack_floats(&layout, &levels, row, pair, lane) {
                        inexact.store(true, Ordering::Relaxed);
                    }
                }
            }
        })
        .map_err(PackError::Rows)?;
        let rounded = inexact.into_inner() || forms.iter().any(|&(_, rounded)| rounded);
        let bits = if layout.floats { 16 } else { 8 };
        Ok(Some(Self { memory, layout, rounded_to: rounded.then_some(bits) }))
    }

    /// Bits that are left of rows which have so many of limbs.
    pub(crate) fn bits_of_rows(&self, limbs: u32) -> u32 {
        if self.layout.signed { limbs / 8 * 7 } else { limbs }
    }

    /// Bits to which the numbers of any matrix were rounded.
    pub(crate) fn rounded_to(&self) -> Option<u32> {
        self.rounded_to
    }

    pub(super) fn pair(&self, pair: usize) -> *const u8 {
        assert!(pair < self.layout.pairs);
        // SAFETY: the memory holds `pairs` pairs.
        unsafe { self.memory.as_ptr().add(pair * self.layout.pair_bytes()) }
    }
}

/// The start of memory that tasks write disjoint parts of.
pub(super) struct Start(pub(super) *mut u8);

// SAFETY: see its uses: every task writes its own part.
unsafe impl Sync for Start {}

fn plan(forms: &[(Form, bool)], rows: &[usize], inputs: usize, order: PackedOrder) -> Option<Layout> {
    let &(first, _) = forms.first()?;
    // Scales may be held in the wider of two types.
    let bf16 = forms.iter().all(|(form, _)| form.bf16);
    if !forms.iter().all(|(form, _)| Form { bf16, ..*form } == Form { bf16, ..first }) {
        return None;
    }
    let Form { bits, small, floats, signed, group_size, .. } = first;
    let (outputs, pairs) = (rows.iter().sum(), pairs(rows, order)?);
    Some(Layout { inputs, outputs, bits, small, floats, signed, group_size, bf16, pairs })
}

/// Pairs that matrices of so many rows take; `None` where they don't go together.
pub(super) fn pairs(rows: &[usize], order: PackedOrder) -> Option<usize> {
    match (order, rows) {
        (PackedOrder::Stacked, _) => Some(rows.iter().sum::<usize>().div_ceil(PAIR)),
        (PackedOrder::Interleaved, &[first, second]) if first == second => Some(first.div_ceil(LANES)),
        (PackedOrder::Interleaved, _) => None,
    }
}

/// What becomes of rows that are read together: a matrix's number, its rows, and of each the pair and the lane.
type EachBand<'a> = dyn Fn(usize, Source<'_>, &mut dyn Iterator<Item = (usize, usize)>) + Sync + 'a;

/// Bytes of pairs whose rows are read together: many for a call of the system, and few in a cache.
const BAND_BYTES: usize = 128 << 10;

/// Hands over the rows of matrices that make so many pairs of so many bytes, each once.
pub(super) fn each_band<R: ByRows>(
    matrices: &[R],
    order: PackedOrder,
    [pairs, pair_bytes]: [usize; 2],
    pool: &Pool,
    each: &EachBand<'_>,
) -> Result<(), R::Error> {
    let rows: Vec<usize> = matrices.iter().map(ByRows::count).collect();
    // Fewer where threads would wait for each other.
    let most = pairs / (4 * pool.threads());
    let together = (BAND_BYTES / pair_bytes.max(1)).min(most).max(1);
    // Memory that was used before is there, where new memory would come page by page.
    let buffers = Mutex::new(Vec::new());
    let free = || buffers.lock().unwrap_or_else(PoisonError::into_inner);
    pool.try_run(pairs.div_ceil(together), &|band| {
        let pairs = band * together..pairs.min((band + 1) * together);
        let mut buffer: RowBuffer = free().pop().unwrap_or_default();
        for (matrix, source) in matrices.iter().enumerate() {
            let band = rows_in(&rows, order, matrix, &pairs);
            if !band.is_empty() {
                let source = source.read(band.clone(), &mut buffer)?;
                each(matrix, source, &mut band.map(|row| place(&rows, order, matrix, row)));
            }
        }
        free().push(buffer);
        Ok(())
    })
}

/// Which rows of a matrix lie in a range of pairs.
fn rows_in(rows: &[usize], order: PackedOrder, matrix: usize, pairs: &Range<usize>) -> Range<usize> {
    let (before, height) = match order {
        PackedOrder::Stacked => (rows[..matrix].iter().sum::<usize>(), PAIR),
        PackedOrder::Interleaved => (0, LANES),
    };
    let row = |pair: usize| (pair * height).saturating_sub(before).min(rows[matrix]);
    row(pairs.start)..row(pairs.end)
}

/// The pair and the lane that a row of a matrix has.
fn place(rows: &[usize], order: PackedOrder, matrix: usize, row: usize) -> (usize, usize) {
    match order {
        PackedOrder::Stacked => {
            let row = rows[..matrix].iter().sum::<usize>() + row;
            (row / PAIR, row % PAIR)
        }
        PackedOrder::Interleaved => (row / LANES, matrix * LANES + row % LANES),
    }
}

/// # Safety
/// `pair` must point to `layout.pair_bytes()` bytes that nobody else uses meanwhile; `lane` is below [`PAIR`].
unsafe fn pack_row(layout: &Layout, matrix: &Levels<'_>, row: usize, pair: *mut u8, lane: usize) {
    matrix.row(row, |group, levels, scale, bias| {
        // SAFETY: the caller's promise; scales follow a group's values.
        unsafe {
            let start = pair.add(group * layout.group_bytes());
            pack_levels(layout.bits, levels, start.cast(), lane);
            let scales = start.add(layout.values_bytes()).cast::<u32>();
            if layout.bf16 {
                // Either is a bf16 already.
                scales.add(lane).write(scale.to_bits() & 0xffff_0000 | bias.to_bits() >> 16);
            } else {
                scales.add(lane).cast::<f32>().write(scale);
                scales.add(PAIR + lane).cast::<f32>().write(bias);
            }
        }
    });
}

/// [`pack_row`] of floats. Returns whether what they become is all that the row is.
///
/// # Safety
/// As there.
unsafe fn pack_floats(layout: &Layout, matrix: &Levels<'_>, row: usize, pair: *mut u8, lane: usize) -> bool {
    matrix.floats(row, |group, codes, factors, scale| {
        // SAFETY: the caller's promise; factors follow a group's levels, and scales both.
        unsafe {
            let start = pair.add(group * layout.group_bytes());
            pack_levels(layout.bits, codes, start.cast(), lane);
            let to = start.add(layout.levels_bytes()).cast::<i16>();
            for (i, &factor) in factors.iter().enumerate() {
                to.add(i * PAIR + lane).write(factor);
            }
            start.add(layout.values_bytes()).cast::<u32>().add(lane).write(scale.to_bits());
        }
    })
}

/// # Safety
/// `start` points to the values of a group of a pair, which nobody else uses meanwhile; `lane` is below [`PAIR`].
unsafe fn pack_levels(bits: usize, levels: &[u8], start: *mut u32, lane: usize) {
    // SAFETY: a group's values are a word of 32 lanes for every four levels, or eight of 4 bits.
    unsafe {
        if bits == 4 {
            for (step, levels) in levels.as_chunks::<8>().0.iter().enumerate() {
                let [a, b, c, d, e, f, g, h] = *levels;
                let word = u32::from_le_bytes([a, b, c, d]) | u32::from_le_bytes([e, f, g, h]) << 4;
                start.add(step * PAIR + lane).write(word);
            }
        } else {
            for (step, &levels) in levels.as_chunks::<4>().0.iter().enumerate() {
                start.add(step * PAIR + lane).write(u32::from_le_bytes(levels));
            }
        }
    }
}
