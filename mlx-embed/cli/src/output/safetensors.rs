//! safetensors: <https://github.com/huggingface/safetensors#format>. Eight bytes of header length, a JSON header that
//! may end in spaces, then the tensors without gaps.

use std::fs::File;
use std::io::{self, BufWriter, Write};

use mlx_embed::Embedding;
use serde_json::json;

use super::{Sink, write_header, write_vectors};

/// Bytes before the data, the length included: a multiple of 64, with room for any number of rows.
const HEADER: usize = 512;

/// Rows of `embeddings` are appended, and the header's row count follows. `tokens` and `truncated` lie behind
/// them, so they are kept (5 bytes a text) and written last: an interrupted job leaves `embeddings` alone.
pub(super) struct Safetensors {
    file: BufWriter<File>,
    dims: usize,
    /// Little-endian u32 for each text.
    tokens: Vec<u8>,
    /// 0 or 1 for each text.
    truncated: Vec<u8>,
}

impl Safetensors {
    pub(super) fn new(file: File, dims: usize) -> io::Result<Self> {
        let mut output = Self { file: BufWriter::new(file), dims, tokens: Vec::new(), truncated: Vec::new() };
        let header = output.header(false)?;
        write_header(&mut output.file, &header)?;
        Ok(output)
    }

    fn header(&self, finished: bool) -> io::Result<Vec<u8>> {
        let rows = self.truncated.len();
        let tokens = rows * self.dims * 4;
        let truncated = tokens + self.tokens.len();
        let end = truncated + rows;
        let mut tensors = json!({
            "embeddings": { "dtype": "F32", "shape": [rows, self.dims], "data_offsets": [0, tokens] }
        });
        if finished {
            tensors["tokens"] =
                json!({ "dtype": "U32", "shape": [rows], "data_offsets": [tokens, truncated] });
            tensors["truncated"] =
                json!({ "dtype": "BOOL", "shape": [rows], "data_offsets": [truncated, end] });
        }
        let mut header = ((HEADER - 8) as u64).to_le_bytes().to_vec();
        serde_json::to_writer(&mut header, &tensors)?;
        header.resize(HEADER, b' ');
        Ok(header)
    }
}

impl Sink for Safetensors {
    fn write(&mut self, _first: usize, _texts: &[String], embeddings: &[Embedding]) -> io::Result<()> {
        write_vectors(&mut self.file, embeddings)?;
        for embedding in embeddings {
            let tokens = u32::try_from(embedding.tokens).unwrap_or(u32::MAX);
            self.tokens.extend(tokens.to_le_bytes());
            self.truncated.push(embedding.truncated.into());
        }
        let header = self.header(false)?;
        write_header(&mut self.file, &header)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.file.write_all(&self.tokens)?;
        self.file.write_all(&self.truncated)?;
        let header = self.header(true)?;
        write_header(&mut self.file, &header)
    }
}
