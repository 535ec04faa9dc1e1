//! NumPy's `.npy`, format version 1.0: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.

use std::io;

use super::encode::Encode;
use super::numbers::Numbers;
use crate::found::Found;
use crate::row::Row;

/// Bytes before the data: a multiple of 64, with room for any number of rows.
const HEADER: usize = 128;

/// Rows are appended, and the header's row count follows.
#[derive(Debug)]
pub(super) struct Npy {
    rows: usize,
    numbers: Numbers,
}

impl Npy {
    pub(super) fn new(numbers: Numbers) -> Self {
        Self { rows: 0, numbers }
    }
}

impl Encode for Npy {
    fn header(&self) -> io::Result<Vec<u8>> {
        Ok(header(self.rows, &self.numbers, HEADER))
    }

    fn prepare(&mut self, rows: &[Row]) {
        self.numbers.prepare(rows);
    }

    fn row(&mut self, _row: &Row, found: &Found, bytes: &mut Vec<u8>) -> io::Result<()> {
        self.rows += 1;
        self.numbers.write(found, bytes);
        Ok(())
    }
}

/// `length` bytes: magic, version, length of what follows, and a Python dict that spaces and a line end fill up. Readers
/// let pass what stands behind the rows.
pub(super) fn header(rows: usize, numbers: &Numbers, length: usize) -> Vec<u8> {
    let ([descr, _], columns) = (numbers.names(), numbers.columns());
    let dict = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    // Version 2.0 differs in having room for the length of more.
    let mut header = match u16::try_from(length - 10) {
        Ok(rest) => [b"\x93NUMPY\x01\x00", &rest.to_le_bytes()[..]].concat(),
        Err(_) => [b"\x93NUMPY\x02\x00", &(length as u32 - 12).to_le_bytes()[..]].concat(),
    };
    header.extend(dict.as_bytes());
    header.resize(length - 1, b' ');
    header.push(b'\n');
    header
}

#[cfg(test)]
mod tests {
    use super::super::numbers::Dtype;
    use super::*;
    use crate::notes::Notes;

    #[test]
    fn the_header_has_room_for_any_shape() {
        let numbers = Numbers::new(Dtype::F32, i32::MAX as usize, None, Notes::new(true));
        let header = header(usize::MAX, &numbers, HEADER);
        assert_eq!(header.len(), HEADER);
        assert!(header.ends_with(b"), }\n") || header.ends_with(b" \n"));
    }
}
