//! What a checkpoint is and how it would run.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::{golden, on, run};

fn inspect(case: &str, arguments: &[&str]) -> Value {
    let ran = run(on("inspect", case).arg("--json").args(arguments));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    serde_json::from_str(&ran.stdout).unwrap()
}

#[test]
fn json_has_every_fact_that_changes_vectors() {
    let report = inspect("st-last-token", &[]);
    assert_eq!(report["config"]["architecture"], "qwen3");
    assert_eq!(report["config"]["hidden_size"], 32);
    assert_eq!(report["config"]["rope_scaling"], json!({"type": "none"}));
    assert_eq!(report["storage"]["q_proj"], json!({"dense bf16": 2}));
    assert_eq!((&report["pooling"], &report["pooling_source"]), (&json!("last-token"), &json!("checkpoint")));
    assert_eq!(report["normalize"], true);
    assert_eq!(report["end_token"]["appended_by"], "tokenizer");
    assert_eq!(report["sentence_transformers"]["prompts"]["document"], "");
    assert_eq!(report["backend"], "cpu");
    for number in ["parameters", "weights_bytes", "max_tokens", "batch_tokens", "dims"] {
        assert!(report[number].as_u64().is_some_and(|number| number > 0), "{number}");
    }
    for number in ["mlx_active_bytes", "mlx_peak_bytes", "mlx_cache_bytes"] {
        assert!(report["memory"][number].is_u64(), "{number}");
    }
    if cfg!(target_os = "linux") {
        assert!(report["memory"]["resident_bytes"].as_u64().is_some_and(|bytes| bytes > 1 << 20));
    }
    assert_eq!(report["mlx_embed_version"], env!("CARGO_PKG_VERSION"));
    for version in ["mlx_version", "mlx_c_version"] {
        assert!(report[version].as_str().is_some_and(|version| version.contains('.')), "{version}");
    }
}

#[test]
fn weights_have_the_hash_that_others_find() {
    let case = "qwen3-affine-4bit-g64";
    let hashes = inspect(case, &[])["weights_sha256"].as_object().unwrap().clone();
    let sums = Command::new("sha256sum").current_dir(golden(case)).args(hashes.keys()).output();
    let text = run(&mut on("inspect", case)).stdout;
    assert!(!hashes.is_empty());
    for (name, hash) in &hashes {
        let line = format!("{}  {name}", hash.as_str().unwrap());
        assert!(text.contains(&line), "{line} is not in {text}");
        // Not every system has the program.
        if let Ok(sums) = &sums {
            assert!(String::from_utf8_lossy(&sums.stdout).contains(&line), "{sums:?}");
        }
    }
}

#[test]
fn options_show_in_what_is_reported() {
    let options = ["--pooling", "mean", "--no-normalize", "--dims", "8", "--max-tokens", "77"];
    let report = inspect("st-last-token", &options);
    assert_eq!((&report["pooling"], &report["pooling_source"]), (&json!("mean"), &json!("caller")));
    assert_eq!(report["normalize"], false);
    assert_eq!((&report["dims"], &report["max_tokens"]), (&json!(8), &json!(77)));
    assert_eq!(inspect("plain-tokenizer", &[])["end_token"]["appended_by"], "embedder");
    assert_eq!(inspect("qwen3-f32", &[])["pooling_source"], "default");
}

#[test]
fn text_tells_the_quantisation_of_each_kind_of_matrix() {
    let ran = run(&mut on("inspect", "qwen3-mixed-modes"));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    for line in [
        "architecture       qwen3, ",
        "  embed_tokens     1 x affine 6-bit, groups of 64",
        "  q_proj           1 x mxfp4 4-bit, groups of 32",
        "pooling            last-token, by default",
        "prompts            none",
        "device             cpu",
    ] {
        assert!(
            ran.stdout.lines().any(|found| found.starts_with(line)),
            "{line:?} is not in\n{}",
            ran.stdout
        );
    }
    let yarn = run(&mut on("inspect", "qwen3-rope-yarn")).stdout;
    assert!(yarn.contains("scaled: type yarn factor"), "{yarn}");
}

#[test]
fn text_tells_from_which_file_a_decision_comes() {
    let text = run(&mut on("inspect", "st-mean")).stdout;
    for line in [
        "pooling            mean, as the checkpoint says in 1_Pooling/config.json",
        "longest text       512 tokens, by max_position_embeddings in config.json; of longer ones the end is cut",
    ] {
        assert!(text.lines().any(|found| found == line), "{line:?} is not in\n{text}");
    }
    let text = run(on("inspect", "st-mean").args(["--max-tokens", "9"])).stdout;
    assert!(text.contains("longest text       9 tokens, by the caller;"), "{text}");
}

#[test]
fn prompts_are_shown_with_their_texts() {
    let text = run(&mut on("inspect", "st-last-token")).stdout;
    assert!(text.contains("prompt query       \"Instruct: "), "{text}");
}

#[test]
fn fast_is_compared_with_exact() {
    let lowest = |case: &str| {
        let compared = &inspect(case, &["--precision", "fast"])["fast_against_exact"];
        assert_eq!(compared["texts"], 12);
        let [lowest, mean] = ["lowest_cosine", "mean_cosine"].map(|name| compared[name].as_f64().unwrap());
        assert!(lowest <= mean && mean <= 1.0 + 1e-9, "{compared}");
        lowest
    };
    let quantised = lowest("qwen3-affine-4bit-g64");
    assert!(0.998 < quantised && quantised < 0.999_999_9, "{quantised}");
    // Nothing of it is rounded.
    assert!((lowest("qwen3-bf16") - 1.0).abs() < 1e-9);
    assert!(inspect("qwen3-affine-4bit-g64", &[])["fast_against_exact"].is_null());
    let text = run(on("inspect", "qwen3-affine-4bit-g64").args(["--precision", "fast"])).stdout;
    assert!(text.contains("fast against exact cosine 0.999"), "{text}");
}
