//! Rerankers: pairs, scores and what they don't depend on, and checkpoints that are none.
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use std::num::NonZeroUsize;
use std::time::Duration;

use mlx_embed::{
    Checkpoint, DenseActivation, EmbedOptions, Embedder, Error, InputError, LoadOptions, Prompt, Ranked,
    RerankOptions, Reranker,
};
use mlx_embed_tests::compare::says;
use mlx_embed_tests::golden::{self, own_limit};
use mlx_embed_tests::scratch::Scratch;
use safetensors::Dtype;
use serde_json::{Value, json};

const WEIGHTS: &str = "model.safetensors";
const SETTINGS: &str = "config_sentence_transformers.json";
const QUERY: &str = "How long do roses in the garden stay open?";
const DOCUMENTS: [&str; 5] = [
    "Crabs walk sideways.",
    "Roses in the old garden open before the sun is over the wall, and by noon they fade.",
    "",
    "the other cat was sleeping in the sun, there is nothing better than reading in the morning",
    "roses",
];
const CASES: [&str; 10] = [
    "reranker-bert-affine-4bit-g64",
    "reranker-distilbert",
    "reranker-gte",
    "reranker-jina-v3",
    "reranker-modernbert-mean",
    "reranker-modules-bert",
    "reranker-mpnet",
    "reranker-qwen3-tied",
    "reranker-qwen3-untied-affine-4bit-g64",
    "reranker-xlm-roberta",
];

fn scratch(case: &str) -> Scratch {
    Scratch::of(&format!("families/{case}"))
}

fn load(scratch: &Scratch) -> Reranker {
    load_with(scratch, LoadOptions::default())
}

fn load_with(scratch: &Scratch, options: LoadOptions) -> Reranker {
    Reranker::load_with(scratch.path(), LoadOptions { device: golden::load_options().device, ..options })
        .unwrap()
}

fn scores(ranked: &[Ranked]) -> Vec<f32> {
    let mut by_index: Vec<&Ranked> = ranked.iter().collect();
    by_index.sort_by_key(|ranked| ranked.index);
    by_index.iter().map(|ranked| ranked.score).collect()
}

/// Loading it as a reranker fails, and the message has these parts.
#[track_caller]
fn refused(scratch: &Scratch, parts: &[&str]) {
    says(Reranker::load_with(scratch.path(), own_limit()).unwrap_err(), parts);
}

/// The same of loading it as an embedder.
#[track_caller]
fn no_embedder(scratch: &Scratch, parts: &[&str]) {
    says(Embedder::load_with(scratch.path(), own_limit()).unwrap_err(), parts);
}

fn set(scratch: &Scratch, field: &str, value: Value) {
    scratch.set("config.json", json!({ field: value }));
}

/// sentence-transformers' own file.
fn write_settings(scratch: &Scratch, settings: Value) {
    scratch.write(SETTINGS, settings.to_string());
}

const TRANSFORMER: (&str, &str) = ("sentence_transformers.base.modules.transformer.Transformer", "");

/// As sentence-transformers saves a Qwen3-Reranker.
fn with_modules(scratch: &Scratch, answers: &Value) {
    let scores = "sentence_transformers.cross_encoder.modules.logit_score.LogitScore";
    scratch.write_modules(&[TRANSFORMER, (scores, "1_LogitScore")]);
    std::fs::create_dir(scratch.file("1_LogitScore")).unwrap();
    scratch.write("1_LogitScore/config.json", answers.to_string());
    write_settings(scratch, json!({"model_type": "CrossEncoder"}));
}

/// A program that writes Qwen3-Reranker's conversation, as a chat template is one.
const TEMPLATE: &str = r#"{%- set instruction = messages | selectattr("role", "eq", "system") | map(attribute="content") | first | default("Given a web search query, retrieve relevant passages that answer the query") -%}
<|im_start|>system
Judge whether the Document meets the requirements based on the Query and the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>
<|im_start|>user
<Instruct>: {{ instruction }}
<Query>: {{ messages | selectattr("role", "eq", "query") | map(attribute="content") | first }}
<Document>: {{ messages | selectattr("role", "eq", "document") | map(attribute="content") | first }}<|im_end|>
<|im_start|>assistant
<think>

