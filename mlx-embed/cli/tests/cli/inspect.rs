//! What a checkpoint is and how it would run.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::{binary, copy_of, golden, on, run};

fn inspect(case: &str, arguments: &[&str]) -> Value {
    run(on("inspect", case).arg("--json").args(arguments)).done().json()
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
fn help_has_the_default_batches_of_a_cpu() {
    let help = |command: &str| {
        let text = run(binary().args([command, "--help"])).done().stdout;
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let tokens = |threads| inspect("st-last-token", &["--threads", threads])["batch_tokens"].clone();
    assert_eq!(["4", "5", "16", "17"].map(tokens), [512, 640, 2048, 2048].map(Value::from));
    for command in ["embed", "serve"] {
        assert!(
            help(command).contains("on the CPU 512, from 5 threads on 128 for each, at most 2048]"),
            "{command}"
        );
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
    let ran = run(&mut on("inspect", "qwen3-mixed-modes")).done();
    for line in [
        "architecture       qwen3, ",
        "  embed_tokens     1 x affine 6-bit, groups of 64",
        "  q_proj           1 x mxfp4 4-bit, groups of 32",
        "pooling            last-token, by default",
        "prompts            none",
        "device             cpu",
    ] {
        let text = &ran.stdout;
        assert!(text.lines().any(|found| found.starts_with(line)), "{line:?} is not in\n{text}");
    }
    let yarn = run(&mut on("inspect", "qwen3-rope-yarn")).stdout;
    assert!(yarn.contains("scaled: type yarn factor"), "{yarn}");
}

#[test]
fn every_setting_names_what_decided_it() {
    let decided = inspect("st-last-token", &["--max-tokens", "77"])["decided_by"].clone();
    assert_eq!(decided["max_tokens"], "the caller");
    assert_eq!(decided["rope"], "config.json (rope_theta)");
    assert_eq!(decided["windows"], "default");
    for (setting, file) in
        [("pooling", "config.json"), ("normalize", "modules.json"), ("end_token", "tokenizer.json")]
    {
        assert!(decided[setting].as_str().is_some_and(|by| by.contains(file)), "{setting}: {decided}");
    }
    let text = run(&mut on("inspect", "llama-biases-f32")).stdout;
    for line in [
        "  sees             the tokens before it, causal, by the family, llama",
        "  biases           queries, keys and values, attention's output, feed-forward part, by config.json",
        "longest text       512 tokens, by config.json (max_position_embeddings); longer ones lose their end",
        "normalised         yes, by default",
    ] {
        assert!(text.lines().any(|found| found.starts_with(line)), "{line:?} is not in\n{text}");
    }
}

#[test]
fn what_was_left_out_is_kept() {
    let dir = copy_of("qwen3-f32", &["model.safetensors", "tokenizer.json"]);
    let config = std::fs::read(golden("qwen3-f32").join("config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    config["embedding_multiplier"] = json!(12.0);
    config["favourite_colour"] = json!("green");
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let model = dir.path().to_str().unwrap();
    let inspect = |arguments: &[&str]| {
        run(binary().args(["inspect", "--device", "cpu", "--model", model]).args(arguments))
    };

    inspect(&[]).failed(1, &["embedding_multiplier", "--lenient"]);
    let text = inspect(&["--lenient"]).stdout;
    assert!(text.contains("left out") && text.contains("`embedding_multiplier`"), "{text}");
    assert!(text.contains("unknown fields     favourite_colour"), "{text}");
    let report = inspect(&["--lenient", "--json"]).json();
    assert_eq!(report["warnings"][0]["name"], "embedding_multiplier");
    assert_eq!(report["unknown_fields"], json!(["favourite_colour"]));
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
    // Its inputs are no multiple of 32, so nothing of it is rounded.
    assert!((lowest("qwen2-odd-sizes-bf16") - 1.0).abs() < 1e-9);
    assert!(inspect("qwen3-affine-4bit-g64", &[])["fast_against_exact"].is_null());
    let text = run(on("inspect", "qwen3-affine-4bit-g64").args(["--precision", "fast"])).stdout;
    assert!(text.contains("fast against exact cosine 0.999"), "{text}");
    assert!(text.contains("  rounds           activations to 8 bits\n"), "{text}");
}

#[test]
fn what_is_rounded_is_told() {
    let rounding = |case: &str, precision: &str, kernels: &str| {
        let found = inspect(case, &["--precision", precision, "--kernels", kernels]);
        let rounding = &found["rounding"];
        ["activations", "weights", "attention"].map(|what| rounding[what].as_u64())
    };
    assert_eq!(rounding("qwen3-affine-4bit-g64", "exact", "portable"), [Some(16), None, None]);
    assert_eq!(rounding("qwen3-affine-4bit-g64", "fast", "portable"), [Some(8), None, None]);
    assert_eq!(rounding("families/bert-f32", "exact", "portable"), [None, None, None]);
    // Which has no instructions for that.
    assert_eq!(rounding("families/bert-f32", "fast", "portable"), [None, None, None]);
    assert_eq!(rounding("families/bert-f32", "fast", "mlx"), [None, None, None]);
    #[cfg(target_arch = "x86_64")]
    let has_bf16 = is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    let has_bf16 = false;
    let attention = |family: &str| (has_bf16 && family.starts_with("avx512")).then_some(8);
    for family in mlx_embed::kernel_families().into_iter().filter(|name| name.contains("vnni")) {
        assert_eq!(rounding("families/bert-f32", "exact", family), [None, None, None]);
        assert_eq!(rounding("families/bert-f32", "fast", family), [Some(8), Some(8), attention(family)]);
        // Under a causal mask it stays as it is.
        assert_eq!(rounding("qwen3-affine-4bit-g64", "fast", family)[2], None);
    }
}
