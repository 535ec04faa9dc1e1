//! The rooms of `mlx-embed/src` use each other as the table in ARCHITECTURE.md says, and no room is missing there.
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use mlx_embed_tests::files;

/// What a room may use, by room.
type Table = BTreeMap<String, BTreeSet<String>>;

/// The rows of ARCHITECTURE.md's table whose room is below `mlx-embed/src/`.
///
/// A room is a module of the crate: `mlx-embed/src/model/`, `mlx-embed/src/{batch,pooling}.rs`. In the last column
/// stand modules; `all of the above` is every room of the rows before, and one row's rooms are for every room. Rooms of
/// one row may use each other.
fn table(architecture: &str) -> Table {
    let (mut table, for_all, _) = rows(architecture);
    table.values_mut().for_each(|may_use| may_use.extend(for_all.iter().cloned()));
    table
}

/// What each row says, the rooms that every room may use, and the rooms of each row.
fn rows(architecture: &str) -> (Table, BTreeSet<String>, Vec<BTreeSet<String>>) {
    let mut table = Table::new();
    let (mut for_all, mut together) = (BTreeSet::new(), Vec::new());
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
        for room in &rooms {
            table.insert(room.clone(), may_use.clone());
        }
        together.push(rooms);
    }
    assert!(!for_all.is_empty() && table.len() > 10, "the table is not as this test reads it: {table:?}");
    (table, for_all, together)
}

/// Which room leads to which, by the table where it names them, and by the sources where a room is for all of them or may
/// use all: one would be a circle by the table alone. Rooms of a row are one.
fn arrows_of(architecture: &str, files: &[(PathBuf, String)]) -> BTreeSet<(String, String)> {
    let (table, for_all, together) = rows(architecture);
    let mut arrows = BTreeSet::new();
    for (room, may_use) in &table {
        if !for_all.contains(room) {
            arrows.extend(may_use.iter().map(|used| (room.clone(), used.clone())));
        }
    }
    for (file, text) in files.iter().filter(|(file, _)| file != Path::new("lib.rs")) {
        let room = room(file);
        let shared = |used: &String| for_all.contains(used) || for_all.contains(&room);
        arrows.extend(used(file, text).into_iter().filter(shared).map(|used| (room.clone(), used)));
    }
    let of_one_row = |a: &String, b: &String| {
        together.iter().any(|row| row.contains(a) && row.contains(b) && !for_all.contains(a))
    };
    arrows.retain(|(from, to)| from != to && !of_one_row(from, to));
    arrows
}

