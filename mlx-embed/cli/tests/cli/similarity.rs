//! The matrix of cosines.

use serde_json::Value;

use crate::support::{assert_close, golden_texts, numbers, on, run, run_on};

fn matrix(arguments: &[&str], texts: &[&str]) -> Vec<Vec<f32>> {
    let value =
        run(on("similarity", "st-last-token").arg("--json").args(arguments).args(texts)).done().json();
    let named: Vec<&str> = value["texts"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(named, texts);
    value["similarity"].as_array().unwrap().iter().map(numbers).collect()
}

#[test]
fn the_matrix_is_symmetric_with_ones_on_the_diagonal() {
    let texts = ["a cat", "a feline", "the stock market", "🦀", ""];
    for arguments in [&[][..], &["--no-normalize"], &["--dims", "8"]] {
        let matrix = matrix(arguments, &texts);
        assert_eq!(matrix.len(), texts.len());
        for (i, row) in matrix.iter().enumerate() {
            assert_eq!(row.len(), texts.len());
            assert_eq!(row[i], 1.0);
            for (j, cosine) in row.iter().enumerate() {
                assert_eq!(*cosine, matrix[j][i]);
                assert!(cosine.abs() <= 1.0);
            }
        }
    }
}

#[test]
fn cosines_do_not_depend_on_the_vectors_lengths() {
    let texts = ["a cat", "a feline", "the stock market"];
    let (one, other) = (matrix(&[], &texts), matrix(&["--no-normalize"], &texts));
    one.iter().zip(&other).for_each(|(one, other)| assert_close(one, other));
}

#[test]
fn cosines_are_those_of_the_reference_vectors() {
    let golden = golden_texts("st-last-token");
    let plain: Vec<_> =
        golden.iter().filter(|each| each.prompt_name.is_none() && !each.text.contains('\0')).collect();
    let texts: Vec<&str> = plain.iter().map(|each| each.text.as_str()).collect();
    for (row, a) in matrix(&[], &texts).iter().zip(&plain) {
        let expected: Vec<f32> =
            plain.iter().map(|b| a.embedding.iter().zip(&b.embedding).map(|(a, b)| a * b).sum()).collect();
        assert_close(row, &expected);
    }
}

#[test]
fn the_table_lines_up_and_shortens_labels() {
    let texts = ["a cat", "漢字と🦀", &"long ".repeat(40), "\u{1b}[31mred\ttab"];
    let ran = run(on("similarity", "st-mean").arg("--").args(texts)).done();
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines.len(), 5);
    let widths: Vec<usize> = lines.iter().map(|line| unicode_width::UnicodeWidthStr::width(*line)).collect();
    assert!(widths.iter().all(|&width| width == widths[0]), "{}", ran.stdout);
    assert!(lines[1].starts_with("1 a cat ") && lines[1].contains("  1.000"), "{}", ran.stdout);
    assert!(lines[3].contains("…"), "{}", ran.stdout);
    assert!(!ran.stdout.contains('\u{1b}'), "{}", ran.stdout);
}

#[test]
fn texts_may_come_from_input_and_must_be_two() {
    let ran = run_on(on("similarity", "st-mean").arg("--json"), b"a cat\na feline\n");
    let arguments = run(on("similarity", "st-mean").args(["--json", "a cat", "a feline"]));
    assert_eq!((ran.code, ran.stdout), (0, arguments.stdout));
    run(on("similarity", "st-mean").arg("alone")).failed(2, &["at least 2 texts", "got 1"]);
    run(&mut on("similarity", "st-mean")).failed(2, &["got 0"]);
    run_on(&mut on("similarity", "st-mean"), b"a\n\xff\n").failed(1, &["line 2"]);
}
