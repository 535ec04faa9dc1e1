//! Texts from arguments, files and pipes.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

use serde_json::json;
use tempfile::tempdir;

use crate::support::{assert_close, assert_same, golden_texts, on, rows, rows_in_any_place, run, run_on};

#[test]
fn arguments_stdin_file_and_jsonl_give_the_reference_vectors() {
    for case in ["qwen3-f32", "qwen3-affine-4bit-g64", "st-mean", "st-cls"] {
        // Arguments can't hold NUL, lines no line end; JSONL holds everything.
        let texts = golden_texts(case);
        let plain: Vec<_> = texts.iter().filter(|each| !each.text.contains(['\0', '\n', '\r'])).collect();
        let lines: String = plain.iter().map(|each| format!("{}\n", each.text)).collect();
        let jsonl: String =
            texts.iter().map(|each| format!("{}\n", json!({"id": 7, "body": each.text}))).collect();
        let dir = tempdir().unwrap();
        let file = dir.path().join("texts.txt");
        fs::write(&file, &lines).unwrap();

        let arguments = run(on("embed", case).arg("--").args(plain.iter().map(|each| &each.text))).rows();
        assert_eq!(arguments.len(), plain.len());
        for (found, expected) in arguments.iter().zip(&plain) {
            assert_eq!(found.tokens, expected.tokens, "{case}: {:?}", expected.text);
            assert!(!found.truncated && found.text.is_none());
            assert_close(&found.embedding, &expected.embedding);
        }
        assert_same(&run_on(&mut on("embed", case), lines.as_bytes()).rows(), &arguments);
        assert_same(&run_on(on("embed", case).args(["--input", "-"]), lines.as_bytes()).rows(), &arguments);
        assert_same(&run(on("embed", case).arg("--input").arg(&file)).rows(), &arguments);

        let found = run_on(on("embed", case).args(["--field", "body"]), jsonl.as_bytes()).rows();
        assert_eq!(found.len(), texts.len());
        for (found, expected) in found.iter().zip(&texts) {
            assert_eq!(found.tokens, expected.tokens);
            assert_close(&found.embedding, &expected.embedding);
        }
    }
}

#[test]
fn a_file_named_jsonl_is_read_as_jsonl_with_the_field_text() {
    let dir = tempdir().unwrap();
    let file = dir.path().join("texts.jsonl");
    fs::write(&file, "{\"text\": \"a\\nb\"}\n{\"text\": \"\"}\n{\"other\": [{}], \"text\": \"🦀\"}").unwrap();
    let found = run(on("embed", "st-mean").arg("--with-text").arg("--input").arg(&file)).rows();
    let texts: Vec<&str> = found.iter().filter_map(|row| row.text.as_deref()).collect();
    assert_eq!(texts, ["a\nb", "", "🦀"]);
}

#[test]
fn empty_lines_and_crlf_keep_line_and_index_in_step() {
    let input = "a\r\n\r\nb\n\n c \r\n\u{0}🦀\n";
    let found = run_on(on("embed", "st-last-token").arg("--with-text"), input.as_bytes()).rows();
    let texts: Vec<&str> = found.iter().filter_map(|row| row.text.as_deref()).collect();
    assert_eq!(texts, ["a", "", "b", "", " c ", "\0🦀"]);
    assert_close(&found[1].embedding, &found[3].embedding);
}

#[test]
fn order_is_kept_over_several_windows() {
    let lines: Vec<String> = (0..2500).map(|line| format!("{line} {}", "word ".repeat(line % 7))).collect();
    let input = lines.join("\n");
    let dir = tempdir().unwrap();
    let file = dir.path().join("texts.txt");
    fs::write(&file, &input).unwrap();
    let by_file =
        run(on("embed", "qwen3-affine-4bit-g64").arg("--with-text").arg("--input").arg(&file)).rows();
    let by_pipe =
        run_on(on("embed", "qwen3-affine-4bit-g64").args(["--with-text", "-i", "-"]), input.as_bytes())
            .rows();
    assert_eq!(by_file.len(), lines.len());
    for ((row, piped), line) in by_file.iter().zip(&by_pipe).zip(&lines) {
        assert_eq!(row.text.as_ref(), Some(line));
        assert_close(&piped.embedding, &row.embedding);
    }
    for index in [0, 1023, 1024, 2499] {
        let alone = run(on("embed", "qwen3-affine-4bit-g64").args(["--", &lines[index]])).rows();
        assert_close(&by_file[index].embedding, &alone[0].embedding);
    }
}

