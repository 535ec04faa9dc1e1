//! Tensors that are no part of a model: which are known, and what others look like.

use super::files::{TensorEntry, TensorFiles};
use super::spec::ModelSpec;
use super::{Architecture, ModelConfig};

/// Decides what the config leaves to the weights.
pub(super) fn settle(config: &mut ModelConfig, weights: &TensorFiles) {
    // Qwen2 as published has no head norms; a checkpoint with all of them means them.
    if config.architecture == Architecture::Qwen2 {
        let has = |layer: usize, name: &str| {
            weights.tensors.contains_key(&format!("layers.{layer}.self_attn.{name}.weight"))
        };
        config.head_norms = (0..config.layers).all(|layer| has(layer, "q_norm") && has(layer, "k_norm"));
    }
}

/// How many values a row of matrix `path` has; 0 if the model has no such matrix.
pub(super) fn inputs(spec: &ModelSpec, path: &str) -> usize {
    spec.matrices().find(|(of, _)| *of == path).map_or(0, |(_, inputs)| inputs)
}

/// Whether tensor `name` is known to be no part of what embedding computes, in whichever checkpoint it is.
pub(super) fn is_known_to_be_left_out(name: &str, architecture: Architecture) -> bool {
    // The head that makes logits, and the towers for other inputs than text.
    const FIRST: [&str; 8] = [
        "lm_head",
        "visual",
        "vision_tower",
        "vision_model",
        "audio_tower",
        "audio_model",
        "multi_modal_projector",
        "mm_projector",
    ];
    // What RoPE is computed from, where a version of transformers saved it.
    const LAST: [&str; 3] = [".rotary_emb.inv_freq", ".rotary_emb.cos_cached", ".rotary_emb.sin_cached"];
    // Heads of encoders for pre-training, what leads other inputs in, and a vector for the whole text that sentence-transformers doesn't ask for.
    let heads: &[&str] = match architecture {
        Architecture::Bert | Architecture::NomicBert => &["pooler", "cls"],
        Architecture::Roberta | Architecture::MpNet | Architecture::JinaV3 => &["pooler", "lm_head"],
        Architecture::Gte => &["pooler", "lm_head", "classifier"],
        Architecture::Electra => &["discriminator_predictions", "generator_predictions", "generator_lm_head"],
        Architecture::DistilBert => &["vocab_transform", "vocab_layer_norm", "vocab_projector"],
        Architecture::ModernBert => &["head", "decoder"],
        Architecture::T5 => &["decoder"],
        Architecture::EmbeddingGemma2 => &["embed_vision", "embed_audio"],
        _ => &[],
    };
    let first = name.split('.').next().unwrap_or(name);
    // A table of tokens beside the encoder's own.
    let again = architecture == Architecture::T5 && first == "shared";
    if again || heads.contains(&first) || name == "embeddings.position_ids" {
        return true;
    }
    FIRST.contains(&first) || LAST.iter().any(|end| name.ends_with(end)) || name.starts_with("rotary_emb.")
}

/// What a tensor that is no part of the model may be, and what would do.
pub(super) fn looks_like(name: &str, entry: &TensorEntry, config: &ModelConfig) -> String {
    let has = |part: &str| name.contains(part);
    let layer = name.strip_prefix("layers.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
    if has("lora_") || has(".lora") || has("dora_") {
        return "a LoRA adapter that is not merged; merge it into the weights (merge_and_unload of peft, or mlx_lm.fuse)".into();
    }
    if let Some(layer) = layer
        && layer >= config.layers
    {
        return format!("a part of layer {layer}, but num_hidden_layers in config.json is {}", config.layers);
    }
    let known: &[(&[&str], &str)] = &[
        (&["sinks"], "attention sinks, which are not supported"),
        (&["norm.bias"], "a norm's bias, so a LayerNorm in place of an RMSNorm"),
        (
            &[
                "self_attn.q_proj.bias",
                "self_attn.k_proj.bias",
                "self_attn.v_proj.bias",
                "self_attn.o_proj.bias",
            ],
            "a bias of attention; config.json has to say attention_bias: true, for Llama and Qwen3",
        ),
        (
            &["_proj.bias"],
            "a bias of the feed-forward part; config.json has to say mlp_bias: true, for Llama",
        ),
        (
            &["q_norm", "k_norm"],
            "a norm of queries or keys, which this family has not, or not all layers have",
        ),
        (
            &[".qweight", ".qzeros", ".g_idx", "weight_packed", "weight_scale", "absmax", "quant_map"],
            "a matrix quantised by another library; convert the checkpoint with mlx_lm.convert",
        ),
        (&[".scales", ".biases"], "scales of a quantised matrix, but that is no matrix of the model"),
        (
            &["experts.", ".router", "shared_expert", "mlp.gate.weight"],
            "a mixture of experts, which is not supported",
        ),
        (&["layernorm", "_norm."], "a norm that this family has not"),
        (&["score.", "classifier", "classification"], "a classifier's head, which is not supported"),
        (&["position_embedding", "embed_positions", "wpe."], "absolute positions, which are not supported"),
        (&["qkv_proj", "gate_up_proj", "Wqkv", "Wi."], "projections in one matrix, which are not supported"),
    ];
    let found = known.iter().find(|(parts, _)| parts.iter().any(|part| has(part)));
    match found {
        Some((_, what)) => (*what).into(),
        None if layer.is_none() && entry.shape.len() == 2 => {
            "a projection or a head behind the decoder, which is not supported".into()
        }
        None => "a part that this model has not".into(),
    }
}