</think>


"#;

// Scores.

/// The same bits, or on a GPU about the same numbers.
fn assert_same(case: &str, found: &[f32], expected: &[f32]) {
    if golden::on_gpu() {
        found.iter().zip(expected).for_each(|(a, b)| assert!((a - b).abs() < 2e-2, "{case}: {a}, {b}"));
    } else {
        assert_eq!(found, expected, "{case}");
    }
}

#[test]
fn a_score_has_the_same_bits_whatever_is_beside_its_document() {
    for case in CASES {
        let reranker = load(&scratch(case));
        let together = scores(&reranker.rerank(QUERY, &DOCUMENTS).unwrap());
        let alone: Vec<f32> =
            DOCUMENTS.iter().map(|document| reranker.rerank(QUERY, &[document]).unwrap()[0].score).collect();
        assert_same(case, &together, &alone);
    }
}

#[test]
fn what_a_query_puts_in_front_is_reused_without_changing_a_bit() {
    for case in ["reranker-qwen3-tied", "reranker-qwen3-untied-affine-4bit-g64"] {
        let scratch = scratch(case);
        let reused = scores(&load(&scratch).rerank(QUERY, &DOCUMENTS).unwrap());
        let whole = load_with(&scratch, LoadOptions { prompt_cache: Some(0), ..Default::default() });
        let whole = scores(&whole.rerank(QUERY, &DOCUMENTS).unwrap());
        assert_same(case, &reused, &whole);
    }
}

#[test]
fn the_best_come_first_and_top_n_of_them() {
    let reranker = load(&scratch("reranker-bert-identity"));
    let all = reranker.rerank(QUERY, &DOCUMENTS).unwrap();
    assert!(all.is_sorted_by(|a, b| a.score >= b.score), "{all:?}");
    let options = RerankOptions { top_n: NonZeroUsize::new(2), ..Default::default() };
    let two = reranker.rerank_with(QUERY, &DOCUMENTS, &options).unwrap();
    let indices = |ranked: &[Ranked]| ranked.iter().map(|ranked| ranked.index).collect::<Vec<_>>();
    assert_eq!(indices(&two), indices(&all[..2]));
    let each = reranker.rerank_each(QUERY, &DOCUMENTS, &options).unwrap();
    let each: Vec<Ranked> = each.into_iter().map(Result::unwrap).collect();
    assert_eq!((indices(&each), scores(&each)), ((0..5).collect(), scores(&all)));
    let submitted = reranker.submit(QUERY, &DOCUMENTS, &options).wait().unwrap();
    assert_eq!((indices(&submitted), scores(&submitted)), (indices(&two), scores(&two)));
    let submitted = pollster::block_on(reranker.submit_each(QUERY, &DOCUMENTS, &options)).unwrap();
    assert_eq!(submitted.len(), DOCUMENTS.len());
}

#[test]
fn more_documents_than_are_sent_at_once_are_scored_in_order() {
    let reranker = load(&scratch("reranker-xlm-roberta"));
    let documents: Vec<String> = (0..600).map(|number| format!("rose number {}", number % 7)).collect();
    let ranked = reranker.rerank(QUERY, &documents).unwrap();
    let found = scores(&ranked);
    let few = scores(&reranker.rerank(QUERY, &documents[..7]).unwrap());
    assert_eq!(found.len(), 600);
    found.iter().enumerate().for_each(|(at, score)| assert_eq!(*score, few[at % 7], "{at}"));
}

