//! `mlx-embed bench`.

use serde_json::Value;

use crate::support::{Ran, binary, on, run, run_on};

const CASE: &str = "qwen3-affine-4bit-g64";

fn json(ran: &Ran) -> Value {
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}", ran.stdout))
}

#[test]
fn every_shape_is_measured_and_told() {
    let report = json(&run(on("bench", CASE).args(["--shapes", "1x8,3x5", "--rounds", "3", "--json"])));
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
    let ran = run(on("bench", CASE).args(["--shapes", "2x4", "--rounds", "1", "--precision", "fast"]));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
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
        json(&run(command.args(["--shapes", "1x2", "--rounds", "1", "--json"])))["kernels"].clone()
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

#[test]
fn layers_are_told_as_json_and_as_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("layers.html");
    let report = json(&run(on("bench", CASE)
        .args(["--layers", "--shapes", "1x3,2x5", "--rounds", "1", "--json", "--html"])
        .arg(&page)));
    let shapes = report["shapes"].as_array().unwrap();
    assert_eq!(shapes.len(), 2);
    assert!(report["roofline"]["gb_per_s"].as_f64().unwrap() > 0.0);
    assert!(report["load"]["p50_ms"].as_f64().unwrap() > 0.0);
    assert_eq!(report["tokenisation"].as_array().unwrap().len(), 3);
    for shape in shapes {
        let parts: Vec<&str> = shape["operations"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|line| line["parts"].as_array().unwrap())
            .map(|part| part.as_str().unwrap())
            .collect();
        for part in ["gather", "qkv", "attention", "output", "gate_up", "down", "final_norm", "pooling"] {
            assert_eq!(parts.iter().filter(|found| **found == part).count(), 1, "{part} in {parts:?}");
        }
        for line in [&shape["layer"], &shape["model"]] {
            let number = |name: &str| line[name].as_f64().unwrap();
            // The CPU computes as it is told, so there is no host's time beside it.
            assert!(number("device_us") > 0.0 && number("host_us") == 0.0, "{line}");
            let gflops = number("operations") / number("device_us") / 1e3;
            assert!((number("gflops") / gflops - 1.0).abs() < 1e-9, "{line}");
            assert!(number("share_of_roof") > 0.0, "{line}");
        }
        let layers = shape["layers"].as_array().unwrap();
        assert_eq!(layers.len() as u64, report["model"]["layers"].as_u64().unwrap());
    }
    let page = std::fs::read_to_string(page).unwrap();
    // A roofline, a bar a shape, latencies, and a plot a shape by layer; every element closed, nothing fetched.
    assert_eq!(page.matches("<svg").count(), 5);
    for element in ["svg", "section", "table", "details", "p", "dl"] {
        let opened =
            page.matches(&format!("<{element}>")).count() + page.matches(&format!("<{element} ")).count();
        assert_eq!(opened, page.matches(&format!("</{element}>")).count(), "{element}");
    }
    assert!(!page.contains("http") && !page.contains("NaN") && !page.contains("inf\""), "{page}");
    let data = page.split("id=\"report\">").nth(1).unwrap().split("</script>").next().unwrap();
    let data: Value = serde_json::from_str(data).unwrap();
    assert_eq!(data["shapes"], report["shapes"]);
}

#[test]
fn layers_are_told_as_a_table() {
    let ran =
        run(on("bench", CASE).args(["--layers", "--shapes", "1x2", "--rounds", "1", "--kernels", "mlx"]));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    for name in ["roofline:", "load:", "tokenisation", "embedding gather", "attention", "layer ", "model "] {
        assert!(ran.stdout.lines().any(|line| line.starts_with(name)), "{name}: {}", ran.stdout);
    }
}

#[test]
fn a_page_needs_layers_and_a_place() {
    run(on("bench", CASE).args(["--html", "page.html"])).failed(2, &["--layers"]);
    let nowhere = ["--layers", "--html", "/nowhere/page.html"];
    run(on("bench", CASE).args(nowhere)).failed(1, &["/nowhere/page.html"]);
    run(on("bench", CASE).args(["--layers", "--stdin"])).failed(2, &["--stdin"]);
}
