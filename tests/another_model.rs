//! Checkpoints of a model that this crate does not compute: an error names what tells it, and with
//! `LoadOptions::lenient` a warning does.
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use mlx_embed::{CheckpointError, EmbedOptions, Embedder, Error, LoadOptions};
use mlx_embed_tests::compare::says;
use mlx_embed_tests::golden;
use mlx_embed_tests::scratch::Scratch;
use serde_json::{Value, json};

const WEIGHTS: &str = "model.safetensors";

/// Loading fails with a message that names all of `parts`.
#[track_caller]
fn refused(scratch: &Scratch, parts: &[&str]) -> CheckpointError {
    match Embedder::load_with(scratch.path(), golden::load_options()).map(drop) {
        Err(Error::Checkpoint(error)) => {
            says(&error, parts);
            error
        }
        other => panic!("no error of the checkpoint's: {other:?}"),
    }
}

/// Loading fails because of something unknown; leniently it doesn't, and the vectors are those of the case without it.
fn doubted(case: &str, scratch: &Scratch, mentions: &[&str]) {
    let error = refused(scratch, mentions);
    assert!(
        matches!(error, CheckpointError::UnknownTensor { .. } | CheckpointError::UnknownField { .. }),
        "{error:?}"
    );
    let lenient = LoadOptions { lenient: true, ..golden::load_options() };
    let embedder = Embedder::load_with(scratch.path(), lenient).unwrap();
    let warnings: Vec<String> = embedder.info().warnings.iter().map(ToString::to_string).collect();
    assert!(warnings.iter().any(|warning| warning.contains(mentions[0])), "{warnings:?}");
    let text = &["Hello, world!"];
    assert_eq!(embedder.embed(text).unwrap()[0].vector, golden::load(case).embed(text).unwrap()[0].vector);
}

fn with(case: &str, fields: Value) -> Scratch {
    Scratch::with(case, "config.json", fields)
}

fn loaded(scratch: &Scratch) -> Embedder {
    Embedder::load_with(scratch.path(), golden::load_options()).unwrap()
}

#[test]
fn a_tensor_that_the_model_has_not() {
    for (tensor, shape, looks_like) in [
        ("linear.weight", &[48, 32][..], "a projection"),
        ("score.weight", &[2, 32], "classifier"),
        ("model.layers.0.self_attn.sinks", &[4], "attention sinks"),
        ("model.layers.0.self_attn.q_proj.lora_A.weight", &[4, 32], "LoRA"),
        ("base_model.model.layers.1.mlp.up_proj.lora_B.default.weight", &[64, 4], "LoRA"),
        ("model.layers.2.input_layernorm.weight", &[32], "num_hidden_layers in config.json is 2"),
        ("model.layers.1.input_layernorm.bias", &[32], "a norm's bias"),
        ("model.norm.bias", &[32], "a norm's bias"),
        ("model.layers.0.self_attn.o_proj.bias", &[32], "attention_bias"),
        ("model.layers.0.mlp.down_proj.bias", &[32], "mlp_bias"),
        ("model.layers.0.post_feedforward_layernorm.weight", &[32], "a norm that this family has not"),
        ("model.layers.0.mlp.experts.0.up_proj.weight", &[64, 32], "mixture of experts"),
        ("model.embed_positions.weight", &[512, 32], "absolute positions"),
        ("something.else", &[1], "a part that this model has not"),
    ] {
        let scratch = Scratch::of("qwen3-f32");
        scratch.add_tensor(WEIGHTS, tensor, shape);
        doubted("qwen3-f32", &scratch, &[tensor.trim_start_matches("model."), looks_like]);
    }
}

