//! Rows of CSV: a header, then a text in one of the columns of each row. CSV knows strings only, and no null.

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use csv::{ByteRecord, ErrorKind, Reader, ReaderBuilder};
use serde_json::Value;

use super::records::{Record, Records};
use super::{Places, find_column};
use crate::error::CliError;
use crate::row::{Column, Holds, Kept};

/// Bytes that are read at once.
const BUFFER: usize = 64 << 10;

/// Bytes of a row beside its text: a quote may be written twice, and there are other columns.
const OTHER_COLUMNS: usize = 1 << 20;

const OPEN_QUOTE: &str =
    "a quote in it is never closed, so the rest of the file would be one field; close or remove it";

/// Rows of a file.
pub(super) struct Csv {
    reader: Reader<Bounded>,
    /// Bytes that may still be read for the next row.
    left: Arc<AtomicUsize>,
    /// Whether the file ended between two quotes.
    open: Arc<AtomicBool>,
    longest_row: usize,
    name: Arc<str>,
    names: Vec<String>,
    /// Where the text is, and the columns that are kept.
    field: usize,
    keep: Vec<usize>,
    columns: Vec<Column>,
    record: ByteRecord,
    position: usize,
}

impl fmt::Debug for Csv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Csv")
            .field("name", &self.name)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

impl Csv {
    pub(super) fn new(
        file: Box<dyn Read + Send>,
        name: String,
        field: &str,
        keep: &[String],
        delimiter: u8,
        max_text_bytes: usize,
    ) -> Result<Self, CliError> {
        let longest_row = max_text_bytes.saturating_mul(2).saturating_add(OTHER_COLUMNS + BUFFER);
        let left = Arc::new(AtomicUsize::new(longest_row));
        let open = Arc::new(AtomicBool::new(false));
        let quotes = Quotes::new(delimiter);
        let bounded = Bounded { file, left: Arc::clone(&left), quotes, open: Arc::clone(&open) };
        let mut reader =
            ReaderBuilder::new().delimiter(delimiter).buffer_capacity(BUFFER).from_reader(bounded);
        let header = reader.byte_headers().map_err(|error| failed(&name, error))?;
        if open.load(Relaxed) {
            return Err(CliError::Text { place: format!("{name}, the header"), reason: OPEN_QUOTE.into() });
        }
        let names: Vec<String> =
            header.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        if names.is_empty() {
            return Err(CliError::Usage(format!(
                "{name}: CSV begins with a line of column names, and it is empty"
            )));
        }
        let field = find_column("field", &name, field, &names)?;
        let find = |column: &String| find_column("keep", &name, column, &names);
        let keep_at = keep.iter().map(find).collect::<Result<_, _>>()?;
        let columns = keep.iter().map(|name| Column { name: name.clone(), holds: Holds::Texts }).collect();
        Ok(Self {
            reader,
            left,
            open,
            longest_row,
            name: name.into(),
            names,
            field,
            keep: keep_at,
            columns,
            record: ByteRecord::new(),
            position: 0,
        })
    }

    /// A cell of the row that was read.
    fn cell(&self, column: usize) -> Result<String, CliError> {
        let bytes = self.record.get(column).unwrap_or_default();
        String::from_utf8(bytes.to_vec()).map_err(|error| {
            self.wrong(format!(
                "byte {} of the column `{}` is not UTF-8; convert the input, for example with `iconv -f LATIN1 -t UTF-8`",
                error.utf8_error().valid_up_to() + 1,
                self.names[column]
            ))
        })
    }

    fn wrong(&self, reason: String) -> CliError {
        CliError::Text { place: format!("{}, row {}", self.name, self.position), reason }
    }
}

