//! The other tests here call every function that mlx-embed calls.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The words in all Rust files below a folder that look like functions of MLX's.
fn words(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            words(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("UTF-8");
            let identifiers = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            found.extend(
                identifiers
                    .filter(|word| word.starts_with("mlx_") || word.starts_with("mlxsys_"))
                    .map(String::from),
            );
        }
    }
}

#[test]
fn every_function_that_mlx_embed_calls_is_tried() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let user = here.join("../mlx-embed/src");
    if !user.is_dir() {
        eprintln!("skipped: mlx-embed isn't there, as in a packaged crate");
        return;
    }
    let (mut used, mut tried) = (BTreeSet::new(), BTreeSet::new());
    words(&user, &mut used);
    words(&here.join("tests"), &mut tried);
    let bindings = include_str!(concat!(env!("OUT_DIR"), "/bindings.rs"));
    let untried: Vec<_> =
        used.difference(&tried).filter(|word| bindings.contains(&format!("pub fn {word}("))).collect();
    assert!(untried.is_empty(), "mlx-embed calls these, and no test of mlx-sys does: {untried:?}");
}
