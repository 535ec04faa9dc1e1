//! Turns each case of `tests/golden` and `tests/golden/families` into a test of its own, so that a failure names the case.

use std::io::Write;
use std::path::Path;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let golden = Path::new("tests/golden");
    println!("cargo::rerun-if-changed={}", golden.display());
    let cases = [golden.to_owned(), golden.join("families")].map(|folder| cases(&folder));
    let [own, families] = cases;
    let out = env::var("OUT_DIR").map_err(io::Error::other)?;
    let mut file = fs::File::create(Path::new(&out).join("golden_cases.rs"))?;
    for (cases, check) in [(own?, "check"), (families?, "check_family")] {
        for case in cases {
            let function = case.replace('-', "_");
            writeln!(file, "#[test]\nfn {function}() {{\n    {check}({case:?});\n}}")?;
        }
    }
    Ok(())
}

/// Folders with a golden file.
fn cases(folder: &Path) -> io::Result<Vec<String>> {
    let mut cases = Vec::new();
    for entry in fs::read_dir(folder)? {
        let dir = entry?.path();
        if dir.join("golden.safetensors").is_file()
            && let Some(name) = dir.file_name().and_then(|name| name.to_str())
        {
            cases.push(name.to_owned());
        }
    }
    cases.sort();
    Ok(cases)
}
