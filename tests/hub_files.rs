//! What is fetched of a model is what the library reads: no file that it opens by name is left out.
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Names in the sources that are none of a fetched checkpoint's: what this crate writes, what it refuses, and in messages.
const NONE: [&str; 2] = ["golden.safetensors", "calibration.json"];

/// String literals that are a file's name, by their end.
fn names(path: &Path, found: &mut BTreeSet<String>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            // The default model is inside.
            if !path.ends_with("hub") && !path.ends_with("default_model.rs") {
                names(&path, found);
            }
        }
        return;
    }
    let text = fs::read_to_string(path).unwrap();
    // Unit tests stand behind the code.
    let code = text.split("#[cfg(test)]").next().unwrap().lines();
    let code: Vec<&str> = code.map(|line| line.split("//").next().unwrap()).collect();
    let is_name = |literal: &&str| {
        let (stem, end) = literal.rsplit_once('.').unwrap_or_default();
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        ["json", "jinja", "metadata", "txt", "model", "pt", "bin", "safetensors"].contains(&end)
            && !stem.is_empty()
            && stem.chars().all(plain)
    };
    found.extend(code.join("\n").split('"').filter(is_name).map(str::to_owned));
}

#[test]
fn every_file_that_is_read_by_name_is_fetched() {
    let mut read = BTreeSet::new();
    names(Path::new("mlx-embed/src"), &mut read);
    assert!(read.contains("config.json") && read.len() > 12, "{read:?}");
    let wanted = fs::read_to_string("mlx-embed/src/hub/wanted.rs").unwrap();
    for name in read.iter().filter(|name| !NONE.contains(&name.as_str())) {
        assert!(wanted.contains(&format!("\"{name}\"")), "{name} is read, and hub/wanted.rs doesn't want it");
    }
}
