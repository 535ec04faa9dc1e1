//! How a product is cut into pieces, by how many tokens it has.

use std::ops::RangeInclusive;

use super::format::{Format, Numbers};

/// `count / each`, rounded up.
pub(super) fn up(count: i32, each: i32) -> i32 {
    (count + each - 1) / each
}

/// What follows a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// Head norms and rotation.
    Rotate = 0,
    /// The residual connection.
    Add = 1,
    /// The activation of the gate times up.
    Gate = 2,
    /// What follows is a kernel of its own.
    Nothing = 3,
}

impl After {
    /// Those that are part of the product.
    pub(super) const FUSED: [Self; 3] = [Self::Rotate, Self::Add, Self::Gate];
}

/// The sizes that `product.cu` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tile {
    pub(super) tokens: i32,
    pub(super) output_warps: i32,
    pub(super) input_groups: i32,
    pub(super) stages: i32,
    pub(super) prefetch: i32,
    /// Whether with products of four warps.
    pub(super) wgmma: bool,
    /// Blocks that a multiprocessor shall have room for.
    pub(super) blocks: i32,
}

const fn tile(tokens: i32, output_warps: i32, input_groups: i32, [stages, prefetch]: [i32; 2]) -> Tile {
    Tile { tokens, output_warps, input_groups, stages, prefetch, wgmma: true, blocks: 1 }
}

impl Tile {
    const fn by_warp(self) -> Self {
        Self { wgmma: false, ..self }
    }

    const fn twice(self) -> Self {
        Self { blocks: 2, ..self }
    }

    /// For formats that take more registers, of which the largest blocks have too few.
    const fn narrow(self) -> Self {
        let output_warps = if self.tokens == 128 && self.output_warps > 8 { 8 } else { self.output_warps };
        Self { output_warps, ..self }
    }

    /// For formats of which blocks of many threads have too few, too.
    const fn lean(self) -> Self {
        // Two blocks have twice the warps of one between them.
        let input_groups = if self.blocks == 2 { 1 } else { self.input_groups };
        Self { input_groups, prefetch: 2, blocks: 1, ..self.narrow() }
    }

    /// With f16 on both sides, blocks of half a thousand threads have too few where each has many sums.
    const fn alone(self) -> Self {
        let input_groups = if self.tokens >= 64 && self.output_warps == 8 { 1 } else { self.input_groups };
        Self { input_groups, ..self }
    }

    pub(super) fn outputs(self) -> i32 {
        16 * self.output_warps
    }

    pub(super) fn threads(self) -> i32 {
        32 * self.output_warps * self.input_groups
    }

    /// Bytes, of which `product.cu` wants the larger of its buffers and its sums, and room to align them.
    pub(super) fn shared_memory(self) -> i32 {
        let buffers = self.stages * self.input_groups * self.tokens * 64 * 2;
        let sums = self.input_groups * self.tokens * (self.outputs() + 4) * 4;
        1024 + buffers.max(sums)
    }

    pub(super) fn defines(self, after: After) -> Vec<(&'static str, i32)> {
        vec![
            ("AFTER", after as i32),
            ("TOKENS", self.tokens),
            ("OUTPUT_WARPS", self.output_warps),
            ("INPUT_GROUPS", self.input_groups),
            ("STAGES", self.stages),
            ("PREFETCH", self.prefetch),
            ("WGMMA", i32::from(self.wgmma)),
            ("BLOCKS", self.blocks),
        ]
    }
}

/// For each number of tokens, up to the one beside it, a tile. Of several, [`best`] takes one.
pub(super) type Tiles = Vec<(i32, Tile)>;

/// A chip's tiles for matrices of this format with activations that are these.
pub(super) fn of_format(tiles: Tiles, format: Format, numbers: Numbers) -> Tiles {
    let fit = |tile: Tile| match format.bits() {
        5.. if numbers == Numbers::F16 => tile.lean().alone(),
        5.. => tile.lean(),
        _ if format.group() < 64 => tile.lean(),
        3 => tile.narrow(),
        _ if numbers == Numbers::F16 => tile.narrow(),
        _ => tile,
    };
    tiles.into_iter().map(|(most, tile)| (most, fit(tile))).collect()
}

/// For any number of tokens.
const ALL: i32 = i32::MAX;

