//! fastembed as a benchmark worker: `fastembed candle CHECKPOINT`, or `fastembed onnx CHECKPOINT MODEL.onnx`, where
//! `ORT_DYLIB_PATH` names ONNX Runtime's library. Threads: `RAYON_NUM_THREADS`.
//!
//! It takes texts, so each id is the word that the checkpoint's tokenizer has for it. What tokenising them takes is
//! measured apart and taken off, since the other peers are given ids.

use std::path::Path;
use std::time::{Duration, Instant};

use candle_core::{DType, Device};
use fastembed::{
    BertTextEmbedding, InitOptionsUserDefined, Pooling, TextEmbedding, TokenizerFiles,
    UserDefinedEmbeddingModel,
};
use peer_workers::{Peer, Result, Vectors, serve, threads};
use serde_json::{Value, json};
use tokenizers::Tokenizer;

const LONGEST: usize = 512;

enum Model {
    Candle(BertTextEmbedding),
    Onnx(Box<TextEmbedding>),
}

struct Fastembed {
    model: Model,
    tokenizer: Tokenizer,
}

impl Peer for Fastembed {
    type Input = Vec<String>;

    fn input(&self, ids: &[Vec<u32>]) -> Result<Self::Input> {
        let text = |ids: &Vec<u32>| ids.iter().map(|id| format!("t{id}")).collect::<Vec<_>>().join(" ");
        Ok(ids.iter().map(text).collect())
    }

    fn embed(&mut self, texts: &Self::Input) -> Result<Vectors> {
        match &mut self.model {
            Model::Candle(model) => Ok(model.embed(texts)?),
            Model::Onnx(model) => Ok(model.embed(texts, None)?),
        }
    }

    fn aside(&self, texts: &Self::Input) -> Result<Duration> {
        let begin = Instant::now();
        self.tokenizer.encode_batch(texts.clone(), true)?;
        Ok(begin.elapsed())
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (model, folder) = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["candle", folder] => (candle(Path::new(folder))?, folder),
        ["onnx", folder, model] => (onnx(Path::new(folder), Path::new(model))?, folder),
        _ => return Err("say candle CHECKPOINT, or onnx CHECKPOINT MODEL.onnx".into()),
    };
    let config: Value = serde_json::from_slice(&std::fs::read(Path::new(folder).join("config.json"))?)?;
    let vocabulary = config["vocab_size"].as_u64().ok_or("config.json has no vocab_size")?.try_into()?;
    let tokenizer = Tokenizer::from_file(Path::new(folder).join("tokenizer.json"))?;
    let facts = json!({ "version": "fastembed 7.7.0", "threads": threads() });
    serve(&mut Fastembed { model, tokenizer }, vocabulary, &facts)
}

/// fastembed reads BERTs for candle from the hub's cache alone: `HF_HOME` is one that holds this checkpoint.
fn candle(folder: &Path) -> Result<Model> {
    let name = folder.file_name().and_then(|name| name.to_str()).ok_or("a checkpoint's folder has a name")?;
    let model = BertTextEmbedding::from_hf(&format!("local/{name}"), &Device::Cpu, DType::F32, LONGEST)?;
    Ok(Model::Candle(model.with_batch_size(32)))
}

fn onnx(folder: &Path, model: &Path) -> Result<Model> {
    let files = TokenizerFiles {
        tokenizer_file: std::fs::read(folder.join("tokenizer.json"))?,
        config_file: std::fs::read(folder.join("config.json"))?,
        special_tokens_map_file: b"{}".to_vec(),
        tokenizer_config_file: serde_json::to_vec(
            &json!({ "model_max_length": LONGEST, "pad_token": "t0" }),
        )?,
    };
    let model = UserDefinedEmbeddingModel::new(std::fs::read(model)?, files).with_pooling(Pooling::Mean);
    // Threads spin while a call runs and stop with it, so that the next peer has the cores.
    let options = InitOptionsUserDefined::new()
        .with_intra_threads(threads().parse()?)
        .with_session_config("session.force_spinning_stop", "1");
    Ok(Model::Onnx(Box::new(TextEmbedding::try_new_from_user_defined(model, options)?)))
}
