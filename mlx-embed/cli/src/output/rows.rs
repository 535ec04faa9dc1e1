//! Rows into a file, a window at a time: what can't be written whole is taken back.

use std::fmt;
use std::io;

use super::encode::Encode;
use super::new_file::NewFile;
use crate::row::Row;

/// Bytes that are written at once.
const CHUNK: usize = 256 << 10;

/// A file with its format.
pub(super) struct Rows {
    file: NewFile,
    format: Box<dyn Encode>,
    /// Of the whole windows: header, length, and the header that they get where nothing follows them any more.
    header: Vec<u8>,
    whole: u64,
    last_header: Vec<u8>,
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
        let last_header = format.header_without_tail()?;
        Ok(Self { file, format, header, whole, last_header, bytes: Vec::new() })
    }

    pub(super) fn file(&self) -> &NewFile {
        &self.file
    }

    /// Writes a window; after an error the file holds the windows before it.
    pub(super) fn write(&mut self, rows: &[Row]) -> io::Result<()> {
        let written = self.append(rows).and_then(|()| {
            let last_header = self.format.header_without_tail()?;
            self.complete(self.format.header()?)?;
            self.last_header = last_header;
            Ok(())
        });
        written.inspect_err(|_| self.take_back())
    }

    /// Writes what stands behind the last row; after an error the file is what it was.
    pub(super) fn end(&mut self) -> io::Result<()> {
        let (header, tail) = self.format.end()?;
        let written = self.file.append(&tail).and_then(|()| self.complete(header.clone()));
        written.inspect_err(|_| self.take_back())?;
        self.last_header = header;
        Ok(())
    }

    /// Gives the file its name.
    pub(super) fn publish(mut self) -> io::Result<()> {
        if self.header != self.last_header {
            self.file.overwrite(&self.last_header)?;
        }
        self.file.publish()
    }

    fn append(&mut self, rows: &[Row]) -> io::Result<()> {
        self.bytes.clear();
        self.format.prepare(rows);
        for (row, found) in rows.iter().filter_map(|row| Some((row, row.found.as_ref()?))) {
            self.format.row(row, found, &mut self.bytes)?;
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
        // Nothing more can be done where this fails too. The header first: it must not count rows that are gone.
        let _ = self.file.overwrite(&self.header).and_then(|()| self.file.cut(self.whole));
    }
}
