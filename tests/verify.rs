//! Planted faults are found, and named at the layer where they are.
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use std::fs;

use mlx_embed::verify::{Golden, GoldenError, Layer, Question, Verification};
use mlx_embed::{
    Device, Embedder, Error, LoadOptions, MultiVectorEmbedder, PoolingMode, Precision, Reranker,
    SparseEmbedder,
};
use mlx_embed_tests::compare::says;
use mlx_embed_tests::golden;
use mlx_embed_tests::scratch::Scratch;
use serde_json::{Value, json};

const WEIGHTS: &str = "model.safetensors";
const CASE: &str = "qwen3-three-layers-affine-4bit-g64";
const LAYERS: usize = 3;

/// What runs a checkpoint: kernels and precision.
fn ways() -> Vec<(&'static str, Precision)> {
    let fastest = mlx_embed::kernel_families()[0];
    vec![(fastest, Precision::Exact), (fastest, Precision::Fast), ("mlx", Precision::Exact)]
}

fn load(scratch: &Scratch, (kernels, precision): (&str, Precision)) -> Embedder {
    let options = LoadOptions {
        device: Device::Cpu,
        kernels: Some(kernels.into()),
        precision,
        ..golden::load_options()
    };
    Embedder::load_with(scratch.path(), options).unwrap()
}

fn verify(scratch: &Scratch, case: &str, way: (&str, Precision)) -> Verification {
    load(scratch, way).verify(Some(&golden::Golden::read(case).file)).unwrap()
}

/// Multiplies every f16 of a tensor.
fn scale_f16(bytes: &mut [u8], by: f32) {
    for number in bytes.as_chunks_mut::<2>().0 {
        *number = half::f16::from_f32(half::f16::from_le_bytes(*number).to_f32() * by).to_le_bytes();
    }
}

#[test]
fn one_altered_tensor_is_named_by_its_layer() {
    let tensors = ["input_layernorm.weight", "self_attn.v_proj.scales", "mlp.down_proj.scales"];
    for (number, tensor) in (0..LAYERS).zip(tensors.iter().cycle()) {
        let scratch = Scratch::of(CASE);
        let tensor = format!("model.layers.{number}.{tensor}");
        scratch.edit_tensor(WEIGHTS, &tensor, |bytes| scale_f16(bytes, 1.5));
        for way in ways() {
            let found = verify(&scratch, CASE, way);
            assert_eq!(found.first_divergent_layer, Some(Layer::Decoder(number)), "{tensor} on {way:?}");
            assert!(!found.passed && !found.against.unwrap().same_weights, "{tensor} on {way:?}");
        }
    }
}

#[test]
fn one_altered_row_of_a_matrix_is_found_where_nothing_is_rounded_to_eight_bits() {
    let scratch = Scratch::of(CASE);
    // 64 inputs in groups of 64: a row has one scale.
    scratch
        .edit_tensor(WEIGHTS, "model.layers.2.mlp.down_proj.scales", |bytes| scale_f16(&mut bytes[..2], 1.5));
    let fastest = mlx_embed::kernel_families()[0];
    for way in [(fastest, Precision::Exact), ("mlx", Precision::Exact)] {
        assert_eq!(verify(&scratch, CASE, way).first_divergent_layer, Some(Layer::Decoder(2)), "{way:?}");
    }
}

#[test]
fn the_embedding_table_and_the_final_norm_are_named() {
    for (tensor, layer) in
        [("model.embed_tokens.scales", Layer::EmbedTokens), ("model.norm.weight", Layer::Norm)]
    {
        let scratch = Scratch::of(CASE);
        scratch.edit_tensor(WEIGHTS, tensor, |bytes| scale_f16(bytes, 1.5));
        for way in ways() {
            assert_eq!(verify(&scratch, CASE, way).first_divergent_layer, Some(layer), "{way:?}");
        }
    }
}

