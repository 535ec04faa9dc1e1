//! Writes the Rust declarations of everything in the headers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::sources::Sources;
use crate::{Result, env};

/// What docs.rs builds from, as it has no network.
const COMMITTED: &str = "src/bindings_docs.rs";

/// Uses the committed bindings, which a test holds equal to the generated ones.
pub(crate) fn copy_committed() -> Result<()> {
    println!("cargo::rerun-if-changed={COMMITTED}");
    fs::copy(env::manifest_dir().join(COMMITTED), output())
        .map(|_| ())
        .map_err(|error| format!("can't copy {COMMITTED}: {error}"))
}

pub(crate) fn generate(sources: &Sources) -> Result<()> {
    let native = env::manifest_dir().join("native");
    let mut builder = bindgen::builder()
        .header(native.join("bindings.h").display().to_string())
        .clang_arg(format!("-I{}", sources.mlxc.display()))
        .clang_arg(format!("-I{}", native.display()))
        // half.h adds types on arm alone, which Rust lacks; as if it were already included.
        .clang_arg("-DMLX_HALF_H")
        .allowlist_function("_?mlx_.*|mlxsys_.*")
        .allowlist_type("mlx_.*|mlxsys_.*")
        .allowlist_var("MLX_.*|MLXSYS_.*")
        // libc's, so that its fopen() serves.
        .blocklist_type("FILE|_IO_.*|__sFILE.*|__off.*_t")
        .formatter(bindgen::Formatter::Prettyplease)
        .generate_comments(false)
        .layout_tests(false)
        .merge_extern_blocks(true)
        .sort_semantically(true)
        .use_core();
    if let Some(folder) = compiler_headers()? {
        builder = builder.clang_args(["-isystem".to_owned(), folder.display().to_string()]);
    }
    if let Some(sdk) = macos_sdk() {
        builder = builder.clang_args(["-isysroot".to_owned(), sdk]);
    }
    builder
        .generate()
        .map_err(|error| format!("bindgen: {error}"))?
        .write_to_file(output())
        .map_err(|error| format!("can't write the bindings: {error}"))
}

fn output() -> PathBuf {
    Path::new(&env::cargo("OUT_DIR")).join("bindings.rs")
}

/// Where stddef.h and its like are: the libclang wheel comes without them.
fn compiler_headers() -> Result<Option<PathBuf>> {
    let compiler = cc::Build::new().try_get_compiler().map_err(|error| format!("no C compiler: {error}"))?;
    let (question, below) = if compiler.is_like_clang() {
        ("-print-resource-dir", "include")
    } else {
        ("-print-file-name=include", "")
    };
    let answer = Command::new(compiler.path()).arg(question).output();
    Ok(answer.ok().map(|output| Path::new(String::from_utf8_lossy(&output.stdout).trim()).join(below)))
}

fn macos_sdk() -> Option<String> {
    if env::cargo("CARGO_CFG_TARGET_OS") != "macos" {
        return None;
    }
    let output = Command::new("xcrun").args(["--sdk", "macosx", "--show-sdk-path"]).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
