//! Damaged checkpoints: each gives an error that names the file and, where there is one, the tensor or field.

use std::fs;
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mlx_embed::{
    Checkpoint, CheckpointError, Embedder, Error, InputError, LoadOptions, PoolingMode, State, TextError,
};
use mlx_embed_tests::golden;
use mlx_embed_tests::scratch::Scratch;
use serde_json::{Value, json};

const WEIGHTS: &str = "model.safetensors";
const Q_PROJ: &str = "model.layers.0.self_attn.q_proj.weight";

/// The error that loading gives; its text names each of `mentions`.
fn error(dir: &Path, mentions: &[&str]) -> Error {
    let error = Embedder::load_with(dir, golden::load_options()).expect_err("damaged, so it must not load");
    let text = error.to_string();
    for mention in mentions {
        assert!(text.contains(mention), "{text:?} does not mention {mention:?}");
    }
    error
}

macro_rules! assert_error {
    ($dir:expr, $mentions:expr, $($variant:tt)+) => {
        let error = error($dir, &$mentions);
        assert!(matches!(error, Error::Checkpoint(CheckpointError::$($variant)+)), "{error:?}");
    };
}

fn set(scratch: &Scratch, field: &str, value: Value) {
    scratch.edit_json("config.json", |config| {
        config.insert(field.into(), value);
    });
}

fn tensor<'a>(header: &'a mut serde_json::Map<String, Value>, name: &str) -> &'a mut Value {
    header.get_mut(name).expect("the tensor is in the header")
}

// The directory and its files.

#[test]
fn a_directory_that_is_not_there() {
    assert_error!(Path::new("no/such/model"), ["no/such/model", "config.json"], NoDirectory { .. });
}

#[test]
fn a_file_instead_of_a_directory() {
    let scratch = Scratch::of("qwen3-f32");
    assert_error!(&scratch.file("config.json"), ["config.json"], NoDirectory { .. });
}

#[test]
fn an_empty_directory() {
    let dir = tempfile::tempdir().unwrap();
    assert_error!(dir.path(), ["config.json"], MissingFile { .. });
}

#[test]
fn no_weights() {
    let scratch = Scratch::of("qwen3-f32");
    fs::remove_file(scratch.file(WEIGHTS)).unwrap();
    assert_error!(scratch.path(), [WEIGHTS], MissingFile { .. });
}

#[test]
fn no_tokenizer() {
    let scratch = Scratch::of("qwen3-f32");
    fs::remove_file(scratch.file("tokenizer.json")).unwrap();
    let error = error(scratch.path(), &["tokenizer.json", "missing"]);
    assert!(matches!(error, Error::Text(TextError::MissingTokenizer { .. })));
}

// Files that ask for memory or time out of proportion.

/// A file of so many bytes that takes no space.
fn large(scratch: &Scratch, name: &str, bytes: u64) -> fs::File {
    let file = fs::File::create(scratch.file(name)).expect("the file is made");
    file.set_len(bytes).expect("the file system has files with holes");
    file
}

#[test]
fn json_files_of_hundreds_of_megabytes_are_not_read() {
    for name in ["config.json", "model.safetensors.index.json", "config_sentence_transformers.json"] {
        let scratch = Scratch::of("qwen3-f32");
        large(&scratch, name, 120 << 20);
        // Beside the one file of weights nothing reads an index.
        if name.contains("index") {
            fs::remove_file(scratch.file(WEIGHTS)).unwrap();
        }
        assert_error!(scratch.path(), [name, "has 125829120 bytes"], Io { .. });
    }
}

#[test]
fn a_tokenizer_of_hundreds_of_megabytes_is_not_read() {
    let scratch = Scratch::of("qwen3-f32");
    large(&scratch, "tokenizer.json", 120 << 20);
    let error = error(scratch.path(), &["tokenizer.json", "has 125829120 bytes"]);
    assert!(matches!(error, Error::Text(TextError::InvalidTokenizer { .. })), "{error:?}");
}

#[test]
fn a_header_of_a_hundred_megabytes_is_not_parsed() {
    use std::io::Write;
    let scratch = Scratch::of("qwen3-f32");
    let mut file = large(&scratch, WEIGHTS, 100 << 20);
    file.write_all(&(99_u64 << 20).to_le_bytes()).unwrap();
    assert_error!(scratch.path(), [WEIGHTS, "its header has 103809024 bytes"], NotSafetensors { .. });
}

