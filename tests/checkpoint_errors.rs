//! Damaged checkpoints: each gives an error that names the file and, where there is one, the tensor or field.

use std::fs;
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mlx_embed::{
    Checkpoint, CheckpointError, Embedder, Error, InputError, LoadOptions, PoolingMode, State, TextError,
};
use mlx_embed_tests::compare::says;
use mlx_embed_tests::scratch::Scratch;
use mlx_embed_tests::{child, golden};
use serde_json::{Map, Value, json};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const SHARD: &str = "model-00002-of-00003.safetensors";
const TOKENIZER: &str = "tokenizer.json";
const SETTINGS: &str = "config_sentence_transformers.json";
const POOLING: &str = "1_Pooling/config.json";
const Q_PROJ: &str = "model.layers.0.self_attn.q_proj.weight";

const DENSE: &str = "qwen3-f32";
const PACKED: &str = "qwen3-affine-4bit-g64";
const SHARDED: &str = "qwen3-sharded-bf16";

/// Whether it is the right error.
type Is = fn(&Error) -> bool;

macro_rules! is {
    ($variant:ident) => {
        |error| matches!(error, Error::Checkpoint(CheckpointError::$variant { .. }))
    };
}

const ANY: Is = |_| true;
const NO_TOKENIZER: Is = |error| matches!(error, Error::Text(TextError::MissingTokenizer { .. }));
const BAD_TOKENIZER: Is = |error| matches!(error, Error::Text(TextError::InvalidTokenizer { .. }));

/// Loading a golden case's copy fails once it is damaged, and the message has these parts.
#[track_caller]
fn damaged(what: &str, case: &str, is: Is, parts: &[&str], damage: impl FnOnce(&Scratch)) {
    let scratch = Scratch::of(case);
    damage(&scratch);
    refused(what, scratch.path(), is, parts);
}

#[track_caller]
fn refused(what: &str, dir: &Path, is: Is, parts: &[&str]) {
    let error = Embedder::load_with(dir, golden::load_options()).expect_err(what);
    assert!(is(&error), "{what}: {error:?}");
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{what}: {text:?} does not mention {part:?}");
    }
}

fn set(scratch: &Scratch, field: &str, value: Value) {
    scratch.set(CONFIG, json!({ field: value }));
}

#[test]
fn a_directory_that_holds_no_checkpoint() {
    let (scratch, empty) = (Scratch::of(DENSE), tempfile::tempdir().unwrap());
    refused("it is not there", Path::new("no/such/model"), is!(NoDirectory), &["no/such/model", CONFIG]);
    refused("it is a file", &scratch.file(CONFIG), is!(NoDirectory), &[CONFIG]);
    refused("it is empty", empty.path(), is!(MissingFile), &[CONFIG]);
}

/// A file of so many bytes that takes no space.
fn large(scratch: &Scratch, name: &str, megabytes: u64) -> fs::File {
    let file = fs::File::create(scratch.file(name)).expect("the file is made");
    file.set_len(megabytes << 20).expect("the file system has files with holes");
    file
}

fn rename(scratch: &Scratch, from: &str, to: &str) {
    fs::rename(scratch.file(from), scratch.file(to)).expect("renamed");
}

fn pipe(scratch: &Scratch, name: &str) {
    scratch.remove(name);
    assert!(Command::new("mkfifo").arg(scratch.file(name)).status().expect("mkfifo runs").success());
}

const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";

