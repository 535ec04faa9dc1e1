//! What mlx-lm or transformers loads is loaded, and gives the vectors that the golden files have.
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use std::fs;

use mlx_embed::{EmbedOptions, Embedder, LoadOptions};
use mlx_embed_tests::compare::max_abs;
use mlx_embed_tests::golden::{self, Golden};
use mlx_embed_tests::scratch::Scratch;
use serde_json::{Map, Value, json};

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The checkpoint gives the reference's vectors of `case`.
fn gives(case: &str, scratch: &Scratch) -> Embedder {
    gives_with(golden::load_options(), case, scratch)
}

/// The same of a model that has its own limit of tokens.
fn family_gives(case: &str, scratch: &Scratch) {
    gives_with(LoadOptions { max_tokens: None, ..golden::load_options() }, case, scratch);
}

fn gives_with(options: LoadOptions, case: &str, scratch: &Scratch) -> Embedder {
    let embedder = Embedder::load_with(scratch.path(), options).unwrap();
    let golden = Golden::read(case);
    for (index, text) in golden.texts.iter().enumerate() {
        let vector = embedder
            .embed_token_ids(vec![text.ids.clone()], &EmbedOptions::default())
            .unwrap()
            .remove(0)
            .vector;
        let off = max_abs(&vector, &golden.embedding(index));
        assert!(off < 1e-4, "{case}, text {index}: off by {off}");
    }
    embedder
}

fn with(case: &str, edit: impl FnOnce(&mut Map<String, Value>)) -> Scratch {
    let scratch = Scratch::of(case);
    scratch.edit_json("config.json", edit);
    scratch
}

#[test]
fn an_index_of_other_weights() {
    let scratch = Scratch::of("qwen3-f32");
    let index = json!({"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}});
    scratch.write(INDEX, index.to_string());
    gives("qwen3-f32", &scratch);
    // Also where the weights have another name.
    fs::rename(scratch.file(WEIGHTS), scratch.file("model-00001-of-00001.safetensors")).unwrap();
    gives("qwen3-f32", &scratch);
}

#[test]
fn keys_that_nobody_computes_with() {
    let scratch = with("families/bert-f32", |config| {
        // What TensorFlow's pooler was like, in the configs of LaBSE and of many Chinese models.
        let pooler = json!({"directionality": "bidi", "pooler_fc_size": 768, "pooler_num_attention_heads": 12,
            "pooler_num_fc_layers": 3, "pooler_size_per_head": 128, "pooler_type": "first_token_transform"});
        config.extend(pooler.as_object().unwrap().clone());
    });
    family_gives("families/bert-f32", &scratch);
    // As transformers 5 saves it, which has the other name for what pools a classifier's states.
    let scratch = with("families/eurobert", |config| {
        config.remove("clf_pooling");
        config.insert("classifier_pooling".into(), json!("late"));
    });
    family_gives("families/eurobert", &scratch);
}

#[test]
fn null_is_false() {
    let case = "families/llama-is-causal-false";
    family_gives(case, &with(case, |config| config["is_causal"] = Value::Null));
}

#[test]
fn activations_by_the_shorter_of_their_names() {
    let case = "families/modules-dense-activations";
    let scratch = Scratch::of(case);
    for (folder, activation) in [("2_Dense", "torch.nn.GELU"), ("3_Dense", "torch.nn.ReLU")] {
        scratch.edit_json(&format!("{folder}/config.json"), |config| {
            config["activation_function"] = json!(activation);
        });
    }
    family_gives(case, &scratch);
}

#[test]
fn the_same_weights_in_another_precision_beside() {
    let scratch = Scratch::of("qwen3-f32");
    let other = golden::directory("qwen3-f16").join(WEIGHTS);
    fs::copy(&other, scratch.file("model.fp16.safetensors")).unwrap();
    gives("qwen3-f32", &scratch);
    fs::copy(&other, scratch.file("model-fp16.safetensors")).unwrap();
    gives("qwen3-f32", &scratch);

    let sharded = Scratch::of("qwen3-sharded-bf16");
    fs::remove_file(sharded.file(INDEX)).unwrap();
    fs::copy(&other, sharded.file("model.fp16-00001-of-00001.safetensors")).unwrap();
    gives("qwen3-sharded-bf16", &sharded);
}

#[test]
fn a_quantisation_map_with_layers_missing() {
    let case = "qwen3-mixed-bits";
    let scratch = with(case, |config| {
        for name in ["quantization", "quantization_config"] {
            if let Some(Value::Object(entry)) = config.get_mut(name) {
                entry.retain(|_, value| !value.is_object());
            }
        }
    });
    gives(case, &scratch);
    // Nor do the defaults count where no matrix is stored so.
    let case = "qwen3-affine-4bit-g64";
    gives(
        case,
        &with(case, |config| {
            config.insert("quantization".into(), json!({"group_size": 32, "bits": 8}));
        }),
    );
}

#[test]
fn names_of_a_packing_that_is_mlx_s() {
    let case = "qwen3-affine-4bit-g64";
    for method in ["mlx", "affine", "MLX-LM"] {
        let scratch = with(case, |config| {
            config.remove("quantization");
            let entry = json!({"group_size": 64, "bits": 4, "quant_method": method});
            config.insert("quantization_config".into(), entry);
        });
        gives(case, &scratch);
    }
    let case = "qwen3-mxfp4";
    gives(
        case,
        &with(case, |config| {
            config.remove("quantization");
            config.insert("quantization_config".into(), json!({"quant_method": "mxfp4"}));
        }),
    );
}

#[test]
fn sizes_that_follow_from_others() {
    for value in [None, Some(Value::Null)] {
        let set = |config: &mut Map<String, Value>, field: &str| match &value {
            Some(value) => config.insert(field.into(), value.clone()),
            None => config.remove(field),
        };
        let wide = gives(
            "qwen3-head-dim-128-bf16",
            &with("qwen3-head-dim-128-bf16", |config| {
                set(config, "head_dim");
            }),
        );
        assert_eq!(wide.info().config.head_dim, 128);
        gives(
            "llama-defaults-bf16",
            &with("llama-defaults-bf16", |config| {
                set(config, "head_dim");
                set(config, "num_key_value_heads");
            }),
        );
        gives(
            "qwen2-f32",
            &with("qwen2-f32", |config| {
                set(config, "head_dim");
            }),
        );
    }
}

#[test]
fn windows_that_no_layer_has() {
    for fields in [
        json!({"use_sliding_window": false, "sliding_window": 2, "max_window_layers": 0}),
        json!({"use_sliding_window": true, "sliding_window": 2, "max_window_layers": 2}),
        json!({"use_sliding_window": true, "sliding_window": 2}),
        json!({"use_sliding_window": true, "sliding_window": null, "max_window_layers": 0}),
        json!({"layer_types": ["full_attention", "full_attention"], "use_sliding_window": true, "sliding_window": 2}),
    ] {
        let scratch = with("qwen2-f32", |config| config.extend(fields.as_object().unwrap().clone()));
        let embedder = gives("qwen2-f32", &scratch);
        assert_eq!(embedder.info().config.layer_windows, [None, None]);
        assert_eq!(embedder.info().max_tokens, 1024, "a window cuts no text");
    }
    let scratch = with("llama-f32", |config| {
        config.insert("sliding_window".into(), json!(2));
    });
    gives("llama-f32", &scratch);
}

#[test]
fn the_same_said_twice() {
    let scaling = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16});
    let mut twice = scaling.clone();
    twice["type"] = json!("yarn");
    twice["rope_theta"] = json!(1e6);
    let scratch = with("qwen3-rope-yarn", |config| {
        config.insert("rope_parameters".into(), twice);
        config.insert("original_max_position_embeddings".into(), json!(16));
        config.insert("partial_rotary_factor".into(), json!(1.0));
        config.insert("architectures".into(), json!("Qwen3Model"));
    });
    gives("qwen3-rope-yarn", &scratch);
}

