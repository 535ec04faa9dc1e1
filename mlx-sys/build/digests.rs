//! What a folder holds, by digest: `SHA256SUMS` lists every file, as `sha256sum` does.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::Result;

const LIST: &str = "SHA256SUMS";

/// Writes the list of all that the folder holds.
pub(crate) fn write(folder: &Path) -> Result<()> {
    let lines = found(folder)?.into_iter().map(|(path, digest)| format!("{digest}  {path}\n"));
    let list = folder.join(LIST);
    fs::write(&list, lines.collect::<String>())
        .map_err(|error| format!("can't write {}: {error}", list.display()))
}

/// Fails unless the folder holds what its list names, and nothing else.
pub(crate) fn check(folder: &Path) -> Result<()> {
    let list = fs::read_to_string(folder.join(LIST)).map_err(|error| format!("no list {LIST} ({error})"))?;
    let mut listed: BTreeMap<&str, &str> =
        list.lines().filter_map(|line| line.split_once("  ")).map(|(digest, path)| (path, digest)).collect();
    for (path, digest) in found(folder)? {
        match listed.remove(path.as_str()) {
            None => return Err(format!("{path} does not belong there")),
            Some(expected) if expected != digest => return Err(format!("{path} was changed")),
            Some(_) => {}
        }
    }
    listed.keys().next().map_or(Ok(()), |missing| Err(format!("{missing} is missing")))
}

/// The SHA-256 of some bytes in hex.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Digests by path below the folder.
fn found(folder: &Path) -> Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    add(folder, "", &mut files)?;
    Ok(files)
}

fn add(folder: &Path, below: &str, files: &mut BTreeMap<String, String>) -> Result<()> {
    let failed = |path: &Path, error: io::Error| format!("can't read {}: {error}", path.display());
    for entry in fs::read_dir(folder).map_err(|error| failed(folder, error))? {
        let entry = entry.map_err(|error| failed(folder, error))?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_str().ok_or_else(|| format!("{} has no readable name", path.display()))?;
        let name = format!("{below}{name}");
        let kind = entry.file_type().map_err(|error| failed(&path, error))?;
        if kind.is_dir() {
            add(&path, &format!("{name}/"), files)?;
        } else if !kind.is_file() {
            // A link would be followed by whoever uses the folder, to a file that is on no list.
            return Err(format!("{name} is neither a file nor a folder"));
        } else if name != LIST {
            let digest = digest_of(&path).map_err(|error| failed(&path, error))?;
            files.insert(name, digest);
        }
    }
    Ok(())
}

fn digest_of(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut digest = Sha256::new();
    let mut bytes = vec![0; 1 << 20];
    loop {
        match file.read(&mut bytes)? {
            0 => return Ok(hex(&digest.finalize())),
            read => digest.update(&bytes[..read]),
        }
    }
}
