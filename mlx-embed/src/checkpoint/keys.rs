//! Every key of `config.json` that the families know.
//!
//! Configs carry keys of training, of generation and of whoever wrote them, and references skip the unknown ones. So does
//! this crate, but not what might mean another model: a key that none of the lists below has, that turns something on,
//! and whose name has a word of a model's arithmetic in it, is a [`Doubt`].

use serde_json::Value;

use super::doubt::Doubt;
use super::json::JsonObject;
use super::{Architecture, CheckpointError};

/// What every family reads.
const READ: &str = "\
    architectures auto_map eos_token_id hidden_act hidden_activation hidden_size intermediate_size is_causal \
    max_position_embeddings model_file model_type num_attention_heads num_hidden_layers quantization \
    quantization_config sbert_ce_default_activation_function use_bidirectional_attention vocab_size";

/// What every decoder reads besides. An encoder that has one of these is read by its own list, or not at all.
const READ_BY_DECODERS: &str = "\
    head_dim layer_types num_key_value_heads original_max_position_embeddings partial_rotary_factor rms_norm_eps \
    rope_parameters rope_scaling rope_theta";

/// What a family reads besides, or what all references leave out in it whatever its value.
fn read_by(architecture: Architecture) -> &'static str {
    match architecture {
        // Its biases are where they are, whatever attention_bias says.
        Architecture::Qwen2 => {
            "attention_bias max_window_layers rope_traditional sliding_window use_sliding_window"
        }
        Architecture::Qwen3 | Architecture::PplxQwen3 => {
            "attention_bias max_window_layers sliding_window use_sliding_window"
        }
        Architecture::Llama => {
            "attention_bias max_window_layers mlp_bias pretraining_tp rope_traditional sliding_window use_sliding_window"
        }
        // Pooling and temperature are sentence-transformers' affair and training's.
        Architecture::LlamaBidirectional => "attention_bias mlp_bias pooling pretraining_tp temperature",
        // Which of its classifiers pools how, under both of its names.
        Architecture::EuroBert => "attention_bias classifier_pooling clf_pooling mlp_bias pretraining_tp",
        Architecture::Mistral => "rope_traditional sliding_window",
        Architecture::Gemma => "attention_bias",
        Architecture::Ministral3 => "sliding_window",
        Architecture::EmbeddingGemma2 => {
            "attention_bias boa_token_id boi_token_id embedding_dim eoa_token_index eoi_token_id global_head_dim \
             hidden_size_per_layer_input num_global_key_value_heads per_layer_config sliding_window \
             sliding_window_pattern text_config"
        }
        // Its logits are capped where nobody asks for them.
        Architecture::Gemma3 => {
            "_sliding_window_pattern attention_bias attn_logit_softcapping final_logit_softcapping \
             query_pre_attn_scalar rope_local_base_freq sliding_window sliding_window_pattern"
        }
        // The pooler's shape, in files that come from TensorFlow: nobody reads it, nor the pooler.
        Architecture::Bert | Architecture::Roberta => {
            "layer_norm_eps pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head \
             pooler_type position_embedding_type type_vocab_size"
        }
        Architecture::Electra => "embedding_size layer_norm_eps position_embedding_type type_vocab_size",
        Architecture::MpNet => "layer_norm_eps position_embedding_type relative_attention_num_buckets",
        // Positions are a table, however it was filled at first.
        Architecture::DistilBert => {
            "activation dim hidden_dim n_heads n_layers position_embedding_type sinusoidal_pos_embds"
        }
        Architecture::ModernBert => {
            "attention_bias classifier_activation classifier_bias classifier_pooling decoder_bias \
             global_attn_every_n_layers global_rope_theta layer_norm_eps layer_types local_attention \
             local_rope_theta mlp_bias norm_bias norm_eps position_embedding_type rope_parameters rope_scaling \
             sliding_window"
        }
        Architecture::NomicBert => {
            "activation_function causal dense_seq_output fused_bias_fc fused_dropout_add_ln head_dim layer_norm_eps \
             layer_norm_epsilon max_trained_positions mlp_fc1_bias mlp_fc2_bias n_embd n_head n_inner n_layer \
             n_positions pad_vocab_size_multiple parallel_block parallel_block_tied_norm prenorm qkv_proj_bias \
             rope_parameters rope_theta rotary_emb_base rotary_emb_fraction rotary_emb_interleaved rotary_emb_scale_base \
             rotary_scaling_factor scale_attn_weights type_vocab_size use_rms_norm use_xentropy"
        }
        // What feed_forward_proj says already, what is the decoder's alone, and a length that nothing ends with.
        Architecture::T5 => {
            "d_ff d_kv d_model dense_act_fn dropout_rate feed_forward_proj head_dim is_gated_act layer_norm_epsilon \
             n_positions num_decoder_layers num_heads num_layers relative_attention_max_distance \
             relative_attention_num_buckets scale_decoder_outputs"
        }
        Architecture::StaticEmbedding => "",
        // How it was made, sizes that the table has anyway, and what it is called.
        Architecture::Model2Vec => {
            "apply_pca apply_zipf embedding_dtype hidden_dim max_length normalize pooling seq_length sif_coefficient \
             token_remove_pattern tokenizer_name vocabulary_quantization"
        }
        // How its own code computes, and a clip of what logn_attention_scale turns on.
        Architecture::Gte | Architecture::JinaV3 => {
            "layer_norm_eps layer_norm_type logn_attention_clip1 logn_attention_scale pack_qkv partial_rotary_factor \
             position_embedding_type rope_parameters rope_scaling rope_theta type_vocab_size unpad_inputs \
             use_memory_efficient_attention"
        }
    }
}

