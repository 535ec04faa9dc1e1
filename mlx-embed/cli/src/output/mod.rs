//! Where results go: JSONL, `.npy` or `.safetensors`, a window at a time.
//!
//! A file is written beside its name and takes it at the end ([`NewFile`]). A job that fails publishes the whole windows
//! before the failure; one that is killed leaves them in the partial file.

mod encode;
mod jsonl;
mod new_file;
mod npy;
mod numbers;
mod rows;
mod safetensors;
mod sources;

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use crate::error::CliError;
use crate::found::{Found, Kind};
use crate::input::Input;
use encode::Encode;
use numbers::{Dtype, FEW, Numbers, Ranges};
use rows::Rows;

pub(crate) use new_file::NewFile;
pub(crate) use sources::Sources;

/// Where results go, and how.
#[derive(Debug, Args)]
pub(crate) struct OutputArgs {
    /// File for the results; until they are complete it is FILE.partial [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Format of the results [default: as FILE ends, else jsonl]
    #[arg(short, long)]
    format: Option<Format>,

    /// Repeat each text in its JSONL line
    #[arg(long)]
    with_text: bool,

    /// Type of a vector's numbers in npy and safetensors
    #[arg(long, value_name = "TYPE", default_value = "f32", hide_default_value = true)]
    dtype: Dtype,

    /// For int8 the ranges of this file, which --dtype int8 has written as safetensors: queries need those of the
    /// documents [default: of the first window's texts, some hundred]
    #[arg(long, value_name = "FILE")]
    ranges: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// {"index", "text"?, "tokens", "truncated", "embedding"}; in place of the last "indices" and "values" of weights of
    /// tokens, or "token_ids" and "embeddings" of a vector a token
    Jsonl,
    /// NumPy: [texts, dims]; needs --output
    Npy,
    /// embeddings [texts, dims], tokens u32, truncated bool; needs --output
    Safetensors,
}

/// Where results will go; nothing is opened, nothing overwritten yet.
#[derive(Debug)]
pub(crate) struct Target {
    /// `None` is standard output.
    path: Option<PathBuf>,
    format: Format,
    with_text: bool,
    dtype: Dtype,
    ranges: Option<PathBuf>,
    sources: Sources,
}

impl Target {
    /// Refuses what would overwrite the input or a file of the model.
    pub(crate) fn choose(args: OutputArgs, input: &Input, model: Option<&Path>) -> Result<Self, CliError> {
        let is_stdout = |path: &Path| path.as_os_str() == "-" || path == Path::new("/dev/stdout");
        let path = args.output.filter(|path| !is_stdout(path));
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
        if format == Format::Jsonl && args.dtype != Dtype::F32 {
            return usage("--dtype is for npy and safetensors: JSONL has f32, in full");
        }
        if format == Format::Npy && args.dtype == Dtype::Int8 && args.ranges.is_none() {
            return usage(
                "--dtype int8 needs --format safetensors, which keeps the ranges, or --ranges FILE",
            );
        }
        if args.ranges.is_some() && args.dtype != Dtype::Int8 {
            return usage("--ranges is for --dtype int8");
        }
        let mut sources = Sources::of_model(model);
        if let Some(ranges) = args.ranges.as_deref().and_then(|path| fs::metadata(path).ok()) {
            sources.add_input(&ranges);
        }
        if let Some(input) = input.metadata() {
            sources.add_input(&input);
        }
        let (with_text, dtype, ranges) = (args.with_text, args.dtype, args.ranges);
        let target = Self { path, format, with_text, dtype, ranges, sources };
        // Most outputs don't exist yet.
        if let Some(why) = target.metadata().ok().and_then(|old| target.sources.refuse(&old)) {
            return Err(CliError::Usage(format!("{}: {why}: give another --output", target.name())));
        }
        Ok(target)
    }

    /// Refuses what the format can't hold.
    pub(crate) fn check_kind(&self, kind: Kind) -> Result<(), CliError> {
        if kind == Kind::Vector || self.format == Format::Jsonl {
            return Ok(());
        }
        let (words, format) = (kind.words(), self.format.to_possible_value());
        let format = format.map_or_else(String::new, |value| value.get_name().to_owned());
        Err(CliError::Usage(format!(
            "{format} holds one vector a text, and {words} are wanted: use --format jsonl (or a FILE that ends in .jsonl)"
        )))
    }

