//! What mlx-lm or transformers loads is loaded, and gives the vectors that the golden files have.
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use std::{fs, mem};

use mlx_embed::{EmbedOptions, Embedder, LoadOptions};
use mlx_embed_tests::compare::max_abs;
use mlx_embed_tests::golden::{self, Golden};
use mlx_embed_tests::scratch::Scratch;
use serde_json::{Value, json};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The checkpoint gives the reference's vectors of `case`.
fn gives(case: &str, scratch: &Scratch) -> Embedder {
    gives_with(golden::load_options(), case, scratch)
}

/// The same of a model that has its own limit of tokens.
fn family_gives(case: &str, scratch: &Scratch) {
    gives_with(golden::own_limit(), case, scratch);
}

fn gives_with(options: LoadOptions, case: &str, scratch: &Scratch) -> Embedder {
    let embedder =
        Embedder::load_with(scratch.path(), options).unwrap_or_else(|error| panic!("{case}: {error}"));
    let golden = Golden::read(case);
    for (index, text) in golden.texts.iter().enumerate() {
        let ids = vec![text.ids.clone()];
        let vector = embedder.embed_token_ids(ids, &EmbedOptions::default()).unwrap().remove(0).vector;
        let off = max_abs(&vector, &golden.embedding(index));
        assert!(off < 1e-4, "{case}, text {index}: off by {off}");
    }
    embedder
}

/// So does a copy of `case` with these fields in config.json.
fn gives_by(case: &str, fields: Value) -> Embedder {
    gives(case, &Scratch::with(case, CONFIG, fields))
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
    // What TensorFlow's pooler was like, in the configs of LaBSE and of many Chinese models.
    let pooler = json!({"directionality": "bidi", "pooler_fc_size": 768, "pooler_num_attention_heads": 12,
        "pooler_num_fc_layers": 3, "pooler_size_per_head": 128, "pooler_type": "first_token_transform"});
    family_gives("families/bert-f32", &Scratch::with("families/bert-f32", CONFIG, pooler));
    // Which transformers 5 writes for every T5.
    let decoder = json!({"scale_decoder_outputs": true});
    family_gives("families/t5-f32", &Scratch::with("families/t5-f32", CONFIG, decoder));
    // As transformers 5 saves it, which has the other name for what pools a classifier's states.
    let scratch = Scratch::with("families/eurobert", CONFIG, json!({"classifier_pooling": "late"}));
    scratch.unset(CONFIG, &["clf_pooling"]);
    family_gives("families/eurobert", &scratch);
}

#[test]
fn a_nomic_bert_by_the_names_of_transformers() {
    const NAMES: [(&str, &str); 8] = [
        ("emb_ln", "embeddings.LayerNorm"),
        ("encoder.layers", "layers"),
        ("attn.out_proj", "self_attn.o_proj"),
        ("mlp.fc11", "mlp.up_proj"),
        ("mlp.fc12", "mlp.gate_proj"),
        ("mlp.fc2", "mlp.down_proj"),
        ("norm1", "post_attention_layernorm"),
        ("norm2", "post_mlp_layernorm"),
    ];
    let case = "families/nomic-bert-bf16";
    let scratch = Scratch::of(case);
    scratch.edit_tensors(WEIGHTS, |tensors| {
        for (mut name, (dtype, mut shape, bytes)) in mem::take(tensors) {
            for (own, theirs) in NAMES {
                name = name.replace(own, theirs);
            }
            if !name.contains("attn.Wqkv") {
                tensors.insert(name, (dtype, shape, bytes));
                continue;
            }
            shape[0] /= 3;
            for (part, bytes) in ["q_proj", "k_proj", "v_proj"].iter().zip(bytes.chunks(bytes.len() / 3)) {
                let name = name.replace("attn.Wqkv", &format!("self_attn.{part}"));
                tensors.insert(name, (dtype, shape.clone(), bytes.to_vec()));
            }
        }
    });
    family_gives(case, &scratch);
}

#[test]
fn a_t5_whose_encoder_has_a_table_of_its_own() {
    let case = "families/t5-f32";
    let scratch = Scratch::of(case);
    scratch.edit_tensors(WEIGHTS, |tensors| {
        let whole = tensors.get_mut("shared.weight").unwrap();
        let own = whole.clone();
        whole.2.fill(0);
        tensors.insert("encoder.embed_tokens.weight".to_owned(), own);
    });
    family_gives(case, &scratch);
}

#[test]
fn activations_by_the_shorter_of_their_names() {
    let case = "families/modules-dense-activations";
    let scratch = Scratch::of(case);
    scratch.set("2_Dense/config.json", json!({"activation_function": "torch.nn.GELU"}));
    scratch.set("3_Dense/config.json", json!({"activation_function": "torch.nn.ReLU"}));
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
    sharded.remove(INDEX);
    fs::copy(&other, sharded.file("model.fp16-00001-of-00001.safetensors")).unwrap();
    gives("qwen3-sharded-bf16", &sharded);
}

