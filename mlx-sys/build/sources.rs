//! Decides where each piece of the native side comes from: the environment first, then the pins.

use std::fs;
use std::path::{Path, PathBuf};

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
    /// The cmake program.
    pub(crate) cmake: PathBuf,
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
            other => return Err(format!("mlx-sys builds on Linux and macOS, not on {other}")),
        };
        let core = core(pins, macos)?;
        check_version(&core, pins)?;
        let library = if macos { "libmlx.dylib" } else { "libmlx.so" };
        let sources = Self {
            mlxc: match env::path("MLX_SYS_MLXC_DIR") {
                Some(dir) => dir,
                None => fetch::mlxc(pins)?,
            },
            mlx_include: core.join("include"),
            mlx_library: core.join("lib").join(library),
            blas: if macos { None } else { Some(blas(pins)?) },
            cmake: cmake(pins)?,
        };
        for file in [&sources.mlx_library, &sources.mlxc.join("mlx/c/mlx.h")] {
            if !file.is_file() {
                return Err(format!("there is no {}", file.display()));
            }
        }
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
    if let Some(dir) = env::path("MLX_SYS_MLX_DIR") {
        return Ok(dir);
    }
    let instead = format!("name a folder with include/ and lib/ of MLX {} in MLX_SYS_MLX_DIR", pins.mlx);
    Ok(fetch::wheels(pins, list, &instead)?.join("mlx"))
}

/// mlx-c fits one version of MLX: others compile badly, or compile and lay their objects out differently.
fn check_version(core: &Path, pins: &Pins) -> Result<()> {
    let header = core.join("include/mlx/version.h");
    let text =
        fs::read_to_string(&header).map_err(|error| format!("can't read {}: {error}", header.display()))?;
    let number = |part: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(&format!("#define MLX_VERSION_{part} ")))
            .map_or("?", str::trim)
    };
    let found = format!("{}.{}.{}", number("MAJOR"), number("MINOR"), number("PATCH"));
    if found == pins.mlx {
        return Ok(());
    }
    Err(format!("{} is MLX {found}, but mlx-c {} needs MLX {}", core.display(), pins.mlxc, pins.mlx))
}

fn blas(pins: &Pins) -> Result<Blas> {
    let dir = match env::path("MLX_SYS_OPENBLAS_DIR") {
        Some(dir) => dir,
        None => fetch::wheels(pins, "openblas.txt", "name a folder with lib/libopenblas.so in MLX_SYS_OPENBLAS_DIR")?
            .join("scipy_openblas32"),
    };
    [("libscipy_openblas.so", "scipy_"), ("libopenblas.so", "")]
        .into_iter()
        .map(|(file, prefix)| Blas { library: dir.join("lib").join(file), prefix })
        .find(|blas| blas.library.is_file())
        .ok_or_else(|| format!("{} holds neither lib/libscipy_openblas.so nor lib/libopenblas.so", dir.display()))
}

fn cmake(pins: &Pins) -> Result<PathBuf> {
    if let Some(program) = env::var("CMAKE") {
        return Ok(program.into());
    }
    let on_path = std::process::Command::new("cmake").arg("--version").output();
    if on_path.is_ok_and(|output| output.status.success()) {
        return Ok("cmake".into());
    }
    Ok(fetch::wheels(pins, "cmake.txt", "install cmake, or name the program in CMAKE")?.join("cmake/data/bin/cmake"))
}

/// Makes sure that bindgen will find libclang.
fn libclang(pins: &Pins) -> Result<()> {
    if env::var("LIBCLANG_PATH").is_none() {
        let folder = fetch::wheels(pins, "libclang.txt", "name the folder of libclang in LIBCLANG_PATH")?;
        // SAFETY: the build script has one thread, so nothing reads the environment meanwhile.
        unsafe { std::env::set_var("LIBCLANG_PATH", folder.join("clang/native")) };
    }
    Ok(())
}
