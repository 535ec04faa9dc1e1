//! Sparse vectors equal the reference's (transformers on torch, in f32), on MLX's operations and every family of kernels,
//! and what is no sparse encoder is refused.
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use std::path::{Path, PathBuf};

use mlx_embed::verify::{Golden, GoldenText};
use mlx_embed::{EmbedOptions, Embedder, Info, LoadOptions, PoolingMode, SparseEmbedder, SparseVector};
use mlx_embed_tests::compare::says;
use mlx_embed_tests::golden::{self, own_limit};
use mlx_embed_tests::scratch::Scratch;
use serde_json::{Value, json};

const DENSE: [&str; 10] = [
    "splade-bert",
    "splade-bert-sum",
    "splade-bert-untied",
    "splade-bert-version-6",
    "splade-bert-without-modules",
    "splade-distilbert-log1p",
    "splade-gte",
    "splade-modernbert",
    "splade-mpnet",
    "splade-xlm-roberta",
];
const QUANTISED: &str = "splade-bert-affine-4bit-g64";

fn folder(case: &str) -> PathBuf {
    golden::directory(&format!("families/{case}"))
}

fn expected(case: &str) -> Golden {
    Golden::open(folder(case).join("golden.safetensors")).unwrap()
}

fn load(folder: impl AsRef<Path>) -> SparseEmbedder {
    SparseEmbedder::load_with(folder, own_limit()).unwrap()
}

/// Loading fails, and the message has these parts.
#[track_caller]
fn refused(folder: impl AsRef<Path>, parts: &[&str]) {
    says(SparseEmbedder::load_with(folder, own_limit()).unwrap_err(), parts);
}

fn ways() -> Vec<LoadOptions> {
    let families = if golden::on_gpu() { Vec::new() } else { mlx_embed::kernel_families() };
    golden::ways(&own_limit(), &families)
}

/// Most that a weight may be off, as a share of the text's largest: that of a hidden state in `tests/golden.rs`, since
/// `log(1 + x)` makes no difference larger.
fn tolerance(info: &Info) -> f32 {
    match (golden::on_gpu(), info.rounding.activations) {
        (true, _) => 6e-2,
        (_, None) => 1e-5,
        (_, Some(16)) => 2.5e-4,
        (_, Some(_)) => 6e-2,
    }
}

fn whole(vector: &SparseVector, vocabulary: usize) -> Vec<f32> {
    let mut all = vec![0.0; vocabulary];
    vector.weights.iter().for_each(|&(token, weight)| all[token as usize] = weight);
    all
}

#[test]
fn weights_are_the_references() {
    for case in DENSE.into_iter().chain([QUANTISED]) {
        let golden = expected(case);
        for options in ways() {
            let embedder = SparseEmbedder::load_with(folder(case), options).unwrap();
            let tolerance = tolerance(embedder.info());
            let what = format!("{case} on {}", embedder.info().kernels);
            let mut worst = 0.0_f32;
            for (index, GoldenText { text, ids, .. }) in golden.texts().iter().enumerate() {
                let weights = golden.token_weights(index).unwrap();
                let found_ids = embedder.token_ids(text, &EmbedOptions::default()).unwrap();
                assert_eq!(&found_ids, ids, "{what}: {text}");
                let found = embedder.embed(&[text]).unwrap().remove(0);
                assert!(found.weights.is_sorted_by(|a, b| a.0 < b.0), "{what}: {text}");
                assert!(found.weights.iter().all(|(_, weight)| *weight > 0.0), "{what}: {text}");
                let found = whole(&found, weights.len());
                // All are held to the same share of `log(1 + x)`.
                let once = |weights: &[f32]| -> Vec<f32> {
                    let twice = case.ends_with("log1p");
                    weights.iter().map(|weight| if twice { weight.exp_m1() } else { *weight }).collect()
                };
                let (found, weights) = (once(&found), &once(weights)[..]);
                let largest = weights.iter().copied().fold(0.0, f32::max);
                assert!(largest > 0.0, "{case}: {text}");
                for (token, (found, expected)) in found.iter().zip(weights).enumerate() {
                    let off = (found - expected).abs() / largest;
                    assert!(off <= tolerance, "{what}: {text}: token {token}: {found}, not {expected}");
                    worst = worst.max(off);
                }
            }
            println!("{what}: {worst:.1e} of {tolerance:.1e}");
        }
    }
}

