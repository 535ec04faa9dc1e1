//! Running the binary, and what the reference says.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// A golden checkpoint's directory.
pub(crate) fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(case)
}

/// The binary with nothing from the environment that would change what it does.
pub(crate) fn binary() -> Command {
    // `tools/checks/run abort` names one that is built in another way.
    let other = std::env::var_os("MLX_EMBED_BINARY");
    let mut command = Command::new(other.unwrap_or_else(|| env!("CARGO_BIN_EXE_mlx-embed").into()));
    let others = ["HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN", "HF_TOKEN_PATH"];
    for variable in ["MLX_EMBED_MODEL", "MLX_EMBED_KERNELS"].iter().chain(&others) {
        command.env_remove(variable);
    }
    command
}

/// `mlx-embed COMMAND --model CASE` on the CPU.
pub(crate) fn on(command: &str, case: &str) -> Command {
    let mut binary = binary();
    binary.arg(command).arg("--model").arg(golden(case)).args(["--device", "cpu"]);
    binary
}

/// What a run left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Fails unless the run succeeded.
    #[track_caller]
    pub(crate) fn done(self) -> Self {
        assert_eq!(self.code, 0, "{}", self.stderr);
        self
    }

    /// Fails unless the run succeeded; vectors that it printed, one a line.
    #[track_caller]
    pub(crate) fn rows(&self) -> Vec<Row> {
        assert_eq!(self.code, 0, "{}", self.stderr);
        rows(&self.stdout)
    }

    /// The JSON that it printed.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Fails unless the run ended with `code` and no panic, and said each of `parts`.
    #[track_caller]
    pub(crate) fn failed(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, code, "{}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        for part in parts {
            assert!(self.stderr.contains(part), "{part:?} is not in {:?}", self.stderr);
        }
    }
}

/// Runs it with nothing on standard input.
pub(crate) fn run(command: &mut Command) -> Ran {
    run_on(command, b"")
}

/// Runs it with `input` piped in.
pub(crate) fn run_on(command: &mut Command, input: &[u8]) -> Ran {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let input = input.to_vec();
    // A thread of its own, since the binary may answer before it has read everything.
    let writer = std::thread::spawn(move || match stdin.write_all(&input) {
        // It may stop reading where it fails.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => panic!("{error}"),
        _ => {}
    });
    let output = child.wait_with_output().expect("the binary ends");
    writer.join().expect("the input is written");
    Ran {
        code: output.status.code().expect("no signal"),
        stdout: String::from_utf8(output.stdout).expect("stdout is UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("stderr is UTF-8"),
    }
}

/// What comes; what takes longer hangs, also on a machine with other things to do.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = ready() {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(120), "it takes for ever until {what}");
        sleep(Duration::from_millis(5));
    }
}

/// A process with its standard error, which is killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Started(pub(crate) Child);

impl Started {
    pub(crate) fn of(command: &mut Command) -> Self {
        Self(command.stderr(Stdio::piped()).spawn().unwrap())
    }

    /// The next line of its standard error, which it writes a line at a time.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        BufReader::new(self.0.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
        line
    }

    /// Where a service says that it listens.
    pub(crate) fn address(&mut self) -> String {
        let line = self.line();
        line.trim().strip_prefix("listening on http://").expect(&line).to_owned()
    }

    pub(crate) fn send(&self, signal: &str) {
        let id = self.0.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &id]).status().unwrap().success());
    }

    pub(crate) fn ended(&mut self) -> ExitStatus {
        until("the process ends", || self.0.try_wait().unwrap())
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A line of JSONL output.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) index: usize,
    pub(crate) text: Option<String>,
    pub(crate) tokens: usize,
    pub(crate) truncated: bool,
    pub(crate) embedding: Vec<f32>,
}

/// JSONL output, checked for fields.
pub(crate) fn rows_in_any_place(jsonl: &str) -> Vec<Row> {
    jsonl.lines().map(row).collect()
}

/// JSONL output, checked for fields and order.
pub(crate) fn rows(jsonl: &str) -> Vec<Row> {
    let rows = rows_in_any_place(jsonl);
    for (index, row) in rows.iter().enumerate() {
        assert_eq!(row.index, index);
    }
    rows
}

fn row(line: &str) -> Row {
    let value: Value = serde_json::from_str(line).unwrap();
    Row {
        index: value["index"].as_u64().unwrap() as usize,
        text: value.get("text").map(|text| text.as_str().unwrap().to_owned()),
        tokens: value["tokens"].as_u64().unwrap() as usize,
        truncated: value["truncated"].as_bool().unwrap(),
        embedding: numbers(&value["embedding"]),
    }
}

/// A JSON array as f32, read from its digits.
pub(crate) fn numbers(array: &Value) -> Vec<f32> {
    array.as_array().unwrap().iter().map(|number| number.to_string().parse().unwrap()).collect()
}

/// A checkpoint's copy with just these files, which a test may change.
pub(crate) fn copy_of(case: &str, files: &[&str]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in files {
        std::fs::copy(golden(case).join(file), dir.path().join(file)).unwrap();
    }
    dir
}

/// The path with something behind its name.
pub(crate) fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// A text of a golden case, and what the reference made of it.
#[derive(Debug)]
pub(crate) struct Golden {
    pub(crate) text: String,
    pub(crate) prompt_name: Option<String>,
    pub(crate) tokens: usize,
    pub(crate) embedding: Vec<f32>,
}

/// The texts of a golden case.
pub(crate) fn golden_texts(case: &str) -> Vec<Golden> {
    let file = mlx_embed::verify::Golden::open(golden(case).join("golden.safetensors")).unwrap();
    let pooling = file.poolings()[0];
    let texts = file.texts().iter().enumerate();
    texts
        .map(|(index, text)| Golden {
            text: text.text.clone(),
            prompt_name: text.prompt_name.clone(),
            tokens: text.ids.len(),
            embedding: file.embedding(index, pooling).unwrap().to_vec(),
        })
        .collect()
}

/// Little-endian f32.
pub(crate) fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// The tolerance of the golden tests.
pub(crate) fn assert_close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    let max_abs = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(max_abs <= 1e-4, "off by {max_abs:e}");
}

/// Results that differ at most by how their texts shared batches.
pub(crate) fn assert_same(found: &[Row], expected: &[Row]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert_close(&found.embedding, &expected.embedding);
        assert_eq!(Row { embedding: expected.embedding.clone(), ..found.clone() }, *expected);
    }
}

/// Length of a vector.
pub(crate) fn norm(vector: &[f32]) -> f32 {
    vector.iter().map(|x| x * x).sum::<f32>().sqrt()
}
