//! The files beside tokenizer and model: what they say is done to texts as the references do it, or refused by file and
//! field. `tests/golden/side_files.py` made the right values with sentence-transformers and transformers.
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use std::fs;
use std::num::NonZeroUsize;

use base64::{Engine, prelude::BASE64_STANDARD};
use mlx_embed::{EmbedOptions, Embedder, Error, InputError, LoadOptions, Prompt, Reranker};
use mlx_embed_tests::compare::{max_abs, says};
use mlx_embed_tests::golden;
use mlx_embed_tests::scratch::Scratch;
use serde_json::{Map, Value, json};

/// Torch and this crate add f32 in another order.
const TOLERANCE: f32 = 2e-5;

const TOKENIZER: &str = "tokenizer_config.json";
const TRANSFORMER: &str = "sentence_bert_config.json";
const POOLING: &str = "1_Pooling/config.json";

/// The cases of this kind: those that have `texts`, or `pairs`.
fn cases(kind: &str) -> Vec<Value> {
    let mut file: Value = serde_json::from_slice(&fs::read("tests/golden/side_files.json").unwrap()).unwrap();
    let Value::Array(mut cases) = file["cases"].take() else { panic!("no cases") };
    cases.retain(|case| case.get(kind).is_some());
    cases
}

/// The checkpoint of a case.
fn checkpoint(case: &Value) -> Scratch {
    let scratch = Scratch::of(case["base"].as_str().unwrap());
    for (name, content) in case["files"].as_object().unwrap() {
        match content {
            Value::Null => fs::remove_file(scratch.file(name)).unwrap(),
            Value::String(text) => scratch.write(name, text),
            Value::Object(object) if object.contains_key("base64") => {
                scratch.write(name, BASE64_STANDARD.decode(object["base64"].as_str().unwrap()).unwrap());
            }
            object => scratch.write(name, object.to_string()),
        }
    }
    for (name, fields) in case["edits"].as_object().unwrap() {
        edit(&scratch, name, fields.as_object().unwrap());
    }
    if let Some(folder) = case.get("folder") {
        move_model(&scratch, folder.as_str().unwrap());
    }
    scratch
}

/// Puts the model's own files into a folder, and where they were what version 0 of sentence-transformers had there.
fn move_model(scratch: &Scratch, folder: &str) {
    fs::create_dir(scratch.file(folder)).unwrap();
    for entry in fs::read_dir(scratch.path()).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        let is_own = entry.file_type().unwrap().is_file();
        if is_own && !["modules.json", "config_sentence_transformers.json"].contains(&name.as_str()) {
            fs::rename(entry.path(), scratch.file(folder).join(name)).unwrap();
        }
    }
    scratch.write("config.json", json!({"__version__": "0.3.0"}).to_string());
}

/// Sets fields, dots between levels; null removes one, but in tokenizer.json, where it stands for nothing.
fn edit(scratch: &Scratch, name: &str, fields: &Map<String, Value>) {
    scratch.edit_json(name, |object| {
        for (field, value) in fields {
            match field.split_once('.') {
                Some((parent, field)) => object[parent][field] = value.clone(),
                None => drop(object.insert(field.clone(), value.clone())),
            }
        }
        object.retain(|_, value| !value.is_null() || name == "tokenizer.json");
    });
}

fn load(scratch: &Scratch, options: LoadOptions) -> Result<Embedder, Error> {
    Embedder::load_with(scratch.path(), LoadOptions { max_tokens: None, ..options })
}

/// The vector of some text.
fn embed(scratch: &Scratch) -> Vec<f32> {
    load(scratch, golden::load_options()).unwrap().embed_one("The cat").unwrap().vector
}

