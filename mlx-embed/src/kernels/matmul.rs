//! Products of many rows with whole matrices: tiles and pairs spread over the threads, and what happens to a result on
//! its way to memory.

use std::cell::RefCell;

use super::buffer::{Scratch, Upcoming};
use super::dense::Dense;
use super::emit::{Activation, Kind, Sink};
use super::norm::Norm;
use super::packed::{Layout, Packed, Start};
use super::product::{
    BYTE_WORDS, BYTES, NIBBLE_WORDS, NIBBLES, PairWeights, SEVEN_ROWS, SEVENS, SMALL, SPREAD, TileRows,
    WORDS, all_rows, unpacked_bytes,
};
use super::round::{Digits, Input, Laid, MAX_ROWS, Rounded};
use super::simd::{LANES, PAIR};
use super::tiles::Tiles;
use super::{Engine, Limbs};

/// Tiles from which on a pair is unpacked once for all rather than by each.
const UNPACK_TILES: usize = 3;

/// Unpacked weights that stay in the first-level cache while tile after tile passes by, in bytes.
const BLOCK_BYTES: usize = 20 << 10;

/// Tiles for each thread from which on it multiplies its own rows with all weights, rather than all rows with some weights: rows
/// are in its caches, since what comes before and after is done row by row. More where weights are unpacked, by each thread then.
const OWN_TILES: [usize; 2] = [8, 32];

/// Bytes of rounded rows that a thread goes over pair after pair. They should stay in its second-level cache.
const CHUNK_BYTES: usize = 1 << 20;

/// A matrix of a projection.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Weights<'a> {
    /// Rounded activations times packed weights.
    Packed(&'a Packed),
    /// f32 activations times dense weights.
    Dense(&'a Dense),
}

impl Weights<'_> {
    fn outputs(&self) -> usize {
        match self {
            Self::Packed(packed) => packed.layout.outputs,
            Self::Dense(dense) => dense.outputs(),
        }
    }
}

/// A matrix and what is added to its products.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part<'a> {
    pub(crate) weights: Weights<'a>,
    /// `[outputs]`
    pub(crate) bias: Option<&'a [f32]>,
}