#[test]
fn a_tokenizer_whose_replacements_double_is_refused() {
    let scratch = Scratch::of("qwen3-f32");
    let doubles = json!({ "type": "Replace", "pattern": { "String": "a" }, "content": "aa" });
    scratch.edit_json("tokenizer.json", |tokenizer| {
        tokenizer["normalizer"] = json!({ "type": "Sequence", "normalizers": vec![doubles; 40] });
    });
    let error = error(scratch.path(), &["tokenizer.json", "`normalizer` may make"]);
    assert!(matches!(error, Error::Text(TextError::InvalidTokenizer { .. })), "{error:?}");
}

#[test]
fn a_template_of_millions_of_ids_is_refused() {
    let scratch = Scratch::of("qwen3-f32");
    scratch.edit_json("tokenizer.json", |tokenizer| {
        let template = &mut tokenizer["post_processor"]["processors"][1];
        let special = &mut template["special_tokens"]["<|endoftext|>"];
        special["ids"] = vec![285; 3_000_000].into();
        special["tokens"] = vec!["<|endoftext|>"; 3_000_000].into();
    });
    let error = error(scratch.path(), &["tokenizer.json", "`post_processor` has"]);
    assert!(matches!(error, Error::Text(TextError::InvalidTokenizer { .. })), "{error:?}");
}

#[test]
fn a_tokenizer_that_is_not_one() {
    let scratch = Scratch::of("qwen3-f32");
    scratch.write("tokenizer.json", "{}");
    let error = error(scratch.path(), &["tokenizer.json"]);
    assert!(matches!(error, Error::Text(TextError::InvalidTokenizer { .. })));
}

#[test]
fn a_tokenizer_on_which_its_library_panics() {
    let scratch = Scratch::of("qwen3-f32");
    let text = fs::read_to_string(scratch.file("tokenizer.json")).unwrap();
    assert!(text.contains("\"decoder\":"));
    scratch.write("tokenizer.json", text.replacen("\"decoder\":", "\"decoder\": {\"type\" 1}, \"was\":", 1));
    let error = error(scratch.path(), &["tokenizer.json"]);
    assert!(matches!(error, Error::Text(TextError::InvalidTokenizer { .. })), "{error:?}");
}

#[test]
fn a_missing_shard() {
    let scratch = Scratch::of("qwen3-sharded-bf16");
    let shard = "model-00002-of-00003.safetensors";
    fs::remove_file(scratch.file(shard)).unwrap();
    assert_error!(scratch.path(), ["model.safetensors.index.json", shard], MissingShard { .. });
}

#[test]
fn a_shard_outside_the_directory() {
    let scratch = Scratch::of("qwen3-sharded-bf16");
    scratch.edit_json("model.safetensors.index.json", |index| {
        index["weight_map"]["x"] = json!("../elsewhere.safetensors");
    });
    assert_error!(scratch.path(), ["../elsewhere.safetensors"], MissingShard { .. });
}

#[test]
fn the_same_tensor_in_two_files() {
    let scratch = Scratch::of("qwen3-f32");
    // Beside model.safetensors other files don't count.
    fs::copy(scratch.file(WEIGHTS), scratch.file("model-00001.safetensors")).unwrap();
    fs::rename(scratch.file(WEIGHTS), scratch.file("model-00002.safetensors")).unwrap();
    assert_error!(scratch.path(), ["twice"], InvalidTensor { .. });
}

#[test]
fn pipes_in_place_of_files_do_not_hang() {
    for (file, replaced) in [("config.json", "not a regular file"), (WEIGHTS, "not a regular file")] {
        let scratch = Scratch::of("qwen3-f32");
        fs::remove_file(scratch.file(file)).unwrap();
        let made = std::process::Command::new("mkfifo").arg(scratch.file(file)).status().unwrap();
        assert!(made.success());
        assert_error!(scratch.path(), [file, replaced], Io { .. });
    }
}

#[test]
fn weights_in_another_format_are_named() {
    for (name, format) in [
        ("pytorch_model-00001-of-00002.bin", "PyTorch"),
        ("model-q4_k_m.gguf", "GGUF"),
        ("adapter_model.safetensors", "LoRA"),
    ] {
        let scratch = Scratch::of("qwen3-f32");
        fs::rename(scratch.file(WEIGHTS), scratch.file(name)).unwrap();
        assert_error!(scratch.path(), [name, format], WeightsFormat { .. });
    }
}