impl Records for Csv {
    fn next(&mut self) -> Result<Record, CliError> {
        self.left.store(self.longest_row, Relaxed);
        match self.reader.read_byte_record(&mut self.record) {
            Ok(false) => return Ok(Record::End),
            Ok(true) => {
                self.position += 1;
                // The file is read to its end for the last row only.
                if self.open.load(Relaxed) {
                    return Err(self.wrong(OPEN_QUOTE.into()));
                }
            }
            Err(error) => {
                self.position += 1;
                return Err(match error.kind() {
                    ErrorKind::UnequalLengths { expected_len, len, .. } => self.wrong(format!(
                        "it has {len} fields, and the header has {expected_len}; is a quote missing?"
                    )),
                    _ => failed(&self.name, error),
                });
            }
        }
        let text = self.cell(self.field)?;
        let kept = self.keep.iter().map(|&column| self.cell(column).map(Value::String));
        let kept = kept.collect::<Result<_, _>>()?;
        Ok(Record::row(self.position - 1, Some(text), Kept::Values(kept)))
    }

    fn position(&self) -> usize {
        self.position
    }

    fn places(&self) -> Places {
        Places::Rows(Arc::clone(&self.name), self.names[self.field].as_str().into())
    }

    fn read(&self) -> u64 {
        self.reader.position().byte()
    }

    fn columns(&self) -> &[Column] {
        &self.columns
    }
}

fn failed(name: &str, error: csv::Error) -> CliError {
    let source = match error.into_kind() {
        ErrorKind::Io(error) => error,
        kind => io::Error::other(format!("{kind:?}")),
    };
    CliError::Read { name: name.to_owned(), source }
}

/// A file of which no more is read than a row may have: a quote that nothing closes must not fill the memory.
struct Bounded {
    file: Box<dyn Read + Send>,
    left: Arc<AtomicUsize>,
    quotes: Quotes,
    /// Whether it ended between two quotes.
    open: Arc<AtomicBool>,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.load(Relaxed);
        if left == 0 {
            return Err(io::Error::other(
                "a row is longer than any text may be; is a quote missing? --max-text-bytes N allows more",
            ));
        }
        let most = buffer.len().min(left);
        let read = self.file.read(&mut buffer[..most])?;
        self.left.store(left - read, Relaxed);
        match read {
            0 if most > 0 => self.open.store(self.quotes.state == State::Quoted, Relaxed),
            _ => buffer[..read].iter().for_each(|&byte| self.quotes.next(byte)),
        }
        Ok(read)
    }
}

/// Whether the bytes so far end between two quotes, as the reader of rows takes them. It doesn't tell.
struct Quotes {
    delimiter: u8,
    state: State,
    /// How much of a byte order mark came, which is no part of the first field.
    mark: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    /// Before a field, where a quote opens it.
    Start,
    /// In a field that is not quoted, or behind its quotes.
    Plain,
    Quoted,
    /// Behind a quote in a quoted field: another one is a quote of the text.
    Quote,
}

impl Quotes {
    const MARK: [u8; 3] = [0xef, 0xbb, 0xbf];

    fn new(delimiter: u8) -> Self {
        Self { delimiter, state: State::Start, mark: 0 }
    }

    fn next(&mut self, byte: u8) {
        if Self::MARK.get(self.mark) == Some(&byte) {
            self.mark += 1;
            return;
        }
        self.mark = Self::MARK.len();
        self.state = match (self.state, byte) {
            (State::Start | State::Quote, b'"') => State::Quoted,
            (State::Quoted, b'"') => State::Quote,
            (State::Quoted, _) => State::Quoted,
            (_, byte) if byte == self.delimiter || byte == b'\n' || byte == b'\r' => State::Start,
            _ => State::Plain,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(text: &'static [u8], keep: &[&str]) -> Result<Csv, CliError> {
        let keep: Vec<String> = keep.iter().map(|&name| name.to_owned()).collect();
        Csv::new(Box::new(text), "docs.csv".into(), "body", &keep, b',', 1000)
    }

    /// A row's text and what is kept of it, or what is wrong with it.
    type Found = Result<(Option<String>, Vec<Value>), String>;

    #[cfg_attr(
        not(feature = "parquet"),
        allow(irrefutable_let_patterns, reason = "only Parquet keeps something else")
    )]
    fn read(text: &'static [u8], keep: &[&str]) -> Vec<Found> {
        let mut csv = open(text, keep).unwrap();
        let mut found = Vec::new();
        loop {
            match csv.next() {
                Ok(Record::End) => return found,
                Ok(Record::Row(row)) => {
                    assert_eq!(row.index, found.len());
                    let Kept::Values(kept) = row.kept else { panic!("{row:?}") };
                    found.push(Ok((row.text, kept)));
                }
                Ok(Record::Blank) => panic!("no row is blank"),
                Err(error) => found.push(Err(error.to_string())),
            }
        }
    }

