//! Tests that need a process of their own.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test's helper fails its test")]

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};
use std::{env, thread};

/// A program that runs one ignored test of this test binary.
pub fn of(test: &str) -> Command {
    let mut program = Command::new(env::current_exe().unwrap());
    program.args(["--exact", test, "--ignored", "--test-threads=1", "--nocapture"]);
    program
}

/// Runs a program to its end: what it wrote, which a pipe has to take whole, and when it ended. If that takes longer than
/// `hangs`, the program is killed and the test fails.
pub fn run(program: &mut Command, name: &str, hangs: Duration) -> (Output, SystemTime) {
    let mut child = program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > hangs {
            child.kill().unwrap();
            panic!("{name}: did not end in {hangs:?}");
        }
        thread::sleep(Duration::from_millis(1));
    }
    let ended = SystemTime::now();
    (child.wait_with_output().unwrap(), ended)
}

/// All that it wrote.
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}