/// Of Hopper, measured on an H100 as `benches/cuda/each_kernel.py` does.
pub(super) fn hopper(after: After) -> Tiles {
    match after {
        After::Rotate => vec![
            (24, tile(8, 8, 2, [4, 2]).by_warp()),
            (64, tile(16, 8, 2, [4, 4])),
            (384, tile(64, 8, 2, [6, 2])),
            (ALL, tile(128, 8, 1, [4, 2])),
        ],
        After::Add => vec![
            (24, tile(8, 1, 16, [4, 2]).by_warp()),
            (64, tile(16, 1, 8, [4, 2]).by_warp()),
            (256, tile(32, 4, 4, [4, 2])),
            (ALL, tile(64, 4, 4, [6, 2])),
        ],
        After::Gate => vec![
            (24, tile(16, 4, 4, [4, 2])),
            (64, tile(64, 4, 4, [6, 2])),
            (320, tile(32, 8, 2, [4, 2]).twice()),
            (ALL, tile(128, 16, 1, [4, 2])),
        ],
        // Of matrices with whatever numbers of outputs.
        After::Nothing => vec![
            (24, tile(8, 1, 16, [4, 2]).by_warp()),
            (24, tile(8, 4, 4, [4, 2]).by_warp()),
            (24, tile(16, 4, 4, [5, 2])),
            (64, tile(16, 4, 4, [4, 2])),
            (256, tile(32, 4, 4, [4, 2])),
            (ALL, tile(64, 4, 4, [6, 2])),
        ],
    }
}

/// Of chips without products of four warps, within the smallest shared memory of them.
pub(super) fn by_warps(after: After) -> Tiles {
    match after {
        After::Rotate => vec![
            (16, tile(8, 8, 2, [4, 4]).by_warp()),
            (96, tile(16, 8, 2, [4, 4]).by_warp()),
            (ALL, tile(64, 8, 1, [4, 4]).by_warp()),
        ],
        After::Add => vec![
            (32, tile(8, 1, 8, [4, 4]).by_warp()),
            (256, tile(32, 4, 2, [4, 4]).by_warp()),
            (ALL, tile(64, 8, 1, [4, 4]).by_warp()),
        ],
        After::Gate => vec![
            (32, tile(16, 2, 4, [4, 4]).by_warp()),
            (320, tile(32, 8, 1, [4, 4]).by_warp()),
            (ALL, tile(64, 8, 1, [4, 4]).by_warp()),
        ],
        After::Nothing => vec![
            (32, tile(8, 4, 4, [4, 2]).by_warp()),
            (256, tile(32, 4, 2, [4, 4]).by_warp()),
            (ALL, tile(64, 8, 1, [4, 4]).by_warp()),
        ],
    }
}

/// Products of few tokens with rows of bf16 on Hopper, measured on an H200 likewise: at 16 tokens that of 2048 inputs and 1024
/// outputs takes 3.0 us and `dense.cu`'s 6.6, whose 16 tiles leave most of the GPU idle. Where a tile has a whole head, or
/// more outputs than there are places for tiles, there is nothing to gain.
pub(super) fn rows_of_hopper(after: After) -> Tiles {
    match after {
        After::Add | After::Nothing => vec![(24, tile(16, 1, 16, [4, 2]).by_warp())],
        After::Rotate | After::Gate => Vec::new(),
    }
}

/// The sizes that `product_hopper.cu` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HopperTile {
    pub(super) tokens: i32,
    pub(super) output_groups: i32,
    pub(super) input_groups: i32,
    pub(super) stages: i32,
    /// Blocks that share the inputs of an output.
    pub(super) splits: i32,
    /// Blocks that a multiprocessor shall have room for.
    pub(super) blocks: i32,
}

const fn hopper_tile(
    tokens: i32,
    [output_groups, input_groups]: [i32; 2],
    stages: i32,
    splits: i32,
) -> HopperTile {
    HopperTile { tokens, output_groups, input_groups, stages, splits, blocks: 1 }
}

impl HopperTile {
    const fn twice(self) -> Self {
        Self { blocks: 2, ..self }
    }

    pub(super) fn outputs(self) -> i32 {
        64 * self.output_groups
    }

    pub(super) fn threads(self) -> i32 {
        128 * self.output_groups * self.input_groups
    }

    /// Whether the tile has whole heads where they are needed.
    pub(super) fn suits(self, after: After, head_dim: i32) -> bool {
        after != After::Rotate || self.outputs() % head_dim == 0
    }