#[test]
fn files_that_are_missing_or_are_none() {
    damaged("no weights", DENSE, is!(MissingFile), &[WEIGHTS], |s| s.remove(WEIGHTS));
    damaged("no shard", SHARDED, is!(MissingShard), &[INDEX, SHARD], |s| s.remove(SHARD));
    for elsewhere in
        ["../elsewhere.safetensors", "/elsewhere.safetensors", "a/../../elsewhere.safetensors", ""]
    {
        let parts = &[INDEX, "weight_map", elsewhere, "no file beside the index"];
        damaged("a shard elsewhere", SHARDED, is!(InvalidField), parts, |s| {
            s.edit_json(INDEX, |index| index["weight_map"]["x"] = json!(elsewhere))
        });
    }
    damaged("no shard in a folder", SHARDED, is!(MissingShard), &[INDEX, "parts/x.safetensors"], |s| {
        s.edit_json(INDEX, |index| index["weight_map"]["x"] = json!("parts/x.safetensors"))
    });
    damaged("an index of nothing", SHARDED, is!(InvalidField), &[INDEX, "weight_map", "is empty"], |s| {
        (1..=3).for_each(|shard| s.remove(&format!("model-0000{shard}-of-00003.safetensors")));
        s.edit_json(INDEX, |index| index["weight_map"] = json!({}))
    });
    damaged("a tensor in two files", DENSE, is!(InvalidTensor), &["twice"], |s| {
        // Beside model.safetensors other files don't count.
        fs::copy(s.file(WEIGHTS), s.file("model-00001.safetensors")).unwrap();
        rename(s, WEIGHTS, "model-00002.safetensors");
    });
    damaged("a pipe", DENSE, is!(Io), &[CONFIG, "not a regular file"], |s| pipe(s, CONFIG));
    damaged("a pipe of weights", DENSE, is!(Io), &[WEIGHTS, "not a regular file"], |s| pipe(s, WEIGHTS));
    damaged("a Git LFS pointer", "st-mean", is!(Io), &[POOLING, "git lfs pull"], |s| {
        s.write(POOLING, POINTER)
    });
    damaged("a tokenizer's pointer", "st-mean", ANY, &[TOKENIZER, "git lfs pull"], |s| {
        s.write(TOKENIZER, POINTER)
    });
}

#[test]
fn json_files_of_hundreds_of_megabytes_are_not_read() {
    for name in [CONFIG, INDEX, SETTINGS] {
        let scratch = Scratch::of(DENSE);
        large(&scratch, name, 120);
        // Beside the one file of weights nothing reads an index.
        if name == INDEX {
            scratch.remove(WEIGHTS);
        }
        refused(name, scratch.path(), is!(Io), &[name, "has 125829120 bytes"]);
    }
}

#[test]
fn tokenizers_that_are_none_or_ask_for_time_or_memory_out_of_proportion() {
    damaged("no tokenizer", DENSE, NO_TOKENIZER, &[TOKENIZER, "missing"], |s| s.remove(TOKENIZER));
    damaged("another file", DENSE, BAD_TOKENIZER, &[TOKENIZER], |s| s.write(TOKENIZER, "{}"));
    damaged("hundreds of megabytes", DENSE, BAD_TOKENIZER, &[TOKENIZER, "has 125829120 bytes"], |s| {
        drop(large(s, TOKENIZER, 120))
    });
    damaged("one on which its library panics", DENSE, BAD_TOKENIZER, &[TOKENIZER], |s| {
        let text = fs::read_to_string(s.file(TOKENIZER)).unwrap();
        assert!(text.contains("\"decoder\":"));
        s.write(TOKENIZER, text.replacen("\"decoder\":", "\"decoder\": {\"type\" 1}, \"was\":", 1));
    });
    let prefix = "continuing_subword_prefix";
    damaged(
        "merges cut within a letter",
        DENSE,
        BAD_TOKENIZER,
        &[TOKENIZER, "`model.merges`", prefix],
        |s| {
            s.edit_json(TOKENIZER, |tokenizer| tokenizer["model"][prefix] = "\u{e9}".into());
        },
    );
    damaged("replacements that double", DENSE, BAD_TOKENIZER, &[TOKENIZER, "`normalizer` may make"], |s| {
        let doubles = json!({ "type": "Replace", "pattern": { "String": "a" }, "content": "aa" });
        let normalizer = json!({ "type": "Sequence", "normalizers": vec![doubles; 40] });
        s.set(TOKENIZER, json!({ "normalizer": normalizer }));
    });
    damaged("millions of ids", DENSE, BAD_TOKENIZER, &[TOKENIZER, "`post_processor` has"], |s| {
        s.edit_json(TOKENIZER, |tokenizer| {
            let template = &mut tokenizer["post_processor"]["processors"][1];
            let special = &mut template["special_tokens"]["<|endoftext|>"];
            special["ids"] = vec![285; 3_000_000].into();
            special["tokens"] = vec!["<|endoftext|>"; 3_000_000].into();
        });
    });
}

#[test]
fn weights_in_another_format_are_named() {
    for (name, format) in [
        ("pytorch_model-00001-of-00002.bin", "PyTorch"),
        ("model-q4_k_m.gguf", "GGUF"),
        ("adapter_model.safetensors", "LoRA"),
    ] {
        let scratch = Scratch::of(DENSE);
        rename(&scratch, WEIGHTS, name);
        refused(format, scratch.path(), is!(WeightsFormat), &[name, format]);
    }
}