    #[test]
    fn rows_are_read_as_they_are_quoted() {
        let text = "\u{feff}id,body\r\n007,\"a, \"\"b\"\"\nc\"\r\n\n,d\r\n\"8\",\"\"\n".as_bytes();
        let row = |id: &str, body: &str| Ok((Some(body.to_owned()), vec![Value::from(id)]));
        assert_eq!(read(text, &["id"]), [row("007", "a, \"b\"\nc"), row("", "d"), row("8", "")]);
    }

    #[test]
    fn a_bad_row_is_named_and_the_next_is_read() {
        let found = read(b"id,body\n1,a,b\n2,\xff\n\xfe,c\n4,d\n", &["id"]);
        let parts = [
            "docs.csv, row 1: it has 3 fields, and the header has 2",
            "docs.csv, row 2: byte 1 of the column `body` is not UTF-8",
            "docs.csv, row 3: byte 1 of the column `id` is not UTF-8",
        ];
        for (found, part) in found.iter().zip(parts) {
            assert!(found.as_ref().unwrap_err().starts_with(part), "{found:?}");
        }
        assert_eq!(found[3], Ok((Some("d".to_owned()), vec![Value::from("4")])));
    }

    #[test]
    fn a_quote_that_the_file_s_end_leaves_open_is_an_error_of_its_row() {
        for text in
            [&b"body\nfirst\n\"the cat\nsat\n"[..], b"body\nfirst\n\"a \"\"b\"\"\n", b"body\nfirst\n\""]
        {
            let found = read(text, &[]);
            assert_eq!(found[0], Ok((Some("first".to_owned()), Vec::new())));
            let error = found[1].as_ref().unwrap_err();
            assert!(error.starts_with("docs.csv, row 2: a quote in it is never closed"), "{error}");
            assert_eq!(found.len(), 2);
        }
        for (text, body) in [
            (&b"body\n\"a\""[..], "a"),
            (b"body\na \"b", "a \"b"),
            (b"body\n\"a\"b\"", "ab\""),
            (b"\xef\xbb\xbf\"body\"\n\"a\"\"\"\r\n", "a\""),
        ] {
            assert_eq!(read(text, &[]), [Ok((Some(body.to_owned()), Vec::new()))]);
        }
    }

    #[test]
    fn a_quote_that_the_header_leaves_open_is_an_error_of_its_own() {
        for text in [&b"id,\"body\n1,the cat\n2,a dog\n"[..], b"\"body\nthe cat\n", b"\""] {
            let error = open(text, &[]).unwrap_err().to_string();
            assert!(error.starts_with("docs.csv, the header: a quote in it is never closed"), "{error}");
        }
        assert_eq!(read(b"\"body\"", &[]), []);
    }

    #[test]
    fn columns_are_found_by_name() {
        for (text, keep, part) in [
            (&b""[..], &[][..], "begins with a line of column names"),
            (b"id,text\n", &[], "--field body: docs.csv has no such column; there are: id, text"),
            (b"body,body\n", &[], "several columns of that name"),
            (b"body\n", &["id"], "--keep id: docs.csv has no such column; there are: body"),
        ] {
            let error = open(text, keep).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_quote_that_nothing_closes_does_not_fill_the_memory() {
        let endless = io::Cursor::new(b"body\n\"").chain(io::repeat(b'a'));
        let mut csv = Csv::new(Box::new(endless), "docs.csv".into(), "body", &[], b',', 1000).unwrap();
        let error = csv.next().unwrap_err().to_string();
        assert!(error.contains("docs.csv: a row is longer"), "{error}");
    }
}
