//! Files of `torch.save` that hold a state dict of plain tensors: a zip archive whose files are stored as they are, one of
//! which, `data.pkl`, says in Python's pickle format what the others hold.
//!
//! Nothing that a pickle may name is run: it may name what such a state dict is made of, and anything else is an error.

mod pickle;

use std::collections::BTreeMap;
use std::ops::Range;

use safetensors::tensor::Dtype;

use crate::file::Parts;

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
pub(super) fn tensors(file: &(impl Parts + ?Sized)) -> Result<BTreeMap<String, Stored>, String> {
    let part = |range| file.part(range).map_err(|error| error.to_string());
    let files = directory(file)?;
    let pickled = files.iter().find(|(name, _)| *name == "data.pkl" || name.ends_with("/data.pkl"));
    let Some((name, pickled)) = pickled else {
        return Err("is no file of torch.save: it has no data.pkl".into());
    };
    let root = name.strip_suffix("data.pkl").unwrap_or_default();
    let of_root = |name: &str| files.get(format!("{root}{name}").as_str()).cloned();
    const LITTLE: &[u8] = b"little";
    if let Some(order) = of_root("byteorder")
        && (order.len() != LITTLE.len() || *part(order)? != *LITTLE)
    {
        return Err("holds numbers that are not little-endian".into());
    }
    pickle::check_length(pickled.len())?;
    let mut all = BTreeMap::new();
    for (name, tensor) in pickle::tensors(&part(pickled.clone())?)? {
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
fn directory(file: &(impl Parts + ?Sized)) -> Result<BTreeMap<String, Range<usize>>, String> {
    let damaged =
        || "is no zip archive as torch.save writes it since version 1.6, or is cut short".to_owned();
    // So many bytes, which have to be there.
    let part = |start: usize, bytes: usize| {
        let end = start.checked_add(bytes).filter(|&end| end <= file.len()).ok_or_else(damaged)?;
        file.part(start..end).map_err(|error| error.to_string())
    };
    let tail = file.len().min(END_BYTES + LONGEST_COMMENT);
    let tail = part(file.len() - tail, tail)?;
    let last = tail.len().checked_sub(END_BYTES).ok_or_else(damaged)?;
    let end = (0..=last).rev().find(|&at| tail[at..].starts_with(END)).ok_or_else(damaged)?;
    let (count, mut at) = (short(&tail, end + 10), long(&tail, end + 16));
    let mut files = BTreeMap::new();
    for _ in 0..count {
        let entry = part(at, ENTRY_BYTES)?;
        if !entry.starts_with(ENTRY) {
            return Err(damaged());
        }
        let (method, packed, size) = (short(&entry, 10), long(&entry, 20), long(&entry, 24));
        let [name_bytes, extra, comment] = [28, 30, 32].map(|at| short(&entry, at));
        let name = part(at + ENTRY_BYTES, name_bytes)?;
        let name = std::str::from_utf8(&name).map_err(|_| damaged())?.to_owned();
        if method != 0 || packed != size {
            return Err(format!("has the compressed file {name}; torch.save doesn't compress"));
        }
        let local = long(&entry, 42);
        if [size, local].contains(&BEYOND) {
            return Err(format!("has more than 4 GiB, of which {name} is one part; such files are not read"));
        }
        let head = part(local, LOCAL_BYTES)?;
        if !head.starts_with(LOCAL) {
            return Err(damaged());
        }
        let start = local + LOCAL_BYTES + short(&head, 26) + short(&head, 28);
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
        let found = tensors(&file[..]).unwrap();
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
        let pickled = directory(&file[..]).unwrap()["colbert_linear/data.pkl"].clone();
        for end in (0..file.len()).step_by(7) {
            assert!(tensors(&file[..end]).is_err(), "{end}");
        }
        let directories = file.len() - 800..file.len();
        for at in (0..128).chain(pickled).chain(directories) {
            for bit in 0..8 {
                let mut damaged = file.clone();
                damaged[at] ^= 1 << bit;
                let _ = tensors(&damaged[..]);
            }
        }
    }
}