#[test]
fn a_quantisation_map_with_layers_missing() {
    let case = "qwen3-mixed-bits";
    let scratch = Scratch::of(case);
    scratch.edit_json(CONFIG, |config| {
        for name in ["quantization", "quantization_config"] {
            if let Some(Value::Object(entry)) = config.get_mut(name) {
                entry.retain(|_, value| !value.is_object());
            }
        }
    });
    gives(case, &scratch);
    // Nor do the defaults count where no matrix is stored so.
    gives_by("qwen3-affine-4bit-g64", json!({"quantization": {"group_size": 32, "bits": 8}}));
}

#[test]
fn names_of_a_packing_that_is_mlx_s() {
    let affine = |method: &str| json!({"group_size": 64, "bits": 4, "quant_method": method});
    for (case, entry) in [
        ("qwen3-affine-4bit-g64", affine("mlx")),
        ("qwen3-affine-4bit-g64", affine("affine")),
        ("qwen3-affine-4bit-g64", affine("MLX-LM")),
        ("qwen3-mxfp4", json!({"quant_method": "mxfp4"})),
    ] {
        let scratch = Scratch::with(case, CONFIG, json!({"quantization_config": entry}));
        scratch.unset(CONFIG, &["quantization"]);
        gives(case, &scratch);
    }
}

#[test]
fn sizes_that_follow_from_others() {
    for value in [None, Some(Value::Null)] {
        let without = |case: &str, fields: &[&str]| {
            let scratch = Scratch::of(case);
            scratch.edit_json(CONFIG, |config| {
                for &field in fields {
                    match &value {
                        Some(value) => config.insert(field.into(), value.clone()),
                        None => config.remove(field),
                    };
                }
            });
            gives(case, &scratch)
        };
        let wide = without("qwen3-head-dim-128-bf16", &["head_dim"]);
        assert_eq!(wide.info().config.head_dim, 128);
        without("llama-defaults-bf16", &["head_dim", "num_key_value_heads"]);
        without("qwen2-f32", &["head_dim"]);
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
        let embedder = gives_by("qwen2-f32", fields);
        assert_eq!(embedder.info().config.layer_windows, [None, None]);
        assert_eq!(embedder.info().max_tokens, 1024, "a window cuts no text");
    }
    gives_by("llama-f32", json!({"sliding_window": 2}));
}

#[test]
fn the_same_said_twice() {
    let twice = json!({"rope_type": "yarn", "type": "yarn", "rope_theta": 1e6, "factor": 4.0,
        "original_max_position_embeddings": 16});
    let fields = json!({"rope_parameters": twice, "original_max_position_embeddings": 16,
        "partial_rotary_factor": 1.0, "architectures": "Qwen3Model"});
    gives_by("qwen3-rope-yarn", fields);
}

/// As the configuration of google's EmbeddingGemma 2 has them, and as transformers reads an older or shorter one.
#[test]
fn layers_of_embedding_gemma_2_by_other_names() {
    let case = "families/embedding-gemma2-f32";
    let text = |without: &[&str], fields: Value| {
        let scratch = Scratch::of(case);
        scratch.edit_json(CONFIG, |config| {
            let text = config["text_config"].as_object_mut().unwrap();
            without.iter().for_each(|field| drop(text.remove(*field)));
            text.extend(fields.as_object().unwrap().clone());
        });
        gives(case, &scratch);
    };
    text(&[], json!({"per_layer_config": {"01": {"head_dim": 32, "num_key_value_heads": 1}}}));
    text(&["per_layer_config"], json!({"global_head_dim": 32, "num_global_key_value_heads": 1}));
    // The last layer sees all, whatever is said of it.
    text(&[], json!({"layer_types": ["sliding_attention", "sliding_attention"]}));
    let defaults = ["model_type", "layer_types", "num_key_value_heads", "hidden_activation", "rms_norm_eps"];
    text(&defaults, json!({"sliding_window_pattern": 2}));
}

#[test]
fn a_ministral_3_with_all_layers_of_one_type() {
    for (case, kind) in [
        ("families/ministral3-is-causal-false-window", "sliding_attention"),
        ("families/ministral3-is-causal-false", "full_attention"),
    ] {
        let scratch = Scratch::with(case, CONFIG, json!({"layer_types": [kind, kind]}));
        scratch.edit_json(CONFIG, |config| {
            config["rope_parameters"]["max_position_embeddings"] = json!(128);
        });
        gives(case, &scratch);
    }
}
