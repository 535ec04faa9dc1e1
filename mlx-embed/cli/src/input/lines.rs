//! Lines of a reader as texts: the line itself, or a field of the JSON object on it.

use std::borrow::Cow;
use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;

use mlx_embed::json::from_python;
use serde_json::{Map, Value};

use super::places::Places;
use crate::error::CliError;

/// Most bytes of JSON for a byte of text: a character of one byte may be written `\u0061`.
const ESCAPED: usize = 6;

/// Bytes of the other fields of a JSON object.
const OTHER_FIELDS: usize = 1 << 20;

/// Bytes of a line besides its text: a byte order mark and a line end.
const AROUND: usize = 5;

/// What some editors put at the start of a file to say that it is UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// What a line is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    Text(String),
    /// A line of JSONL whose field is null.
    Null,
    /// A line of JSONL with nothing on it.
    Blank,
    /// There is none.
    End,
}

/// Texts of a reader: one a line, so that text `i` is on line `i + 1`.
pub(super) struct Lines {
    reader: BufReader<Box<dyn Read + Send>>,
    name: Arc<str>,
    /// The field of JSONL; without one, lines are texts.
    field: Option<String>,
    /// Other fields of JSONL that are wanted, and their values on the last line that was read.
    keep: Vec<String>,
    kept: Vec<Value>,
    /// Bytes that a text may have.
    max_text_bytes: usize,
    /// Lines read so far.
    count: usize,
    /// Bytes read so far.
    read: u64,
    line: Vec<u8>,
    /// Whether the rest of a line that is too long still stands before the next.
    cut: bool,
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").field("name", &self.name).field("count", &self.count).finish_non_exhaustive()
    }
}

impl Lines {
    pub(super) fn new(
        reader: Box<dyn Read + Send>,
        name: String,
        field: Option<String>,
        max_text_bytes: usize,
    ) -> Self {
        let reader = BufReader::with_capacity(64 << 10, reader);
        let name = name.into();
        let (keep, kept, line) = (Vec::new(), Vec::new(), Vec::new());
        Self { reader, name, field, keep, kept, max_text_bytes, count: 0, read: 0, line, cut: false }
    }

    /// From now on the values of these fields are taken, too; one that isn't there is null.
    pub(super) fn keep(&mut self, fields: &[String]) {
        self.keep = fields.to_vec();
    }

    /// Those of the last line that was read.
    pub(super) fn take_kept(&mut self) -> Vec<Value> {
        std::mem::take(&mut self.kept)
    }

    /// Lines read so far.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Bytes of the longest line that is read: a file without line ends must not fill the memory.
    fn longest_line(&self) -> usize {
        let text = self.max_text_bytes;
        let written = match self.field {
            None => text,
            Some(_) => text.saturating_mul(ESCAPED).saturating_add(OTHER_FIELDS),
        };
        written.saturating_add(AROUND)
    }

    pub(super) fn places(&self) -> Places {
        Places::Lines(Arc::clone(&self.name))
    }

    pub(super) fn read(&self) -> u64 {
        self.read
    }

    /// Whether the next line is here already, so that reading it can't wait.
    pub(super) fn has_whole_line(&self) -> bool {
        self.reader.buffer().contains(&b'\n')
    }

    /// The next line. A line end at the end of the input starts no further one. After an error about what stands on a
    /// line, the next line can be read.
    pub(super) fn next(&mut self) -> Result<Line, CliError> {
        let failed = |source| CliError::Read { name: self.name.to_string(), source };
        if self.cut {
            self.read += self.reader.skip_until(b'\n').map_err(failed)? as u64;
            self.cut = false;
        }
        self.line.clear();
        let limit = (self.longest_line() as u64).saturating_add(1);
        let read = self.reader.by_ref().take(limit).read_until(b'\n', &mut self.line).map_err(failed)?;
        if read == 0 {
            return Ok(Line::End);
        }
        self.cut = read > self.longest_line() && !self.line.ends_with(b"\n");
        let result = self.text();
        let result = result.map_err(|reason| CliError::Text { place: self.places().of(self.count), reason });
        self.read += read as u64;
        self.count += 1;
        result
    }

