//! The reference's results, as `tests/golden/make.py` wrote them.

use std::fs;
use std::path::{Path, PathBuf};

use mlx_embed::{Device, Embedder, LoadOptions, Prompt};
use safetensors::SafeTensors;
use serde::Deserialize;

/// Where the cases are. Tests run in the workspace's root, and so does a test binary carried to another machine.
pub fn directory(case: &str) -> PathBuf {
    Path::new("tests/golden").join(case)
}

/// `golden.json`.
#[derive(Debug, Deserialize)]
pub struct Golden {
    /// Type of the checkpoint's floating-point tensors.
    pub dtype: String,
    /// The texts, with what the reference made of them.
    pub texts: Vec<GoldenText>,
    /// Vectors and hidden states by name.
    #[serde(skip)]
    tensors: Vec<u8>,
}

/// One text.
#[derive(Debug, Deserialize)]
pub struct GoldenText {
    /// The text, without its prompt.
    pub text: String,
    /// Name of its prompt, if it has one.
    pub prompt_name: Option<String>,
    /// The reference tokenizer's ids.
    pub ids: Vec<u32>,
    /// Whether hidden states were kept.
    pub hidden: bool,
}

impl GoldenText {
    /// The prompt as the library takes it.
    pub fn prompt(&self) -> Prompt {
        self.prompt_name.clone().map_or(Prompt::None, Prompt::Named)
    }
}

impl Golden {
    /// Reads a case.
    ///
    /// # Panics
    /// When the case is damaged: then there is nothing to test against.
    pub fn read(case: &str) -> Self {
        let dir = directory(case);
        let text = fs::read(dir.join("golden.json")).expect("golden.json");
        let mut golden: Self = serde_json::from_slice(&text).expect("golden.json has the known form");
        golden.tensors = fs::read(dir.join("golden.safetensors")).expect("golden.safetensors");
        golden
    }

    /// The reference's vector for text `index`.
    ///
    /// # Panics
    /// When it isn't there.
    pub fn embedding(&self, index: usize) -> Vec<f32> {
        self.tensor(&format!("embedding.{index}")).1
    }

    /// The reference's hidden states for text `index`: one `[tokens * hidden]` each.
    ///
    /// # Panics
    /// When they aren't there.
    pub fn hidden_states(&self, index: usize) -> Vec<Vec<f32>> {
        let (shape, data) = self.tensor(&format!("hidden.{index}"));
        data.chunks(shape[1] * shape[2]).map(<[f32]>::to_vec).collect()
    }

    fn tensor(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let file = SafeTensors::deserialize(&self.tensors).expect("golden.safetensors is valid");
        let tensor = file.tensor(name).expect("golden.safetensors holds the tensor");
        let data = tensor.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        (tensor.shape().to_vec(), data)
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

/// Whether `MLX_EMBED_TEST_DEVICE=gpu`.
pub fn on_gpu() -> bool {
    std::env::var("MLX_EMBED_TEST_DEVICE").is_ok_and(|device| device == "gpu")
}

/// Loads a case's checkpoint with [`load_options`].
///
/// # Panics
/// When it can't be loaded.
pub fn load(case: &str) -> Embedder {
    Embedder::load_with(directory(case), load_options()).unwrap_or_else(|error| panic!("{case}: {error}"))
}
