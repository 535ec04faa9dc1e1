//! The README's table of models names the families that the code has, each once.
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use mlx_embed::Checkpoint;

#[test]
fn the_readme_lists_every_family_and_no_other() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let section = readme.split("### Models").nth(1).unwrap();
    let rows = section.lines().skip_while(|line| !line.starts_with("| ---")).skip(1);
    let listed: Vec<String> = rows
        .take_while(|line| line.starts_with('|'))
        .flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2).map(str::to_owned))
        .collect();

    // The error for another one names them all.
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), r#"{"model_type": "another"}"#).unwrap();
    let error = Checkpoint::open(dir.path()).unwrap_err().to_string();
    let known = error.split("supported are ").nth(1).unwrap();
    let known: BTreeSet<String> = known.split(", ").map(str::to_owned).collect();
    assert_eq!(listed.iter().cloned().collect::<BTreeSet<_>>(), known, "{error}");
    assert_eq!(listed.len(), known.len(), "a family stands in two rows: {listed:?}");
}
