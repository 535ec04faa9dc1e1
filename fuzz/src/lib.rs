//! What the fuzz targets share.

use std::process;

use mlx_embed_tests::damage;

/// Makes every panic a finding, except where the crate catches it. To be called once, when a target starts: libFuzzer's
/// own hook takes every panic for a finding.
pub fn catch_panics() {
    damage::on_panic(|info| {
        eprintln!("{info}");
        process::abort();
    });
}
