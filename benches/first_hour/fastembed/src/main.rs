use fastembed::similarity::cosine_similarity;
use fastembed::{InitOptionsUserDefined, Pooling, TextEmbedding, TokenizerFiles, UserDefinedEmbeddingModel};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [_, folder, one, other] = &std::env::args().collect::<Vec<_>>()[..] else {
        return Err("say FOLDER TEXT TEXT".into());
    };
    let read = |name: &str| std::fs::read(format!("{folder}/{name}"));
    let tokenizer_files = TokenizerFiles {
        tokenizer_file: read("tokenizer.json")?,
        config_file: read("config.json")?,
        special_tokens_map_file: read("special_tokens_map.json")?,
        tokenizer_config_file: read("tokenizer_config.json")?,
    };
    let model =
        UserDefinedEmbeddingModel::new(read("model.onnx")?, tokenizer_files).with_pooling(Pooling::Mean);
    let options = InitOptionsUserDefined::new().with_max_length(256);
    let vectors = TextEmbedding::try_new_from_user_defined(model, options)?.embed([one, other], None)?;
    println!("{:.4}", cosine_similarity(&vectors[0], &vectors[1]));
    Ok(())
}
