//! What the program does when the system refuses something: for every call of a small job that can fail, the job with
//! just that call failing. It ends with its own exit code, and its output is what it was or can be read.
//!
//! `fault.c` makes the calls fail. It stands between the program and glibc, so this is for Linux with glibc.
#![cfg(all(target_os = "linux", target_env = "gnu"))]

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::thread;

use tempfile::{TempDir, tempdir};

use crate::reopen::{opened, opened_partial};
use crate::support::{golden, on, with_end};

const TEXTS: [&str; 3] = ["a cat", "a feline", "the stock market"];

/// A library that makes calls fail, and a folder to work in.
pub(crate) struct Faults {
    dir: TempDir,
    library: PathBuf,
}

/// What a job with a fault came to.
pub(crate) struct Ran {
    /// Whether there was such a call.
    pub(crate) fired: bool,
    pub(crate) output: Output,
}

impl Faults {
    /// `None`, and a word about it, where there is no C compiler.
    pub(crate) fn new() -> Option<Self> {
        let dir = tempdir().unwrap();
        let library = dir.path().join("fault.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/fault.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).args([source, "-ldl"]);
        match compiler.output() {
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "fault.c does not compile: {said}");
                Some(Self { dir, library })
            }
            Err(error) => {
                eprintln!("not tried: no C compiler ({error})");
                None
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs the command with the `nth` call failing; it ends by itself.
    fn run(&self, command: &mut Command, fault: &str, nth: usize) -> Ran {
        let ran = self.start(command, fault, nth);
        let said = String::from_utf8_lossy(&ran.output.stderr);
        let (what, status) = (format!("{fault}:{nth}: {said}"), ran.output.status);
        assert_eq!(status.signal(), None, "{what}");
        assert!(matches!(status.code(), Some(0 | 1)), "{status:?}, {what}");
        assert_eq!(status.success(), !tells(&said), "{what}");
        ran
    }

    fn start(&self, command: &mut Command, fault: &str, nth: usize) -> Ran {
        self.start_as(command, fault, nth, self.dir.path())
    }

    /// As [`Self::start`], with the file that tells of the fault in a folder of its own.
    pub(crate) fn start_as(&self, command: &mut Command, fault: &str, nth: usize, folder: &Path) -> Ran {
        let fired = folder.join("fired");
        let _ = fs::remove_file(&fired);
        let output = command
            .env("LD_PRELOAD", &self.library)
            .env("FAULT", format!("{fault}:{nth}"))
            .env("FAULT_FIRED", &fired)
            // The places of a panic take far longer to name than all the rest.
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Ran { fired: fired.exists(), output }
    }
}

/// Whether something is said of a failure. Built to abort at a panic, a program can't catch one of a library's: that has
/// to do as a message there.
fn tells(said: &str) -> bool {
    ["error", "failed", "panicked"].iter().any(|word| said.contains(word))
}

/// A job that writes the vectors of [`TEXTS`].
fn job(path: &Path) -> Command {
    let mut job = on("embed", "st-mean");
    job.args(["--threads", "2", "--output"]).arg(path).args(TEXTS);
    job
}

/// The vectors of the job without a fault.
fn expected(faults: &Faults) -> Vec<f32> {
    let path = faults.path("expected.npy");
    assert!(job(&path).status().unwrap().success());
    opened(&path, &fs::read(&path).unwrap()).unwrap().vectors
}

/// What became of a job of which one call failed.
struct Ended {
    nth: usize,
    /// What its output was before.
    old: Option<&'static str>,
    status: ExitStatus,
    /// Whether there was such a call.
    fired: bool,
    stderr: String,
    output: Option<Vec<u8>>,
}

/// Which calls fail, and whether the output is there when the first one does.
#[derive(Clone, Copy)]
struct Which {
    first: usize,
    step: usize,
    old: bool,
}

/// Runs the job again and again, in a process of its own for each call of a kind that fails.
fn every(faults: &Faults, job: &mut Command, fault: &str, which: Which) -> Vec<Ended> {
    let results = tempdir().unwrap();
    let output = Path::new(job.get_args().skip_while(|arg| *arg != "--output").nth(1).unwrap()).to_owned();
    let ran = job
        .env("FAULT_EVERY", which.step.to_string())
        .env("FAULT_OLD", u8::from(which.old).to_string())
        .env("FAULT_OUTPUT", &output)
        .env("FAULT_RESULTS", results.path());
    let ran = faults.start_as(ran, fault, which.first, results.path());
    assert!(ran.output.status.success(), "{:?}", ran.output);
    let of = |line: &str| {
        let [nth, old, status, fired] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let result = |end: &str| fs::read(results.path().join(format!("{nth}.{end}"))).ok();
        Ended {
            nth: nth.parse().unwrap(),
            old: (old == "1").then_some("from before"),
            status: ExitStatus::from_raw(status.parse().unwrap()),
            fired: fired == "1",
            stderr: String::from_utf8_lossy(&result("stderr").unwrap()).into(),
            output: result("output"),
        }
    };
    fs::read_to_string(results.path().join("ended")).unwrap().lines().map(of).collect()
}

/// Fails unless the job ended by itself, and its file is what it was before or holds results that are right. After a
/// success it is whole.
fn check(ended: &Ended, path: &Path, expected: &[f32], what: &str) {
    let Ended { nth, old, status, fired, stderr, output } = ended;
    let what = format!("{what}:{nth}, {old:?}: {status:?}, {stderr}");
    assert!(*fired || status.success(), "{what}");
    assert!(matches!(status.code(), Some(0 | 1)), "{what}");
    assert_eq!(status.success(), !tells(stderr), "{what}");
    if !status.success() && output.as_deref() == old.map(str::as_bytes) {
        return;
    }
    let file = opened(path, output.as_ref().unwrap_or_else(|| panic!("no file: {what}"))).unwrap();
    assert!(file.vectors == expected[..file.vectors.len()], "other vectors: {what}");
    assert!(file.vectors.len() == expected.len() || !status.success(), "{} rows: {what}", file.rows);
}

/// Lets each call of a kind fail in a job that writes the file `name`, and tells how many there are.
fn each(faults: &Faults, fault: &str, name: &str) -> usize {
    let expected = expected(faults);
    // Two at a time, in one of which the file is there before where it isn't in the other.
    let tried = thread::scope(|scope| {
        let tries = [false, true].map(|old| {
            let (expected, path) = (&expected, faults.path(&format!("{old}-{name}")));
            scope.spawn(move || {
                let ended = every(faults, &mut job(&path), fault, Which { first: 1, step: 1, old });
                ended.iter().for_each(|ended| check(ended, &path, expected, fault));
                ended.iter().filter(|ended| ended.fired).count()
            })
        });
        tries.map(|tried| tried.join().unwrap())
    });
    tried[0].min(tried[1])
}

#[test]
fn every_call_that_changes_a_file_may_fail() {
    let Some(faults) = Faults::new() else { return };
    for name in ["vectors.npy", "vectors.safetensors", "vectors.jsonl"] {
        // One call, then the disk stays full, then writes that take a byte.
        for (fault, at_least) in [("write:0", 6), ("full:0", 2), ("short:0", 1)] {
            let tried = each(&faults, fault, name);
            assert!(tried >= at_least, "{fault}, {name}: {tried} calls");
        }
    }
}

/// A job that writes a window for each of its three texts: as many bytes are enough for one.
fn job_of_windows(path: &Path) -> Command {
    let mut job = on("embed", "st-mean");
    job.args(["--threads", "1", "--max-tokens", "4", "--batch-tokens", "4", "--output"]).arg(path);
    job.args(TEXTS.map(|text| text.repeat(16)));
    job
}

/// How many rows a job has left in its partial file when it was killed, each with the vector that it should have.
fn left(path: &Path, bytes: &[u8], expected: &[f32]) -> Result<usize, String> {
    // Before its header there is nothing.
    if bytes.is_empty() {
        return Ok(0);
    }
    // The last line of JSONL may be cut.
    let lines = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    let is_jsonl = path.extension().is_some_and(|end| end == "jsonl");
    let file = opened_partial(path, if is_jsonl { &bytes[..lines] } else { bytes })?;
    assert_eq!(file.vectors, expected[..file.vectors.len()]);
    Ok(file.rows)
}

#[test]
fn a_job_that_is_killed_at_any_call_leaves_its_windows_in_a_file_that_opens() {
    let Some(faults) = Faults::new() else { return };
    for name in ["vectors.npy", "vectors.safetensors", "vectors.jsonl"] {
        let path = faults.path(name);
        let partial = with_end(&path, ".partial");
        assert!(job_of_windows(&path).status().unwrap().success());
        let expected = opened(&path, &fs::read(&path).unwrap()).unwrap().vectors;
        for fault in ["kill:0", "torn:0"] {
            let mut before = 0;
            for nth in 1.. {
                fs::write(&path, "from before").unwrap();
                let ran = faults.start(&mut job_of_windows(&path), fault, nth);
                let what = format!("{fault}:{nth} {name}: {:?}", ran.output);
                if !ran.fired {
                    assert!(ran.output.status.success(), "{what}");
                    break;
                }
                assert_eq!(ran.output.status.signal(), Some(9), "{what}");
                assert_eq!(fs::read_to_string(&path).unwrap(), "from before", "{what}");
                // Before it is made, an earlier job's may stand there.
                let Ok(bytes) = fs::read(&partial) else { continue };
                let rows = left(&path, &bytes, &expected).unwrap_or_else(|error| panic!("{what}: {error}"));
                assert!(rows >= before || rows == 0, "{what}: {rows} rows after {before}");
                before = rows;
            }
            // The last write that is torn is that of the last row, or of what stands behind it.
            let torn = fault == "torn:0" && name != "vectors.safetensors";
            assert_eq!(before, TEXTS.len() - usize::from(torn), "{fault} {name}");
            fs::remove_file(&partial).unwrap_or_default();
        }
    }
}

#[test]
fn standard_output_may_fail_at_every_write() {
    let Some(faults) = Faults::new() else { return };
    let mut nth = 1;
    loop {
        let ran = faults.run(on("embed", "st-mean").args(TEXTS), "write:0", nth);
        if !ran.fired {
            break;
        }
        assert_eq!(ran.output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&ran.output.stderr).contains("standard output"));
        nth += 1;
    }
    assert!(nth > 1, "nothing was written");
}

#[test]
fn every_thread_may_fail_to_start() {
    let Some(faults) = Faults::new() else { return };
    assert!(each(&faults, "thread:0", "vectors.npy") >= 2);
}

/// A checkpoint with so small a tokenizer that few allocations are for it.
fn small_checkpoint(faults: &Faults) -> PathBuf {
    const TOKENIZER: &str = r#"{"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {"type": "WordPiece", "vocab": {"a": 0, "cat": 1, "feline": 2, "the": 3, "[UNK]": 4},
        "unk_token": "[UNK]", "continuing_subword_prefix": "\u0023\u0023", "max_input_chars_per_word": 100}}"#;
    let checkpoint = faults.path("small");
    fs::create_dir_all(checkpoint.join("1_Pooling")).unwrap();
    for name in ["config.json", "modules.json", "1_Pooling/config.json", "model.safetensors"] {
        fs::copy(golden("st-mean").join(name), checkpoint.join(name)).unwrap();
    }
    fs::write(checkpoint.join("tokenizer.json"), TOKENIZER).unwrap();
    let taken_as_it_is = r#"{"tokenizer_class": "TokenizersBackend"}"#;
    fs::write(checkpoint.join("tokenizer_config.json"), taken_as_it_is).unwrap();
    checkpoint
}

