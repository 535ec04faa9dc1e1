//! Where texts come from: arguments, a file or standard input, a window at a time.

mod lines;

use std::fs::{File, Metadata};
use std::io::{self, IsTerminal};
use std::iter::Enumerate;
use std::path::PathBuf;
use std::sync::Arc;
use std::vec;

use clap::{Args, ValueEnum};
use same_file::Handle;

use crate::error::CliError;
use lines::{Line, Lines};

/// Most texts in a window, and most lines that are skipped on the way to them.
const WINDOW_TEXTS: usize = 1024;

/// What becomes of a job when one of its texts can't be read or embedded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnError {
    /// It ends there
    Stop,
    /// It goes on without; what was wrong is told on stderr, and the exit code is 3
    Skip,
}

/// Where texts come from.
#[derive(Debug, Args)]
pub(crate) struct InputArgs {
    /// Texts; without any, they are read from standard input
    #[arg(value_name = "TEXT", conflicts_with_all = ["input", "field"])]
    texts: Vec<String>,

    /// File with one text a line, or JSONL; `-` is standard input
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,

    /// Read JSONL, the text being the string in this field [default for .jsonl and .ndjson: text]
    #[arg(long, value_name = "NAME")]
    field: Option<String>,
}

/// Texts that are worked on together.
#[derive(Debug)]
pub(crate) struct Window {
    pub(crate) texts: Vec<String>,
    /// The line or argument that each of them is, from 0.
    pub(crate) indices: Vec<usize>,
    /// What is wrong with lines that were skipped.
    pub(crate) skipped: Vec<CliError>,
    /// What is wrong with the input behind them.
    pub(crate) error: Option<CliError>,
    /// Whether nothing follows.
    pub(crate) ended: bool,
}

/// Texts in order.
#[derive(Debug)]
pub(crate) struct Input {
    source: Source,
    /// The file behind it with its length, if it is a regular one.
    file: Option<(Handle, u64)>,
}

#[derive(Debug)]
enum Source {
    Arguments(Enumerate<vec::IntoIter<String>>),
    Lines(Lines),
}

/// How texts are named.
#[derive(Debug, Clone)]
pub(crate) enum Places {
    Arguments,
    /// Of the input with this name.
    Lines(Arc<str>),
}

impl Places {
    /// Of the text with this index.
    pub(crate) fn of(&self, index: usize) -> String {
        match self {
            Self::Arguments => format!("text {} of the command line", index + 1),
            Self::Lines(name) => format!("{name}, line {}", index + 1),
        }
    }
}

/// The next piece of the input.
enum Next {
    Text(usize, String),
    Blank,
    /// Nothing is to be had now.
    Nothing,
    End,
}

impl Input {
    /// Opens what the arguments say; a line may hold a text of `max_text_bytes`.
    pub(crate) fn open(args: InputArgs, max_text_bytes: usize) -> Result<Self, CliError> {
        if !args.texts.is_empty() {
            return Ok(Self { source: Source::Arguments(args.texts.into_iter().enumerate()), file: None });
        }
        match args.input {
            Some(path) if path.as_os_str() != "-" => {
                let name = path.display().to_string();
                let fail = |source| CliError::Read { name: name.clone(), source };
                let file = File::open(&path).map_err(fail)?;
                let handle = Handle::from_file(file.try_clone().map_err(fail)?).map_err(fail)?;
                let is_jsonl = path.extension().is_some_and(|end| end == "jsonl" || end == "ndjson");
                let field = args.field.or_else(|| is_jsonl.then(|| "text".to_owned()));
                Ok(Self::lines(Lines::new(Box::new(file), name, field, max_text_bytes), Some(handle)))
            }
            None if io::stdin().is_terminal() => Err(CliError::Usage(
                "no text: give TEXT arguments, --input FILE, or pipe texts in (`--input -` reads what you type)"
                    .to_owned(),
            )),
            _ => {
                let name = "standard input".to_owned();
                let lines = Lines::new(Box::new(io::stdin()), name, args.field, max_text_bytes);
                Ok(Self::lines(lines, Handle::stdin().ok()))
            }
        }
    }

    fn lines(lines: Lines, handle: Option<Handle>) -> Self {
        let file = handle.and_then(|handle| {
            let metadata = handle.as_file().metadata().ok()?;
            metadata.is_file().then_some((handle, metadata.len()))
        });
        Self { source: Source::Lines(lines), file }
    }

    /// The next texts, about `bytes` of them.
    ///
    /// Input that someone may still be writing is not waited for once there is a text, so that a program on the other
    /// end of two pipes gets its answers.
    pub(crate) fn window(&mut self, bytes: usize, on_error: OnError) -> Window {
        let mut window =
            Window { texts: Vec::new(), indices: Vec::new(), skipped: Vec::new(), error: None, ended: false };
        let mut size = 0;
        while window.texts.len().max(window.skipped.len()) < WINDOW_TEXTS && size < bytes {
            match self.next(window.texts.is_empty()) {
                Ok(Next::Text(index, text)) => {
                    size += text.len();
                    window.texts.push(text);
                    window.indices.push(index);
                }
                Ok(Next::Blank) => {}
                Ok(Next::Nothing) => break,
                Ok(Next::End) => {
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

    /// The texts, and which lines or arguments they are.
    pub(crate) fn read_all(&mut self) -> Result<(Vec<String>, Vec<usize>), CliError> {
        let (mut texts, mut indices) = (Vec::new(), Vec::new());
        loop {
            let window = self.window(usize::MAX, OnError::Stop);
            if let Some(error) = window.error {
                return Err(error);
            }
            texts.extend(window.texts);
            indices.extend(window.indices);
            if window.ended {
                return Ok((texts, indices));
            }
        }
    }

    /// The next piece, for which only a window without texts waits.
    fn next(&mut self, waits: bool) -> Result<Next, CliError> {
        let lines = match &mut self.source {
            Source::Arguments(texts) => {
                return Ok(texts.next().map_or(Next::End, |(index, text)| Next::Text(index, text)));
            }
            Source::Lines(lines) => lines,
        };
        if self.file.is_none() && !waits && !lines.has_whole_line() {
            return Ok(Next::Nothing);
        }
        Ok(match lines.next()? {
            Line::Text(text) => Next::Text(lines.count() - 1, text),
            Line::Blank => Next::Blank,
            Line::End => Next::End,
        })
    }

    /// How a person finds the text with this index.
    pub(crate) fn place(&self, index: usize) -> String {
        self.places().of(index)
    }

    /// How a person finds texts, for when the input is elsewhere.
    pub(crate) fn places(&self) -> Places {
        match &self.source {
            Source::Arguments(_) => Places::Arguments,
            Source::Lines(lines) => lines.places(),
        }
    }

    /// Bytes read so far.
    pub(crate) fn read(&self) -> u64 {
        match &self.source {
            Source::Arguments(_) => 0,
            Source::Lines(lines) => lines.read(),
        }
    }

    /// Bytes of the input, where known.
    pub(crate) fn len(&self) -> Option<u64> {
        self.file.as_ref().map(|(_, len)| *len)
    }

    /// The regular file that texts are read from.
    pub(crate) fn metadata(&self) -> Option<Metadata> {
        self.file.as_ref().and_then(|(handle, _)| handle.as_file().metadata().ok())
    }
}