/// `tests/golden` holds what is read of one that is whole.
#[test]
fn pytorchs_weights_are_a_state_dict_or_an_error() {
    const PICKLED: &str = "pytorch_model.bin";
    let bin = || Scratch::of("families/bert-pickled-f16");
    let refused = |scratch: &Scratch, parts: &[&str]| {
        let options = LoadOptions { max_tokens: None, ..golden::load_options() };
        let error = Embedder::load_with(scratch.path(), options).unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    };
    let whole = fs::read(bin().file(PICKLED)).unwrap();
    // Half a file, one of torch.save before version 1.6, something else, and one of Git LFS.
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
    for (bytes, parts) in [
        (&whole[..whole.len() / 2], &["cut short", "save_file"][..]),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", &["since version 1.6", "save_file"]),
        (b"GGUF\x03\0\0\0", &["GGUF"]),
        (pointer, &["git lfs pull"]),
    ] {
        let scratch = bin();
        scratch.write(PICKLED, bytes);
        refused(&scratch, &[PICKLED]);
        refused(&scratch, parts);
    }
    // Another shape than the config's, and a tensor that is not there.
    let scratch = bin();
    scratch.edit_json("config.json", |config| drop(config.insert("vocab_size".into(), 209.into())));
    refused(&scratch, &[PICKLED, "word_embeddings", "[208, 64]", "[209, 64]"]);
    let scratch = bin();
    scratch.edit_json("config.json", |config| drop(config.insert("num_hidden_layers".into(), 2.into())));
    refused(&scratch, &["encoder.layer.1.", "no tensor"]);
    // In parts, of which one is missing; all of them; and beside safetensors, which go before.
    let scratch = bin();
    let index = |part: &str| format!(r#"{{"weight_map": {{"a": "{PICKLED}.1", "b": "{part}"}}}}"#);
    fs::rename(scratch.file(PICKLED), scratch.file("part-1.bin")).unwrap();
    scratch.write(
        "pytorch_model.bin.index.json",
        index("part-2.bin").replace("pytorch_model.bin.1", "part-1.bin"),
    );
    refused(&scratch, &["pytorch_model.bin.index.json", "part-2.bin"]);
    scratch.write(
        "pytorch_model.bin.index.json",
        index("part-1.bin").replace("pytorch_model.bin.1", "part-1.bin"),
    );
    assert!(Checkpoint::open(scratch.path()).is_ok());
    let scratch = Scratch::of("families/bert-f32");
    scratch.write(PICKLED, "nobody reads it");
    assert!(Checkpoint::open(scratch.path()).is_ok());
}

#[test]
fn what_stands_in_place_of_safetensors_is_named() {
    for (start, format) in [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git LFS pointer"),
        ("GGUF\u{3}\0\0\0", "GGUF"),
        ("PK\u{3}\u{4}archive/data.pkl", "PyTorch"),
    ] {
        let scratch = Scratch::of("qwen3-f32");
        scratch.write(WEIGHTS, start);
        assert_error!(scratch.path(), [WEIGHTS, format], NotSafetensors { .. });
    }
}

#[test]
fn a_git_lfs_pointer_in_place_of_any_file() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
    let scratch = Scratch::of("st-mean");
    scratch.write("1_Pooling/config.json", pointer);
    assert_error!(scratch.path(), ["1_Pooling/config.json", "git lfs pull"], Io { .. });
    let scratch = Scratch::of("st-mean");
    scratch.write("tokenizer.json", pointer);
    error(scratch.path(), &["tokenizer.json", "git lfs pull"]);
}

#[cfg(unix)]
#[test]
fn a_dangling_link_is_no_file_left_out() {
    for name in [
        "config_sentence_transformers.json",
        "sentence_bert_config.json",
        "modules.json",
        "1_Pooling",
        "adapter_config.json",
        "model.safetensors",
    ] {
        let scratch = Scratch::of("st-last-token");
        let path = scratch.file(name);
        if path.is_dir() {
            fs::remove_dir_all(&path).unwrap();
        } else if path.exists() {
            fs::remove_file(&path).unwrap();
        }
        std::os::unix::fs::symlink("../../blobs/gone", &path).unwrap();
        assert_error!(scratch.path(), [name, "blobs/gone", "which is not there"], Io { .. });
    }
}

// Safetensors.

#[test]
fn weights_that_are_not_safetensors() {
    let scratch = Scratch::of("qwen3-f32");
    scratch.write(WEIGHTS, "<html><body>404: this file was never downloaded</body></html>");
    assert_error!(scratch.path(), [WEIGHTS], NotSafetensors { .. });
}

#[test]
fn empty_weights() {
    let scratch = Scratch::of("qwen3-f32");
    scratch.write(WEIGHTS, "");
    assert_error!(scratch.path(), [WEIGHTS, "0 bytes"], NotSafetensors { .. });
}

#[test]
fn truncated_weights() {
    let scratch = Scratch::of("qwen3-f32");
    let bytes = fs::read(scratch.file(WEIGHTS)).unwrap();
    scratch.write(WEIGHTS, &bytes[..bytes.len() - 100]);
    assert_error!(scratch.path(), [WEIGHTS, "truncated"], WrongLength { .. });
}