#[test]
fn the_activation_is_the_callers_then_the_files() {
    let scratch = scratch("reranker-bert-sigmoid");
    let logit = |reranker: &Reranker| {
        let options = RerankOptions { activation: Some(DenseActivation::Identity), ..Default::default() };
        reranker.rerank_with(QUERY, &["roses"], &options).unwrap()[0].score
    };
    let score = |reranker: &Reranker| reranker.rerank(QUERY, &["roses"]).unwrap()[0].score;
    let by_default = load(&scratch);
    let raw = logit(&by_default);
    assert!((score(&by_default) - 1.0 / (1.0 + (-raw).exp())).abs() < 1e-6);
    assert_eq!(by_default.info().decided_by["activation"], "default of one label, as no file says it");

    set(&scratch, "sbert_ce_default_activation_function", json!("torch.nn.modules.activation.Tanh"));
    assert!((score(&load(&scratch)) - raw.tanh()).abs() < 1e-6);
    set(&scratch, "sentence_transformers", json!({"activation_fn": "torch.nn.modules.linear.Identity"}));
    assert_eq!(score(&load(&scratch)), raw);
    let sigmoid = "torch.nn.modules.activation.Sigmoid";
    write_settings(&scratch, json!({"model_type": "CrossEncoder", "activation_fn": sigmoid}));
    // Without modules.json that file's settings are not read.
    assert_eq!(score(&load(&scratch)), raw);
    // As it saves a sequence classifier.
    scratch.write_modules(&[TRANSFORMER]);
    assert_eq!(score(&load(&scratch)), score(&by_default));

    write_settings(&scratch, json!({"model_type": "CrossEncoder", "activation_fn": "own.Activation"}));
    refused(&scratch, &[SETTINGS, "activation_fn", "own.Activation", "Sigmoid"]);
}

/// The sigmoid of a difference of two logits is their softmax, so that one row, the difference of the two, makes a
/// sequence classifier of the same scores.
#[test]
fn a_qwen3_sequence_classifier_scores_as_the_answers_that_it_was_made_of() {
    let scratch = scratch("reranker-qwen3-tied");
    let answered = scores(&load(&scratch).rerank(QUERY, &DOCUMENTS).unwrap());
    scratch.edit_tensors(WEIGHTS, |tensors| {
        let (_, shape, bytes) = &tensors["model.embed_tokens.weight"];
        let row = |id: usize| -> Vec<f32> {
            let row = bytes.chunks_exact(2 * shape[1]).nth(id).unwrap();
            row.chunks_exact(2).map(|x| half::bf16::from_le_bytes([x[0], x[1]]).to_f32()).collect()
        };
        // By the golden file "no" is 256 and "yes" 258.
        let row: Vec<u8> =
            row(258).iter().zip(row(256)).flat_map(|(yes, no)| (yes - no).to_le_bytes()).collect();
        tensors.insert("score.weight".into(), (Dtype::F32, vec![1, 64], row));
    });
    set(&scratch, "architectures", json!(["Qwen3ForSequenceClassification"]));
    set(&scratch, "id2label", json!({"0": "LABEL_0"}));
    refused(&scratch, &["chat_template", "Qwen3-Reranker"]);
    scratch.write("chat_template.jinja", TEMPLATE);
    let classified = scores(&load(&scratch).rerank(QUERY, &DOCUMENTS).unwrap());
    for (classified, answered) in classified.iter().zip(&answered) {
        let tolerance = if golden::on_gpu() { 2e-2 } else { 1e-6 };
        assert!((classified - answered).abs() < tolerance, "{classified} for {answered}");
    }
}

