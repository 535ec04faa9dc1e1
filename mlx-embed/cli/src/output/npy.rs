//! NumPy's `.npy`, format version 1.0: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.

use std::io;

use super::encode::{self, Encode};
use crate::found::Found;

/// Bytes before the data: a multiple of 64, with room for any number of rows.
const HEADER: usize = 128;

/// Rows are appended, and the header's row count follows.
#[derive(Debug)]
pub(super) struct Npy {
    rows: usize,
    dims: usize,
}

impl Npy {
    pub(super) fn new(dims: usize) -> Self {
        Self { rows: 0, dims }
    }
}

impl Encode for Npy {
    fn header(&self) -> io::Result<Vec<u8>> {
        Ok(header(self.rows, self.dims, HEADER))
    }

    fn row(&mut self, _index: usize, _text: &str, found: &Found, bytes: &mut Vec<u8>) -> io::Result<()> {
        self.rows += 1;
        encode::vector(found, bytes);
        Ok(())
    }
}

/// `length` bytes: magic, version, length of what follows, and a Python dict that spaces and a line end fill up. Readers
/// let pass what stands behind the rows.
pub(super) fn header(rows: usize, dims: usize, length: usize) -> Vec<u8> {
    let dict = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {dims}), }}");
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend(((length - 10) as u16).to_le_bytes());
    header.extend(dict.as_bytes());
    header.resize(length - 1, b' ');
    header.push(b'\n');
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_has_room_for_any_shape() {
        let header = header(usize::MAX, i32::MAX as usize, HEADER);
        assert_eq!(header.len(), HEADER);
        assert!(header.ends_with(b"), }\n") || header.ends_with(b" \n"));
    }
}