#[test]
fn weights_truncated_inside_the_header() {
    let scratch = Scratch::of("qwen3-f32");
    let bytes = fs::read(scratch.file(WEIGHTS)).unwrap();
    scratch.write(WEIGHTS, &bytes[..100]);
    assert_error!(scratch.path(), [WEIGHTS, "100"], NotSafetensors { .. });
}

#[test]
fn a_header_longer_than_the_file() {
    let scratch = Scratch::of("qwen3-f32");
    let mut bytes = fs::read(scratch.file(WEIGHTS)).unwrap();
    bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    scratch.write(WEIGHTS, bytes);
    assert_error!(scratch.path(), [WEIGHTS, "header"], NotSafetensors { .. });
}

#[test]
fn overlapping_tensors() {
    let scratch = Scratch::of("qwen3-f32");
    scratch.edit_header(WEIGHTS, |header| {
        let offsets = &mut tensor(header, Q_PROJ)["data_offsets"];
        let (start, end) = (offsets[0].as_u64().unwrap(), offsets[1].as_u64().unwrap());
        *offsets = json!([start - 16, end - 16]);
    });
    assert_error!(scratch.path(), [WEIGHTS, "overlap"], InvalidTensor { .. });
}

#[test]
fn offsets_outside_the_file() {
    let scratch = Scratch::of("qwen3-f32");
    let length = fs::metadata(scratch.file(WEIGHTS)).unwrap().len();
    scratch.edit_header(WEIGHTS, |header| {
        header.insert(
            "extra".into(),
            json!({"dtype": "F32", "shape": [4], "data_offsets": [length, length + 16]}),
        );
    });
    assert_error!(scratch.path(), [WEIGHTS, "extra"], InvalidTensor { .. });
}

#[test]
fn offsets_that_do_not_fit_the_shape() {
    let scratch = Scratch::of("qwen3-f32");
    scratch.edit_header(WEIGHTS, |header| tensor(header, Q_PROJ)["shape"] = json!([1, 1]));
    assert_error!(scratch.path(), [Q_PROJ, "shape [1, 1]"], InvalidTensor { .. });
}

#[test]
fn a_shape_whose_size_overflows() {
    let scratch = Scratch::of("qwen3-f32");
    scratch
        .edit_header(WEIGHTS, |header| tensor(header, Q_PROJ)["shape"] = json!([1_u64 << 40, 1_u64 << 40]));
    assert_error!(scratch.path(), [Q_PROJ, "too large"], InvalidTensor { .. });
}

#[test]
fn an_unknown_dtype() {
    let scratch = Scratch::of("qwen3-f32");
    scratch.edit_header(WEIGHTS, |header| tensor(header, Q_PROJ)["dtype"] = json!("F31"));
    assert_error!(scratch.path(), [Q_PROJ, "F31"], InvalidTensor { .. });
}

#[test]
fn a_dtype_that_the_model_can_not_use() {
    let scratch = Scratch::of("qwen3-f32");
    scratch.edit_header(WEIGHTS, |header| tensor(header, Q_PROJ)["dtype"] = json!("I32"));
    assert_error!(scratch.path(), ["layers.0.self_attn.q_proj.weight", "I32"], WrongDtype { .. });
}

#[test]
fn a_missing_tensor() {
    let scratch = Scratch::of("qwen3-f32");
    scratch.edit_header(WEIGHTS, |header| {
        let moved = header.remove(Q_PROJ).unwrap();
        header.insert("unrelated".into(), moved);
    });
    assert_error!(scratch.path(), ["layers.0.self_attn.q_proj.weight"], MissingTensor { .. });
}

#[test]
fn missing_head_norms_of_a_qwen3() {
    let scratch = Scratch::of("qwen2-f32");
    set(&scratch, "model_type", json!("qwen3"));
    set(&scratch, "architectures", json!(["Qwen3ForCausalLM"]));
    set(&scratch, "head_dim", json!(8));
    assert_error!(scratch.path(), ["_norm.weight"], MissingTensor { .. });
}

#[test]
fn a_shape_that_the_config_does_not_ask_for() {
    let scratch = Scratch::of("qwen3-f32");
    set(&scratch, "intermediate_size", json!(44));
    assert_error!(scratch.path(), ["mlp.gate_proj.weight", "44"], WrongShape { .. });
}

#[test]
fn more_layers_than_the_weights_have() {
    let scratch = Scratch::of("qwen3-f32");
    set(&scratch, "num_hidden_layers", json!(9));
    assert_error!(scratch.path(), ["layers."], MissingTensor { .. });
}

// config.json.