#[test]
fn answers_and_prompts_are_those_of_the_files() {
    let scratch = scratch("reranker-qwen3-tied");
    let plain = load(&scratch);
    with_modules(&scratch, &json!({"true_token_id": 256, "false_token_id": 258}));
    let swapped = load(&scratch);
    assert_eq!(swapped.info().reranker.as_ref().unwrap().answers, ["yes", "no"]);
    let (a, b) = (plain.rerank(QUERY, &["roses"]).unwrap(), swapped.rerank(QUERY, &["roses"]).unwrap());
    assert!((a[0].score + b[0].score - 1.0).abs() < 1e-6, "{a:?} {b:?}");
    // To sentence-transformers these are an embedder's files, so it would ask for yes and no.
    write_settings(&scratch, json!({}));
    refused(&scratch, &["config_sentence_transformers.json", "model_type", "LogitScore", "CrossEncoder"]);

    let instruction = "Find what is said of roses";
    let prompts = json!({"roses": instruction});
    let named = json!({"model_type": "CrossEncoder", "prompts": prompts, "default_prompt_name": "roses"});
    write_settings(&scratch, named);
    let own = load(&scratch);
    assert_eq!(own.info().reranker.as_ref().unwrap().instruction.as_deref(), Some(instruction));
    let tokens = |reranker: &Reranker, instruction| {
        reranker.tokens(QUERY, "roses", &RerankOptions { instruction, ..Default::default() }).unwrap().ids
    };
    assert_eq!(tokens(&own, Prompt::Default), tokens(&plain, Prompt::Text(instruction.into())));
    assert_eq!(tokens(&own, Prompt::None), tokens(&plain, Prompt::Default));
    assert_ne!(tokens(&own, Prompt::Default), tokens(&own, Prompt::None));

    scratch.write("1_LogitScore/config.json", json!({"true_token_id": 5000}).to_string());
    refused(&scratch, &["config.json", "vocab_size", "5000"]);
}

/// Expected are logits of sentence-transformers 6.2 (CrossEncoder with the same files) on transformers 5.23, in f32.
#[test]
fn a_gemma_scores_by_the_answers_and_the_template_of_its_files() {
    const TEMPLATE: &str = r#"A: {{ messages | selectattr("role", "eq", "query") | map(attribute="content") | first }}
B: {{ messages | selectattr("role", "eq", "document") | map(attribute="content") | first }}
Given a query A and a passage B, does the passage answer the query? "#;
    let scratch = scratch("gemma-causal");
    scratch.write("chat_template.jinja", TEMPLATE);
    with_modules(&scratch, &json!({"true_token_id": 280, "false_token_id": 330}));
    let identity = "torch.nn.modules.linear.Identity";
    write_settings(&scratch, json!({"model_type": "CrossEncoder", "activation_fn": identity}));
    let documents = [DOCUMENTS[0], DOCUMENTS[1], DOCUMENTS[2], DOCUMENTS[4]];
    // The file doesn't say that the head is the embedding table, which it is in a Gemma unless a file says otherwise.
    let found = scores(&load(&scratch).rerank(QUERY, &documents).unwrap());
    let tolerance = if golden::on_gpu() { 0.5 } else { 2e-4 };
    for (found, expected) in found.into_iter().zip([18.997_397_f32, 22.545_052, 12.324_714, 15.762_893]) {
        assert!((found - expected).abs() < tolerance, "{found} for {expected}");
    }
    set(&scratch, "tie_word_embeddings", json!(false));
    refused(&scratch, &["lm_head.weight"]);
}

#[test]
fn a_request_keeps_to_its_timeout() {
    let reranker = load(&scratch("reranker-modernbert-cls"));
    let options = RerankOptions { timeout: Some(Duration::ZERO), ..Default::default() };
    let error = reranker.submit(QUERY, &DOCUMENTS, &options).wait().unwrap_err();
    assert!(matches!(error, Error::DeadlineExceeded { .. }), "{error:?}");
}

// Pairs.

