//! Documents by how well they answer a query, and what of rerankers other commands show.

use serde_json::Value;

use crate::support::{binary, golden, on, run, run_on};

const BERT: &str = "families/reranker-bert-identity";
const QWEN3: &str = "families/reranker-qwen3-tied";
const QUERY: &str = "How long do roses in the garden stay open?";
const DOCUMENTS: [&str; 3] = [
    "Roses in the old garden open before the sun is over the wall, and by noon they fade.",
    "Crabs walk sideways.",
    "the other cat was sleeping in the sun, there is nothing better than reading in the morning",
];

/// Index and score of each result, in the order that they are printed in.
fn results(found: &Value) -> Vec<(usize, f64)> {
    let results = found["results"].as_array().unwrap().iter();
    results.map(|row| (row["index"].as_u64().unwrap() as usize, row["score"].as_f64().unwrap())).collect()
}

#[test]
fn scores_are_the_references_and_the_best_come_first() {
    for case in [BERT, QWEN3] {
        let found = run(on("rerank", case).args(["--json", QUERY]).args(DOCUMENTS)).done().json();
        assert_eq!(found["query"], QUERY);
        let reference = mlx_embed::verify::Golden::open(golden(case).join("golden.safetensors")).unwrap();
        let results = results(&found);
        assert_eq!(results.len(), DOCUMENTS.len());
        assert!(results.is_sorted_by(|a, b| a.1 >= b.1), "{results:?}");
        for (row, (index, score)) in found["results"].as_array().unwrap().iter().zip(results) {
            let text = &reference.texts()[index];
            assert_eq!(
                (&row["document"], &row["tokens"]),
                (&Value::from(&text.text[..]), &Value::from(text.ids.len()))
            );
            let off = (score - f64::from(reference.score(index).unwrap())).abs();
            assert!(off < 1e-5 && row["truncated"] == false, "{case}: {row} is {off} off");
        }
    }
}

#[test]
fn documents_come_from_files_and_pipes_as_texts_do() {
    let arguments = run(on("rerank", BERT).args(["--json", QUERY]).args(DOCUMENTS)).done().json();
    let piped = run_on(on("rerank", BERT).args(["--json", QUERY]), DOCUMENTS.join("\n").as_bytes());
    assert_eq!(piped.done().json(), arguments);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("documents.jsonl");
    let lines = DOCUMENTS.map(|body| serde_json::json!({"id": 1, "body": body}).to_string());
    std::fs::write(&file, lines.join("\n\n")).unwrap();
    let mut command = on("rerank", BERT);
    command.args(["--json", "--field", "body", QUERY, "--input"]).arg(&file);
    // Blank lines of JSONL count, and hold no document.
    let from_file: Vec<_> =
        results(&run(&mut command).done().json()).iter().map(|(at, score)| (at / 2, *score)).collect();
    assert_eq!(from_file, results(&arguments));
}

#[test]
fn the_table_has_a_line_a_document() {
    let ran = run(on("rerank", BERT).args(["--top-n", "2", QUERY]).args(DOCUMENTS)).done();
    let best = results(&run(on("rerank", BERT).args(["--json", QUERY]).args(DOCUMENTS)).done().json());
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines.len(), 2, "{}", ran.stdout);
    for (line, (index, score)) in lines.iter().zip(best) {
        let mut parts = line.split_whitespace();
        assert!((parts.next().unwrap().parse::<f64>().unwrap() - score).abs() < 1e-4, "{line}");
        assert_eq!(parts.next().unwrap(), (index + 1).to_string());
        assert!(DOCUMENTS[index].starts_with(parts.next().unwrap()), "{line}");
    }
}

#[test]
fn options_reach_the_model() {
    let of = |arguments: &[&str]| {
        results(
            &run(on("rerank", QWEN3).args(["--json"]).args(arguments).args([QUERY, "roses"])).done().json(),
        )
    };
    let (score, raw) = (of(&[])[0].1, of(&["--raw"])[0].1);
    assert!((score - 1.0 / (1.0 + (-raw).exp())).abs() < 1e-6, "{score} of {raw}");
    assert_ne!(of(&["--instruction", "Find crabs"])[0].1, score);
    let ran =
        run(on("rerank", QWEN3).args(["--json", "--max-tokens", "260", QUERY, &"roses ".repeat(100)])).done();
    assert_eq!(ran.json()["results"][0]["truncated"], true);
    assert!(ran.stderr.contains("were cut"), "{}", ran.stderr);
}

#[test]
fn what_cannot_be_reranked_is_an_error_in_words() {
    run(on("rerank", BERT).arg(QUERY)).failed(2, &["at least 1 document"]);
    run(binary().args(["rerank", QUERY, "a document"])).failed(2, &["--model", "reranker"]);
    run(&mut on("rerank", BERT)).failed(2, &["QUERY"]);
    run(on("rerank", "st-mean").args([QUERY, "a"]))
        .failed(1, &["modules.json", "Pooling", "mlx-embed embed"]);
    run(on("embed", BERT).arg("a")).failed(1, &["architectures", "mlx-embed rerank"]);
    run(on("rerank", BERT).args(["--max-tokens", "20", QUERY, "a"])).failed(1, &["query", "20"]);
    run(on("rerank", BERT).args(["--prompt-name", "none", QUERY, "a"])).failed(2, &["no prompt `none`"]);
    let long = "long ".repeat(50);
    run(on("rerank", BERT).args(["--max-text-bytes", "100", QUERY, "a", &long]))
        .failed(1, &["text 2 of the command line", "--max-text-bytes"]);
}

#[test]
fn inspect_says_how_pairs_become_scores() {
    let ran = run(&mut on("inspect", BERT));
    for part in [
        "template of a pair",
        "cls",
        "Dense 64 to 64, Tanh (pooler.dense)",
        "Dense 64 to 1 (classifier)",
        "Identity",
        "activation_fn",
    ] {
        assert!(ran.stdout.contains(part), "{part:?} is not in {}", ran.stdout);
    }
    let found = run(on("inspect", QWEN3).args(["--reranker", "--json"])).done().json();
    assert_eq!(found["reranker"]["answers"], serde_json::json!(["no", "yes"]));
    assert_eq!((&found["dims"], &found["pooling"]), (&Value::from(2), &Value::from("last-token")));
    assert_eq!(run(on("inspect", QWEN3).arg("--json")).done().json()["reranker"], Value::Null);
    run(on("inspect", BERT).args(["--dims", "8"])).failed(2, &["--dims", "reranker"]);
}

#[test]
fn verify_compares_scores() {
    for (case, arguments) in [(BERT, &[][..]), (QWEN3, &["--reranker"])] {
        let found = run(on("verify", case).arg("--json").args(arguments)).done().json();
        assert_eq!(
            (&found["passed"], &found["against"]["scores"]["passed"]),
            (&Value::Bool(true), &Value::Bool(true))
        );
        assert_eq!(found["against"]["vectors"], Value::Null);
        let ran = run(on("verify", case).args(arguments));
        assert!(ran.stdout.contains("scores ") && ran.stdout.contains("passed"), "{}", ran.stdout);
    }
    // Another activation's scores are off.
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(golden("families/reranker-bert-sigmoid").join(file), dir.path().join(file)).unwrap();
    }
    let mut command = binary();
    command.arg("verify").arg(dir.path()).args(["--device", "cpu", "--against"]);
    run(command.arg(golden(BERT).join("golden.safetensors"))).failed(1, &["scores differ"]);
}
