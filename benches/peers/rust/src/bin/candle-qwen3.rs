//! candle's quantised Qwen3 as a benchmark worker: `candle-qwen3 GGUF`. Threads: `RAYON_NUM_THREADS`.
//!
//! The GGUF's output head is an identity, so the logits of the last token are the hidden state after the final norm.
//! candle 0.11 has no path for batches on the CPU (it unwraps a cache that it did not make), so the texts of a batch run
//! one after another.

use std::fs::File;
use std::io::BufReader;

use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Tensor};
use candle_transformers::models::quantized_qwen3::ModelWeights;
use peer_workers::{Peer, Result, Vectors, serve, threads};
use serde_json::json;

const VOCABULARY: u32 = 151_669;

struct Qwen3(ModelWeights);

impl Peer for Qwen3 {
    type Input = Vec<Vec<u32>>;

    fn input(&self, ids: &[Vec<u32>]) -> Result<Self::Input> {
        Ok(ids.to_vec())
    }

    fn embed(&mut self, texts: &Self::Input) -> Result<Vectors> {
        texts.iter().map(|ids| Ok(self.last_token(ids)?)).collect()
    }
}

impl Qwen3 {
    /// The normalised hidden state of a text's last token.
    fn last_token(&mut self, ids: &[u32]) -> candle_core::Result<Vec<f32>> {
        self.0.clear_kv_cache();
        let input = Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?;
        let mut vector = self.0.forward(&input, 0)?.squeeze(0)?.to_vec1::<f32>()?;
        let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
        vector.iter_mut().for_each(|x| *x /= length);
        Ok(vector)
    }
}

fn main() -> Result<()> {
    let path = std::env::args().nth(1).ok_or("name a GGUF file")?;
    let mut reader = BufReader::new(File::open(&path)?);
    let content = Content::read(&mut reader)?;
    let mut model = Qwen3(ModelWeights::from_gguf(content, &mut reader, &Device::Cpu)?);
    let facts = json!({
        "version": "candle-transformers 0.11.1",
        "threads": threads(),
        "avx512vnni": cfg!(target_feature = "avx512vnni"),
        "batch": "texts one after another",
    });
    serve(&mut model, VOCABULARY, &facts)
}