#[test]
fn tensors_known_to_be_no_part_are_left_out() {
    let scratch = Scratch::of("llama-f32");
    for tensor in [
        "lm_head.weight",
        "lm_head.bias",
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "model.rotary_emb.inv_freq",
        "visual.blocks.0.attn.qkv.weight",
        "vision_tower.encoder.layers.0.mlp.fc1.bias",
        "multi_modal_projector.linear_1.weight",
    ] {
        scratch.add_tensor(WEIGHTS, tensor, &[3, 5]);
    }
    let embedder = loaded(&scratch);
    let plain = golden::load("llama-f32");
    assert!(embedder.info().warnings.is_empty());
    assert_eq!(embedder.info().parameters, plain.info().parameters);
    let text = &["Hello, world!"];
    assert_eq!(embedder.embed(text).unwrap()[0].vector, plain.embed(text).unwrap()[0].vector);
}

#[test]
fn a_part_that_not_all_layers_have() {
    for (case, tensor) in [
        ("qwen2-f32", "model.layers.0.self_attn.k_proj.bias"),
        ("qwen2-f32", "model.layers.1.self_attn.v_proj.bias"),
        ("llama-biases-f32", "model.layers.0.mlp.gate_proj.bias"),
        ("llama-biases-f32", "model.layers.0.self_attn.o_proj.bias"),
        ("qwen3-f32", "model.layers.1.self_attn.k_norm.weight"),
        ("qwen3-f32", "model.norm.weight"),
        ("qwen3-f32", "model.layers.1.post_attention_layernorm.weight"),
    ] {
        let scratch = Scratch::of(case);
        scratch.remove_tensor(WEIGHTS, tensor);
        let error = refused(&scratch, &[tensor.trim_start_matches("model.")]);
        assert!(matches!(error, CheckpointError::MissingTensor { .. }), "{error:?}");
    }
    // Head norms of a Qwen2 are all there or are not known.
    let scratch = Scratch::of("qwen2-with-qk-norm-f32");
    scratch.remove_tensor(WEIGHTS, "model.layers.0.self_attn.k_norm.weight");
    let error = refused(&scratch, &["layers.0.self_attn.q_norm.weight", "not all layers"]);
    assert!(matches!(error, CheckpointError::UnknownTensor { .. }), "{error:?}");
}

#[test]
fn biases_follow_the_config() {
    let scratch = with("llama-biases-f32", json!({"attention_bias": false}));
    refused(&scratch, &["self_attn", "bias", "attention_bias: true"]);
    let scratch = with("llama-biases-f32", json!({"mlp_bias": null}));
    refused(&scratch, &["mlp", "bias", "mlp_bias: true"]);
    let scratch = with("qwen3-f32", json!({"attention_bias": true}));
    let error = refused(&scratch, &["self_attn.", "_proj.bias"]);
    assert!(matches!(error, CheckpointError::MissingTensor { .. }), "{error:?}");
}

#[test]
fn marks_of_another_model() {
    for (field, value, mentions) in [
        ("architectures", json!(["LlamaBidirectionalModel"]), ["architectures", "LlamaBidirectionalModel"]),
        ("architectures", json!(["Qwen3ForSequenceClassification"]), ["architectures", "`Reranker`"]),
        ("architectures", json!("Qwen2ForCausalLM"), ["architectures", "Qwen3ForCausalLM"]),
        ("auto_map", json!({"AutoModel": "modeling.NewModel"}), ["auto_map.AutoModel", "modeling.NewModel"]),
        ("auto_map", json!({"AutoConfig": "configuration.NewConfig"}), ["auto_map.AutoConfig", "code"]),
        ("model_file", json!("model.py"), ["model_file", "model.py"]),
    ] {
        doubted("qwen3-f32", &with("qwen3-f32", json!({ field: value })), &mentions);
    }
    let scratch = Scratch::of("qwen3-f32");
    scratch.write("adapter_config.json", json!({"peft_type": "LORA", "r": 4}).to_string());
    doubted("qwen3-f32", &scratch, &["adapter_config.json", "LORA", "merge"]);
    // A tokenizer's code is no model's.
    let scratch = with("qwen3-f32", json!({"auto_map": {"AutoTokenizer": ["tok.New", null]}}));
    loaded(&scratch);
}