/// Rooms that lie on a circle: what is left once those are gone that lead nowhere, and those that nothing leads to.
fn circle(arrows: &BTreeSet<(String, String)>) -> BTreeSet<(String, String)> {
    let mut left = arrows.clone();
    loop {
        let before = left.len();
        let starts: BTreeSet<String> = left.iter().map(|(from, _)| from.clone()).collect();
        let ends: BTreeSet<String> = left.iter().map(|(_, to)| to.clone()).collect();
        left.retain(|(from, to)| ends.contains(from) && starts.contains(to));
        if left.len() == before {
            return left;
        }
    }
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
    for code in statements(text) {
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

/// Lines without their comments, and an import over several lines as one.
fn statements(text: &str) -> Vec<String> {
    let mut statements: Vec<String> = Vec::new();
    let mut in_import = false;
    for line in text.lines() {
        let code = line.split("//").next().unwrap_or_default();
        match statements.last_mut() {
            Some(import) if in_import => import.push_str(code.trim()),
            _ => statements.push(code.to_owned()),
        }
        let starts = ["use ", "pub use ", "pub(crate) use ", "pub(super) use "];
        in_import |= starts.iter().any(|start| code.trim_start().starts_with(start));
        in_import &= !code.contains(';');
    }
    statements
}

/// The name that a path goes on with, or each of those in braces.
fn names(rest: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        text.trim().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
    };
    let Some(list) = rest.strip_prefix('{') else { return vec![name(rest)] };
    let (mut level, mut start, mut found) = (0, 0, Vec::new());
    for (at, c) in list.char_indices() {
        match c {
            '{' => level += 1,
            ',' | '}' if level == 0 => {
                found.push(name(&list[start..at]));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            '}' => level -= 1,
            _ => {}
        }
    }
    found
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
    let root = "mlx-embed/src";
    let mut paths = files::below(root);
    paths.retain(|path| path.extension().is_some_and(|end| end == "rs"));
    let read =
        |path: &PathBuf| (path.strip_prefix(root).unwrap().to_owned(), fs::read_to_string(path).unwrap());
    paths.iter().map(read).collect()
}

fn the_table() -> Table {
    table(&fs::read_to_string("ARCHITECTURE.md").unwrap())
}

/// The package has what its sources include, too.
#[test]
fn every_source_is_packaged() {
    let list = ["package", "--list", "--offline", "--allow-dirty", "-p", "mlx-embed"];
    let listed = Command::new(env!("CARGO")).args(list).output().unwrap();
    let packaged = String::from_utf8(listed.stdout).unwrap();
    let packaged: BTreeSet<&Path> = packaged.lines().map(Path::new).collect();
    let all = files::below("mlx-embed/src");
    assert!(all.len() > 100, "only {} files found", all.len());
    for path in all {
        let path = path.strip_prefix("mlx-embed").unwrap();
        assert!(packaged.contains(path), "{} is not in the list of mlx-embed/Cargo.toml", path.display());
    }
}

#[test]
fn rooms_use_what_the_architecture_allows() {
    let files = sources();
    assert!(files.len() > 60, "only {} files found", files.len());
    let violations = violations(&the_table(), &files);
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn no_way_leads_back_to_where_it_began() {
    let architecture = fs::read_to_string("ARCHITECTURE.md").unwrap();
    let arrows = arrows_of(&architecture, &sources());
    let circle = circle(&arrows);
    assert!(circle.is_empty(), "on a circle, or between two: {circle:?}");
}

#[test]
fn a_circle_is_found() {
    let arrow = |(from, to): (&str, &str)| (from.to_owned(), to.to_owned());
    let arrows = BTreeSet::from([("a", "b"), ("b", "c"), ("c", "d"), ("d", "b"), ("d", "e")].map(arrow));
    assert_eq!(circle(&arrows), BTreeSet::from([("b", "c"), ("c", "d"), ("d", "b")].map(arrow)));
    let table = fs::read_to_string("ARCHITECTURE.md").unwrap();
    let back = table.lines().find(|line| line.starts_with("| `mlx-embed/src/batch.rs`")).unwrap();
    let wrong = table.replace(back, &format!("{}| `model/` |", back.trim_end_matches("- |")));
    let arrows = arrows_of(&wrong, &[]);
    assert!(circle(&arrows).contains(&arrow(("batch", "model"))), "{arrows:?}");
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
        ("text/tokenizer.rs", "use crate::{\n    error::Error,\n    mlx::{self, Array},\n};", Some("mlx")),
        ("text/tokenizer.rs", "use crate::file::{\n    Files, // crate::mlx\n    names,\n};", None),
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
    let allowed = [
        ("mlx-sys", &[][..]),
        ("mlx-embed", &["mlx-sys"]),
        ("mlx-embed/server", &["mlx-embed"]),
        ("mlx-embed/datafusion", &["mlx-embed"]),
        ("mlx-embed/cli", &["mlx-embed", "mlx-embed-server"]),
    ];
    for (package, may_use) in allowed {
        let manifest = fs::read_to_string(Path::new(package).join("Cargo.toml")).unwrap();
        let own = manifest
            .lines()
            .filter_map(|line| line.split_once(" = { ").filter(|(_, from)| from.contains("path = ")))
            .map(|(name, _)| name);
        assert_eq!(own.collect::<Vec<_>>(), may_use, "{package}");
    }
}
