//! Decides where each piece of the native side comes from: the environment first, then the pins.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::For;
use crate::pins::Pins;
use crate::{Result, env, fetch};

/// Everything that the native build and bindgen read.
pub(crate) struct Sources {
    /// mlx-c's source tree.
    pub(crate) mlxc: PathBuf,
    /// The folder of `mlx/*.h` of the MLX core.
    pub(crate) mlx_include: PathBuf,
    /// libmlx itself.
    pub(crate) mlx_library: PathBuf,
    /// A fast BLAS; `None` where MLX has one of its own (macOS).
    pub(crate) blas: Option<Blas>,
}

/// An OpenBLAS library.
pub(crate) struct Blas {
    pub(crate) library: PathBuf,
    /// What its symbols' names begin with.
    pub(crate) prefix: &'static str,
}

impl Sources {
    pub(crate) fn find(pins: &Pins) -> Result<Self> {
        let macos = match env::cargo("CARGO_CFG_TARGET_OS").as_str() {
            "linux" => false,
            "macos" => true,
            other => return Err(format!("mlx-embed-sys builds on Linux and macOS, not on {other}")),
        };
        let core = core(pins, macos)?;
        let sources = Self {
            mlxc: mlxc(pins)?,
            mlx_include: core.join("include"),
            mlx_library: core.join("lib").join(if macos { "libmlx.dylib" } else { "libmlx.so" }),
            blas: if macos { None } else { Some(blas(pins)?) },
        };
        libclang(pins)?;
        Ok(sources)
    }
}

/// The MLX core: a folder with `include/` and `lib/`.
fn core(pins: &Pins, macos: bool) -> Result<PathBuf> {
    let list = match (env::feature("cuda-12"), env::feature("cuda-13"), macos) {
        (true, true, _) => {
            return Err("the features cuda-12 and cuda-13 exclude each other: choose one".into());
        }
        (false, false, false) => "mlx-cpu.txt",
        (false, false, true) => "mlx-metal.txt",
        (true, false, false) => "mlx-cuda-12.txt",
        (false, true, false) => "mlx-cuda-13.txt",
        (_, _, true) => return Err("the features cuda-12 and cuda-13 are for Linux".into()),
    };
    let instead = format!("name a folder with include/ and lib/ of MLX {} in MLX_SYS_MLX_DIR", pins.mlx);
    let dir = match env::path("MLX_SYS_MLX_DIR") {
        Some(dir) => dir,
        None => fetch::wheels(pins, list, For::Programs, &instead)?.join("mlx"),
    };
    let header = read(&dir.join("include/mlx/version.h"))?;
    let number = |part: &str| word_after(&header, &format!("#define MLX_VERSION_{part} ")).unwrap_or("?");
    let found = format!("{}.{}.{}", number("MAJOR"), number("MINOR"), number("PATCH"));
    check_version("MLX", &dir, &found, &pins.mlx)?;
    Ok(dir)
}

fn mlxc(pins: &Pins) -> Result<PathBuf> {
    let Some(dir) = env::path("MLX_SYS_MLXC_DIR") else {
        return fetch::mlxc(pins);
    };
    println!("cargo::rerun-if-changed={}", dir.join("mlx").display());
    let lists = read(&dir.join("CMakeLists.txt"))?;
    check_version("mlx-c", &dir, word_after(&lists, "set(MLX_C_VERSION ").unwrap_or("?"), &pins.mlxc)?;
    Ok(dir)
}

/// The two fit each other in one version each: others don't compile, or compile and lay objects out differently.
fn check_version(what: &str, dir: &Path, found: &str, wanted: &str) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    Err(format!("{} is {what} {found}, but this crate needs {what} {wanted}", dir.display()))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|error| format!("can't read {}: {error}", path.display()))
}

fn word_after<'a>(text: &'a str, start: &str) -> Option<&'a str> {
    text.split(start).nth(1)?.split([')', ' ', '\r', '\n']).next()
}

fn blas(pins: &Pins) -> Result<Blas> {
    let instead = "name a folder with libopenblas.so in MLX_SYS_OPENBLAS_DIR";
    let dir = match env::path("MLX_SYS_OPENBLAS_DIR") {
        Some(dir) => dir,
        None => fetch::wheels(pins, "openblas.txt", For::Programs, instead)?.join("scipy_openblas32"),
    };
    [("libscipy_openblas.so", "scipy_"), ("libopenblas.so", "")]
        .into_iter()
        .flat_map(|(file, prefix)| {
            ["lib", ""].map(|below| Blas { library: dir.join(below).join(file), prefix })
        })
        .find(|blas| blas.library.is_file())
        .ok_or_else(|| format!("{} holds neither libopenblas.so nor libscipy_openblas.so", dir.display()))
}

/// The cmake program.
pub(crate) fn cmake(pins: &Pins) -> Result<PathBuf> {
    if let Some(program) = env::var("CMAKE") {
        return Ok(program.into());
    }
    if runs("cmake") {
        return Ok("cmake".into());
    }
    let instead = "install cmake, or name the program in CMAKE";
    Ok(fetch::wheels(pins, "cmake.txt", For::Build, instead)?.join("cmake/data/bin/cmake"))
}

/// The ninja program; `None` where cmake has something else to build with. A C++ compiler doesn't always come with make.
pub(crate) fn ninja(pins: &Pins) -> Result<Option<PathBuf>> {
    if env::var("CMAKE_GENERATOR").is_some() || runs("make") {
        return Ok(None);
    }
    let instead = "install make, or choose another CMAKE_GENERATOR";
    Ok(Some(fetch::wheels(pins, "ninja.txt", For::Build, instead)?.join("bin/ninja")))
}

fn runs(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Makes sure that bindgen will find libclang.
fn libclang(pins: &Pins) -> Result<()> {
    if env::var("LIBCLANG_PATH").is_none() {
        let folder =
            fetch::wheels(pins, "libclang.txt", For::Build, "name the folder of libclang in LIBCLANG_PATH")?;
        // SAFETY: the build script has one thread, so nothing reads the environment meanwhile.
        unsafe { std::env::set_var("LIBCLANG_PATH", folder.join("clang/native")) };
    }
    Ok(())
}
