use ort::session::Session;
use ort::value::Tensor;
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
    let tokens = encodings[0].len();
    let ids: Vec<i64> = encodings.iter().flat_map(|e| e.get_ids()).map(|&id| id.into()).collect();
    let mask: Vec<i64> = encodings.iter().flat_map(|e| e.get_attention_mask()).map(|&m| m.into()).collect();

    let environment = ort::init().build()?;
    let mut session = Session::builder(&environment)?.commit_from_file(format!("{folder}/model.onnx"))?;
    let outputs = session.run(ort::inputs![
        "input_ids" => Tensor::from_array(([2, tokens], ids))?,
        "attention_mask" => Tensor::from_array(([2, tokens], mask.clone()))?,
    ])?;
    let (shape, states) = outputs["last_hidden_state"].try_extract_tensor::<f32>()?;
    let width = shape[2] as usize;
    let vectors: Vec<Vec<f32>> = (0..2).map(|text| mean(text, tokens, width, states, &mask)).collect();
    println!("{:.4}", dot(&vectors[0], &vectors[1]));
    Ok(())
}

/// The mean of a text's states where the mask is 1, with length 1.
fn mean(text: usize, tokens: usize, width: usize, states: &[f32], mask: &[i64]) -> Vec<f32> {
    let mut sum = vec![0.0; width];
    for token in text * tokens..(text + 1) * tokens {
        if mask[token] == 1 {
            let state = &states[token * width..(token + 1) * width];
            sum.iter_mut().zip(state).for_each(|(sum, x)| *sum += x);
        }
    }
    let length = dot(&sum, &sum).sqrt();
    sum.iter().map(|x| x / length).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
