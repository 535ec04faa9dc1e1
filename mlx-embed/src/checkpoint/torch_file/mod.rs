//! Files of `torch.save` that hold a state dict of plain tensors: a zip archive whose files are stored as they are, one of
//! which, `data.pkl`, says in Python's pickle format what the others hold.
//!
//! Nothing that a pickle may name is run: it may name what such a state dict is made of, and anything else is an error.

mod pickle;

use std::collections::BTreeMap;
use std::ops::Range;

use safetensors::tensor::Dtype;

/// A tensor of such a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// Its numbers in the file, row after row.
    pub(super) bytes: Range<usize>,
}

/// How an archive ends, without a comment: the number and place of its directory's entries.
const END: &[u8] = b"PK\x05\x06";
const END_BYTES: usize = 22;
const LONGEST_COMMENT: usize = u16::MAX as usize;
const ENTRY: &[u8] = b"PK\x01\x02";
const ENTRY_BYTES: usize = 46;
/// What stands in place of a number that has no room in 32 bits.
const BEYOND: usize = u32::MAX as usize;
const LOCAL: &[u8] = b"PK\x03\x04";
const LOCAL_BYTES: usize = 30;

/// The tensors of a file, by name.
///
/// # Errors
/// What in it is damaged, or no part of a state dict of plain tensors.
pub(super) fn tensors(file: &[u8]) -> Result<BTreeMap<String, Stored>, String> {
    let files = directory(file)?;
    let pickled = files.iter().find(|(name, _)| **name == "data.pkl" || name.ends_with("/data.pkl"));
    let Some((name, pickled)) = pickled else {
        return Err("is no file of torch.save: it has no data.pkl".into());
    };
    let root = name.strip_suffix("data.pkl").unwrap_or_default();
    let of_root = |name: &str| files.get(format!("{root}{name}").as_str()).cloned();
    if of_root("byteorder").is_some_and(|order| &file[order] != b"little") {
        return Err("holds numbers that are not little-endian".into());
    }
    let mut all = BTreeMap::new();
    for (name, tensor) in pickle::tensors(&file[pickled.clone()])? {
        let data = of_root(&format!("data/{}", tensor.storage));
        let data = data.ok_or_else(|| format!("has no numbers of its tensor `{name}`"))?;
        let size = tensor.dtype.bitsize() / 8;
        let numbers = tensor.shape.iter().try_fold(1_usize, |product, &dim| product.checked_mul(dim));
        let start = tensor.offset.checked_mul(size);
        let ends = |start: usize| start.checked_add(numbers?.checked_mul(size)?);
        match start.and_then(|start| Some(start..ends(start)?)) {
            Some(range) if range.end <= data.len() => {
                let bytes = data.start + range.start..data.start + range.end;
                all.insert(name, Stored { dtype: tensor.dtype, shape: tensor.shape, bytes });
            }
            _ => {
                return Err(format!(
                    "has fewer numbers than its tensor `{name}` takes; it is cut short or damaged"
                ));
            }
        }
    }
    Ok(all)
}

/// The archive's files, by name, and where their contents lie.
fn directory(file: &[u8]) -> Result<BTreeMap<&str, Range<usize>>, String> {
    let damaged =
        || "is no zip archive as torch.save writes it since version 1.6, or is cut short".to_owned();
    let earliest = file.len().saturating_sub(END_BYTES + LONGEST_COMMENT);
    let last = file.len().checked_sub(END_BYTES).ok_or_else(damaged)?;
    let end = (earliest..=last).rev().find(|&at| file[at..].starts_with(END)).ok_or_else(damaged)?;
    let (count, mut at) = (short(file, end + 10), long(file, end + 16));
    let mut files = BTreeMap::new();
    for _ in 0..count {
        let entry = file.get(at..).filter(|entry| entry.len() >= ENTRY_BYTES && entry.starts_with(ENTRY));
        let entry = entry.ok_or_else(damaged)?;
        let (method, packed, size) = (short(entry, 10), long(entry, 20), long(entry, 24));
        let [name_bytes, extra, comment] = [28, 30, 32].map(|at| short(entry, at));
        let name = entry.get(ENTRY_BYTES..ENTRY_BYTES + name_bytes).ok_or_else(damaged)?;
        let name = std::str::from_utf8(name).map_err(|_| damaged())?;
        if method != 0 || packed != size {
            return Err(format!("has the compressed file {name}; torch.save doesn't compress"));
        }
        let local = long(entry, 42);
        if [size, local].contains(&BEYOND) {
            return Err(format!("has more than 4 GiB, of which {name} is one part; such files are not read"));
        }
        let head = file.get(local..).filter(|head| head.len() >= LOCAL_BYTES && head.starts_with(LOCAL));
        let head = head.ok_or_else(damaged)?;
        let start = local + LOCAL_BYTES + short(head, 26) + short(head, 28);
        let contents = start..start + size;
        if contents.end > file.len() || files.insert(name, contents).is_some() {
            return Err(damaged());
        }
        at += ENTRY_BYTES + name_bytes + extra + comment;
    }
    Ok(files)
}

/// The two or four bytes at `at`, which are there, as a number.
fn short(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

fn long(bytes: &[u8], at: usize) -> usize {
    short(bytes, at) | short(bytes, at + 2) << 16
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// A file of torch.save, where the golden checkpoints are.
    fn saved() -> Option<Vec<u8>> {
        let file = "../tests/golden/families/bge-m3-pickled-heads/colbert_linear.pt";
        std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).ok()
    }

    #[test]
    fn tensors_lie_where_torch_has_put_them() {
        let Some(file) = saved() else { return };
        let found = tensors(&file).unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), ["bias", "weight"]);
        assert_eq!((found["weight"].dtype, &found["weight"].shape[..]), (Dtype::F32, &[64, 64][..]));
        assert_eq!(found["bias"].bytes.len(), 64 * 4);
        let number = f32::from_le_bytes(*file[found["bias"].bytes.clone()].first_chunk().unwrap());
        assert!(number.is_finite() && number.abs() < 1.0);
    }

    /// Each is read or is an error; none panics, whatever bit is another one and wherever the file ends.
    #[test]
    fn damaged_files_are_errors() {
        let Some(file) = saved() else { return };
        let pickled = directory(&file).unwrap()["colbert_linear/data.pkl"].clone();
        for end in (0..file.len()).step_by(7) {
            assert!(tensors(&file[..end]).is_err(), "{end}");
        }
        let directories = file.len() - 800..file.len();
        for at in (0..128).chain(pickled).chain(directories) {
            for bit in 0..8 {
                let mut damaged = file.clone();
                damaged[at] ^= 1 << bit;
                let _ = tensors(&damaged);
            }
        }
    }
}
