//! JSONL: an object a line. Numbers are the shortest that read back as the same f32.

use std::io;

use serde::Serialize;

use super::encode::Encode;
use crate::found::Found;
use crate::row::Row;

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
    #[serde(flatten)]
    numbers: Numbers<'a>,
}

/// What the line is about, by the names of its fields.
#[derive(Serialize)]
#[serde(untagged)]
enum Numbers<'a> {
    Vector { embedding: &'a [f32] },
    Sparse { indices: Vec<u32>, values: Vec<f32> },
    Tokens { token_ids: &'a [u32], embeddings: Vec<&'a [f32]> },
}

impl<'a> Numbers<'a> {
    fn of(found: &'a Found) -> Self {
        match found {
            Found::Vector(found) => Self::Vector { embedding: &found.vector },
            Found::Sparse(found) => {
                let (indices, values) = found.weights.iter().copied().unzip();
                Self::Sparse { indices, values }
            }
            Found::Tokens(found) => {
                Self::Tokens { token_ids: &found.token_ids, embeddings: found.rows().collect() }
            }
        }
    }
}

impl Encode for Jsonl {
    fn row(&mut self, row: &Row, found: &Found, bytes: &mut Vec<u8>) -> io::Result<()> {
        let line = Line {
            index: row.index,
            text: row.text.as_deref().filter(|_| self.with_text),
            tokens: found.tokens(),
            truncated: found.truncated(),
            numbers: Numbers::of(found),
        };
        serde_json::to_writer(&mut *bytes, &line)?;
        bytes.push(b'\n');
        Ok(())
    }
}