#[test]
fn a_config_that_is_not_json() {
    let scratch = Scratch::of("qwen3-f32");
    scratch.write("config.json", "{\"model_type\": ");
    assert_error!(scratch.path(), ["config.json", "line 1"], Json { .. });
}

#[test]
fn every_needed_field_is_asked_for_by_name() {
    for field in [
        "model_type",
        "hidden_size",
        "num_hidden_layers",
        "intermediate_size",
        "num_attention_heads",
        "vocab_size",
        "max_position_embeddings",
        "rms_norm_eps",
        "rope_theta",
    ] {
        let scratch = Scratch::of("qwen3-f32");
        scratch.edit_json("config.json", |config| {
            config.remove(field).expect("the field was there");
        });
        assert_error!(scratch.path(), ["config.json", field], MissingField { .. });
    }
}

#[test]
fn an_unsupported_architecture() {
    let scratch = Scratch::of("qwen3-f32");
    set(&scratch, "model_type", json!("t5"));
    assert_error!(scratch.path(), ["t5", "qwen3"], UnsupportedArchitecture { .. });
}

#[test]
fn numbers_that_make_no_model() {
    for (field, value) in [
        ("num_attention_heads", json!(0)),
        ("num_key_value_heads", json!(0)),
        ("num_key_value_heads", json!(3)),
        ("num_hidden_layers", json!(0)),
        ("hidden_size", json!(-1)),
        ("head_dim", json!(7)),
        ("head_dim", json!("large")),
        ("vocab_size", json!(1_u64 << 40)),
        ("rope_theta", json!(0)),
        ("rms_norm_eps", json!(-1)),
        ("hidden_act", json!("gelu")),
        ("rope_scaling", json!({"type": "unheard-of"})),
        ("rope_scaling", json!({"type": "linear", "factor": 0})),
        (
            "rope_scaling",
            json!({"type": "longrope", "short_factor": [1, 2], "long_factor": [1, 2], "original_max_position_embeddings": 9}),
        ),
    ] {
        let scratch = Scratch::of("qwen3-f32");
        set(&scratch, field, value.clone());
        let error = error(scratch.path(), &["config.json"]);
        assert!(
            matches!(error, Error::Checkpoint(CheckpointError::InvalidField { .. })),
            "{field} {value}: {error:?}"
        );
    }
}

#[test]
fn rope_scaling_without_its_factor() {
    let scratch = Scratch::of("qwen3-f32");
    set(&scratch, "rope_scaling", json!({"rope_type": "yarn"}));
    assert_error!(scratch.path(), ["rope_scaling.factor"], MissingField { .. });
}

#[test]
fn a_window_that_texts_outgrow_is_honoured() {
    let scratch = Scratch::of("qwen2-f32");
    scratch.edit_json("config.json", |config| {
        config.insert("use_sliding_window".into(), json!(true));
        config.insert("sliding_window".into(), json!(16));
        config.insert("max_window_layers".into(), json!(1));
    });
    let embedder = Embedder::load_with(scratch.path(), golden::load_options()).unwrap();
    assert_eq!(embedder.info().config.layer_windows, [None, Some(16)]);
}

#[test]
fn a_length_limit_that_leaves_no_room() {
    let scratch = Scratch::of("st-last-token");
    set(&scratch, "max_position_embeddings", json!(1));
    let error = Embedder::load(scratch.path()).unwrap_err();
    assert!(matches!(error, Error::Checkpoint(CheckpointError::InvalidField { .. })), "{error:?}");
}

// Quantisation.

#[test]
fn a_quantisation_that_mlx_does_not_have() {
    let scratch = Scratch::of("qwen3-affine-4bit-g64");
    set(&scratch, "quantization", json!({"group_size": 48, "bits": 4}));
    assert_error!(scratch.path(), ["quantization.bits", "groups of 48"], InvalidField { .. });
}

#[test]
fn an_unknown_quantisation_mode() {
    let scratch = Scratch::of("qwen3-affine-4bit-g64");
    set(&scratch, "quantization", json!({"group_size": 64, "bits": 4, "mode": "fp2"}));
    assert_error!(scratch.path(), ["quantization.mode", "fp2"], InvalidField { .. });
}

#[test]
fn a_quantisation_of_another_library() {
    let scratch = Scratch::of("qwen3-f32");
    set(&scratch, "quantization_config", json!({"quant_method": "gptq", "bits": 4}));
    assert_error!(scratch.path(), ["gptq", "mlx_lm.convert"], InvalidField { .. });
}

#[test]
fn scales_without_a_quantisation_entry() {
    let scratch = Scratch::of("qwen3-affine-4bit-g64");
    scratch.edit_json("config.json", |config| {
        config.remove("quantization");
        config.remove("quantization_config");
    });
    assert_error!(scratch.path(), ["config.json", "scales"], UnsupportedQuantization { .. });
}

