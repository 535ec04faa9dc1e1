//! Every link in the documentation leads to a file and a heading that are there, and every page is in the book.
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

/// All pages of the repository that git knows, or would: nothing of what is built or fetched.
fn pages() -> Vec<PathBuf> {
    let mut pages = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(Path::new("./").join(&folder)).unwrap();
        for entry in entries.map(Result::unwrap) {
            let (path, name) = (folder.join(entry.file_name()), entry.file_name());
            let name = name.to_str().unwrap();
            if entry.file_type().unwrap().is_dir() && !name.starts_with('.') && name != "target" {
                folders.push(path);
            } else if name.ends_with(".md") {
                pages.push(path);
            }
        }
    }
    pages
}

/// What is no code: fences and spans are blanked.
fn prose(page: &str) -> String {
    let mut fenced = false;
    let mut prose = String::new();
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            let words = line.split('`').enumerate();
            prose.extend(words.map(|(index, words)| if index % 2 == 0 { words } else { "" }));
        }
        prose.push('\n');
    }
    prose
}

/// The targets of `[words](target)`.
fn links(prose: &str) -> impl Iterator<Item = &str> {
    prose.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target)
}

/// The anchors of a page's headings, as they are commonly made of these.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut fenced = false;
    let mut anchors = BTreeSet::new();
    for line in page.lines() {
        fenced ^= line.trim_start().starts_with("```");
        let Some(heading) = line.strip_prefix('#').filter(|_| !fenced) else { continue };
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        anchors.insert(kept.map(|c| if c == ' ' { '-' } else { c }).collect());
    }
    anchors
}

/// Without `.` and `..`.
fn straight(path: &Path) -> PathBuf {
    let mut straight = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => assert!(straight.pop(), "{} leads out", path.display()),
            Component::CurDir => {}
            part => straight.push(part),
        }
    }
    straight
}

#[test]
fn every_link_leads_somewhere() {
    let pages: BTreeMap<PathBuf, String> =
        pages().into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect();
    let (mut broken, mut count) = (Vec::new(), 0);
    for (path, page) in &pages {
        for link in links(&prose(page)).filter(|link| !link.contains("://")) {
            count += 1;
            let (file, anchor) =
                link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor)));
            let target = match file {
                "" => path.clone(),
                file => straight(&path.parent().unwrap().join(file)),
            };
            let found = match (pages.get(&target), anchor) {
                (Some(page), Some(anchor)) => anchors(page).contains(anchor),
                (None, Some(_)) => false,
                (_, None) => target.exists(),
            };
            if !found {
                broken.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert!(count > 100, "{count} links were found");
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
}

#[test]
fn every_page_of_the_guide_is_in_the_book() {
    let summary = fs::read_to_string("docs/SUMMARY.md").unwrap();
    let named: BTreeSet<&str> = links(&summary).collect();
    let there: BTreeSet<String> = pages()
        .into_iter()
        .filter_map(|page| Some(page.strip_prefix("docs").ok()?.to_str()?.to_owned()))
        .filter(|page| page != "SUMMARY.md")
        .collect();
    assert_eq!(named, there.iter().map(String::as_str).collect());
}

/// Doctests, here and in the crates that have what their pages' examples use.
#[test]
fn every_example_in_rust_is_compiled() {
    let files = ["tests/support/lib.rs", "mlx-embed/server/src/lib.rs", "mlx-embed/datafusion/src/lib.rs"];
    let doctests = files.map(|file| {
        let folder = Path::new(file).parent().unwrap();
        let source = fs::read_to_string(file).unwrap();
        let included = source.split("include_str!(\"").skip(1).filter_map(|rest| rest.split_once('"'));
        included.map(|(path, _)| straight(&folder.join(path))).collect::<Vec<_>>()
    });
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        let has_example = text.lines().any(|line| line.trim_start().starts_with("```rust"));
        assert!(!has_example || doctests.concat().contains(&page), "{} is in no doctest", page.display());
        assert!(!text.contains("```rust,ignore"), "{}", page.display());
    }
}
