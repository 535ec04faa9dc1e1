use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config, DTYPE};
use tokenizers::{PaddingParams, Tokenizer, TruncationParams};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> Result<()> {
    let [_, folder, one, other] = &std::env::args().collect::<Vec<_>>()[..] else {
        return Err("say FOLDER TEXT TEXT".into());
    };
    let mut tokenizer = Tokenizer::from_file(format!("{folder}/tokenizer.json"))?;
    tokenizer.with_padding(Some(PaddingParams::default()));
    tokenizer.with_truncation(Some(TruncationParams { max_length: 256, ..Default::default() }))?;
    let encodings = tokenizer.encode_batch(vec![one.as_str(), other], true)?;
    let ids: Vec<_> = encodings.iter().map(|e| e.get_ids().to_vec()).collect();
    let mask: Vec<_> = encodings.iter().map(|e| e.get_attention_mask().to_vec()).collect();
    let ids = Tensor::new(ids, &Device::Cpu)?; // [texts, tokens]
    let mask = Tensor::new(mask, &Device::Cpu)?;

    let config: Config = serde_json::from_slice(&std::fs::read(format!("{folder}/config.json"))?)?;
    let weights = std::fs::read(format!("{folder}/model.safetensors"))?;
    let weights = VarBuilder::from_buffered_safetensors(weights, DTYPE, &Device::Cpu)?;
    let model = BertModel::load(weights, &config)?;
    let states = model.forward(&ids, &ids.zeros_like()?, Some(&mask))?; // [texts, tokens, width]

    let sums = states.broadcast_mul(&mask.to_dtype(DTYPE)?.unsqueeze(2)?)?.sum(1)?;
    let vectors = sums.broadcast_div(&sums.sqr()?.sum_keepdim(1)?.sqrt()?)?;
    let cosine = (vectors.get(0)? * vectors.get(1)?)?.sum_all()?.to_scalar::<f32>()?;
    println!("{cosine:.4}");
    Ok(())
}
