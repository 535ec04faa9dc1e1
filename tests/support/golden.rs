//! The reference's results, as `tests/golden/make.py` wrote them.

use std::fs;
use std::path::{Path, PathBuf};

use mlx_embed::verify::{Golden as File, GoldenText};
use mlx_embed::{Checkpoint, Device, Embedder, LoadOptions, Pooling, Precision};

/// Where the cases are. Tests run in the workspace's root, and so does a test binary carried to another machine.
pub fn directory(case: &str) -> PathBuf {
    Path::new("tests/golden").join(case)
}

/// A case's golden file.
#[derive(Debug)]
pub struct Golden {
    /// The texts, with what the reference's tokenizer made of them.
    pub texts: Vec<GoldenText>,
    /// All of it.
    pub file: File,
    /// Type of the checkpoint's floating-point tensors.
    pub dtype: String,
    pooling: Pooling,
}

impl Golden {
    /// Reads a case.
    ///
    /// # Panics
    /// When the case is damaged: then there is nothing to test against.
    pub fn read(case: &str) -> Self {
        let file = File::open(directory(case).join("golden.safetensors")).expect("a golden file");
        let pooling =
            Checkpoint::open(directory(case)).expect("a checkpoint").sentence_transformers().pooling;
        let pooling = pooling.unwrap_or(file.poolings()[0]);
        let config = fs::read(directory(case).join("config.json")).expect("config.json");
        let config: serde_json::Value = serde_json::from_slice(&config).expect("valid JSON");
        let dtype = config["torch_dtype"].as_str().expect("a type").to_owned();
        Self { texts: file.texts().to_vec(), file, dtype, pooling }
    }

    /// The reference's vector for text `index`.
    ///
    /// # Panics
    /// When it isn't there.
    pub fn embedding(&self, index: usize) -> Vec<f32> {
        self.file.embedding(index, self.pooling).expect("the reference's vector").to_vec()
    }
}

/// Options that the golden tests load with: no limit on tokens, and the device that `MLX_EMBED_TEST_DEVICE` names.
pub fn load_options() -> LoadOptions {
    LoadOptions {
        device: if on_gpu() { Device::Gpu } else { Device::Cpu },
        max_tokens: Some(1024),
        ..Default::default()
    }
}

/// These options with the checkpoint's own limit on tokens: some families have fewer positions.
pub fn own_limit() -> LoadOptions {
    LoadOptions { max_tokens: None, ..load_options() }
}

/// These options with each of the families of kernels in both precisions, and with MLX's own operations.
pub fn ways(options: &LoadOptions, families: &[&str]) -> Vec<LoadOptions> {
    let with = |kernels: &str, precision| LoadOptions {
        kernels: Some(kernels.into()),
        precision,
        ..options.clone()
    };
    let both = families
        .iter()
        .flat_map(|name| [Precision::Exact, Precision::Fast].map(|precision| with(name, precision)));
    both.chain([with("mlx", Precision::Exact)]).collect()
}

/// Whether `MLX_EMBED_TEST_DEVICE=gpu`.
pub fn on_gpu() -> bool {
    std::env::var("MLX_EMBED_TEST_DEVICE").is_ok_and(|device| device == "gpu")
}

/// Loads a case's checkpoint with [`load_options`].
///
/// # Panics
/// When it can't be loaded.
pub fn load(case: &str) -> Embedder {
    load_with(case, |_| ())
}

/// The same, with some other options.
///
/// # Panics
/// When it can't be loaded.
pub fn load_with(case: &str, change: impl FnOnce(&mut LoadOptions)) -> Embedder {
    let mut options = load_options();
    change(&mut options);
    Embedder::load_with(directory(case), options).unwrap_or_else(|error| panic!("{case}: {error}"))
}