/// Where products go.
pub(crate) enum Output<'a> {
    /// `[rows, outputs]`, the parts side by side.
    Store(&'a mut [f32]),
    /// The same, added to what is there.
    Add(&'a mut [f32]),
    /// Each product's activation, as `Store`.
    Activated(Activation, &'a mut [f32]),
    /// `act(gate) * up`, `[rows, outputs / 2]`, of one part with the two interleaved or of two parts, gate first.
    Gated(Activation, &'a mut [f32]),
}

thread_local! {
    /// A pair's unpacked values and scales, products of low limbs and of tiles.
    static SCRATCH: RefCell<[Scratch; 4]> = RefCell::default();
}

/// Scratch of a projection.
#[derive(Default)]
pub(super) struct Workspace {
    digits: Scratch,
    factors: Scratch,
    wide: Scratch,
    laid: Scratch,
    wide_output: Scratch,
}

impl Engine {
    /// Products of rows `x` `[rows, inputs]`, normed if `norm` says so, with every part.
    ///
    /// # Panics
    /// When a size does not fit the others.
    pub(crate) fn project(
        &self,
        x: &[f32],
        norm: Option<(&[f32], f32)>,
        inputs: usize,
        limbs: Limbs<'_>,
        parts: &[Part<'_>],
        output: Output<'_>,
    ) {
        let rows = x.len() / inputs;
        let outputs: usize = parts.iter().map(|part| part.weights.outputs()).sum();
        assert_eq!(rows * inputs, x.len());
        assert!(norm.is_none_or(|(weight, _)| weight.len() == inputs));
        if let Limbs::TwoAbove { rows: two, .. } = limbs {
            assert_eq!(two.len(), rows);
        }
        let input = Input { x, inputs, norm, limbs };
        let mut workspace = self.workspace();
        let workspace = &mut *workspace;
        let kind = match &output {
            Output::Store(_) => Kind::Store,
            Output::Add(_) => Kind::Add,
            Output::Activated(activation, _) => Kind::Activated(*activation),
            Output::Gated(activation, _) => Kind::Gated(*activation),
        };
        match output {
            Output::Store(out) | Output::Add(out) | Output::Activated(_, out) => {
                assert_eq!(out.len(), rows * outputs);
                // SAFETY: room for all rows, checked above, and numbers in it.
                unsafe {
                    self.project_parts(&input, rows, parts, kind, out.as_mut_ptr(), outputs, workspace);
                }
            }
            Output::Gated(activation, out) => {
                assert_eq!(out.len(), rows * outputs / 2);
                let to = out.as_mut_ptr();
                if let [part] = parts {
                    assert!(part.bias.is_none());
                    // SAFETY: room for all rows, checked above.
                    unsafe { self.project_parts(&input, rows, parts, kind, to, outputs / 2, workspace) };
                } else {
                    assert_eq!(parts.len(), 2);
                    let mut scratch = std::mem::take(&mut workspace.wide_output);
                    // Whole vectors are read of the last half row.
                    let both = scratch.floats(rows * outputs + LANES);
                    // SAFETY: room for all rows in either, and for a vector more in the first.
                    unsafe {
                        self.project_parts(&input, rows, parts, Kind::Store, both, outputs, workspace);
                        self.gate_rows(activation, both, to, rows, outputs / 2);
                    }
                    workspace.wide_output = scratch;
                }
            }
        }
    }

    /// # Safety
    /// `out` has room for `rows` rows of `stride` numbers, which hold every part's columns ([`Kind::Gated`]: half of
    /// them) and nobody else uses meanwhile; for [`Kind::Add`] they are numbers already.
    #[expect(clippy::too_many_arguments, reason = "one caller, three kinds of output")]
    unsafe fn project_parts(
        &self,
        input: &Input<'_>,
        rows: usize,
        parts: &[Part<'_>],
        kind: Kind,
        out: *mut f32,
        stride: usize,
        workspace: &mut Workspace,
    ) {
        if rows == 0 {
            return;
        }
        let mut rounded: Option<Rounded> = None;
        let mut laid: Option<Laid> = None;
        let mut first_column = 0;
        for part in parts {
            let columns = part.weights.outputs();
            assert!(part.bias.is_none_or(|bias| bias.len() == columns));
            let sink = Sink { kind, out, stride, first_column, columns, bias: part.bias };
            match part.weights {
                Weights::Packed(packed) => {
                    assert_eq!(packed.layout.inputs, input.inputs);
                    let (group_size, kind) = (packed.layout.group_size, self.digits(packed, input.limbs));
                    let rounded = match rounded {
                        Some(rounded) if rounded.group_size == group_size && rounded.kind == kind => rounded,
                        _ => *rounded.insert(self.round(input, rows, group_size, kind, workspace)),
                    };
                    // SAFETY: the caller's promise; the workspace holds the rounded rows until it is rounded into again.
                    unsafe { self.multiply_packed(packed, &rounded, sink) };
                }
                Weights::Dense(dense) => {
                    assert_eq!(dense.inputs(), input.inputs);
                    let laid = *laid.get_or_insert_with(|| self.lay(input, rows, workspace));
                    // SAFETY: the caller's promise; the workspace holds the rows.
                    unsafe { self.multiply_dense(dense, &laid, sink) };
                }
            }
            first_column += columns;
        }
    }

    /// What rows are rounded to beside a matrix.
    fn digits(&self, packed: &Packed, limbs: Limbs<'_>) -> Digits {
        let Layout { bits, floats, signed, .. } = packed.layout;
        if signed {
            Digits::Sevens
        } else if floats || (self.family.words && (bits == 8 || limbs == Limbs::Two)) {
            Digits::Words
        } else {
            Digits::Limbs
        }
    }

    fn round(
        &self,
        input: &Input<'_>,
        rows: usize,
        group_size: usize,
        kind: Digits,
        workspace: &mut Workspace,
    ) -> Rounded {
        let most = self.family.rows();
        let tiles = Tiles::new(rows, if kind == Digits::Sevens { most.min(SEVEN_ROWS) } else { most });
        let groups = input.inputs / group_size;
        let rounded = Rounded {
            tiles,
            inputs: input.inputs,
            group_size,
            run: self.family.run.min(group_size),
            digits: workspace.digits.bytes(rows * input.inputs * 2).cast(),
            kind,
            low_of_all: self.family.low_of_all,
            factors: workspace.factors.floats(rows * groups * 2),
            wide: workspace.wide.bytes(tiles.count() * groups * size_of::<u16>()).cast(),
        };
        // Few rows are cut along the groups, so that no thread waits for the others.
        let slices = if tiles.count() >= self.pool.threads() { 1 } else { self.pool.threads().min(groups) };
        self.pool.run(tiles.count() * slices, &|task| {
            let (tile, slice) = (task / slices, task % slices);
            let groups = slice * groups / slices..(slice + 1) * groups / slices;
            let rounded = &rounded;
            // SAFETY: the family's instruction set was detected; the workspace has room for all rows; each task has
            // its own tile and groups.
            unsafe { self.family.round_tile[kind as usize](input, rounded, tile, groups) };
        });
        rounded
    }

    fn lay(&self, input: &Input<'_>, rows: usize, workspace: &mut Workspace) -> Laid {
        let tiles = Tiles::new(rows, self.family.rows());
        let mut laid = Laid { tiles, inputs: input.inputs, x: std::ptr::null_mut() };
        laid.x = workspace.laid.floats(rows * laid.stride());
        self.pool.run(tiles.count(), &|tile| {
            let laid = &laid;
            // SAFETY: as in `round`; each task has its own tile.
            unsafe { (self.family.lay_tile)(input, laid, tile) };
        });
        laid
    }

    /// # Safety
    /// `rounded` points at rows that [`Engine::round`] has written for groups of the size that `packed` has, and `sink` at
    /// room for their products, which nobody else uses meanwhile.
    unsafe fn multiply_packed(&self, packed: &Packed, rounded: &Rounded, sink: Sink<'_>) {
        let layout = packed.layout;
        let groups = layout.groups();
        let tiles = rounded.tiles;
        // Whole tiles whose limbs fit the cache.
        let tile_bytes = tiles.most_rows() * layout.inputs * 2;
        let most = (CHUNK_BYTES / tile_bytes).max(1);
        let chunk = tiles.count().div_ceil(tiles.count().div_ceil(most));
        let pays = (layout.bits == 4 || rounded.kind == Digits::Words) && chunk >= UNPACK_TILES;
        // Floats are multiplied as words alone, and signed bytes with what is said of them.
        let unpack = layout.floats || layout.signed || pays;
        let own = tiles.count().div_ceil(self.pool.threads());
        let chunk = if own >= OWN_TILES[usize::from(unpack)] { chunk.min(own) } else { chunk };
        let chunks = tiles.count().div_ceil(chunk);
        let form = match (layout.bits, rounded.kind, unpack) {
            (_, Digits::Sevens, _) => SEVENS,
            (_, Digits::Words, true) => WORDS,
            (4, Digits::Words, false) => NIBBLE_WORDS,
            (_, Digits::Words, false) => BYTE_WORDS,
            (4, Digits::Limbs, true) => SPREAD,
            (4, Digits::Limbs, false) => NIBBLES,
            _ if layout.small => SMALL,
            _ => BYTES,
        };
        // A single tile reads its weights once.
        let group_bytes = unpacked_bytes(&layout, 1, rounded.kind).0;
        let most = if chunk == 1 && !unpack { groups } else { BLOCK_BYTES / group_bytes };
        // Of equal sizes, or nearly.
        let block = groups.div_ceil(groups.div_ceil(most));
        let tasks = layout.pairs * chunks;
        let tile_products = tiles.most_rows() * PAIR;
        let work = |task: usize| {
            let (chunk_index, pair_index) = (task / layout.pairs, task % layout.pairs);
            // Threads do neighbouring tasks, so this one is likely to be next, and its weights are asked for.
            let upcoming = (task + 1 < tasks).then(|| packed.pair((task + 1) % layout.pairs));
            let tile_range = chunk_index * chunk..tiles.count().min((chunk_index + 1) * chunk);
            let _session = (self.family.session)();
            SCRATCH.with_borrow_mut(|[values, scales, low, products]| {
                let products = products.floats(tile_range.len() * tile_products);
                // SAFETY: there is room for a chunk's tiles, and zeros are numbers.
                unsafe { std::ptr::write_bytes(products, 0, tile_range.len() * tile_products) };
                let low = low.bytes(groups * MAX_ROWS * PAIR * size_of::<i32>()).cast::<i32>();
                for first_group in (0..groups).step_by(block) {
                    let block = block.min(groups - first_group);
                    // SAFETY: the family was detected; the group is one of the pair's; the scratch has the room asked
                    // for.
                    let weights = unsafe {
                        let pair = packed.pair(pair_index).add(first_group * layout.group_bytes());
                        if unpack {
                            let (value_bytes, scale_bytes) = unpacked_bytes(&layout, block, rounded.kind);
                            let (values, scales) = (values.bytes(value_bytes), scales.bytes(scale_bytes));
                            self.family.unpack[rounded.kind as usize](&layout, pair, block, values, scales)
                        } else {
                            PairWeights {
                                values: pair,
                                values_stride: layout.group_bytes(),
                                scales: pair.add(layout.values_bytes()),
                                scales_stride: layout.group_bytes(),
                            }
                        }
                    };
                    let next = if first_group + block < groups {
                        // SAFETY: a group of the same pair.
                        Some(unsafe {
                            packed.pair(pair_index).add((first_group + block) * layout.group_bytes())
                        })
                    } else {
                        upcoming
                    };
                    // What is unpacked next, asked for in parts between the tiles.
                    let next = next
                        .filter(|_| unpack)
                        .map(|next| Upcoming::new(next, block * layout.group_bytes(), tile_range.len()));
                    for index in tile_range.clone() {
                        let tile = tiles.get(index);
                        // SAFETY: one of the chunk's tiles.
                        let products = unsafe { products.add((index - tile_range.start) * tile_products) };
                        if let Some(next) = next {
                            next.prefetch(index - tile_range.start);
                        }
                        let last = first_group + block == groups;
                        if last {
                            sink.prefetch(tile, pair_index);
                        }
                        // SAFETY: the family was detected; weights and rows were laid out for these groups; `products`
                        // and `low` have room for the most rows; the sink's tiles and pair are this task's.
                        unsafe {
                            let digits = rounded.tile_digits(tile);
                            let factors = rounded.tile_factors(tile);
                            let rows = TileRows {
                                digits: digits.add(first_group * 2 * layout.group_size * tile.rows),
                                factors: factors.add(first_group * 2 * tile.rows),
                                wide: rounded.wide.add(index * groups + first_group),
                                low,
                            };
                            if rounded.kind != Digits::Words && !rounded.low_of_all {
                                self.multiply_low(&weights, &rows, tile.rows, &layout, block, form, low);
                            }
                            let fns = &self.family.tiles[tile.rows - 1].tile[usize::from(form)];
                            let function = fns[usize::from(layout.bf16 && !unpack)];
                            function(weights, rows, block, layout.group_size, products);
                            if last {
                                (self.family.emit)(&sink, tile, pair_index, products);
                            }
                        }
                    }
                }
            });
        };
        self.pool.run(tasks, &work);
    }

    /// Products of the low limbs of groups in which only some rows have them.
    ///
    /// # Safety
    /// As [`product::tile`](super::product::tile) for `count` rows and `groups` groups; `low` has room for them in every group.
    #[expect(clippy::too_many_arguments, reason = "one caller; they are what it has at hand")]
    unsafe fn multiply_low(
        &self,
        weights: &PairWeights,
        rows: &TileRows,
        count: usize,
        layout: &Layout,
        groups: usize,
        form: u8,
        low: *mut i32,
    ) {
        for group in 0..groups {
            // SAFETY: the caller's promise; low limbs follow the high ones of all rows.
            unsafe {
                let wide = *rows.wide.add(group);
                if wide == 0 || wide == all_rows(count) {
                    continue;
                }
                let x = rows.digits.add((2 * group + 1) * layout.group_size * count);
                let values = weights.values.add(group * weights.values_stride);
                let out = low.add(group * count * PAIR);
                let fns = &self.family.tiles[wide.count_ones() as usize - 1];
                (fns.low[usize::from(form)])(values, x, layout.group_size, wide, count, out);
            }
        }
    }

    /// # Safety
    /// `both` points at `[rows, 2 * width]`, gate before up, and is readable for a vector past its end; `out` has room for
    /// `[rows, width]`, which nobody else uses meanwhile.
    unsafe fn gate_rows(
        &self,
        activation: Activation,
        both: *const f32,
        out: *mut f32,
        rows: usize,
        width: usize,
    ) {
        for row in 0..rows {
            // SAFETY: the family was detected; the caller's sizes.
            unsafe {
                let gate = both.add(row * 2 * width);
                (self.family.gated)(activation, gate, gate.add(width), out.add(row * width), width);
            }
        }
    }
}

impl Engine {
    /// The norm of every row.
    ///
    /// # Panics
    /// When a size does not fit the others.
    pub(crate) fn norm(&self, x: &[f32], norm: Norm<'_>, out: &mut [f32]) {
        let (Norm::Rms { weight, .. } | Norm::Layer { weight, .. }) = norm;
        let width = weight.len();
        assert_eq!([x.len(), x.len() % width], [out.len(), 0]);
        if let Norm::Layer { bias: Some(bias), .. } = norm {
            assert_eq!(bias.len(), width);
        }
        let tiles = Tiles::new(x.len() / width, 8);
        let to = Laid { tiles, inputs: width, x: out.as_mut_ptr() };
        self.pool.run(tiles.count(), &|index| {
            let (tile, to) = (to.tiles.get(index), &to);
            // SAFETY: the family was detected; each task has its own rows of a result as long as `x`.
            unsafe { (self.family.norm_rows)(x, norm, tile.first..tile.first + tile.rows, to.x) };
        });
    }

    /// Adds `y` to `x`.
    ///
    /// # Panics
    /// When they differ in length.
    pub(crate) fn add(&self, x: &mut [f32], y: &[f32]) {
        const PIECE: usize = 4096;
        assert_eq!(x.len(), y.len());
        self.pieces(x, PIECE, &|index, x| x.iter_mut().zip(&y[index * PIECE..]).for_each(|(x, y)| *x += y));
    }

    /// Adds `row` to every row of `scale * x`.
    ///
    /// # Panics
    /// When a size does not fit the other.
    pub(crate) fn scale_and_add(&self, x: &mut [f32], scale: f32, row: Option<&[f32]>) {
        const ROWS: usize = 16;
        if scale != 1.0 {
            self.pieces(x, 4096, &|_, x| x.iter_mut().for_each(|x| *x *= scale));
        }
        if let Some(row) = row {
            assert!(x.len().is_multiple_of(row.len()));
            self.pieces(x, ROWS * row.len(), &|_, x| {
                x.chunks_exact_mut(row.len()).for_each(|x| x.iter_mut().zip(row).for_each(|(x, y)| *x += y));
            });
        }
    }

    /// Calls `change` with every piece of `x`, each `len` long but for the last, and its index.
    fn pieces(&self, x: &mut [f32], len: usize, change: &(dyn Fn(usize, &mut [f32]) + Sync)) {
        let (start, count) = (Start(x.as_mut_ptr().cast()), x.len());
        self.pool.run(count.div_ceil(len), &|index| {
            let (start, first) = (&start, index * len);
            // SAFETY: pieces are disjoint parts of `x`.
            let piece = unsafe {
                std::slice::from_raw_parts_mut(start.0.cast::<f32>().add(first), len.min(count - first))
            };
            change(index, piece);
        });
    }

    /// Rows `indices` of `table`, which has `width` columns.
    ///
    /// # Panics
    /// When a size does not fit the others.
    pub(crate) fn gather(&self, table: &[f32], indices: &[usize], width: usize, out: &mut [f32]) {
        assert_eq!(out.len(), indices.len() * width);
        let to = Laid { tiles: Tiles::new(indices.len(), 16), inputs: width, x: out.as_mut_ptr() };
        self.pool.run(to.tiles.count(), &|index| {
            let (tile, to) = (to.tiles.get(index), &to);
            for row in tile.first..tile.first + tile.rows {
                // SAFETY: the row is within `out` and this task's.
                let to = unsafe { std::slice::from_raw_parts_mut(to.x.add(row * width), width) };
                to.copy_from_slice(&table[indices[row] * width..][..width]);
            }
        });
    }
}
