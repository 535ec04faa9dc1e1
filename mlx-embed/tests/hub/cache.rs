//! The cache, which other programs have as well.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use mlx_embed::Embedder;
use mlx_embed::hub::Progress;

use crate::server::{COMMIT, MODEL, Server, etag, files_of};
use crate::{fetched, hub_of, needed, offline, online, published};

const LATER: &str = "ffeeddccbbaa99887766554433221100ffeeddcc";

/// The cache as the hub's Python library lays it out: blobs by ETag, links to them, and what `main` is.
fn lay_out(cache: &Path, commit: &str, files: &[&str]) {
    let folder = cache.join("models--owner--name");
    for (file, bytes) in
        needed().iter().filter(|(file, _)| files.is_empty() || files.contains(&file.as_str()))
    {
        let (blob, link) =
            (folder.join("blobs").join(etag(file, bytes)), folder.join("snapshots").join(commit));
        fs::create_dir_all(blob.parent().unwrap()).unwrap();
        fs::write(&blob, bytes).unwrap();
        let link = link.join(file);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        let up = "../".repeat(2 + file.matches('/').count());
        std::os::unix::fs::symlink(format!("{up}blobs/{}", etag(file, bytes)), link).unwrap();
    }
    fs::create_dir_all(folder.join("refs")).unwrap();
    fs::write(folder.join("refs/main"), commit).unwrap();
}

#[test]
fn what_python_fetched_is_found_without_a_hub() {
    let cache = tempfile::tempdir().unwrap();
    lay_out(cache.path(), COMMIT, &[]);
    let folder = offline(cache.path()).fetch(&MODEL.parse().unwrap()).unwrap();
    assert_eq!(folder, cache.path().join("models--owner--name/snapshots").join(COMMIT));
    let vector = Embedder::load(&folder).unwrap().embed_one("a cat").unwrap().vector;
    assert!(vector.iter().any(|number| *number != 0.0));
}

#[test]
fn what_is_fetched_lies_as_python_would_have_laid_it() {
    let (_server, cache, hub) = hub_of(published());
    hub.fetch(&MODEL.parse().unwrap()).unwrap();
    let python = tempfile::tempdir().unwrap();
    lay_out(python.path(), COMMIT, &[]);
    let model = "models--owner--name";
    assert_eq!(files_of(&cache.path().join(model)), files_of(&python.path().join(model)));
    for file in needed().keys() {
        let path = Path::new(model).join("snapshots").join(COMMIT).join(file);
        let [ours, theirs] = [&cache, &python].map(|cache| fs::read_link(cache.path().join(&path)).unwrap());
        assert_eq!(ours, theirs);
    }
}

#[test]
fn a_part_of_a_model_is_made_whole_and_not_taken_for_it() {
    let cache = tempfile::tempdir().unwrap();
    // As where a program asked for the configuration alone.
    lay_out(cache.path(), COMMIT, &["config.json", "tokenizer.json"]);
    let error = offline(cache.path()).fetch(&MODEL.parse().unwrap()).unwrap_err().to_string();
    assert!(error.contains("not complete in the cache"), "{error}");
    let server = Server::of(published());
    let hub = online(cache.path(), &server.address);
    assert_eq!(fetched(&hub), needed());
    assert!(
        server
            .asked()
            .iter()
            .all(|asked| !asked.path.ends_with("/config.json") || asked.path.contains("Pool"))
    );
}

#[test]
fn a_link_that_leads_nowhere_is_replaced() {
    let cache = tempfile::tempdir().unwrap();
    lay_out(cache.path(), COMMIT, &[]);
    let weights = needed()["model.safetensors"].clone();
    let folder = cache.path().join("models--owner--name");
    fs::remove_file(folder.join("blobs").join(etag("model.safetensors", &weights))).unwrap();
    assert!(offline(cache.path()).fetch(&MODEL.parse().unwrap()).is_err());
    let server = Server::of(published());
    let hub = online(cache.path(), &server.address);
    assert_eq!(fetched(&hub), needed());
}

#[test]
fn a_later_commit_costs_the_files_that_changed() {
    let (server, _cache, hub) = hub_of(published());
    hub.fetch(&MODEL.parse().unwrap()).unwrap();
    server.asked();
    // One request says that nothing has changed.
    hub.fetch(&MODEL.parse().unwrap()).unwrap();
    assert_eq!(server.asked().len(), 1);
    server.publish(LATER, "1_Pooling/config.json", br#"{"pooling_mode_cls_token": true}"#);
    let folder = hub.fetch(&MODEL.parse().unwrap()).unwrap();
    assert!(folder.ends_with(LATER));
    let got: Vec<_> = server.asked().into_iter().filter(|asked| asked.method == "GET").collect();
    assert_eq!(got.len(), 2, "{got:?}");
    assert!(got[1].path.ends_with("/1_Pooling/config.json"));

    let mut models = hub.cached().unwrap();
    models.sort_by_key(|model| model.revisions.clone());
    assert_eq!(models.len(), 2);
    assert_eq!((models[0].commit.as_str(), models[1].commit.as_str()), (COMMIT, LATER));
    assert_eq!((models[0].revisions.len(), models[1].revisions.clone()), (0, vec!["main".to_owned()]));
    let bytes: usize = needed().values().map(Vec::len).sum();
    assert_eq!((models[0].repository.as_str(), models[0].bytes), (MODEL, bytes as u64));
    mlx_embed::check(&models[0].folder).unwrap();
}

#[test]
fn a_hub_that_is_away_leaves_what_is_there() {
    let (_server, cache, hub) = hub_of(published());
    let folder = hub.fetch(&MODEL.parse().unwrap()).unwrap();
    let told = Arc::new(Mutex::new(String::new()));
    let listener = Arc::clone(&told);
    // Nobody listens there.
    let mut away = online(cache.path(), "http://127.0.0.1:1");
    away.retries = 0;
    let away = away.on_progress(move |progress| {
        if let Progress::FromCache { reason } = progress {
            *listener.lock().unwrap() = reason.to_owned();
        }
    });
    assert_eq!(away.fetch(&MODEL.parse().unwrap()).unwrap(), folder);
    assert!(told.lock().unwrap().contains("127.0.0.1:1"), "{told:?}");
    let error = away.fetch(&"owner/other".parse().unwrap()).unwrap_err().to_string();
    assert!(error.contains("owner/other") && error.contains("check the network"), "{error}");
}

#[test]
fn models_say_why_they_are_not_run() {
    let (_server, cache, hub) = hub_of(published());
    assert!(hub.cached().unwrap().is_empty());
    hub.fetch(&MODEL.parse().unwrap()).unwrap();
    let other = cache.path().join("models--someone--speech/snapshots").join(LATER);
    fs::create_dir_all(&other).unwrap();
    fs::write(other.join("config.json"), r#"{"model_type": "whisper"}"#).unwrap();
    // What a file manager leaves behind is no revision.
    fs::write(cache.path().join("models--owner--name/refs/.DS_Store"), [0, 0xff]).unwrap();
    let models = hub.cached().unwrap();
    assert_eq!(
        models.iter().map(|model| model.repository.as_str()).collect::<Vec<_>>(),
        [MODEL, "someone/speech"]
    );
    assert_eq!(models[0].revisions, ["main"]);
    assert!(mlx_embed::check(&models[0].folder).is_ok());
    let error = mlx_embed::check(&models[1].folder).unwrap_err().to_string();
    assert!(error.contains("config.json") && error.contains("whisper"), "{error}");
}
