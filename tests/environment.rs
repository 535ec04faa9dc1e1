//! Environment variables change what the library does, so each stands in the guide's table, with who reads it.
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;

use mlx_embed_tests::files;

/// The table's variables, of rows whose second column says `by`.
fn documented(by: &str) -> BTreeSet<String> {
    let guide = fs::read_to_string("docs/deployment.md").unwrap();
    let section = guide.split("\n## Environment variables\n").nth(1).expect("the section is there");
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let rows = rows.map(|row| row.trim_matches('|').split(" | ").collect::<Vec<_>>());
    rows.filter(|cells| cells[1].contains(by))
        .flat_map(|cells| cells[0].split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

/// Names of variables in files that read the environment: string literals in capitals, with an underscore.
fn read_by(folder: &str, reads: &[&str]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    visit(folder, &mut |text: &str| {
        if reads.iter().any(|read| text.contains(read)) {
            let pieces: Vec<&str> = text.split('"').collect();
            let read = pieces.windows(3).filter(|part| {
                // With a value beside it, it is handed to a program or a compiler. clap has further options there.
                let is_set = part[2].starts_with(',') && !part[0].ends_with("env = ");
                is_variable(part[1]) && !is_set
            });
            names.extend(read.map(|part| part[1].to_owned()));
        }
    });
    names
}

fn is_variable(literal: &str) -> bool {
    literal.contains('_')
        && literal.starts_with(|c: char| c.is_ascii_uppercase())
        && literal.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

/// Calls `look` with each source file of a folder.
fn visit(folder: &str, look: &mut impl FnMut(&str)) {
    let is_source = |end: &OsStr| ["rs", "cpp", "c", "h"].iter().any(|known| end == *known);
    for path in files::below(folder).iter().filter(|path| path.extension().is_some_and(is_source)) {
        look(&fs::read_to_string(path).unwrap());
    }
}

#[test]
fn every_variable_that_is_read_is_in_the_table() {
    for (folder, by, reads) in [
        ("mlx-embed/src", "the library", &["env::var", "env::{"][..]),
        ("mlx-embed/cli/src", "the command line", &["env = \"", "env::var"]),
        ("mlx-sys/build", "the build", &["env::var", "env::path", "env::switch", "var(name)"]),
        ("mlx-sys/src", "the library", &["env::var"]),
        ("mlx-sys/native", "the library", &["getenv"]),
    ] {
        // Unit tests stand among the sources.
        let documented: BTreeSet<String> = documented(by).into_iter().chain(documented("tests")).collect();
        // Cargo tells build scripts about the build; the rest are a user's.
        let of_cargo =
            |name: &String| name.starts_with("CARGO_") || name == "OUT_DIR" || name == "MLX_SYS_MLX_VERSION";
        let unknown: Vec<_> = read_by(folder, reads)
            .into_iter()
            .filter(|name| !documented.contains(name) && !of_cargo(name) && !name.starts_with("MLXSYS_"))
            .collect();
        assert!(
            unknown.is_empty(),
            "{folder} reads {unknown:?}: add them to docs/deployment.md, Environment variables"
        );
    }
}

#[test]
fn the_table_names_nothing_that_nobody_reads() {
    let mut sources = String::new();
    for folder in ["mlx-embed", "mlx-sys/build", "mlx-sys/build.rs", "mlx-sys/tests", "tests", "tools"] {
        visit(folder, &mut |text: &str| sources.push_str(text));
    }
    let own: Vec<String> = documented("")
        .into_iter()
        .filter(|name| name.starts_with("MLX_EMBED") || name.starts_with("MLX_SYS"))
        .collect();
    assert!(own.len() > 10, "{own:?}");
    for name in own {
        assert!(sources.contains(&format!("\"{name}\"")), "nothing reads {name}");
    }
}

/// Whoever links the library should not be surprised by a variable: only these change what it computes or writes.
#[test]
fn the_library_itself_reads_few() {
    let read = read_by("mlx-embed/src", &["env::var", "env::{"]);
    let expected = ["MLX_EMBED_CACHE", "MLX_EMBED_CUDA_GENERIC", "MLX_EMBED_KERNELS", "XDG_CACHE_HOME"];
    // In the kernels' tests, and where a model is fetched that is given by its name.
    let of_tests = |name: &String| name != "MLX_EMBED_CASES" && !name.contains("HF_");
    assert_eq!(read.into_iter().filter(of_tests).collect::<Vec<_>>(), expected);
}
