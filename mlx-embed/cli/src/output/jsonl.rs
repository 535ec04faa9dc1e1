//! JSONL: an object a line. Numbers are the shortest that read back as the same f32.

use std::io;

use mlx_embed::Embedding;
use serde::Serialize;

use super::encode::Encode;

#[derive(Debug)]
pub(super) struct Jsonl {
    pub(super) with_text: bool,
}

#[derive(Serialize)]
struct Line<'a> {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    tokens: usize,
    truncated: bool,
    embedding: &'a [f32],
}

impl Encode for Jsonl {
    fn row(
        &mut self,
        index: usize,
        text: &str,
        embedding: &Embedding,
        bytes: &mut Vec<u8>,
    ) -> io::Result<()> {
        let line = Line {
            index,
            text: self.with_text.then_some(text),
            tokens: embedding.tokens,
            truncated: embedding.truncated,
            embedding: &embedding.vector,
        };
        serde_json::to_writer(&mut *bytes, &line)?;
        bytes.push(b'\n');
        Ok(())
    }
}
