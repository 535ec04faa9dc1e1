//! Rows into a file, a window at a time: what can't be written whole is taken back.

use std::fmt;
use std::io;

use mlx_embed::Embedding;

use super::encode::{self, Encode};
use super::new_file::NewFile;

/// Bytes that are written at once.
const CHUNK: usize = 256 << 10;

/// A file with its format.
pub(super) struct Rows {
    file: NewFile,
    format: Box<dyn Encode>,
    /// Header and length of the whole windows.
    header: Vec<u8>,
    whole: u64,
    bytes: Vec<u8>,
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows").field("file", &self.file).field("whole", &self.whole).finish_non_exhaustive()
    }
}

impl Rows {
    pub(super) fn new(mut file: NewFile, format: Box<dyn Encode>) -> io::Result<Self> {
        let header = format.header()?;
        file.append(&header)?;
        let whole = file.len();
        Ok(Self { file, format, header, whole, bytes: Vec::new() })
    }

    pub(super) fn file(&self) -> &NewFile {
        &self.file
    }

    /// Writes a window; after an error the file holds the windows before it.
    pub(super) fn write(
        &mut self,
        first: usize,
        texts: &[String],
        embeddings: &[Embedding],
    ) -> io::Result<()> {
        let written = self
            .make_room(encode::vectors_len(embeddings))
            .and_then(|()| self.append(first, texts, embeddings))
            .and_then(|()| self.complete(self.format.header()?));
        written.inspect_err(|_| self.take_back())
    }

    /// Writes what stands behind the last row; after an error the file is what it was.
    pub(super) fn end(&mut self) -> io::Result<()> {
        let (header, tail) = self.format.end()?;
        let written = self
            .make_room(tail.len() as u64)
            .and_then(|()| self.file.append(&tail))
            .and_then(|()| self.complete(header));
        written.inspect_err(|_| self.take_back())
    }

    /// Gives the file its name.
    pub(super) fn publish(self) -> io::Result<()> {
        self.file.publish()
    }

    /// Has the file be as long as it will be, with a header that says so, before rows come: whatever ends the program while
    /// they are written leaves a file that opens. The length and the header are two calls, so between them it doesn't.
    fn make_room(&mut self, bytes: u64) -> io::Result<()> {
        match self.format.header_with_room(bytes)? {
            Some(header) if bytes > 0 => {
                self.file.make_room(bytes)?;
                self.file.overwrite(&header)
            }
            _ => Ok(()),
        }
    }

    fn append(&mut self, first: usize, texts: &[String], embeddings: &[Embedding]) -> io::Result<()> {
        self.bytes.clear();
        for (offset, (text, embedding)) in texts.iter().zip(embeddings).enumerate() {
            self.format.row(first + offset, text, embedding, &mut self.bytes)?;
            if self.bytes.len() >= CHUNK {
                self.file.append(&self.bytes)?;
                self.bytes.clear();
            }
        }
        self.file.append(&self.bytes)
    }

    fn complete(&mut self, header: Vec<u8>) -> io::Result<()> {
        // The rows first: a header that counts rows which aren't there would make the file unreadable.
        self.file.overwrite(&header)?;
        self.header = header;
        if self.file.len() > self.whole {
            self.file.keep();
        }
        self.whole = self.file.len();
        Ok(())
    }

    fn take_back(&mut self) {
        // Nothing more can be done where this fails too. The header first: with the one that stands, the file opens as
        // long as it is.
        let _ = self.file.overwrite(&self.header).and_then(|()| self.file.cut(self.whole));
    }
}
