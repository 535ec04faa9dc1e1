//! Where results go: JSONL, `.npy` or `.safetensors`, a window at a time.
//!
//! Each window is flushed, and the binary formats have their headers brought up to date with it: a job that is
//! interrupted leaves a file that holds every whole window.

mod jsonl;
mod npy;
mod safetensors;

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use mlx_embed::Embedding;
use same_file::Handle;

use crate::error::CliError;
use crate::input::Input;

/// Where results go, and how.
#[derive(Debug, Args)]
pub(crate) struct OutputArgs {
    /// File for the results [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Format of the results [default: as FILE ends, else jsonl]
    #[arg(short, long)]
    format: Option<Format>,

    /// Repeat each text in its JSONL line
    #[arg(long)]
    with_text: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// {"index", "text"?, "tokens", "truncated", "embedding"}
    Jsonl,
    /// NumPy: f32 [texts, dims]; needs --output
    Npy,
    /// embeddings f32 [texts, dims], tokens u32, truncated bool; needs --output
    Safetensors,
}

/// A format's way of writing a window of results.
trait Sink {
    /// Writes results, of which the first has number `first`, and flushes them.
    fn write(&mut self, first: usize, texts: &[String], embeddings: &[Embedding]) -> io::Result<()>;

    /// Writes what can only follow the last result.
    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where results will go; nothing is opened, nothing overwritten yet.
#[derive(Debug)]
pub(crate) struct Target {
    /// `None` is standard output.
    path: Option<PathBuf>,
    format: Format,
    with_text: bool,
}

impl Target {
    pub(crate) fn choose(args: OutputArgs, input: &Input) -> Result<Self, CliError> {
        let path = args.output.filter(|path| path.as_os_str() != "-");
        let by_name = path.as_ref().and_then(|path| path.extension()).and_then(|end| match end.to_str() {
            Some("npy") => Some(Format::Npy),
            Some("safetensors") => Some(Format::Safetensors),
            _ => None,
        });
        let format = args.format.or(by_name).unwrap_or(Format::Jsonl);
        let usage = |message: &str| Err(CliError::Usage(message.to_owned()));
        if format != Format::Jsonl && path.is_none() {
            return usage("npy and safetensors can't be streamed: give --output FILE");
        }
        if format != Format::Jsonl && args.with_text {
            return usage("--with-text needs --format jsonl: the other formats hold numbers only");
        }
        let handle = match &path {
            Some(path) => Handle::from_path(path),
            None => Handle::stdout(),
        };
        // Most outputs don't exist yet.
        if handle.is_ok_and(|handle| input.is_same_file(&handle)) {
            return usage("the output would overwrite the input: give another --output");
        }
        Ok(Self { path, format, with_text: args.with_text })
    }

    /// Refuses to write over a file of the model.
    pub(crate) fn spare(&self, model: &Path) -> Result<(), CliError> {
        // What does not exist yet can't be overwritten.
        let inside = |path: &PathBuf| Ok(path.canonicalize()?.starts_with(model.canonicalize()?));
        let inside: io::Result<bool> = self.path.as_ref().map_or(Ok(false), inside);
        match (&self.path, inside) {
            (Some(path), Ok(true)) => Err(CliError::Usage(format!(
                "{} stands in the model's directory and would be overwritten: give another --output",
                path.display()
            ))),
            _ => Ok(()),
        }
    }

    /// Whether results go to standard output.
    pub(crate) fn is_stdout(&self) -> bool {
        self.path.is_none()
    }

    /// Whether results say which line or argument they belong to.
    pub(crate) fn tells_lines(&self) -> bool {
        self.format == Format::Jsonl
    }

    /// Whether a person will see the results as they come.
    pub(crate) fn is_terminal(&self) -> bool {
        self.path.is_none() && io::stdout().is_terminal()
    }

    /// Opens it; a file that exists is overwritten. `dims` is how many numbers each vector has.
    pub(crate) fn open(&self, dims: usize) -> Result<Output, CliError> {
        let name = match &self.path {
            Some(path) => path.display().to_string(),
            None => "standard output".to_owned(),
        };
        match self.sink(dims) {
            Ok(sink) => Ok(Output { name, sink }),
            Err(source) => Err(CliError::Write { name, source }),
        }
    }

    fn sink(&self, dims: usize) -> io::Result<Box<dyn Sink>> {
        let Some(path) = &self.path else {
            return Ok(Box::new(jsonl::Jsonl::new(io::stdout(), self.with_text)));
        };
        if self.format == Format::Jsonl {
            return Ok(Box::new(jsonl::Jsonl::new(File::create(path)?, self.with_text)));
        }
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("not a regular file, which this format needs"));
        }
        Ok(match self.format {
            Format::Npy => Box::new(npy::Npy::new(file, dims)?),
            _ => Box::new(safetensors::Safetensors::new(file, dims)?),
        })
    }
}

/// An opened [`Target`].
pub(crate) struct Output {
    name: String,
    sink: Box<dyn Sink>,
}

impl Output {
    /// As a person would call it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Writes results, of which the first has number `first`.
    pub(crate) fn write(
        &mut self,
        first: usize,
        texts: &[String],
        embeddings: &[Embedding],
    ) -> Result<(), CliError> {
        let result = self.sink.write(first, texts, embeddings);
        result.map_err(|source| CliError::Write { name: self.name.clone(), source })
    }

    /// Writes what follows the last result.
    pub(crate) fn finish(&mut self) -> Result<(), CliError> {
        self.sink.finish().map_err(|source| CliError::Write { name: self.name.clone(), source })
    }
}

/// Vectors as little-endian f32, one behind the other.
fn write_vectors(file: &mut impl Write, embeddings: &[Embedding]) -> io::Result<()> {
    for embedding in embeddings {
        for number in &embedding.vector {
            file.write_all(&number.to_le_bytes())?;
        }
    }
    Ok(())
}

/// Puts `header` at the start of the file, then goes to the end again.
fn write_header(file: &mut (impl Write + Seek), header: &[u8]) -> io::Result<()> {
    file.seek(SeekFrom::Start(0))?;
    file.write_all(header)?;
    file.seek(SeekFrom::End(0))?;
    file.flush()
}
