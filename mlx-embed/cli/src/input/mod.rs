//! Where texts come from: arguments, lines, a column of a table, a window at a time.

mod columns;
mod csv;
mod foreign;
mod lines;
#[cfg(feature = "parquet")]
mod parquet;
mod places;
mod records;

use std::fs::{File, Metadata};
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use same_file::Handle;

use crate::error::CliError;
use crate::row::{Column, Row};
use crate::waiting::Waiting;
use csv::Csv;
use foreign::Texts;
use lines::Lines;
pub(crate) use places::Places;
use records::{Arguments, Record, Records};

#[cfg(feature = "parquet")]
pub(crate) use columns::not_finite;

/// Most texts in a window, and most records that are skipped on the way to them.
const WINDOW_TEXTS: usize = 1024;

/// The field that has the text unless another is named.
const FIELD: &str = "text";

/// What becomes of a job when one of its texts can't be read or embedded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnError {
    /// End there
    Stop,
    /// Leave it out, say why on stderr, and end with exit code 3
    Skip,
}

/// Where texts come from.
#[derive(Debug, Args)]
pub(crate) struct InputArgs {
    /// Texts [default: a text a line on standard input]
    #[arg(value_name = "TEXT", conflicts_with_all = ["input", "field"])]
    texts: Vec<String>,

    /// File with one text a line, JSONL, CSV (.csv, .tsv) or Parquet; `-` is standard input
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,

    /// Where the text is: a column of CSV or Parquet, or a field of JSONL; with this option, other input is read as JSONL
    /// [default for .jsonl, .ndjson, CSV and Parquet: text]
    #[arg(long, value_name = "NAME")]
    field: Option<String>,
}

/// Texts that are worked on together.
#[derive(Debug)]
pub(crate) struct Window {
    pub(crate) rows: Vec<Row>,
    /// What is wrong with records that were skipped.
    pub(crate) skipped: Vec<CliError>,
    /// What is wrong with the input behind them.
    pub(crate) error: Option<CliError>,
    /// Whether nothing follows.
    pub(crate) ended: bool,
}

/// Texts in order.
#[derive(Debug)]
pub(crate) struct Input {
    records: Box<dyn Records>,
    /// The regular file that texts are read from.
    file: Option<(Handle, Metadata)>,
    path: Option<PathBuf>,
    field: Option<String>,
    /// For an output in parts: records of each. A window has those of one part.
    part: Option<usize>,
}

/// The next piece of the input.
enum Next {
    Record(Record),
    /// Nothing is to be had now.
    Nothing,
}

/// What a file's name or beginning says that it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Lines,
    Jsonl,
    /// With this byte between fields.
    Csv(u8),
    Parquet,
}

impl Form {
    fn of(path: &Path, file: &File) -> io::Result<Self> {
        let end = path.extension().and_then(|end| end.to_str()).unwrap_or_default().to_ascii_lowercase();
        Ok(match end.as_str() {
            "jsonl" | "ndjson" => Self::Jsonl,
            "csv" => Self::Csv(b','),
            "tsv" => Self::Csv(b'\t'),
            "parquet" | "pq" => Self::Parquet,
            // Tables of Hive's kind have no such names.
            _ if file.metadata()?.is_file() && begins_as_parquet(path)? => Self::Parquet,
            _ => Self::Lines,
        })
    }
}

fn begins_as_parquet(path: &Path) -> io::Result<bool> {
    let mut start = Vec::new();
    File::open(path)?.take(4).read_to_end(&mut start)?;
    Ok(start == b"PAR1")
}

impl Input {
    /// Opens what the arguments say; a record may hold a text of `max_text_bytes`, and the columns `keep` of a table are
    /// kept beside texts.
    pub(crate) fn open(args: InputArgs, keep: &[String], max_text_bytes: usize) -> Result<Self, CliError> {
        if !args.texts.is_empty() {
            refuse_kept(keep, "texts on the command line")?;
            return Ok(Self::of(Box::new(Arguments::new(args.texts)), None, None, None));
        }
        match args.input {
            Some(path) if path.as_os_str() != "-" => Self::open_file(path, args.field, keep, max_text_bytes),
            None if io::stdin().is_terminal() => Err(CliError::Usage(
                "no text: give TEXT arguments, --input FILE, or pipe texts in (`--input -` reads what you type)"
                    .to_owned(),
            )),
            _ => {
                refuse_kept(keep, "standard input, which is read once")?;
                let name = "standard input".to_owned();
                let lines = Lines::new(Box::new(Texts::of(io::stdin())), name, args.field.clone(), max_text_bytes);
                Ok(Self::of(Box::new(records::Jsonl::new(lines)), Handle::stdin().ok(), None, args.field))
            }
        }
    }

