//! The weights files: which there are, and what their headers say.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype as FileDtype, SafeTensorError, TensorInfo};
use serde_json::Value;

use super::torch_file::{self, Stored};
use super::{CheckpointError, weights_files};
use crate::file::{Files, Foreign, check_header};
use crate::mlx::{Dtype, MappedFile};

/// Where a tensor lies.
#[derive(Debug, Clone)]
pub(super) struct TensorEntry {
    /// Index into [`TensorFiles::files`].
    pub(super) file: usize,
    pub(super) dtype: FileDtype,
    pub(super) shape: Vec<usize>,
    /// First byte, from the start of the file.
    pub(super) start: usize,
    pub(super) nbytes: usize,
}

impl TensorEntry {
    /// The type as MLX has it, if this crate computes with it.
    pub(super) fn mlx_dtype(&self) -> Option<Dtype> {
        Some(match self.dtype {
            FileDtype::U8 => Dtype::U8,
            FileDtype::U32 => Dtype::U32,
            FileDtype::F16 => Dtype::F16,
            FileDtype::BF16 => Dtype::Bf16,
            FileDtype::F32 => Dtype::F32,
            _ => return None,
        })
    }
}

/// All weights files of a checkpoint, mapped, and their tensors by name without a leading `model.`.
#[derive(Debug)]
pub(super) struct TensorFiles {
    pub(super) files: Vec<Arc<MappedFile>>,
    pub(super) tensors: BTreeMap<String, TensorEntry>,
}

impl TensorFiles {
    pub(super) fn open(files: &Files) -> Result<Self, CheckpointError> {
        let mut all = Self { files: Vec::new(), tensors: BTreeMap::new() };
        for name in weights_files::find(files)? {
            all.add(files, &name)?;
        }
        Ok(all)
    }

    /// Rows of the matrix `name`.
    pub(super) fn rows(&self, name: &str) -> Option<usize> {
        self.tensors.get(name)?.shape.first().copied()
    }

    fn add(&mut self, files: &Files, name: &str) -> Result<(), CheckpointError> {
        let path = &files.path(name);
        let file = MappedFile::of(files, name)
            .map_err(|source| CheckpointError::Io { path: path.clone(), source })?;
        let read = if weights_files::is_pickled(name) { of_state_dict } else { of_safetensors };
        for (name, Stored { dtype, shape, bytes }) in read(path, file.bytes())? {
            let entry =
                TensorEntry { file: self.files.len(), dtype, shape, start: bytes.start, nbytes: bytes.len() };
            let name_in_model = super::without_prefix(&name);
            if self.tensors.insert(name_in_model.to_owned(), entry).is_some() {
                return Err(CheckpointError::InvalidTensor {
                    path: path.to_owned(),
                    tensor: name,
                    reason: "appears twice in the checkpoint".into(),
                });
            }
        }
        self.files.push(Arc::new(file));
        Ok(())
    }
}

fn of_safetensors(path: &Path, bytes: &[u8]) -> Result<BTreeMap<String, Stored>, CheckpointError> {
    check_header(bytes)
        .map_err(|reason| CheckpointError::NotSafetensors { path: path.to_owned(), reason })?;
    let (header_len, metadata) =
        SafeTensors::read_metadata(bytes).map_err(|error| diagnose(path, bytes, &error))?;
    let data_start = size_of::<u64>() + header_len;
    let stored = |(name, info): (String, &TensorInfo)| {
        if let Some(reason) = too_deep(info.shape.len()) {
            return Err(CheckpointError::InvalidTensor { path: path.to_owned(), tensor: name, reason });
        }
        let (start, end) = info.data_offsets;
        let bytes = data_start + start..data_start + end;
        Ok((name, Stored { dtype: info.dtype, shape: info.shape.clone(), bytes }))
    };
    metadata.tensors().into_iter().map(stored).collect()
}

fn of_state_dict(path: &Path, bytes: &[u8]) -> Result<BTreeMap<String, Stored>, CheckpointError> {
    torch_file::tensors(bytes).map_err(|reason| {
        // What is no file of PyTorch's at all is better told as what it is.
        let foreign = Foreign::of(bytes).filter(|foreign| ![Foreign::Pickle, Foreign::Zip].contains(foreign));
        let reason = foreign.map_or(reason, |foreign| foreign.to_string());
        CheckpointError::NotStateDict { path: path.to_owned(), reason }
    })
}

