//! What goes wrong between a hub and here. No half file is ever taken for a whole one.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mlx_embed::hub::{HubError, Progress};

use crate::server::{MODEL, What, files_of, sha256};
use crate::{fetched, hub_of, needed, published, says};

const WEIGHTS: &str = "/blob/model.safetensors";

/// What the cache holds of the weights: whether there is a blob, and the bytes that came so far.
fn weights(cache: &Path) -> (bool, Option<u64>) {
    let blob = blob(cache);
    let part = blob.with_file_name(format!("{}.incomplete", blob.file_name().unwrap().to_str().unwrap()));
    (blob.exists(), fs::metadata(part).ok().map(|part| part.len()))
}

fn blob(cache: &Path) -> PathBuf {
    cache.join("models--owner--name/blobs").join(sha256(&needed()["model.safetensors"]))
}

#[test]
fn a_connection_that_breaks_is_gone_on_with_where_it_broke() {
    let (server, _cache, hub) = hub_of(published());
    server.fault("GET", WEIGHTS, What::Break(1000), 3);
    let told = Arc::new(Mutex::new(Vec::new()));
    let listener = Arc::clone(&told);
    let hub = hub.on_progress(move |progress| {
        if let Progress::Fetching { done, of, .. } = progress {
            listener.lock().unwrap().push((done, of));
        }
    });
    assert_eq!(fetched(&hub), needed());
    let ranges: Vec<_> = server.asked().into_iter().filter(|asked| asked.path == WEIGHTS).collect();
    let ranges: Vec<_> = ranges.iter().map(|asked| asked.headers.get("range").map(String::as_str)).collect();
    assert_eq!(ranges, [None, Some("bytes=1000-"), Some("bytes=2000-"), Some("bytes=3000-")]);
    let told = told.lock().unwrap();
    let all: usize = needed().values().map(Vec::len).sum();
    assert!(told.is_sorted() && told.last() == Some(&(all as u64, all as u64)), "{told:?}");
}

#[test]
fn a_connection_that_stays_broken_is_an_error_and_what_came_is_kept() {
    let (server, cache, mut hub) = hub_of(published());
    hub.retries = 0;
    server.fault("GET", WEIGHTS, What::Break(1000), 1);
    let error = hub.fetch(&MODEL.parse().unwrap()).unwrap_err();
    assert!(matches!(error, HubError::Connection { .. }), "{error}");
    says(error, &[MODEL, "model.safetensors", "1000 of", "try again"]);
    assert_eq!(weights(cache.path()), (false, Some(1000)));
    assert!(hub.clone().fetch(&MODEL.parse().unwrap()).is_ok());
    let last = server.asked().pop().unwrap();
    assert_eq!(last.headers.get("range").map(String::as_str), Some("bytes=1000-"));
    assert_eq!(weights(cache.path()), (true, None));
}

#[test]
fn a_server_without_ranges_begins_anew_and_one_with_others_is_refused() {
    let (server, cache, hub) = hub_of(published());
    server.fault("GET", WEIGHTS, What::Break(1000), 1);
    server.fault("GET", WEIGHTS, What::OtherRange, 1);
    let error = hub.fetch(&MODEL.parse().unwrap()).unwrap_err();
    assert!(matches!(error, HubError::Answer { .. }), "{error}");
    assert!(error.to_string().contains("from 1000 on, and gives others"), "{error}");
    assert_eq!(weights(cache.path()), (false, Some(1000)));
    server.fault("GET", WEIGHTS, What::Whole, 1);
    assert_eq!(fetched(&hub), needed());
}

#[test]
fn what_has_another_hash_is_an_error_and_deleted() {
    for path in [WEIGHTS, "/1_Pooling/config.json"] {
        let (server, cache, hub) = hub_of(published());
        server.fault("GET", path, What::Corrupt, 1);
        let error = hub.fetch(&MODEL.parse().unwrap()).unwrap_err();
        assert!(matches!(error, HubError::WrongHash { .. }), "{error}");
        let file = path.rsplit('/').next().unwrap();
        assert!(error.to_string().contains(MODEL) && error.to_string().contains(file), "{error}");
        assert_eq!(weights(cache.path()), (false, None));
        assert_eq!(fetched(&hub), needed());
    }
}

#[test]
fn sizes_that_no_disk_has_are_an_error() {
    let (server, _cache, hub) = hub_of(published());
    server.fault("HEAD", "", What::Size(u64::MAX), usize::MAX);
    let error = hub.fetch(&MODEL.parse().unwrap()).unwrap_err();
    assert!(matches!(error, HubError::Connection { .. }), "{error}");
    assert!(error.to_string().contains(&u64::MAX.to_string()), "{error}");
}

