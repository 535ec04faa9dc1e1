//! Heads of rerankers: what makes logits of a pair's hidden states, and the names of its tensors.

use crate::checkpoint::config::{self, Architecture, ModelConfig};
use crate::checkpoint::files::TensorFiles;
use crate::checkpoint::json::JsonObject;
use crate::checkpoint::spec::{HeadSpec, Logits, ModelSpec, NormKind, NormSpec, ProjectionSpec, StepSpec};
use crate::checkpoint::{CheckpointError, DenseActivation, marks};
use crate::pooling::{Pooling, PoolingMode};

/// Gives the model the head that the config's class has.
pub(super) fn add(
    config: &JsonObject,
    weights: &TensorFiles,
    own: &ModelConfig,
    spec: &mut ModelSpec,
) -> Result<(), CheckpointError> {
    let classes = marks::classes(config)?;
    let is = |end: &str| classes.iter().any(|class| class.ends_with(end));
    let classifies = is(marks::SEQUENCE_CLASSIFICATION);
    if classifies {
        one_label(config)?;
    }
    let hidden = spec.hidden;
    let dense = |path: &str, outputs: usize, bias: bool, activation: DenseActivation| StepSpec::Dense {
        projection: ProjectionSpec::one(path.to_owned(), outputs, hidden, bias),
        activation,
    };
    let label = |path: &str, bias: bool| dense(path, 1, bias, DenseActivation::Identity);
    let (pooling, logits, steps) = match own.architecture {
        Architecture::Bert | Architecture::Gte if classifies => {
            let pooler = dense("pooler.dense", hidden, true, DenseActivation::Tanh);
            (PoolingMode::Cls.into(), Logits::Label, vec![pooler, label("classifier", true)])
        }
        Architecture::DistilBert if classifies => {
            let inner = dense("pre_classifier", hidden, true, DenseActivation::Relu);
            (PoolingMode::Cls.into(), Logits::Label, vec![inner, label("classifier", true)])
        }
        Architecture::Roberta | Architecture::MpNet | Architecture::JinaV3 if classifies => {
            let inner = dense("classifier.dense", hidden, true, DenseActivation::Tanh);
            (PoolingMode::Cls.into(), Logits::Label, vec![inner, label("classifier.out_proj", true)])
        }
        Architecture::Electra if classifies => {
            let inner = dense("classifier.dense", hidden, true, DenseActivation::Gelu);
            (PoolingMode::Cls.into(), Logits::Label, vec![inner, label("classifier.out_proj", true)])
        }
        Architecture::ModernBert if classifies => {
            let bias = config::flag(config, "classifier_bias")?;
            let activation = DenseActivation::in_field(config, "classifier_activation", "gelu")?;
            let inner = dense("head.dense", hidden, bias, activation);
            let norm = StepSpec::Norm(NormSpec {
                weight: "head.norm.weight".into(),
                bias: config::flag(config, "norm_bias")?.then(|| "head.norm.bias".into()),
                size: hidden,
                kind: NormKind::Layer,
                eps: own.norm_eps,
            });
            (pooling(config)?, Logits::Label, vec![inner, norm, label("classifier", true)])
        }
        Architecture::Qwen3 if classifies && own.causal => {
            (PoolingMode::LastToken.into(), Logits::Label, vec![label("score", false)])
        }
        Architecture::Qwen3
        | Architecture::Qwen2
        | Architecture::Llama
        | Architecture::Mistral
        | Architecture::Gemma
            if own.causal && is("ForCausalLM") =>
        {
            // As transformers has it where the file says nothing.
            let by_default = own.architecture == Architecture::Gemma;
            let tied = config.optional("tie_word_embeddings")?.unwrap_or(by_default);
            let path = super::head_table(weights, spec, "lm_head", tied);
            let table = super::table(path, own.vocab_size as usize, own.hidden_size);
            (PoolingMode::LastToken.into(), Logits::Answers(table), Vec::new())
        }
        _ => return Err(no_reranker(config, &classes)),
    };
    (spec.behind, spec.head) = (steps, Some(HeadSpec { pooling, logits }));
    Ok(())
}

/// Gives the model the projection of each token that ColBERT's own checkpoints have beside the encoder.
pub(super) fn add_colbert(weights: &TensorFiles, spec: &mut ModelSpec) {
    // A missing one is told with the others that are missing.
    let outputs = weights.rows("linear.weight").unwrap_or(0);
    spec.projection = Some(ProjectionSpec::one("linear".into(), outputs, spec.hidden, false));
}

#[cold]
fn no_reranker(config: &JsonObject, classes: &[String]) -> CheckpointError {
    let names = match classes {
        [] => "is missing".to_owned(),
        classes => format!("names {}", classes.join(", ")),
    };
    config.invalid(
        "architectures",
        format!(
            "{names}; rerankers that can be run are `BertForSequenceClassification`, \
             `(XLM)RobertaForSequenceClassification`, `CamembertForSequenceClassification`, \
             `ElectraForSequenceClassification`, `DistilBertForSequenceClassification`, `MPNetForSequenceClassification`, `ModernBertForSequenceClassification`, `GteForSequenceClassification`, \
             `JinaEmbeddingsV3ForSequenceClassification`, causal \
             `Qwen3ForSequenceClassification`, and `Qwen3ForCausalLM`, `Qwen2ForCausalLM`, `LlamaForCausalLM`, `MistralForCausalLM` and `GemmaForCausalLM`. If this is an embedder, load it with `Embedder` \
             (mlx-embed embed)"
        ),
    )
}

/// Refuses a classifier of several labels: which of them would say how well a document answers is nowhere written.
fn one_label(config: &JsonObject) -> Result<(), CheckpointError> {
    // transformers' own default.
    const LABELS: usize = 2;
    let (field, labels) = match (config.object("id2label")?, config.optional("num_labels")?) {
        (Some(names), _) => ("id2label", names.entries().count()),
        (None, Some(labels)) => ("num_labels", labels),
        (None, None) => ("num_labels", LABELS),
    };
    if labels == 1 {
        return Ok(());
    }
    Err(config.invalid(
        field,
        format!(
            "{} {labels} labels, of which none is a score; a reranker has one, and what classifies pairs is not \
             supported",
            if config.has(field) { "has" } else { "is missing, which means" }
        ),
    ))
}

fn pooling(config: &JsonObject) -> Result<Pooling, CheckpointError> {
    match config.optional::<String>("classifier_pooling")?.as_deref() {
        None | Some("cls") => Ok(PoolingMode::Cls.into()),
        Some("mean") => Ok(PoolingMode::Mean.into()),
        Some(other) => {
            Err(config.invalid("classifier_pooling", format!("is `{other}`; supported are cls and mean")))
        }
    }
}
