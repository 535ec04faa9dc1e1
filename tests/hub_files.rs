//! What is fetched of a model, and what its hash is of, is what the library reads: no file that it opens by name is left out.
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use mlx_embed::Checkpoint;
use mlx_embed_tests::files;
use mlx_embed_tests::scratch::Scratch;

/// Names in the sources that are none of a fetched checkpoint's: what this crate writes, what it refuses, what is built in,
/// in messages, and adapters, which a hub's list of a model has no place for.
const NONE: [&str; 5] = [
    "golden.safetensors",
    "calibration.json",
    "defaults.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
];

/// String literals in a source that are a file's name, by their end.
fn names(path: &Path) -> Vec<String> {
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
    code.join("\n").split('"').filter(is_name).map(str::to_owned).collect()
}

#[test]
fn every_file_that_is_read_by_name_is_fetched() {
    // The default model is inside, and the list itself reads nothing.
    let others = ["src/hub", "default_model.rs", "checkpoint/contents.rs"];
    let mut sources = files::below("mlx-embed/src");
    sources.retain(|path| !path.ancestors().any(|path| others.iter().any(|other| path.ends_with(other))));
    let read: BTreeSet<String> = sources.iter().flat_map(|path| names(path)).collect();
    assert!(read.contains("config.json") && read.len() > 12, "{read:?}");
    // The Transformer's names stand with their reader, and vocabularies in `file.rs`, in lists that `contents.rs` takes over
    // whole.
    let transformer =
        fs::read_to_string("mlx-embed/src/checkpoint/sentence_transformers/transformer.rs").unwrap();
    let (_, list) = transformer.split_once("const FILES: ").unwrap();
    let (list, _) = list.split_once("const FILL_MASK").unwrap();
    let file = fs::read_to_string("mlx-embed/src/file.rs").unwrap();
    let (_, vocabularies) = file.split_once("mod vocabularies {").unwrap();
    let (vocabularies, all) = vocabularies.split_once("const ALL").unwrap();
    for name in vocabularies.split("const ").skip(1).map(|rest| rest.split(':').next().unwrap()) {
        assert!(
            all.contains(&format!("{name}]")) || all.contains(&format!("{name},")),
            "{name} is not in ALL"
        );
    }
    let wanted = fs::read_to_string("mlx-embed/src/checkpoint/contents.rs").unwrap() + list + vocabularies;
    assert!(wanted.contains("chain(sentence_transformers::TRANSFORMER_FILES)"));
    assert!(wanted.contains("&vocabularies::ALL"));
    for name in read.iter().filter(|name| !NONE.contains(&name.as_str())) {
        assert!(
            wanted.contains(&format!("\"{name}\"")),
            "{name} is read, and neither checkpoint/contents.rs nor the Transformer's list has it"
        );
    }
}

#[test]
fn a_checkpoint_s_hash_changes_with_each_of_these_files_and_no_other() {
    let hash = |scratch: &Scratch| Checkpoint::open(scratch.path()).unwrap().sha256().unwrap();
    let (model, same) = (Scratch::of("st-mean"), Scratch::of("st-mean"));
    for name in ["README.md", "eval_results.json", "onnx.bin"] {
        fs::write(same.file(name), "{}").unwrap();
    }
    let beside = |scratch: &Scratch| Checkpoint::sha256_beside_weights(scratch.path()).unwrap();
    assert_eq!(hash(&same), hash(&model), "what is not read doesn't count");
    assert_eq!(beside(&same), beside(&model));
    let (mut hashes, mut without_weights) =
        (BTreeSet::from([hash(&model)]), BTreeSet::from([beside(&model)]));
    let files =
        ["config.json", "tokenizer.json", "modules.json", "1_Pooling/config.json", "model.safetensors"];
    for name in files {
        let other = Scratch::of("st-mean");
        let mut bytes = fs::read(other.file(name)).unwrap();
        match name {
            "model.safetensors" => *bytes.last_mut().unwrap() ^= 1,
            _ => bytes.push(b'\n'),
        }
        fs::write(other.file(name), bytes).unwrap();
        assert!(hashes.insert(hash(&other)), "{name} is part of it");
        assert_eq!(without_weights.insert(beside(&other)), name != "model.safetensors", "{name}");
    }
    let without = Scratch::of("st-mean");
    fs::remove_file(without.file("tokenizer.json")).unwrap();
    for name in ["vocab.txt", "vocab.json", "merges.txt", "sentencepiece.bpe.model", "spiece.model"] {
        fs::write(same.file(name), "{}").unwrap();
        assert_eq!(hash(&same), hash(&model), "{name} is not read beside tokenizer.json");
        fs::write(without.file(name), "{}").unwrap();
        assert!(hashes.insert(hash(&without)), "{name} is read in its place");
    }
    assert_eq!(Checkpoint::open(model.path()).unwrap().dimensions(None).unwrap(), 32);
}
