//! Heads of masked language models: what makes a logit of each token of the vocabulary, and the names of its tensors.

use crate::checkpoint::config::{self, Architecture};
use crate::checkpoint::files::TensorFiles;
use crate::checkpoint::json::JsonObject;
use crate::checkpoint::spec::{Activation, MlmSpec, ModelSpec, NormSpec, ProjectionSpec};
use crate::checkpoint::{CheckpointError, SentenceTransformers};

/// The family's head.
pub(in crate::checkpoint) fn read(
    config: &JsonObject,
    weights: &TensorFiles,
    spec: &ModelSpec,
    files: &SentenceTransformers,
) -> Result<MlmSpec, CheckpointError> {
    let (hidden, vocabulary) = (spec.hidden, spec.embedding.tokens.rows);
    let head = match Architecture::read(config)? {
        Architecture::Bert => bert(config, hidden)?,
        Architecture::DistilBert => distilbert(config, hidden)?,
        Architecture::Roberta | Architecture::MpNet | Architecture::JinaV3 => roberta(config, hidden)?,
        Architecture::Gte => gte(config, weights, hidden)?,
        Architecture::ModernBert => modernbert(config, hidden)?,
        other => {
            let reason = format!(
                "is of the family {other}, whose head for masked tokens is not supported; sparse vectors are there for \
                 bert, distilbert, roberta, xlm-roberta, mpnet, modernbert, gte and jina_embeddings_v3"
            );
            return Err(config.invalid("model_type", reason));
        }
    };
    let Head { dense, activation, norm, decoder, biases } = head;
    let tied = config.optional("tie_word_embeddings")?.unwrap_or(true);
    let table = super::head_table(weights, spec, decoder, tied);
    let bias = biases.iter().find(|name| weights.tensors.contains_key(**name)).or(biases.last());
    Ok(MlmSpec {
        dense,
        activation,
        norm,
        decoder: MlmSpec::decoder(table, vocabulary, hidden),
        bias: bias.map(|name| (*name).to_owned()),
        vocabulary,
        pooling: files.splade,
        most: files.max_active_dims,
    })
}

/// What families differ in.
struct Head {
    dense: ProjectionSpec,
    activation: Activation,
    norm: NormSpec,
    /// The last matrix, where it has one of its own.
    decoder: &'static str,
    /// Names that its bias may have, of which the first that is there counts; none where it has none.
    biases: &'static [&'static str],
}

fn bert(config: &JsonObject, hidden: usize) -> Result<Head, CheckpointError> {
    Ok(Head {
        dense: ProjectionSpec::one("cls.predictions.transform.dense".into(), hidden, hidden, true),
        activation: Activation::in_field(config, "hidden_act", "gelu")?,
        norm: super::layer_norm("cls.predictions.transform.LayerNorm", hidden, layer_norm_eps(config)?),
        decoder: "cls.predictions.decoder",
        biases: &["cls.predictions.decoder.bias", "cls.predictions.bias"],
    })
}

fn distilbert(config: &JsonObject, hidden: usize) -> Result<Head, CheckpointError> {
    Ok(Head {
        dense: ProjectionSpec::one("vocab_transform".into(), hidden, hidden, true),
        activation: Activation::in_field(config, "activation", "gelu")?,
        norm: super::layer_norm("vocab_layer_norm", hidden, 1e-12),
        decoder: "vocab_projector",
        biases: &["vocab_projector.bias"],
    })
}

fn roberta(config: &JsonObject, hidden: usize) -> Result<Head, CheckpointError> {
    Ok(Head {
        dense: ProjectionSpec::one("lm_head.dense".into(), hidden, hidden, true),
        // Whatever that of the layers is.
        activation: Activation::Gelu,
        norm: super::layer_norm("lm_head.layer_norm", hidden, layer_norm_eps(config)?),
        decoder: "lm_head.decoder",
        biases: &["lm_head.decoder.bias", "lm_head.bias"],
    })
}

/// RoBERTa's, with a norm of another name in files of its own code.
fn gte(config: &JsonObject, weights: &TensorFiles, hidden: usize) -> Result<Head, CheckpointError> {
    let head = roberta(config, hidden)?;
    let own = "lm_head.norm";
    let is_own = weights.tensors.contains_key(&format!("{own}.weight"));
    let norm = if is_own { super::layer_norm(own, hidden, head.norm.eps) } else { head.norm };
    Ok(Head { norm, ..head })
}

fn modernbert(config: &JsonObject, hidden: usize) -> Result<Head, CheckpointError> {
    let norm = super::layer_norm("head.norm", hidden, config::epsilon(config, "norm_eps", Some(1e-5))?);
    let has_norm_bias = config::flag(config, "norm_bias")?;
    let has_bias = config.optional("decoder_bias")?.unwrap_or(true);
    let dense_bias = config::flag(config, "classifier_bias")?;
    Ok(Head {
        dense: ProjectionSpec::one("head.dense".into(), hidden, hidden, dense_bias),
        activation: Activation::in_field(config, "classifier_activation", "gelu")?,
        norm: NormSpec { bias: norm.bias.filter(|_| has_norm_bias), ..norm },
        decoder: "decoder",
        biases: if has_bias { &["decoder.bias"] } else { &[] },
    })
}

fn layer_norm_eps(config: &JsonObject) -> Result<f32, CheckpointError> {
    config::epsilon(config, "layer_norm_eps", Some(1e-12))
}