#[test]
fn heads_for_pre_training_are_left_out() {
    let vector = |scratch: &Scratch| {
        let embedder = Embedder::load_with(scratch.path(), golden::own_limit()).unwrap();
        embedder.embed_one("the cat").unwrap().vector
    };
    let case = "families/bert-prefix-cls-f16";
    let both = with(case, json!({"architectures": ["BertForPreTraining"]}));
    assert_eq!(vector(&both), vector(&Scratch::of(case)));
}

/// Their vectors are in `tests/sweep.json`.
#[test]
fn marks_of_bidirectional_attention() {
    let gte = json!({"AutoModel": "Alibaba-NLP/gte-Qwen2-1.5B-instruct--modeling_qwen.Qwen2Model"});
    for (case, field, value) in [
        ("qwen3-f32", "is_causal", json!(false)),
        ("llama-f32", "use_bidirectional_attention", json!(true)),
        ("qwen2-f32", "auto_map", gte),
    ] {
        let embedder = loaded(&with(case, json!({ field: value })));
        assert!(!embedder.info().config.causal, "{field}");
    }
    refused(&with("qwen3-f32", json!({"is_causal": null})), &["is_causal", "is null", "a text alone"]);
    for case in ["families/bert-f32", "families/modernbert-f32", "families/nomic-bert-bf16"] {
        refused(&with(case, json!({"is_causal": true})), &["is_causal", "before them only"]);
    }
    let gemma = "families/gemma-causal";
    let alone = json!({"use_bidirectional_attention": true});
    refused(&with(gemma, alone), &["use_bidirectional_attention", "a text alone", "is_causal: false"]);
    let beside = json!({"use_bidirectional_attention": true, "is_causal": false});
    assert!(!loaded(&with(gemma, beside)).info().config.causal);
    // Of its two fields for the activation transformers reads the first.
    loaded(&with(gemma, json!({"hidden_act": "gelu_pytorch_tanh", "hidden_activation": "silu"})));
    refused(&with(gemma, json!({"hidden_act": "silu"})), &["hidden_act", "gelu_pytorch_tanh"]);
    let both = json!({"is_causal": true, "use_bidirectional_attention": true});
    refused(&with("qwen3-f32", both), &["is_causal", "contradict"]);
    let causal = json!({"is_causal": true, "use_bidirectional_attention": false});
    loaded(&with("qwen3-f32", causal));
}

/// Its code is Qwen2Tokenizer but for the end token, which tokenizer.json does not have.
#[test]
fn the_tokenizer_that_comes_with_gte_qwen2_appends_the_end_token() {
    let ids = |fields: Value| {
        let scratch = Scratch::of("st-mean");
        scratch
            .edit_json("tokenizer_config.json", |config| config.extend(fields.as_object().unwrap().clone()));
        scratch.edit_json("tokenizer.json", |tokenizer| {
            drop(tokenizer.insert("post_processor".into(), Value::Null))
        });
        loaded(&scratch).token_ids("the cat", &EmbedOptions::default()).unwrap()
    };
    let code = |repository: &str| {
        let class = |name: &str| format!("{repository}tokenization_qwen.{name}");
        json!([class("Qwen2Tokenizer"), class("Qwen2TokenizerFast")])
    };
    let plain = ids(json!({}));
    let ended = [&plain[..], &[285]].concat();
    for code in [code(""), code("Alibaba-NLP/gte-Qwen2-1.5B-instruct--"), code("")[1].clone()] {
        let fields = |end| json!({"auto_map": {"AutoTokenizer": code}, "add_eos_token": end});
        assert_eq!(ids(fields(true)), ended, "{code}");
        assert_eq!(ids(fields(false)), plain, "{code}");
    }
    for other in [json!(null), json!("tok.New"), json!(["tok.New", null]), json!({"a": 1}), json!(7)] {
        let fields = json!({"auto_map": {"AutoTokenizer": other}, "add_eos_token": true});
        assert_eq!(ids(fields), plain, "{other}");
    }
}

