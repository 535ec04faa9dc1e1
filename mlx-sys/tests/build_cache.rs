//! The build's folders: what somebody else put there, or changed, is neither run nor linked.
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

#[allow(dead_code, reason = "the build uses all of it")]
#[path = "../build/cache.rs"]
mod cache;
#[allow(dead_code, reason = "the build uses all of it")]
#[path = "../build/digests.rs"]
mod digests;
#[allow(dead_code, reason = "the build uses all of it")]
#[path = "../build/env.rs"]
mod env;

type Result<T> = std::result::Result<T, String>;

fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    folder
}

/// An entry with a tool and a library.
fn entry(root: &Path) -> Result<PathBuf> {
    cache::entry_in(root, "tools", |folder| {
        fs::create_dir_all(folder.join("bin")).unwrap();
        fs::write(folder.join("bin/tool"), "#!/bin/sh\n").unwrap();
        fs::write(folder.join("library.so"), "code").unwrap();
        Ok(())
    })
}

fn refused(root: &Path, reason: &str) {
    let message = entry(root).unwrap_err();
    assert!(message.contains(reason) && message.contains("Remove the folder"), "{message}");
    fs::remove_dir_all(root.join("tools")).unwrap();
    entry(root).expect("the next build makes it anew");
}

#[test]
fn an_entry_is_used_as_long_as_it_is_what_the_build_made() {
    let root = folder();
    let made = entry(root.path()).unwrap();
    let again = cache::entry_in(root.path(), "tools", |_| Err("filled twice".to_owned())).unwrap();
    assert_eq!(made, again);
    let names: Vec<_> = fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["tools"], "nothing unfinished stays");
}

#[test]
fn what_was_planted_or_changed_is_refused_and_named() {
    let root = folder();
    // Before the build has made anything.
    fs::create_dir_all(root.path().join("tools/bin")).unwrap();
    fs::write(root.path().join("tools/bin/tool"), "#!/bin/sh\necho planted\n").unwrap();
    refused(root.path(), "no list SHA256SUMS");
    let tools = root.path().join("tools");

    fs::write(tools.join("library.so"), "CODE").unwrap();
    refused(root.path(), "library.so was changed");
    fs::write(tools.join("bin/tool"), "#!/bin/sh\necho planted\n").unwrap();
    refused(root.path(), "bin/tool was changed");
    fs::write(tools.join("libother.so"), "").unwrap();
    refused(root.path(), "libother.so does not belong there");
    fs::remove_file(tools.join("bin/tool")).unwrap();
    refused(root.path(), "bin/tool is missing");
    fs::rename(tools.join("library.so"), root.path().join("elsewhere")).unwrap();
    symlink(root.path().join("elsewhere"), tools.join("library.so")).unwrap();
    refused(root.path(), "library.so is neither a file nor a folder");
    fs::remove_file(tools.join("SHA256SUMS")).unwrap();
    refused(root.path(), "no list SHA256SUMS");
}

/// Containers that share the folder have builds of one number, as threads do.
#[test]
fn builds_of_one_number_that_make_an_entry_at_once_are_in_nobodys_way() {
    let root = folder();
    let at_once = std::sync::Barrier::new(4);
    let build = || {
        cache::entry_in(root.path(), "tools", |folder| {
            at_once.wait();
            for file in 0..50 {
                fs::write(folder.join(format!("{file}")), "what every build makes")
                    .map_err(|error| error.to_string())?;
            }
            Ok(())
        })
    };
    std::thread::scope(|scope| {
        let builds: Vec<_> = (0..4).map(|_| scope.spawn(build)).collect();
        for build in builds {
            assert_eq!(build.join().unwrap(), Ok(root.path().join("tools")));
        }
    });
    let names: Vec<_> = fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["tools"], "nothing unfinished stays");
}

#[test]
fn a_fill_that_fails_leaves_nothing() {
    let root = folder();
    let failed = cache::entry_in(root.path(), "tools", |folder| {
        fs::write(folder.join("half"), "").unwrap();
        Err("no network".to_owned())
    });
    assert_eq!(failed, Err("no network".to_owned()));
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    entry(root.path()).unwrap();
}

#[test]
fn a_folder_that_others_can_write_is_refused() {
    let parent = folder();
    if let Err(reason) = cache::private_folder(parent.path()) {
        eprintln!("not tried: temporary files lie where others can write ({reason})");
        return;
    }
    let root = parent.path().join("a/cache");
    cache::private_folder(&root).unwrap();
    assert_eq!(fs::metadata(&root).unwrap().permissions().mode() & 0o777, 0o700);
    for (path, mode) in [(root.clone(), 0o770), (root.clone(), 0o707), (parent.path().join("a"), 0o777)] {
        let before = fs::metadata(&path).unwrap().permissions();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let message = cache::private_folder(&root).unwrap_err();
        assert!(message.contains("another user can write to") && message.contains("chmod go-w"), "{message}");
        fs::set_permissions(&path, before).unwrap();
    }
    // Where everybody may add files of their own, but not touch those of others.
    fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    cache::private_folder(&root).unwrap();
    // A link to a folder of somebody else's is that folder.
    let open = parent.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    symlink(&open, parent.path().join("link")).unwrap();
    assert!(cache::private_folder(&parent.path().join("link/cache")).is_err());
}