#[test]
fn a_line_is_answered_before_the_next_is_written() {
    let mut child = on("embed", "st-mean")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let (sender, answers) = mpsc::channel();
    std::thread::spawn(move || stdout.lines().try_for_each(|line| sender.send(line.unwrap())));
    for index in 0..3 {
        stdin.write_all(b"a question\n").unwrap();
        let answer = answers.recv_timeout(Duration::from_secs(60)).expect("an answer without more input");
        assert!(answer.starts_with(&format!("{{\"index\":{index},")), "{answer}");
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

/// Most memory that a process has had so far, in kilobytes, where the system tells.
fn peak_kilobytes(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[test]
fn a_line_without_end_is_an_error_that_takes_little_memory() {
    let starts: [(&[u8], &[&str]); 4] = [
        (b"a", &[]),
        (b"{\"text\":\"", &["--field", "text"]),
        (b"[[[[", &["--field", "text"]),
        (b"{\"a\":", &["--field", "text"]),
    ];
    for (start, arguments) in starts {
        let mut child = on("embed", "st-mean")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut stdin, mut peak, mut written) = (child.stdin.take().unwrap(), 0, 0_u64);
        let more = start.repeat((64 << 10) / start.len());
        // It goes on until nobody reads any more.
        while stdin.write_all(&more).is_ok() {
            peak = peak.max(peak_kilobytes(child.id()));
            written += more.len() as u64;
            assert!(written < 1 << 30, "it reads on after {written} bytes");
        }
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("standard input, line 1"), "{said}");
        println!(
            "{}: {} MB read, {} MB of memory",
            String::from_utf8_lossy(start),
            written >> 20,
            peak >> 10
        );
        assert!(peak < 200 << 10, "{peak} kB: {said}");
    }
}

#[test]
fn no_texts_give_no_results_and_a_note() {
    let ran = run(&mut on("embed", "st-mean"));
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""));
    assert!(ran.stderr.contains("no texts"), "{}", ran.stderr);
}

#[test]
fn bad_lines_are_named_and_what_came_before_is_written() {
    let cases: [(&[u8], &[&str], &str); 4] = [
        (b"a\nb\nc \xff\n", &[], "standard input, line 3: byte 3 of the line is not UTF-8"),
        (b"{\"t\":\"a\"}\n{\"t\":\"b\"}\n{\"t\" \"c\"}", &["--field", "t"], "line 3: not JSON"),
        (
            b"{\"t\":\"a\"}\n{\"t\":\"b\"}\n{\"u\":\"c\"}",
            &["--field", "t"],
            "line 3: no field `t`; there are: u",
        ),
        (b"{\"t\":\"a\"}\n{\"t\":\"b\"}\n{\"t\":null}", &["--field", "t"], "line 3: the field `t` is null"),
    ];
    for (input, arguments, message) in cases {
        let ran = run_on(on("embed", "st-mean").args(arguments), input);
        ran.failed(1, &[message, "the 2 results before it are written to standard output"]);
        assert_eq!(rows(&ran.stdout).len(), 2);
    }
}

#[test]
fn blank_lines_of_jsonl_are_skipped_and_results_keep_their_lines() {
    let input = b"\n{\"text\": \"a\"}\n  \r\n\n{\"text\": \"b\", \"score\": NaN}\n\n";
    let ran = run_on(on("embed", "st-mean").args(["--field", "text", "--with-text"]), input);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    let found: Vec<(usize, Option<String>)> =
        rows_in_any_place(&ran.stdout).into_iter().map(|row| (row.index, row.text)).collect();
    assert_eq!(found, [(1, Some("a".to_owned())), (4, Some("b".to_owned()))]);
    let alone = run(on("embed", "st-mean").args(["a", "b"])).rows();
    for (row, alone) in rows_in_any_place(&ran.stdout).iter().zip(&alone) {
        assert_close(&row.embedding, &alone.embedding);
    }
}

/// What is wrong with lines of this input, by line.
const BAD_LINES: [(usize, &str); 4] = [
    (2, "not JSON"),
    (4, "no field `text`; there are: body"),
    (5, "byte 11 of the line is not UTF-8"),
    (7, "the field `text` is null, not a string"),
];

fn input_with_bad_lines() -> Vec<u8> {
    let lines: [&[u8]; 8] = [
        br#"{"text": "a"}"#,
        br#"{"text": "b""#,
        b"",
        br#"{"body": "c"}"#,
        b"{\"text\": \"\xff\"}",
        br#"{"text": "\ud800"}"#,
        br#"{"text": null}"#,
        br#"{"text": "d"}"#,
    ];
    lines.join(&b'\n')
}

#[test]
fn bad_records_are_skipped_where_that_is_asked_for() {
    let skip = ["--field", "text", "--with-text", "--on-error", "skip"];
    let ran = run_on(on("embed", "st-mean").args(skip), &input_with_bad_lines());
    ran.failed(3, &["4 of 7 texts were skipped"]);
    let texts: Vec<(usize, Option<String>)> =
        rows_in_any_place(&ran.stdout).into_iter().map(|row| (row.index, row.text)).collect();
    let expected = [(0, "a"), (5, "\u{fffd}"), (7, "d")].map(|(line, text)| (line, Some(text.to_owned())));
    assert_eq!(texts, expected);
    let told: Vec<&str> = ran.stderr.lines().filter(|line| line.starts_with("skipped: ")).collect();
    assert_eq!(told.len(), BAD_LINES.len(), "{}", ran.stderr);
    for (told, (line, reason)) in told.iter().zip(BAD_LINES) {
        assert!(told.contains(&format!("standard input, line {line}: {reason}")), "{told}");
    }
    // The default.
    for stop in [&[][..], &["--on-error", "stop"]] {
        let ran =
            run_on(on("embed", "st-mean").args(["--field", "text"]).args(stop), &input_with_bad_lines());
        ran.failed(1, &["line 2: not JSON", "the result before it is written to standard output"]);
    }
}

