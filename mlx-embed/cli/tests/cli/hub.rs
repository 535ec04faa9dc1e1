//! Models by name: `--model owner/name`, `pull` and `models`, from a hub on loopback.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::{TempDir, tempdir};

use super::server::{COMMIT, MODEL, Server, What, files_of, sha256};
#[cfg(feature = "serve")]
use super::support::Started;
use super::support::{assert_same, binary, golden, on, run};

/// A model as its repository has it.
fn published() -> BTreeMap<String, Vec<u8>> {
    let mut files = files_of(&golden("st-mean"));
    files.insert("pytorch_model.bin".into(), b"nobody needs it".into());
    files
}

/// A hub, and a home for what it gives.
struct Home {
    server: Server,
    folder: TempDir,
}

impl Home {
    fn new() -> Self {
        Self { server: Server::of(published()), folder: tempdir().unwrap() }
    }

    /// The program, which knows this hub and home.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.without_hub(arguments);
        command.env("HF_ENDPOINT", &self.server.address);
        command
    }

    fn without_hub(&self, arguments: &[&str]) -> Command {
        let mut command = binary();
        // A path from here is none of a checkpoint.
        command.args(arguments).env("HF_HOME", self.folder.path()).current_dir(self.folder.path());
        command
    }

    fn model(&self) -> PathBuf {
        self.folder.path().join("hub/models--owner--name")
    }

    fn snapshot(&self) -> PathBuf {
        self.model().join("snapshots").join(COMMIT)
    }

    /// Fails unless each file that is in the model's folder is right.
    fn check_files(&self, what: &str) {
        if self.snapshot().exists() {
            let published = published();
            for (file, bytes) in files_of(&self.snapshot()) {
                assert!(published[&file] == bytes, "{what}: {file}");
            }
        }
    }
}

#[test]
fn a_model_is_used_by_its_name_and_found_again_without_the_hub() {
    let home = Home::new();
    let arguments = ["embed", "--model", MODEL, "--device", "cpu", "a cat", "a feline"];
    let fetched = run(&mut home.command(&arguments)).rows();
    assert_same(&fetched, &run(on("embed", "st-mean").args(["a cat", "a feline"])).rows());
    home.server.asked();
    // By what was fetched, by the environment's variable, and from a cache elsewhere.
    let kept = run(home.without_hub(&arguments).env("HF_HUB_OFFLINE", "1"));
    assert_same(&kept.rows(), &fetched);
    let variable = ["embed", "--device", "cpu", "a cat", "a feline"];
    let kept = run(home.without_hub(&variable).env("MLX_EMBED_MODEL", format!("{MODEL}@{COMMIT}")));
    assert_same(&kept.rows(), &fetched);
    let elsewhere = home.folder.path().join("elsewhere");
    fs::rename(home.folder.path().join("hub"), &elsewhere).unwrap();
    assert_same(&run(home.without_hub(&arguments).env("HF_HUB_CACHE", &elsewhere)).rows(), &fetched);
    assert!(home.server.asked().is_empty());
}

#[test]
fn a_folder_of_that_name_wins_and_other_paths_are_not_asked_for() {
    let home = Home::new();
    let folder = home.folder.path().join(MODEL);
    fs::create_dir_all(&folder).unwrap();
    run(&mut home.command(&["inspect", "--model", MODEL])).failed(1, &["owner/name/config.json: missing"]);
    run(&mut home.command(&["inspect", "--model", "./owner/other"])).failed(1, &["./owner/other"]);
    run(&mut home.command(&["embed", "--device", "cpu", "a"])).rows();
    assert!(home.server.asked().is_empty());
    run(&mut home.command(&["inspect", "--model", "owner/other"]))
        .failed(1, &["owner/other", "nor a folder"]);
    run(&mut home.without_hub(&["inspect", "--model", "owner/other"]))
        .failed(1, &["owner/other", "HF_ENDPOINT"]);
    run(&mut home.command(&["pull", "no-owner"])).failed(2, &["owner/name@revision"]);
}

