//! Results as JSONL, `.npy` and `.safetensors`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use safetensors::{Dtype, SafeTensors};
use tempfile::tempdir;

use crate::support::{assert_close, floats, golden_texts, on, rows, run, run_on};

/// What `numpy.save` of numpy 2.4 writes before the data of an f32 array of shape (`rows`, `dims`).
fn numpy_header(rows: usize, dims: usize) -> Vec<u8> {
    let dict = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {dims}), }}");
    [b"\x93NUMPY\x01\x00v\x00", format!("{dict:117}\n").as_bytes()].concat()
}

fn npy(path: &Path, rows: usize, dims: usize) -> Vec<f32> {
    let bytes = fs::read(path).unwrap();
    let header = numpy_header(rows, dims);
    assert_eq!(String::from_utf8_lossy(&bytes[..128]), String::from_utf8_lossy(&header));
    floats(&bytes[128..])
}

#[test]
fn all_formats_hold_the_same_reference_vectors() {
    let dir = tempdir().unwrap();
    let texts = golden_texts("st-mean");
    let arguments: Vec<&str> =
        texts.iter().map(|each| each.text.as_str()).filter(|text| !text.contains('\0')).collect();
    let to = |name: &str, extra: &[&str]| {
        let path = dir.path().join(name);
        let ran = run(on("embed", "st-mean")
            .args(["--max-tokens", "6", "--output"])
            .arg(&path)
            .args(extra)
            .arg("--")
            .args(&arguments));
        assert_eq!((ran.code, ran.stdout.as_str()), (0, ""), "{}", ran.stderr);
        path
    };
    let rows = rows(&fs::read_to_string(to("vectors.jsonl", &["--with-text"])).unwrap());
    let vectors: Vec<f32> = rows.iter().flat_map(|row| row.embedding.clone()).collect();
    let dims = rows[0].embedding.len();
    assert!(rows.iter().any(|row| row.truncated) && rows.iter().any(|row| !row.truncated));
    for (row, text) in rows.iter().zip(&arguments) {
        assert_eq!(row.text.as_deref(), Some(*text));
        let golden = texts.iter().find(|each| each.text == *text).unwrap();
        if !row.truncated {
            assert_close(&row.embedding, &golden.embedding);
        }
        assert_eq!(row.tokens, golden.tokens.min(6));
    }

    assert_eq!(npy(&to("vectors.npy", &[]), rows.len(), dims), vectors);
    assert_eq!(npy(&to("vectors.bin", &["--format", "npy"]), rows.len(), dims), vectors);
    assert_eq!(npy(&to("VECTORS.NPY", &[]), rows.len(), dims), vectors);

    let bytes = fs::read(to("vectors.safetensors", &[])).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |name: &str, dtype: Dtype, shape: &[usize]| {
        let tensor = file.tensor(name).unwrap();
        assert_eq!((tensor.dtype(), tensor.shape()), (dtype, shape));
        tensor.data().to_vec()
    };
    assert_eq!(floats(&tensor("embeddings", Dtype::F32, &[rows.len(), dims])), vectors);
    let tokens: Vec<u8> = rows.iter().flat_map(|row| (row.tokens as u32).to_le_bytes()).collect();
    assert_eq!(tensor("tokens", Dtype::U32, &[rows.len()]), tokens);
    let truncated: Vec<u8> = rows.iter().map(|row| row.truncated.into()).collect();
    assert_eq!(tensor("truncated", Dtype::BOOL, &[rows.len()]), truncated);
}

#[test]
fn no_texts_make_valid_empty_files() {
    let dir = tempdir().unwrap();
    let (one, other) = (dir.path().join("none.npy"), dir.path().join("none.safetensors"));
    run(on("embed", "st-mean").arg("--output").arg(&one)).done();
    assert!(npy(&one, 0, 32).is_empty());
    run(on("embed", "st-mean").arg("--output").arg(&other)).done();
    let bytes = fs::read(other).unwrap();
    assert_eq!(SafeTensors::deserialize(&bytes).unwrap().tensor("embeddings").unwrap().shape(), [0, 32]);
}