/// What concerns training, generation, other inputs than text, or the way of computing.
const HARMLESS: &str = "\
    _attn_implementation _attn_implementation_autoset _attn_implementation_internal _commit_hash \
    _experts_implementation_internal _flash_attn_2_enabled _name_or_path add_cross_attention architecture \
    assistant_token_id attention_dropout attention_probs_dropout_prob attn_implementation attn_pdrop \
    audio_config audio_token_id bad_words_ids base_model_name_or_path begin_suppress_tokens bf16 bos_token_id \
    chat_template chunk_size_feed_forward classifier_dropout cls_token_id cross_attention_hidden_size \
    custom_pipelines decoder_start_token_id diversity_penalty do_sample dropout dtype early_stopping embd_pdrop \
    embedding_dropout encoder_no_repeat_ngram_size epsilon_cutoff eta_cutoff experts_implementation \
    exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id fp16 fp32 \
    gradient_checkpointing hidden_dropout hidden_dropout_prob id2label image_token_id image_token_index \
    initializer_cutoff_factor initializer_factor initializer_range is_decoder is_encoder_decoder is_llama_config \
    keys_to_ignore_at_inference label2id length_penalty license mask_token mask_token_id matryoshka_dimensions \
    matryoshka_dims max_length max_seq_length max_sequence_length min_length mlp_dropout mlx_lm_version \
    mlx_version model_max_length model_name name_or_path no_repeat_ngram_size num_beam_groups num_beams \
    num_labels num_return_sequences output_attentions output_hidden_states output_past output_router_logits \
    output_scores pad_token_id prefix problem_type prompt_names pruned_heads qa_dropout remove_invalid_values \
    repetition_penalty resid_pdrop return_dict return_dict_in_generate sentence_transformers sep_token_id \
    seq_classif_dropout seq_length summary_activation summary_first_dropout summary_proj_to_labels summary_type summary_use_proj \
    suppress_tokens task_names task_specific_params temperature tf_legacy_loss tie_encoder_decoder \
    tie_word_embeddings tokenizer_class top_k top_p torch_dtype torchscript trainable transformers.js_config \
    transformers_version truncate_dim typical_p unk_token_id unsloth_fixed unsloth_training_args unsloth_version \
    use_bfloat16 use_cache use_flash_attention use_flash_attn video_token_id vision_config vision_end_token_id \
    vision_feature_layer vision_feature_select_strategy vision_start_token_id vision_token_id weight_decay";

