//! candle's BERT as a benchmark worker: `candle-bert CHECKPOINT`. Threads: `RAYON_NUM_THREADS`.

use std::path::Path;

use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config, DTYPE};
use peer_workers::{Peer, Result, Vectors, serve, threads};
use serde_json::{Value, json};

struct Bert(BertModel);

impl Peer for Bert {
    type Input = Vec<Vec<u32>>;

    fn input(&self, ids: &[Vec<u32>]) -> Result<Self::Input> {
        Ok(ids.to_vec())
    }

    /// The mean of the tokens, normalised. Texts are equally long, so nothing is masked.
    fn embed(&mut self, texts: &Self::Input) -> Result<Vectors> {
        let ids = Tensor::new(texts.clone(), &Device::Cpu)?;
        let hidden = self.0.forward(&ids, &ids.zeros_like()?, None)?; // [batch, tokens, hidden]
        let mean = hidden.mean(1)?;
        let length = mean.sqr()?.sum_keepdim(1)?.sqrt()?;
        Ok(mean.broadcast_div(&length)?.to_vec2()?)
    }
}

fn main() -> Result<()> {
    let folder = std::env::args().nth(1).ok_or("name a checkpoint's folder")?;
    let folder = Path::new(&folder);
    let config = config(&folder.join("config.json"))?;
    let weights = std::fs::read(folder.join("model.safetensors"))?;
    let weights = VarBuilder::from_buffered_safetensors(weights, DTYPE, &Device::Cpu)?;
    let vocabulary = config.vocab_size.try_into()?;
    let mut model = Bert(BertModel::load(weights, &config)?);
    let facts = json!({ "version": "candle-transformers 0.11.1", "threads": threads() });
    serve(&mut model, vocabulary, &facts)
}

/// candle wants two fields that matter in training only.
fn config(path: &Path) -> Result<Config> {
    let mut fields: Value = serde_json::from_slice(&std::fs::read(path)?)?;
    for name in ["hidden_dropout_prob", "initializer_range"] {
        if fields[name].is_null() {
            fields[name] = json!(0.0);
        }
    }
    Ok(serde_json::from_value(fields)?)
}
