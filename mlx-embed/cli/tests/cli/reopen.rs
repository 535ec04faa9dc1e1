//! Output files as another program reads them.

use std::path::Path;

use safetensors::{Dtype, SafeTensors};

use crate::support::{floats, rows};

/// The matrix of a file.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) rows: usize,
    pub(crate) dims: usize,
    pub(crate) vectors: Vec<f32>,
}

/// Reads a file's bytes as the name says, or says why they can't be read.
pub(crate) fn opened(name: &Path, bytes: &[u8]) -> Result<Opened, String> {
    match name.extension().and_then(|end| end.to_str()) {
        Some("npy") => npy(bytes),
        Some("safetensors") => tensors(bytes),
        _ => jsonl(bytes),
    }
}

/// Reads what stands in the partial file of `name`: until its last write that of safetensors is NumPy's.
pub(crate) fn opened_partial(name: &Path, bytes: &[u8]) -> Result<Opened, String> {
    if bytes.starts_with(NUMPY) { npy(bytes) } else { opened(name, bytes) }
}

const NUMPY: &[u8] = b"\x93NUMPY\x01\x00";

/// As `numpy.load` does: a header of Python's literals, then as many numbers as the shape says.
fn npy(bytes: &[u8]) -> Result<Opened, String> {
    let rest = bytes.strip_prefix(NUMPY).ok_or("no magic")?;
    let (length, rest) = rest.split_first_chunk::<2>().ok_or("no length")?;
    let (header, data) = rest.split_at_checked(u16::from_le_bytes(*length).into()).ok_or("no header")?;
    let header = std::str::from_utf8(header).map_err(|error| error.to_string())?;
    if !header.ends_with('\n') || !(bytes.len() - data.len()).is_multiple_of(64) {
        return Err("the header is not padded".into());
    }
    for part in ["'descr': '<f4'", "'fortran_order': False"] {
        if !header.contains(part) {
            return Err(format!("no {part} in {header}"));
        }
    }
    let shape =
        header.split("'shape': (").nth(1).and_then(|rest| rest.split(')').next()).ok_or("no shape")?;
    let sizes: Vec<usize> = shape.split(',').filter_map(|size| size.trim().parse().ok()).collect();
    let [rows, dims] = sizes[..] else { return Err(format!("shape ({shape})")) };
    // numpy lets more bytes pass, fewer not.
    let data = data.get(..rows * dims * 4).ok_or("fewer numbers than the shape says")?;
    Ok(Opened { rows, dims, vectors: floats(data) })
}

fn tensors(bytes: &[u8]) -> Result<Opened, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    let embeddings = file.tensor("embeddings").map_err(|error| error.to_string())?;
    let &[rows, dims] = embeddings.shape() else { return Err(format!("shape {:?}", embeddings.shape())) };
    if embeddings.dtype() != Dtype::F32 {
        return Err(format!("{:?}", embeddings.dtype()));
    }
    for name in ["tokens", "truncated"] {
        if file.tensor(name).is_ok_and(|tensor| tensor.shape() != [rows]) {
            return Err(format!("{name} has another shape"));
        }
    }
    Ok(Opened { rows, dims, vectors: floats(embeddings.data()) })
}

fn jsonl(bytes: &[u8]) -> Result<Opened, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    if !text.is_empty() && !text.ends_with('\n') {
        return Err("the last line is cut".into());
    }
    let rows = rows(text);
    let dims = rows.first().map_or(0, |row| row.embedding.len());
    Ok(Opened { rows: rows.len(), dims, vectors: rows.into_iter().flat_map(|row| row.embedding).collect() })
}