#[test]
fn weights_that_are_not_numbers_are_found_without_a_golden_file() {
    let scratch = Scratch::of("qwen3-f32");
    scratch.edit_tensor(WEIGHTS, "model.layers.1.mlp.up_proj.weight", |bytes| {
        bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    for way in ways() {
        let embedder = load(&scratch, way);
        for golden in [None, Some(&golden::Golden::read("qwen3-f32").file)] {
            let found = embedder.verify(golden).unwrap();
            assert_eq!(found.first_divergent_layer, Some(Layer::Decoder(1)), "{way:?}");
            let finite = found.checks.iter().find(|check| check.question == Question::Finite).unwrap();
            assert!(!finite.passed && !found.passed, "{way:?}");
            // No JSON has such numbers.
            let json: Value = serde_json::to_value(&found).unwrap();
            assert_eq!(json["first_divergent_layer"], 1);
        }
    }
}

#[test]
fn a_tokenizer_that_reads_otherwise_is_found() {
    let scratch = Scratch::of("qwen3-f32");
    let other = fs::read(golden::directory("plain-tokenizer").join("tokenizer.json")).unwrap();
    scratch.write("tokenizer.json", other);
    let options = LoadOptions { end_token: mlx_embed::EndToken::TokenizerOnly, ..golden::load_options() };
    let embedder = Embedder::load_with(scratch.path(), options).unwrap();
    let found = embedder.verify(Some(&golden::Golden::read("qwen3-f32").file)).unwrap();
    assert!(!found.passed && found.first_divergent_layer.is_none());
    assert!(!found.against.unwrap().other_tokens.is_empty());
}

#[test]
fn a_sound_checkpoint_passes_with_and_without_a_golden_file() {
    let embedder = golden::load("qwen3-affine-4bit-g64");
    let beside = embedder.golden().unwrap().unwrap();
    for golden in [Some(&beside), None] {
        let found = embedder.verify(golden).unwrap();
        assert!(found.passed, "{:?}", found.failures);
        assert_eq!((found.first_divergent_layer, found.checks.len()), (None, 5));
        assert_eq!(found.against.is_some(), golden.is_some());
    }
    assert!(golden::Golden::read("qwen3-f32").file.embedding(0, PoolingMode::Mean).is_none());
    let inside = Embedder::default_model_with(golden::load_options()).unwrap();
    let found = inside.verify(inside.golden().unwrap().as_ref()).unwrap();
    assert!(found.passed && found.against.unwrap().same_weights, "{:?}", found.failures);
}

#[test]
fn without_its_file_there_is_nothing_beside_a_checkpoint() {
    assert!(load(&Scratch::of("qwen3-f32"), ways()[0]).golden().unwrap().is_none());
}

#[test]
fn a_golden_file_of_another_model_is_refused() {
    let error =
        golden::load("qwen3-f32").verify(Some(&golden::Golden::read("default-model").file)).unwrap_err();
    assert!(matches!(error, Error::Golden(GoldenError::OtherModel { .. })), "{error:?}");
    says(error, &["4 layers of width 384", "2 layers of width 32"]);
}

#[test]
fn a_golden_file_with_longer_texts_than_the_model_takes_is_refused() {
    let options = LoadOptions { max_tokens: Some(8), ..golden::load_options() };
    let embedder = Embedder::load_with(golden::directory("qwen3-f32"), options).unwrap();
    let error = embedder.verify(Some(&golden::Golden::read("qwen3-f32").file)).unwrap_err();
    assert!(error.to_string().contains("token ids, but the limit is 8; cut it"), "{error}");
}

const GOLDEN: &str = "g.safetensors";

/// A copy of a case's golden file, altered.
fn altered(case: &str, alter: impl FnOnce(&Scratch)) -> (Scratch, Result<Golden, GoldenError>) {
    let scratch = Scratch::of("qwen3-f32");
    fs::copy(golden::directory(case).join("golden.safetensors"), scratch.file(GOLDEN)).unwrap();
    alter(&scratch);
    let golden = Golden::open(scratch.file(GOLDEN));
    (scratch, golden)
}

fn damaged(damage: impl FnOnce(&Scratch)) -> GoldenError {
    let error = altered("qwen3-f32", damage).1.unwrap_err();
    says(&error, &[GOLDEN]);
    error
}

fn set_facts(scratch: &Scratch, edit: impl FnOnce(&mut Value)) {
    scratch.edit_header(GOLDEN, |header| {
        let metadata = header["__metadata__"].as_object_mut().unwrap();
        let mut facts: Value = serde_json::from_str(metadata["golden"].as_str().unwrap()).unwrap();
        edit(&mut facts);
        metadata.insert("golden".into(), facts.to_string().into());
    });
}

#[test]
fn damaged_golden_files_are_refused() {
    let missing = damaged(|scratch| scratch.remove(GOLDEN));
    assert!(matches!(missing, GoldenError::Io { .. }), "{missing:?}");
    for share in [0, 4, 100, 900] {
        let error = damaged(|scratch| {
            let bytes = fs::read(scratch.file(GOLDEN)).unwrap();
            scratch.write(GOLDEN, &bytes[..bytes.len() * share / 1000]);
        });
        assert!(matches!(error, GoldenError::Invalid { .. }), "{error:?}");
    }
    let weights = damaged(|scratch| _ = fs::copy(scratch.file(WEIGHTS), scratch.file(GOLDEN)).unwrap());
    assert!(matches!(weights, GoldenError::Invalid { .. }), "{weights:?}");
    let version = damaged(|scratch| set_facts(scratch, |facts| facts["version"] = json!(3)));
    assert!(matches!(version, GoldenError::Version { found: 3, .. }), "{version:?}");
    // Found by the facts alone, and by what they say of tensors.
    for (field, value, alone) in [
        ("texts", json!([]), true),
        ("poolings", json!([]), true),
        ("poolings", json!(["median"]), true),
        ("model", json!({"layers": 2, "hidden_size": 0, "vocab_size": 300}), true),
        ("model", json!({"layers": 2, "hidden_size": 32, "vocab_size": 3}), true),
        ("texts", json!([{"text": "a", "prompt_name": null, "ids": [], "rows": []}]), true),
        ("texts", json!([{"text": "a", "prompt_name": null, "ids": [1], "rows": [1]}]), true),
        ("model", json!({"layers": 3, "hidden_size": 32, "vocab_size": 300}), false),
        ("model", json!({"layers": 2, "hidden_size": 16, "vocab_size": 300}), false),
        ("model", json!({"layers": usize::MAX, "hidden_size": 32, "vocab_size": 300}), false),
        ("poolings", json!(["mean", "cls"]), false),
    ] {
        let error = damaged(|scratch| set_facts(scratch, |facts| facts[field] = value.clone()));
        let of_a_tensor = !alone && matches!(error, GoldenError::Tensor { .. });
        let is_refused = of_a_tensor || matches!(error, GoldenError::Invalid { .. });
        assert!(is_refused, "{field} {value}: {error:?}");
    }
    let nan = damaged(|scratch| {
        scratch.edit_tensor(GOLDEN, "hidden.0", |bytes| bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes()));
    });
    says(nan, &["hidden.0", "not finite"]);
}

/// A model of any kind, asked about a golden file.
type Ask = Box<dyn Fn(&Golden) -> Result<Verification, Error>>;

/// A model of each kind that golden files are made for.
fn kinds() -> Vec<(&'static str, Ask)> {
    let options = golden::own_limit;
    let vectors = |case| Embedder::load_with(golden::directory(case), options()).unwrap();
    let [causal, one_type] = ["qwen3-f32", "families/xlm-roberta-f32"].map(vectors);
    let folder = |case| golden::directory(case);
    let sparse = SparseEmbedder::load_with(folder("families/splade-bert"), options()).unwrap();
    let tokens = MultiVectorEmbedder::load_with(folder("families/late-interaction-bert"), options()).unwrap();
    let pairs = Reranker::load_with(folder("families/reranker-bert-sigmoid"), options()).unwrap();
    vec![
        ("qwen3-f32", Box::new(move |golden| causal.verify(Some(golden)))),
        ("families/xlm-roberta-f32", Box::new(move |golden| one_type.verify(Some(golden)))),
        ("families/splade-bert", Box::new(move |golden| sparse.verify(Some(golden)))),
        ("families/late-interaction-bert", Box::new(move |golden| tokens.verify(Some(golden)))),
        ("families/reranker-bert-sigmoid", Box::new(move |golden| pairs.verify(Some(golden)))),
    ]
}

/// What becomes of a tensor's entry in a file's header.
type Change = fn(&mut Value);

/// What is wrong with an altered golden file, for the file's reader or the model that is asked about it.
fn refusal((_scratch, golden): (Scratch, Result<Golden, GoldenError>), ask: &Ask) -> String {
    match golden {
        Ok(golden) => ask(&golden).unwrap_err().to_string(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn texts_of_a_golden_file_that_no_model_takes_are_refused_and_the_model_goes_on() {
    for (case, ask) in kinds() {
        let sound = Golden::open(golden::directory(case).join("golden.safetensors")).unwrap();
        let tokens = sound.texts()[0].ids.len();
        let most = |count: usize, kind: u64| vec![kind; count];
        let mut two_types = most(tokens, 0);
        two_types[tokens - 1] = 1;
        let mut wrong = vec![
            ("ids", json!([]), "0 tokens"),
            ("ids", json!(most(tokens, -1_i64 as u64)), "invalid value"),
            ("ids", json!(most(tokens, u64::from(u32::MAX))), "of a vocabulary of"),
            ("ids", json!(most(tokens, 1 << 30)), "of a vocabulary of"),
            ("ids", json!([-1]), "invalid value"),
            ("rows", json!([tokens]), "rows"),
            ("token_type_ids", json!([]), "not one for each id"),
            ("token_type_ids", json!(most(tokens + 1, 0)), "not one for each id"),
            ("token_type_ids", json!(most(tokens, 2)), "not one for each id"),
            ("attention_mask", json!(most(tokens, 0)), "no mask of 1"),
            ("attention_mask", json!(most(tokens + 1, 1)), "no mask of 1"),
            ("side", json!("sideways"), "neither query nor document"),
        ];
        if !case.contains("-bert") {
            wrong.push(("token_type_ids", json!(two_types), "where the model has two"));
        }
        if !case.contains("late") {
            let mut mask = most(tokens, 1);
            mask[tokens - 1] = 0;
            wrong.push(("attention_mask", json!(mask), "only late interaction"));
        }
        for (field, value, why) in wrong {
            let edit = |facts: &mut Value| facts["texts"][0][field] = value.clone();
            let error = refusal(altered(case, |scratch| set_facts(scratch, edit)), &ask);
            let said = [GOLDEN, why, "tools/golden/make.py"].iter().all(|part| error.contains(part));
            assert!(said, "{case}, {field} {value}: {error}");
        }
        assert!(ask(&sound).unwrap().passed, "{case}");
    }
}

#[test]
fn more_tokens_than_a_model_of_any_kind_takes_are_refused() {
    for (case, ask) in kinds() {
        let long =
            json!({"text": "a", "query": "b", "prompt_name": null, "ids": vec![1; 100_000], "rows": []});
        let (_scratch, golden) =
            altered(case, |scratch| set_facts(scratch, |facts| facts["texts"] = json!([long])));
        let error = ask(&golden.unwrap()).unwrap_err();
        says(format!("{case}: {error}"), &["text 0: it has 100000 token ids, but the limit is", GOLDEN]);
    }
}

#[test]
fn tensors_of_another_shape_type_or_width_are_refused_by_name_for_every_kind() {
    for (case, ask) in kinds() {
        let sound = fs::read(golden::directory(case).join("golden.safetensors")).unwrap();
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&sound).unwrap();
        let names = metadata.tensors().into_keys().filter(|name| {
            name == "directions"
                || ["embedding.0", "hidden.0", "sketch.0", "tokens.0", "sparse.0", "score.0"]
                    .contains(&&name[..])
        });
        for name in names {
            let changes: [(&str, Change); 3] = [
                ("flat", |tensor| {
                    let numbers = |shape: &Value| {
                        shape.as_array().unwrap().iter().map(|dim| dim.as_u64().unwrap()).product::<u64>()
                    };
                    tensor["shape"] = json!([1, 1, numbers(&tensor["shape"]), 1]);
                }),
                ("type", |tensor| tensor["dtype"] = json!("I32")),
                ("wide", |tensor| {
                    // As many numbers in rows of half the width, or of no width at all.
                    let shape = tensor["shape"].as_array_mut().unwrap();
                    let last = shape.len() - 1;
                    match shape[last].as_u64().unwrap() {
                        width if last > 0 && width % 2 == 0 => {
                            shape[last] = json!(width / 2);
                            shape[last - 1] = json!(shape[last - 1].as_u64().unwrap() * 2);
                        }
                        _ => shape.push(json!(1)),
                    }
                }),
            ];
            for (what, change) in changes {
                let edit = |scratch: &Scratch| {
                    scratch.edit_header(GOLDEN, |header| change(&mut header[&name]));
                };
                let error = refusal(altered(case, edit), &ask);
                says(format!("{case}, {what}: {error}"), &[GOLDEN, &name]);
            }
        }
    }
}

#[test]
fn files_that_are_no_golden_files_are_refused_before_they_are_read() {
    let (scratch, name) = (Scratch::of("qwen3-f32"), GOLDEN);
    let refused = || Golden::open(scratch.file(name)).unwrap_err().to_string();
    // Of a terabyte nothing but a hole.
    fs::File::create(scratch.file(name)).unwrap().set_len(1 << 40).unwrap();
    assert!(refused().contains("bytes, but at most"), "{}", refused());
    scratch.write(name, [&(64_u64 << 20).to_le_bytes()[..], &vec![b' '; 64 << 20]].concat());
    assert!(refused().contains("its header has 67108864 bytes"), "{}", refused());
    scratch.write(name, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n");
    assert!(refused().contains("git lfs pull"), "{}", refused());
    fs::remove_file(scratch.file(name)).unwrap();
    std::os::unix::fs::symlink("/dev/zero", scratch.file(name)).unwrap();
    assert!(refused().contains("not a regular file"), "{}", refused());
}
