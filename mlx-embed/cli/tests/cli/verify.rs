//! `mlx-embed verify`.

use std::fs;

use serde_json::Value;
use tempfile::tempdir;

use crate::support::{binary, copy_of, golden, on, run};

const WHOLE: [&str; 3] = ["config.json", "tokenizer.json", "model.safetensors"];

const CASE: &str = "qwen3-affine-4bit-g64";

#[test]
fn a_sound_checkpoint_passes() {
    let found = run(on("verify", CASE).arg("--json")).done().json();
    assert_eq!((&found["passed"], &found["first_divergent_layer"]), (&Value::Bool(true), &Value::Null));
    let layers = found["against"]["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 4);
    assert_eq!(layers[0]["layer"], "embed_tokens");
    assert_eq!((&layers[2]["layer"], &layers[3]["layer"]), (&Value::from(1), &Value::from("norm")));
    for layer in layers {
        let number = |name: &str| layer[name].as_f64().unwrap();
        assert!(number("cosine") > 0.999_999 && number("error") <= number("allowed_error"), "{layer}");
        assert!(number("median_error") <= number("allowed_median_error") && layer["passed"] == true);
        assert!(layer["max_abs"].is_f64() && layer["text"].is_u64() && layer["token"].is_u64());
    }
    assert!(found["against"]["vectors"]["cosine"].as_f64().unwrap() > 0.999_99);
    assert_eq!(found["against"]["same_weights"], true);
    let questions: Vec<&Value> =
        found["checks"].as_array().unwrap().iter().map(|check| &check["question"]).collect();
    assert_eq!(questions, ["finite", "determinism", "padded", "equal-lengths", "shuffled"]);
    assert!(found["checks"].as_array().unwrap().iter().all(|check| check["passed"] == true));
}

#[test]
fn a_fault_ends_with_one_and_names_its_layer() {
    let dir = copy_of("qwen3-f32", &WHOLE);
    // Another case's weights of the same shapes would be off everywhere; half of these are.
    let path = dir.path().join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let (header, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let (start, end) = metadata.info("model.layers.1.self_attn.o_proj.weight").unwrap().data_offsets;
    bytes[8 + header + start..8 + header + end].fill(0);
    fs::write(&path, bytes).unwrap();
    let against = golden("qwen3-f32").join("golden.safetensors");
    for json_wanted in [true, false] {
        let mut command = binary();
        command.arg("verify").arg(dir.path()).arg("--against").arg(&against).args(["--device", "cpu"]);
        if json_wanted {
            command.arg("--json");
        }
        let ran = run(&mut command);
        ran.failed(1, &["layers.1 is the first layer that is off", "the weights are not those"]);
        if json_wanted {
            let found = ran.json();
            assert_eq!((&found["passed"], &found["first_divergent_layer"]), (&false.into(), &1.into()));
            assert!(!found["failures"].as_array().unwrap().is_empty());
        } else {
            let off = |line: &str| line.starts_with("layers.1 ") && line.ends_with("OFF");
            assert!(ran.stdout.lines().any(off) && ran.stdout.ends_with("FAILED\n"), "{}", ran.stdout);
        }
    }
    // Sound by itself: what is zero is finite.
    let mut alone = binary();
    let ran = run(alone.arg("verify").arg(dir.path()).args(["--device", "cpu"])).done();
    assert!(ran.stderr.contains("without a golden file"), "{}", ran.stderr);
}

#[test]
fn a_golden_file_that_cannot_be_right_ends_with_two() {
    let dir = tempdir().unwrap();
    let short = dir.path().join("short.safetensors");
    let bytes = fs::read(golden(CASE).join("golden.safetensors")).unwrap();
    fs::write(&short, &bytes[..bytes.len() / 2]).unwrap();
    let verify = |file: &std::path::Path| run(on("verify", CASE).arg("--against").arg(file));
    verify(&short).failed(2, &["short.safetensors", "not a golden file"]);
    verify(&dir.path().join("none")).failed(2, &["none", "No such file"]);
    verify(dir.path()).failed(2, &["not a regular file"]);
    verify(&golden(CASE).join("model.safetensors")).failed(2, &["not a golden file"]);
    verify(&golden("default-model").join("golden.safetensors")).failed(2, &["made for another model"]);
    // One beside the checkpoint, too.
    let whole = copy_of("qwen3-f32", &WHOLE);
    fs::copy(&short, whole.path().join("golden.safetensors")).unwrap();
    run(binary().args(["verify", "--device", "cpu"]).arg(whole.path())).failed(2, &["golden.safetensors"]);
    run(binary().args(["verify", "no/such/model"])).failed(1, &["no/such/model"]);
    run(binary().args(["verify", "/dev/null"]))
        .failed(1, &["/dev/null: no checkpoint directory; pass the folder"]);
    run(on("verify", CASE).args(["--kernels", "abacus"])).failed(2, &["abacus"]);
}

#[test]
fn the_model_inside_is_verified_in_every_precision() {
    for options in [&["--precision", "exact"][..], &["--precision", "fast"], &["--kernels", "mlx"]] {
        let ran = run(binary().args(["verify", "--device", "cpu"]).args(options));
        assert_eq!(ran.code, 0, "{options:?}: {}{}", ran.stdout, ran.stderr);
        assert!(ran.stdout.ends_with("\npassed\n") && ran.stderr.is_empty(), "{}", ran.stderr);
    }
}

#[test]
fn a_folder_on_the_command_line_goes_before_the_environment() {
    let mut command = binary();
    command.env("MLX_EMBED_MODEL", "no/such/model").args(["verify", "--device", "cpu"]).arg(golden(CASE));
    run(&mut command).done();
}