    pub(super) fn grid(self, tokens: i32, outputs: i32) -> [i32; 3] {
        [up(outputs, self.outputs()), up(tokens, self.tokens), self.splits]
    }

    /// Bytes: the larger of buffers and sums, what other blocks send, barriers, and room to align them.
    pub(super) fn shared_memory(self, format: Format) -> i32 {
        // Of 64 outputs and inputs.
        let weights = 64 * 64 / 8 * format.bits() + (64 / format.group()).max(1) * 64 * 4;
        let buffers = self.stages * self.input_groups * (self.tokens * 64 * 2 + self.output_groups * weights);
        let sums = self.tokens * (self.outputs() + 4) * 4;
        let received = (self.splits - 1) * (sums / self.splits);
        1024 + buffers.max(self.input_groups * sums) + received + 16 + 16 * self.stages
    }

    /// With as many buffers as fit into this many bytes a multiprocessor.
    fn within(self, format: Format, bytes: i32) -> Self {
        let fits = |tile: &Self| tile.shared_memory(format) * tile.blocks <= bytes;
        (1..=self.stages).rev().map(|stages| Self { stages, ..self }).find(fits).unwrap_or(self)
    }

    pub(super) fn defines(self, after: After) -> Vec<(&'static str, i32)> {
        vec![
            ("AFTER", after as i32),
            ("TOKENS", self.tokens),
            ("OUTPUT_GROUPS", self.output_groups),
            ("INPUT_GROUPS", self.input_groups),
            ("STAGES", self.stages),
            ("SPLITS", self.splits),
            ("BLOCKS", self.blocks),
        ]
    }
}

/// For these numbers of tokens a tile; for others there is none. Of several, [`best`] takes one.
pub(super) type HopperTiles = Vec<(RangeInclusive<i32>, HopperTile)>;

/// Of Hopper, measured on an H200 in passes of Qwen3-0.6B's geometry (`benches/cuda/in_a_pass.py`). Fewer tokens than
/// the least have nothing to gain where a tile of [`hopper`] has all inputs in a block, more have enough blocks.
pub(super) fn splits_of_hopper(after: After) -> HopperTiles {
    match after {
        After::Rotate => vec![
            (1..=16, hopper_tile(16, [2, 1], 4, 4).twice()),
            (25..=64, hopper_tile(32, [2, 2], 4, 2)),
            (65..=160, hopper_tile(80, [2, 2], 4, 2)),
            (161..=256, hopper_tile(128, [2, 1], 8, 2)),
        ],
        After::Add => vec![
            (25..=64, hopper_tile(64, [1, 4], 3, 4)),
            (65..=160, hopper_tile(40, [1, 4], 6, 2)),
            (161..=256, hopper_tile(64, [1, 4], 5, 2)),
        ],
        After::Gate => vec![
            (25..=64, hopper_tile(64, [1, 4], 4, 1)),
            (65..=160, hopper_tile(80, [3, 1], 8, 2)),
            (161..=256, hopper_tile(128, [3, 1], 7, 2)),
        ],
        // Of matrices with whatever numbers of outputs: what is above.
        After::Nothing => {
            let fused = After::FUSED.into_iter().flat_map(splits_of_hopper);
            fused.filter(|(tokens, _)| *tokens.start() > 1).collect()
        }
    }
}

/// The one of which most blocks run at once: those with more blocks than there are `places` come last. Of each are given the
/// blocks and the places.
pub(super) fn best<T>(of: impl Iterator<Item = (T, i32, i32)>) -> Option<(T, bool)> {
    let key = |&(_, blocks, places): &(T, i32, i32)| {
        (blocks > places, if blocks > places { blocks } else { -blocks })
    };
    of.min_by_key(key).map(|(of, blocks, places)| (of, blocks <= places))
}

/// Other chips have no such kernels.
pub(super) fn no_splits(_after: After) -> HopperTiles {
    Vec::new()
}

/// A chip's tiles for matrices of this format, with so many bytes a multiprocessor. The fewest tokens gain nothing where
/// weights or scales are large.
pub(super) fn within(tiles: HopperTiles, format: Format, bytes: i32) -> HopperTiles {
    let suits =
        |tokens: &RangeInclusive<i32>| *tokens.start() > 1 || (format.bits() <= 4 && format.group() >= 64);
    let tiles = tiles.into_iter().filter(|(tokens, _)| suits(tokens));
    tiles.map(|(tokens, tile)| (tokens, tile.within(format, bytes))).collect()
}

