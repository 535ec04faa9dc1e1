//! What differs between NVIDIA's chips.

use super::format::{Format, Numbers};
use super::program::Architecture;
use super::tiles::{
    After, HopperTiles, Tiles, by_warps, hopper, no_rows, no_splits, of_format, rows_of_hopper,
    splits_of_hopper, within,
};

/// A row of the table.
#[derive(Debug)]
pub(super) struct Chip {
    /// The compute capability from which on the row counts, up to the next row's.
    pub(super) from: (usize, usize),
    /// Of a block at most, in KiB.
    pub(super) shared_memory: i32,
    /// Whether it has Hopper's products of four warps and its copies of tiles (`wgmma`, TMA). Where it has, products of
    /// dequantised weights and attention of long texts are kernels of this crate's own, else products are cuBLASLt's.
    pub(super) warpgroups: bool,
    /// The tiles of products of packed weights.
    pub(super) packed: fn(After) -> Tiles,
    /// Those of products of packed weights that come by the copy engine, which are taken first.
    pub(super) splits: fn(After) -> HopperTiles,
    /// Those of products of few tokens with rows of bf16, where they were measured to pay.
    pub(super) rows: fn(After) -> Tiles,
}

impl Chip {
    /// One without Hopper's products and copies.
    const fn by_warps(from: (usize, usize), shared_memory: i32) -> Self {
        Self { from, shared_memory, warpgroups: false, packed: by_warps, splits: no_splits, rows: no_rows }
    }
}

/// By compute capability. What has no row of its own runs as the row before.
pub(super) const CHIPS: [Chip; 6] = [
    Chip::by_warps((8, 0), 163),
    Chip::by_warps((8, 6), 99),
    Chip::by_warps((8, 9), 99),
    Chip {
        from: (9, 0),
        shared_memory: 227,
        warpgroups: true,
        packed: hopper,
        splits: splits_of_hopper,
        rows: rows_of_hopper,
    },
    Chip::by_warps((10, 0), 227),
    Chip::by_warps((12, 0), 99),
];

/// The variable that makes a GPU run what those without kernels of their own run, to compare the two or to get around one.
const GENERIC_VARIABLE: &str = "MLX_EMBED_CUDA_GENERIC";

impl Chip {
    /// The row for a GPU; nothing where it is older than all of them.
    pub(super) fn of(architecture: &Architecture) -> Option<&'static Self> {
        let Architecture { major, minor, .. } = *architecture;
        let row = CHIPS.iter().rfind(|chip| chip.from <= (major, minor));
        row.map(|row| if std::env::var_os(GENERIC_VARIABLE).is_some() { &CHIPS[1] } else { row })
    }

    /// Whether the kernels for a GPU have in products what is around them where activations are these.
    pub(super) fn fuses(&self, numbers: Numbers) -> bool {
        numbers == Numbers::Bf16 || (numbers == Numbers::F16 && self.warpgroups)
    }

    /// The tiles of products of matrices of this format with activations that are these.
    pub(super) fn tiles(&self, format: Format, after: After, numbers: Numbers) -> Tiles {
        if format.is_packed() { of_format((self.packed)(after), format, numbers) } else { (self.rows)(after) }
    }

    /// The same of those that come by the copy engine.
    pub(super) fn splits(&self, format: Format, after: After) -> HopperTiles {
        if format.is_packed() {
            within((self.splits)(after), format, self.shared_memory << 10)
        } else {
            Vec::new()
        }
    }
}

/// Least compute capability that the kernels run on.
pub(crate) const LEAST_CAPABILITY: (usize, usize) = CHIPS[0].from;

#[cfg(test)]
mod tests {
    use super::super::tiles::Tile;
    use super::*;

    #[test]
    fn every_gpu_from_the_first_row_on_has_a_row() {
        let of =
            |major, minor| Chip::of(&Architecture { device: "x".into(), major, minor }).map(|chip| chip.from);
        assert_eq!(of(7, 5), None);
        assert_eq!(of(8, 0), Some((8, 0)));
        assert_eq!(of(8, 7), Some((8, 6)));
        assert_eq!(of(9, 0), Some((9, 0)));
        assert_eq!(of(10, 3), Some((10, 0)));
        assert_eq!(of(12, 1), Some((12, 0)));
        assert!(CHIPS.windows(2).all(|pair| pair[0].from < pair[1].from));
    }

    #[test]
    fn tiles_keep_to_the_kernels_and_the_chips_limits() {
        for (chip, after) in CHIPS
            .iter()
            .flat_map(|chip| After::FUSED.into_iter().chain([After::Nothing]).map(move |after| (chip, after)))
        {
            let tiles = (chip.packed)(after);
            assert_eq!(tiles.last().unwrap().0, i32::MAX, "{after:?}: some number of tokens has none");
            let in_order = |pair: &[(i32, Tile)]| {
                pair[0].0 < pair[1].0 || after == After::Nothing && pair[0].0 == pair[1].0
            };
            assert!(tiles.windows(2).all(in_order), "{after:?}: out of order");
            for (_, tile) in tiles.into_iter().chain((chip.rows)(after)) {
                assert!(tile.stages >= 3 && tile.prefetch % 2 == 0, "{tile:?}");
                assert!(tile.tokens.count_ones() == 1 && tile.tokens >= 8, "{tile:?}");
                assert!(!tile.wgmma || (chip.warpgroups && tile.output_warps % 4 == 0), "{tile:?}");
                assert!(tile.threads() <= 1024, "{tile:?}");
                // A head's outputs are in one block.
                assert!(after != After::Rotate || tile.outputs() >= 128, "{tile:?}");
                let shared = tile.shared_memory() * tile.blocks;
                assert!(shared <= chip.shared_memory << 10, "{tile:?}: {shared}");
            }
            for (tokens, tile) in (chip.splits)(after) {
                assert!(chip.warpgroups && !tokens.is_empty(), "{tile:?}");
                assert!(tile.tokens % 8 == 0 && tile.tokens % tile.splits == 0, "{tile:?}");
                assert!(tile.threads() <= 1024 && [1, 2, 4, 8].contains(&tile.splits), "{tile:?}");
                assert!(tile.suits(after, 128), "{tile:?}");
                let most = chip.shared_memory << 10;
                for format in Format::all() {
                    for (_, tile) in within(vec![(tokens.clone(), tile)], format, most) {
                        let shared = tile.shared_memory(format) * tile.blocks;
                        assert!(tile.stages >= 2 && shared <= most, "{tile:?}, {format:?}: {shared}");
                    }
                }
            }
        }
    }
}