#[test]
fn a_long_pair_loses_the_end_of_its_document_and_says_so() {
    for case in CASES {
        let scratch = scratch(case);
        let whole = load(&scratch);
        let document = DOCUMENTS[1].repeat(30);
        let options = RerankOptions::default();
        let short = whole.tokens(QUERY, "roses", &options).unwrap().ids.len();
        let limit = short + 7;
        let cut = load_with(&scratch, LoadOptions { max_tokens: Some(limit), ..Default::default() });
        let (pair, empty) =
            (cut.tokens(QUERY, &document, &options).unwrap(), cut.tokens(QUERY, "", &options).unwrap());
        assert!(pair.truncated && !empty.truncated, "{case}");
        assert_eq!(pair.ids.len(), limit, "{case}");
        // Nothing of the query has gone, and nothing of what ends a pair.
        let common = pair.ids.iter().zip(&empty.ids).take_while(|(a, b)| a == b).count();
        let ending = pair.ids.iter().rev().zip(empty.ids.iter().rev()).take_while(|(a, b)| a == b).count();
        assert!(
            common + ending >= empty.ids.len() - 1,
            "{case}: {common} and {ending} of {}",
            empty.ids.len()
        );
        let ranked = cut.rerank(QUERY, &[&document]).unwrap().remove(0);
        assert_eq!((ranked.tokens, ranked.truncated), (limit, true), "{case}");
    }
}

#[test]
fn a_query_that_leaves_no_room_is_an_error_of_the_query() {
    for case in CASES {
        let scratch = scratch(case);
        let tokens = load(&scratch).tokens(QUERY, "", &RerankOptions::default()).unwrap().ids.len();
        let reranker = load_with(&scratch, LoadOptions { max_tokens: Some(tokens), ..Default::default() });
        for error in [
            reranker.rerank(QUERY, &DOCUMENTS).unwrap_err(),
            reranker.submit(QUERY, &DOCUMENTS, &RerankOptions::default()).wait().unwrap_err(),
            reranker.tokens(QUERY, "roses", &RerankOptions::default()).unwrap_err(),
        ] {
            let text = error.to_string();
            let Error::Query { source: InputError::NoRoom { max_tokens, .. } } = error else {
                panic!("{case}: {text}")
            };
            assert_eq!(max_tokens, tokens);
            assert!(text.contains("query") && text.contains("max_tokens"), "{text}");
        }
        assert!(reranker.rerank("a", &["b"]).is_ok(), "{case}");
    }
}

#[test]
fn a_query_of_too_many_bytes_is_an_error_and_a_document_fails_alone() {
    let limit = NonZeroUsize::new(100);
    let reranker = load_with(
        &scratch("reranker-xlm-roberta"),
        LoadOptions { max_text_bytes: limit, ..Default::default() },
    );
    let error = reranker.rerank(&"rose ".repeat(50), &["roses"]).unwrap_err();
    assert!(matches!(error, Error::Input { source: InputError::TooManyBytes { .. }, .. }), "{error:?}");
    let each =
        reranker.rerank_each("roses", &["short", &"long ".repeat(50)], &RerankOptions::default()).unwrap();
    assert!(each[0].is_ok() && matches!(each[1], Err(InputError::TooManyBytes { .. })), "{each:?}");
}

#[test]
fn a_call_without_documents_is_an_error_and_an_empty_document_is_none() {
    let reranker = load(&scratch("reranker-bert-identity"));
    let error = reranker.rerank::<&str>(QUERY, &[]).unwrap_err();
    assert!(matches!(error, Error::Option { option: "documents", .. }), "{error:?}");
    let error = reranker.submit::<&str>(QUERY, &[], &RerankOptions::default()).wait().unwrap_err();
    assert!(error.to_string().contains("at least one"), "{error}");
    assert_eq!(reranker.rerank(QUERY, &[""]).unwrap().len(), 1);
}

