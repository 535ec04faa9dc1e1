//! Options, messages and exit codes.

use std::path::Path;

use tempfile::tempdir;

use crate::support::{assert_close, binary, copy_of, golden, golden_texts, norm, on, rows, run};

#[test]
fn the_model_may_come_from_the_environment() {
    let ran = run(binary().env("MLX_EMBED_MODEL", golden("st-mean")).args(["embed", "a"]));
    assert_eq!(ran.rows().len(), 1);
}

#[test]
fn without_a_model_the_one_inside_is_used() {
    let texts = ["The cat sat on the mat", "A feline rested on the rug", "The stock market crashed today"];
    let arguments = ["similarity", "--device", "cpu", "--json"];
    let unset = binary();
    let mut empty = binary();
    empty.env("MLX_EMBED_MODEL", "");
    for mut command in [unset, empty] {
        let found = run(command.args(arguments).args(texts)).done().json();
        let cosine = |a: usize, b: usize| found["similarity"][a][b].as_f64().unwrap();
        assert!(cosine(0, 1) > 0.5 && cosine(0, 2) < 0.3 && cosine(1, 2) < 0.3, "{found}");
    }
    let ran = run(binary().args(["embed", "--device", "cpu", "a"]));
    assert_eq!(ran.rows()[0].embedding.len(), 384);
    let ran = run(binary().args(["inspect", "--device", "cpu"]));
    assert!(ran.stdout.contains("(built-in model)"), "{}", ran.stdout);
}

#[cfg(feature = "serve")]
#[test]
fn an_empty_variable_counts_as_unset() {
    let mut command = binary();
    for setting in ["CONFIG", "LISTEN", "API_KEYS_FILE", "TIMEOUT_MS", "INPUTS", "MODEL_BYTES"] {
        command.env(format!("MLX_EMBED_SERVE_{setting}"), "");
    }
    run(command.args(["serve", "--check-config"])).done();
    run(command.env("MLX_EMBED_SERVE_INPUTS", "many")).failed(2, &["many"]);
}

#[test]
fn a_checkpoint_that_is_not_whole_is_named() {
    run(binary().args(["embed", "--model", "no/such/model", "a"])).failed(1, &["no/such/model"]);
    let dir = tempdir().unwrap();
    run(binary().args(["embed", "a", "--model"]).arg(dir.path())).failed(1, &["config.json: missing"]);
    let dir = copy_of("qwen3-f32", &["config.json", "model.safetensors"]);
    run(binary().args(["embed", "a", "--model"]).arg(dir.path())).failed(1, &["tokenizer.json: missing"]);
}

#[test]
fn prompts_by_name_and_by_text_give_the_reference_vectors() {
    let texts = golden_texts("st-last-token");
    for golden in texts.iter().filter(|each| !each.text.contains('\0')) {
        let mut command = on("embed", "st-last-token");
        match &golden.prompt_name {
            Some(name) => command.args(["--prompt-name", name]),
            None => command.args(["--prompt", ""]),
        };
        let row = run(command.args(["--", &golden.text])).rows().remove(0);
        assert_eq!(row.tokens, golden.tokens, "{golden:?}");
        assert_close(&row.embedding, &golden.embedding);
    }
    let named = run(on("embed", "st-last-token").args(["--prompt-name", "query", "a"])).rows();
    let query =
        "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:";
    assert_eq!(run(on("embed", "st-last-token").args(["--prompt", query, "a"])).rows(), named);
}

#[test]
fn a_prompt_that_is_not_there_is_a_usage_error_that_lists_those_that_are() {
    run(on("embed", "st-last-token").args(["--prompt-name", "nope", "a"]))
        .failed(2, &["`nope`", "document, query"]);
    run(on("embed", "st-last-token").args(["--prompt-name", "query", "--prompt", "x", "a"]))
        .failed(2, &["cannot be used with"]);
}

#[test]
fn dims_cuts_and_then_normalises() {
    let whole = run(on("embed", "st-mean").args(["--no-normalize", "a"])).rows().remove(0).embedding;
    let cut = run(on("embed", "st-mean").args(["--dims", "8", "a"])).rows().remove(0).embedding;
    let scaled: Vec<f32> = whole[..8].iter().map(|x| x / norm(&whole[..8])).collect();
    assert_close(&cut, &scaled);
    run(on("embed", "st-mean").args(["--dims", "33", "a"])).failed(2, &["--dims is 33", "have 32"]);
}

#[test]
fn of_an_option_given_twice_the_later_wins() {
    let rows = run(on("embed", "st-mean").args(["--dims", "8", "--dims", "4", "a"])).rows();
    assert_eq!(rows[0].embedding.len(), 4);
}

#[test]
fn the_later_of_normalize_and_no_normalize_wins() {
    let length =
        |arguments: &[&str]| norm(&run(on("embed", "st-mean").args(arguments).arg("a")).rows()[0].embedding);
    assert!((length(&["--no-normalize"]) - 1.0).abs() > 1e-2);
    assert!((length(&["--no-normalize", "--normalize"]) - 1.0).abs() < 1e-5);
    assert!((length(&["--normalize", "--no-normalize"]) - 1.0).abs() > 1e-2);
}

