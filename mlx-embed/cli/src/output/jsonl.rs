//! JSONL: an object a line. Numbers are the shortest that read back as the same f32.

use std::io::{self, BufWriter, Write};

use mlx_embed::Embedding;
use serde::Serialize;

use super::Sink;

pub(super) struct Jsonl<W: Write> {
    writer: BufWriter<W>,
    with_text: bool,
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

impl<W: Write> Jsonl<W> {
    pub(super) fn new(writer: W, with_text: bool) -> Self {
        Self { writer: BufWriter::with_capacity(64 << 10, writer), with_text }
    }
}

impl<W: Write> Sink for Jsonl<W> {
    fn write(&mut self, first: usize, texts: &[String], embeddings: &[Embedding]) -> io::Result<()> {
        for (offset, (text, embedding)) in texts.iter().zip(embeddings).enumerate() {
            let line = Line {
                index: first + offset,
                text: self.with_text.then_some(text),
                tokens: embedding.tokens,
                truncated: embedding.truncated,
                embedding: &embedding.vector,
            };
            serde_json::to_writer(&mut self.writer, &line)?;
            self.writer.write_all(b"\n")?;
        }
        self.writer.flush()
    }
}