#[test]
fn texts_that_cannot_be_embedded_are_skipped_like_bad_records() {
    let arguments = ["--pooling", "mean", "--on-error", "skip"];
    let ran = run_on(on("embed", "plain-tokenizer").args(arguments), b"one\n\ntwo\n\n");
    ran.failed(
        3,
        &["standard input, line 2: it is empty", "line 4: it is empty", "2 of 4 texts were skipped"],
    );
    let lines: Vec<usize> = rows_in_any_place(&ran.stdout).iter().map(|row| row.index).collect();
    assert_eq!(lines, [0, 2]);
    let ran = run(on("embed", "plain-tokenizer").args(arguments).args(["", "one"]));
    ran.failed(3, &["text 1 of the command line: it is empty", "1 of 2 texts were skipped"]);
    assert_eq!(rows_in_any_place(&ran.stdout)[0].index, 1);
}

#[test]
fn many_bad_records_do_not_end_a_job_that_skips() {
    let input: String = (0..5000)
        .map(|line| if line % 2500 == 2499 { "{\"text\": \"a\"}\n" } else { "no record\n" })
        .collect();
    let skip = ["--field", "text", "--on-error", "skip"];
    let ran = run_on(on("embed", "st-mean").args(skip), input.as_bytes());
    ran.failed(3, &["line 1: not JSON", "line 4999: not JSON", "4998 of 5000 texts were skipped"]);
    let lines: Vec<usize> = rows_in_any_place(&ran.stdout).iter().map(|row| row.index).collect();
    assert_eq!(lines, [2499, 4999]);
}

#[test]
fn formats_without_line_numbers_say_that_lines_are_left_out() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("vectors.npy");
    let skip = ["--field", "text", "--on-error", "skip", "--output"];
    let ran = run_on(on("embed", "st-mean").args(skip).arg(&path), &input_with_bad_lines());
    ran.failed(
        3,
        &["4 of 7 texts were skipped", "note: not every line of the input has a row in the output"],
    );
    assert_eq!(fs::metadata(&path).unwrap().len(), 128 + 3 * 32 * 4);
}

#[test]
fn a_text_that_cannot_be_embedded_is_named_by_its_place() {
    let arguments = ["--pooling", "mean"];
    let ran = run_on(on("embed", "plain-tokenizer").args(arguments), b"one\ntwo\n\nfour\n");
    ran.failed(1, &["standard input, line 3: it is empty", "the 2 results before it are written"]);
    assert_eq!(rows(&ran.stdout).len(), 2);
    let ran = run(on("embed", "plain-tokenizer").args(arguments).arg(""));
    ran.failed(1, &["text 1 of the command line: it is empty", "nothing is written"]);
}

#[test]
fn files_that_cannot_be_read_are_named() {
    run(on("embed", "st-mean").args(["--input", "no/such.txt"])).failed(1, &["no/such.txt: "]);
    let dir = tempdir().unwrap();
    run(on("embed", "st-mean").arg("--input").arg(dir.path()))
        .failed(1, &[&dir.path().display().to_string()]);
}

#[test]
fn input_that_is_no_text_is_named_and_never_embedded() {
    let dir = tempdir().unwrap();
    let utf_16: Vec<u8> = "\u{feff}the cat\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (bytes, what) in [(&b"\x1f\x8b\x08\0"[..], "zcat"), (b"PK\x03\x04", "ZIP"), (&utf_16, "UTF-16")] {
        for name in ["a.txt", "a.jsonl", "a.csv", "a"] {
            let file = dir.path().join(name);
            fs::write(&file, bytes).unwrap();
            let ran = run(on("embed", "st-mean").args(["--on-error", "skip", "--input"]).arg(&file));
            assert_eq!(ran.stdout, "");
            ran.failed(1, &[name, what]);
        }
        run_on(&mut on("embed", "st-mean"), bytes).failed(1, &["standard input", what]);
    }
    let json = dir.path().join("a.JSON");
    fs::write(&json, "{\"body\": \"the cat\"}\n").unwrap();
    run(on("embed", "st-mean").arg("--input").arg(&json)).failed(2, &["a.JSON", "--field", "jq"]);
    assert_eq!(run(on("embed", "st-mean").args(["--field", "body", "--input"]).arg(&json)).rows().len(), 1);
}