/// `tests/golden` holds what is read of one that is whole.
#[test]
fn pytorchs_weights_are_a_state_dict_or_an_error() {
    const PICKLED: &str = "pytorch_model.bin";
    const PARTS: &str = "pytorch_model.bin.index.json";
    let bin = || Scratch::of("families/bert-pickled-f16");
    let refused = |scratch: &Scratch, parts: &[&str]| {
        says(Embedder::load_with(scratch.path(), golden::own_limit()).unwrap_err(), parts);
    };
    let whole = fs::read(bin().file(PICKLED)).unwrap();
    // Half a file, one of torch.save before version 1.6, something else, and one of Git LFS.
    for (bytes, parts) in [
        (&whole[..whole.len() / 2], &["cut short", "save_file"][..]),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", &["since version 1.6", "save_file"]),
        (b"GGUF\x03\0\0\0", &["GGUF"]),
        (POINTER.as_bytes(), &["git lfs pull"]),
    ] {
        let scratch = bin();
        scratch.write(PICKLED, bytes);
        refused(&scratch, &[&[PICKLED], parts].concat());
    }
    // Another shape than the config's, and a tensor that is not there.
    let scratch = bin();
    set(&scratch, "vocab_size", json!(209));
    refused(&scratch, &[PICKLED, "word_embeddings", "[208, 64]", "[209, 64]"]);
    let scratch = bin();
    set(&scratch, "num_hidden_layers", json!(2));
    refused(&scratch, &["encoder.layer.1.", "no tensor"]);
    // In parts, of which one is missing; all of them; and beside safetensors, which go before.
    let scratch = bin();
    let index = |part: &str| json!({"weight_map": {"a": "part-1.bin", "b": part}}).to_string();
    rename(&scratch, PICKLED, "part-1.bin");
    scratch.write(PARTS, index("part-2.bin"));
    refused(&scratch, &[PARTS, "part-2.bin"]);
    scratch.write(PARTS, index("part-1.bin"));
    assert!(Checkpoint::open(scratch.path()).is_ok());
    let scratch = Scratch::of("families/bert-f32");
    scratch.write(PICKLED, "nobody reads it");
    assert!(Checkpoint::open(scratch.path()).is_ok());
}

#[test]
fn without_a_config_the_first_module_says_what_it_is() {
    let own = "sentence_transformers.models";
    for (class, folder, parts) in [
        ("Router", "", ["modules.json", "which router_config.json lists"]),
        ("Transformer", "0_Transformer", ["0_Transformer/config.json", "it describes the model"]),
        ("Transformer", "", [CONFIG, "it describes the model"]),
    ] {
        let scratch = Scratch::of("st-last-token");
        scratch.remove(CONFIG);
        let module = json!({"idx": 0, "name": "0", "path": folder, "type": format!("{own}.{class}")});
        scratch.write("modules.json", json!([module]).to_string());
        refused(class, scratch.path(), ANY, &parts);
        // Nor does the file that version 0 of sentence-transformers wrote.
        scratch.write(CONFIG, json!({"__version__": "0.3.0"}).to_string());
        let parts = if parts[0] == CONFIG { [CONFIG, "model_type"] } else { parts };
        refused(class, scratch.path(), ANY, &parts);
    }
}

#[cfg(unix)]
#[test]
fn a_dangling_link_is_no_file_left_out() {
    for name in [
        SETTINGS,
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
        refused(name, scratch.path(), is!(Io), &[name, "blobs/gone", "which is not there"]);
    }
}

/// Cuts the weights to what `length` makes of their length.
fn cut_weights(scratch: &Scratch, length: impl FnOnce(usize) -> usize) {
    let bytes = fs::read(scratch.file(WEIGHTS)).expect("a file");
    scratch.write(WEIGHTS, &bytes[..length(bytes.len())]);
}

fn edit_q_proj(scratch: &Scratch, field: &str, value: Value) {
    scratch.edit_header(WEIGHTS, |header| tensor(header)[field] = value);
}

fn tensor(header: &mut Map<String, Value>) -> &mut Value {
    header.get_mut(Q_PROJ).expect("the tensor is in the header")
}

