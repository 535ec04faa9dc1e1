//! Quantised weights in the order in which the kernels read them.
//!
//! Outputs go in pairs of panels of sixteen, and a pair is one run of memory: for each group of inputs the values, then
//! the scales. A step of four inputs takes 64 bytes a panel, four a lane; in 4 bits two steps share a byte, the first
//! in the low nibbles.

use std::io;

use super::buffer::Weights;
use super::pool::Pool;
use super::simd::LANES;
use super::source::{Floats, Scales, Source};

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

/// An affine matrix of 4 or 8 bits, `[outputs, inputs]`.
#[derive(Debug)]
pub(crate) struct Packed {
    memory: Weights,
    pub(super) layout: Layout,
}

/// Where things are in [`Packed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) inputs: usize,
    /// Outputs of all matrices; what fills up the last pair is zero.
    pub(super) outputs: usize,
    pub(super) bits: usize,
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

/// Rows of one matrix to pack: values, scales and biases.
#[derive(Clone, Copy)]
struct Affine<'a> {
    words: &'a [u32],
    scales: Floats<'a>,
    biases: Floats<'a>,
    rows: usize,
}

impl Packed {
    /// Packs matrices `[rows, inputs]` that share a quantisation; `None` if this form can't hold them.
    pub(crate) fn pack(
        sources: &[Source<'_>],
        inputs: usize,
        order: PackedOrder,
        pool: &Pool,
    ) -> io::Result<Option<Self>> {
        let Some((layout, matrices)) = plan(sources, inputs, order) else { return Ok(None) };
        let mut memory = Weights::zeroed(layout.pairs * layout.pair_bytes())?;
        let start = Start(memory.as_mut_ptr());
        pool.run(layout.pairs, &|pair| {
            let start = &start;
            for lane in 0..PAIR {
                if let Some((matrix, row)) = place(&matrices, order, pair, lane) {
                    // SAFETY: the memory holds `pairs` pairs and each task writes its own; `lane` is within a pair.
                    unsafe { pack_row(&layout, &matrix, row, start.0.add(pair * layout.pair_bytes()), lane) };
                }
            }
        });
        Ok(Some(Self { memory, layout }))
    }

    pub(super) fn pair(&self, pair: usize) -> *const u8 {
        assert!(pair < self.layout.pairs);
        // SAFETY: the memory holds `pairs` pairs.
        unsafe { self.memory.as_ptr().add(pair * self.layout.pair_bytes()) }
    }
}

/// The start of memory that tasks write disjoint parts of.
struct Start(*mut u8);

// SAFETY: see the only use: every task writes its own pair.
unsafe impl Sync for Start {}

fn plan<'a>(sources: &[Source<'a>], inputs: usize, order: PackedOrder) -> Option<(Layout, Vec<Affine<'a>>)> {
    let mut shared = None;
    let mut matrices = Vec::new();
    let mut bf16 = true;
    for source in sources {
        let Source::Quantized { words, bits, group_size, scales: Scales::Affine { scales, biases } } =
            *source
        else {
            return None;
        };
        if *shared.get_or_insert((bits, group_size)) != (bits, group_size) {
            return None;
        }
        bf16 &= matches!((scales, biases), (Floats::Bf16(_), Floats::Bf16(_)));
        let rows = words.len() * 32 / bits / inputs;
        // Only what the checkpoint's own checks let through; but what follows reads by these numbers.
        assert_eq!(rows * inputs * bits / 32, words.len());
        assert_eq!([scales.len(), biases.len()], [rows * inputs / group_size; 2]);
        matrices.push(Affine { words, scales, biases, rows });
    }
    let (bits, group_size) = shared?;
    let rows: Vec<usize> = matrices.iter().map(|matrix| matrix.rows).collect();
    let pairs = match order {
        PackedOrder::Stacked => rows.iter().sum::<usize>().div_ceil(PAIR),
        PackedOrder::Interleaved if rows.len() == 2 && rows[0] == rows[1] => rows[0].div_ceil(LANES),
        PackedOrder::Interleaved => return None,
    };
    let fits =
        matches!(bits, 4 | 8) && matches!(group_size, 32 | 64 | 128) && inputs.is_multiple_of(group_size);
    fits.then_some((Layout { inputs, outputs: rows.iter().sum(), bits, group_size, bf16, pairs }, matrices))
}

/// Which matrix and row a lane of a pair holds.
fn place<'a>(
    matrices: &[Affine<'a>],
    order: PackedOrder,
    pair: usize,
    lane: usize,
) -> Option<(Affine<'a>, usize)> {
    match order {
        PackedOrder::Stacked => {
            let mut row = pair * PAIR + lane;
            for matrix in matrices {
                if row < matrix.rows {
                    return Some((*matrix, row));
                }
                row -= matrix.rows;
            }
            None
        }
        PackedOrder::Interleaved => {
            let row = pair * LANES + lane % LANES;
            let matrix = matrices[lane / LANES];
            (row < matrix.rows).then_some((matrix, row))
        }
    }
}

/// # Safety
/// `pair` must point to `layout.pair_bytes()` bytes that nobody else uses meanwhile; `lane` is below [`PAIR`].
unsafe fn pack_row(layout: &Layout, matrix: &Affine<'_>, row: usize, pair: *mut u8, lane: usize) {
    let Layout { inputs, bits, group_size, bf16, .. } = *layout;
    let groups = layout.groups();
    let words = &matrix.words[row * inputs * bits / 32..(row + 1) * inputs * bits / 32];
    // A word of 4 bits is two steps of one lane, a word of 8 bits is one.
    let words_per_group = group_size * bits / 32;
    for (group, words) in words.chunks_exact(words_per_group).enumerate() {
        // SAFETY: group and word are within the pair: a group's values are `words_per_group` times 32 lanes of a word,
        // and its scales follow them.
        unsafe {
            let start = pair.add(group * layout.group_bytes()).cast::<u32>();
            for (step, &word) in words.iter().enumerate() {
                let word = if bits == 4 { spread(word) | spread(word >> 16) << 4 } else { word };
                start.add(step * PAIR + lane).write(word);
            }
            let scales = start.add(words_per_group * PAIR);
            let index = row * groups + group;
            match (matrix.scales, matrix.biases) {
                (Floats::Bf16(scale), Floats::Bf16(bias)) if bf16 => {
                    let (scale, bias) = (scale[index].to_bits(), bias[index].to_bits());
                    scales.add(lane).write(u32::from(scale) << 16 | u32::from(bias));
                }
                (scale, bias) => {
                    scales.add(lane).cast::<f32>().write(scale.get(index));
                    scales.add(PAIR + lane).cast::<f32>().write(bias.get(index));
                }
            }
        }
    }
}

/// The low four nibbles of a word, one a byte.
fn spread(word: u32) -> u32 {
    let x = word & 0xffff;
    let x = (x | x << 8) & 0x00ff_00ff;
    (x | x << 4) & 0x0f0f_0f0f
}