#[test]
fn types_are_of_the_second_part_and_change_the_score() {
    let scratch = scratch("reranker-bert-identity");
    let reranker = load(&scratch);
    let pair = reranker.tokens("cat", "roses", &RerankOptions::default()).unwrap();
    let separator = pair.ids.iter().position(|&id| id == 3).unwrap();
    assert!(pair.types.iter().enumerate().all(|(at, &kind)| kind == u32::from(at > separator)), "{pair:?}");
    let with = reranker.rerank("cat", &["roses"]).unwrap()[0].score;
    let names = json!({"model_input_names": ["input_ids", "attention_mask"]});
    scratch.set("tokenizer_config.json", names);
    let without = load(&scratch);
    let pair = without.tokens("cat", "roses", &RerankOptions::default()).unwrap();
    assert!(pair.types.iter().all(|&kind| kind == 0));
    assert_ne!(without.rerank("cat", &["roses"]).unwrap()[0].score, with);
}

#[test]
fn a_template_that_is_no_pairs_is_refused() {
    let scratch = scratch("reranker-bert-identity");
    scratch.edit_json("tokenizer.json", |tokenizer| {
        let pair = tokenizer["post_processor"]["pair"].as_array_mut().unwrap();
        pair.retain(|piece| piece.pointer("/Sequence/id") != Some(&json!("B")));
    });
    refused(&scratch, &["tokenizer.json", "post_processor", "pair"]);
}

// Checkpoints that are not what they are asked for.

#[test]
fn a_reranker_that_is_marked_is_no_embedder() {
    let classifier = scratch("reranker-modernbert-cls");
    let class = "ModernBertForSequenceClassification";
    no_embedder(&classifier, &["config.json", "architectures", class, "`Reranker`"]);

    let qwen = scratch("reranker-qwen3-tied");
    assert!(Embedder::load_with(qwen.path(), golden::load_options()).is_ok());
    qwen.write("chat_template.jinja", TEMPLATE);
    no_embedder(&qwen, &["chat_template.jinja", "`Reranker`"]);
    qwen.remove("chat_template.jinja");
    qwen.set("tokenizer_config.json", json!({"chat_template": TEMPLATE}));
    no_embedder(&qwen, &["tokenizer_config.json", "chat_template", "`Reranker`"]);
    qwen.unset("tokenizer_config.json", &["chat_template"]);
    with_modules(&qwen, &json!({"true_token_id": 258, "false_token_id": 256}));
    no_embedder(&qwen, &["modules.json", "LogitScore", "`Reranker`"]);
    qwen.remove("modules.json");
    write_settings(&qwen, json!({"model_type": "CrossEncoder"}));
    no_embedder(&qwen, &[SETTINGS, "model_type", "`Reranker`"]);
}

#[test]
fn modules_that_make_no_score_are_refused() {
    let scratch = scratch("reranker-modules-modernbert");
    no_embedder(&scratch, &["4_Dense", "module_output_name", "`Reranker`"]);
    let [score, pooling] = ["4_Dense/config.json", "1_Pooling/config.json"];
    for (file, fields, parts) in [
        (score, json!({"out_features": 2}), &[score, "out_features", "one label"][..]),
        (
            score,
            json!({"module_output_name": "sentence_embedding"}),
            &[score, "module_output_name", "`scores`"],
        ),
        (score, json!({"in_features": 32}), &[score, "in_features", "64 numbers"]),
        ("2_Dense/config.json", json!({"module_output_name": "scores"}), &["2_Dense", "module_output_name"]),
        (pooling, json!({"include_prompt": false}), &[pooling, "include_prompt"]),
        ("sentence_bert_config.json", json!({"transformer_task": "text-generation"}), &["transformer_task"]),
    ] {
        let damaged = Scratch::of("families/reranker-modules-modernbert");
        damaged.set(file, fields);
        refused(&damaged, parts);
    }
    let types = ["Transformer", "Pooling", "Dense", "LayerNorm"]
        .map(|class| format!("sentence_transformers.models.{class}"));
    let paths = ["", "1_Pooling", "2_Dense", "3_LayerNorm"];
    let modules: Vec<Value> =
        types.iter().zip(paths).map(|(class, path)| json!({"type": class, "path": path})).collect();
    scratch.write("modules.json", json!(modules).to_string());
    refused(&scratch, &["modules.json", "Dense", "score"]);
}