#[test]
fn pull_prints_the_folder_and_models_what_is_there() {
    let home = Home::new();
    let pulled = run(&mut home.command(&["pull", MODEL])).done();
    assert_eq!(pulled.stdout.trim(), home.snapshot().to_str().unwrap());
    let other = home.folder.path().join("hub/models--someone--speech/snapshots").join(COMMIT);
    fs::create_dir_all(&other).unwrap();
    fs::write(other.join("config.json"), r#"{"model_type": "whisper"}"#).unwrap();
    let listed = run(&mut home.without_hub(&["models"]));
    let lines: Vec<&str> = listed.stdout.lines().collect();
    assert_eq!(lines.len(), 2, "{listed:?}");
    assert!(lines[0].starts_with("owner/name ") && lines[0].ends_with("MiB  runs"), "{}", lines[0]);
    for part in [&format!("someone/speech@{COMMIT}"), "does not run", "whisper"] {
        assert!(lines[1].contains(part), "{part}: {}", lines[1]);
    }
    let listed = run(&mut home.without_hub(&["models", "--json"])).json();
    assert_eq!((listed[0]["repository"].as_str(), listed[0]["runs"].as_bool()), (Some(MODEL), Some(true)));
    assert_eq!(listed[1]["runs"], false);
    let nothing = run(home.without_hub(&["models"]).env("HF_HOME", "/nowhere"));
    assert!(nothing.code == 0 && nothing.stderr.contains("/nowhere/hub"), "{nothing:?}");
}

#[test]
fn the_token_is_that_of_the_environment_or_of_its_file() {
    let home = Home::new();
    home.server.require("secret");
    run(&mut home.command(&["pull", MODEL]))
        .failed(1, &[MODEL, "config.json", "accept the terms", "HF_TOKEN"]);
    fs::write(home.folder.path().join("token"), "secret\n").unwrap();
    run(home.command(&["pull", MODEL]).env("HF_TOKEN", "another")).failed(1, &["(403)"]);
    run(&mut home.command(&["pull", MODEL])).done();
    fs::remove_dir_all(home.model()).unwrap();
    fs::remove_file(home.folder.path().join("token")).unwrap();
    run(home.command(&["pull", MODEL]).env("HF_TOKEN", "secret")).done();
}

#[test]
fn two_processes_that_fetch_the_same_get_it_once() {
    let home = Home::new();
    home.server.fault("GET", "/blob/model.safetensors", What::Late(std::time::Duration::from_secs(1)), 1);
    let [first, second] = [(); 2].map(|()| home.command(&["pull", MODEL]).spawn().unwrap());
    for mut process in [first, second] {
        assert!(process.wait().unwrap().success());
    }
    let got = home.server.asked().into_iter().filter(|asked| asked.path == "/blob/model.safetensors");
    assert_eq!(got.count(), 1);
    home.check_files("two processes");
}

#[cfg(feature = "serve")]
#[test]
fn the_service_takes_names_as_well() {
    let home = Home::new();
    let file = home.folder.path().join("serve.yaml");
    fs::write(&file, "models: [{name: a, path: owner/name}, {name: b, path: owner/folder}]").unwrap();
    let folder = home.folder.path().join("owner/folder");
    for (name, bytes) in published() {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let checked = run(home.command(&["serve", "--check-config", "--config"]).arg(&file));
    assert_eq!(checked.stdout, format!("a: owner/name\nb: {}\n", folder.display()), "{}", checked.stderr);
    let checked = run(&mut home.command(&["serve", "--check-config", "--model", "owner/name@v1"]));
    assert_eq!(checked.stdout, "owner/name: owner/name@v1\n", "{}", checked.stderr);
    assert!(home.server.asked().is_empty());

    let mut service = home.command(&["serve", "--listen", "127.0.0.1:0", "--model", MODEL]);
    let line = Started::of(&mut service).line();
    assert!(line.starts_with("listening on"), "{line}");
    home.check_files("served");
}

/// For each call of a pull that changes a file: the pull with just that call failing, or the program killed there, or the
/// disk full from there on. What is in the model's folder is right, and the next pull makes it whole.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn every_call_that_changes_the_cache_may_fail() {
    use std::os::unix::process::ExitStatusExt;

    let Some(faults) = super::faults::Faults::new() else { return };
    for fault in ["write:0", "full:0", "kill:0", "short:0"] {
        let mut nth = 1;
        loop {
            let home = Home::new();
            let what = format!("{fault}:{nth}");
            let ran = faults.start_as(
                &mut home.command(&["pull", "--quiet", MODEL]),
                fault,
                nth,
                home.folder.path(),
            );
            home.check_files(&what);
            if !ran.fired {
                assert!(ran.output.status.success() && nth > 8, "{what}: {:?}", ran.output);
                break;
            }
            let said = String::from_utf8_lossy(&ran.output.stderr);
            match fault {
                "kill:0" => assert_eq!(ran.output.status.signal(), Some(9), "{what}"),
                "short:0" => assert!(ran.output.status.success(), "{what}: {said}"),
                _ if ran.output.status.success() => panic!("{what} is not told"),
                // The last thing that is written.
                _ if said.contains("standard output") => {}
                _ => {
                    for part in [MODEL, "os error 28", "make room"] {
                        assert!(said.contains(part), "{what}: {part} is not in {said}");
                    }
                }
            }
            let again = run(&mut home.command(&["pull", "--quiet", MODEL]));
            assert_eq!(again.code, 0, "{what}: {}", again.stderr);
            home.check_files(&what);
            let weights = sha256(&published()["model.safetensors"]);
            assert!(home.model().join("blobs").join(weights).exists(), "{what}");
            // What happens to a file happens to the others.
            nth += if fault == "write:0" { 1 } else { 3 };
        }
    }
}