#[test]
fn zeros_and_nonsense_are_usage_errors() {
    for option in ["--dims", "--max-tokens", "--max-text-bytes", "--batch-tokens", "--threads"] {
        for value in ["0", "-1", "many", "1.5"] {
            let ran = run(on("embed", "st-mean").arg(format!("{option}={value}")).arg("a"));
            ran.failed(2, &["a whole number from 1 to", option]);
        }
    }
    run(on("embed", "st-mean").args(["--pooling", "median", "a"])).failed(2, &["last-token, mean, cls"]);
    run(on("embed", "st-mean").args(["--device", "tpu", "a"])).failed(2, &["auto, cpu, gpu"]);
    run(on("embed", "st-mean").args(["--end-token", "<none>", "a"])).failed(2, &["<none>"]);
    run(on("embed", "st-mean").args(["--input", "f", "a"])).failed(2, &["cannot be used with"]);
    run(on("embed", "st-mean").args(["--field", "f", "a"])).failed(2, &["cannot be used with"]);
    run(binary().arg("embedd")).failed(2, &["embed"]);
}

#[test]
fn what_was_decided_for_the_user_is_said_unless_quiet() {
    let ran = run(on("embed", "plain-tokenizer").arg("a"));
    assert!(ran.stderr.contains("last-token is used"), "{}", ran.stderr);
    assert!(ran.stderr.contains("<|endoftext|> is appended"), "{}", ran.stderr);
    let quiet = run(on("embed", "plain-tokenizer").args(["--quiet", "a"]));
    assert_eq!((quiet.stderr.as_str(), quiet.stdout), ("", ran.stdout));
    assert_eq!(run(on("embed", "st-last-token").arg("a")).stderr, "");
    assert_eq!(run(on("embed", "qwen3-f32").args(["--pooling", "last-token", "a"])).stderr, "");
}

#[test]
fn cut_texts_are_marked_and_counted() {
    let long = "many words ".repeat(20);
    let ran = run(on("embed", "st-last-token").args(["--max-tokens", "8", "a", &long, &long]));
    let rows = ran.rows();
    let found: Vec<(usize, bool)> = rows.iter().map(|row| (row.tokens, row.truncated)).collect();
    assert_eq!(found, [(2, false), (8, true), (8, true)]);
    assert!(ran.stderr.contains("2 of 3 texts had more than 8 tokens and were cut"), "{}", ran.stderr);
    let ran = run(on("embed", "st-last-token").args(["--max-tokens", "1", "a"]));
    ran.failed(2, &["--max-tokens is 1"]);
}

#[test]
fn texts_over_the_limit_in_bytes_are_named() {
    let text = "a".repeat(20);
    let embed = |limit: &str| run(on("embed", "st-mean").args(["--max-text-bytes", limit, "b", &text]));
    assert_eq!(embed("20").rows().len(), 2);
    let ran = embed("19");
    ran.failed(1, &["text 2 of the command line", "20 bytes", "--max-text-bytes"]);
    assert_eq!(rows(&ran.stdout).len(), 1, "the one before it is written");
}

#[test]
fn batch_size_threads_and_end_token_are_heard() {
    let texts = ["one", "two words", "three more words"];
    let expected = run(on("embed", "qwen3-f32").args(texts)).rows();
    for option in [["--batch-tokens", "1"], ["--threads", "1"], ["--end-token", "<|endoftext|>"]] {
        for (found, expected) in
            run(on("embed", "qwen3-f32").args(option).args(texts)).rows().iter().zip(&expected)
        {
            assert_eq!(found.tokens, expected.tokens);
            assert_close(&found.embedding, &expected.embedding);
        }
    }
    let bare = run(on("embed", "plain-tokenizer").args(["--end-token", "tokenizer"]).args(texts)).rows();
    let ended = run(on("embed", "plain-tokenizer").args(texts)).rows();
    assert!(bare.iter().zip(&ended).all(|(bare, ended)| bare.tokens + 1 == ended.tokens));
}

#[test]
fn version_names_mlx_and_mlx_c() {
    let ran = run(binary().arg("--version")).done();
    let start = format!("mlx-embed {} (MLX ", env!("CARGO_PKG_VERSION"));
    assert!(ran.stdout.starts_with(&start) && ran.stdout.contains(", mlx-c "), "{}", ran.stdout);
}

#[test]
fn help_has_examples_for_every_command() {
    for command in ["embed", "similarity", "inspect", "verify", "bench", "load"] {
        for flag in ["--help", "-h"] {
            let ran = run(binary().args([command, flag])).done();
            assert!(ran.stdout.contains("Examples:\n  mlx-embed "), "{}", ran.stdout);
            let widest = ran.stdout.lines().map(|line| line.chars().count()).max();
            assert!(widest.is_some_and(|widest| widest <= 80), "{widest:?}: {}", ran.stdout);
        }
    }
}

#[test]
fn on_a_machine_without_a_gpu_asking_for_one_is_an_error() {
    if Path::new("/dev/nvidia0").exists() || cfg!(target_os = "macos") {
        return;
    }
    let mut command = binary();
    command.args(["embed", "--device", "gpu", "a", "--model"]).arg(golden("st-mean"));
    run(&mut command).failed(2, &["no GPU"]);
}
