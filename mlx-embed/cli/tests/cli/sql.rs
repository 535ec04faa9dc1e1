//! `mlx-embed sql` becomes `mlx-embed-sql`, wherever it finds that.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use tempfile::tempdir;

use crate::support::{binary, run};

/// A program that shows its arguments and ends with 7.
fn program(dir: &Path, name: &str) {
    let path = dir.join("mlx-embed-sql");
    fs::write(&path, format!("#!/bin/sh\necho {name} \"$#\" \"$@\"\nexit 7\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn sql_is_a_program_beside_this_one_or_in_path() {
    let (here, path) = (tempdir().unwrap(), tempdir().unwrap());
    let copy = here.path().join("mlx-embed");
    fs::copy(binary().get_program(), &copy).unwrap();
    let sql = |arguments: &[&str]| {
        let mut command = Command::new(&copy);
        run(command.env("PATH", path.path()).arg("sql").args(arguments))
    };
    sql(&["SELECT 1"]).failed(2, &["mlx-embed-sql", "cargo install --path mlx-embed/datafusion"]);
    program(path.path(), "in-path");
    let ran = sql(&["--format", "csv", "SELECT 1"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (7, "in-path 3 --format csv SELECT 1\n"), "{}", ran.stderr);
    program(here.path(), "beside");
    let ran = sql(&["--help"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (7, "beside 1 --help\n"), "{}", ran.stderr);
}