#[test]
fn safetensors_that_are_none() {
    damaged("a page of a web server", DENSE, is!(NotSafetensors), &[WEIGHTS], |s| {
        s.write(WEIGHTS, "<html><body>404: this file was never downloaded</body></html>")
    });
    damaged("nothing", DENSE, is!(NotSafetensors), &[WEIGHTS, "0 bytes"], |s| s.write(WEIGHTS, ""));
    damaged("LFS", DENSE, is!(NotSafetensors), &[WEIGHTS, "Git LFS pointer"], |s| s.write(WEIGHTS, POINTER));
    damaged("GGUF", DENSE, is!(NotSafetensors), &[WEIGHTS, "GGUF"], |s| s.write(WEIGHTS, "GGUF\u{3}\0\0\0"));
    damaged("PyTorch's", DENSE, is!(NotSafetensors), &[WEIGHTS, "PyTorch"], |s| {
        s.write(WEIGHTS, "PK\u{3}\u{4}archive/data.pkl")
    });
    damaged("cut", DENSE, is!(WrongLength), &[WEIGHTS, "truncated"], |s| cut_weights(s, |all| all - 100));
    damaged("cut in the header", DENSE, is!(NotSafetensors), &[WEIGHTS, "100"], |s| cut_weights(s, |_| 100));
    damaged("a header longer than the file", DENSE, is!(NotSafetensors), &[WEIGHTS, "header"], |s| {
        let mut bytes = fs::read(s.file(WEIGHTS)).unwrap();
        bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        s.write(WEIGHTS, bytes);
    });
    damaged(
        "a header of 99 MB",
        DENSE,
        is!(NotSafetensors),
        &[WEIGHTS, "its header has 103809024 bytes"],
        |s| large(s, WEIGHTS, 100).write_all(&(99_u64 << 20).to_le_bytes()).unwrap(),
    );
}