#[test]
fn a_job_that_fails_half_way_leaves_valid_files() {
    let dir = tempdir().unwrap();
    let mut input: Vec<u8> = (0..1500).flat_map(|line| format!("line {line}\n").into_bytes()).collect();
    input.extend(b"\xff\n");
    let path = dir.path().join("vectors.npy");
    let ran = run_on(on("embed", "st-mean").args(["--dims", "8", "--output"]).arg(&path), &input);
    ran.failed(1, &["line 1501", "the 1500 results before it are written to", "vectors.npy"]);
    assert_eq!(npy(&path, 1500, 8).len(), 1500 * 8);
    let path = dir.path().join("vectors.safetensors");
    run_on(on("embed", "st-mean").args(["--dims", "8", "--output"]).arg(&path), &input).failed(1, &["1501"]);
    let bytes = fs::read(path).unwrap();
    assert_eq!(SafeTensors::deserialize(&bytes).unwrap().tensor("embeddings").unwrap().shape(), [1500, 8]);
}

#[test]
fn binary_formats_refuse_what_they_cannot_do() {
    run(on("embed", "st-mean").args(["--format", "npy", "a"])).failed(2, &["--output FILE"]);
    run(on("embed", "st-mean").args(["--output", "vectors.csv", "a"])).failed(2, &[".csv", "--format"]);
    run(on("embed", "st-mean").args(["-f", "safetensors", "-o", "-", "a"])).failed(2, &["--output FILE"]);
    run(on("embed", "st-mean").args(["--with-text", "-o", "x.npy", "a"])).failed(2, &["--with-text"]);
    assert!(!Path::new("x.npy").exists());
}

#[test]
fn the_input_is_never_overwritten() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("texts.txt");
    fs::write(&path, "precious\n").unwrap();
    let other_name = dir.path().join("link.npy");
    fs::hard_link(&path, &other_name).unwrap();
    for output in [&path, &other_name] {
        let ran = run(on("embed", "st-mean").arg("--input").arg(&path).arg("--output").arg(output));
        ran.failed(2, &["overwrite the input"]);
    }
    let redirected = on("embed", "st-mean")
        .stdin(fs::File::open(&path).unwrap())
        .arg("--output")
        .arg(&path)
        .output()
        .unwrap();
    assert_eq!(redirected.status.code(), Some(2));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious\n");
}

#[test]
fn a_wrong_option_leaves_the_output_as_it_was() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("vectors.jsonl");
    fs::write(&path, "from before").unwrap();
    for option in [["--dims", "4096"], ["--prompt-name", "nope"], ["--max-tokens", "1"]] {
        run(on("embed", "st-mean").args(option).arg("--output").arg(&path).arg("a")).failed(2, &[]);
        assert_eq!(fs::read_to_string(&path).unwrap(), "from before");
    }
}

#[test]
fn an_output_that_cannot_be_written_is_named() {
    let ran = run(on("embed", "st-mean").args(["--output", "no/such/dir.jsonl", "a"]));
    ran.failed(1, &["no/such/dir.jsonl: "]);
    if Path::new("/dev/full").exists() {
        run(on("embed", "st-mean").args(["--output", "/dev/full", "a"])).failed(1, &["/dev/full: "]);
        run(on("embed", "st-mean").args(["-f", "npy", "--output", "/dev/null", "a"]))
            .failed(1, &["not a regular file"]);
    }
}

#[test]
fn a_reader_that_goes_away_early_fails_the_job() {
    let dir = tempdir().unwrap();
    let file = dir.path().join("texts.txt");
    fs::write(&file, "line\n".repeat(3000)).unwrap();
    let mut child = on("embed", "st-mean")
        .arg("--input")
        .arg(&file)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.starts_with("{\"index\":0,"));
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("standard output: its reader is gone before everything was written"), "{stderr}");
}

/// What a shell runs, with the program and its arguments put in the place of `$@`.
#[cfg(target_os = "linux")]
fn in_a_shell(script: &str, command: &std::process::Command) -> std::process::Output {
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", script, "sh"]).arg(command.get_program()).args(command.get_args());
    shell.stdin(Stdio::null()).output().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn standard_output_that_is_full_or_closed_is_an_error() {
    for (script, part) in [("\"$@\" >/dev/full", "No space left"), ("\"$@\" >&-", "closed")] {
        let output = in_a_shell(script, on("embed", "st-mean").arg("a"));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{script}: {stderr}");
        assert!(stderr.contains("standard output: ") && stderr.contains(part), "{script}: {stderr}");
    }
    for (command, arguments) in [("inspect", &[][..]), ("similarity", &["a", "b"]), ("verify", &[])] {
        let output = in_a_shell("\"$@\" >/dev/full", on(command, "st-mean").args(arguments));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{command}: {stderr}");
        assert!(stderr.contains("standard output: No space left"), "{command}: {stderr}");
    }
    #[cfg(feature = "serve")]
    {
        let output =
            in_a_shell("\"$@\" >/dev/full", crate::support::binary().args(["serve", "--check-config"]));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("standard output: No space left"), "{stderr}");
    }
    // What a shell writes to nowhere is meant to.
    assert_eq!(in_a_shell("\"$@\" >/dev/null", on("embed", "st-mean").arg("a")).status.code(), Some(0));
    let dir = tempdir().unwrap();
    let path = dir.path().join("vectors.jsonl");
    let output = in_a_shell("\"$@\" >&-", on("embed", "st-mean").arg("a").arg("--output").arg(&path));
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(rows(&fs::read_to_string(&path).unwrap()).len(), 1);
}

