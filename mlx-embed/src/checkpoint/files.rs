//! The weights files: which there are, and what their headers say.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use safetensors::tensor::{Dtype as FileDtype, SafeTensorError, TensorInfo};
use serde_json::Value;

use super::adapter::LowRank;
use super::torch_file::{self, Stored};
use super::{CheckpointError, weights_files};
use crate::file::{Files, Foreign, OpenFile, Parts, safetensors_head, safetensors_header};
use crate::mlx::Dtype;

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
    /// What is added to it as it is read.
    pub(super) adapter: Option<Arc<LowRank>>,
}

impl TensorEntry {
    /// Of what is stored in the file with this index.
    pub(super) fn of(Stored { dtype, shape, bytes }: Stored, file: usize) -> Self {
        Self { file, dtype, shape, start: bytes.start, nbytes: bytes.len(), adapter: None }
    }

    /// The type as MLX has it, if this crate computes with it.
    pub(super) fn mlx_dtype(&self) -> Option<Dtype> {
        Some(match self.dtype {
            FileDtype::U8 => Dtype::U8,
            FileDtype::I8 => Dtype::I8,
            FileDtype::U32 => Dtype::U32,
            FileDtype::F16 => Dtype::F16,
            FileDtype::BF16 => Dtype::Bf16,
            FileDtype::F32 => Dtype::F32,
            _ => return None,
        })
    }
}

/// All weights files of a checkpoint, open, and their tensors by name without a leading `model.`.
#[derive(Debug)]
pub(super) struct TensorFiles {
    pub(super) files: Vec<Arc<OpenFile>>,
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

    /// A weights file, and what it holds by the names in it.
    pub(super) fn read(
        files: &Files,
        name: &str,
    ) -> Result<(Arc<OpenFile>, BTreeMap<String, Stored>), CheckpointError> {
        let path = files.path(name);
        let file =
            OpenFile::of(files, name).map_err(|source| CheckpointError::Io { path: path.clone(), source })?;
        let read = if weights_files::is_pickled(name) { of_state_dict } else { of_safetensors };
        let tensors = read(&path, &file)?;
        Ok((Arc::new(file), tensors))
    }

    fn add(&mut self, files: &Files, name: &str) -> Result<(), CheckpointError> {
        let (file, tensors) = Self::read(files, name)?;
        for (name, stored) in tensors {
            let entry = TensorEntry::of(stored, self.files.len());
            let name_in_model = super::without_prefix(&name);
            if self.tensors.insert(name_in_model.to_owned(), entry).is_some() {
                return Err(CheckpointError::InvalidTensor {
                    path: file.path().to_owned(),
                    tensor: name,
                    reason: "appears twice in the checkpoint".into(),
                });
            }
        }
        self.files.push(file);
        Ok(())
    }
}

fn of_safetensors(path: &Path, file: &OpenFile) -> Result<BTreeMap<String, Stored>, CheckpointError> {
    let head = safetensors_head(file).map_err(|source| match source.kind() {
        io::ErrorKind::InvalidData => {
            CheckpointError::NotSafetensors { path: path.to_owned(), reason: source.to_string() }
        }
        _ => CheckpointError::Io { path: path.to_owned(), source },
    })?;
    let length = file.len();
    let metadata = safetensors_header(&head).map_err(|error| diagnose(path, &head, length, error))?;
    if head.len() + metadata.data_len() != length {
        return Err(CheckpointError::WrongLength {
            path: path.to_owned(),
            expected: (head.len() + metadata.data_len()) as u64,
            found: length as u64,
        });
    }
    let stored = |(name, info): (String, &TensorInfo)| {
        if let Some(reason) = too_deep(info.shape.len()) {
            return Err(CheckpointError::InvalidTensor { path: path.to_owned(), tensor: name, reason });
        }
        let (start, end) = info.data_offsets;
        Ok((
            name,
            Stored {
                dtype: info.dtype,
                shape: info.shape.clone(),
                bytes: head.len() + start..head.len() + end,
            },
        ))
    };
    metadata.tensors().into_iter().map(stored).collect()
}

fn of_state_dict(path: &Path, file: &OpenFile) -> Result<BTreeMap<String, Stored>, CheckpointError> {
    torch_file::tensors(file).map_err(|reason| {
        // What is no file of PyTorch's at all is better told as what it is.
        let first = file.part(0..file.len().min(Foreign::BYTES)).unwrap_or_default();
        let foreign =
            Foreign::of(&first).filter(|foreign| ![Foreign::Pickle, Foreign::Zip].contains(foreign));
        let reason = foreign.map_or(reason, |foreign| foreign.to_string());
        CheckpointError::NotStateDict { path: path.to_owned(), reason }
    })
}

/// Says what is wrong with a header, with the names that the safetensors library leaves out. `head` is the file's first
/// bytes, of `length`.
#[cold]
fn diagnose(path: &Path, head: &[u8], length: usize, error: SafeTensorError) -> CheckpointError {
    let not_safetensors = |reason: String| CheckpointError::NotSafetensors { path: path.to_owned(), reason };
    let invalid = |tensor: &str, reason: String| CheckpointError::InvalidTensor {
        path: path.to_owned(),
        tensor: tensor.to_owned(),
        reason,
    };
    if let Some(foreign) = Foreign::of(head) {
        return not_safetensors(foreign.to_string());
    }
    match error {
        SafeTensorError::HeaderTooSmall => {
            not_safetensors(format!("the file has {length} bytes, less than the header's length takes"))
        }
        SafeTensorError::HeaderTooLarge | SafeTensorError::InvalidHeaderLength => not_safetensors(format!(
            "the header is said to take {} bytes, but the file has {length}; it is truncated or something else",
            head.first_chunk::<HEAD>().map_or(0, |length| u64::from_le_bytes(*length))
        )),
        SafeTensorError::InvalidOffset(tensor) => {
            invalid(&tensor, "its data offsets overlap another tensor's or leave a gap".into())
        }
        _ => match first_bad_tensor(head) {
            Some((tensor, reason)) => invalid(&tensor, reason),
            None => not_safetensors(error.to_string()),
        },
    }
}

/// Bytes that say how long the header is.
const HEAD: usize = size_of::<u64>();

/// The tensor that the library's error is about, for the errors that don't name one.
fn first_bad_tensor(head: &[u8]) -> Option<(String, String)> {
    let Value::Object(tensors) = serde_json::from_slice(head.get(HEAD..)?).ok()? else { return None };
    tensors
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