#[test]
fn an_entry_that_contradicts_the_weights() {
    let scratch = Scratch::of("qwen3-affine-4bit-g64");
    let entry = json!({"group_size": 64, "bits": 4, "model.embed_tokens": {"group_size": 64, "bits": 8}});
    set(&scratch, "quantization", entry);
    assert_error!(scratch.path(), ["embed_tokens.weight"], WrongShape { .. });
}

#[test]
fn scales_that_fit_no_packing() {
    let scratch = Scratch::of("qwen3-affine-4bit-g64");
    scratch.edit_tensors(WEIGHTS, |tensors| {
        let (_, shape, bytes) = tensors.get_mut("model.embed_tokens.scales").unwrap();
        shape[1] *= 3;
        *bytes = bytes.repeat(3);
    });
    assert_error!(scratch.path(), ["embed_tokens", "no packing"], UnsupportedQuantization { .. });
}

#[test]
fn an_entry_for_a_matrix_that_is_dense() {
    let scratch = Scratch::of("qwen3-f32");
    let entry = json!({"group_size": 32, "bits": 4, "model.layers.0.self_attn.q_proj": {"group_size": 32, "bits": 4}});
    set(&scratch, "quantization", entry);
    assert_error!(scratch.path(), ["layers.0.self_attn.q_proj"], WrongDtype { .. });
}

// sentence-transformers files.

#[test]
fn a_module_without_its_settings() {
    let scratch = Scratch::of("st-mean");
    let modules = json!([
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
    ]);
    scratch.write("modules.json", modules.to_string());
    assert_error!(scratch.path(), ["2_Dense/config.json"], MissingFile { .. });
}

#[test]
fn a_pooling_that_is_turned_on_and_unknown() {
    let scratch = Scratch::of("st-mean");
    scratch.edit_json("1_Pooling/config.json", |config| {
        config.insert("pooling_mode_median_tokens".into(), json!(true));
        config.remove("pooling_mode");
    });
    let parts = ["1_Pooling/config.json", "pooling_mode_median_tokens", "pooling_mode_cls_token"];
    assert_error!(scratch.path(), parts, InvalidField { .. });
}

#[test]
fn a_module_for_vectors_of_another_width() {
    let of = |case: &str, file: &str, field: &str, value: Value, mentions: &[&str]| {
        let scratch = Scratch::of(case);
        scratch.edit_json(file, |config| {
            config.insert(field.into(), value);
        });
        let options = LoadOptions { max_tokens: None, ..golden::load_options() };
        let error = Embedder::load_with(scratch.path(), options).unwrap_err().to_string();
        assert!(mentions.iter().all(|mention| error.contains(mention)), "{error}");
    };
    let dense = ["2_Dense/config.json", "in_features", "is 64", "128 numbers", "cls+mean"];
    let case = "families/modules-dense-activations";
    of(case, "1_Pooling/config.json", "pooling_mode_mean_tokens", json!(true), &dense);
    let norm = ["2_LayerNorm/config.json", "dimension", "is 32", "64 numbers"];
    of("families/modules-layer-norm", "2_LayerNorm/config.json", "dimension", json!(32), &norm);
}

/// A checkpoint with other fields in an object of config.json, and what the error names.
fn refused_with(case: &str, object: &str, fields: Value, mentions: &[&str]) {
    let scratch = Scratch::of(case);
    scratch.edit_json("config.json", |config| {
        let path = object.split('.').filter(|name| !name.is_empty());
        let object = path.fold(config, |at, name| at[name].as_object_mut().expect("an object"));
        object.extend(fields.as_object().expect("fields").clone());
    });
    error(scratch.path(), &[&["config.json"], mentions].concat());
}

#[test]
fn an_embedding_gemma_2_that_is_another_model() {
    let text = |fields, mentions: &[&str]| {
        refused_with("families/embedding-gemma2-f32", "text_config", fields, mentions);
    };
    text(json!({"model_type": "gemma3_text"}), &["text_config.model_type", "embedding_gemma2_text"]);
    text(json!({"is_causal": true}), &["text_config.is_causal", "no causal mask"]);
    text(json!({"per_layer_config": {"2": {}}}), &["text_config.per_layer_config.2", "2 layers"]);
    text(json!({"per_layer_config": {"1": {"sliding_window": 4}}}), &["per_layer_config.1.sliding_window"]);
    text(json!({"per_layer_config": {"1": {}, "01": {}}}), &["text_config.per_layer_config.", "twice"]);
    text(json!({"rope_theta": 1e4}), &["text_config.rope_theta", "rope_parameters"]);
    text(json!({"rope_parameters": {"full_attention": {}}}), &["rope_parameters.sliding_attention"]);
    text(json!({"num_attention_heads": 3}), &["text_config.num_attention_heads"]);
    text(json!({"residual_multiplier": 0.5}), &["text_config.residual_multiplier"]);
    let share = json!({"partial_rotary_factor": 0.5});
    let at = "text_config.rope_parameters.sliding_attention";
    refused_with("families/embedding-gemma2-f32", at, share, &["partial_rotary_factor", "proportional"]);
    refused_with("families/embedding-gemma2-f32", "", json!({"text_config": null}), &["text_config"]);
}

