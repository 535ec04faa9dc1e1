//! How a format writes rows: bytes, of which the files know no more.

use std::io;

use mlx_embed::Embedding;

/// A format. A file of it is its header, its rows and its tail.
pub(super) trait Encode {
    /// What stands at the start of a file that holds the rows so far, with no tail. Always of one length.
    fn header(&self) -> io::Result<Vec<u8>> {
        Ok(Vec::new())
    }

    /// The same for a file in which `room` bytes that mean nothing yet stand behind the rows, where readers want a file to
    /// be as long as its header says.
    fn header_with_room(&self, _room: u64) -> io::Result<Option<Vec<u8>>> {
        Ok(None)
    }

    /// Appends the row of text `index` to `bytes`.
    fn row(&mut self, index: usize, text: &str, embedding: &Embedding, bytes: &mut Vec<u8>)
    -> io::Result<()>;

    /// The header of the whole file, and what stands behind the last row.
    fn end(&self) -> io::Result<(Vec<u8>, Vec<u8>)> {
        Ok((self.header()?, Vec::new()))
    }
}

/// Appends a vector as little-endian f32.
pub(super) fn vector(embedding: &Embedding, bytes: &mut Vec<u8>) {
    bytes.extend(embedding.vector.iter().flat_map(|number| number.to_le_bytes()));
}

/// How many bytes [`vector`] makes of these.
pub(super) fn vectors_len(embeddings: &[Embedding]) -> u64 {
    embeddings.iter().map(|embedding| size_of_val(&embedding.vector[..]) as u64).sum()
}