#[test]
fn an_embedder_is_no_reranker() {
    refused(&Scratch::of("families/bert-f32"), &["architectures", "BertModel", "`Embedder`"]);
    refused(&Scratch::of("st-last-token"), &["modules.json", "Pooling", "`Embedder`"]);
    refused(&Scratch::of("families/eurobert"), &["architectures", "`Embedder`"]);
    let qwen = scratch("reranker-qwen3-tied");
    write_settings(&qwen, json!({"model_type": "SentenceTransformer"}));
    refused(&qwen, &[SETTINGS, "model_type", "`Embedder`"]);
}

#[test]
fn a_head_that_the_file_has_counts_whether_the_config_ties_it_or_not() {
    let scratch = scratch("reranker-qwen3-tied");
    let tied = scores(&load(&scratch).rerank(QUERY, &DOCUMENTS).unwrap());
    scratch.edit_tensors(WEIGHTS, |tensors| {
        let (dtype, shape, mut bytes) = tensors["model.embed_tokens.weight"].clone();
        // Other rows for all tokens.
        bytes.reverse();
        let halves = bytes.chunks_exact(2).flat_map(|half| [half[1], half[0]]).collect();
        tensors.insert("lm_head.weight".into(), (dtype, shape, halves));
    });
    let beside = scores(&load(&scratch).rerank(QUERY, &DOCUMENTS).unwrap());
    set(&scratch, "tie_word_embeddings", json!(false));
    let untied = scores(&load(&scratch).rerank(QUERY, &DOCUMENTS).unwrap());
    assert_eq!(beside, untied);
    assert_ne!(beside, tied);
}

#[test]
fn heads_that_are_not_those_of_the_config_are_refused() {
    let without = |case: &str, tensor: &str| {
        let scratch = scratch(case);
        scratch.remove_tensor(WEIGHTS, tensor);
        refused(&scratch, &[tensor.strip_prefix("bert.").unwrap_or(tensor), "no tensor"]);
    };
    without("reranker-bert-identity", "classifier.weight");
    without("reranker-bert-identity", "bert.pooler.dense.bias");
    without("reranker-modernbert-mean", "head.norm.weight");
    without("reranker-xlm-roberta", "classifier.out_proj.weight");
    without("reranker-qwen3-untied-affine-4bit-g64", "lm_head.weight");

    let wide = scratch("reranker-bert-identity");
    wide.edit_tensors(WEIGHTS, |tensors| {
        let (dtype, _, bytes) = tensors["classifier.weight"].clone();
        tensors.insert("classifier.weight".into(), (dtype, vec![2, 32], bytes));
    });
    refused(&wide, &["classifier.weight", "[2, 32]", "[1, 64]"]);

    let bias = scratch("reranker-modernbert-mean");
    set(&bias, "classifier_bias", json!(true));
    refused(&bias, &["head.dense.bias", "no tensor"]);
    set(&bias, "classifier_bias", json!(false));
    set(&bias, "classifier_pooling", json!("max"));
    refused(&bias, &["config.json", "classifier_pooling", "max"]);
}

#[test]
fn several_labels_are_no_score() {
    let scratch = scratch("reranker-bert-identity");
    set(&scratch, "id2label", json!({"0": "contradiction", "1": "entailment", "2": "neutral"}));
    refused(&scratch, &["config.json", "id2label", "3 labels"]);
    scratch.unset("config.json", &["id2label"]);
    refused(&scratch, &["config.json", "num_labels", "2 labels"]);
    set(&scratch, "num_labels", json!(1));
    assert!(Checkpoint::open_reranker(scratch.path()).is_ok());
}

