//! Prints a hash of the vectors of every golden checkpoint, on every family of kernels that this machine has, in both
//! precisions, and on MLX's own operations: `cargo run --example bits`.
//!
//! Run on two commits, it says whether a change moved a bit.

use std::fs;
use std::path::Path;

use mlx_embed::{Device, EmbedOptions, Embedder, LoadOptions, PoolingMode, Precision, kernel_families};
use sha2::{Digest, Sha256};

/// Lengths of the texts: blocks of the kernels and one more or less, and so few tokens that rules for them differ.
const LENGTHS: [usize; 9] = [1, 3, 5, 6, 12, 31, 33, 64, 97];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut cases: Vec<_> = fs::read_dir(golden)?.collect::<Result<Vec<_>, _>>()?;
    cases.retain(|case| case.path().join("config.json").is_file());
    cases.sort_by_key(|case| case.file_name());
    for case in cases {
        for kernels in kernel_families().into_iter().chain(["mlx"]) {
            for precision in [Precision::Exact, Precision::Fast] {
                if kernels == "mlx" && precision == Precision::Fast {
                    continue;
                }
                let mut line = format!("{} {kernels} {precision}", case.file_name().display());
                for pooling in [PoolingMode::LastToken, PoolingMode::Mean] {
                    let options = LoadOptions {
                        device: Device::Cpu,
                        kernels: Some(kernels.to_owned()),
                        precision,
                        pooling: Some(pooling.into()),
                        ..Default::default()
                    };
                    line += &format!(" {}", hash(&Embedder::load_with(case.path(), options)?)?);
                }
                println!("{line}");
            }
        }
    }
    Ok(())
}

/// Of the vectors of texts alone and in one call.
fn hash(embedder: &Embedder) -> Result<String, mlx_embed::Error> {
    let info = embedder.info();
    let vocabulary = info.config.vocab_size.unsigned_abs();
    let id = |i: usize, seed: usize| (i * 31 + seed * 7919) as u32 % vocabulary;
    let texts: Vec<Vec<u32>> = LENGTHS
        .iter()
        .map(|&length| (0..length.min(info.max_tokens)).map(|i| id(i, length)).collect())
        .collect();
    let mut hasher = Sha256::new();
    let calls = texts.iter().map(|text| vec![text.clone()]).chain([texts.clone()]);
    for call in calls {
        for embedding in embedder.embed_token_ids(call, &EmbedOptions::default())? {
            embedding.vector.iter().for_each(|x| hasher.update(x.to_le_bytes()));
        }
    }
    Ok(hasher.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect())
}
