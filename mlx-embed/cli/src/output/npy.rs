//! NumPy's `.npy`, format version 1.0: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.

use std::fs::File;
use std::io::{self, BufWriter};

use mlx_embed::Embedding;

use super::{Sink, write_header, write_vectors};

/// Bytes before the data: a multiple of 64, with room for any number of rows.
const HEADER: usize = 128;

/// Rows are appended, and the header's row count follows.
pub(super) struct Npy {
    file: BufWriter<File>,
    rows: usize,
    dims: usize,
}

impl Npy {
    pub(super) fn new(file: File, dims: usize) -> io::Result<Self> {
        let mut npy = Self { file: BufWriter::new(file), rows: 0, dims };
        write_header(&mut npy.file, &header(0, dims))?;
        Ok(npy)
    }
}

impl Sink for Npy {
    fn write(&mut self, _first: usize, _texts: &[String], embeddings: &[Embedding]) -> io::Result<()> {
        write_vectors(&mut self.file, embeddings)?;
        self.rows += embeddings.len();
        write_header(&mut self.file, &header(self.rows, self.dims))
    }
}

/// Magic, version, length of what follows, and a Python dict that spaces and a line end fill up.
fn header(rows: usize, dims: usize) -> Vec<u8> {
    let dict = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {dims}), }}");
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend(((HEADER - 10) as u16).to_le_bytes());
    header.extend(dict.as_bytes());
    header.resize(HEADER - 1, b' ');
    header.push(b'\n');
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_has_room_for_any_shape() {
        let header = header(usize::MAX, i32::MAX as usize);
        assert_eq!(header.len(), HEADER);
        assert!(header.ends_with(b"), }\n") || header.ends_with(b" \n"));
    }
}