#[test]
fn tensors_that_are_not_what_the_model_needs() {
    damaged("overlapping ones", DENSE, is!(InvalidTensor), &[WEIGHTS, "overlap"], |s| {
        s.edit_header(WEIGHTS, |header| {
            let offsets = &mut tensor(header)["data_offsets"];
            let (start, end) = (offsets[0].as_u64().unwrap(), offsets[1].as_u64().unwrap());
            *offsets = json!([start - 16, end - 16]);
        });
    });
    damaged("offsets outside the file", DENSE, is!(InvalidTensor), &[WEIGHTS, "extra"], |s| {
        let end = fs::metadata(s.file(WEIGHTS)).unwrap().len();
        let extra = json!({"dtype": "F32", "shape": [4], "data_offsets": [end, end + 16]});
        s.edit_header(WEIGHTS, |header| drop(header.insert("extra".into(), extra)));
    });
    damaged("offsets that do not fit the shape", DENSE, is!(InvalidTensor), &[Q_PROJ, "shape [1, 1]"], |s| {
        edit_q_proj(s, "shape", json!([1, 1]))
    });
    damaged("a shape whose size overflows", DENSE, is!(InvalidTensor), &[Q_PROJ, "too large"], |s| {
        edit_q_proj(s, "shape", json!([1_u64 << 40, 1_u64 << 40]))
    });
    damaged("an unknown dtype", DENSE, is!(InvalidTensor), &[Q_PROJ, "F31"], |s| {
        edit_q_proj(s, "dtype", json!("F31"))
    });
    damaged("integers", DENSE, is!(WrongDtype), &[&Q_PROJ["model.".len()..], "I32"], |s| {
        edit_q_proj(s, "dtype", json!("I32"))
    });
    damaged("a missing one", DENSE, is!(MissingTensor), &["layers.0.self_attn.q_proj.weight"], |s| {
        s.edit_header(WEIGHTS, |header| {
            let moved = header.remove(Q_PROJ).unwrap();
            header.insert("unrelated".into(), moved);
        });
    });
    damaged("no head norms of a Qwen3", "qwen2-f32", is!(MissingTensor), &["_norm.weight"], |s| {
        let qwen3 = json!({"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "head_dim": 8});
        s.set(CONFIG, qwen3);
    });
    damaged("another width", DENSE, is!(WrongShape), &["mlp.gate_proj.weight", "44"], |s| {
        set(s, "intermediate_size", json!(44))
    });
    damaged("fewer layers than the config's", DENSE, is!(MissingTensor), &["layers."], |s| {
        set(s, "num_hidden_layers", json!(9))
    });
}

#[test]
fn every_needed_field_is_asked_for_by_name() {
    let scratch = Scratch::of(DENSE);
    scratch.unset(CONFIG, &["model_type"]);
    refused("model_type", scratch.path(), is!(MissingField), &[CONFIG, "model_type"]);
    // Where transformers has another number than the weights.
    for field in
        ["hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads", "vocab_size"]
    {
        let scratch = Scratch::of(DENSE);
        scratch.unset(CONFIG, &[field]);
        refused(field, scratch.path(), is!(InvalidField), &[CONFIG, field, "is missing"]);
        scratch.set(CONFIG, json!({ field: null }));
        refused(field, scratch.path(), is!(MissingField), &[CONFIG, field]);
    }
    // Where two references have different ones.
    for case in ["qwen2-f32", "families/eurobert"] {
        let scratch = Scratch::of(case);
        scratch.unset(CONFIG, &["rope_theta"]);
        refused(case, scratch.path(), is!(MissingField), &[CONFIG, "rope_theta"]);
    }
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
        let scratch = Scratch::with(DENSE, CONFIG, json!({ field: value.clone() }));
        refused(&format!("{field} {value}"), scratch.path(), is!(InvalidField), &[CONFIG]);
    }
}

#[test]
fn a_window_that_texts_outgrow_is_honoured() {
    let window = json!({"use_sliding_window": true, "sliding_window": 16, "max_window_layers": 1});
    let scratch = Scratch::with("qwen2-f32", CONFIG, window);
    let embedder = Embedder::load_with(scratch.path(), golden::load_options()).unwrap();
    assert_eq!(embedder.info().config.layer_windows, [None, Some(16)]);
}

#[test]
fn a_length_limit_that_leaves_no_room() {
    let scratch = Scratch::with("st-last-token", CONFIG, json!({"max_position_embeddings": 1}));
    let error = Embedder::load(scratch.path()).unwrap_err();
    assert!(matches!(error, Error::Checkpoint(CheckpointError::InvalidField { .. })), "{error:?}");
}

#[test]
fn configs_that_make_no_model() {
    damaged("no JSON", DENSE, is!(Json), &[CONFIG, "line 1"], |s| s.write(CONFIG, "{\"model_type\": "));
    damaged("an unsupported architecture", DENSE, is!(UnsupportedArchitecture), &["bloom", "qwen3"], |s| {
        set(s, "model_type", json!("bloom"))
    });
    damaged("rope scaling without its factor", DENSE, is!(MissingField), &["rope_scaling.factor"], |s| {
        set(s, "rope_scaling", json!({"rope_type": "yarn"}))
    });
    damaged("a T5 that is a decoder", "families/t5-f32", is!(InvalidField), &["is_decoder"], |s| {
        set(s, "is_decoder", json!(true))
    });
    damaged("groups of 48", PACKED, is!(InvalidField), &["quantization.bits", "groups of 48"], |s| {
        set(s, "quantization", json!({"group_size": 48, "bits": 4}))
    });
    damaged("an unknown mode", PACKED, is!(InvalidField), &["quantization.mode", "fp2"], |s| {
        set(s, "quantization", json!({"group_size": 64, "bits": 4, "mode": "fp2"}))
    });
    damaged("another library's", DENSE, is!(InvalidField), &["gptq", "mlx_lm.convert"], |s| {
        set(s, "quantization_config", json!({"quant_method": "gptq", "bits": 4}))
    });
    damaged("scales without an entry", PACKED, is!(UnsupportedQuantization), &[CONFIG, "scales"], |s| {
        s.edit_json(CONFIG, |config| {
            config.remove("quantization");
            config.remove("quantization_config");
        });
    });
    damaged("an entry of more bits", PACKED, is!(WrongShape), &["embed_tokens.weight"], |s| {
        let eight = json!({"group_size": 64, "bits": 8});
        set(s, "quantization", json!({"group_size": 64, "bits": 4, "model.embed_tokens": eight}));
    });
    damaged("too many scales", PACKED, is!(UnsupportedQuantization), &["embed_tokens", "no packing"], |s| {
        s.edit_tensors(WEIGHTS, |tensors| {
            let (_, shape, bytes) = tensors.get_mut("model.embed_tokens.scales").unwrap();
            shape[1] *= 3;
            *bytes = bytes.repeat(3);
        });
    });
    damaged("an entry of a dense matrix", DENSE, is!(WrongDtype), &["layers.0.self_attn.q_proj"], |s| {
        let (packed, name) = (json!({"group_size": 32, "bits": 4}), "model.layers.0.self_attn.q_proj");
        set(s, "quantization", json!({"group_size": 32, "bits": 4, name: packed}));
    });
}

#[test]
fn sentence_transformers_files_that_do_not_go_together() {
    damaged("a module without its settings", "st-mean", is!(MissingFile), &["2_Dense/config.json"], |s| {
        s.write_modules(&[
            ("sentence_transformers.models.Transformer", ""),
            ("sentence_transformers.models.Pooling", "1_Pooling"),
            ("sentence_transformers.models.Dense", "2_Dense"),
        ]);
    });
    damaged(
        "an unknown pooling",
        "st-mean",
        is!(InvalidField),
        &[POOLING, "pooling_mode_median_tokens", "pooling_mode_cls_token"],
        |s| {
            s.set(POOLING, json!({"pooling_mode_median_tokens": true}));
            s.edit_json(POOLING, |config| drop(config.remove("pooling_mode")));
        },
    );
    damaged("no such prompt", "st-last-token", is!(InvalidField), &[SETTINGS, "sonnet"], |s| {
        s.set(SETTINGS, json!({"default_prompt_name": "sonnet"}))
    });
}

#[test]
fn a_module_for_vectors_of_another_width() {
    let of = |case: &str, file: &str, fields: Value, parts: &[&str]| {
        let scratch = Scratch::with(case, file, fields);
        says(Embedder::load_with(scratch.path(), golden::own_limit()).unwrap_err(), parts);
    };
    let dense = ["2_Dense/config.json", "in_features", "is 64", "128 numbers", "cls+mean"];
    let both = json!({"pooling_mode_mean_tokens": true});
    of("families/modules-dense-activations", POOLING, both, &dense);
    let norm = ["2_LayerNorm/config.json", "dimension", "is 32", "64 numbers"];
    of("families/modules-layer-norm", "2_LayerNorm/config.json", json!({"dimension": 32}), &norm);
}

#[test]
fn a_dense_module_whose_weights_have_more_than_its_settings_say() {
    const FILE: &str = "2_Dense/model.safetensors";
    let case = "families/modules-dense-activations";
    let of = |edit: &dyn Fn(&Scratch), tensor: &str| {
        let scratch = Scratch::of(case);
        edit(&scratch);
        let error = Embedder::load_with(scratch.path(), golden::own_limit()).unwrap_err();
        says(error, &[FILE, tensor, "config.json", "use_residual"]);
    };
    of(&|scratch| scratch.set("2_Dense/config.json", json!({"bias": false})), "linear.bias");
    of(&|scratch| scratch.add_tensor(FILE, "residual.weight", &[4, 4]), "residual.weight");
}

/// A checkpoint with other fields in an object of config.json, and what the error names.
fn refused_with(case: &str, object: &str, fields: Value, parts: &[&str]) {
    let scratch = Scratch::of(case);
    scratch.edit_json(CONFIG, |config| {
        let path = object.split('.').filter(|name| !name.is_empty());
        let object = path.fold(config, |at, name| at[name].as_object_mut().expect("an object"));
        object.extend(fields.as_object().expect("fields").clone());
    });
    refused(&fields.to_string(), scratch.path(), ANY, &[&[CONFIG], parts].concat());
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
    let qwen3 = json!({"model_type": "qwen3", "architectures": ["Qwen3Model"], "auto_map": null});
    let scratch = Scratch::with(pplx, CONFIG, qwen3);
    refused("another's", scratch.path(), is!(InvalidField), &["modules.json", "st_quantize"]);
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
    let start = Instant::now();
    let (mut vectors, mut refused) = (0, 0);
    // On a busy machine it may take longer until both were seen.
    let ends = |seen: bool| start.elapsed() > Duration::from_secs(if seen { 5 } else { 120 });
    while !ends(vectors > 0 && refused > 0) {
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
    let mut child = child::of("loads_and_embeds_for_some_seconds")
        .env(CUT, scratch.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut file = fs::OpenOptions::new().write(true).open(&weights).unwrap();
    let mut round = 0_u64;
    while child.try_wait().unwrap().is_none() {
        // Whole for longer than it takes to load, now and then, however long that is.
        let whole_for = if round.is_multiple_of(8) { 100 + round } else { round % 8 };
        std::thread::sleep(Duration::from_millis(whole_for));
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
