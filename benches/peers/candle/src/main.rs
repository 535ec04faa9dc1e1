//! candle's quantised Qwen3 as a benchmark worker: `candle-worker GGUF`. Threads: `RAYON_NUM_THREADS`.
//!
//! Speaks the lines that `../../workers/serve.py` describes. The GGUF's output head is an identity,
//! so the logits of the last token are the hidden state after the final norm. candle 0.11 has no
//! path for batches on the CPU (it unwraps a cache that it did not make), so the texts of a batch run one after another.

use std::error::Error;
use std::fs::File;
use std::io::{BufReader, Write, stdin, stdout};
use std::time::Instant;

use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Tensor};
use candle_transformers::models::quantized_qwen3::ModelWeights;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

const VOCAB: u32 = 151_669;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("name a GGUF file")?;
    let mut reader = BufReader::new(File::open(&path)?);
    let content = Content::read(&mut reader)?;
    let mut model = ModelWeights::from_gguf(content, &mut reader, &Device::Cpu)?;
    let facts = json!({
        "version": "candle-transformers 0.11.1",
        "threads": std::env::var("RAYON_NUM_THREADS").unwrap_or_default(),
        "avx512vnni": cfg!(target_feature = "avx512vnni"),
        "batch": "texts one after another",
    });
    answer(&json!({ "ready": facts }))?;
    let mut generator = StdRng::seed_from_u64(0);
    for line in stdin().lines() {
        let request: Value = serde_json::from_str(&line?)?;
        let given = request.get("ids").is_some();
        let ids = if given { given_ids(&request)? } else { random_ids(&request, &mut generator)? };
        let begin = Instant::now();
        let vectors = ids.iter().map(|text| embed(&mut model, text)).collect::<Result<Vec<_>, _>>()?;
        let ms = begin.elapsed().as_secs_f64() * 1e3;
        let mut reply = json!({ "batch": ids.len(), "tokens": ids[0].len(), "ms": ms });
        if given {
            reply["vectors"] = json!(vectors);
        }
        answer(&reply)?;
    }
    Ok(())
}

/// The normalised hidden state of a text's last token.
fn embed(model: &mut ModelWeights, ids: &[u32]) -> candle_core::Result<Vec<f32>> {
    model.clear_kv_cache();
    let input = Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?;
    let mut vector = model.forward(&input, 0)?.squeeze(0)?.to_vec1::<f32>()?;
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
    vector.iter_mut().for_each(|x| *x /= length);
    Ok(vector)
}

fn given_ids(request: &Value) -> Result<Vec<Vec<u32>>, Box<dyn Error>> {
    Ok(serde_json::from_value(request["ids"].clone())?)
}

fn random_ids(request: &Value, generator: &mut StdRng) -> Result<Vec<Vec<u32>>, Box<dyn Error>> {
    let count = |name: &str| request[name].as_u64().ok_or(format!("a request needs {name}"));
    let (batch, tokens) = (count("batch")?, count("tokens")?);
    Ok((0..batch).map(|_| (0..tokens).map(|_| generator.random_range(0..VOCAB)).collect()).collect())
}

fn answer(value: &Value) -> Result<(), Box<dyn Error>> {
    let mut out = stdout().lock();
    writeln!(out, "{value}")?;
    Ok(out.flush()?)
}