    fn text(&mut self) -> Result<Line, String> {
        let mut line = self.line.as_slice();
        if line.len() > self.longest_line() {
            return Err(format!(
                "longer than {} bytes; is this a text file? --max-text-bytes N allows more",
                self.longest_line()
            ));
        }
        if let Some(rest) = line.strip_suffix(b"\n") {
            line = rest.strip_suffix(b"\r").unwrap_or(rest);
        }
        if self.count == 0 {
            line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
        }
        let text = std::str::from_utf8(line).map_err(|error| {
            format!(
                "byte {} of the line is not UTF-8; convert the input, for example with `iconv -f LATIN1 -t UTF-8`",
                error.valid_up_to() + 1
            )
        })?;
        match &self.field {
            None => Ok(Line::Text(text.to_owned())),
            Some(_) if text.trim().is_empty() => Ok(Line::Blank),
            Some(field) => {
                let object = object(text, field)?;
                self.kept =
                    self.keep.iter().map(|name| object.get(name).cloned().unwrap_or_default()).collect();
                text_in_field(object, field)
            }
        }
    }
}

fn object(line: &str, field: &str) -> Result<Map<String, Value>, String> {
    match parse(line)? {
        Value::Object(object) => Ok(object),
        value => Err(format!("{}, not an object with the field `{field}`", kind(&value))),
    }
}

fn text_in_field(mut object: Map<String, Value>, field: &str) -> Result<Line, String> {
    match object.remove(field) {
        Some(Value::String(text)) => Ok(Line::Text(text)),
        Some(Value::Null) => Ok(Line::Null),
        Some(other) => Err(format!("the field `{field}` is {}, not a string", kind(&other))),
        None if object.is_empty() => Err(format!("no field `{field}`; the object is empty")),
        None => {
            let known: Vec<&str> = object.keys().map(String::as_str).collect();
            Err(format!("no field `{field}`; there are: {} (--field NAME chooses)", known.join(", ")))
        }
    }
}

/// Python's `json` writes what no standard knows; see [`from_python`].
fn parse(line: &str) -> Result<Value, String> {
    let wrong = |error: serde_json::Error, column: String| {
        // The JSON library counts lines within the line.
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or_default();
        format!("not JSON: {message}{column}; for plain lines leave out --field")
    };
    serde_json::from_str(line).or_else(|error| match from_python(line.as_bytes()) {
        Cow::Borrowed(_) => {
            let column = format!(" at column {}", error.column());
            Err(wrong(error, column))
        }
        // Its columns are not the line's.
        Cow::Owned(line) => serde_json::from_slice(&line).map_err(|error| wrong(error, String::new())),
    })
}

pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        _ if value.pointer("/0/float").is_some() => "NaN or infinite",
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(bytes: &'static [u8], field: Option<&str>) -> Vec<Result<Line, String>> {
        let mut lines = Lines::new(Box::new(bytes), "input".into(), field.map(str::to_owned), 1 << 20);
        let mut found = Vec::new();
        loop {
            match lines.next() {
                Ok(Line::End) => return found,
                line => found.push(line.map_err(|error| error.to_string())),
            }
        }
    }

    fn read(bytes: &'static [u8], field: Option<&str>) -> Vec<Result<String, String>> {
        let text = |line| match line {
            Line::Text(text) => text,
            other => panic!("{other:?}"),
        };
        lines_of(bytes, field).into_iter().map(|line| line.map(text)).collect()
    }

    #[test]
    fn lines_are_texts_and_line_ends_are_not() {
        let texts: Vec<String> =
            read(b"a\n\nb\r\n c \n\0\nd", None).into_iter().map(Result::unwrap).collect();
        assert_eq!(texts, ["a", "", "b", " c ", "\0", "d"]);
        assert!(read(b"", None).is_empty());
        assert_eq!(read(b"\n", None), [Ok(String::new())]);
    }

    #[test]
    fn only_a_byte_order_mark_at_the_start_is_dropped() {
        let texts = read("\u{feff}a\n\u{feff}b".as_bytes(), None);
        assert_eq!(texts, [Ok("a".to_owned()), Ok("\u{feff}b".to_owned())]);
    }

    #[test]
    fn each_bad_line_is_named_and_explained() {
        let cases: [(&[u8], &str); 9] = [
            (b"\xff", "input, line 1: byte 1 of the line is not UTF-8"),
            (b"{\"text\": 1}", "input, line 1: the field `text` is a number, not a string"),
            (b"{\"id\": 1, \"body\": \"\"}", "input, line 1: no field `text`; there are: body, id"),
            (b"{}", "input, line 1: no field `text`; the object is empty"),
            (b"[1]", "input, line 1: an array, not an object"),
            (b"{\"text\":", "input, line 1: not JSON: EOF while parsing a value at column 8"),
            (b"{\"text\": NaN}", "input, line 1: the field `text` is NaN or infinite, not a string"),
            (b"{\"id\": NaN, \"text\":", "input, line 1: not JSON: EOF while parsing a value; for plain"),
            (b"{\"text\": nan}", "input, line 1: not JSON: expected ident at column 11"),
        ];
        for (bytes, message) in cases {
            let found = read(bytes, Some("text")).remove(0).unwrap_err();
            assert!(found.starts_with(message), "{found:?}, expected {message:?}");
        }
    }

    #[test]
    fn a_line_beyond_the_longest_text_is_named_and_not_read_to_its_end() {
        let endless = || Box::new(std::io::repeat(b'a')) as Box<dyn Read + Send>;
        for field in [None, Some("text".to_owned())] {
            let mut lines = Lines::new(endless(), "input".into(), field, 1000);
            let error = lines.next().unwrap_err().to_string();
            assert!(error.contains("input, line 1: longer than"), "{error}");
            assert!(error.contains("--max-text-bytes"), "{error}");
        }
        let longest = Box::new(b"\xef\xbb\xbfaaaa\r\naaaa\naaaaaaaaaa".as_slice());
        let mut lines = Lines::new(longest, "input".into(), None, 4);
        for _ in 0..2 {
            assert_eq!(lines.next().unwrap(), Line::Text("aaaa".to_owned()));
        }
        assert!(lines.next().is_err());
    }

    /// What `fuzz/` holds for this reader: whatever stops it, it has read each line once and says where it is.
    #[test]
    fn kept_inputs_of_the_fuzzer_are_read_to_their_end_or_their_first_error() {
        let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seeds/jsonl");
        let mut inputs = 0;
        for entry in std::fs::read_dir(seeds).unwrap() {
            let bytes: &'static [u8] = std::fs::read(entry.unwrap().path()).unwrap().leak();
            let lines = bytes.split_inclusive(|&byte| byte == b'\n').count();
            for field in [None, Some("text")] {
                let texts = lines_of(bytes, field);
                assert_eq!(texts.len(), lines, "{texts:?}");
                for (index, text) in texts.iter().enumerate() {
                    let place = format!("input, line {}: ", index + 1);
                    assert!(
                        text.as_ref().err().is_none_or(|error| error.starts_with(&place)),
                        "{error:?}",
                        error = text
                    );
                }
            }
            inputs += 1;
        }
        assert!(inputs >= 4, "the fuzzer's inputs are missing");
    }

    #[test]
    fn json_is_read_as_python_writes_it() {
        let records = br#"{"id": NaN, "text": "a", "score": -Infinity}
{"text": "\ud800 b \ud83e\udd80", "other": "\udfff"}
{"text": "NaN"}"#;
        let texts: Vec<String> = read(records, Some("text")).into_iter().map(Result::unwrap).collect();
        assert_eq!(texts, ["a", "\u{fffd} b 🦀", "NaN"]);
    }

    #[test]
    fn blank_lines_of_jsonl_are_no_texts_and_count() {
        let found = lines_of(b"\n{\"text\": \"a\"}\n \t\r\n{\"text\": \"\"}\n\n", Some("text"));
        let text = |text: &str| Ok(Line::Text(text.to_owned()));
        assert_eq!(found, [Ok(Line::Blank), text("a"), Ok(Line::Blank), text(""), Ok(Line::Blank)]);
    }

    #[test]
    fn what_follows_a_line_that_is_too_long_is_read() {
        let mut input = vec![b'x'; 1 << 20];
        input.extend(b"\nb");
        let mut lines = Lines::new(Box::new(std::io::Cursor::new(input.clone())), "input".into(), None, 1000);
        let error = lines.next().unwrap_err().to_string();
        assert!(error.starts_with("input, line 1: longer than "), "{error}");
        assert_eq!(lines.next().unwrap(), Line::Text("b".to_owned()));
        assert_eq!(lines.next().unwrap(), Line::End);
        assert_eq!((lines.read(), lines.count()), (input.len() as u64, 2));
    }

    #[test]
    fn deeply_nested_json_is_an_error() {
        let line: &'static str = "[".repeat(100_000).leak();
        assert!(read(line.as_bytes(), Some("text")).remove(0).is_err());
    }
}
