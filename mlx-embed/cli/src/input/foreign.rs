//! Input that is no text, told by how it begins. Read as lines it would give texts that nobody wrote.

use std::io::{self, Read};

/// What begins so, and what to do about it.
const FOREIGN: [(&[u8], &str); 9] = [
    (b"\x1f\x8b", "it is compressed by gzip; unpack it: `zcat FILE | mlx-embed embed --input -`"),
    (b"\x28\xb5\x2f\xfd", "it is compressed by zstd; unpack it: `zstdcat FILE | mlx-embed embed --input -`"),
    (b"\xfd7zXZ\0", "it is compressed by xz; unpack it: `xzcat FILE | mlx-embed embed --input -`"),
    (b"BZh91AY&SY", "it is compressed by bzip2; unpack it: `bzcat FILE | mlx-embed embed --input -`"),
    (b"PK\x03\x04", "it is a ZIP archive, as spreadsheets are; save the table as CSV"),
    (b"ARROW1\0\0", "it is an Arrow file (Feather); write the table as Parquet"),
    (b"\x93NUMPY", "it is an array of NumPy; texts are read from lines, JSONL, CSV or Parquet"),
    (b"\xff\xfe", UTF_16),
    (b"\xfe\xff", UTF_16),
];

const UTF_16: &str = "it is UTF-16; convert it: `iconv -f UTF-16 -t UTF-8 FILE`";

/// A reader of texts, whose first bytes are looked at.
pub(super) struct Texts<R> {
    reader: R,
    begun: bool,
}

impl<R: Read> Texts<R> {
    pub(super) fn of(reader: R) -> Self {
        Self { reader, begun: false }
    }
}

impl<R: Read> Read for Texts<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        if !self.begun && read > 0 {
            self.begun = true;
            if let Some((_, what)) = FOREIGN.iter().find(|(start, _)| buffer[..read].starts_with(start)) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, *what));
            }
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_formats_are_named_and_texts_pass() {
        let read = |bytes: &[u8]| {
            let mut text = Vec::new();
            Texts::of(bytes).read_to_end(&mut text).map(|_| text).map_err(|error| error.to_string())
        };
        for (start, what) in FOREIGN {
            assert_eq!(read(&[start, b"and so on"].concat()), Err(what.to_owned()));
        }
        for text in [&b""[..], b"\xef\xbb\xbfa", b"BZh is no archive", b"PK", b"a\x1f\x8b"] {
            assert_eq!(read(text), Ok(text.to_owned()));
        }
    }
}
