//! How a product is cut into blocks, by how many tokens it has.

/// What follows a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum After {
    /// Head norms and rotation.
    Rotate = 0,
    /// The residual connection.
    Add = 1,
    /// The activation.
    SwiGlu = 2,
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

/// The tiles of a product with the highest number of tokens that each is for, in order. Measured on an H100 as
/// `benches/cuda/tune.py` does,
/// each in a CUDA graph of 28 layers with weights of their own; others, without products of four warps, get what does
/// without.
pub(super) fn tiles(after: After, hopper: bool) -> Vec<(i32, Tile)> {
    const ALL: i32 = i32::MAX;
    match (after, hopper) {
        (After::Rotate, true) => vec![
            (24, tile(8, 8, 2, [4, 2]).by_warp()),
            (64, tile(16, 8, 2, [4, 4])),
            (384, tile(64, 8, 2, [6, 2])),
            (ALL, tile(128, 8, 1, [4, 2])),
        ],
        (After::Add, true) => vec![
            (24, tile(8, 1, 16, [4, 2]).by_warp()),
            (64, tile(16, 1, 8, [4, 2]).by_warp()),
            (256, tile(32, 4, 4, [4, 2])),
            (ALL, tile(64, 4, 4, [6, 2])),
        ],
        (After::SwiGlu, true) => vec![
            (24, tile(16, 4, 4, [4, 2])),
            (64, tile(64, 4, 4, [6, 2])),
            (320, tile(32, 8, 2, [4, 2]).twice()),
            (ALL, tile(128, 16, 1, [4, 2])),
        ],
        (After::Rotate, false) => vec![
            (16, tile(8, 8, 2, [4, 4]).by_warp()),
            (96, tile(16, 8, 2, [4, 4]).by_warp()),
            (ALL, tile(64, 8, 1, [4, 4]).by_warp()),
        ],
        (After::Add, false) => vec![
            (32, tile(8, 1, 8, [4, 4]).by_warp()),
            (256, tile(32, 4, 2, [4, 4]).by_warp()),
            (ALL, tile(64, 8, 1, [4, 4]).by_warp()),
        ],
        (After::SwiGlu, false) => vec![
            (32, tile(16, 2, 4, [4, 4]).by_warp()),
            (320, tile(32, 8, 1, [4, 4]).by_warp()),
            (ALL, tile(64, 8, 1, [4, 4]).by_warp()),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [After; 3] = [After::Rotate, After::Add, After::SwiGlu];

    #[test]
    fn tiles_keep_to_the_kernels_and_the_gpus_limits() {
        for (after, hopper) in KINDS.into_iter().flat_map(|after| [(after, true), (after, false)]) {
            let tiles = tiles(after, hopper);
            assert_eq!(tiles.last().unwrap().0, i32::MAX, "{after:?}: some number of tokens has none");
            assert!(tiles.windows(2).all(|pair| pair[0].0 < pair[1].0), "{after:?}: out of order");
            for (_, tile) in tiles {
                assert!(tile.stages >= 3 && tile.prefetch % 2 == 0, "{tile:?}");
                assert!(tile.tokens.count_ones() == 1 && tile.tokens >= 8, "{tile:?}");
                assert!(!tile.wgmma || (hopper && tile.output_warps % 4 == 0), "{tile:?}");
                assert!(tile.threads() <= 1024, "{tile:?}");
                // A head's outputs are in one block; SwiGLU's alternate eight by eight.
                assert!(after != After::Rotate || tile.outputs() >= 128, "{tile:?}");
                // 227 KiB a block on Hopper, 99 KiB on the smallest of the others.
                let most = if hopper { 227 } else { 99 };
                assert!(
                    tile.shared_memory() * tile.blocks <= most << 10,
                    "{tile:?}: {}",
                    tile.shared_memory()
                );
            }
        }
    }
}
