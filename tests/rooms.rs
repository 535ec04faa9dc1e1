//! The rooms of `mlx-embed/src` use each other as the table in ARCHITECTURE.md says, and no room is missing there.
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What a room may use, by room.
type Table = BTreeMap<String, BTreeSet<String>>;

/// The rows of ARCHITECTURE.md's table whose room is below `mlx-embed/src/`.
///
/// A room is a module of the crate: `mlx-embed/src/model/`, `mlx-embed/src/{batch,pooling}.rs`. In the last column
/// stand modules; `all of the above` is every room of the rows before, and one row's rooms are for every room. Rooms of
/// one row may use each other.
fn table(architecture: &str) -> Table {
    let mut table = Table::new();
    let mut for_all = BTreeSet::new();
    for row in architecture.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let rooms: BTreeSet<String> = quoted(cells[0]).flat_map(rooms_of).collect();
        let mut may_use: BTreeSet<String> = quoted(cells[cells.len() - 1]).flat_map(modules).collect();
        if cells[cells.len() - 1].contains("all of the above") {
            may_use.extend(table.keys().cloned());
        }
        may_use.extend(rooms.iter().cloned());
        if cells[1].contains("Every room may use these") {
            for_all.extend(rooms.iter().cloned());
        }
        for room in rooms {
            table.insert(room, may_use.clone());
        }
    }
    assert!(!for_all.is_empty() && table.len() > 10, "the table is not as this test reads it: {table:?}");
    table.values_mut().for_each(|may_use| may_use.extend(for_all.iter().cloned()));
    table
}

/// What stands between backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

fn rooms_of(path: &str) -> Vec<String> {
    path.strip_prefix("mlx-embed/src/").map(modules).unwrap_or_default()
}

/// `model/`, `batch`, `{batch,pooling}.rs`.
fn modules(path: &str) -> Vec<String> {
    let name = path.trim_end_matches(".rs").trim_end_matches('/').trim_matches(['{', '}']);
    name.split(',').map(|name| name.trim().to_owned()).collect()
}

/// A file's room: the module below the crate's root that it belongs to.
fn room(file: &Path) -> String {
    let first = file.components().next().unwrap();
    Path::new(first.as_os_str()).file_stem().unwrap().to_string_lossy().into_owned()
}

/// The modules of the crate's root that a file names, by `crate::` or by as many `super::` as lead there. Items that
/// the root exports are no modules.
fn used(file: &Path, text: &str) -> BTreeSet<String> {
    let depth = file.components().count() - usize::from(file.ends_with("mod.rs"));
    let mut used = BTreeSet::new();
    for line in text.lines() {
        let code = line.split("//").next().unwrap_or_default();
        // Modules inside a file, such as its tests, are a level deeper.
        let depth = depth + usize::from(code.starts_with(' '));
        for path in ["crate::".to_owned(), "super::".repeat(depth)] {
            for (at, _) in code.match_indices(&path) {
                let before = code[..at].chars().next_back();
                if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                    continue;
                }
                used.extend(names(&code[at + path.len()..]));
            }
        }
    }
    used.retain(|name| name != "super" && name.starts_with(|c: char| c.is_ascii_lowercase()));
    used
}

/// The name that a path goes on with, or each of those in braces.
fn names(rest: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        text.trim().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
    };
    match rest.strip_prefix('{') {
        Some(list) => {
            let mut level = 0;
            let top: String = list
                .chars()
                .take_while(|c| {
                    level += i32::from(*c == '{') - i32::from(*c == '}');
                    level >= 0
                })
                .collect();
            top.split(',').map(name).collect()
        }
        None => vec![name(rest)],
    }
}

/// What files use and may not.
fn violations(table: &Table, files: &[(PathBuf, String)]) -> Vec<String> {
    let mut found = Vec::new();
    for (file, text) in files {
        // The root names every room; the examples in its documentation too.
        if file == Path::new("lib.rs") {
            continue;
        }
        let room = room(file);
        match table.get(&room) {
            None => found.push(format!("{} is in no room of ARCHITECTURE.md", file.display())),
            Some(may_use) => {
                let wrong = used(file, text).into_iter().filter(|used| !may_use.contains(used));
                found.extend(
                    wrong.map(|used| format!("{} uses {used}, which {room} may not", file.display())),
                );
            }
        }
    }
    found
}

fn sources() -> Vec<(PathBuf, String)> {
    fn read(dir: &Path, root: &Path, files: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read(&path, root, files);
            } else if path.extension().is_some_and(|end| end == "rs") {
                files.push((path.strip_prefix(root).unwrap().to_owned(), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let root = Path::new("mlx-embed/src");
    let mut files = Vec::new();
    read(root, root, &mut files);
    files.sort();
    files
}

fn the_table() -> Table {
    table(&fs::read_to_string("ARCHITECTURE.md").unwrap())
}

#[test]
fn rooms_use_what_the_architecture_allows() {
    let files = sources();
    assert!(files.len() > 60, "only {} files found", files.len());
    let violations = violations(&the_table(), &files);
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn every_room_of_the_architecture_is_there() {
    let rooms: BTreeSet<String> = sources().iter().map(|(file, _)| room(file)).collect();
    for (named, may_use) in the_table() {
        for room in may_use.iter().chain([&named]) {
            assert!(room == "mlx-sys" || rooms.contains(room), "{room}, in the row of {named}, is not there");
        }
    }
}

#[test]
fn a_wrong_use_is_found_in_every_form() {
    let table = the_table();
    let cases = [
        ("model/linear.rs", "use crate::engine::Queue;", Some("engine")),
        ("kernels/matmul.rs", "fn f(a: &crate::mlx::Array) {}", Some("mlx")),
        ("text/tokenizer.rs", "use crate::{error::Error, mlx::{self, Array}};", Some("mlx")),
        ("text/mod.rs", "use super::runner::Runner;", Some("runner")),
        ("text/tokenizer.rs", "    use super::super::super::runner::Runner;", Some("runner")),
        ("new_room/mod.rs", "", Some("no room")),
        ("text/tokenizer.rs", "// crate::mlx would be wrong here", None),
        ("model/linear.rs", "use super::host; use crate::kernels::Family;", None),
    ];
    for (file, text, wrong) in cases {
        let found = violations(&table, &[(file.into(), text.into())]);
        match wrong {
            Some(part) => assert!(found.len() == 1 && found[0].contains(part), "{file}: {text}: {found:?}"),
            None => assert!(found.is_empty(), "{found:?}"),
        }
    }
}

#[test]
fn packages_depend_on_each_other_one_way() {
    let allowed = [("mlx-sys", &[][..]), ("mlx-embed", &["mlx-sys"]), ("mlx-embed/cli", &["mlx-embed"])];
    for (package, may_use) in allowed {
        let manifest = fs::read_to_string(Path::new(package).join("Cargo.toml")).unwrap();
        let own = manifest.lines().filter_map(|line| line.split_once(" = { path = ")).map(|(name, _)| name);
        assert_eq!(own.collect::<Vec<_>>(), may_use, "{package}");
    }
}
