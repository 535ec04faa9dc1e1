//! The ranges of int8 vectors, from a file that `embed --dtype int8` has written: safetensors or Parquet.

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use serde::Deserialize;

use super::numbers::Ranges;
use crate::error::CliError;

/// Headers with more bytes are no file of `embed`'s.
const LONGEST: u64 = 1 << 20;

/// The file's ranges, for vectors of `dims` numbers.
pub(super) fn read(path: &Path, dims: usize) -> Result<Ranges, CliError> {
    let refuse = |why: String| CliError::Usage(format!("--ranges {}: {why}", path.display()));
    let mut file = open(path).map_err(|error| refuse(error.to_string()))?;
    let mut start = [0; 4];
    let is_parquet = file.read_exact(&mut start).is_ok() && start == *b"PAR1";
    file.rewind().map_err(|error| refuse(error.to_string()))?;
    let ranges = if is_parquet { of_parquet(&file) } else { of_safetensors(&mut file) };
    ranges.and_then(|ranges| Ranges::new(ranges, dims)).map_err(refuse)
}

/// Opens a regular file; of a pipe the other end is not waited for.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("not a regular file")) }
}

/// What is said of a file without ranges.
const NO_RANGES: &str =
    "it has no `ranges`; take a file that --dtype int8 has written as safetensors or Parquet";

/// The least and the largest numbers, as safetensors keep them.
fn of_safetensors(file: &mut File) -> Result<[Vec<f32>; 2], String> {
    let (header, start) = header(file).map_err(|error| format!("no safetensors: {error}"))?;
    let Some(Tensor { dtype, shape, data_offsets }) = header.ranges else { return Err(NO_RANGES.to_owned()) };
    let [from, to] = data_offsets;
    let dims = match shape[..] {
        [2, dims] if dtype == "F32" && to.checked_sub(from) == (dims as u64).checked_mul(8) => dims,
        _ => return Err(format!("`ranges` is {dtype} {shape:?}, and F32 [2, dims] is wanted")),
    };
    if dims > LONGEST as usize {
        return Err(format!("`ranges` is of {dims} dimensions, which no model has"));
    }
    let mut bytes = vec![0; 8 * dims];
    file.seek(SeekFrom::Start(start.saturating_add(from)))
        .and_then(|_| file.read_exact(&mut bytes))
        .map_err(|error| format!("`ranges` can't be read: {error}"))?;
    let numbers: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let (least, largest) = numbers.split_at(dims);
    Ok([least.to_vec(), largest.to_vec()])
}

/// The same as Parquet keeps them.
#[cfg(feature = "parquet")]
fn of_parquet(file: &File) -> Result<[Vec<f32>; 2], String> {
    let kept = super::parquet::ranges_in(file).map_err(|error| error.to_string())?;
    serde_json::from_str(&kept.ok_or(NO_RANGES)?).map_err(|error| format!("`ranges` can't be read: {error}"))
}

#[cfg(not(feature = "parquet"))]
fn of_parquet(_: &File) -> Result<[Vec<f32>; 2], String> {
    Err(crate::error::WITHOUT_PARQUET.to_owned())
}

/// What of a safetensors file's header is of interest.
#[derive(Deserialize)]
struct Header {
    ranges: Option<Tensor>,
}

#[derive(Deserialize)]
struct Tensor {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

/// A safetensors file's header, and where its tensors start.
fn header(file: &mut File) -> Result<(Header, u64), Box<dyn Error>> {
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > LONGEST {
        return Err(format!("its header has {length} bytes").into());
    }
    Ok((serde_json::from_reader(file.take(length))?, 8 + length))
}