    fn open_file(
        path: PathBuf,
        field: Option<String>,
        keep: &[String],
        max_text_bytes: usize,
    ) -> Result<Self, CliError> {
        let name = path.display().to_string();
        let fail = |source| CliError::Read { name: name.clone(), source };
        let waiting = Waiting::on(&path, "somebody writes to it");
        let file = File::open(&path).map_err(fail)?;
        drop(waiting);
        let handle = Handle::from_file(file.try_clone().map_err(fail)?).map_err(fail)?;
        let form = match Form::of(&path, &file).map_err(fail)? {
            Form::Lines if field.is_some() => Form::Jsonl,
            form => form,
        };
        if form == Form::Lines && path.extension().is_some_and(|end| end.eq_ignore_ascii_case("json")) {
            return Err(CliError::Usage(format!(
                "{name}: by its name it is JSON, whose lines are no texts; --field NAME reads it as JSONL, an object a \
                 line, which `jq -c '.[]'` makes of a list"
            )));
        }
        let field = (form != Form::Lines).then(|| field.unwrap_or_else(|| FIELD.to_owned()));
        let of_table = || field.clone().unwrap_or_default();
        let records: Box<dyn Records> = match form {
            Form::Lines | Form::Jsonl => {
                if form == Form::Lines {
                    refuse_kept(keep, &format!("{name}, whose lines are texts"))?;
                } else if !file.metadata().map_err(fail)?.is_file() {
                    refuse_kept(keep, &format!("{name}, which is no regular file and is read once"))?;
                }
                let columns = columns::of_jsonl(&path, keep, max_text_bytes)?;
                let mut lines = Lines::new(Box::new(Texts::of(file)), name, field.clone(), max_text_bytes);
                lines.keep(keep);
                Box::new(records::Jsonl::with_columns(lines, columns))
            }
            Form::Csv(delimiter) => Box::new(Csv::new(
                Box::new(Texts::of(file)),
                name,
                &of_table(),
                keep,
                delimiter,
                max_text_bytes,
            )?),
            Form::Parquet => open_parquet(file, name, &of_table(), keep)?,
        };
        Ok(Self::of(records, Some(handle), Some(path), field))
    }

    fn of(
        records: Box<dyn Records>,
        handle: Option<Handle>,
        path: Option<PathBuf>,
        field: Option<String>,
    ) -> Self {
        let file = handle.and_then(|handle| {
            let metadata = handle.as_file().metadata().ok()?;
            metadata.is_file().then_some((handle, metadata))
        });
        Self { records, file, path, field, part: None }
    }

    /// For an output that is made in parts of so many records each, of which `done` are there: windows end where parts
    /// do, and nulls are no errors.
    pub(crate) fn set_parts(&mut self, records: usize, done: usize) -> Result<(), CliError> {
        self.part = Some(records);
        self.records.skip_to(records.saturating_mul(done))
    }

    /// Records read so far.
    pub(crate) fn position(&self) -> usize {
        self.records.position()
    }

    /// The next texts, about `bytes` of them.
    ///
    /// Input that someone may still be writing is not waited for once there is a text, so that a program on the other
    /// end of two pipes gets its answers.
    pub(crate) fn window(&mut self, bytes: usize, on_error: OnError) -> Window {
        let mut window = Window { rows: Vec::new(), skipped: Vec::new(), error: None, ended: false };
        let (start, mut size) = (self.position(), 0);
        while window.rows.len().max(window.skipped.len()) < WINDOW_TEXTS && size < bytes {
            if self.position() > start && self.part.is_some_and(|part| self.position().is_multiple_of(part)) {
                break;
            }
            match self.next(window.rows.is_empty()) {
                Ok(Next::Record(Record::Row(row))) => {
                    size += row.text.as_ref().map_or(0, String::len);
                    window.rows.push(row);
                }
                Ok(Next::Record(Record::Blank)) => {}
                Ok(Next::Nothing) => break,
                Ok(Next::Record(Record::End)) => {
                    window.ended = true;
                    break;
                }
                Err(error @ CliError::Text { .. }) if on_error == OnError::Skip => window.skipped.push(error),
                Err(error) => {
                    window.error = Some(error);
                    break;
                }
            }
        }
        window
    }

