//! Sparse vectors equal the reference's (transformers on torch, in f32), on MLX's operations and every family of kernels,
//! and what is no sparse encoder is refused.
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use std::fs;
use std::path::{Path, PathBuf};

use mlx_embed::verify::Golden;
use mlx_embed::{EmbedOptions, Embedder, Info, LoadOptions, PoolingMode, SparseEmbedder, SparseVector};
use mlx_embed_tests::golden;
use mlx_embed_tests::scratch::Scratch;
use safetensors::SafeTensors;

const DENSE: [&str; 8] = [
    "splade-bert",
    "splade-bert-untied",
    "splade-bert-version-6",
    "splade-bert-without-modules",
    "splade-distilbert-log1p",
    "splade-modernbert",
    "splade-mpnet",
    "splade-xlm-roberta",
];
const QUANTISED: &str = "splade-bert-affine-4bit-g64";

fn folder(case: &str) -> PathBuf {
    golden::directory(&format!("families/{case}"))
}

/// Texts, and a weight for each token of the vocabulary.
fn expected(case: &str) -> Vec<(String, Vec<u32>, Vec<f32>)> {
    let bytes = fs::read(folder(case).join("golden.safetensors")).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let facts = header.metadata().as_ref().unwrap()["golden"].clone();
    let facts: serde_json::Value = serde_json::from_str(&facts).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let texts = facts["texts"].as_array().unwrap().iter().enumerate();
    texts
        .map(|(index, text)| {
            let ids = text["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
            let weights = file.tensor(&format!("sparse.{index}")).unwrap();
            let weights = weights.data().as_chunks::<4>().0.iter().map(|x| f32::from_le_bytes(*x)).collect();
            (text["text"].as_str().unwrap().to_owned(), ids, weights)
        })
        .collect()
}

fn ways() -> Vec<LoadOptions> {
    let families = if golden::on_gpu() { Vec::new() } else { mlx_embed::kernel_families() };
    golden::ways(&LoadOptions { max_tokens: None, ..golden::load_options() }, &families)
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
            for (text, ids, weights) in &golden {
                assert_eq!(
                    &embedder.token_ids(text, &EmbedOptions::default()).unwrap(),
                    ids,
                    "{what}: {text}"
                );
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
            let options =
                LoadOptions { kernels: Some(kernels.into()), max_tokens: None, ..golden::load_options() };
            let embedder = SparseEmbedder::load_with(folder(case), options).unwrap();
            let golden = embedder.golden().unwrap().unwrap();
            let found = embedder.verify(Some(&golden)).unwrap();
            assert!(found.passed, "{case} on {kernels}: {}", found.failures.join("; "));
            assert!(found.against.unwrap().vectors.is_some(), "{case}");
        }
    }
    let golden = Golden::open(folder("splade-bert").join("golden.safetensors")).unwrap();
    let copy = Scratch::of("families/splade-bert");
    let dense = "cls.predictions.transform.dense.weight";
    copy.edit_tensor("model.safetensors", dense, |bytes| bytes[..1024].fill(0));
    let options = LoadOptions { max_tokens: None, ..golden::load_options() };
    let embedder = SparseEmbedder::load_with(copy.path(), options).unwrap();
    let found = embedder.verify(Some(&golden)).unwrap();
    assert!(found.first_divergent_layer.is_none() && !found.passed, "{:?}", found.failures);
}

