//! Marks that a folder holds another model than its `model_type` says.

use serde_json::Value;

use super::doubt::Doubt;
use super::json::JsonObject;
use super::{Architecture, CheckpointError, Purpose, adapter, holds, judge, sentence_transformers};
use crate::file::Files;

/// How transformers' classes of rerankers end, among others.
pub(super) const SEQUENCE_CLASSIFICATION: &str = "ForSequenceClassification";

/// Whether the files of sentence-transformers or the chat template say that a checkpoint is a reranker, or its class.
pub(super) fn of_reranker(files: &Files, config: &JsonObject) -> Result<bool, CheckpointError> {
    let classifies = classes(config)?.iter().any(|class| class.ends_with(SEQUENCE_CLASSIFICATION));
    Ok(classifies || sentence_transformers::says(files, Purpose::Scores)? || judge::doubt(files)?.is_some())
}

/// What says that the weights are computed with in another way.
pub(super) fn of_another_model(
    files: &Files,
    config: &JsonObject,
    purpose: Purpose,
) -> Result<Vec<Doubt>, CheckpointError> {
    let architecture = Architecture::read(config)?;
    let mut doubts = Vec::new();
    let mut doubt = |field: String, reason: String| {
        doubts.push(Doubt::field(config.path().to_owned(), field, reason));
    };
    for class in classes(config)? {
        let names = class_names(architecture);
        if class.ends_with(SEQUENCE_CLASSIFICATION) {
            if purpose == Purpose::Vectors {
                let reason =
                    format!("names `{class}`, a reranker; load it with `Reranker` (mlx-embed rerank)");
                doubt("architectures".into(), reason);
            }
        } else if class == COLBERT {
            if purpose != Purpose::TokenVectors {
                let reason = format!(
                    "names `{class}`, a model of late interaction; load it with `MultiVectorEmbedder`"
                );
                doubt("architectures".into(), reason);
            }
        } else if !(names.contains(&class) || class == VOYAGE && is_voyage(config)?) {
            doubt(
                "architectures".into(),
                format!("names `{class}`; supported with this model_type are {}", names.join(" and ")),
            );
        }
    }
    if let Some(auto_map) = config.object("auto_map")? {
        for (key, value) in auto_map.entries() {
            // What reads texts is the tokenizer's affair; see `text/`.
            let is_model = key.starts_with("AutoModel") || key == "AutoConfig";
            let code = value.as_str().unwrap_or("code");
            if is_model
                && !is_gte_qwen2(config, architecture)?
                && !is_known_code(architecture, code)
                && !is_voyage(config)?
            {
                doubt(
                    format!("auto_map.{key}"),
                    format!(
                        "names {code}, code that comes with the checkpoint and may compute something else; if it is a plain {}, remove auto_map",
                        architecture
                    ),
                );
            }
        }
    }
    if let Some(file) = config.raw("model_file") {
        doubt(
            "model_file".into(),
            format!("names {file}, code that comes with the checkpoint and may compute something else"),
        );
    }
    if purpose == Purpose::Vectors {
        doubts.extend(judge::doubt(files)?);
    }
    let adapter = adapter::CONFIG;
    if files.adapter().is_none()
        && let Some(adapter_config) = JsonObject::open(files, adapter)?
    {
        let kind = adapter_config.raw("peft_type").and_then(Value::as_str).unwrap_or("LoRA");
        doubts.push(Doubt::field(
            files.path(adapter),
            "peft_type",
            format!("describes an adapter ({kind}) beside the weights; merge it into them (merge_and_unload of peft, or mlx_lm.fuse) and remove this file, or remove it if they are merged"),
        ));
    }
    Ok(doubts)
}

/// Refuses sparse vectors of what neither modules.json nor config.json calls a masked language model: its head would be
/// of a model that was trained for something else.
pub(super) fn require_mlm(files: &Files, config: &JsonObject) -> Result<(), CheckpointError> {
    if holds(files, "modules.json")? || classes(config)?.iter().any(|class| class.ends_with("ForMaskedLM")) {
        return Ok(());
    }
    Err(config.invalid(
        "architectures",
        "names no masked language model (`BertForMaskedLM` and the like), and there is no modules.json that names a sparse encoder's \
         modules; for one dense vector a text load it with Embedder",
    ))
}