/// Words in the names of what changes a model's arithmetic.
const ARITHMETIC: &str = "\
    act activation adapter alibi attention attn bias bidirectional block causal chunk clip conv decoder depth \
    dilation dim dims embed embedding embeddings encoder eps epsilon expert experts factor ffn frequency gamma \
    gate gated group groups head heads hidden intermediate interval kv layer layernorm layers logn lora mask mlp \
    moe mrope mscale multiplier norm ntk parallel partial pattern pool pooler pooling position positions proj \
    projection qk qkv rank residual rmsnorm rope rotary scalar scale scaling sink sinks sliding softcap \
    softcapping swiglu unidirectional window yarn";

/// Objects that describe the model once more.
const OBJECTS: [&str; 4] = ["text_config", "llm_config", "language_config", "decoder_config"];

/// Adds a doubt for every key that could change numbers, and returns the other unknown ones.
pub(super) fn hold(config: &JsonObject, doubts: &mut Vec<Doubt>) -> Result<Vec<String>, CheckpointError> {
    let architecture = Architecture::read(config)?;
    let mut harmless = hold_object(config, architecture, doubts);
    if architecture == Architecture::EmbeddingGemma2
        && let Some(text) = config.object("text_config")?
    {
        harmless.extend(hold_object(&text, architecture, doubts));
    }
    Ok(harmless)
}

fn hold_object(config: &JsonObject, architecture: Architecture, doubts: &mut Vec<Doubt>) -> Vec<String> {
    let mut harmless = Vec::new();
    for (key, value) in config.entries() {
        let of_decoders = if architecture.is_decoder() { READ_BY_DECODERS } else { "" };
        if [READ, of_decoders, read_by(architecture), HARMLESS].iter().any(|list| holds(list, key)) {
            continue;
        }
        if may_change_numbers(key, value) {
            let reason = "is not known to this crate, and by its name may change what a model computes";
            doubts.push(Doubt::field(config.path().to_owned(), config.name(key), reason));
        } else {
            harmless.push(config.name(key));
        }
    }
    harmless
}

/// Whether a list of names, with spaces between, has this one.
fn holds(list: &str, name: &str) -> bool {
    list.split_whitespace().any(|listed| listed == name)
}

/// Whether a key that nobody knows turns something on that may be part of a model's arithmetic.
pub(super) fn may_change_numbers(key: &str, value: &Value) -> bool {
    let off = match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        // A factor of 1 changes nothing either.
        Value::Number(number) => number.as_f64().is_some_and(|number| {
            number == 0.0
                || number == 1.0 && ["multiplier", "scale", "scaling"].iter().any(|end| key.ends_with(end))
        }),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    };
    let name = key.to_ascii_lowercase();
    let is_word = |word: &str| holds(ARITHMETIC, word);
    !off && (OBJECTS.contains(&key) || name.split(|c: char| !c.is_ascii_alphabetic()).any(is_word))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_and_values_tell_what_may_change_numbers() {
        for (key, value) in [
            ("embedding_multiplier", json!(12.0)),
            ("attn_logit_softcapping", json!(50.0)),
            ("use_qk_norm", json!(true)),
            ("query_pre_attn_scalar", json!(256)),
            ("num_experts", json!(8)),
            ("no_rope_layers", json!([1, 1, 1, 0])),
            ("text_config", json!({"hidden_size": 8})),
        ] {
            assert!(may_change_numbers(key, &value), "{key}");
        }
        for (key, value) in [
            ("residual_multiplier", json!(1.0)),
            ("use_qk_norm", json!(false)),
            ("num_experts", json!(null)),
            ("time_step_limit", json!([0.0, 8.0])),
            ("dataset", json!("of sentences")),
        ] {
            assert!(!may_change_numbers(key, &value), "{key}");
        }
    }

    #[test]
    fn lists_are_sorted_so_that_a_key_is_found_once() {
        for list in [READ, READ_BY_DECODERS, HARMLESS, ARITHMETIC] {
            assert!(list.split_whitespace().is_sorted(), "{list}");
        }
    }
}