/// As sentence-transformers has it of a model that is said to take texts and no messages.
#[test]
fn without_a_conversation_a_decoders_pair_is_one_text_behind_the_other() {
    let scratch = scratch("reranker-qwen3-tied");
    let options = LoadOptions { end_token: mlx_embed::EndToken::TokenizerOnly, ..own_limit() };
    let embedder = Embedder::load_with(scratch.path(), options).unwrap();
    let ids = |text: &str| embedder.token_ids(text, &EmbedOptions::default()).unwrap();
    let texts = json!({"modality_config": {"text": {"method": "forward", "method_output_name": "logits"}}});
    scratch.write("sentence_bert_config.json", texts.to_string());
    // Without modules.json that file is not read: it is Qwen3-Reranker's conversation then.
    let conversation = load(&scratch).tokens(QUERY, "roses", &RerankOptions::default()).unwrap();
    with_modules(&scratch, &json!({"true_token_id": 258, "false_token_id": 256}));
    let pair = load(&scratch).tokens(QUERY, "roses", &RerankOptions::default()).unwrap();
    assert_eq!(pair.ids, [ids(QUERY), ids("roses")].concat());
    assert!(conversation.ids.len() > pair.ids.len());
}

#[test]
fn another_conversation_is_refused() {
    let scratch = scratch("reranker-qwen3-tied");
    let words = TEMPLATE.replace("Given a web search query", "Given a question");
    scratch.write("chat_template.jinja", &words);
    let instruction = load(&scratch).info().reranker.as_ref().unwrap().instruction.clone().unwrap();
    assert!(instruction.starts_with("Given a question"), "{instruction}");
    let default = words.find(" | default(").unwrap()..words.find(") -%}").unwrap() + 1;
    scratch.write("chat_template.jinja", [&words[..default.start], &words[default.end..]].concat());
    refused(&scratch, &["chat_template.jinja", "default_prompt_name", "modules.json"]);
    with_modules(&scratch, &json!({"true_token_id": 258, "false_token_id": 256}));
    let prompts = json!({"query": "Given a question, find its answer"});
    let named = json!({"model_type": "CrossEncoder", "prompts": prompts, "default_prompt_name": "query"});
    write_settings(&scratch, named);
    assert!(Reranker::load_with(scratch.path(), golden::load_options()).is_ok());
    let messages = json!({"transformer_task": "text-generation", "module_output_name": "causal_logits", "modality_config": {
        "text": {"method": "forward", "method_output_name": "logits"},
        "message": {"method": "forward", "method_output_name": "logits", "format": "flat"}}});
    scratch.write("sentence_bert_config.json", messages.to_string());
    assert!(Reranker::load_with(scratch.path(), golden::load_options()).is_ok());
    // Its contents would be written as Python's lists.
    scratch.write("sentence_bert_config.json", messages.to_string().replace("flat", "structured"));
    refused(&scratch, &["chat_template.jinja", "`structured`", "content[0].text"]);
    scratch.write("sentence_bert_config.json", messages.to_string());
    // The reference takes one line end away from the end of the file, and these are other words.
    let pairs = |scratch: &Scratch| load(scratch).info().reranker.as_ref().unwrap().pairs;
    scratch.write("chat_template.jinja", TEMPLATE);
    assert_eq!(pairs(&scratch), "qwen3-reranker");
    scratch.write("chat_template.jinja", TEMPLATE.strip_suffix('\n').unwrap());
    assert_eq!(pairs(&scratch), "chat-template");
    scratch.write("chat_template.jinja", "{{ messages }}");
    refused(&scratch, &["chat_template.jinja", "Qwen3-Reranker"]);
}

#[test]
fn options_of_texts_are_refused() {
    let scratch = scratch("reranker-bert-identity");
    let with = |options: LoadOptions, option: &str| {
        let error = Reranker::load_with(scratch.path(), options).unwrap_err().to_string();
        assert!(error.starts_with(option), "{error}");
    };
    let pooling = Some(mlx_embed::PoolingMode::Mean.into());
    with(LoadOptions { pooling, ..golden::load_options() }, "pooling");
    let end_token = mlx_embed::EndToken::TokenizerOnly;
    with(LoadOptions { end_token, ..own_limit() }, "end_token");
}