/// The class of ColBERT's own checkpoints: an encoder, and a projection of each token.
const COLBERT: &str = "HF_ColBERT";

/// Whether it is of ColBERT's own layout.
pub(super) fn is_colbert(config: &JsonObject) -> Result<bool, CheckpointError> {
    Ok(classes(config)?.iter().any(|class| class == COLBERT))
}

/// The class of voyage-4-nano: Qwen3 without the causal mask, and a projection of each token.
const VOYAGE: &str = "VoyageQwen3BidirectionalEmbedModel";

/// Whether it is that model.
pub(super) fn is_voyage(config: &JsonObject) -> Result<bool, CheckpointError> {
    let Some(auto_map) = config.object("auto_map")? else { return Ok(false) };
    let class = auto_map.raw("AutoModel").and_then(Value::as_str).unwrap_or_default();
    let class = class.rsplit("--").next().unwrap_or(class);
    Ok(class == format!("modeling_qwen3_bidirectional.{VOYAGE}"))
}

/// What `architectures` may name: the model, or the model with a head that embedding leaves out.
fn class_names(architecture: Architecture) -> Vec<String> {
    let heads = if architecture.is_decoder() { ["Model", "ForCausalLM"] } else { ["Model", "ForMaskedLM"] };
    let bases = Architecture::ALL.iter().filter(|(_, of, _)| *of == architecture);
    let mut names: Vec<String> =
        bases.flat_map(|(_, _, base)| heads.map(|head| format!("{base}{head}"))).collect();
    match architecture {
        // With a second head, which is left out like the first.
        Architecture::Bert => names.push("BertForPreTraining".into()),
        Architecture::Electra => names.push("ElectraForPreTraining".into()),
        // With a weight of each token beside, as gte-multilingual has.
        Architecture::Gte => names.extend(["Gte", "New"].map(|base| format!("{base}ForTokenClassification"))),
        // The encoder alone, and with the decoder.
        Architecture::T5 => names.extend(["T5EncoderModel", "T5ForConditionalGeneration"].map(str::to_owned)),
        Architecture::Gemma3 => names.push("Gemma3ForCausalLM".into()),
        Architecture::EuroBert => names.push("EuroBertForMaskedLM".into()),
        _ => {}
    }
    names
}

/// Code beside a checkpoint that computes what this crate does for the family.
fn is_known_code(architecture: Architecture, code: &str) -> bool {
    let class = code.rsplit("--").next().unwrap_or(code);
    let file = class.split('.').next().unwrap_or_default();
    let known: &[&str] = match architecture {
        Architecture::LlamaBidirectional => &["llama_bidirectional_model"],
        Architecture::PplxQwen3 => {
            return ["configuration.PPLXQwen3Config", "modeling.PPLXQwen3Model"].contains(&class);
        }
        Architecture::EuroBert => &["configuration_eurobert", "modeling_eurobert"],
        Architecture::NomicBert => &["configuration_hf_nomic_bert", "modeling_hf_nomic_bert"],
        // Of Alibaba's repository for all its models, and Snowflake's copy of it.
        Architecture::Gte
            if ["configuration.New", "modeling.New"].iter().any(|name| class.starts_with(name)) =>
        {
            return true;
        }
        Architecture::Gte => &["configuration_hf_alibaba_nlp_gte", "modeling_hf_alibaba_nlp_gte"],
        _ => &[],
    };
    known.contains(&file)
}

/// Alibaba's gte-Qwen2: code that is Qwen2 without the causal mask, and the only place where its config says so.
pub(super) fn is_gte_qwen2(config: &JsonObject, architecture: Architecture) -> Result<bool, CheckpointError> {
    let Some(auto_map) = config.object("auto_map")? else { return Ok(false) };
    let class = auto_map.raw("AutoModel").and_then(Value::as_str).unwrap_or_default();
    // Before `--` there may be the repository that the code is in.
    let class = class.rsplit("--").next().unwrap_or(class);
    Ok(architecture == Architecture::Qwen2 && class == "modeling_qwen.Qwen2Model")
}

/// `architectures`: a list, or as in some configs one name.
pub(super) fn classes(config: &JsonObject) -> Result<Vec<String>, CheckpointError> {
    match config.raw("architectures") {
        Some(Value::String(class)) => Ok(vec![class.clone()]),
        _ => Ok(config.optional("architectures")?.unwrap_or_default()),
    }
}
