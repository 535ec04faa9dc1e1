//! Vectors of tokens equal the reference's (sentence-transformers' MultiVectorEncoder on torch, in f32), on MLX's operations
//! and every family of kernels, and what is no model of late interaction is refused.
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use std::fs;
use std::path::{Path, PathBuf};

use mlx_embed::verify::Golden;
use mlx_embed::{
    EmbedOptions, Embedder, Info, LoadOptions, MultiVectorEmbedder, PoolingMode, Role, TokenVectors,
};
use mlx_embed_tests::compare::{cosine, max_abs, says};
use mlx_embed_tests::golden::{self, own_limit};
use mlx_embed_tests::scratch::Scratch;
use safetensors::SafeTensors;
use serde_json::{Value, json};

const SETTINGS: &str = "config_sentence_transformers.json";

const CASES: [&str; 7] = [
    "late-interaction-bert",
    "late-interaction-bert-attended",
    "late-interaction-colbert",
    "late-interaction-modernbert",
    "late-interaction-modernbert-expanded",
    "late-interaction-version-6",
    "late-interaction-version-6-min",
];

fn folder(case: &str) -> PathBuf {
    golden::directory(&format!("families/{case}"))
}

/// A text, what the reference makes of it, and the facts of its file.
struct Expected {
    text: String,
    role: Role,
    ids: Vec<u32>,
    /// `[kept, dims]`
    vectors: Vec<f32>,
    /// Their places among the tokens.
    kept: Vec<usize>,
}

fn expected(case: &str) -> (Vec<Expected>, Value) {
    let bytes = fs::read(folder(case).join("golden.safetensors")).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let facts = header.metadata().as_ref().unwrap()["golden"].clone();
    let facts: Value = serde_json::from_str(&facts).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let numbers = |value: &Value| -> Vec<usize> {
        value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as usize).collect()
    };
    let of_text = |(index, text): (usize, &Value)| Expected {
        text: text["text"].as_str().unwrap().to_owned(),
        role: if text["side"] == "query" { Role::Query } else { Role::Document },
        ids: numbers(&text["ids"]).into_iter().map(|id| id as u32).collect(),
        kept: numbers(&text["kept"]),
        vectors: file
            .tensor(&format!("tokens.{index}"))
            .unwrap()
            .data()
            .as_chunks::<4>()
            .0
            .iter()
            .map(|x| f32::from_le_bytes(*x))
            .collect(),
    };
    let texts = facts["texts"].as_array().unwrap().iter().enumerate().map(of_text).collect();
    (texts, facts)
}

fn ways() -> Vec<LoadOptions> {
    let families = if golden::on_gpu() { vec!["cuda"] } else { mlx_embed::kernel_families() };
    golden::ways(&own_limit(), &families)
}

/// Least cosine and largest difference of a token's unit vector: those of vectors in `tests/golden.rs`.
fn tolerance(info: &Info) -> (f64, f32) {
    match (golden::on_gpu(), info.rounding.activations) {
        (true, _) => (0.9995, 2e-2),
        (_, None) => (0.99999, 1e-5),
        (_, Some(16)) => (0.99999, 1e-4),
        (_, Some(_)) => (0.999, 2.5e-2),
    }
}

fn load(case: &str, options: &LoadOptions) -> MultiVectorEmbedder {
    MultiVectorEmbedder::load_with(folder(case), options.clone()).unwrap()
}

fn load_copy(copy: &Scratch) -> MultiVectorEmbedder {
    MultiVectorEmbedder::load_with(copy.path(), own_limit()).unwrap()
}

fn one(embedder: &MultiVectorEmbedder, text: &str, role: Role) -> TokenVectors {
    embedder.embed(&[text], role).unwrap().remove(0)
}