fn ids(text: &Value) -> Vec<u32> {
    text["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn vector(text: &Value) -> Option<Vec<f32>> {
    let numbers = text.get("embedding")?.as_array().unwrap();
    Some(numbers.iter().map(|number| number.as_f64().unwrap() as f32).collect())
}

fn with_prompt(text: &Value) -> EmbedOptions {
    EmbedOptions { prompt: Prompt::Text(text["prompt"].as_str().unwrap().to_owned()), ..Default::default() }
}

#[test]
fn texts_have_the_tokens_and_vectors_of_the_references() {
    let mut wrong = Vec::new();
    let cases = cases("texts");
    for case in &cases {
        let name = case["name"].as_str().unwrap();
        let embedder = match load(&checkpoint(case), golden::load_options()) {
            Ok(embedder) => embedder,
            Err(error) => {
                wrong.push(format!("{name}: {error}"));
                continue;
            }
        };
        for text in case["texts"].as_array().unwrap() {
            let (content, options) = (text["text"].as_str().unwrap(), with_prompt(text));
            let found = match embedder.token_ids(content, &options) {
                Err(Error::Input { source: InputError::Empty, .. }) => Vec::new(),
                found => found.unwrap(),
            };
            if found != ids(text) {
                wrong.push(format!("{name}: {:?}: {found:?}, not {:?}", text["text"], ids(text)));
            } else if let Some(expected) = vector(text) {
                let found = &embedder.embed_with(&[content], &options).unwrap()[0].vector;
                let off = max_abs(found, &expected);
                if off > TOLERANCE {
                    wrong.push(format!(
                        "{name}: {:?} after {:?} is off by {off:e}",
                        text["text"], text["prompt"]
                    ));
                }
            }
        }
    }
    assert!(cases.len() > 50 && wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Which are written for MLX's operations apart from the kernels.
#[test]
fn activations_are_the_references_with_mlxs_operations_too() {
    let mut cases = cases("texts");
    cases.retain(|case| {
        let edits = case["edits"].get("config.json").and_then(Value::as_object);
        edits.is_some_and(|edits| {
            edits.iter().any(|(field, name)| field.starts_with("hidden_act") && name.is_string())
        })
    });
    assert!(cases.len() >= 12, "{}", cases.len());
    for case in &cases {
        let options = LoadOptions { kernels: Some("mlx".into()), ..golden::load_options() };
        let embedder = load(&checkpoint(case), options).unwrap();
        for text in case["texts"].as_array().unwrap() {
            let found = &embedder.embed_one(text["text"].as_str().unwrap()).unwrap().vector;
            let off = max_abs(found, &vector(text).unwrap());
            assert!(off <= TOLERANCE, "{}: off by {off:e}", case["name"]);
        }
    }
}

#[test]
fn pairs_have_the_scores_of_the_references() {
    let mut wrong = Vec::new();
    let cases = cases("pairs");
    for case in &cases {
        let scratch = checkpoint(case);
        let reranker = Reranker::load_with(scratch.path(), golden::own_limit()).unwrap();
        for pair in case["pairs"].as_array().unwrap() {
            let [query, document] = ["query", "document"].map(|part| pair[part].as_str().unwrap());
            let found = reranker.rerank(query, &[document]).unwrap()[0].score;
            let off = (f64::from(found) - pair["score"].as_f64().unwrap()).abs();
            if off > f64::from(TOLERANCE) {
                wrong.push(format!("{}: {query:?}, {document:?} is off by {off:e}", case["name"]));
            }
        }
    }
    assert!(cases.len() >= 10 && wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn types_of_which_versions_of_the_reference_differ_are_refused() {
    let scratch = Scratch::of("families/reranker-bert-identity");
    let fields = json!({"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": null});
    edit(&scratch, TOKENIZER, fields.as_object().unwrap());
    let error = Reranker::load_with(scratch.path(), golden::own_limit()).unwrap_err();
    says(error, &[TOKENIZER, "`model_input_names`", "token_type_ids", "version 5"]);
}

#[test]
fn classes_that_are_not_known_or_do_not_fit_are_refused() {
    let named = |base: &str, class: &str, parts: &[&str]| {
        let field = json!({ "tokenizer_class": class });
        refused_with(base, TOKENIZER, field, &[&["tokenizer_class", "TokenizersBackend"], parts].concat());
    };
    named("families/xlm-roberta-f32", "BarthezTokenizerFast", &["BarthezTokenizerFast"]);
    for class in ["XLMRobertaTokenizer", "RobertaTokenizer"] {
        named("families/bert-f32", class, &["tokenizer.json", "WordPiece"]);
    }
}

/// Prompts whose keys and values are kept, prompts that are not kept, and texts whose vectors are kept: all of them are
/// told apart from the same tokens with another part left out.
#[test]
fn what_is_left_out_of_the_mean_is_left_out_in_any_company() {
    let cases = cases("texts");
    let named = |name: &str| cases.iter().find(|case| case["name"] == name).unwrap();
    for name in ["mean-without-prompt", "cls-without-prompt", "mean-without-prompt-no-end-token"] {
        let case = named(name);
        let options = LoadOptions { vector_cache: 1 << 20, ..golden::load_options() };
        let embedder = load(&checkpoint(case), options).unwrap();
        let texts = case["texts"].as_array().unwrap();
        for text in texts.iter().chain(texts).chain(texts.iter().rev()) {
            let content = text["text"].as_str().unwrap();
            let results = embedder.embed_with(&[content, content, "the cat"], &with_prompt(text)).unwrap();
            let off = max_abs(&results[0].vector, &vector(text).unwrap());
            assert!(
                off <= TOLERANCE && results[0].vector == results[1].vector,
                "{name}: {text} is off by {off:e}"
            );
            // The same tokens without a prompt are another text.
            let joined = format!("{}{content}", text["prompt"].as_str().unwrap());
            let none = EmbedOptions { prompt: Prompt::None, ..Default::default() };
            let whole = &embedder.embed_with(&[joined], &none).unwrap()[0];
            let prompted = !text["prompt"].as_str().unwrap().is_empty();
            assert_eq!(max_abs(&whole.vector, &results[0].vector) > 1e-3, prompted, "{name}: {text}");
        }
    }
}

#[test]
fn first_numbers_are_the_vectors_width() {
    let scratch = Scratch::of("st-mean");
    let file = "config_sentence_transformers.json";
    scratch.write(file, json!({"truncate_dim": 12}).to_string());
    let embedder = load(&scratch, golden::load_options()).unwrap();
    assert_eq!(embedder.info().embedding_size, 12);
    let wide = EmbedOptions { dims: NonZeroUsize::new(13), ..Default::default() };
    says(embedder.embed_with(&["a"], &wide).unwrap_err(), &["dims", "12"]);
    scratch.write(file, json!({"truncate_dim": 0}).to_string());
    refused(&scratch, &[file, "truncate_dim"]);
}

#[test]
fn types_of_tokens_of_a_single_text_are_refused() {
    let typed = |case: &str| {
        let scratch = Scratch::of(case);
        scratch.edit_json("tokenizer.json", |tokenizer| {
            for piece in tokenizer["post_processor"]["single"].as_array_mut().unwrap() {
                piece.as_object_mut().unwrap().values_mut().for_each(|piece| piece["type_id"] = json!(1));
            }
        });
        load(&scratch, golden::load_options())
    };
    says(typed("families/bert-f32").unwrap_err(), &["tokenizer.json", "post_processor"]);
    // Where all tokens are of one type they count for nothing.
    typed("families/xlm-roberta-f32").unwrap();
}

#[test]
fn info_tells_what_was_decided_and_where() {
    let scratch = Scratch::of("st-mean");
    scratch.write(TRANSFORMER, json!({"max_seq_length": 20, "do_lower_case": true}).to_string());
    let token = json!({"content": "<Instruct>", "special": true});
    let fields =
        json!({"added_tokens_decoder": {"288": token}, "sep_token": "<query>", "truncation_side": "left"});
    edit(&scratch, TOKENIZER, fields.as_object().unwrap());
    let info = load(&scratch, golden::load_options()).unwrap().info().clone();
    assert_eq!(
        (info.max_tokens, info.max_tokens_source.as_str()),
        (20, "sentence_bert_config.json (max_seq_length)")
    );
    assert_eq!(info.sentence_transformers.pooling_file.as_deref(), Some(POOLING));
    assert!(info.sentence_transformers.do_lower_case && info.sentence_transformers.include_prompt);
    let info = serde_json::to_value(&info).unwrap();
    assert_eq!(info["truncation_side"], "left");
    let added = json!([
        {"id": 288, "token": "<Instruct>", "file": TOKENIZER}, {"id": 289, "token": "<query>", "file": TOKENIZER}
    ]);
    assert_eq!(info["added_tokens"], added);
}

#[test]
fn what_cannot_be_done_is_refused_by_file_and_field() {
    let token = |content: &str| json!({"content": content, "special": true});
    let tokens = |tokens: Value| json!({ "added_tokens_decoder": tokens });
    let tokenizer = |fields, parts: &[&str]| refused_with("st-mean", TOKENIZER, fields, parts);
    tokenizer(tokens(json!({"290": token("<x>")})), &["290", "<x>", "288"]);
    tokenizer(tokens(json!({"0": token("<|im_end|>")})), &["`0`", "287"]);
    tokenizer(tokens(json!({"x": token("<x>")})), &["added_tokens_decoder.x"]);
    tokenizer(tokens(json!({"288": {"special": 1}})), &["288", "content"]);
    tokenizer(json!({"a_token": "<a>", "b_token": "<b>"}), &["a_token", "added_tokens_decoder"]);
    tokenizer(json!({"truncation_side": "middle"}), &["`truncation_side`", "left"]);
    tokenizer(json!({"model_max_length": 0}), &["`model_max_length`", "0"]);
    tokenizer(json!({"split_special_tokens": "yes"}), &["`split_special_tokens`", "true or false"]);
    tokenizer(json!({"fast_tokenizer_files": ["tokenizer.5.0.0.json"]}), &["tokenizer.5.0.0.json"]);
    tokenizer(
        json!({"tokenizer_class": "LlamaTokenizer", "add_eos_token": false}),
        &["`add_eos_token`", "<|endoftext|>", "post_processor"],
    );
    tokenizer(
        json!({"tokenizer_class": "LlamaTokenizerFast", "bos_token": "<|im_start|>", "add_bos_token": true}),
        &["`add_bos_token`", "<|im_start|>", "does not put"],
    );
    let text = |method: &str| json!({"text": {"method": method, "method_output_name": "last_hidden_state"}});
    let transformer = |fields, parts: &[&str]| refused_with("st-mean", TRANSFORMER, fields, parts);
    transformer(json!({"max_seq_length": -1}), &["`max_seq_length`"]);
    transformer(json!({"do_lower_case": "yes"}), &["`do_lower_case`"]);
    transformer(json!({"config_args": {"rms_norm_eps": 1e-5}}), &["config_args.rms_norm_eps"]);
    transformer(json!({"config_kwargs": {"is_causal": false}}), &["config_kwargs.is_causal"]);
    transformer(json!({"model_kwargs": {"default_task": "a"}}), &["model_kwargs.default_task"]);
    transformer(json!({"tokenizer_args": {"add_prefix_space": true}}), &["tokenizer_args.add_prefix"]);
    transformer(json!({"processor_kwargs": {"model_max_length": "9"}}), &["kwargs.model_max_length"]);
    transformer(json!({"processing_kwargs": {"text": {"add_special_tokens": false}}}), &["add_special"]);
    transformer(json!({"transformer_task": "fill-mask"}), &["`transformer_task`", "fill-mask"]);
    transformer(json!({"modality_config": text("get_text_features")}), &["modality_config.text.method"]);
    transformer(json!({"modality_config": {"message": {}}}), &["chat template"]);
    transformer(json!({"tokenizer_name_or_path": "other/model"}), &["`tokenizer_name_or_path`"]);
    transformer(json!({"query_length": 32}), &["`query_length`"]);
    transformer(json!({"from_the_future": 1}), &["`from_the_future`"]);
    let pooling = |fields, parts: &[&str]| refused_with("st-mean", POOLING, fields, parts);
    pooling(json!({"pooling_mode": ["mean", "mean"]}), &["`pooling_mode`", "none twice"]);
    pooling(json!({"pooling_mode": "none"}), &["`pooling_mode`", "none"]);
    pooling(json!({"pooling_mode": []}), &["`pooling_mode`", "has to name one"]);
    pooling(json!({"pooling_mode_cls_token": 1}), &["`pooling_mode_cls_token`", "true or false"]);
    pooling(json!({"include_prompt": "no"}), &["`include_prompt`"]);
    let sparse = json!({"model_type": "SparseEncoder"});
    let parts = ["`model_type`", "SparseEncoder"];
    refused_with("st-last-token", "config_sentence_transformers.json", sparse, &parts);
    let scratch = Scratch::of("st-last-token");
    scratch.write("config_sentence_transformers.json", json!({"model_type": null}).to_string());
    refused(&scratch, &["config_sentence_transformers.json", "`model_type`", "null"]);
    let bitsandbytes = json!({"quantization_config": {"load_in_8bit": true}});
    refused_with("families/bert-f32", "config.json", bitsandbytes, &["quantization_config.load_in_8bit"]);
    let rope = |fields, parts: &[&str]| refused_with("families/modernbert-f32", "config.json", fields, parts);
    rope(json!({"rope_scaling": {"type": "linear", "factor": 2.0}}), &["rope_scaling.rope_type", "missing"]);
    rope(json!({"rope_scaling": {"rope_type": "longrope"}}), &["rope_scaling.rope_type", "longrope", "yarn"]);
    let both = json!({"sliding_attention": {"rope_type": "dynamic", "factor": 2.0}});
    rope(json!({"rope_parameters": both}), &["`rope_parameters`", "length"]);
    rope(
        json!({"rope_parameters": both, "rope_scaling": {"rope_type": "default"}}),
        &["`rope_scaling`", "beside"],
    );
    let odd = json!({"full_attention": {"rope_type": "linear", "factor": 2.0, "strange": 1}});
    rope(json!({"rope_parameters": odd}), &["rope_parameters.full_attention.strange"]);
    let activation = |name: &str, parts: &[&str]| {
        refused_with("families/bert-f32", "config.json", json!({"hidden_act": name}), parts);
    };
    activation("prelu", &["`hidden_act`", "prelu", "quick_gelu"]);
}

/// A case with other fields in a file is refused, and the error names that file and these parts.
fn refused_with(base: &str, file: &str, fields: Value, parts: &[&str]) {
    let scratch = Scratch::of(base);
    if !scratch.file(file).exists() {
        scratch.write(file, "{}");
    }
    edit(&scratch, file, fields.as_object().unwrap());
    refused(&scratch, &[&[file], parts].concat());
}

fn refused(scratch: &Scratch, parts: &[&str]) {
    says(load(scratch, golden::load_options()).expect_err(&parts.join(", ")), parts);
}

#[test]
fn modules_that_are_not_sentence_transformers_own_are_refused() {
    let transformer = ("sentence_transformers.models.Transformer", "");
    let pooling = ("sentence_transformers.models.Pooling", "1_Pooling");
    let normalize = ("sentence_transformers.models.Normalize", "2_Normalize");
    let wrong = |modules: &[(&str, &str)], parts: &[&str]| {
        let scratch = Scratch::of("st-mean");
        scratch.write_modules(modules);
        refused(&scratch, &[&["modules.json"], parts].concat());
    };
    let foreign = |class: &str, parts: &[&str]| wrong(&[(class, ""), pooling], parts);
    foreign("custom_st.Transformer", &["custom_st", "sentence_transformers.models.Transformer"]);
    foreign("pylate.models.Transformer", &["`pylate.models.Transformer`", "MultiVectorEmbedder"]);
    foreign("Transformer", &["`Transformer`"]);
    wrong(&[], &["`type`", "empty"]);
    foreign("sentence_transformers_fork.models.Transformer", &["sentence_transformers_fork"]);
    foreign("sentence_transformers.sparse_encoder.models.Transformer", &["sparse_encoder"]);
    wrong(&[pooling, transformer], &["one Transformer, then one Pooling"]);
    wrong(&[transformer, normalize, pooling], &["one Pooling, then Dense"]);
    wrong(&[transformer, pooling, pooling], &["one Pooling"]);
    wrong(&[(transformer.0, "../0_Transformer"), pooling], &["`path`", "0_Transformer", "leads out"]);
    wrong(&[transformer, (pooling.0, "../1_Pooling")], &["`path`", "leads out"]);
}

#[test]
fn a_dense_folder_without_weights_is_the_matrix_in_the_model_s_own() {
    let case = "families/embedding-gemma-mlx-bf16";
    let expected = embed(&Scratch::of(case));
    let with = |fields: Value| {
        let scratch = Scratch::of(case);
        for (folder, inputs, outputs) in [("2_Dense", 64, 128), ("3_Dense", 128, 64)] {
            fs::create_dir(scratch.file(folder)).unwrap();
            let mut config = json!({
                "in_features": inputs, "out_features": outputs, "bias": false,
                "activation_function": "torch.nn.modules.linear.Identity",
            });
            config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            scratch.write(&format!("{folder}/config.json"), config.to_string());
        }
        scratch
    };
    assert_eq!(embed(&with(json!({}))), expected);
    // What says something else means other weights, which are not there.
    let tanh = json!({"activation_function": "torch.nn.modules.activation.Tanh"});
    for fields in [tanh, json!({"bias": true})] {
        refused(&with(fields), &["2_Dense/model.safetensors", "modules.json names its folder"]);
    }
}

#[test]
fn dense_matrices_of_the_model_have_a_module_each_or_none() {
    let case = "families/embedding-gemma-mlx-bf16";
    let without = |dense: usize| {
        let scratch = Scratch::of(case);
        let modules: Vec<Value> =
            serde_json::from_slice(&fs::read(scratch.file("modules.json")).unwrap()).unwrap();
        let (mut named, others): (Vec<_>, Vec<_>) =
            modules.into_iter().partition(|module| module["type"].as_str().unwrap().ends_with(".Dense"));
        named.truncate(named.len() - dense);
        let kept: Vec<Value> = [&others[..2], &named, &others[2..]].concat();
        scratch.write("modules.json", json!(kept).to_string());
        scratch
    };
    assert_eq!(embed(&without(2)), embed(&without(0)));
    refused(&without(1), &["modules.json", "names 1 Dense", "dense.0 to dense.1"]);
}

/// As transformers finds them: from the folder that the index is in.
#[test]
fn shards_may_be_in_a_folder_beside_their_index() {
    const INDEX: &str = "model.safetensors.index.json";
    let case = "qwen3-sharded-bf16";
    let in_folder = || {
        let scratch = Scratch::of(case);
        fs::create_dir(scratch.file("parts")).unwrap();
        scratch.edit_json(INDEX, |index| {
            for shard in index["weight_map"].as_object_mut().unwrap().values_mut() {
                let name = shard.as_str().unwrap().to_owned();
                *shard = json!(format!("./parts//{name}"));
                if scratch.file(&name).exists() {
                    fs::rename(scratch.file(&name), scratch.file("parts").join(&name)).unwrap();
                }
            }
        });
        scratch
    };
    let expected = embed(&Scratch::of(case));
    assert_eq!(embed(&in_folder()), expected);
    // The index may be in the model's own folder.
    let nested = in_folder();
    move_model(&nested, "0_Transformer");
    fs::rename(nested.file("parts"), nested.file("0_Transformer/parts")).unwrap();
    let module = |index: usize, path: &str, class: &str| {
        json!({
            "idx": index, "name": index.to_string(), "path": path, "type": format!("sentence_transformers.models.{class}"),
        })
    };
    let modules = [
        module(0, "0_Transformer", "Transformer"),
        module(1, "1_Pooling", "Pooling"),
        module(2, "2", "Normalize"),
    ];
    nested.write("modules.json", json!(modules).to_string());
    fs::create_dir(nested.file("1_Pooling")).unwrap();
    nested.write(POOLING, json!({"pooling_mode": "lasttoken"}).to_string());
    assert_eq!(embed(&nested), expected);
}

#[test]
fn a_normalisation_of_something_else_is_refused() {
    let scratch = Scratch::of("st-mean");
    fs::create_dir(scratch.file("2_Normalize")).unwrap();
    scratch.write("2_Normalize/config.json", json!({"module_input_name": "sentence_embedding"}).to_string());
    load(&scratch, golden::load_options()).unwrap();
    scratch.write("2_Normalize/config.json", json!({"module_input_name": "token_embeddings"}).to_string());
    refused(&scratch, &["2_Normalize", "module_input_name", "token_embeddings"]);
}

#[test]
fn side_files_that_are_no_json_objects_are_named() {
    for name in [TOKENIZER, "special_tokens_map.json", "added_tokens.json", TRANSFORMER] {
        for content in ["{", "[]", "\"text\""] {
            let scratch = Scratch::of("st-mean");
            scratch.write(name, content);
            refused(&scratch, &[name]);
        }
    }
}

#[test]
fn prompts_may_be_null_and_two_names_are_always_there() {
    let scratch = Scratch::of("st-mean");
    let config = json!({"prompts": {"query": null, "passage": "p: "}, "default_prompt_name": "document"});
    scratch.write("config_sentence_transformers.json", config.to_string());
    let embedder = load(&scratch, golden::load_options()).unwrap();
    let prompts = &embedder.info().sentence_transformers.prompts;
    let texts: Vec<(&str, &str)> =
        prompts.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    assert_eq!(texts, [("document", ""), ("passage", "p: "), ("query", "")]);
}