#[test]
fn a_wrong_part_from_another_time_is_not_gone_on_with_for_ever() {
    let (_server, cache, hub) = hub_of(published());
    let whole = needed()["model.safetensors"].len();
    // Shorter, as long, and longer than the file.
    for length in [10, whole, whole + 1] {
        let part = format!("{}.incomplete", blob(cache.path()).display());
        fs::create_dir_all(Path::new(&part).parent().unwrap()).unwrap();
        fs::write(part, vec![7; length]).unwrap();
        assert_eq!(fetched(&hub), needed(), "{length}");
        fs::remove_dir_all(cache.path().join("models--owner--name")).unwrap();
    }
}

#[test]
fn a_hub_that_is_busy_is_asked_again_when_it_says() {
    let (server, _cache, hub) = hub_of(published());
    let waits = Arc::new(Mutex::new(Vec::new()));
    let listener = Arc::clone(&waits);
    let hub = hub.on_progress(move |progress| {
        if let Progress::Retrying { reason, seconds } = progress {
            listener.lock().unwrap().push((reason.to_owned(), seconds));
        }
    });
    server.fault("HEAD", "/config.json", What::Status(429, &[("Retry-After", "1")]), 1);
    server.fault("GET", "/revision/main", What::Status(503, &[]), 1);
    server.fault("GET", WEIGHTS, What::Status(500, &[]), 1);
    assert_eq!(fetched(&hub), needed());
    let waits = waits.lock().unwrap();
    assert_eq!(waits.iter().map(|(_, seconds)| *seconds).collect::<Vec<_>>(), [1, 1, 1]);
    assert!(waits[1].0.contains("(429); try again in 1 s"), "{waits:?}");
}

#[test]
fn a_hub_that_stays_busy_is_an_error() {
    let (server, _cache, mut hub) = hub_of(published());
    // Longer than anybody waits.
    server.fault("GET", "/revision/main", What::Status(429, &[("Retry-After", "3600")]), 1);
    let error = hub.fetch(&MODEL.parse().unwrap()).unwrap_err().to_string();
    assert!(error.contains(MODEL) && error.contains("in 3600 s") && error.contains("HF_TOKEN"), "{error}");
    hub.retries = 0;
    server.fault("GET", "/revision/main", What::Status(502, &[]), 1);
    let error = hub.fetch(&MODEL.parse().unwrap()).unwrap_err().to_string();
    assert!(error.contains("502") && error.contains("try again later"), "{error}");
}

#[test]
fn what_is_no_hub_is_found_out() {
    let (server, _cache, hub) = hub_of(published());
    for (method, path, fault) in [
        ("GET", "/revision/main", What::Corrupt),
        ("GET", "/revision/main", What::Status(400, &[])),
        ("GET", "/revision/main", What::Status(302, &[])),
        ("GET", "/revision/main", What::Status(302, &[("Location", "ftp://elsewhere")])),
        ("HEAD", "/config.json", What::Etag("\"no-hash\"")),
        ("HEAD", "/config.json", What::Etag("\"../../../../../../../../../../../../../etc\"")),
        ("HEAD", "/config.json", What::Status(307, &[("Location", "/loop/config.json")])),
    ] {
        server.fault(method, path, fault, if path == "/config.json" { 9 } else { 1 });
        let error = hub.fetch(&MODEL.parse().unwrap()).unwrap_err();
        assert!(matches!(error, HubError::Answer { .. }), "{path}: {error}");
        assert!(error.to_string().contains("HF_ENDPOINT"), "{error}");
        server.clear();
    }
}

#[test]
fn two_that_fetch_the_same_get_it_once() {
    let (server, cache, hub) = hub_of(published());
    server.fault("GET", WEIGHTS, What::Late(Duration::from_millis(500)), 1);
    let waited = Arc::new(Mutex::new(0));
    let hubs = [(); 4].map(|()| {
        let waited = Arc::clone(&waited);
        hub.clone().on_progress(move |progress| {
            if let Progress::Waiting { file } = progress {
                assert!(!file.is_empty());
                *waited.lock().unwrap() += 1;
            }
        })
    });
    std::thread::scope(|scope| {
        let fetches = hubs.map(|hub| scope.spawn(move || hub.fetch(&MODEL.parse().unwrap())));
        for fetch in fetches {
            assert_eq!(files_of(&fetch.join().unwrap().unwrap()), needed());
        }
    });
    let got = server.asked().into_iter().filter(|asked| asked.path == WEIGHTS).count();
    assert_eq!(got, 1);
    assert!(*waited.lock().unwrap() > 0);
    assert_eq!(weights(cache.path()), (true, None));
}

#[cfg(unix)]
#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let (_server, cache, mut hub) = hub_of(published());
    fs::write(cache.path().join("file"), "no folder").unwrap();
    hub.cache = cache.path().join("file");
    let error = hub.fetch(&MODEL.parse().unwrap()).unwrap_err().to_string();
    says(error, &[MODEL, "config.json", "file", "HF_HOME"]);
    assert!(hub.cached().is_err());
}
