//! Fetching models, from a hub on loopback.
#![allow(clippy::unwrap_used, reason = "clippy knows tests, but not what they share")]

mod cache;
mod faults;
mod names;
mod server;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mlx_embed::hub::Hub;
use server::{Server, files_of};
use tempfile::TempDir;

/// A small checkpoint, with modules.
fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/st-mean")
}

/// What a model's repository often has and nobody here needs.
const OTHERS: [&str; 11] = [
    "README.md",
    ".gitattributes",
    "pytorch_model.bin",
    "model.fp16.safetensors",
    "onnx/model.onnx",
    "onnx/config.json",
    "openvino/model.safetensors",
    "model.gguf",
    "consolidated.safetensors",
    "golden.safetensors",
    "1_Pooling/pytorch_model.bin",
];

/// The checkpoint's files, without and with those that nobody needs.
fn needed() -> BTreeMap<String, Vec<u8>> {
    let mut files = files_of(&golden());
    files.retain(|file, _| !OTHERS.contains(&file.as_str()));
    files
}

fn published() -> BTreeMap<String, Vec<u8>> {
    let mut files = needed();
    files.extend(OTHERS.map(|file| (file.to_owned(), format!("not {file}").into_bytes())));
    files
}

/// The message has each of the parts.
#[track_caller]
fn says(error: impl std::fmt::Display, parts: &[&str]) {
    let error = error.to_string();
    for part in parts {
        assert!(error.contains(part), "{part}: {error}");
    }
}

/// What fetching the model from this hub gives.
#[track_caller]
fn fetched(hub: &Hub) -> BTreeMap<String, Vec<u8>> {
    files_of(&hub.fetch(&server::MODEL.parse().unwrap()).unwrap())
}

/// A hub of these files, an empty cache, and what fetches from the one into the other.
fn hub_of(files: BTreeMap<String, Vec<u8>>) -> (Server, TempDir, Hub) {
    let server = Server::of(files);
    let cache = tempfile::tempdir().unwrap();
    let hub = online(cache.path(), &server.address);
    (server, cache, hub)
}

/// A cache with a hub.
fn online(cache: &Path, endpoint: &str) -> Hub {
    let mut hub = offline(cache);
    (hub.endpoint, hub.offline) = (Some(endpoint.to_owned()), false);
    hub
}

/// A cache without a hub.
fn offline(cache: &Path) -> Hub {
    let mut hub = Hub::from_env().unwrap();
    hub.cache = cache.to_owned();
    (hub.endpoint, hub.token, hub.offline, hub.retries) = (None, None, true, 2);
    hub
}
