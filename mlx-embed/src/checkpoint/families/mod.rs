//! A reader a family: `config.json` and the names of tensors to a [`ModelSpec`].
//!
//! `modernbert.rs` is a short example. A reader gives the geometry as users see it and the model as the decoder runs it.

mod bert;
mod decoder;
mod embedding_gemma2;
mod gte;
mod heads;
pub(super) mod mlm;
mod modernbert;
mod nomic;
mod rotary;
mod static_embedding;
mod t5;

use serde_json::Value;

use super::doubt::Doubt;
use super::files::TensorFiles;
use super::json::JsonObject;
use super::spec::{HeadsSpec, ModelSpec, NormKind, NormSpec, TableSpec};
use super::{Architecture, CheckpointError, ModelConfig, Purpose, marks, parts};

/// What the checkpoint's model is.
pub(super) fn read(
    config: &JsonObject,
    weights: &TensorFiles,
    doubts: &mut Vec<Doubt>,
    purpose: Purpose,
) -> Result<(ModelConfig, ModelSpec), CheckpointError> {
    let (own, mut spec) = without_head(config, weights, doubts)?;
    match purpose {
        Purpose::Scores => heads::add(config, weights, &own, &mut spec)?,
        Purpose::TokenVectors if marks::is_colbert(config)? => heads::add_colbert(weights, &mut spec),
        _ => {}
    }
    Ok((own, spec))
}

fn without_head(
    config: &JsonObject,
    weights: &TensorFiles,
    doubts: &mut Vec<Doubt>,
) -> Result<(ModelConfig, ModelSpec), CheckpointError> {
    let architecture = Architecture::read(config)?;
    check_layers(config, weights)?;
    // MPNet's code alone doesn't read it.
    let may_be_causal = !architecture.is_decoder() && architecture != Architecture::MpNet;
    if may_be_causal && config.optional("is_causal")? == Some(true) {
        let reason = "is true, by which tokens see those before them only in transformers; that is supported in decoders";
        return Err(config.invalid("is_causal", reason));
    }
    match architecture {
        Architecture::Bert
        | Architecture::Roberta
        | Architecture::Electra
        | Architecture::DistilBert
        | Architecture::MpNet => bert::read(config, weights, architecture),
        Architecture::EmbeddingGemma2 => embedding_gemma2::read(config),
        Architecture::ModernBert => modernbert::read(config),
        Architecture::NomicBert => nomic::read(config, weights),
        Architecture::T5 => t5::read(config, weights),
        Architecture::StaticEmbedding | Architecture::Model2Vec => {
            static_embedding::read(config, weights, architecture)
        }
        Architecture::Gte | Architecture::JinaV3 => gte::read(config, weights, architecture, doubts),
        _ => {
            let mut own = ModelConfig::read_decoder(config, weights, doubts)?;
            parts::settle(&mut own, weights);
            let spec = decoder::spec(&own, weights, marks::is_voyage(config)?);
            Ok((own, spec))
        }
    }
}

/// Refuses more layers than there are tensors, before anything is made for each of them.
fn check_layers(config: &JsonObject, weights: &TensorFiles) -> Result<(), CheckpointError> {
    let tensors = weights.tensors.len();
    let text = config.object("text_config")?;
    for object in [Some(config), text.as_ref()].into_iter().flatten() {
        for field in ["num_hidden_layers", "n_layers", "n_layer", "num_layers"] {
            let layers = object.raw(field).and_then(Value::as_f64).unwrap_or_default();
            if layers > tensors as f64 {
                let reason = format!(
                    "is {layers}, but the weights have {tensors} tensors in all; the config and the weights do not \
                     belong together, or a shard is incomplete"
                );
                return Err(object.invalid(field, reason));
            }
        }
    }
    Ok(())
}

/// A layer norm with a bias.
fn layer_norm(path: &str, size: usize, eps: f32) -> NormSpec {
    NormSpec {
        weight: format!("{path}.weight"),
        bias: Some(format!("{path}.bias")),
        size,
        kind: NormKind::Layer,
        eps,
    }
}

/// Heads that share the hidden size.
fn shared_out(config: &JsonObject, field: &str, hidden: i32, heads: i32) -> Result<i32, CheckpointError> {
    if hidden % heads == 0 && hidden / heads % 2 == 0 {
        return Ok(hidden / heads);
    }
    Err(config.invalid(
        field,
        format!("is {heads}, which does not share the hidden size {hidden} out in even numbers"),
    ))
}

fn heads(config: &ModelConfig) -> HeadsSpec {
    let [heads, kv_heads, head_dim] =
        [config.heads, config.kv_heads, config.head_dim].map(|size| size as usize);
    HeadsSpec { heads, kv_heads, head_dim }
}

fn table(path: &str, rows: usize, width: i32) -> TableSpec {
    TableSpec { path: path.to_owned(), rows, width: width as usize, may_be_whole: false }
}

/// The name that a field goes by: its own code's, or transformers'. Where both are there they have to agree.
fn either<'a>(config: &JsonObject, own: &'a str, theirs: &'a str) -> Result<&'a str, CheckpointError> {
    match (config.raw(own), config.raw(theirs)) {
        (Some(one), Some(other)) if one.as_f64() != other.as_f64() => {
            let reason =
                format!("is {one}, and {theirs} is {other}; leave the one that the model was trained with");
            Err(config.invalid(own, reason))
        }
        (Some(_), _) => Ok(own),
        (None, _) => Ok(theirs),
    }
}

/// The matrix that makes logits of tokens: `own` where the file has it, as in transformers 5 whatever the config says;
/// else the embedding table where the two are tied.
fn head_table<'a>(weights: &TensorFiles, spec: &'a ModelSpec, own: &'a str, tied: bool) -> &'a str {
    if tied && !weights.tensors.contains_key(&format!("{own}.weight")) {
        &spec.embedding.tokens.path
    } else {
        own
    }
}
