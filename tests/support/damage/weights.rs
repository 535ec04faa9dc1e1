//! Safetensors files taken apart, changed and put together again.

use std::collections::BTreeMap;

use arbitrary::Arbitrary;
use serde_json::{Map, Value, json};

const DTYPES: [&str; 12] =
    ["F32", "F16", "BF16", "U32", "U8", "I32", "F64", "BOOL", "I8", "F8_E4M3", "U64", "F4"];
const PARTS: [&str; 4] = ["weight", "scales", "biases", "bias"];
/// Bits that numbers of some type read as NaN, infinity, the largest or the smallest.
const ODD_BITS: [u32; 8] =
    [0x7fc0_0000, 0x7f80_0000, 0xff80_0000, 0x7f7f_ffff, 0x0000_0001, 0x7fff_7fff, 0x7c00_7c00, 0xffff_ffff];

/// A change to one tensor. Afterwards all tensors are laid out anew, so that the file as such stays valid.
#[derive(Debug, Arbitrary)]
pub(super) struct TensorEdit {
    tensor: u16,
    change: TensorChange,
}

#[derive(Debug, Arbitrary)]
enum TensorChange {
    Dtype(u8),
    /// One dimension set.
    Dim(u8, u32),
    /// One dimension times so much, another divided by it.
    Reshape(u8, u8, u8),
    PushDim(u8),
    PopDim,
    Remove,
    /// The part of a matrix that it is: `weight`, `scales`, ..
    Part(u8),
    /// What another tensor is.
    Copy(u16),
    /// Four bytes in it.
    Bits(u16, u8),
    /// All of it.
    Fill(u8),
}

#[derive(Debug, Clone)]
struct Tensor {
    dtype: String,
    shape: Vec<u64>,
    data: Vec<u8>,
}

/// The tensors of a file.
#[derive(Debug, Clone)]
pub(super) struct Tensors(BTreeMap<String, Tensor>);

impl Tensors {
    /// A valid file's.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        let length = u64::from_le_bytes(*bytes.first_chunk()?) as usize;
        let (header, data) = bytes.get(8..)?.split_at_checked(length)?;
        let header: Map<String, Value> = serde_json::from_slice(header).ok()?;
        let tensors = header.into_iter().filter(|(name, _)| name != "__metadata__").map(|(name, info)| {
            let offset = |index: usize| info["data_offsets"][index].as_u64().map(|offset| offset as usize);
            let tensor = Tensor {
                dtype: info["dtype"].as_str()?.to_owned(),
                shape: serde_json::from_value(info["shape"].clone()).ok()?,
                data: data.get(offset(0)?..offset(1)?)?.to_vec(),
            };
            Some((name, tensor))
        });
        tensors.collect::<Option<_>>().map(Self)
    }

    /// The edit, unless the file would grow beyond what a test should write.
    pub(super) fn apply(&mut self, edit: &TensorEdit) {
        let count = self.0.len();
        let nth = |index: u16| self.0.keys().nth(usize::from(index) % count.max(1)).cloned();
        let Some(name) = nth(edit.tensor) else { return };
        let Some(mut tensor) = self.0.get(&name).cloned() else { return };
        let rank = tensor.shape.len().max(1);
        match &edit.change {
            TensorChange::Dtype(dtype) => {
                DTYPES[usize::from(*dtype) % DTYPES.len()].clone_into(&mut tensor.dtype)
            }
            TensorChange::Dim(axis, dim) => {
                if let Some(old) = tensor.shape.get_mut(usize::from(*axis) % rank) {
                    *old = u64::from(*dim);
                }
            }
            TensorChange::Reshape(from, to, by) => {
                let (from, to, by) =
                    (usize::from(*from) % rank, usize::from(*to) % rank, u64::from(*by).max(1));
                if from < tensor.shape.len() && to < tensor.shape.len() {
                    tensor.shape[from] /= by;
                    tensor.shape[to] = tensor.shape[to].saturating_mul(by);
                }
            }
            TensorChange::PushDim(dim) => tensor.shape.push(u64::from(*dim)),
            TensorChange::PopDim => drop(tensor.shape.pop()),
            TensorChange::Remove => {
                self.0.remove(&name);
                return;
            }
            TensorChange::Part(part) => {
                let path = name.rsplit_once('.').map_or(name.as_str(), |(path, _)| path);
                let renamed = format!("{path}.{}", PARTS[usize::from(*part) % PARTS.len()]);
                self.0.remove(&name);
                self.0.insert(renamed, tensor);
                return;
            }
            TensorChange::Copy(other) => {
                if let Some(other) = nth(*other).and_then(|other| self.0.get(&other)) {
                    tensor = other.clone();
                }
            }
            TensorChange::Bits(at, bits) => {
                let words = tensor.data.as_chunks_mut::<4>().0;
                if let Some(last) = words.len().checked_sub(1) {
                    words[usize::from(*at) % (last + 1)] = odd_bits(*bits);
                }
            }
            TensorChange::Fill(bits) => tensor.data.as_chunks_mut::<4>().0.fill(odd_bits(*bits)),
        }
        if tensor.nbytes().is_some_and(|nbytes| nbytes <= 1 << 20) {
            self.0.insert(name, tensor);
        }
    }

    /// The file. Each tensor's data is repeated or cut to what its shape asks for.
    pub(super) fn file(&self) -> Vec<u8> {
        let mut header = Map::new();
        let mut data = Vec::new();
        for (name, tensor) in &self.0 {
            let start = data.len();
            let nbytes = tensor.nbytes().unwrap_or(tensor.data.len());
            data.extend(tensor.data.iter().copied().cycle().take(nbytes));
            data.resize(start + nbytes, 0);
            header.insert(
                name.clone(),
                json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, data.len()]}),
            );
        }
        file(Value::Object(header).to_string().as_bytes(), &data)
    }
}

impl Tensor {
    fn nbytes(&self) -> Option<usize> {
        let bits: u64 = match self.dtype.as_str() {
            "F4" => 4,
            "U8" | "I8" | "BOOL" | "F8_E4M3" => 8,
            "F16" | "BF16" => 16,
            "F64" | "U64" => 64,
            _ => 32,
        };
        let bits = self.shape.iter().try_fold(bits, |product, &dim| product.checked_mul(dim))?;
        usize::try_from(bits / 8).ok()
    }
}

fn odd_bits(index: u8) -> [u8; 4] {
    ODD_BITS[usize::from(index) % ODD_BITS.len()].to_le_bytes()
}

/// A header and data, whatever they are, with the header's length before them.
pub(super) fn file(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header, data].concat()
}

/// What follows a valid file's header.
pub(super) fn data(bytes: &[u8]) -> &[u8] {
    let length = bytes.first_chunk().map_or(0, |length| u64::from_le_bytes(*length) as usize);
    bytes.get(8 + length..).unwrap_or_default()
}
