//! safetensors: <https://github.com/huggingface/safetensors#format>. Eight bytes of header length, a JSON header that
//! may end in spaces, then the tensors without gaps.

use std::io;

use serde_json::{Value, json};

use super::encode::Encode;
use super::npy;
use super::numbers::Numbers;
use crate::found::Found;
use crate::row::Row;

/// Bytes before the data, the length included: a multiple of 64, with room for any number of rows.
const HEADER: usize = 512;

/// Rows of `embeddings` are appended. `tokens` and `truncated` lie behind them, so they are kept (5 bytes a text) and
/// written last: a file that is cut short holds `embeddings` alone.
///
/// Bytes within ranges have these before the rows, as `ranges`.
///
/// Every byte of a file belongs to a tensor, so a file that grows would be none between the write of its rows and that of
/// its header. Until it ends it is NumPy's, with a header as long, which lets more bytes pass than it counts.
#[derive(Debug)]
pub(super) struct Safetensors {
    numbers: Numbers,
    /// Little-endian u32 for each text.
    tokens: Vec<u8>,
    /// 0 or 1 for each text.
    truncated: Vec<u8>,
}

impl Safetensors {
    pub(super) fn new(numbers: Numbers) -> Self {
        Self { numbers, tokens: Vec::new(), truncated: Vec::new() }
    }

    fn rows(&self) -> usize {
        self.truncated.len()
    }

    /// Where the rows end, from the first tensor's start.
    fn end_of_rows(&self) -> usize {
        self.numbers.ranges().len() + self.rows() * self.numbers.columns() * self.numbers.size()
    }

    /// The header of a file of the rows, and of `others` behind them; and the ranges, which are always there.
    fn header_with(&self, others: &[(&str, Value)]) -> io::Result<Vec<u8>> {
        let (ranges, columns) = (self.numbers.ranges(), self.numbers.columns());
        let [_, dtype] = self.numbers.names();
        let offsets = [ranges.len(), self.end_of_rows()];
        let mut tensors = json!({
            "embeddings": { "dtype": dtype, "shape": [self.rows(), columns], "data_offsets": offsets }
        });
        if !ranges.is_empty() {
            tensors["ranges"] =
                json!({ "dtype": "F32", "shape": [2, columns], "data_offsets": [0, ranges.len()] });
        }
        for (name, tensor) in others {
            tensors[*name] = tensor.clone();
        }
        let mut header = ((HEADER - 8) as u64).to_le_bytes().to_vec();
        serde_json::to_writer(&mut header, &tensors)?;
        header.resize(HEADER, b' ');
        header.extend(ranges);
        Ok(header)
    }
}

impl Encode for Safetensors {
    fn header(&self) -> io::Result<Vec<u8>> {
        Ok(npy::header(self.rows(), &self.numbers, HEADER + self.numbers.ranges().len()))
    }

    fn header_without_tail(&self) -> io::Result<Vec<u8>> {
        self.header_with(&[])
    }

    fn prepare(&mut self, rows: &[Row]) {
        self.numbers.prepare(rows);
    }

    fn row(&mut self, _row: &Row, found: &Found, bytes: &mut Vec<u8>) -> io::Result<()> {
        let tokens = u32::try_from(found.tokens()).unwrap_or(u32::MAX);
        self.tokens.extend(tokens.to_le_bytes());
        self.truncated.push(found.truncated().into());
        self.numbers.write(found, bytes);
        Ok(())
    }

    fn end(&self) -> io::Result<(Vec<u8>, Vec<u8>)> {
        let rows = self.rows();
        let start = self.end_of_rows();
        let middle = start + self.tokens.len();
        let tokens = json!({ "dtype": "U32", "shape": [rows], "data_offsets": [start, middle] });
        let truncated = json!({ "dtype": "BOOL", "shape": [rows], "data_offsets": [middle, middle + rows] });
        let header = self.header_with(&[("tokens", tokens), ("truncated", truncated)])?;
        Ok((header, [&self.tokens[..], &self.truncated].concat()))
    }
}