#[test]
fn a_texts_weights_have_the_same_bits_in_any_company() {
    for case in ["splade-bert", QUANTISED] {
        for options in ways().into_iter().filter(|options| options.kernels.as_deref() != Some("mlx")) {
            let embedder = SparseEmbedder::load_with(folder(case), options).unwrap();
            let texts: Vec<String> = expected(case).into_iter().map(|(text, ..)| text).collect();
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
    let field = |most: usize| format!("{{\"max_active_dims\": {most},");
    let copy = changed("splade-bert", settings, |text| text.replacen('{', &field(MOST), 1));
    let options = || LoadOptions { max_tokens: None, ..golden::load_options() };
    let embedder = SparseEmbedder::load_with(copy.path(), options()).unwrap();
    let tolerance = tolerance(embedder.info());
    for (text, _, weights) in expected("splade-bert") {
        let mut ranked: Vec<(u32, f32)> = (0..).zip(weights).collect();
        ranked.sort_by(|one, other| other.1.total_cmp(&one.1));
        let mut largest = ranked[..MOST].to_vec();
        largest.sort_by_key(|(token, _)| *token);
        let found = embedder.embed(&[&text]).unwrap().remove(0).weights;
        let tokens = |weights: &[(u32, f32)]| weights.iter().map(|(token, _)| *token).collect::<Vec<_>>();
        assert_eq!(tokens(&found), tokens(&largest), "{text}");
        for ((token, found), (_, expected)) in found.iter().zip(&largest) {
            assert!((found - expected).abs() <= tolerance * ranked[0].1, "{text}: {token}: {found}");
        }
    }
    let none = changed("splade-bert", settings, |text| text.replacen('{', &field(0), 1));
    let error = refusal(none.path());
    assert!(error.contains(settings) && error.contains("max_active_dims"), "{error}");
}

#[test]
fn a_transformer_that_makes_no_logits_is_no_sparse_encoders() {
    let file = "sentence_bert_config.json";
    let copy = changed("splade-bert-version-6", file, |text| text.replace("fill-mask", "feature-extraction"));
    let error = refusal(copy.path());
    assert!(error.contains("modules.json") && error.contains("MLMTransformer"), "{error}");
}

/// A copy of a case's folder, whose JSON file `name` `change` makes another.
fn changed(case: &str, name: &str, change: impl Fn(&str) -> String) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_folder(&folder(case), copy.path());
    let file = copy.path().join(name);
    fs::write(&file, change(&fs::read_to_string(&file).unwrap())).unwrap();
    copy
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_folder(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

fn refusal(dir: &Path) -> String {
    SparseEmbedder::load_with(dir, LoadOptions { max_tokens: None, ..golden::load_options() })
        .unwrap_err()
        .to_string()
}

#[test]
fn what_is_no_sparse_encoder_is_refused_and_told_what_to_load_it_with() {
    let says = |error: String, parts: &[&str]| {
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    };
    // A plain embedder, with modules.json and without.
    says(refusal(&folder("modules-layer-norm")), &["modules.json", "`type`", "Embedder"]);
    let plain = |config: &str| config.replace("BertForMaskedLM", "BertModel");
    let copy = changed("splade-bert-without-modules", "config.json", plain);
    says(refusal(copy.path()), &["config.json", "`architectures`", "Embedder"]);
    // Other poolings.
    for (field, from, to) in [("pooling_strategy", "max", "sum"), ("activation_function", "relu", "exp")] {
        let change = |config: &str| config.replace(&format!("\"{from}\""), &format!("\"{to}\""));
        let copy = changed("splade-bert", "1_SpladePooling/config.json", change);
        says(refusal(copy.path()), &["1_SpladePooling/config.json", field, to]);
    }
    // And the other way round.
    let error = Embedder::load_with(folder("splade-bert"), golden::load_options()).unwrap_err();
    says(error.to_string(), &["modules.json", "`type`", "MLMTransformer", "SparseEmbedder"]);
}

#[test]
fn a_missing_head_and_one_of_another_width_are_told() {
    let file = folder("splade-bert").join("model.safetensors");
    let bytes = fs::read(file).unwrap();
    let weights = SafeTensors::deserialize(&bytes).unwrap();
    let write = |dir: &Path, change: &dyn Fn(&str) -> Option<Vec<usize>>| {
        let mut tensors = Vec::new();
        for (name, tensor) in weights.tensors() {
            if let Some(shape) = change(&name) {
                let shape = if shape.is_empty() { tensor.shape().to_vec() } else { shape };
                let view =
                    safetensors::tensor::TensorView::new(tensor.dtype(), shape, tensor.data()).unwrap();
                tensors.push((name, view));
            }
        }
        safetensors::serialize_to_file(tensors, None, &dir.join("model.safetensors")).unwrap();
    };
    let copy = changed("splade-bert", "config.json", str::to_owned);
    let dense = "cls.predictions.transform.dense.weight";
    write(copy.path(), &|name| (name != dense).then(Vec::new));
    let error = refusal(copy.path());
    assert!(error.contains(dense), "{error}");
    write(copy.path(), &|name| Some(if name == dense { vec![32, 128] } else { Vec::new() }));
    let error = refusal(copy.path());
    assert!(error.contains(dense) && error.contains("[32, 128]"), "{error}");
}

#[test]
fn options_of_dense_vectors_are_refused() {
    let options = || LoadOptions { max_tokens: None, ..golden::load_options() };
    let pooled = LoadOptions { pooling: Some(PoolingMode::Mean.into()), ..options() };
    let error = SparseEmbedder::load_with(folder("splade-bert"), pooled).unwrap_err().to_string();
    assert!(error.contains("pooling"), "{error}");
    let embedder = SparseEmbedder::load_with(folder("splade-bert"), options()).unwrap();
    let dims = EmbedOptions { dims: std::num::NonZeroUsize::new(8), ..Default::default() };
    let normalize = EmbedOptions { normalize: Some(true), ..Default::default() };
    for (options, name) in [(dims, "dims"), (normalize, "normalize")] {
        let error = embedder.embed_with(&["a"], &options).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}