#[test]
fn keys_that_may_change_numbers() {
    for (key, value) in [
        ("embedding_multiplier", json!(12.0)),
        ("use_qk_norm", json!(true)),
        ("num_experts", json!(4)),
        ("per_layer_config", json!({"0": {"head_dim": 8}})),
        ("text_config", json!({"hidden_size": 8})),
        ("rope_traditional", json!(true)),
    ] {
        doubted("qwen3-f32", &with("qwen3-f32", json!({ key: value })), &[key, "not known"]);
    }
    // Known of another family, so no leniency helps.
    let error = refused(
        &with("qwen3-f32", json!({"attn_logit_softcapping": 50.0})),
        &["attn_logit_softcapping", "caps"],
    );
    assert!(matches!(error, CheckpointError::InvalidField { .. }), "{error:?}");
    let harmless = json!({"embedding_multiplier": 1.0, "use_qk_norm": false, "num_experts": null,
        "favourite_colour": "green", "num_labels": 96});
    let embedder = loaded(&with("qwen3-f32", harmless));
    let unknown = &embedder.info().unknown_fields;
    assert_eq!(unknown, &["embedding_multiplier", "favourite_colour", "num_experts", "use_qk_norm"]);
}

#[test]
fn layer_types_that_do_not_fit() {
    for (types, mentions) in [
        (json!(["chunked_attention", "full_attention"]), ["layer_types", "chunked_attention"]),
        (json!(["full_attention"]), ["layer_types", "num_hidden_layers is 2"]),
        (json!(["sliding_attention", "full_attention"]), ["layer_types", "use_sliding_window"]),
    ] {
        refused(&with("qwen3-f32", json!({ "layer_types": types })), &mentions);
    }
    let types = json!(["full_attention", "sliding_attention"]);
    let window = json!({"layer_types": types, "sliding_window": 8});
    refused(&with("llama-f32", window), &["layer_types", "Llama"]);
    for window in [json!(0), json!(-4)] {
        let fields = json!({"use_sliding_window": true, "sliding_window": window});
        refused(&with("qwen3-f32", fields), &["sliding_window", "above 0"]);
    }
}

#[test]
fn positions_that_contradict_themselves() {
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16});
    let mut other = yarn.clone();
    other["type"] = json!("linear");
    let nested = |theta: f64| json!({"rope_type": "default", "rope_theta": theta});
    for (fields, mentions) in [
        (json!({"rope_parameters": nested(5e5)}), ["rope_theta", "different places"]),
        (json!({"rope_scaling": other}), ["rope_scaling.rope_type", "contradict"]),
        (json!({"rope_scaling": yarn, "rope_parameters": nested(1e6)}), ["rope_scaling", "contradict"]),
        (
            json!({"rope_scaling": yarn, "original_max_position_embeddings": 32}),
            ["rope_scaling.original_max_position_embeddings", "at the top"],
        ),
        (json!({"partial_rotary_factor": 0.5}), ["partial_rotary_factor", "in part"]),
        (
            json!({"rope_parameters": {"full_attention": nested(1e6), "sliding_attention": nested(1e4)}}),
            ["rope_parameters.full_attention", "type of layers"],
        ),
    ] {
        let error = refused(&with("qwen3-f32", fields), &mentions);
        assert!(matches!(error, CheckpointError::InvalidField { .. }), "{error:?}");
    }
    let mut unknown = yarn;
    unknown["long_mscale"] = json!(1.2);
    refused(
        &with("qwen3-f32", json!({ "rope_scaling": unknown })),
        &["rope_scaling.long_mscale", "not known"],
    );
}

