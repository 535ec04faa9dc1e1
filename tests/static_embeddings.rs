//! Static embeddings: vectors as sentence-transformers and model2vec give them (`tests/golden/static_embeddings.py`), on this
//! crate's kernels and on MLX's operations, and what can't be computed is refused.
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use std::fs;
use std::path::{Path, PathBuf};

use mlx_embed::{Checkpoint, EmbedOptions, Embedder, LoadOptions, Prompt};
use mlx_embed_tests::compare::{max_abs, says};
use mlx_embed_tests::golden;
use serde_json::{Value, json};

/// Sums of 900 numbers in f32, in another order.
const TOLERANCE: f32 = 2e-5;

fn cases() -> Vec<PathBuf> {
    let mut cases: Vec<PathBuf> =
        fs::read_dir("tests/golden/static-embeddings").unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() >= 9, "{cases:?}");
    cases
}

fn options() -> LoadOptions {
    LoadOptions { max_tokens: None, ..golden::load_options() }
}

/// Every text alone, then all in one call, an empty one among them.
fn check(case: &Path, options: LoadOptions) {
    let expected: Value = serde_json::from_slice(&fs::read(case.join("expected.json")).unwrap()).unwrap();
    let embedder = Embedder::load_with(case, options).unwrap();
    for entry in expected["texts"].as_array().unwrap() {
        let prompt =
            entry["prompt_name"].as_str().map_or(Prompt::None, |name| Prompt::Named(name.to_owned()));
        let embed_options = EmbedOptions { prompt, ..EmbedOptions::default() };
        let text = entry["text"].as_str().unwrap();
        let vector: Vec<f32> = serde_json::from_value(entry["vector"].clone()).unwrap();
        let ids = entry["ids"].as_array().unwrap();
        let found = embedder.embed_with(&[text, "the cat", text], &embed_options).unwrap();
        for found in [&found[0], &found[2]] {
            let largest = vector.iter().fold(1.0_f32, |largest, x| largest.max(x.abs()));
            let off = max_abs(&found.vector, &vector);
            assert!(off <= TOLERANCE * largest, "{}: {text:.40?}: {off}", case.display());
        }
        // The tokenizer's own limit is behind the reference's ids.
        if !case.ends_with("st-whole") || ids.len() <= 16 {
            assert_eq!(found[0].tokens, ids.len(), "{}: {text:.40?}", case.display());
        }
    }
}

#[test]
fn vectors_are_those_of_the_references() {
    cases().iter().for_each(|case| check(case, options()));
}

#[test]
fn vectors_are_the_same_on_mlx_operations() {
    for case in cases() {
        check(&case, LoadOptions { kernels: Some("mlx".into()), ..options() });
    }
}

/// A copy of a case.
fn copy(case: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in fs::read_dir(Path::new("tests/golden/static-embeddings").join(case)).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
    }
    dir
}

#[test]
fn what_can_not_be_computed_is_refused() {
    let refused = |name: &str, value: Value, parts: &[&str]| {
        let dir = copy("model2vec-f32");
        fs::write(dir.path().join(name), value.to_string()).unwrap();
        let error = Embedder::load_with(dir.path(), options()).unwrap_err().to_string();
        says(&error, parts);
    };
    let config = |more: Value| {
        let mut config = json!({"model_type": "model2vec", "normalize": true});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    };
    let of = "sentence_transformers.models";
    let modules = |classes: &[&str]| -> Value {
        classes.iter().map(|class| json!({"path": "", "type": format!("{of}.{class}")})).collect()
    };
    refused(
        "config.json",
        config(json!({"normalize": false})),
        &["config.json", "`normalize`", "modules.json"],
    );
    refused("config.json", config(json!({"max_length": 0})), &["config.json", "`max_length`"]);
    refused("config.json", config(json!({"embedding_scale": 2})), &["config.json", "`embedding_scale`"]);
    refused("config.json", json!({"normalize": true}), &["config.json", "`model_type`"]);
    refused("modules.json", modules(&["StaticEmbedding", "Pooling"]), &["modules.json", "StaticEmbedding"]);
    refused("modules.json", modules(&["Transformer", "Pooling"]), &["modules.json", "StaticEmbedding"]);

    let dir = copy("model2vec-shared-rows");
    let file = dir.path().join("model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    // A number of the mapping: far behind the table's end.
    let header = 8 + usize::try_from(u64::from_le_bytes(*bytes.first_chunk().unwrap())).unwrap();
    let tensors: Value = serde_json::from_slice(&bytes[8..header]).unwrap();
    let start = header + usize::try_from(tensors["mapping"]["data_offsets"][0].as_u64().unwrap()).unwrap();
    bytes[start + 2] = 1;
    fs::write(&file, bytes).unwrap();
    let error = Embedder::load_with(dir.path(), options()).unwrap_err().to_string();
    says(&error, &["model.safetensors", "mapping", "token id 0", "20 rows"]);
}

#[test]
fn files_say_what_a_static_model_is() {
    let of =
        |case: &str| Checkpoint::open_any(Path::new("tests/golden/static-embeddings").join(case)).unwrap();
    let in_folder = of("st-in-a-folder");
    assert_eq!(in_folder.config().layers, 0);
    assert_eq!(in_folder.config().architecture.to_string(), "static_embedding");
    let embedder = Embedder::load_with(of("st-whole").dir(), options()).unwrap();
    assert_eq!((embedder.info().max_tokens, embedder.dimensions()), (16, 24));
    assert!(embedder.info().max_tokens_source.contains("tokenizer.json"), "{:?}", embedder.info());
    let embedder = Embedder::load_with(of("model2vec-shared-rows").dir(), options()).unwrap();
    assert_eq!((embedder.info().max_tokens, embedder.info().normalize), (20, true));
    assert!(embedder.info().max_tokens_source.contains("max_length"), "{:?}", embedder.info());
}
