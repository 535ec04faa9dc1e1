//! Quantised weights in the order in which the kernels read them.
//!
//! Outputs go in pairs of panels of sixteen, and a pair is one run of memory: for each group of inputs the values, then
//! the scales. A step of four inputs takes 64 bytes a panel, four a lane; in 4 bits two steps share a byte, the first
//! in the low nibbles.

use std::io;

use super::buffer::Weights;
use super::levels::{Fit, Form, Levels};
use super::pool::Pool;
use super::simd::LANES;
use super::source::Source;

/// Outputs of a pair of panels.
pub(super) const PAIR: usize = 2 * LANES;

/// How two or more matrices become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PackedOrder {
    /// One after the other.
    Stacked,
    /// Two of equal height: a pair is a panel of the first and the same panel of the second.
    Interleaved,
}

/// A matrix of whole numbers of 4 or 8 bits with scales and biases, `[outputs, inputs]`.
#[derive(Debug)]
pub(crate) struct Packed {
    memory: Weights,
    pub(super) layout: Layout,
    rounded: bool,
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
    pub(super) group_size: usize,
    /// Whether a scale and its bias share a word as two bf16, else they are two f32.
    pub(super) bf16: bool,
    pub(super) pairs: usize,
}

impl Layout {
    pub(super) fn groups(&self) -> usize {
        self.inputs / self.group_size
    }

    /// Bytes of a group's values in a pair.
    pub(super) fn values_bytes(&self) -> usize {
        PAIR * self.group_size * self.bits / 8
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
    pub(crate) fn pack(
        sources: &[Source<'_>],
        inputs: usize,
        order: PackedOrder,
        fit: Fit,
        pool: &Pool,
    ) -> io::Result<Option<Self>> {
        let Some((layout, matrices)) = plan(sources, inputs, order, fit) else { return Ok(None) };
        let mut memory = Weights::zeroed(layout.pairs * layout.pair_bytes())?;
        let start = Start(memory.as_mut_ptr());
        let rows: Vec<usize> = matrices.iter().map(|matrix| matrix.rows).collect();
        pool.run(layout.pairs, &|pair| {
            let start = &start;
            for lane in 0..PAIR {
                if let Some((matrix, row)) = place(&rows, order, pair, lane) {
                    let (matrix, pair) = (&matrices[matrix], pair * layout.pair_bytes());
                    // SAFETY: the memory holds `pairs` pairs and each task writes its own; `lane` is within a pair.
                    unsafe { pack_row(&layout, matrix, row, start.0.add(pair), lane) };
                }
            }
        });
        let rounded = matrices.iter().any(|matrix| matrix.rounded);
        Ok(Some(Self { memory, layout, rounded }))
    }

    /// Whether the numbers of any matrix were rounded.
    pub(crate) fn is_rounded(&self) -> bool {
        self.rounded
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

fn plan<'a>(
    sources: &[Source<'a>],
    inputs: usize,
    order: PackedOrder,
    fit: Fit,
) -> Option<(Layout, Vec<Levels<'a>>)> {
    let matrices: Vec<_> =
        sources.iter().map(|&source| Levels::new(source, inputs, fit)).collect::<Option<_>>()?;
    let Form { bits, small, group_size, .. } = matrices.first()?.form;
    let same = |form: &Form| form.bits == bits && form.small == small && form.group_size == group_size;
    if !matrices.iter().all(|matrix| same(&matrix.form)) {
        return None;
    }
    let bf16 = matrices.iter().all(|matrix| matrix.form.bf16);
    let rows: Vec<usize> = matrices.iter().map(|matrix| matrix.rows).collect();
    let pairs = pairs(&rows, order)?;
    Some((Layout { inputs, outputs: rows.iter().sum(), bits, small, group_size, bf16, pairs }, matrices))
}

/// Pairs that matrices of so many rows take; `None` where they don't go together.
pub(super) fn pairs(rows: &[usize], order: PackedOrder) -> Option<usize> {
    match (order, rows) {
        (PackedOrder::Stacked, _) => Some(rows.iter().sum::<usize>().div_ceil(PAIR)),
        (PackedOrder::Interleaved, &[first, second]) if first == second => Some(first.div_ceil(LANES)),
        (PackedOrder::Interleaved, _) => None,
    }
}

/// Which matrix, of so many rows each, and which row of it a lane of a pair holds.
pub(super) fn place(rows: &[usize], order: PackedOrder, pair: usize, lane: usize) -> Option<(usize, usize)> {
    match order {
        PackedOrder::Stacked => {
            let mut row = pair * PAIR + lane;
            for (matrix, &rows) in rows.iter().enumerate() {
                if row < rows {
                    return Some((matrix, row));
                }
                row -= rows;
            }
            None
        }
        PackedOrder::Interleaved => {
            let (matrix, row) = (lane / LANES, pair * LANES + lane % LANES);
            (row < rows[matrix]).then_some((matrix, row))
        }
    }
}

/// # Safety
/// `pair` must point to `layout.pair_bytes()` bytes that nobody else uses meanwhile; `lane` is below [`PAIR`].
unsafe fn pack_row(layout: &Layout, matrix: &Levels<'_>, row: usize, pair: *mut u8, lane: usize) {
    matrix.row(row, |group, levels, scale, bias| {
        // SAFETY: group and word are within the pair: a group's values are a word of 32 lanes for every four levels, or
        // eight of 4 bits, and its scales follow them.
        unsafe {
            let start = pair.add(group * layout.group_bytes()).cast::<u32>();
            if layout.bits == 4 {
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
            let scales = start.byte_add(layout.values_bytes());
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