/// As the configuration of google's EmbeddingGemma 2 has them, and as transformers reads an older or shorter one.
#[test]
fn layers_of_embedding_gemma_2_by_other_names() {
    let case = "families/embedding-gemma2-f32";
    let text = |edit: fn(&mut Map<String, Value>)| {
        with(case, |config| edit(config["text_config"].as_object_mut().unwrap()))
    };
    gives(
        case,
        &text(|text| {
            text.insert("per_layer_config".into(), json!({"01": {"head_dim": 32, "num_key_value_heads": 1}}));
        }),
    );
    gives(
        case,
        &text(|text| {
            text.remove("per_layer_config");
            text.extend([
                ("global_head_dim".into(), json!(32)),
                ("num_global_key_value_heads".into(), json!(1)),
            ]);
        }),
    );
    // The last layer sees all, whatever is said of it.
    gives(
        case,
        &text(|text| {
            text.insert("layer_types".into(), json!(["sliding_attention", "sliding_attention"]));
        }),
    );
    gives(
        case,
        &text(|text| {
            for field in
                ["model_type", "layer_types", "num_key_value_heads", "hidden_activation", "rms_norm_eps"]
            {
                text.remove(field);
            }
            text.insert("sliding_window_pattern".into(), json!(2));
        }),
    );
}

#[test]
fn a_ministral_3_with_all_layers_of_one_type() {
    let sliding = json!(["sliding_attention", "sliding_attention"]);
    let full = json!(["full_attention", "full_attention"]);
    for (case, types) in [
        ("families/ministral3-is-causal-false-window", sliding),
        ("families/ministral3-is-causal-false", full),
    ] {
        gives(
            case,
            &with(case, |config| {
                config.insert("layer_types".into(), types);
                config["rope_parameters"]["max_position_embeddings"] = json!(128);
            }),
        );
    }
}
