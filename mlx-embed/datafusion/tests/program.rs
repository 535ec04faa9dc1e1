//! `mlx-embed-sql` as its users run it.
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use std::fs;
use std::process::{Command, Output};

fn sql(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mlx-embed-sql"));
    command.env_remove("MLX_EMBED_MODEL").args(["--device", "cpu"]).args(arguments).output().unwrap()
}

#[test]
fn it_answers_from_a_file_in_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let docs = dir.path().join("docs.csv");
    fs::write(&docs, "id,body\n1,A cat sleeps on the mat\n2,Stocks fell sharply\n3,A kitten naps\n").unwrap();
    let query = format!(
        "SELECT id, cosine(embed(body), embed('a feline rests')) AS score FROM '{}' ORDER BY score DESC LIMIT 2",
        docs.display()
    );
    let lines = |output: &Output| {
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout.clone()).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let jsonl = lines(&sql(&[&query]));
    assert_eq!(jsonl.len(), 2);
    assert!(
        jsonl.iter().all(|line| line.starts_with("{\"id\":1,") || line.starts_with("{\"id\":3,")),
        "{jsonl:?}"
    );
    let csv = lines(&sql(&["--format", "csv", &query]));
    assert_eq!((csv.len(), csv[0].as_str()), (3, "id,score"));
    assert!(lines(&sql(&["--format", "table", &query]))[1].contains("| id | score"));
    let vectors = dir.path().join("vectors.parquet");
    let copy = format!("COPY (SELECT embed(body) AS v FROM '{}') TO '{}'", docs.display(), vectors.display());
    assert_eq!(lines(&sql(&[&copy])), ["{\"count\":3}"]);
    assert!(vectors.exists());
}

#[test]
fn what_is_wrong_is_said_in_a_line() {
    for (arguments, part) in [
        (&["SELECT embed(body) FROM 'nowhere.parquet'"][..], "nowhere.parquet"),
        (&["SELECT rerank('a', 'b')"], "rerank"),
        (&["--model", "nowhere", "SELECT 1"], "nowhere"),
        (&["SELEC 1"], "SELEC"),
    ] {
        let output = sql(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.starts_with("error: ") && said.contains(part), "{said}");
        assert!(!said.contains("panicked"), "{said}");
    }
    assert_eq!(sql(&[]).status.code(), Some(2));
}