#[test]
fn verification_passes_and_finds_a_head_that_is_off() {
    for case in DENSE.into_iter().chain([QUANTISED]) {
        for kernels in [mlx_embed::kernel_families()[0], "mlx"] {
            let options = LoadOptions { kernels: Some(kernels.into()), ..own_limit() };
            let embedder = SparseEmbedder::load_with(folder(case), options).unwrap();
            let golden = embedder.golden().unwrap().unwrap();
            let found = embedder.verify(Some(&golden)).unwrap();
            assert!(found.passed, "{case} on {kernels}: {}", found.failures.join("; "));
            assert!(found.against.unwrap().vectors.is_some(), "{case}");
        }
    }
    let golden = expected("splade-bert");
    let copy = Scratch::of("families/splade-bert");
    let dense = "cls.predictions.transform.dense.weight";
    copy.edit_tensor("model.safetensors", dense, |bytes| bytes[..1024].fill(0));
    let found = load(copy.path()).verify(Some(&golden)).unwrap();
    assert!(found.first_divergent_layer.is_none() && !found.passed, "{:?}", found.failures);
}

#[test]
fn a_texts_weights_have_the_same_bits_in_any_company() {
    for case in ["splade-bert", QUANTISED] {
        for options in ways().into_iter().filter(|options| options.kernels.as_deref() != Some("mlx")) {
            let embedder = SparseEmbedder::load_with(folder(case), options).unwrap();
            let golden = expected(case);
            let texts: Vec<&String> = golden.texts().iter().map(|text| &text.text).collect();
            let together = embedder.embed(&texts).unwrap();
            let streamed = embedder.embed_iter(&texts, &EmbedOptions::default());
            let streamed: Vec<_> = streamed.map(Result::unwrap).collect();
            for ((text, together), streamed) in texts.iter().zip(&together).zip(&streamed) {
                let alone = embedder.embed(&[text]).unwrap().remove(0);
                assert_eq!(alone.weights, together.weights, "{case}: {text}");
                assert_eq!(alone.weights, streamed.weights, "{case}: {text}");
            }
        }
    }
}

#[test]
fn the_largest_weights_stay_where_the_files_say_how_many() {
    const MOST: usize = 5;
    let settings = "config_sentence_transformers.json";
    let with =
        |most: usize| Scratch::with("families/splade-bert", settings, json!({"max_active_dims": most}));
    let embedder = load(with(MOST).path());
    let (golden, tolerance) = (expected("splade-bert"), tolerance(embedder.info()));
    for (index, GoldenText { text, .. }) in golden.texts().iter().enumerate() {
        let mut ranked: Vec<(u32, f32)> = (0..).zip(golden.token_weights(index).unwrap().to_vec()).collect();
        ranked.sort_by(|one, other| other.1.total_cmp(&one.1));
        let mut largest = ranked[..MOST].to_vec();
        largest.sort_by_key(|(token, _)| *token);
        let found = embedder.embed(&[text]).unwrap().remove(0).weights;
        let tokens = |weights: &[(u32, f32)]| weights.iter().map(|(token, _)| *token).collect::<Vec<_>>();
        assert_eq!(tokens(&found), tokens(&largest), "{text}");
        for ((token, found), (_, expected)) in found.iter().zip(&largest) {
            assert!((found - expected).abs() <= tolerance * ranked[0].1, "{text}: {token}: {found}");
        }
    }
    refused(with(0).path(), &[settings, "max_active_dims"]);
}

