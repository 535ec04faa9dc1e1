//! Folders with an adapter alone: the vectors of sentence-transformers with peft (`tests/golden/adapters.py`), and what is
//! refused.
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use std::fs;

use mlx_embed::{Checkpoint, Embedder, Error, Precision};
use mlx_embed_tests::compare::{cosine, max_abs, says};
use mlx_embed_tests::golden;
use mlx_embed_tests::scratch::Scratch;
use safetensors::Dtype;
use serde::Deserialize;
use serde_json::{Value, json};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const BASE: &str = "base_model_name_or_path";
const BERT: &str = "adapters/bert";

/// What sentence-transformers computes.
#[derive(Deserialize)]
struct Reference {
    base: String,
    texts: Vec<String>,
    vectors: Vec<Vec<f32>>,
}

impl Reference {
    fn read(case: &str) -> Self {
        let path = golden::directory(case).join("vectors.json");
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    #[track_caller]
    fn assert_vectors(&self, embedder: &Embedder, dtype: &str, precision: Precision) {
        // As for golden vectors.
        let (least, most) = match (golden::on_gpu(), precision, dtype) {
            (false, Precision::Exact, _) => (0.99999, 1e-5),
            (false, ..) => (0.999, 2.5e-2),
            (true, _, "f32") => (0.99999, 4e-3),
            (true, ..) => (0.9995, 2e-2),
        };
        for (embedding, expected) in embedder.embed(&self.texts).unwrap().iter().zip(&self.vectors) {
            let cosine = cosine(&embedding.vector, expected);
            let length = expected.iter().map(|x| x * x).sum::<f32>().sqrt();
            let error = max_abs(&embedding.vector, expected) / length;
            assert!(cosine > least && error < most, "{}: {cosine}, {error}", self.base);
        }
    }
}

/// An adapter with its model's folder named.
fn of(case: &str) -> Scratch {
    let scratch = Scratch::of(case);
    let base = fs::canonicalize(golden::directory(&Reference::read(case).base)).unwrap();
    scratch.set(CONFIG, json!({ BASE: base }));
    scratch
}

#[test]
fn vectors_are_those_of_peft() {
    for (case, dtype) in [
        (BERT, "f32"),
        ("adapters/bert-patterns-stabilised", "f32"),
        ("adapters/bert-embeddings-norms", "f32"),
        ("adapters/qwen3-bf16", "bf16"),
        ("adapters/modernbert-bare", "f32"),
    ] {
        let (adapter, reference) = (of(case), Reference::read(case));
        for options in golden::ways(&golden::own_limit(), &mlx_embed::kernel_families()) {
            let precision = options.precision;
            reference.assert_vectors(
                &Embedder::load_with(adapter.path(), options).unwrap(),
                dtype,
                precision,
            );
        }
    }
}

#[test]
fn an_adapter_in_a_folder_of_its_model() {
    let case = "adapters/modernbert-bare";
    let reference = Reference::read(case);
    let model = Scratch::of(&reference.base);
    fs::create_dir(model.file("retrieval")).unwrap();
    for name in [CONFIG, WEIGHTS] {
        fs::copy(golden::directory(case).join(name), model.file("retrieval").join(name)).unwrap();
    }
    // As on a hub, whose names are no folders here.
    model.set("retrieval/adapter_config.json", json!({ BASE: "someone/a-model" }));
    let embedder = Embedder::load_with(model.file("retrieval"), golden::own_limit()).unwrap();
    reference.assert_vectors(&embedder, "f32", Precision::Exact);
    // Another model than the one without it, by its hash.
    let hash = |path| Checkpoint::open(path).unwrap().sha256().unwrap();
    let (before, alone) = (hash(model.file("retrieval")), hash(model.path().to_owned()));
    assert_ne!(before, alone);
    model.set("retrieval/adapter_config.json", json!({"lora_alpha": 5}));
    assert_ne!(hash(model.file("retrieval")), before);
}

#[track_caller]
fn refused(scratch: &Scratch, parts: &[&str]) {
    match Embedder::load_with(scratch.path(), golden::own_limit()).map(drop) {
        Err(Error::Checkpoint(error)) => says(&error, parts),
        other => panic!("no error of the checkpoint's: {other:?}"),
    }
}

#[test]
fn other_kinds_of_adapters_are_refused() {
    for (field, value) in [
        ("peft_type", json!("IA3")),
        ("use_dora", json!(true)),
        ("bias", json!("all")),
        ("fan_in_fan_out", json!(true)),
        ("init_lora_weights", json!("pissa")),
        ("alpha_pattern", json!({"query": 2})),
        ("trainable_token_indices", json!([1])),
        ("a_field_of_tomorrow", json!(0.5)),
        ("lora_alpha", Value::Null),
        ("lora_alpha", json!("eight")),
    ] {
        let scratch = of(BERT);
        scratch.set(CONFIG, json!({ field: value }));
        refused(&scratch, &[CONFIG, field]);
    }
}

#[test]
fn an_adapter_without_its_model_is_refused() {
    let scratch = of(BERT);
    for base in [json!("someone/a-model"), Value::Null, json!("")] {
        scratch.set(CONFIG, json!({ BASE: base }));
        refused(&scratch, &[CONFIG, BASE, "mlx-embed pull"]);
    }
    let scratch = of(BERT);
    scratch.remove(WEIGHTS);
    refused(&scratch, &[WEIGHTS]);
}

#[test]
fn an_adapter_of_another_model_is_refused() {
    const A: &str = "base_model.model.encoder.layer.0.attention.self.query.lora_A.weight";
    const B: &str = "base_model.model.encoder.layer.0.attention.self.query.lora_B.weight";
    let scratch = of(BERT);
    scratch.remove_tensor(WEIGHTS, B);
    refused(&scratch, &[WEIGHTS, "query", "one half"]);
    let scratch = of(BERT);
    scratch.edit_tensors(WEIGHTS, |tensors| {
        let (_, shape, _) = tensors.get_mut(A).unwrap();
        shape.reverse();
    });
    refused(&scratch, &[WEIGHTS, A, "don't fit [64, 64]"]);
    let scratch = of(BERT);
    scratch.edit_tensors(WEIGHTS, |tensors| {
        for name in [A, B] {
            let tensor = tensors.remove(name).unwrap();
            tensors.insert(name.replace("layer.0", "layer.7"), tensor);
        }
    });
    refused(&scratch, &[WEIGHTS, "layer.7", "which the model doesn't have"]);
    let scratch = of(BERT);
    scratch.edit_tensors(WEIGHTS, |tensors| tensors.get_mut(A).unwrap().0 = Dtype::I32);
    refused(&scratch, &[WEIGHTS, A, "f32, f16 or bf16"]);
    let scratch = of(BERT);
    scratch.add_tensor(WEIGHTS, &A.replace("lora_A.weight", "lora_magnitude_vector"), &[64]);
    refused(&scratch, &[WEIGHTS, "lora_magnitude_vector"]);
    // A tensor that was trained as a whole, of another shape than the model's.
    let scratch = of("adapters/bert-embeddings-norms");
    scratch.add_tensor(WEIGHTS, "base_model.model.embeddings.LayerNorm.weight", &[3]);
    refused(&scratch, &[WEIGHTS, "LayerNorm.weight", "[3]"]);
}

#[test]
fn an_adapter_of_a_quantised_model_is_refused() {
    let scratch = of(BERT);
    let base = fs::canonicalize(golden::directory("families/bert-affine-8bit-g64")).unwrap();
    scratch.set(CONFIG, json!({ BASE: base }));
    refused(&scratch, &[WEIGHTS, "lora_A", "quantised"]);
}
