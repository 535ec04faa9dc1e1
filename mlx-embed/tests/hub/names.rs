//! What is asked for, of whom, and what is not.

use std::path::Path;

use mlx_embed::hub::{self, HubError, ModelName};

use crate::server::{COMMIT, MODEL};
use crate::{OTHERS, fetched, hub_of, needed, offline, online, published, says};

#[test]
fn what_a_checkpoint_needs_is_fetched_and_nothing_else() {
    let (server, _cache, hub) = hub_of(published());
    assert_eq!(fetched(&hub), needed());
    for asked in server.asked() {
        assert!(OTHERS.iter().all(|other| !asked.path.ends_with(&format!("/{other}"))), "{asked:?}");
    }
}

#[test]
fn heads_shards_and_folders_of_modules_are_needed() {
    let mut files = needed();
    let weights = files.remove("model.safetensors").unwrap();
    let index = br#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#;
    let modules = br#"[{"path": "", "type": "a.Transformer"}, {"path": "1_Pooling", "type": "a.Pooling"},
                       {"path": "2_Dense/", "type": "a.Dense"}, {"path": "../outside", "type": "a.Dense"}]"#;
    for (file, bytes) in [
        ("model.safetensors.index.json", &index[..]),
        ("modules.json", modules),
        ("model-1.safetensors", &weights),
        ("model-2.safetensors", &weights[..9]),
        ("2_Dense/config.json", b"{}"),
        ("2_Dense/model.safetensors", b"dense"),
        ("sparse_linear.pt", b"sparse"),
        ("colbert_linear.safetensors", b"colbert"),
    ] {
        files.insert(file.into(), bytes.into());
    }
    let mut more = files.clone();
    for other in
        ["model-3.safetensors", "colbert_linear.pt", "2_Dense/pytorch_model.bin", "../outside/config.json"]
    {
        more.insert(other.into(), b"not needed".into());
    }
    let (_server, _cache, hub) = hub_of(more);
    assert_eq!(fetched(&hub), files);
}

#[test]
fn without_safetensors_files_of_pytorch_are_needed() {
    let mut files = needed();
    let modules = br#"[{"path": "", "type": "a.Transformer"}, {"path": "2_Dense", "type": "a.Dense"}]"#;
    files.remove("model.safetensors");
    for (file, bytes) in [
        ("modules.json", &modules[..]),
        ("2_Dense/config.json", b"{}"),
        ("2_Dense/pytorch_model.bin", b"dense"),
        ("pytorch_model.bin", b"weights"),
    ] {
        files.insert(file.into(), bytes.into());
    }
    files.remove("1_Pooling/config.json");
    let (_server, _cache, hub) = hub_of(files.clone());
    assert_eq!(fetched(&hub), files);
}

#[test]
fn a_model_in_a_folder_is_fetched_from_there() {
    let mut files = needed();
    let modules = br#"[{"path": "0_Transformer", "type": "a.Transformer"}, {"path": "1_Pooling", "type": "a.Pooling"}]"#;
    let index = br#"{"weight_map": {"a": "part-1.safetensors"}}"#;
    let own = ["config.json", "tokenizer.json", "tokenizer_config.json", "sentence_bert_config.json"];
    for name in own {
        let bytes = files.remove(name).unwrap_or_else(|| b"{}".into());
        files.insert(format!("0_Transformer/{name}"), bytes);
    }
    let weights = files.remove("model.safetensors").unwrap();
    for (file, bytes) in [
        ("modules.json", &modules[..]),
        ("config.json", b"{}"),
        ("0_Transformer/model.safetensors.index.json", index),
        ("0_Transformer/part-1.safetensors", &weights),
    ] {
        files.insert(file.into(), bytes.into());
    }
    let mut more = files.clone();
    for other in ["0_Transformer/pytorch_model.bin", "0_Transformer/README.md", "part-1.safetensors"] {
        more.insert(other.into(), b"not needed".into());
    }
    let (server, cache, hub) = hub_of(more);
    assert_eq!(fetched(&hub), files);
    drop(server);
    assert_eq!(fetched(&offline(cache.path())), files, "it is taken for whole");
}