#[test]
fn vectors_and_scores_are_the_references() {
    for case in CASES {
        let (texts, facts) = expected(case);
        for options in ways() {
            let embedder = load(case, &options);
            let what = format!("{case} on {}, {}", embedder.info().kernels, options.precision);
            let (mut lowest, mut largest) = (1.0_f64, 0.0_f32);
            let (mut queries, mut documents) = (Vec::new(), Vec::new());
            for expected in &texts {
                let Expected { text, role, ids, vectors, kept } = expected;
                let found_ids = embedder.token_ids(text, *role, &EmbedOptions::default()).unwrap();
                assert_eq!(&found_ids, ids, "{what}: {role:?} {text}");
                let found = one(&embedder, text, *role);
                let expected_ids: Vec<u32> = kept.iter().map(|&at| ids[at]).collect();
                assert_eq!(found.token_ids, expected_ids, "{what}: {role:?} {text}");
                assert_eq!((found.tokens, found.truncated), (ids.len(), false), "{what}: {text}");
                assert_eq!(found.dims, embedder.info().embedding_size);
                for (row, expected) in found.rows().zip(vectors.chunks_exact(found.dims)) {
                    lowest = lowest.min(cosine(row, expected));
                    largest = largest.max(max_abs(row, expected));
                }
                match role {
                    Role::Query => queries.push(found),
                    Role::Document => documents.push(found),
                }
            }
            let (cosine, most) = tolerance(embedder.info());
            println!("{what}: cosine {lowest:.8}, vector {largest:.1e}");
            assert!(lowest >= cosine && largest <= most, "{what}: cosine {lowest}, off by {largest:e}");
            for (query, scores) in queries.iter().zip(facts["maxsim"].as_array().unwrap()) {
                for (document, expected) in documents.iter().zip(scores.as_array().unwrap()) {
                    let off = (query.maxsim(document) - expected.as_f64().unwrap() as f32).abs();
                    // A sum of products of unit vectors, each off by at most that.
                    let allowed = most * (query.token_ids.len() * 8) as f32 + 1e-6;
                    assert!(off <= allowed, "{what}: a score is off by {off:e}");
                }
            }
        }
    }
}

#[test]
fn a_texts_vectors_have_the_same_bits_in_any_company() {
    for case in CASES {
        let (texts, _) = expected(case);
        for options in ways().into_iter().filter(|options| options.kernels.as_deref() != Some("mlx")) {
            let embedder = load(case, &options);
            for role in [Role::Query, Role::Document] {
                let texts: Vec<&str> = texts.iter().map(|expected| expected.text.as_str()).collect();
                let together = embedder.embed(&texts, role).unwrap();
                let streamed = embedder.embed_iter(&texts, role, &EmbedOptions::default());
                let submitted = embedder.submit(&texts, role, &EmbedOptions::default()).wait().unwrap();
                for (((text, together), streamed), submitted) in
                    texts.iter().zip(&together).zip(streamed).zip(submitted)
                {
                    let alone = one(&embedder, text, role);
                    for other in [together, &streamed.unwrap(), &submitted] {
                        assert_eq!(alone.vectors, other.vectors, "{case}: {role:?} {text}");
                        assert_eq!(alone.token_ids, other.token_ids, "{case}: {role:?} {text}");
                    }
                }
            }
        }
    }
}

/// A copy of a case in which a JSON file has another field.
fn changed(case: &str, file: &str, field: &str, value: impl Into<Value>) -> Scratch {
    Scratch::with(&format!("families/{case}"), file, json!({ field: value.into() }))
}

/// Loading fails, and the message has these parts.
#[track_caller]
fn refused(dir: &Path, parts: &[&str]) {
    says(MultiVectorEmbedder::load_with(dir, own_limit()).unwrap_err(), parts);
}

#[test]
fn what_is_longer_than_its_limit_is_cut_and_says_so() {
    let embedder = load("late-interaction-bert", &own_limit());
    let info = embedder.info().late_interaction.clone().unwrap();
    assert_eq!((info.query_tokens, info.document_tokens, info.expands_queries), (16, 48, true));
    assert_eq!((info.query_marker.as_deref(), info.document_marker.as_deref()), (Some("[Q] "), Some("[D] ")));
    let long = "roses in the garden ".repeat(40);
    for (role, limit) in [(Role::Query, 16), (Role::Document, 48)] {
        let found = one(&embedder, &long, role);
        assert_eq!((found.tokens, found.truncated), (limit, true), "{role:?}");
        let ids = embedder.token_ids(&long, role, &EmbedOptions::default()).unwrap();
        assert_eq!((ids[0], ids[limit - 1]), (2, 3), "{role:?}: [CLS] and [SEP] stay");
    }
    // The caller's limit is one of documents.
    let options = LoadOptions { max_tokens: Some(20), ..golden::load_options() };
    let embedder = load("late-interaction-bert", &options);
    assert_eq!(one(&embedder, &long, Role::Document).tokens, 20);
    assert_eq!(one(&embedder, &long, Role::Query).tokens, 16);
}