    fn metadata(&self) -> io::Result<Metadata> {
        match &self.path {
            Some(path) => fs::metadata(path),
            None => File::from(io::stdout().as_fd().try_clone_to_owned()?).metadata(),
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

    /// As a person would call it.
    fn name(&self) -> String {
        self.path.as_ref().map_or("standard output".to_owned(), |path| path.display().to_string())
    }

    /// Whether a person will see the results as they come.
    pub(crate) fn is_terminal(&self) -> bool {
        self.path.is_none() && io::stdout().is_terminal()
    }

    /// Opens it. `dims` is how many numbers each vector has.
    pub(crate) fn open(&self, dims: usize) -> Result<Output, CliError> {
        let name = self.name();
        let ranges = self.ranges.as_deref().map(|path| Ranges::read(path, dims)).transpose()?;
        match self.to(Numbers::new(self.dtype, dims, ranges)) {
            Ok(to) => Ok(Output { name, to }),
            Err(source) => Err(CliError::Write { name, source }),
        }
    }

    /// What is to be known of how numbers are written, if this many texts are the first window.
    pub(crate) fn doubt(&self, texts: usize) -> Option<String> {
        let few = self.dtype == Dtype::Int8 && self.ranges.is_none() && texts < FEW;
        few.then(|| format!("--dtype int8 takes its ranges from {texts} texts, which is few; --ranges takes those of a file"))
    }

    fn to(&self, numbers: Numbers) -> io::Result<To> {
        let jsonl = jsonl::Jsonl { with_text: self.with_text };
        let Some(path) = &self.path else {
            return Ok(To::Stream(Box::new(io::stdout()), jsonl));
        };
        if self.format == Format::Jsonl && fs::metadata(path).is_ok_and(|old| !old.is_file() && !old.is_dir())
        {
            // A pipe or a device takes results as they come.
            let device = OpenOptions::new().write(true).open(path)?;
            return Ok(To::Stream(Box::new(device), jsonl));
        }
        let format: Box<dyn Encode> = match self.format {
            Format::Jsonl => Box::new(jsonl),
            Format::Npy => Box::new(npy::Npy::new(numbers)),
            Format::Safetensors => Box::new(safetensors::Safetensors::new(numbers)),
        };
        let file = NewFile::create(path, |file| self.sources.refuse(file))?;
        Ok(To::File(Rows::new(file, format)?))
    }
}

/// An opened [`Target`].
pub(crate) struct Output {
    name: String,
    to: To,
}

enum To {
    /// Standard output, a pipe, a device.
    Stream(Box<dyn Write>, jsonl::Jsonl),
    File(Rows),
}

impl Output {
    /// Writes results, of which the first has number `first`. After an error they are not part of the file.
    pub(crate) fn write(&mut self, first: usize, texts: &[String], found: &[Found]) -> Result<(), CliError> {
        let result = match &mut self.to {
            To::File(rows) => rows.write(first, texts, found),
            To::Stream(writer, jsonl) => {
                let mut bytes = Vec::new();
                let mut lines = texts.iter().zip(found).enumerate();
                let written = lines.try_for_each(|(offset, (text, each))| {
                    bytes.clear();
                    jsonl.row(first + offset, text, each, &mut bytes)?;
                    writer.write_all(&bytes)
                });
                written.and_then(|()| writer.flush())
            }
        };
        result.map_err(|source| CliError::Write { name: self.name.clone(), source })
    }

    /// Ends the output with `written` results in it, because of `failure` or because that is all.
    pub(crate) fn end(self, written: usize, failure: Option<CliError>) -> Result<(), CliError> {
        let Self { name, to } = self;
        let To::File(mut rows) = to else {
            return match failure {
                None => Ok(()),
                // What a closed pipe still took is nobody's concern.
                Some(cause @ CliError::Write { .. }) => Err(cause),
                Some(cause) => Err(CliError::Stopped { cause: Box::new(cause), written, output: name }),
            };
        };
        let failed = |source| CliError::Write { name: name.clone(), source };
        let failure = match failure {
            // Where rows can't be written, what stands behind them can't be either.
            Some(cause @ CliError::Write { .. }) => Some(cause),
            Some(cause) => Some(rows.end().map_or_else(failed, |()| cause)),
            None => rows.end().map_err(failed).err(),
        };
        let partial = rows.file().partial().display().to_string();
        match failure {
            None => rows.publish().map_err(|source| CliError::Stopped {
                cause: Box::new(failed(source)),
                written,
                output: partial,
            }),
            // What was there before stays.
            Some(cause) if written == 0 => {
                Err(CliError::Stopped { cause: Box::new(cause), written, output: name })
            }
            Some(cause) => {
                let output = if rows.publish().is_ok() { name } else { partial };
                Err(CliError::Stopped { cause: Box::new(cause), written, output })
            }
        }
    }
}