#[test]
fn numbers_are_the_shortest_that_read_back_the_same() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("vectors.npy");
    run(on("embed", "qwen3-f32").arg("--output").arg(&path).arg("a"));
    let ran = run(on("embed", "qwen3-f32").arg("a"));
    let found = &ran.rows()[0].embedding;
    assert_close(found, &npy(&path, 1, found.len()));
    let shortest = found.iter().all(|number| ran.stdout.contains(&serde_json::to_string(number).unwrap()));
    assert!(shortest, "{}", ran.stdout);
}

mod dtypes {
    use super::*;

    const TEXTS: [&str; 3] = ["where do cats sleep?", "The market fell.", "Roses need water."];

    /// A file of the texts' vectors, which `options` are about.
    fn file(path: &Path, options: &[&str]) -> Vec<u8> {
        run(on("embed", "st-mean").args(options).arg("--output").arg(path).args(TEXTS)).done();
        fs::read(path).unwrap()
    }

    fn tensor(bytes: &[u8], name: &str) -> (Dtype, Vec<usize>, Vec<u8>) {
        let file = SafeTensors::deserialize(bytes).unwrap();
        let tensor = file.tensor(name).unwrap();
        (tensor.dtype(), tensor.shape().to_vec(), tensor.data().to_vec())
    }

    #[test]
    fn vectors_are_written_in_fewer_bits() {
        let dir = tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let (_, shape, exact) = tensor(&file(&path("f32.safetensors"), &[]), "embeddings");
        let (exact, dims) = (floats(&exact), shape[1]);

        let (dtype, shape, half) = tensor(&file(&path("f16.safetensors"), &["--dtype", "f16"]), "embeddings");
        assert_eq!((dtype, shape), (Dtype::F16, vec![3, dims]));
        let expected: Vec<u8> =
            mlx_embed::vectors::to_f16(&exact).iter().flat_map(|number| number.to_le_bytes()).collect();
        assert_eq!(half, expected);
        let npy = file(&path("f16.npy"), &["--dtype", "f16"]);
        assert!(npy.starts_with(b"\x93NUMPY") && String::from_utf8_lossy(&npy[..128]).contains("'<f2'"));
        assert_eq!(npy[128..], expected);

        let binary = file(&path("bits.npy"), &["--dtype", "binary"]);
        let columns = dims.div_ceil(8);
        let header = format!("'descr': '|i1', 'fortran_order': False, 'shape': (3, {columns})");
        assert!(String::from_utf8_lossy(&binary[..128]).contains(&header));
        for (row, bits) in exact.chunks(dims).zip(binary[128..].chunks(columns)) {
            for (place, number) in row.iter().enumerate() {
                let is_set = (bits[place / 8] ^ 0x80) >> (7 - place % 8) & 1 == 1;
                assert_eq!(is_set, *number > 0.0, "{place}: {number}");
            }
        }
    }