#[test]
fn a_ministral_3_and_a_pplx_embed_that_are_another_model() {
    let ministral = "families/ministral3-is-causal-false-window";
    refused_with(
        ministral,
        "",
        json!({"layer_types": ["full_attention", "sliding_attention"]}),
        &["layer_types"],
    );
    refused_with(ministral, "", json!({"rope_parameters": null, "rope_theta": 1e4}), &["rope_theta"]);
    let beta = json!({"llama_4_scaling_beta": null});
    refused_with(ministral, "rope_parameters", beta, &["rope_parameters.llama_4_scaling_beta"]);
    let pplx = "families/pplx-qwen3";
    refused_with(pplx, "", json!({"use_bidirectional_attention": false}), &["no causal mask"]);
    refused_with(pplx, "", json!({"use_sliding_window": true, "sliding_window": 8}), &["no windows"]);
    refused_with(
        pplx,
        "",
        json!({"architectures": ["PPLXQwen3ContextualModel"]}),
        &["PPLXQwen3ContextualModel"],
    );
    let other = json!({"auto_map": {"AutoModel": "modeling.PPLXQwen3ContextualModel"}});
    refused_with(pplx, "", other, &["auto_map.AutoModel"]);
    // Its module rounds nobody else's vectors.
    let scratch = Scratch::of(pplx);
    set(&scratch, "model_type", json!("qwen3"));
    set(&scratch, "architectures", json!(["Qwen3Model"]));
    set(&scratch, "auto_map", Value::Null);
    assert_error!(scratch.path(), ["modules.json", "st_quantize"], InvalidField { .. });
}

#[test]
fn the_largest_of_states_that_the_model_projects() {
    let max = LoadOptions { pooling: Some(PoolingMode::Max.into()), ..golden::load_options() };
    for case in ["embedding-gemma2-f32", "qwen3-use-bidirectional-attention-linear"] {
        let folder = golden::directory(&format!("families/{case}"));
        let error = Embedder::load_with(folder, max.clone()).unwrap_err();
        assert!(error.to_string().contains("projects each token's state"), "{error}");
    }
}

#[test]
fn a_default_prompt_that_is_not_there() {
    let scratch = Scratch::of("st-last-token");
    scratch.edit_json("config_sentence_transformers.json", |config| {
        config.insert("default_prompt_name".into(), json!("sonnet"));
    });
    assert_error!(scratch.path(), ["config_sentence_transformers.json", "sonnet"], InvalidField { .. });
}

// While in use.

#[test]
fn weights_that_shrink_while_mapped() {
    let scratch = Scratch::of("qwen3-f32");
    let embedder = load_mapped(&scratch);
    embedder.embed(["fine so far"]).unwrap();
    let file = fs::OpenOptions::new().write(true).open(scratch.file(WEIGHTS)).unwrap();
    file.set_len(4096).unwrap();
    if golden::on_gpu() {
        return; // The GPU has its own copy.
    }
    let error = embedder.embed(["and now?"]).unwrap_err();
    assert!(matches!(error, Error::WeightsChanged { .. }), "{error:?}");
    assert!(error.to_string().contains("shrank"), "{error}");
    // Dropping must not touch the lost pages either.
    drop(embedder);
}

/// Names the folder whose weights another process cuts.
const CUT: &str = "MLX_EMBED_TEST_CUT";

/// Loads and embeds as long as it is let. Whatever becomes of the weights, it is an error or a vector.
#[test]
#[ignore = "the process that the next test starts"]
fn loads_and_embeds_for_some_seconds() {
    let Some(folder) = std::env::var_os(CUT) else { return };
    let end = Instant::now() + Duration::from_secs(5);
    let (mut vectors, mut refused) = (0, 0);
    while Instant::now() < end {
        let Ok(embedder) = Embedder::load_with(&folder, golden::load_options()) else {
            refused += 1;
            continue;
        };
        for text in 0..20 {
            match embedder.embed([format!("text {text}, and {vectors} before it")]) {
                Ok(_) => vectors += 1,
                Err(_) => {
                    refused += 1;
                    break;
                }
            }
        }
    }
    println!("vectors: {}, refused: {}", vectors > 0, refused > 0);
}