/// Rows are cuBLASLt's or `dense.cu`'s.
pub(super) fn no_rows(_after: After) -> Tiles {
    Vec::new()
}

/// The sizes that `dense.cu` names.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct DenseTile {
    pub(super) rows: i32,
    pub(super) outputs: i32,
    pub(super) stages: i32,
    /// Microseconds that a tile of 1024 inputs takes on an H200 while others follow, and what a kernel takes beside that.
    time: [f32; 2],
}

pub(super) const DENSE_TILES: [DenseTile; 3] = [
    DenseTile { rows: 128, outputs: 128, stages: 6, time: [5.7, 4.0] },
    DenseTile { rows: 64, outputs: 128, stages: 8, time: [4.9, 2.6] },
    DenseTile { rows: 64, outputs: 64, stages: 12, time: [2.9, 2.5] },
];

impl DenseTile {
    /// Whether the tile has whole heads where they are needed.
    pub(super) fn suits(self, after: After, head_dim: i32) -> bool {
        after != After::Rotate || self.outputs % head_dim == 0
    }

    pub(super) fn tiles(self, tokens: i32, outputs: i32) -> i32 {
        up(tokens, self.rows) * up(outputs, self.outputs)
    }

    /// Bytes: parts of both matrices, a warp's results on their way to memory, barriers, and room to align them.
    pub(super) fn shared_memory(self, after: After) -> i32 {
        let results = self.outputs / 8 / if after == After::Gate { 2 } else { 1 };
        let ends = 8 * 16 * results.min(8) * 16;
        1024 + self.stages * (self.rows + self.outputs) * 128 + ends + 16 * self.stages + 16
    }

    pub(super) fn defines(self, after: After) -> Vec<(&'static str, i32)> {
        vec![("AFTER", after as i32), ("ROWS", self.rows), ("OUTPUTS", self.outputs), ("STAGES", self.stages)]
    }

    /// An estimate, to choose by: all multiprocessors take one tile after the other.
    pub(super) fn time(self, tokens: i32, outputs: i32, inputs: i32, multiprocessors: i32) -> f32 {
        let [tile, beside] = self.time;
        let turns = up(self.tiles(tokens, outputs), multiprocessors.max(1));
        turns as f32 * tile * inputs as f32 / 1024.0 + beside
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dense_tiles_keep_to_the_kernels_and_the_gpus_limits() {
        for (after, tile) in After::FUSED.into_iter().flat_map(|after| DENSE_TILES.map(|tile| (after, tile)))
        {
            assert!(tile.rows % 64 == 0 && [64, 128].contains(&tile.outputs), "{tile:?}");
            assert!(tile.shared_memory(after) <= 227 << 10, "{tile:?}: {}", tile.shared_memory(after));
        }
        for (after, head_dim) in After::FUSED.into_iter().flat_map(|after| [(after, 64), (after, 128)]) {
            assert!(DENSE_TILES.iter().any(|tile| tile.suits(after, head_dim)), "{after:?}");
        }
        assert!(!DENSE_TILES[2].suits(After::Rotate, 128));
    }

    #[test]
    fn as_many_blocks_as_there_are_places_are_best() {
        let of = |blocks: &[i32]| best(blocks.iter().map(|&blocks| (blocks, blocks, 132)));
        assert_eq!(of(&[768, 192, 96]), Some((96, true)));
        assert_eq!(of(&[128, 32, 16]), Some((128, true)));
        assert_eq!(of(&[768, 192]), Some((192, false)));
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn few_tokens_get_small_tiles() {
        let best = |tokens, outputs, inputs| {
            let of = |tile: &DenseTile| tile.time(tokens, outputs, inputs, 132);
            *DENSE_TILES.iter().min_by(|a, b| of(a).total_cmp(&of(b))).unwrap()
        };
        assert_eq!(best(16, 1024, 2048), DENSE_TILES[2]);
        assert_eq!(best(512, 1024, 2048), DENSE_TILES[2]);
        assert_eq!(best(4096, 1024, 3072), DENSE_TILES[0]);
        assert_eq!(best(4096, 6144, 1024), DENSE_TILES[0]);
    }
}
