//! Brings pinned packages into the cache: wheels through pip, mlx-c's sources through cargo.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::For;
use crate::pins::Pins;
use crate::{Result, cache, digests, env};

/// pip does not know that a machine which runs the first of these runs the others, once a platform is named.
const GLIBC_TAGS: [&str; 5] = ["_2_35", "_2_28", "_2_27", "_2_17", "2014"];

/// The packages of `vendor/<list>`, installed side by side into one folder.
///
/// `instead` says how else to supply what they hold.
pub(crate) fn wheels(pins: &Pins, list: &str, of: For, instead: &str) -> Result<PathBuf> {
    let packages = pins.list(list)?;
    let machine = match of {
        For::Build => env::cargo("HOST"),
        For::Programs => env::cargo("TARGET"),
    };
    let mut key = cache::Key::new();
    key.add(pins.text(list)?);
    key.add(machine.split('-').next().unwrap_or_default());
    let name = format!("{}-{}-{}", packages[0].name, packages[0].version, key.finish());
    cache::entry(of, &name, |folder| {
        let names: Vec<_> = packages.iter().map(|pin| format!("{}=={}", pin.name, pin.version)).collect();
        let missing = |reason: &str| {
            let files: Vec<_> = packages.iter().map(|pin| format!("{}*.whl", pin.file_prefix())).collect();
            format!(
                "mlx-embed-sys needs {} (vendor/{list}) and can't get it:\n{reason}\n\
                 To supply it, name a folder that holds {} in MLX_SYS_WHEELS, or {instead}.",
                names.join(", "),
                files.join(", "),
            )
        };
        let mut pip = Command::new(env::var("PYTHON").unwrap_or_else(|| "python3".into()));
        pip.args(["-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--quiet"])
            .args(["--no-deps", "--only-binary=:all:", "--require-hashes", "--no-compile", "--target"])
            .arg(folder)
            .arg("--requirement")
            .arg(pins.dir.join(list))
            // A user's own scheme would contradict --target.
            .env("PIP_USER", "0")
            .args(platforms(&machine)?);
        if let Some(wheels) = env::path("MLX_SYS_WHEELS") {
            let absent: Vec<_> = packages
                .iter()
                .map(|pin| pin.file_prefix())
                .filter(|prefix| !holds(&wheels, prefix))
                .map(|prefix| format!("{prefix}*.whl"))
                .collect();
            if !absent.is_empty() {
                return Err(missing(&format!("{} holds no {}", wheels.display(), absent.join(", "))));
            }
            pip.arg("--no-index").arg("--find-links").arg(wheels);
        } else if env::switch("MLX_SYS_OFFLINE") {
            return Err(missing("MLX_SYS_OFFLINE is set"));
        }
        run(&mut pip).map_err(|reason| missing(&reason))
    })
}

/// What pip is told of a machine that is not this one: the tags of wheels that run there.
fn platforms(machine: &str) -> Result<Vec<String>> {
    if machine == env::cargo("HOST") {
        return Ok(Vec::new());
    }
    let linux = |machine: &str| GLIBC_TAGS.iter().map(|tag| format!("manylinux{tag}_{machine}")).collect();
    let tags: Vec<String> = match machine {
        "aarch64-unknown-linux-gnu" => linux("aarch64"),
        "x86_64-unknown-linux-gnu" => linux("x86_64"),
        // The oldest macOS that MLX is there for: its library runs on the newer ones, too.
        "aarch64-apple-darwin" => vec!["macosx_14_0_arm64".to_owned()],
        _ => return Err(format!("there is no MLX for {machine} as a wheel")),
    };
    Ok(tags.into_iter().flat_map(|tag| ["--platform".to_owned(), tag]).collect())
}

/// The source tree of mlx-c.
pub(crate) fn mlxc(pins: &Pins) -> Result<PathBuf> {
    let checksum = pins.mlxc_checksum()?;
    let mut key = cache::Key::new();
    key.add(&checksum);
    cache::entry(For::Build, &format!("mlx-c-{}-{}", pins.mlxc, key.finish()), |folder| {
        let crate_file = format!("mlx-sys-{}.crate", pins.mlxc);
        let missing = |reason: &str| {
            format!(
                "mlx-embed-sys needs mlx-c {} (vendor/mlx-c.toml: the crates.io package mlx-sys {}, whose src/mlx-c it is) \
                 and can't get it:\n{reason}\n\
                 To supply it, name a folder that holds {crate_file} in MLX_SYS_WHEELS, or a source tree of mlx-c in \
                 MLX_SYS_MLXC_DIR.",
                pins.mlxc, pins.mlxc,
            )
        };
        let work = folder.join("work");
        let package = if let Some(wheels) = env::path("MLX_SYS_WHEELS") {
            let archive = wheels.join(&crate_file);
            unpack(&archive, &checksum, &work).map_err(|reason| missing(&reason))?;
            work.join(crate_file.trim_end_matches(".crate"))
        } else if env::switch("MLX_SYS_OFFLINE") {
            return Err(missing("MLX_SYS_OFFLINE is set"));
        } else {
            vendor(pins, &work).map_err(|reason| missing(&reason))?
        };
        let tree = package.join("src/mlx-c");
        for part in ["mlx", "CMakeLists.txt", "mlx-c.pc.in", "LICENSE"] {
            fs::rename(tree.join(part), folder.join(part))
                .map_err(|error| format!("can't take {part} out of {}: {error}", tree.display()))?;
        }
        fs::remove_dir_all(&work).map_err(|error| format!("can't remove {}: {error}", work.display()))
    })
}

/// Has cargo bring a stub crate's one dependency, checked against the lock file; returns that package's folder.
fn vendor(pins: &Pins, work: &Path) -> Result<PathBuf> {
    let failed = |error| format!("can't write to {}: {error}", work.display());
    fs::create_dir_all(work.join("src")).map_err(failed)?;
    fs::write(work.join("src/lib.rs"), "").map_err(failed)?;
    fs::write(work.join("Cargo.toml"), pins.text("mlx-c.toml")?).map_err(failed)?;
    fs::write(work.join("Cargo.lock"), pins.text("mlx-c.lock")?).map_err(failed)?;
    run(Command::new(env::cargo("CARGO"))
        .current_dir(work)
        .args(["vendor", "--quiet", "--locked", "packages"]))?;
    Ok(work.join("packages/mlx-sys"))
}

fn unpack(archive: &Path, checksum: &str, into: &Path) -> Result<()> {
    let bytes = fs::read(archive).map_err(|error| format!("can't read {}: {error}", archive.display()))?;
    let found = digests::sha256(&bytes);
    if found != checksum {
        return Err(format!("{} has the checksum {found}, not {checksum}", archive.display()));
    }
    fs::create_dir_all(into).map_err(|error| format!("can't make {}: {error}", into.display()))?;
    run(Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(into))
}

/// Runs a command; its error is the command line and what it said.
fn run(command: &mut Command) -> Result<()> {
    let output = command.output().map_err(|error| format!("can't run `{command:?}`: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("`{command:?}` failed ({}):\n{}", output.status, said.trim()))
}

fn holds(folder: &Path, prefix: &str) -> bool {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .any(|file| file.file_name().to_string_lossy().starts_with(prefix))
}
