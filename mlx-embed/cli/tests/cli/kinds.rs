//! Weights of tokens and vectors of tokens from the command line.

use mlx_embed::verify::Golden;
use serde_json::Value;

use crate::support::{Ran, golden, on, run};

const SPLADE: &str = "families/splade-bert";
const COLBERT: &str = "families/late-interaction-bert";
const BGE: &str = "families/bge-m3-safetensors-heads";

fn lines(ran: &Ran) -> Vec<Value> {
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

#[test]
fn sparse_vectors_are_the_references() {
    for (case, kind) in [(SPLADE, None), (BGE, Some("sparse"))] {
        let golden = Golden::open(golden(case).join("golden.safetensors")).unwrap();
        let texts: Vec<&str> = golden.texts().iter().map(|text| text.text.as_str()).collect();
        let mut command = on("embed", case);
        command.args(kind.iter().flat_map(|kind| ["--kind", kind])).arg("--").args(&texts);
        let rows = lines(&run(&mut command));
        assert_eq!(rows.len(), texts.len());
        for (index, row) in rows.iter().enumerate() {
            let (ids, values) = (numbers(&row["indices"]), numbers(&row["values"]));
            assert_eq!((ids.len(), &row["index"], row.get("embedding")), (values.len(), &index.into(), None));
            let expected = golden.token_weights(index).unwrap();
            let mut found = vec![0.0; expected.len()];
            ids.iter().zip(values).for_each(|(id, value)| found[*id as usize] = value);
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - f64::from(*expected)).abs() < 1e-4, "{case}: {row}");
            }
        }
    }
}

#[test]
fn vectors_of_tokens_are_those_of_the_role() {
    let reference = Golden::open(golden(COLBERT).join("golden.safetensors")).unwrap();
    for (index, text) in reference.texts().iter().enumerate() {
        let side = text.side.as_deref().unwrap();
        let mut command = on("embed", COLBERT);
        // Documents are the default.
        if side == "query" {
            command.args(["--role", "query"]);
        }
        let row = lines(&run(command.args(["--with-text", "--", &text.text]))).remove(0);
        assert_eq!((&row["text"], &row["tokens"]), (&text.text[..].into(), &text.ids.len().into()));
        let (expected, width) = reference.token_vectors(index).unwrap();
        let found = row["embeddings"].as_array().unwrap();
        assert_eq!(found.len() * width, expected.len());
        assert_eq!(found.len(), row["token_ids"].as_array().unwrap().len());
        for (found, expected) in found.iter().flat_map(numbers).zip(expected) {
            assert!((found - f64::from(*expected)).abs() < 1e-5, "{side}: {}", text.text);
        }
    }
}

#[test]
fn the_note_on_cut_texts_has_the_limit_of_the_role() {
    let long = "roses in the garden ".repeat(40);
    for (role, limit) in [("query", 16), ("document", 48)] {
        let ran = run(on("embed", COLBERT).args(["--role", role, &long]));
        let note = format!("1 of 1 texts had more than {limit} tokens and were cut");
        assert!(ran.stderr.contains(&note), "{}", ran.stderr);
    }
}

#[test]
fn formats_and_options_that_do_not_fit_a_kind_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (case, words) in [(SPLADE, "weights of tokens"), (COLBERT, "one vector per token")] {
        for file in ["rows.npy", "rows.safetensors"] {
            let file = dir.path().join(file);
            let format = file.extension().unwrap().to_str().unwrap().to_owned();
            run(on("embed", case).arg("--output").arg(&file).arg("a text"))
                .failed(2, &[&format, words, "--format jsonl"]);
            assert!(!file.exists());
        }
        let file = dir.path().join("rows.jsonl");
        run(on("embed", case).arg("--output").arg(&file).arg("a text")).done();
        assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 1);
        run(on("embed", case).args(["--pooling", "mean", "a text"])).failed(2, &["--pooling"]);
    }
    run(on("embed", SPLADE).args(["--dims", "8", "a text"])).failed(2, &["--dims"]);
    run(on("embed", SPLADE).args(["--role", "query", "a text"])).failed(2, &["--role"]);
    run(on("embed", COLBERT).args(["--dims", "99", "a text"])).failed(2, &["--dims", "32"]);
    // A kind that the checkpoint doesn't have.
    run(on("embed", COLBERT).args(["--kind", "vector", "a text"])).failed(1, &["MultiVectorEmbedder"]);
    run(on("embed", "families/bert-f32").args(["--kind", "tokens", "a text"])).failed(1, &["modules.json"]);
}

#[test]
fn other_commands_know_these_kinds() {
    for (case, facts) in [
        (SPLADE, ["weights of tokens of the vocabulary", "masked tokens"]),
        (
            COLBERT,
            [
                "marker \"[Q] \", up to 16 tokens, filled up with mask tokens that no token attends to",
                "Dense 64 to 32",
            ],
        ),
    ] {
        let found = run(on("verify", case).arg("--json")).json();
        assert!(found["passed"] == true && found["against"]["vectors"]["passed"] == true, "{found}");
        let inspected = run(&mut on("inspect", case));
        assert!(facts.iter().all(|fact| inspected.stdout.contains(fact)), "{}", inspected.stdout);
    }
    run(on("verify", BGE).args(["--kind", "tokens"])).done();
}
