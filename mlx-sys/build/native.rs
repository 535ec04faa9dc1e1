//! Builds libmlxc, once for everything that goes into it.

use std::fs;
use std::path::PathBuf;

use crate::cache::For;
use crate::pins::Pins;
use crate::sources::{self, Sources};
use crate::{Result, cache, env};

/// The built library's folder.
pub(crate) struct Library {
    dir: PathBuf,
}

pub(crate) fn build(sources: &Sources, pins: &Pins) -> Result<Library> {
    let target_os = env::cargo("CARGO_CFG_TARGET_OS");
    let file = if target_os == "macos" { "libmlxc.dylib" } else { "libmlxc.so" };
    let native = env::manifest_dir().join("native");
    let name = format!("mlxc-{}", key(sources)?);
    let dir = cache::root(For::Programs)?.join(&name);
    let library = cache::entry(For::Programs, &name, |folder| {
        let (prefix, blas) =
            sources.blas.as_ref().map_or(("", "".into()), |blas| (blas.prefix, blas.library.clone()));
        // SAFETY: the build script has one thread, so nothing reads the environment meanwhile.
        unsafe { std::env::set_var("CMAKE", sources::cmake(pins)?) };
        let mut config = cmake::Config::new(&native);
        if let Some(ninja) = sources::ninja(pins)? {
            config.generator("Ninja").define("CMAKE_MAKE_PROGRAM", ninja);
        }
        let built = config
            .init_c_cfg(compiler(false))
            .init_cxx_cfg(compiler(true))
            .out_dir(folder.join("work"))
            .profile("Release")
            .build_target("mlxc")
            .define("MLXSYS_MLXC", &sources.mlxc)
            .define("MLXSYS_MLX_INCLUDE", &sources.mlx_include)
            .define("MLXSYS_MLX_LIBRARY", &sources.mlx_library)
            .define("MLXSYS_BLAS", blas)
            .define("MLXSYS_BLAS_PREFIX", prefix)
            .define("MLXSYS_INSTALL_DIR", &dir)
            .build();
        // Whoever passes the library on has its licence at hand.
        fs::rename(built.join("build/mlx-c").join(file), folder.join(file))
            .and_then(|()| fs::copy(sources.mlxc.join("LICENSE"), folder.join("LICENSE")))
            .and_then(|_| fs::remove_dir_all(folder.join("work")))
            .map_err(|error| {
                format!(
                    "can't take {file} out of {}, or LICENSE out of {}: {error}",
                    built.display(),
                    sources.mlxc.display()
                )
            })
    })?;
    cache::watch(&library.join(file));
    cache::watch(&sources.mlx_library);
    if let Some(blas) = &sources.blas {
        cache::watch(&blas.library);
    }
    Ok(Library { dir: library })
}

impl Library {
    /// Tells cargo to link it, and tells crates that depend on this one where things are.
    pub(crate) fn link(&self, sources: &Sources) {
        println!("cargo::rustc-link-search=native={}", self.dir.display());
        println!("cargo::rustc-link-lib=dylib=mlxc");
        println!("cargo::metadata=lib={}", self.dir.display());
        let native = env::manifest_dir().join("native");
        if let Ok(include) = std::env::join_paths([&sources.mlxc, &native]) {
            println!("cargo::metadata=include={}", include.display());
        }
        // The cmake crate has said where it built, which is gone by now.
        println!("cargo::metadata=root={}", self.dir.display());
        println!("cargo::metadata=mlx_include={}", sources.mlx_include.display());
        println!("cargo::metadata=mlx_library={}", sources.mlx_library.display());
    }
}

/// The same flags whatever the cargo profile, since all profiles share one library. Rust's flags stay Rust's, and so
/// does AddressSanitizer, which cc turns on by itself where Rust's is: a second runtime, in this library, would clash
/// with the program's own.
fn compiler(cpp: bool) -> cc::Build {
    let mut build = cc::Build::new();
    build.cpp(cpp).opt_level(1).debug(false).inherit_rustflags(false).flag("-fno-sanitize=address");
    build
}

/// Stands for everything that could make another library, its own place included: that is written into it.
fn key(sources: &Sources) -> Result<String> {
    let mut key = cache::Key::new();
    key.add_path(&sources.mlxc.join("mlx"))?;
    key.add_path(&env::manifest_dir().join("native"))?;
    key.add_path(&sources.mlx_include.join("mlx/version.h"))?;
    key.add(sources.mlx_library.as_os_str().as_encoded_bytes());
    if let Some(blas) = &sources.blas {
        key.add(blas.library.as_os_str().as_encoded_bytes());
    }
    key.add(cache::root(For::Programs)?.as_os_str().as_encoded_bytes());
    key.add(env::cargo("TARGET"));
    for cpp in [false, true] {
        let tool = compiler(cpp).try_get_compiler().map_err(|error| format!("no C++ compiler: {error}"))?;
        key.add(format!("{:?} {:?}", tool.path(), tool.args()));
        key.add(version_of(&tool)?);
    }
    Ok(key.finish())
}

fn version_of(tool: &cc::Tool) -> Result<Vec<u8>> {
    let output = tool.to_command().arg("--version").output();
    output
        .map(|output| output.stdout)
        .map_err(|error| format!("can't run {}: {error}", tool.path().display()))
}