    #[test]
    fn bytes_lie_within_ranges_that_others_take_over() {
        let dir = tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let exact = floats(&tensor(&file(&path("f32.safetensors"), &[]), "embeddings").2);
        let documents = path("documents.safetensors");
        let bytes = file(&documents, &["--dtype", "int8"]);
        let (dtype, shape, values) = tensor(&bytes, "embeddings");
        let dims = shape[1];
        assert_eq!((dtype, shape[0]), (Dtype::I8, 3));
        let (dtype, shape, ranges) = tensor(&bytes, "ranges");
        assert_eq!((dtype, shape), (Dtype::F32, vec![2, dims]));
        assert_eq!(tensor(&bytes, "tokens").1, [3]);
        let ranges = floats(&ranges);
        for (place, (number, value)) in exact.iter().zip(&values).enumerate() {
            let (least, largest) = (ranges[place % dims], ranges[dims + place % dims]);
            let step = (largest - least) / 255.0;
            let back = least + (f32::from(*value as i8) + 128.5) * step;
            assert!((least..=largest).contains(number) && (back - number).abs() <= 0.51 * step, "{place}");
        }
        let ran =
            run(on("embed", "st-mean").args(["--dtype", "int8", "--output"]).arg(&documents).args(TEXTS));
        assert!(ran.stderr.contains("from 3 texts, which is few"), "{}", ran.stderr);

        let options = ["--dtype", "int8", "--ranges", documents.to_str().unwrap()];
        let again = file(&path("queries.safetensors"), &options);
        assert_eq!(tensor(&again, "embeddings").2, values);
        assert_eq!(floats(&tensor(&again, "ranges").2), ranges);
        assert_eq!(file(&path("queries.npy"), &options)[128..], values);
    }

    #[test]
    fn ranges_that_nothing_can_lie_in_are_refused() {
        let dir = tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let sound = file(&path("sound.safetensors"), &["--dims", "8", "--dtype", "int8"]);
        let ranges = || {
            let options = ["--dims", "8", "--dtype", "int8", "--ranges"];
            let (ranges, output) = (path("ranges.safetensors"), path("a.safetensors"));
            run(on("embed", "st-mean").args(options).arg(ranges).arg("-o").arg(output).arg("a"))
        };
        let (header, metadata) = SafeTensors::read_metadata(&sound).unwrap();
        let (start, _) = metadata.info("ranges").unwrap().data_offsets;
        // Of the first number: a least one above the largest, and two that are too far apart for their difference.
        for least in [f32::MAX, f32::NAN, f32::NEG_INFINITY] {
            let mut bytes = sound.clone();
            bytes[8 + header + start..][..4].copy_from_slice(&least.to_le_bytes());
            fs::write(path("ranges.safetensors"), bytes).unwrap();
            ranges().failed(2, &["ranges.safetensors", "not finite, or a least one above the largest"]);
        }
        let mut bytes = sound.clone();
        bytes[8 + header + start..][..4].copy_from_slice(&(-f32::MAX).to_le_bytes());
        bytes[8 + header + start + 32..][..4].copy_from_slice(&f32::MAX.to_le_bytes());
        fs::write(path("ranges.safetensors"), bytes).unwrap();
        ranges().failed(2, &["ranges.safetensors", "not finite"]);
        // Nobody writes into this pipe.
        fs::remove_file(path("ranges.safetensors")).unwrap();
        assert!(Command::new("mkfifo").arg(path("ranges.safetensors")).status().unwrap().success());
        ranges().failed(2, &["ranges.safetensors", "not a regular file"]);
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let dir = tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        file(Path::new(&path("f32.safetensors")), &[]);
        file(Path::new(&path("narrow.safetensors")), &["--dims", "8", "--dtype", "int8"]);
        fs::write(path("text"), "no header").unwrap();
        fs::write(path("short"), "no").unwrap();
        let own = path("narrow.safetensors");
        for (options, message) in [
            (&["--dtype", "f16"][..], "--dtype is for npy, safetensors and Parquet"),
            (&["--dtype", "int8", "-o", &path("a.npy")], "which keep the ranges"),
            (&["--ranges", &own, "-o", &path("a.npy")], "--ranges is for --dtype int8"),
            (
                &["--dtype", "int8", "--ranges", &own, "-o", &path("a.npy")],
                "and vectors of 32 numbers want F32 [2, 32]",
            ),
            (
                &["--dtype", "int8", "--ranges", &path("f32.safetensors"), "-o", &path("a.npy")],
                "it has no `ranges`",
            ),
            (
                &["--dtype", "int8", "--ranges", &path("text"), "-o", &path("a.npy")],
                "no safetensors: its header has",
            ),
            (&["--dtype", "int8", "--ranges", &path("short"), "-o", &path("a.npy")], "no safetensors: "),
            (&["--dtype", "int8", "--ranges", &path("none"), "-o", &path("a.npy")], "none: No such file"),
            (
                &["--dims", "8", "--dtype", "int8", "--ranges", &own, "-o", &own],
                "it would overwrite the input",
            ),
        ] {
            run(on("embed", "st-mean").args(options).arg("a")).failed(2, &[message]);
        }
    }
}