/// Says what the safetensors library found, with the names that it leaves out.
#[cold]
fn diagnose(path: &Path, bytes: &[u8], error: &SafeTensorError) -> CheckpointError {
    let not_safetensors = |reason: String| CheckpointError::NotSafetensors { path: path.to_owned(), reason };
    let invalid = |tensor: &str, reason: String| CheckpointError::InvalidTensor {
        path: path.to_owned(),
        tensor: tensor.to_owned(),
        reason,
    };
    if let Some(foreign) = Foreign::of(bytes) {
        return not_safetensors(foreign.to_string());
    }
    let header_len = bytes.first_chunk::<8>().map_or(0, |length| u64::from_le_bytes(*length));
    match error {
        SafeTensorError::HeaderTooSmall => not_safetensors(format!(
            "the file has {} bytes, less than the header's length takes",
            bytes.len()
        )),
        SafeTensorError::HeaderTooLarge | SafeTensorError::InvalidHeaderLength => not_safetensors(format!(
            "the header is said to take {header_len} bytes, but the file has {}; it is truncated or something else",
            bytes.len()
        )),
        SafeTensorError::InvalidOffset(tensor) => {
            invalid(tensor, "its data offsets overlap another tensor's or leave a gap".into())
        }
        SafeTensorError::MetadataIncompleteBuffer => CheckpointError::WrongLength {
            path: path.to_owned(),
            expected: declared_length(bytes, header_len),
            found: bytes.len() as u64,
        },
        _ => match first_bad_tensor(bytes, header_len) {
            Some((tensor, reason)) => invalid(&tensor, reason),
            None => not_safetensors(error.to_string()),
        },
    }
}

fn header_object(bytes: &[u8], header_len: u64) -> Option<serde_json::Map<String, Value>> {
    let end = usize::try_from(header_len).ok()?.checked_add(8)?;
    match serde_json::from_slice(bytes.get(8..end)?).ok()? {
        Value::Object(tensors) => Some(tensors),
        _ => None,
    }
}

fn declared_length(bytes: &[u8], header_len: u64) -> u64 {
    let ends = header_object(bytes, header_len)
        .into_iter()
        .flatten()
        .filter_map(|(_, info)| info.get("data_offsets")?.get(1)?.as_u64());
    8 + header_len + ends.max().unwrap_or(0)
}

/// The tensor that the library's error is about, for the errors that don't name one.
fn first_bad_tensor(bytes: &[u8], header_len: u64) -> Option<(String, String)> {
    header_object(bytes, header_len)?
        .into_iter()
        .filter(|(name, _)| name != "__metadata__")
        .find_map(|(name, info)| bad_tensor(&info).map(|reason| (name, reason)))
}

/// Why a tensor of so many dimensions is not read, if it isn't.
fn too_deep(dimensions: usize) -> Option<String> {
    /// As many as arrays have.
    const MOST: usize = 32;
    (dimensions > MOST).then(|| format!("has {dimensions} dimensions, but at most {MOST} are read"))
}

fn bad_tensor(info: &Value) -> Option<String> {
    let dtype = info.get("dtype").and_then(Value::as_str)?;
    let Ok(parsed) = serde_json::from_value::<FileDtype>(Value::from(dtype)) else {
        return Some(format!("has the unknown dtype `{dtype}`"));
    };
    if let Some(reason) = info.get("shape")?.as_array().and_then(|shape| too_deep(shape.len())) {
        return Some(reason);
    }
    let shape: Option<Vec<u64>> = serde_json::from_value(info.get("shape")?.clone()).ok();
    let offsets: Option<(u64, u64)> = serde_json::from_value(info.get("data_offsets")?.clone()).ok();
    let (Some(shape), Some((start, end))) = (shape, offsets) else {
        return Some("its shape or data offsets are not whole numbers".into());
    };
    let bits = shape.iter().try_fold(parsed.bitsize() as u64, |product, &dim| product.checked_mul(dim));
    match bits {
        None => Some(format!("its shape {shape:?} is too large")),
        Some(bits) if end.checked_sub(start) != Some(bits / 8) || bits % 8 != 0 => {
            Some(format!("its data offsets {start}..{end} do not fit shape {shape:?} of {dtype}"))
        }
        Some(_) => None,
    }
}
