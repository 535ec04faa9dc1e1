//! `mlx-embed bench`.

use serde_json::Value;

use crate::support::{binary, on, run, run_on};

const CASE: &str = "qwen3-affine-4bit-g64";

#[test]
fn every_shape_is_measured_and_told() {
    let report =
        run(on("bench", CASE).args(["--shapes", "1x8,3x5", "--rounds", "3", "--json"])).done().json();
    let shapes = report["shapes"].as_array().unwrap();
    assert_eq!(shapes.len(), 2);
    for (shape, (batch, tokens)) in shapes.iter().zip([(1, 8), (3, 5)]) {
        assert_eq!((shape["batch"].as_u64(), shape["tokens"].as_u64()), (Some(batch), Some(tokens)));
        let number = |name: &str| shape[name].as_f64().unwrap();
        assert!(0.0 < number("min_ms") && number("min_ms") <= number("p50_ms"), "{shape}");
        assert!(number("p50_ms") <= number("p95_ms"), "{shape}");
        let tokens_per_s = (batch * tokens) as f64 / number("p50_ms") * 1e3;
        assert!((number("tokens_per_s") / tokens_per_s - 1.0).abs() < 1e-9, "{shape}");
    }
    assert_eq!(report["rounds"], 3);
    assert_eq!(report["precision"], "exact");
}

#[test]
fn the_table_has_a_line_a_shape() {
    let ran = run(on("bench", CASE).args(["--shapes", "2x4", "--rounds", "1", "--precision", "fast"])).done();
    assert!(ran.stdout.lines().any(|line| line.trim_start().starts_with("2x4 ")), "{}", ran.stdout);
    assert!(ran.stdout.contains("fast"), "{}", ran.stdout);
}

#[test]
fn lines_are_answered_one_by_one() {
    let input = b"{\"batch\":1,\"tokens\":8}\n{\"batch\":2,\"tokens\":3}\n";
    let ran = run_on(on("bench", CASE).arg("--stdin"), input);
    let rows: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((ran.code, rows.len()), (0, 2), "{}", ran.stderr);
    assert_eq!((rows[1]["batch"].as_u64(), rows[1]["tokens"].as_u64()), (Some(2), Some(3)));
    assert!(rows.iter().all(|row| row["ms"].as_f64().unwrap() > 0.0));
}

#[test]
fn a_wrong_line_is_named() {
    for line in
        ["{\"batch\":1}", "[]", "{\"batch\":0,\"tokens\":8}", "{\"batch\":9999999,\"tokens\":9999999}"]
    {
        let input = format!("{{\"batch\":1,\"tokens\":2}}\n{line}\n");
        run_on(on("bench", CASE).arg("--stdin"), input.as_bytes()).failed(2, &["line 2"]);
    }
}

#[test]
fn shapes_that_cannot_be_are_refused() {
    for shape in ["0x8", "8", "1x", "axb", "99999999x99999999"] {
        run(on("bench", CASE).args(["--shapes", shape])).failed(2, &["--shapes"]);
    }
    run(on("bench", CASE).args(["--rounds", "0"])).failed(2, &["--rounds"]);
}

#[test]
fn kernels_are_chosen_by_option_and_by_variable() {
    let bench = |command: &mut std::process::Command| {
        run(command.args(["--shapes", "1x2", "--rounds", "1", "--json"])).done().json()["kernels"].clone()
    };
    assert_eq!(bench(on("bench", CASE).args(["--kernels", "portable"])), "portable");
    assert_eq!(bench(on("bench", CASE).env("MLX_EMBED_KERNELS", "mlx")), "mlx");
    // The option goes before the variable, and an empty variable is none.
    let both = bench(on("bench", CASE).env("MLX_EMBED_KERNELS", "mlx").args(["--kernels", "portable"]));
    assert_eq!(both, "portable");
    assert_ne!(bench(on("bench", CASE).env("MLX_EMBED_KERNELS", "")), "mlx");
}

#[test]
fn unknown_kernels_are_refused_with_those_that_there_are() {
    run(on("bench", CASE).args(["--kernels", "avx1024"])).failed(2, &["avx1024", "portable", "mlx"]);
}

#[test]
fn help_shows_how_to_call_it() {
    let ran = run(binary().args(["bench", "--help"]));
    assert!(ran.stdout.contains("mlx-embed bench --model DIR --shapes"), "{}", ran.stdout);
}
