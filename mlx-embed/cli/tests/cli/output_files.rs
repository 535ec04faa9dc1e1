//! Output files: whole under their name or not there, whatever ends the program, and never one that is read.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Instant;

use tempfile::{TempDir, tempdir};

use crate::reopen::{Opened, opened, opened_partial};
use crate::support::{binary, golden, on, run, run_on, until, with_end};

/// Texts of which no two are the same, so short that 1024 are a window.
fn lines(count: usize) -> String {
    (0..count).map(|line| format!("{line}\n")).collect()
}

fn partial(path: &Path) -> PathBuf {
    with_end(path, ".partial")
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A job that waits for more texts once it has written those of `texts`.
fn waiting(path: &Path, texts: &str) -> Child {
    let mut child = on("embed", "st-mean")
        .arg("--output")
        .arg(path)
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.as_mut().unwrap().write_all(texts.as_bytes()).unwrap();
    let count = texts.lines().count();
    until("the first window is written", || {
        let file = opened_partial(path, &fs::read(partial(path)).ok()?).ok()?;
        (file.rows == count).then_some(())
    });
    child
}

#[test]
fn a_new_file_replaces_the_old_one_and_keeps_its_mode_and_links() {
    let dir = tempdir().unwrap();
    let (real, link, twin) =
        (dir.path().join("real.npy"), dir.path().join("link.npy"), dir.path().join("twin"));
    fs::write(&real, "from before").unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
    fs::hard_link(&real, &twin).unwrap();
    symlink("real.npy", &link).unwrap();
    assert_eq!(run(on("embed", "st-mean").args(["a", "b", "--output"]).arg(&link)).code, 0);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::metadata(&real).unwrap().mode() & 0o777, 0o640);
    assert_eq!(opened(&real, &fs::read(&real).unwrap()).unwrap().rows, 2);
    assert_eq!(fs::read_to_string(&twin).unwrap(), "from before", "another name of the old file keeps it");
    assert_eq!(names(dir.path()), ["link.npy", "real.npy", "twin"], "nothing unfinished stays");
}

#[test]
fn a_link_to_nothing_yet_is_followed() {
    let dir = tempdir().unwrap();
    let link = dir.path().join("link.jsonl");
    symlink("real.jsonl", &link).unwrap();
    assert_eq!(run(on("embed", "st-mean").args(["a", "--output"]).arg(&link)).code, 0);
    assert_eq!(names(dir.path()), ["link.jsonl", "real.jsonl"]);
    let bytes = fs::read(dir.path().join("real.jsonl")).unwrap();
    assert_eq!(opened(&link, &bytes).unwrap().rows, 1);
}

#[test]
fn a_job_without_a_result_leaves_what_was_there() {
    let dir = tempdir().unwrap();
    for name in ["vectors.jsonl", "vectors.npy", "vectors.safetensors"] {
        let path = dir.path().join(name);
        fs::write(&path, "from before").unwrap();
        run_on(on("embed", "st-mean").arg("--output").arg(&path), b"\xff\n")
            .failed(1, &["line 1", "nothing is written to", name]);
        assert_eq!(fs::read_to_string(&path).unwrap(), "from before");
        run(on("embed", "st-mean").args(["a", "--dims", "999", "--output"]).arg(&path)).failed(2, &[]);
        assert_eq!(fs::read_to_string(&path).unwrap(), "from before");
    }
    assert_eq!(names(dir.path()).len(), 3);
}

