//! How a format writes rows: bytes, of which the files know no more.

use std::io;

use crate::found::Found;
use crate::row::Row;

/// A format. A file of it is its header, its rows and its tail.
pub(super) trait Encode {
    /// What stands at the start of a file that is still written: all rows so far can be read, whatever stands behind them.
    /// Always of one length.
    fn header(&self) -> io::Result<Vec<u8>> {
        Ok(Vec::new())
    }

    /// Looks at the results that are written next, before any row of them is.
    fn prepare(&mut self, _rows: &[Row]) {}

    /// Appends a text's row to `bytes`.
    fn row(&mut self, row: &Row, found: &Found, bytes: &mut Vec<u8>) -> io::Result<()>;

    /// The header of a file that ends with the last row so far. As long as the other.
    fn header_without_tail(&self) -> io::Result<Vec<u8>> {
        self.header()
    }

    /// The header of the whole file, and what stands behind the last row.
    fn end(&self) -> io::Result<(Vec<u8>, Vec<u8>)> {
        Ok((self.header()?, Vec::new()))
    }
}
