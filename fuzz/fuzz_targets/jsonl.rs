//! What `mlx-embed embed --input` reads: lines, or a field of JSONL. Its texts go through a model.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use mlx_embed::{Embedder, LoadOptions};
use mlx_embed_tests::damage;

#[allow(dead_code, reason = "reading lines needs two of its variants")]
#[path = "../../mlx-embed/cli/src/error.rs"]
mod error;

#[allow(dead_code, reason = "the command line asks for more")]
#[path = "../../mlx-embed/cli/src/input/lines.rs"]
mod lines;

#[allow(dead_code, reason = "tables and arguments are no lines")]
#[path = "../../mlx-embed/cli/src/input/places.rs"]
mod places;

use error::CliError;
use lines::Line;

/// The lines, the last of them the end or the first error; and how many bytes were read.
fn texts(input: &[u8], field: Option<&str>) -> (Vec<Line>, Option<CliError>, u64) {
    let reader = Box::new(std::io::Cursor::new(input.to_vec()));
    let mut lines = lines::Lines::new(reader, "input".to_owned(), field.map(str::to_owned), 1 << 20);
    let mut texts = Vec::new();
    loop {
        match lines.next() {
            Ok(Line::End) => return (texts, None, lines.read()),
            Ok(line) => texts.push(line),
            Err(error) => return (texts, Some(error), lines.read()),
        }
    }
}

static EMBEDDER: LazyLock<Embedder> = LazyLock::new(|| {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/qwen3-affine-4bit-g64");
    Embedder::load_with(dir, LoadOptions::default()).expect("the golden case loads")
});

fuzz_target!(init: mlx_embed_fuzz::catch_panics(), |input: &[u8]| {
    for field in [None, Some("text")] {
        let (texts, error, read) = texts(input, field);
        let bad = usize::from(error.is_some());
        let lines: Vec<&[u8]> = input.split_inclusive(|&byte| byte == b'\n').collect();
        match &error {
            None => {
                assert_eq!(texts.len(), lines.len());
                assert_eq!(read, input.len() as u64);
            }
            Some(error) => {
                let place = format!("input, line {}: ", texts.len() + 1);
                assert!(error.to_string().starts_with(&place), "{error}");
            }
        }
        assert!(texts.len() + bad <= lines.len());
        for (text, line) in texts.iter().zip(&lines) {
            if let (Line::Null, Some(field)) = (text, field) {
                let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
                let line = mlx_embed::json::from_python(line);
                let object: serde_json::Value = serde_json::from_slice(&line).expect("it was read as JSON");
                assert!(object.get(field).is_some_and(serde_json::Value::is_null));
                continue;
            }
            let Line::Text(text) = text else {
                assert!(field.is_some() && String::from_utf8_lossy(line).trim_start_matches('\u{feff}').trim().is_empty());
                continue;
            };
            match field {
                None => {
                    let line = line.strip_suffix(b"\n").map_or(*line, |line| line.strip_suffix(b"\r").unwrap_or(line));
                    assert!(line.ends_with(text.as_bytes()) && line.len() - text.len() <= 3);
                }
                Some(field) => {
                    let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
                    let line = mlx_embed::json::from_python(line);
                    let object: serde_json::Value = serde_json::from_slice(&line).expect("it was read as JSON");
                    assert_eq!(object[field].as_str(), Some(text.as_str()));
                }
            }
        }
        if let Some(Line::Text(text)) = texts.first() {
            damage::check_vectors(&EMBEDDER, text);
        }
    }
});
