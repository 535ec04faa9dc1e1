//! The pins in `vendor/`: which files make up the native side.

use std::fs;
use std::path::PathBuf;

use crate::{Result, env};

/// Versions and lists read from `vendor/`.
pub(crate) struct Pins {
    /// The folder itself.
    pub(crate) dir: PathBuf,
    /// Version of the MLX core.
    pub(crate) mlx: String,
    /// Version of mlx-c.
    pub(crate) mlxc: String,
}

/// One package of a list.
pub(crate) struct Pin {
    pub(crate) name: String,
    pub(crate) version: String,
}

impl Pin {
    /// How the file names of the package's wheels begin.
    pub(crate) fn file_prefix(&self) -> String {
        format!("{}-{}-", self.name.replace('-', "_"), self.version)
    }
}

impl Pins {
    pub(crate) fn read() -> Result<Self> {
        let dir = env::manifest_dir().join("vendor");
        let mut pins = Self { dir, mlx: String::new(), mlxc: String::new() };
        pins.mlx = pins.list("mlx-cpu.txt")?.swap_remove(0).version;
        let manifest = pins.text("mlx-c.toml")?;
        pins.mlxc = manifest
            .lines()
            .find_map(|line| line.strip_prefix("mlx-sys = { version = \"=")?.split('"').next())
            .ok_or("vendor/mlx-c.toml names no version of mlx-sys")?
            .to_owned();
        Ok(pins)
    }

    /// Tells the crate's own code the versions.
    pub(crate) fn announce(&self) {
        println!("cargo::rustc-env=MLX_SYS_MLX_VERSION={}", self.mlx);
        println!("cargo::rustc-env=MLX_SYS_MLXC_VERSION={}", self.mlxc);
    }

    pub(crate) fn text(&self, file: &str) -> Result<String> {
        let path = self.dir.join(file);
        fs::read_to_string(&path).map_err(|error| format!("can't read {}: {error}", path.display()))
    }

    /// The packages of a requirements list, never none.
    pub(crate) fn list(&self, file: &str) -> Result<Vec<Pin>> {
        let pins: Vec<_> = self
            .text(file)?
            .lines()
            .filter_map(|line| line.trim_end_matches(['\\', ' ']).split_once("=="))
            .map(|(name, version)| Pin { name: name.to_owned(), version: version.to_owned() })
            .collect();
        if pins.is_empty() { Err(format!("vendor/{file} pins nothing")) } else { Ok(pins) }
    }

    /// Checksum of the package that holds mlx-c, from the stub's lock file.
    pub(crate) fn mlxc_checksum(&self) -> Result<String> {
        let lock = self.text("mlx-c.lock")?;
        let package = format!("name = \"mlx-sys\"\nversion = \"{}\"", self.mlxc);
        lock.split("[[package]]")
            .find(|entry| entry.contains(&package))
            .and_then(|entry| entry.split("checksum = \"").nth(1)?.split('"').next())
            .map(str::to_owned)
            .ok_or_else(|| format!("vendor/mlx-c.lock holds no mlx-sys {}", self.mlxc))
    }
}