    /// The texts, and which records they are.
    pub(crate) fn read_all(&mut self) -> Result<(Vec<String>, Vec<usize>), CliError> {
        let (mut texts, mut indices) = (Vec::new(), Vec::new());
        loop {
            let window = self.window(usize::MAX, OnError::Stop);
            if let Some(error) = window.error {
                return Err(error);
            }
            for row in window.rows {
                texts.extend(row.text);
                indices.push(row.index);
            }
            if window.ended {
                return Ok((texts, indices));
            }
        }
    }

    /// The next piece, for which only a window without texts waits.
    fn next(&mut self, waits: bool) -> Result<Next, CliError> {
        if self.file.is_none() && !waits && !self.records.is_next_here() {
            return Ok(Next::Nothing);
        }
        match self.records.next()? {
            Record::Row(Row { text: None, index, .. }) if self.part.is_none() => {
                let field = self.field.as_deref().unwrap_or(FIELD);
                let reason = format!(
                    "the field `{field}` is null, not a string; --output FILE.parquet has null in place of its vector"
                );
                Err(CliError::Text { place: self.place(index), reason })
            }
            record => Ok(Next::Record(record)),
        }
    }

    /// How a person finds the text with this index.
    pub(crate) fn place(&self, index: usize) -> String {
        self.places().of(index)
    }

    /// How a person finds texts, for when the input is elsewhere.
    pub(crate) fn places(&self) -> Places {
        self.records.places()
    }

    /// How much of [`Input::len`] is read.
    pub(crate) fn read(&self) -> u64 {
        self.records.read()
    }

    /// Bytes of the input, or rows of a table that counts them, where known.
    pub(crate) fn len(&self) -> Option<u64> {
        self.records.len().or_else(|| self.file.as_ref().map(|(_, metadata)| metadata.len()))
    }

    /// The regular file that texts are read from, as it was when it was opened.
    pub(crate) fn metadata(&self) -> Option<&Metadata> {
        self.file.as_ref().map(|(_, metadata)| metadata)
    }

    /// Its path, where texts come from a file by name.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The field or column that has the text; `None` where whole lines or arguments do.
    pub(crate) fn field(&self) -> Option<&str> {
        self.field.as_deref()
    }

    /// The columns that are kept.
    pub(crate) fn columns(&self) -> &[Column] {
        self.records.columns()
    }
}

fn refuse_kept(keep: &[String], what: &str) -> Result<(), CliError> {
    if keep.is_empty() {
        return Ok(());
    }
    Err(CliError::Usage(format!(
        "--keep copies columns of a Parquet, CSV or JSONL file (--input FILE), not of {what}"
    )))
}

/// Where the column `name` of a table of `names` is.
fn find_column(option: &str, table: &str, name: &str, names: &[String]) -> Result<usize, CliError> {
    let mut found = names.iter().enumerate().filter(|(_, each)| *each == name);
    match (found.next(), found.next()) {
        (Some((at, _)), None) => Ok(at),
        (Some(_), Some(_)) => {
            Err(CliError::Usage(format!("--{option} {name}: {table} has several columns of that name")))
        }
        (None, _) => Err(CliError::Usage(format!(
            "--{option} {name}: {table} has no such column; there are: {}",
            names.join(", ")
        ))),
    }
}

#[cfg(feature = "parquet")]
fn open_parquet(
    file: File,
    name: String,
    field: &str,
    keep: &[String],
) -> Result<Box<dyn Records>, CliError> {
    Ok(Box::new(parquet::Parquet::new(file, name, field, keep)?))
}

#[cfg(not(feature = "parquet"))]
fn open_parquet(_: File, name: String, _: &str, _: &[String]) -> Result<Box<dyn Records>, CliError> {
    Err(CliError::without_parquet(&name))
}