#[test]
fn positions_of_encoders_and_layer_types_that_are_not_computed() {
    let linear = |factor: f64| json!({"rope_type": "linear", "factor": factor, "rope_theta": 1000.0});
    let old = json!({"type": "linear", "factor": 2.0, "rope_theta": 1000.0});
    for (case, field, value, mentions) in [
        ("modernbert-f32", "rope_scaling", old.clone(), ["rope_scaling.rope_type", "is missing"]),
        ("modernbert-f32", "rope_parameters", linear(2.0), ["rope_parameters.", "no type of layers"]),
        ("gemma3-causal-defaults", "rope_scaling", old.clone(), ["rope_scaling.rope_type", "is missing"]),
        ("nomic-bert-bf16", "rope_scaling", linear(2.0), ["rope_scaling", "not known"]),
        ("bert-f32", "rope_parameters", linear(2.0), ["rope_parameters", "not known"]),
        ("nomic-bert-bf16", "rope_parameters", linear(2.0), ["rope_parameters.rope_type", "stretches"]),
        ("nomic-bert-bf16", "rope_parameters", old, ["rope_parameters.rope_type", "stretches"]),
        ("gemma3-causal-layer-types", "rope_scaling", linear(2.0), ["rope_scaling", "contradict"]),
        ("nomic-bert-own-config", "max_position_embeddings", json!(256), ["n_positions", "is 256"]),
        ("nomic-bert-own-config", "layer_norm_eps", json!(1e-5), ["layer_norm_epsilon", "layer_norm_eps is"]),
        ("nomic-bert-own-config", "rope_theta", json!(500.0), ["rotary_emb_base", "rope_theta is 500"]),
        (
            "t5-f32",
            "relative_attention_num_buckets",
            json!(64),
            ["relative_attention_num_buckets", "only `32`"],
        ),
        ("t5-f32", "relative_attention_max_distance", json!(256), ["max_distance", "only `128`"]),
        ("t5-f32", "feed_forward_proj", json!("gated-sine"), ["feed_forward_proj", "`gated-sine`"]),
        ("t5-f32", "hidden_size", json!(32), ["d_model", "is 64"]),
        ("gte-new-config", "rope_theta", json!(null), ["rope_theta", "needs the field"]),
        (
            "gte-new-config",
            "rope_scaling",
            json!({"type": "ntk", "factor": 0.5}),
            ["rope_scaling.factor", "0.5"],
        ),
        (
            "gte-new-config",
            "rope_scaling",
            json!({"type": "ntk", "factor": 8, "mixed_b": 0.6}),
            ["mixed_b", "ntk"],
        ),
        ("gte-new-config", "rope_scaling", json!({"type": "ntc", "factor": 8}), ["rope_scaling", "`ntc`"]),
        ("gte-new-config", "logn_attention_scale", json!(true), ["logn_attention_scale", "only `false`"]),
        (
            "gte-new-config",
            "position_embedding_type",
            json!("absolute"),
            ["position_embedding_type", "only `rope`"],
        ),
        ("gte-new-config", "layer_norm_type", json!("rms_norm"), ["layer_norm_type", "only `layer_norm`"]),
        ("gte-new-config", "pack_qkv", json!(false), ["pack_qkv", "only `true`"]),
        ("jina-v3-bf16", "rope_scaling", json!({"type": "ntk", "factor": 8}), ["rope_scaling", "`ntk`"]),
    ] {
        refused(&with(&format!("families/{case}"), json!({ field: value })), &mentions);
    }
    // Its own code and transformers take different ones then.
    let scratch = Scratch::of("families/eurobert");
    scratch.unset("config.json", &["rope_theta"]);
    refused(&scratch, &["config.json", "needs the field `rope_theta`"]);
}

#[test]
fn texts_longer_than_long_factors_allow() {
    let scratch = Scratch::of("qwen3-rope-longrope");
    scratch.edit_json("config.json", |config| {
        config["rope_scaling"]["original_max_position_embeddings"] = json!(16);
    });
    refused(&scratch, &["rope_scaling.long_factor", "--max-tokens"]);
}