/// Each of some thousands: of the program's own start, of loading, of a pass and of the file.
#[test]
fn every_allocation_may_fail() {
    let Some(faults) = Faults::new() else { return };
    let checkpoint = small_checkpoint(&faults);
    let job = |name: &str| {
        let mut job = on("embed", "st-mean");
        job.arg("--model")
            .arg(&checkpoint)
            .args(["--threads", "1", "a cat", "--output"])
            .arg(faults.path(name));
        job
    };
    let path = faults.path("expected.npy");
    assert!(job("expected.npy").status().unwrap().success());
    let expected = opened(&path, &fs::read(&path).unwrap()).unwrap().vectors;
    thread::scope(|scope| {
        for first in [1, 2] {
            let (faults, job, expected) = (&faults, &job, &expected);
            scope.spawn(move || {
                let name = format!("{first}.npy");
                let ended = every(faults, &mut job(&name), "alloc:1", Which { first, step: 2, old: true });
                ended.iter().for_each(|ended| check(ended, Path::new(&name), expected, "alloc:1"));
                assert!(ended.len() >= 500, "{} allocations", ended.len());
            });
        }
    });
}

#[test]
fn every_larger_allocation_may_fail() {
    let Some(faults) = Faults::new() else { return };
    assert!(each(&faults, "alloc:4096", "vectors.npy") >= 20);
}
