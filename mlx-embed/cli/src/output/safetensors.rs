//! safetensors: <https://github.com/huggingface/safetensors#format>. Eight bytes of header length, a JSON header that
//! may end in spaces, then the tensors without gaps.

use std::io;

use mlx_embed::Embedding;
use serde_json::json;

use super::encode::{self, Encode};

/// Bytes before the data, the length included: a multiple of 64, with room for any number of rows.
const HEADER: usize = 512;

/// Rows of `embeddings` are appended, and the header's row count follows. `tokens` and `truncated` lie behind
/// them, so they are kept (5 bytes a text) and written last: a file that is cut short holds `embeddings` alone.
#[derive(Debug)]
pub(super) struct Safetensors {
    dims: usize,
    /// Little-endian u32 for each text.
    tokens: Vec<u8>,
    /// 0 or 1 for each text.
    truncated: Vec<u8>,
}

impl Safetensors {
    pub(super) fn new(dims: usize) -> Self {
        Self { dims, tokens: Vec::new(), truncated: Vec::new() }
    }

    fn header(&self, with_all: bool) -> io::Result<Vec<u8>> {
        let rows = self.truncated.len();
        let tokens = rows * self.dims * 4;
        let truncated = tokens + self.tokens.len();
        let end = truncated + rows;
        let mut tensors = json!({
            "embeddings": { "dtype": "F32", "shape": [rows, self.dims], "data_offsets": [0, tokens] }
        });
        if with_all {
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

impl Encode for Safetensors {
    fn header(&self) -> io::Result<Vec<u8>> {
        self.header(false)
    }

    fn row(
        &mut self,
        _index: usize,
        _text: &str,
        embedding: &Embedding,
        bytes: &mut Vec<u8>,
    ) -> io::Result<()> {
        let tokens = u32::try_from(embedding.tokens).unwrap_or(u32::MAX);
        self.tokens.extend(tokens.to_le_bytes());
        self.truncated.push(embedding.truncated.into());
        encode::vector(embedding, bytes);
        Ok(())
    }

    fn end(&self) -> io::Result<(Vec<u8>, Vec<u8>)> {
        Ok((self.header(true)?, [&self.tokens[..], &self.truncated].concat()))
    }
}