#[test]
fn a_model_without_weights_that_are_read_names_what_it_has() {
    let mut files = published();
    files.retain(|file, _| !file.ends_with(".safetensors") && !file.ends_with(".bin"));
    let (_server, _cache, hub) = hub_of(files);
    let error = hub.fetch(&MODEL.parse().unwrap()).unwrap_err().to_string();
    says(error, &[MODEL, "model.gguf", "GGUF", "safetensors"]);
}

#[test]
fn the_token_is_for_the_hub_and_not_for_where_it_redirects_to() {
    let (server, _cache, mut hub) = hub_of(published());
    server.require("secret");
    let gated = hub.fetch(&MODEL.parse().unwrap()).unwrap_err();
    assert!(matches!(gated, HubError::Refused { status: 401, .. }), "{gated}");
    says(gated, &[MODEL, "config.json", "accept the terms", "set HF_TOKEN"]);
    hub.token = Some("another".into());
    let refused = hub.fetch(&MODEL.parse().unwrap()).unwrap_err().to_string();
    assert!(refused.contains("(403)") && refused.contains("has not let in"), "{refused}");
    assert!(!format!("{hub:?}{refused}").contains("another"), "a token is nobody's to read");

    server.asked();
    hub.token = Some("secret".into());
    hub.fetch(&MODEL.parse().unwrap()).unwrap();
    let (to_cdn, to_hub): (Vec<_>, Vec<_>) = server.asked().into_iter().partition(|asked| asked.to_cdn);
    assert!(!to_cdn.is_empty() && to_cdn.iter().all(|asked| !asked.headers.contains_key("authorization")));
    assert!(to_hub.iter().all(|asked| asked.headers["authorization"] == "Bearer secret"));
}

#[test]
fn what_the_hub_has_not_is_told_apart() {
    let (server, _cache, hub) = hub_of(published());
    let error = |name: &str| hub.fetch(&name.parse().unwrap()).unwrap_err().to_string();
    let unknown = error("owner/other");
    assert!(unknown.contains("owner/other") && unknown.contains("see to its spelling"), "{unknown}");
    let revision = error("owner/name@v9");
    assert!(revision.contains("owner/name@v9") && revision.contains("no such revision"), "{revision}");
    // A mirror that doesn't say what is missing.
    server.fault("GET", "/revision/main", crate::server::What::Status(404, &[]), 1);
    assert!(error(MODEL).contains("no such model"), "{}", error(MODEL));
}

#[test]
fn nothing_is_asked_without_a_name_a_hub_or_leave() {
    let (server, cache, hub) = hub_of(published());
    // Folders win, and what is no name is a path.
    for path in ["src/hub", "Cargo.toml", "no/such/folder", "nothing", "/owner/name", "./owner/name"] {
        assert_eq!(hub::find(Path::new(path), |_| ()).unwrap(), Path::new(path));
    }
    let name: ModelName = MODEL.parse().unwrap();
    let forbidden = offline(cache.path()).fetch(&name).unwrap_err().to_string();
    assert!(forbidden.contains("HF_HUB_OFFLINE") && forbidden.contains(MODEL), "{forbidden}");
    let mut nowhere = offline(cache.path());
    nowhere.offline = false;
    let nowhere = nowhere.fetch(&name).unwrap_err().to_string();
    assert!(nowhere.contains("HF_ENDPOINT") && nowhere.contains(MODEL), "{nowhere}");
    assert!(server.asked().is_empty());
    assert!(hub.fetch(&name).unwrap().ends_with(COMMIT));

    for endpoint in ["hub.example", "ftp://hub.example", "https://"] {
        let error =
            online(cache.path(), endpoint).fetch(&"owner/other".parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("HF_ENDPOINT") && error.contains(endpoint), "{error}");
    }
}

#[test]
fn every_revision_is_asked_for_by_its_own_name() {
    let (server, _cache, hub) = hub_of(published());
    let _ = hub.fetch(&"owner/name@refs/pr/1".parse().unwrap());
    assert_eq!(server.asked()[0].path, "/api/models/owner/name/revision/refs%2Fpr%2F1");
    let commit = format!("{MODEL}@{COMMIT}").parse().unwrap();
    hub.fetch(&commit).unwrap();
    server.asked();
    // What a commit is never changes.
    hub.fetch(&commit).unwrap();
    assert!(server.asked().is_empty());
}