#[test]
fn without_modules_no_setting_beside_them_counts() {
    let case = "splade-bert-without-modules";
    let settings = "config_sentence_transformers.json";
    let copy = Scratch::of(&format!("families/{case}"));
    let all = json!({
        "model_type": "SparseEncoder", "prompts": {"query": "roses "}, "default_prompt_name": "query", "max_active_dims": 5,
    });
    copy.write(settings, all.to_string());
    copy.write("sentence_bert_config.json", json!({"max_seq_length": 4, "do_lower_case": true}).to_string());
    let (found, plain) = (load(copy.path()), load(folder(case)));
    for GoldenText { text, .. } in expected(case).texts() {
        let [found, plain] = [&found, &plain].map(|embedder| embedder.embed(&[text]).unwrap().remove(0));
        assert_eq!((found.tokens, found.weights), (plain.tokens, plain.weights), "{text}");
    }
    copy.set(settings, json!({"model_type": "SentenceTransformer"}));
    refused(copy.path(), &[settings, "`model_type`", "Embedder"]);
}

#[test]
fn what_is_no_sparse_encoder_is_refused_and_told_what_to_load_it_with() {
    let with = |case: &str, file: &str, fields: Value, parts: &[&str]| {
        refused(Scratch::with(&format!("families/{case}"), file, fields).path(), parts);
    };
    // A plain embedder, with modules.json and without.
    refused(folder("modules-layer-norm"), &["modules.json", "`type`", "Embedder"]);
    let (file, plain) = ("config.json", json!({"architectures": ["BertModel"]}));
    with("splade-bert-without-modules", file, plain, &[file, "`architectures`", "Embedder"]);
    // A transformer that makes no logits.
    let (file, states) = ("sentence_bert_config.json", json!({"transformer_task": "feature-extraction"}));
    with("splade-bert-version-6", file, states, &["modules.json", "MLMTransformer"]);
    // Other poolings.
    let file = "1_SpladePooling/config.json";
    for (field, other) in [("pooling_strategy", "mean"), ("activation_function", "exp")] {
        with("splade-bert", file, json!({ field: other }), &[file, field, other]);
    }
    // An encoder with another model for queries.
    let router = Scratch::of("families/splade-bert");
    router.write_modules(&[("sentence_transformers.base.modules.router.Router", "")]);
    refused(router.path(), &["modules.json", "`type`", "Router", "router_config.json"]);
    // A folder outside.
    let outside = Scratch::of("families/splade-bert");
    outside.write_modules(&[
        ("sentence_transformers.sparse_encoder.models.MLMTransformer", ""),
        ("sentence_transformers.sparse_encoder.models.SpladePooling", "../1_SpladePooling"),
    ]);
    refused(outside.path(), &["modules.json", "`path`", "leads out of the checkpoint"]);
    // And the other way round.
    let error = Embedder::load_with(folder("splade-bert"), golden::load_options()).unwrap_err();
    says(error, &["modules.json", "`type`", "MLMTransformer", "SparseEmbedder"]);
}

#[test]
fn a_missing_head_and_one_of_another_width_are_told() {
    let (weights, dense) = ("model.safetensors", "cls.predictions.transform.dense.weight");
    let copy = Scratch::of("families/splade-bert");
    copy.edit_tensors(weights, |tensors| tensors.get_mut(dense).unwrap().1 = vec![32, 128]);
    refused(copy.path(), &[dense, "[32, 128]"]);
    copy.remove_tensor(weights, dense);
    refused(copy.path(), &[dense]);
}

#[test]
fn options_of_dense_vectors_are_refused() {
    let pooled = LoadOptions { pooling: Some(PoolingMode::Mean.into()), ..own_limit() };
    says(SparseEmbedder::load_with(folder("splade-bert"), pooled).unwrap_err(), &["pooling"]);
    let embedder = load(folder("splade-bert"));
    let dims = EmbedOptions { dims: std::num::NonZeroUsize::new(8), ..Default::default() };
    let normalize = EmbedOptions { normalize: Some(true), ..Default::default() };
    for (options, name) in [(dims, "dims"), (normalize, "normalize")] {
        says(embedder.embed_with(&["a"], &options).unwrap_err(), &[name]);
    }
}