#[test]
fn weights_that_are_cut_and_written_again_and_again_end_in_errors_and_no_signal() {
    if golden::on_gpu() {
        return; // MLX maps what goes there.
    }
    let scratch = Scratch::of("qwen3-f32");
    let weights = scratch.file(WEIGHTS);
    let whole = fs::read(&weights).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "loads_and_embeds_for_some_seconds", "--ignored", "--nocapture"])
        .env(CUT, scratch.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut file = fs::OpenOptions::new().write(true).open(&weights).unwrap();
    let mut round = 0_u64;
    while child.try_wait().unwrap().is_none() {
        // Whole for longer than it takes to load, now and then.
        std::thread::sleep(Duration::from_millis(if round.is_multiple_of(8) { 100 } else { round % 8 }));
        file.set_len(whole.len() as u64 * (round * 37 % 100) / 100).unwrap();
        std::thread::sleep(Duration::from_millis(round % 3));
        file.rewind().unwrap();
        file.write_all(&whole).unwrap();
        round += 1;
    }
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    let status = child.wait().unwrap();
    assert!(status.success() && said.contains("vectors: true, refused: true"), "{status}: {said}");
}

/// MLX's operations use the file where it is mapped.
fn load_mapped(scratch: &Scratch) -> Embedder {
    let options = LoadOptions { kernels: Some("mlx".into()), ..golden::load_options() };
    Embedder::load_with(scratch.path(), options).expect("a checkpoint that loads")
}

/// Writes into the file, as `cp` and a download that starts over do.
fn write_into(path: &Path) {
    let mut bytes = fs::read(path).expect("a file");
    for byte in bytes.iter_mut().skip(100_000).step_by(2) {
        *byte = byte.wrapping_add(1);
    }
    fs::write(path, bytes).expect("a file");
}

#[test]
fn weights_that_are_written_to_while_mapped() {
    let scratch = Scratch::of("qwen3-f32");
    let embedder = load_mapped(&scratch);
    embedder.embed(["fine so far"]).unwrap();
    embedder.weights_sha256().unwrap();
    // The clock of a file system may have a resolution of some milliseconds.
    std::thread::sleep(std::time::Duration::from_millis(50));
    write_into(&scratch.file(WEIGHTS));
    let error = embedder.weights_sha256().unwrap_err();
    assert!(matches!(error, Error::WeightsChanged { .. }), "{error:?}");
    assert!(error.to_string().contains("written to"), "{error}");
    if golden::on_gpu() {
        return; // The GPU has its own copy.
    }
    let error = embedder.embed(["and now?"]).unwrap_err();
    assert!(matches!(error, Error::WeightsChanged { .. }), "{error:?}");
    // Nothing makes it whole again, and whoever looks after it has to see that.
    let error = embedder.embed(["and still?"]).unwrap_err();
    assert!(matches!(&error, Error::Stopped { reason } if reason.contains("written to")), "{error:?}");
    let State::Dead { reason } = embedder.state() else { panic!("{:?}", embedder.state()) };
    assert!(reason.contains("written to"), "{reason}");
}

#[test]
fn weights_that_are_replaced_by_a_rename_stay_in_use() {
    let scratch = Scratch::of("qwen3-f32");
    let embedder = load_mapped(&scratch);
    let (vector, hash) = (embedder.embed_one("a text").unwrap().vector, embedder.weights_sha256().unwrap());
    let (weights, new) = (scratch.file(WEIGHTS), scratch.file("new"));
    fs::copy(&weights, &new).unwrap();
    write_into(&new);
    fs::rename(&new, &weights).unwrap();
    assert_eq!(embedder.embed_one("a text").unwrap().vector, vector);
    assert_eq!(embedder.weights_sha256().unwrap(), hash);
    // Who loads now gets the new ones.
    assert_ne!(load_mapped(&scratch).weights_sha256().unwrap(), hash);
}

#[test]
fn weights_that_hold_nan_give_an_error_and_no_vector() {
    let scratch = Scratch::of("qwen3-f32");
    let mut bytes = fs::read(scratch.file(WEIGHTS)).unwrap();
    let last = bytes.len() - 4;
    bytes[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    scratch.write(WEIGHTS, bytes);
    let embedder = Embedder::load_with(scratch.path(), golden::load_options()).unwrap();
    let error = embedder.embed(["one", "two"]).unwrap_err();
    assert!(matches!(error, Error::Input { index: 0, source: InputError::NotFinite }), "{error:?}");
}