#[test]
fn of_two_writers_of_a_file_the_second_is_refused() {
    let dir = tempdir().unwrap();
    let link = dir.path().join("link.npy");
    symlink("vectors.npy", &link).unwrap();
    for name in ["vectors.npy", "vectors.jsonl", "vectors.safetensors"] {
        let path = dir.path().join(name);
        let mut first = waiting(&path, "a\nb\n");
        run(on("embed", "st-mean").args(["x", "--output"]).arg(&path))
            .failed(1, &[name, "another program is writing this file"]);
        if name.ends_with("npy") {
            run(on("embed", "st-mean").args(["x", "--output"]).arg(&link)).failed(1, &["another program"]);
        }
        first.stdin.as_mut().unwrap().write_all(b"c\n").unwrap();
        assert_eq!(first.wait_with_output().unwrap().status.code(), Some(0));
        assert_eq!(opened(&path, &fs::read(&path).unwrap()).unwrap().rows, 3);
        assert_eq!(run(on("embed", "st-mean").args(["x", "--output"]).arg(&path)).code, 0, "a later one may");
        assert_eq!(opened(&path, &fs::read(&path).unwrap()).unwrap().rows, 1);
    }
}

/// A checkpoint as the hub's cache holds it: names that are links to files elsewhere.
fn hub_snapshot() -> (TempDir, PathBuf, Vec<PathBuf>) {
    let hub = tempdir().unwrap();
    let (blobs, snapshot) = (hub.path().join("blobs"), hub.path().join("snapshots/main"));
    fs::create_dir_all(&blobs).unwrap();
    fs::create_dir_all(snapshot.join("1_Pooling")).unwrap();
    let mut files = Vec::new();
    for (number, name) in [
        "config.json",
        "tokenizer.json",
        "model.safetensors",
        "tokenizer_config.json",
        "1_Pooling/config.json",
    ]
    .into_iter()
    .enumerate()
    {
        let blob = blobs.join(format!("blob-{number}"));
        fs::copy(golden("st-mean").join(name), &blob).unwrap();
        symlink(&blob, snapshot.join(name)).unwrap();
        files.push(blob);
        files.push(snapshot.join(name));
    }
    (hub, snapshot, files)
}

#[test]
fn no_file_of_the_model_is_overwritten_by_whatever_name() {
    let (hub, snapshot, files) = hub_snapshot();
    let elsewhere = tempdir().unwrap();
    for (number, file) in files.into_iter().enumerate() {
        let before = fs::read(&file).unwrap();
        let (hard, soft) =
            (hub.path().join(format!("hard-{number}")), elsewhere.path().join(number.to_string()));
        fs::hard_link(fs::canonicalize(&file).unwrap(), &hard).unwrap();
        symlink(&file, &soft).unwrap();
        for output in [&file, &hard, &soft] {
            for format in ["jsonl", "npy", "safetensors"] {
                let mut command = binary();
                command.args(["embed", "--device", "cpu", "a", "--format", format, "--model"]);
                command.arg(&snapshot).arg("--output").arg(output);
                run(&mut command).failed(2, &["a file of the model and would be overwritten"]);
            }
            assert_eq!(fs::read(&file).unwrap(), before);
        }
    }
    let appended = fs::OpenOptions::new().append(true).open(snapshot.join("model.safetensors")).unwrap();
    let ran = binary()
        .args(["embed", "--device", "cpu", "a", "--model"])
        .arg(&snapshot)
        .stdin(Stdio::null())
        .stdout(appended)
        .output()
        .unwrap();
    assert_eq!(ran.status.code(), Some(2), "standard output is the weights");
}

#[test]
fn what_stands_under_the_partial_name_is_not_written_through() {
    let dir = tempdir().unwrap();
    let (path, precious) = (dir.path().join("vectors.npy"), dir.path().join("precious"));
    fs::write(&precious, "precious\n").unwrap();
    let embed = || run(on("embed", "st-mean").args(["a", "--output"]).arg(&path));
    symlink(&precious, partial(&path)).unwrap();
    embed().failed(1, &["vectors.npy.partial", "in the way"]);
    fs::remove_file(partial(&path)).unwrap();
    fs::hard_link(&precious, partial(&path)).unwrap();
    embed().failed(1, &["vectors.npy.partial", "in the way"]);
    fs::remove_file(partial(&path)).unwrap();
    fs::create_dir(partial(&path)).unwrap();
    embed().failed(1, &["vectors.npy.partial"]);
    fs::remove_dir(partial(&path)).unwrap();
    fs::write(partial(&path), "precious\n").unwrap();
    let ran = run(on("embed", "st-mean").arg("--input").arg(partial(&path)).arg("--output").arg(&path));
    ran.failed(1, &["vectors.npy.partial", "would overwrite the input"]);
    assert_eq!(fs::read_to_string(partial(&path)).unwrap(), "precious\n");
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious\n");
    assert!(!path.exists());
}

