//! What the program does when the system refuses something: for every call of a small job that can fail, the job with
//! just that call failing. It ends with its own exit code, and its output is what it was or can be read.
//!
//! `fault.c` makes the calls fail. It stands between the program and glibc, so this is for Linux with glibc.
#![cfg(all(target_os = "linux", target_env = "gnu"))]

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::{TempDir, tempdir};

use crate::reopen::{opened, opened_partial};
use crate::support::on;

const TEXTS: [&str; 3] = ["a cat", "a feline", "the stock market"];

/// A library that makes calls fail, and a folder to work in.
struct Faults {
    dir: TempDir,
    library: PathBuf,
}

/// What a job with a fault came to.
struct Ran {
    /// Whether there was such a call.
    fired: bool,
    output: Output,
}

impl Faults {
    /// `None`, and a word about it, where there is no C compiler.
    fn new() -> Option<Self> {
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
        // Built to abort at a panic, a program can't catch one of a library's: that has to do as a message there.
        let tells = ["error", "failed", "panicked"].iter().any(|word| said.contains(word));
        assert_eq!(status.success(), !tells, "{what}");
        ran
    }

    fn start(&self, command: &mut Command, fault: &str, nth: usize) -> Ran {
        let fired = self.path("fired");
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

/// Fails unless the file is what it was before or holds results that are right. After a success it is whole.
fn check(ran: &Ran, path: &Path, old: Option<&str>, expected: &[f32], what: &str) {
    let found = fs::read(path).ok();
    if !ran.output.status.success() && found.as_deref() == old.map(str::as_bytes) {
        return;
    }
    let file = opened(path, &found.unwrap_or_else(|| panic!("{what}: no file"))).unwrap();
    assert!(file.vectors == expected[..file.vectors.len()], "{what}: other vectors");
    assert!(file.rows == TEXTS.len() || !ran.output.status.success(), "{what}: {} rows", file.rows);
}

/// Lets each of a job's calls of a kind fail, until there are no more; `next` leaves some of them out.
fn each(faults: &Faults, fault: &str, name: &str, next: impl Fn(usize) -> usize) -> usize {
    let expected = expected(faults);
    let (mut nth, mut tried) = (1, 0);
    let path = faults.path(name);
    loop {
        let mut fired = false;
        // What a failed job left is not in the way of the next one.
        for old in [Some("from before"), None] {
            match old {
                Some(old) => fs::write(&path, old).unwrap(),
                None => drop(fs::remove_file(&path)),
            }
            let ran = faults.run(&mut job(&path), fault, nth);
            check(&ran, &path, old, &expected, &format!("{fault}:{nth} {name}"));
            assert!(ran.fired || ran.output.status.success());
            fired |= ran.fired;
        }
        if !fired {
            return tried;
        }
        tried += 1;
        nth = next(nth);
    }
}

#[test]
fn every_call_that_changes_a_file_may_fail() {
    let Some(faults) = Faults::new() else { return };
    for name in ["vectors.npy", "vectors.safetensors", "vectors.jsonl"] {
        // One call, then the disk stays full, then writes that take a byte.
        for (fault, at_least) in [("write:0", 6), ("full:0", 2), ("short:0", 1)] {
            let tried = each(&faults, fault, name, |nth| nth + 1);
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
        let mut partial = path.clone().into_os_string();
        partial.push(".partial");
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
    // Each of the first eight, then fewer: how many there are is the libraries' affair, too.
    assert!(each(&faults, "thread:0", "vectors.npy", |nth| nth + 1 + nth / 8) >= 2);
}

#[test]
fn every_larger_allocation_may_fail() {
    let Some(faults) = Faults::new() else { return };
    assert!(each(&faults, "alloc:4096", "vectors.npy", |nth| nth + 1) >= 20);
}

/// There are tens of thousands of them, so only some: the first ones, then ever fewer.
#[test]
fn any_allocation_may_fail() {
    let Some(faults) = Faults::new() else { return };
    assert!(each(&faults, "alloc:1", "vectors.npy", |nth| nth + 1 + nth / 5) >= 20);
}