#[test]
fn limits_that_no_file_has_are_the_models_own() {
    let limits = |copy: &Scratch| {
        let info = load_copy(copy).info().late_interaction.clone().unwrap();
        (info.query_tokens, info.document_tokens)
    };
    let copy = Scratch::of("families/late-interaction-modernbert-expanded");
    copy.unset(SETTINGS, &["query_length", "document_length"]);
    copy.set(SETTINGS, json!({"attend_to_expansion_tokens": true}));
    assert_eq!(limits(&copy), (32, 512), "queries are filled up to 32");
    copy.set(SETTINGS, json!({"do_query_expansion": false}));
    assert_eq!(limits(&copy), (512, 512));
    copy.write("sentence_bert_config.json", json!({"max_seq_length": 200}).to_string());
    assert_eq!(limits(&copy), (200, 200));
}

#[test]
fn empty_texts_and_punctuation_alone_have_the_vectors_of_what_stands_around_them() {
    let embedder = load("late-interaction-bert", &own_limit());
    let (empty, marks) = (one(&embedder, "", Role::Document), one(&embedder, "?!...", Role::Document));
    assert_eq!((&empty.token_ids[..], empty.tokens), (&[2, 204, 3][..], 3));
    assert_eq!((&marks.token_ids[..], marks.tokens), (&[2, 204, 3][..], 8));
    let query = one(&embedder, "", Role::Query);
    assert_eq!((query.token_ids.len(), query.tokens), (16, 16));
    assert!(query.maxsim(&empty).is_finite() && query.maxsim(&marks).is_finite());
    for row in query.rows().chain(empty.rows()) {
        assert!((row.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
    }
}

#[test]
fn options_concern_each_vector() {
    let embedder = load("late-interaction-bert", &own_limit());
    let dims = std::num::NonZeroUsize::new(8);
    let raw = EmbedOptions { normalize: Some(false), ..Default::default() };
    let cut = EmbedOptions { dims, ..Default::default() };
    let text = &["Roses, in the garden."];
    let raw = embedder.embed_with(text, Role::Document, &raw).unwrap().remove(0);
    let cut = embedder.embed_with(text, Role::Document, &cut).unwrap().remove(0);
    assert_eq!((cut.dims, cut.vectors.len()), (8, 8 * cut.token_ids.len()));
    for (raw, cut) in raw.rows().zip(cut.rows()) {
        let length = raw[..8].iter().map(|x| x * x).sum::<f32>().sqrt();
        let expected: Vec<f32> = raw[..8].iter().map(|x| x / length).collect();
        assert!(max_abs(cut, &expected) < 1e-6);
    }
    let wide = EmbedOptions { dims: std::num::NonZeroUsize::new(33), ..Default::default() };
    says(embedder.embed_with(text, Role::Query, &wide).unwrap_err(), &["dims", "33", "32"]);
    let pooled = LoadOptions { pooling: Some(PoolingMode::Mean.into()), ..own_limit() };
    let error = MultiVectorEmbedder::load_with(folder("late-interaction-bert"), pooled).unwrap_err();
    says(error, &["pooling"]);
}

#[test]
fn a_side_has_its_own_prompt_behind_its_marker() {
    let prompts = json!({ "query": "roses ", "document": "" });
    let embedder = load_copy(&changed("late-interaction-bert", SETTINGS, "prompts", prompts));
    let ids = |text, role| embedder.token_ids(text, role, &EmbedOptions::default()).unwrap();
    let plain = load("late-interaction-bert", &own_limit());
    let of_plain = |text, role| plain.token_ids(text, role, &EmbedOptions::default()).unwrap();
    assert_eq!(ids("in", Role::Query), of_plain("roses in", Role::Query));
    assert_eq!(ids("in", Role::Document), of_plain("in", Role::Document));
}

#[test]
fn markers_that_are_no_tokens_and_limits_without_room_are_refused() {
    let bert = |field: &str, value: Value| changed("late-interaction-bert", SETTINGS, field, value);
    let word = bert("document_prefix", "the".into());
    refused(word.path(), &[SETTINGS, "`document_prefix`", "the", "as text"]);
    let missing = bert("query_prefix", json!(null));
    refused(missing.path(), &[SETTINGS, "`query_prefix`", "is missing", "[Q] "]);
    let marker = bert("query_prefix", "[Query] ".into());
    refused(marker.path(), &[SETTINGS, "`query_prefix`", "[Query] ", "tokenizer.json"]);
    for (field, value) in [("document_length", 3), ("query_length", 3), ("query_length", 0)] {
        refused(bert(field, value.into()).path(), &[SETTINGS, &format!("`{field}`")]);
    }
    // Filled up for each query, however short.
    let endless =
        changed("late-interaction-modernbert-expanded", SETTINGS, "query_length", 1_000_000_000_000_u64);
    endless.set(SETTINGS, json!({ "attend_to_expansion_tokens": true }));
    refused(endless.path(), &[SETTINGS, "`query_length`", "8192"]);
    // Without markers there is none.
    let embedder = load_copy(&bert("document_prefix", "".into()));
    let ids = embedder.token_ids("", Role::Document, &EmbedOptions::default()).unwrap();
    assert_eq!(ids, [2, 3]);
    // Mask tokens that see nothing: layers of this model see 8 tokens on each side.
    let expands = changed("late-interaction-modernbert", SETTINGS, "do_query_expansion", true);
    refused(expands.path(), &[SETTINGS, "`query_length`", "48"]);
}

/// sentence-transformers 6's own layout.
#[test]
fn queries_are_filled_up_to_a_length_or_to_a_least_one() {
    let long = "roses in the garden ".repeat(40);
    let tokens = |case: &str, text: &str, role| {
        let found = one(&load(case, &own_limit()), text, role);
        (found.tokens, found.truncated)
    };
    let (fixed, least) = ("late-interaction-version-6", "late-interaction-version-6-min");
    assert_eq!(
        (tokens(fixed, "a", Role::Query), tokens(fixed, &long, Role::Query)),
        ((16, false), (16, true))
    );
    assert_eq!(
        (tokens(least, "a", Role::Query), tokens(least, &long, Role::Query)),
        ((12, false), (40, true))
    );
    assert_eq!(
        (tokens(fixed, &long, Role::Document), tokens(least, &long, Role::Document)),
        ((48, true), (64, true))
    );
    for (case, dir) in [(fixed, folder(fixed)), (least, folder(least))] {
        assert!(mlx_embed::Checkpoint::is_multi_vector(&dir).unwrap(), "{case}");
        let info = load(case, &own_limit()).info().clone();
        assert_eq!((info.normalize, info.embedding_size), (case == fixed, 32));
    }
}

/// There the reference has masks before a query's own tokens.
#[test]
fn queries_that_are_filled_up_in_front_are_refused() {
    const TOKENIZER: &str = "tokenizer_config.json";
    let left = json!({"padding_side": "left"});
    for case in ["late-interaction-bert", "late-interaction-colbert", "late-interaction-version-6"] {
        let parts = &[TOKENIZER, "`padding_side`", "in front of"];
        refused(changed(case, TOKENIZER, "padding_side", "left").path(), parts);
        let baked = Scratch::of(&format!("families/{case}"));
        let padding = json!({
            "strategy": "BatchLongest", "direction": "Left", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]",
        });
        baked.set("tokenizer.json", json!({"padding": padding}));
        refused(baked.path(), parts);
        baked.set(TOKENIZER, json!({"padding_side": "right"}));
        load_copy(&baked);
    }
    let version_6 = "late-interaction-version-6";
    let file = "sentence_bert_config.json";
    let arguments = changed(version_6, file, "processor_kwargs", left.clone());
    refused(arguments.path(), &[TOKENIZER, "`padding_side`", "in front of"]);
    let calls = changed(version_6, file, "processing_kwargs", json!({"text": left}));
    refused(calls.path(), &[file, "`processing_kwargs.text.padding_side`"]);
    // What is put behind a query is put there in any case.
    let behind = changed("late-interaction-version-6-min", TOKENIZER, "padding_side", "left");
    load_copy(&behind);
}

#[test]
fn settings_of_version_6_that_say_something_else_are_refused_by_name() {
    let (case, file) = ("late-interaction-version-6", "sentence_bert_config.json");
    let wrong = |file: &str, field: &str, value: Value, parts: &[&str]| {
        refused(changed(case, file, field, value).path(), &[&[file], parts].concat());
    };
    wrong(file, "query_length", json!(8), &["`query_length`", "8", "16"]);
    wrong(file, "document_length", json!(0), &["`document_length`", "at least 1"]);
    wrong(file, "document_length", json!(2), &["`document_length`", "no room"]);
    let fill = |field: &str, value: Value, part: &str| {
        let mut whole = json!({ "strategy": "fixed", "length": 16 });
        whole[field] = value;
        wrong(file, "query_expansion", whole, &[&format!("`query_expansion.{field}`"), part]);
    };
    fill("strategy", json!("max"), "fixed");
    fill("length", Value::Null, "");
    fill("token", json!("[FILL]"), "[FILL]");
    fill("tokens", json!(3), "");
    let cut = json!({ "text": { "max_length": 20 } });
    wrong(file, "processing_kwargs", cut, &["`processing_kwargs.text.max_length`", "remove"]);
    let (mask, null) = ("2_MultiVectorMask/config.json", Value::Null);
    wrong(mask, "keep_only_token_ids", json!([7]), &["`keep_only_token_ids`", "null"]);
    wrong("3_Normalize/config.json", "module_input_name", null, &["`module_input_name`", "token_embeddings"]);
    wrong(SETTINGS, "query_length", json!(16), &["`query_length`", "PyLate", file]);
    let untyped = changed(case, SETTINGS, "model_type", Value::Null);
    refused(untyped.path(), &["modules.json", "MultiVectorMask"]);
    // Modules that would be left out, that are missing, or that nothing else stands for.
    let modules = |edit: &dyn Fn(&mut Vec<Value>), parts: &[&str]| {
        let copy = Scratch::of(&format!("families/{case}"));
        let mut listed = serde_json::from_slice(&fs::read(copy.file("modules.json")).unwrap()).unwrap();
        edit(&mut listed);
        copy.write("modules.json", json!(listed).to_string());
        refused(copy.path(), parts);
    };
    let pooling = "sentence_transformers.multi_vector_encoder.modules.token_pooling.HierarchicalTokenPooling";
    modules(&|all| all[3]["type"] = pooling.into(), &["modules.json", "`type`", pooling, "MultiVectorMask"]);
    modules(&|all| drop(all.remove(2)), &[file, "`query_expansion`", "MultiVectorMask"]);
    modules(&|all| drop(all.remove(0)), &["modules.json", "`type`", "Transformer"]);
    modules(&|all| all.push(all[2].clone()), &["modules.json", "MultiVectorMask twice"]);
}

#[test]
fn what_is_no_model_of_late_interaction_is_refused_and_told_what_to_load_it_with() {
    refused(&folder("modules-layer-norm"), &["modules.json", "`type`", "Embedder"]);
    refused(&folder("bert-without-modules-bf16"), &["modules.json", "`type`", "HF_ColBERT", "Embedder"]);
    // And the other way round.
    for case in CASES {
        let error = Embedder::load_with(folder(case), own_limit()).unwrap_err();
        let parts = match case {
            "late-interaction-colbert" => ["config.json", "`architectures`", "HF_ColBERT"],
            _ if case.contains("version-6") => ["modules.json", "`type`", "MultiVectorMask"],
            _ => ["modules.json", "`type`", "pylate"],
        };
        says(error, &[&parts[..], &["MultiVectorEmbedder"]].concat());
    }
}

#[test]
fn a_missing_dense_file_and_one_of_another_width_are_told() {
    let (config, weights) = ("1_Dense/config.json", "1_Dense/model.safetensors");
    let dense = |field: &str, value: Value| changed("late-interaction-bert", config, field, value);
    refused(dense("in_features", json!(48)).path(), &[config, "`in_features`", "48", "64"]);
    refused(dense("out_features", json!(24)).path(), &[weights, "linear.weight", "[32, 64]", "[24, 64]"]);
    let copy = dense("module_input_name", json!("sentence_embedding"));
    refused(copy.path(), &[config, "`module_input_name`", "token_embeddings"]);
    copy.remove(weights);
    copy.unset(config, &["module_input_name"]);
    refused(copy.path(), &[weights, "missing"]);
    copy.remove(config);
    refused(copy.path(), &[config, "missing"]);
}

#[test]
fn verification_passes_and_finds_a_projection_that_is_off() {
    for case in CASES {
        for kernels in [mlx_embed::kernel_families()[0], "mlx"] {
            let options = LoadOptions { kernels: Some(kernels.into()), ..own_limit() };
            let embedder = load(case, &options);
            let golden = embedder.golden().unwrap().unwrap();
            let found = embedder.verify(Some(&golden)).unwrap();
            assert!(found.passed, "{case} on {kernels}: {}", found.failures.join("; "));
            let against = found.against.unwrap();
            assert!(against.same_weights && against.vectors.is_some(), "{case}");
            let without = embedder.verify(None).unwrap();
            assert!(without.passed, "{case} on {kernels}: {}", without.failures.join("; "));
        }
    }
    let case = "late-interaction-bert";
    let golden = Golden::open(folder(case).join("golden.safetensors")).unwrap();
    let copy = Scratch::of(&format!("families/{case}"));
    copy.edit_tensor("1_Dense/model.safetensors", "linear.weight", |bytes| bytes[..64].fill(0));
    let found = load_copy(&copy).verify(Some(&golden)).unwrap();
    assert!(found.first_divergent_layer.is_none() && !found.passed);
    assert!(found.failures[0].contains("vectors differ"), "{:?}", found.failures);
    // Another skip list: vectors that the reference doesn't have, or has besides.
    let embedder = load_copy(&changed(case, SETTINGS, "skiplist_words", json!([])));
    assert!(!embedder.verify(Some(&golden)).unwrap().passed);
    // What the file doesn't hold.
    let plain = Embedder::load_with(folder("bert-without-modules-bf16"), own_limit()).unwrap();
    says(plain.verify(Some(&golden)).unwrap_err(), &["vectors of tokens", "no vectors of texts"]);
}

#[test]
fn colberts_own_layout_is_refused_where_it_says_what_is_not_computed() {
    let (case, file, weights) = ("late-interaction-colbert", "artifact.metadata", "model.safetensors");
    let wrong = |field: &str, value: &str, parts: &[&str]| {
        let copy = changed(case, file, field, value);
        refused(copy.path(), &[&[file, &format!("`{field}`")], parts].concat());
    };
    wrong("similarity", "l2", &["cosine"]);
    wrong("interaction", "flipr", &[]);
    wrong("doc_token_id", "[unused7]", &["[unused7]", "tokenizer.json"]);
    let copy = Scratch::of(&format!("families/{case}"));
    copy.remove_tensor(weights, "linear.weight");
    refused(copy.path(), &["linear.weight"]);
    let copy = Scratch::of(&format!("families/{case}"));
    copy.edit_tensors(weights, |tensors| tensors.get_mut("linear.weight").unwrap().1 = vec![64, 32]);
    refused(copy.path(), &["linear.weight", "[64, 64]", "[64, 32]"]);
    // Without its file the defaults hold.
    copy.remove(file);
    copy.edit_tensors(weights, |tensors| tensors.get_mut("linear.weight").unwrap().1 = vec![32, 64]);
    let info = load_copy(&copy).info().late_interaction.clone().unwrap();
    // As many as there are positions.
    assert_eq!((info.query_tokens, info.document_tokens), (32, 96));
    assert_eq!(info.document_marker.as_deref(), Some("[unused1]"));
}
