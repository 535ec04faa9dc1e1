//! Signals that people and systems end programs with, and pipes whose other end is late or never there.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use tempfile::tempdir;

use crate::support::{Started, binary, on};

/// By which names and numbers `kill` and a process's status know them.
const SIGNALS: [(&str, i32); 3] = [("HUP", 1), ("INT", 2), ("TERM", 15)];

/// The command with the signals as they are by default, whatever whoever started the tests has ignored.
fn with_default_signals(command: &Command) -> Command {
    through_env(command, "--default-signal")
}

fn through_env(command: &Command, option: &str) -> Command {
    let mut env = Command::new("env");
    env.arg(option);
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => env.env(name, value),
            None => env.env_remove(name),
        };
    }
    env.arg(command.get_program()).args(command.get_args());
    env
}

fn pipe(path: &Path) -> PathBuf {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    path.to_owned()
}

#[test]
fn commands_end_by_the_signal_and_leave_what_was_there() {
    let dir = tempdir().unwrap();
    let output = dir.path().join("vectors.npy");
    fs::write(&output, "from before").unwrap();
    let texts = pipe(&dir.path().join("texts"));
    for (name, number) in SIGNALS {
        let mut embed = on("embed", "st-mean");
        embed.arg("--input").arg(&texts).arg("--output").arg(&output);
        let mut bench = binary();
        bench.args(["bench", "--rounds", "1000000"]);
        for (command, waits) in [(embed, true), (bench, false)] {
            let mut command = with_default_signals(&command);
            let mut child = Started::of(command.stdin(Stdio::piped()).stdout(Stdio::null()));
            // Held open, so that the job waits for more of it.
            let writer = waits.then(|| {
                let mut writer = fs::OpenOptions::new().write(true).open(&texts).unwrap();
                writer.write_all(b"a text\n").unwrap();
                writer
            });
            sleep(Duration::from_millis(300));
            child.send(name);
            assert_eq!(child.ended().signal(), Some(number), "{command:?}");
            drop(writer);
        }
        assert_eq!(fs::read_to_string(&output).unwrap(), "from before");
    }
    // What a job left is in nobody's way.
    let next = on("embed", "st-mean").arg("--output").arg(&output).arg("a text").status().unwrap();
    assert!(next.success());
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn an_input_that_is_a_pipe_is_waited_for_with_a_word() {
    let dir = tempdir().unwrap();
    let texts = pipe(&dir.path().join("texts"));
    let mut child = Started::of(on("embed", "st-mean").arg("--input").arg(&texts).stdout(Stdio::piped()));
    let note = child.line();
    assert!(note.contains("texts is a pipe: waiting until somebody writes to it"), "{note}");
    fs::write(&texts, "one\ntwo\n").unwrap();
    let mut said = String::new();
    child.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(child.ended().success());
    assert_eq!(said.lines().count(), 2, "{said}");
}

#[test]
fn an_output_that_is_a_pipe_is_waited_for_with_a_word() {
    let dir = tempdir().unwrap();
    let vectors = pipe(&dir.path().join("vectors.jsonl"));
    let mut child = Started::of(on("embed", "st-mean").arg("--output").arg(&vectors).arg("a text"));
    let note = child.line();
    assert!(note.contains("vectors.jsonl is a pipe: waiting until somebody reads from it"), "{note}");
    assert_eq!(fs::read_to_string(&vectors).unwrap().lines().count(), 1);
    assert!(child.ended().success());
}

#[cfg(feature = "serve")]
mod serve {
    use std::net::TcpStream;

    use super::*;

    /// A service, and where it listens.
    fn listening(command: &mut Command) -> (Started, String) {
        let mut child = Started::of(command);
        let address = child.address();
        (child, address)
    }

    fn serve() -> Command {
        let mut serve = binary();
        serve.args(["serve", "--listen", "127.0.0.1:0"]);
        serve
    }

    /// Begins a request, of which the last byte is missing. The service has taken it: it asked for the body.
    fn begin(address: &str) -> TcpStream {
        let mut client = TcpStream::connect(address).unwrap();
        let head = "POST /embed HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/json";
        write!(client, "{head}\r\nexpect: 100-continue\r\ncontent-length: 15\r\n\r\n").unwrap();
        let mut goes_on = [0; "HTTP/1.1 100 Continue\r\n\r\n".len()];
        client.read_exact(&mut goes_on).unwrap();
        assert!(goes_on.starts_with(b"HTTP/1.1 100"), "{}", goes_on.escape_ascii());
        client.write_all(b"{\"inputs\": \"a\"").unwrap();
        client
    }

    #[test]
    fn what_a_service_has_taken_is_answered_before_it_ends() {
        for (name, _) in SIGNALS {
            let (mut child, address) = listening(&mut with_default_signals(&serve()));
            let mut client = begin(&address);
            child.send(name);
            sleep(Duration::from_millis(200));
            client.write_all(b"}").unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200"), "{name}: {answer}");
            assert_eq!(child.ended().code(), Some(0), "{name}");
        }
    }

    #[test]
    fn a_second_signal_ends_it_at_once() {
        let mut command = serve();
        command.args(["--timeout-ms", "600000"]);
        let (mut child, address) = listening(&mut with_default_signals(&command));
        let _client = begin(&address);
        child.send("TERM");
        sleep(Duration::from_millis(500));
        assert_eq!(child.0.try_wait().unwrap(), None, "a request is under way");
        child.send("INT");
        assert_eq!(child.ended().code(), Some(1));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_hangup_that_was_ignored_at_the_start_stays_ignored() {
        let (mut child, address) = listening(&mut through_env(&serve(), "--ignore-signal=HUP"));
        child.send("HUP");
        sleep(Duration::from_millis(500));
        TcpStream::connect(&address).expect("it still listens");
        child.send("TERM");
        assert_eq!(child.ended().code(), Some(0));
    }

    #[test]
    fn a_configuration_and_keys_may_come_through_pipes() {
        let dir = tempdir().unwrap();
        let [config, keys] = ["config", "keys"].map(|name| pipe(&dir.path().join(name)));
        let mut command = serve();
        command.arg("--config").arg(&config);
        let mut child = Started::of(&mut command);
        let note = child.line();
        assert!(
            note.contains("config is a pipe: waiting until the configuration is written to it"),
            "{note}"
        );
        fs::write(&config, "api-keys-file: keys\n").unwrap();
        let note = child.line();
        assert!(note.contains("keys is a pipe: waiting until the API keys are written to it"), "{note}");
        fs::write(&keys, "secret\n").unwrap();
        let line = child.line();
        assert!(line.starts_with("listening"), "{line}");
        child.send("TERM");
        assert_eq!(child.ended().code(), Some(0));
    }

    #[test]
    fn a_service_that_waits_for_a_pipe_of_keys_ends_when_it_is_told_to() {
        let dir = tempdir().unwrap();
        let keys = pipe(&dir.path().join("keys"));
        let mut command = serve();
        command.arg("--api-keys-file").arg(&keys);
        let mut child = Started::of(&mut command);
        let note = child.line();
        assert!(note.contains("keys is a pipe"), "{note}");
        child.send("TERM");
        assert_eq!(child.ended().code(), Some(0));
    }
}