#[test]
fn a_folder_that_cannot_be_written_and_a_read_only_file_are_named() {
    let dir = tempdir().unwrap();
    run(on("embed", "st-mean").args(["a", "--output"]).arg(dir.path())).failed(1, &["directory"]);
    let path = dir.path().join("vectors.npy");
    fs::write(&path, "from before").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    if fs::OpenOptions::new().write(true).open(&path).is_ok() {
        eprintln!("not tried: for this user no file is read-only");
        return;
    }
    run(on("embed", "st-mean").args(["a", "--output"]).arg(&path)).failed(1, &["vectors.npy: Permission"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "from before");
}

/// What an output may be after a failure: what it was, or whole windows of 1024 rows.
fn assert_old_or_whole_windows(path: &Path, old: Option<&[u8]>, what: &str) -> usize {
    let found = fs::read(path).ok();
    if found.as_deref() == old {
        return 0;
    }
    let found = found.unwrap_or_else(|| panic!("{what}: the old file is gone"));
    let Opened { rows, .. } = opened(path, &found).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(rows > 0 && rows % 1024 == 0, "{what}: {rows} rows");
    rows
}

#[test]
fn a_limit_of_file_size_is_an_error_that_leaves_whole_windows() {
    let dir = tempdir().unwrap();
    let input = dir.path().join("texts.txt");
    fs::write(&input, lines(4000)).unwrap();
    // A block has 512 or 1024 bytes.
    for (name, several) in [("vectors.jsonl", 1200), ("vectors.npy", 300), ("vectors.safetensors", 300)] {
        for (blocks, old) in [(4, None), (4, Some("old")), (several, None), (several, Some("old"))] {
            let path = dir.path().join(format!("{blocks}-{}-{name}", old.is_some()));
            if let Some(old) = old {
                fs::write(&path, old).unwrap();
            }
            let embed = on("embed", "st-mean");
            let mut limited = Command::new("bash");
            limited
                .args(["-c", "ulimit -f $0; exec \"$@\""])
                .arg(blocks.to_string())
                .arg(embed.get_program());
            limited.args(embed.get_args()).arg("--input").arg(&input).arg("--output").arg(&path);
            let ran = run(&mut limited);
            ran.failed(1, &[name, "too large", "written to"]);
            let what = format!("{name}, {blocks} blocks");
            let rows = assert_old_or_whole_windows(&path, old.map(str::as_bytes), &what);
            assert_eq!(rows > 0, blocks == several, "{what}: {rows} rows");
            assert!(!partial(&path).exists(), "{what}");
        }
    }
}

#[test]
fn a_full_disk_is_an_error_that_leaves_whole_windows() {
    let dir = tempdir().unwrap();
    let input = dir.path().join("texts.txt");
    fs::write(&input, lines(4000)).unwrap();
    let copies = dir.path().join("copies");
    fs::create_dir(&copies).unwrap();
    let disk = dir.path().join("disk");
    fs::create_dir(&disk).unwrap();
    // A disk of this test's own, which ends with the shell.
    let script =
        "set -e; mount -t tmpfs -o size=$1k tmpfs \"$0\"; echo mounted; old=$2; name=$3; to=$4; shift 4
        if [ \"$old\" = old ]; then printf old >\"$0/$name\"; fi
        code=0; \"$@\" --output \"$0/$name\" || code=$?; cp \"$0\"/* \"$to\" || true; exit $code";
    for (name, size) in [("vectors.jsonl", "600"), ("vectors.npy", "300"), ("vectors.safetensors", "300")] {
        for old in ["old", "none"] {
            let embed = on("embed", "st-mean");
            let mut shell = Command::new("unshare");
            shell.args(["--map-root-user", "--mount", "sh", "-c", script]).arg(&disk).args([size, old, name]);
            shell.arg(&copies).arg(embed.get_program()).args(embed.get_args()).arg("--input").arg(&input);
            let mounted = shell.output();
            if !mounted.as_ref().is_ok_and(|ran| ran.stdout.starts_with(b"mounted")) {
                eprintln!("not tried: this user can't mount a small disk ({mounted:?})");
                return;
            }
            let ran = mounted.unwrap();
            let said = String::from_utf8_lossy(&ran.stderr);
            assert_eq!(ran.status.code(), Some(1), "{name}: {said}");
            assert!(said.contains("No space left") && said.contains("written to"), "{said}");
            assert_eq!(names(&copies), [name], "nothing unfinished stays");
            let rows = assert_old_or_whole_windows(&copies.join(name), None, name);
            assert!(rows > 0, "{name}: {said}");
            fs::remove_file(copies.join(name)).unwrap();
        }
    }
}

#[test]
fn a_job_that_is_killed_leaves_its_whole_windows_in_the_partial_file() {
    let dir = tempdir().unwrap();
    for name in ["vectors.npy", "vectors.safetensors", "vectors.jsonl"] {
        let path = dir.path().join(name);
        fs::write(&path, "from before").unwrap();
        let mut child = waiting(&path, "a\nb\n");
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "from before");
        let file = opened_partial(&path, &fs::read(partial(&path)).unwrap()).unwrap();
        assert_eq!((file.rows, file.dims, file.vectors.len()), (2, 32, 64));
    }
}

#[test]
fn a_job_that_is_killed_at_any_moment_leaves_the_old_file() {
    let dir = tempdir().unwrap();
    let input = dir.path().join("texts.txt");
    fs::write(&input, lines(6000)).unwrap();
    let embed = |path: &Path| {
        let mut embed = on("embed", "st-mean");
        embed.arg("--input").arg(&input).arg("--output").arg(path).stderr(Stdio::null());
        embed
    };
    // As long as a whole job takes here and now.
    let start = Instant::now();
    let whole = dir.path().join("whole.npy");
    assert!(embed(&whole).status().unwrap().success());
    let job = start.elapsed();
    let expected = opened(&whole, &fs::read(&whole).unwrap()).unwrap();
    for (round, name) in
        ["vectors.npy", "vectors.jsonl", "vectors.safetensors"].into_iter().cycle().take(24).enumerate()
    {
        let path = dir.path().join(name);
        let old = (round % 2 == 0).then_some(&b"from before"[..]);
        match old {
            Some(old) => fs::write(&path, old).unwrap(),
            None => drop(fs::remove_file(&path)),
        }
        let mut child = embed(&path).spawn().unwrap();
        sleep(job * (round as u32 * 7 % 24) / 24);
        child.kill().unwrap();
        let ended = child.wait().unwrap();
        let found = fs::read(&path).ok();
        if ended.success() || found.as_deref() != old {
            let file = opened(&path, &found.unwrap()).unwrap();
            assert_eq!(file.rows, expected.rows, "{name} took its name before it was whole");
        }
        // What a killed job had is in the partial file, once there is a header; the last line of JSONL may be cut.
        let bytes = fs::read(partial(&path)).unwrap_or_default();
        if !bytes.is_empty()
            && let Some(file) = match opened_partial(&path, &bytes) {
                Err(_) if name.ends_with("jsonl") => None,
                opened => Some(opened.unwrap()),
            }
        {
            assert!(name.ends_with("jsonl") || file.rows % 1024 == 0 || file.rows == expected.rows);
            assert_eq!(file.vectors[..], expected.vectors[..file.vectors.len()]);
        }
    }
    // The next job takes the place of the killed one.
    let path = dir.path().join("vectors.npy");
    assert!(embed(&path).status().unwrap().success());
    assert_eq!(opened(&path, &fs::read(&path).unwrap()).unwrap().vectors, expected.vectors);
    assert!(!partial(&path).exists());
}
