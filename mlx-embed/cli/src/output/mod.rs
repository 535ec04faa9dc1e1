//! Where results go: JSONL, `.npy` or `.safetensors` a window at a time, `.parquet` a row group at a time.
//!
//! A file is written beside its name and takes it at the end ([`NewFile`]). A job that fails publishes the whole windows
//! before the failure; one that is killed leaves them in the partial file. Of Parquet either leaves the row groups that
//! are done, and the same job continues with them.

mod encode;
mod jsonl;
mod new_file;
mod npy;
mod numbers;
#[cfg(feature = "parquet")]
mod parquet;
mod ranges;
mod rows;
mod safetensors;
mod sources;

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use crate::error::CliError;
#[cfg(not(feature = "parquet"))]
use crate::error::WITHOUT_PARQUET;
use crate::found::Encoder;
use crate::input::Input;
use crate::kind::Kind;
use crate::options::{CommonArgs, at_least_one};
use crate::row::Row;
use crate::waiting::Waiting;
use encode::Encode;
use numbers::{Dtype, Numbers};
use rows::Rows;

pub(crate) use new_file::NewFile;
pub(crate) use sources::Sources;

/// Rows of a row group of Parquet: some megabytes, and what is embedded again at most.
const ROW_GROUP: NonZeroUsize = NonZeroUsize::new(4096).expect("it is not 0");

/// Where results go, and how.
#[derive(Debug, Args)]
pub(crate) struct OutputArgs {
    /// File for the results. Until they are complete they are in FILE.partial; Parquet has a folder FILE.parts, too
    /// [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Format of the results [default: as FILE ends, else jsonl]
    #[arg(short, long)]
    format: Option<Format>,

    /// Write the text beside its result: in its JSONL line, or in a column `text` of Parquet
    #[arg(long)]
    with_text: bool,

    /// Columns of the input that Parquet keeps, with their types, before the vectors; names are separated by commas
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    keep: Vec<String>,

    /// Rows in each row group of Parquet. The same command continues a job that was killed after its
    /// last whole row group [default: 4096]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    row_group: Option<NonZeroUsize>,

    /// Type of the numbers in npy, safetensors and Parquet
    #[arg(long, value_name = "TYPE", default_value = "f32", hide_default_value = true)]
    dtype: Dtype,

    /// Ranges for int8: those of a safetensors or Parquet file that --dtype int8 has written. Queries need the ranges of
    /// their documents [default: ranges of the first few hundred texts; for Parquet, of the first row group]
    #[arg(long, value_name = "FILE")]
    ranges: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// {"index", "text"?, "tokens", "truncated", "embedding"}; --kind sparse has "indices" and "values" in place of the last,
    /// --kind tokens "token_ids" and "embeddings"
    Jsonl,
    /// NumPy, an array [texts, dims]; needs --output
    Npy,
    /// Tensors: embeddings [texts, dims], tokens [texts] u32, truncated [texts] bool; needs --output
    Safetensors,
    /// The columns of --keep, then `embedding`, a list of fixed size, null where the text is null; needs --output. The
    /// same command continues a job that was killed
    Parquet,
}

/// Where results will go; nothing is opened, nothing overwritten yet.
#[derive(Debug)]
pub(crate) struct Target {
    /// `None` is standard output.
    path: Option<PathBuf>,
    format: Format,
    with_text: bool,
    row_group: NonZeroUsize,
    dtype: Dtype,
    ranges: Option<PathBuf>,
    sources: Sources,
}

impl OutputArgs {
    /// Columns of the input that are wanted in the output.
    pub(crate) fn keep(&self) -> &[String] {
        &self.keep
    }
}

impl Target {
    /// Refuses what would overwrite the input or a file of the model.
    pub(crate) fn choose(args: OutputArgs, input: &Input, model: Option<&Path>) -> Result<Self, CliError> {
        let is_stdout = |path: &Path| path.as_os_str() == "-" || path == Path::new("/dev/stdout");
        let path = args.output.filter(|path| !is_stdout(path));
        let usage = |message: &str| Err(CliError::Usage(message.to_owned()));
        let end = path.as_ref().and_then(|path| path.extension()).and_then(|end| end.to_str());
        let by_name = match end.map(str::to_ascii_lowercase).as_deref() {
            Some("npy") => Some(Format::Npy),
            Some("safetensors") => Some(Format::Safetensors),
            Some("parquet" | "pq") => Some(Format::Parquet),
            // What reads these would fail at JSONL.
            Some(end @ ("csv" | "tsv" | "npz")) if args.format.is_none() => {
                return usage(&format!(
                    "no .{end} is written: give an --output that ends in .jsonl, .npy, .safetensors or .parquet, or --format"
                ));
            }
            _ => None,
        };
        let format = args.format.or(by_name).unwrap_or(Format::Jsonl);
        if format != Format::Jsonl && path.is_none() {
            return usage("npy, safetensors and Parquet can't be streamed: give --output FILE");
        }
        if matches!(format, Format::Npy | Format::Safetensors) && args.with_text {
            return usage("--with-text needs --format jsonl or parquet: the other formats hold numbers only");
        }
        if format == Format::Jsonl && args.dtype != Dtype::F32 {
            return usage("--dtype is for npy, safetensors and Parquet: JSONL has f32, in full");
        }
        if format == Format::Npy && args.dtype == Dtype::Int8 && args.ranges.is_none() {
            return usage(
                "--dtype int8 needs --format safetensors or parquet, which keep the ranges, or --ranges FILE",
            );
        }
        if format != Format::Parquet && (!args.keep.is_empty() || args.row_group.is_some()) {
            return usage("--keep and --row-group are for Parquet: give an --output that ends in .parquet");
        }
        #[cfg(not(feature = "parquet"))]
        if format == Format::Parquet {
            return usage(WITHOUT_PARQUET);
        }
        if args.ranges.is_some() && args.dtype != Dtype::Int8 {
            return usage("--ranges is for --dtype int8");
        }
        let mut sources = Sources::of_model(model);
        if let Some(ranges) = args.ranges.as_deref().and_then(|path| fs::metadata(path).ok()) {
            sources.add_input(&ranges);
        }
        if let Some(input) = input.metadata() {
            sources.add_input(input);
        }
        let row_group = args.row_group.unwrap_or(ROW_GROUP);
        let (with_text, dtype, ranges) = (args.with_text, args.dtype, args.ranges);
        let target = Self { path, format, with_text, row_group, dtype, ranges, sources };
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
            "{format} holds one vector per text, and this model gives {words}: use --format jsonl (or a FILE that ends in .jsonl)"
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

    /// Opens it for the vectors that `model` makes of `input`, which then begins where an earlier run of this job ended.
    pub(crate) fn open(
        self,
        input: &mut Input,
        model: &Encoder,
        common: &CommonArgs,
    ) -> Result<Output, CliError> {
        let (name, dims) = (self.name(), model.dims());
        let ranges = self.ranges.as_deref().map(|path| ranges::read(path, dims)).transpose()?;
        let numbers = Numbers::new(self.dtype, dims, ranges, common.model.notes());
        if self.format == Format::Parquet {
            return self.open_parts(input, model, common, numbers);
        }
        match self.to(numbers) {
            Ok(to) => Ok(Output { name, to }),
            Err(source) => Err(CliError::Write { name, source }),
        }
    }

    #[cfg(feature = "parquet")]
    fn open_parts(
        self,
        input: &mut Input,
        model: &Encoder,
        common: &CommonArgs,
        numbers: Numbers,
    ) -> Result<Output, CliError> {
        let (name, records) = (self.name(), self.row_group.get());
        // Other kinds were refused, and so was standard output.
        let (Encoder::Vector(model), Some(path)) = (model, &self.path) else {
            return Err(CliError::Usage(format!("{name}: Parquet holds one vector per text")));
        };
        let dtype = self.dtype.to_possible_value().map_or(String::new(), |dtype| dtype.get_name().to_owned());
        let written = parquet::Written { dtype, with_text: self.with_text, records };
        let job = parquet::Job::new(input, common.model.name(), model, &written)?;
        let job = job.with_ranges(numbers.known_ranges());
        let sources = self.sources;
        let parts = parquet::Parts::open(path, job, numbers, move |file| sources.refuse(file))
            .map_err(|source| CliError::Write { name: name.clone(), source })?;
        let (done, made) = parts.made();
        input.set_parts(records, done)?;
        if done > 0 {
            common.model.notes().say(&format!(
                "{} results are in {} already; the job continues after them",
                made.rows,
                parts.folder().display()
            ));
        }
        Ok(Output { name, to: To::Parts(Box::new(parts)) })
    }

    #[cfg(not(feature = "parquet"))]
    fn open_parts(self, _: &mut Input, _: &Encoder, _: &CommonArgs, _: Numbers) -> Result<Output, CliError> {
        Err(CliError::without_parquet(&self.name()))
    }

    fn to(self, numbers: Numbers) -> io::Result<To> {
        let jsonl = jsonl::Jsonl { with_text: self.with_text };
        let Some(path) = &self.path else {
            return Ok(To::Stream(Box::new(io::stdout()), jsonl));
        };
        if self.format == Format::Jsonl && fs::metadata(path).is_ok_and(|old| !old.is_file() && !old.is_dir())
        {
            // A pipe or a device takes results as they come.
            let waiting = Waiting::on(path, "somebody reads from it");
            let device = OpenOptions::new().write(true).open(path)?;
            drop(waiting);
            return Ok(To::Stream(Box::new(device), jsonl));
        }
        let format: Box<dyn Encode> = match self.format {
            Format::Npy => Box::new(npy::Npy::new(numbers)),
            Format::Safetensors => Box::new(safetensors::Safetensors::new(numbers)),
            Format::Jsonl | Format::Parquet => Box::new(jsonl),
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
    #[cfg(feature = "parquet")]
    Parts(Box<parquet::Parts>),
}

/// What earlier runs of a job have made.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Done {
    /// Results that are in the output.
    pub(crate) rows: usize,
    /// Texts that were left out.
    pub(crate) skipped: usize,
    /// Texts that were cut.
    pub(crate) truncated: usize,
}

impl Output {
    /// What there is of the output already.
    pub(crate) fn done(&self) -> Done {
        match &self.to {
            To::Stream(..) | To::File(_) => Done::default(),
            #[cfg(feature = "parquet")]
            To::Parts(parts) => {
                let parquet::Made { rows, skipped, truncated } = parts.made().1;
                Done { rows, skipped, truncated }
            }
        }
    }

    /// Writes results. After an error they are not part of the file.
    pub(crate) fn write(&mut self, rows: Vec<Row>) -> Result<(), CliError> {
        let result = match &mut self.to {
            To::File(_) if rows.is_empty() => Ok(()),
            To::File(file) => file.write(&rows),
            To::Stream(writer, jsonl) => stream(&rows, writer, jsonl),
            #[cfg(feature = "parquet")]
            To::Parts(parts) => {
                parts.write(rows);
                Ok(())
            }
        };
        result.map_err(|source| CliError::Write { name: self.name.clone(), source })
    }

    /// After a window that left out `skipped` texts and reaches up to record `position` of the input.
    pub(crate) fn end_window(&mut self, position: usize, skipped: usize) -> Result<(), CliError> {
        match &mut self.to {
            To::Stream(..) | To::File(_) => {
                let _ = (position, skipped);
                Ok(())
            }
            #[cfg(feature = "parquet")]
            To::Parts(parts) => parts
                .end_window(position, skipped)
                .map_err(|source| CliError::Write { name: self.name.clone(), source }),
        }
    }

    /// Ends the output with `written` results in it, because of `failure` or because that is all.
    pub(crate) fn end(self, written: usize, failure: Option<CliError>) -> Result<(), CliError> {
        match self.to {
            To::File(rows) => end_file(self.name, rows, written, failure),
            To::Stream(..) => match failure {
                None => Ok(()),
                // What a closed pipe still took is nobody's concern.
                Some(cause @ CliError::Write { .. }) => Err(cause),
                Some(cause) => Err(stopped(cause, written, self.name)),
            },
            #[cfg(feature = "parquet")]
            To::Parts(parts) => end_parts(self.name, *parts, failure),
        }
    }
}

fn stopped(cause: CliError, written: usize, output: String) -> CliError {
    CliError::Stopped { cause: Box::new(cause), written, output }
}

fn stream(rows: &[Row], writer: &mut dyn Write, jsonl: &mut jsonl::Jsonl) -> io::Result<()> {
    let mut bytes = Vec::new();
    for (row, found) in rows.iter().filter_map(|row| Some((row, row.found.as_ref()?))) {
        bytes.clear();
        jsonl.row(row, found, &mut bytes)?;
        writer.write_all(&bytes)?;
    }
    writer.flush()
}

fn end_file(name: String, mut rows: Rows, written: usize, failure: Option<CliError>) -> Result<(), CliError> {
    let failed = |source| CliError::Write { name: name.clone(), source };
    let failure = match failure {
        // Where rows can't be written, what stands behind them can't be either.
        Some(cause @ CliError::Write { .. }) => Some(cause),
        Some(cause) => Some(rows.end().map_or_else(failed, |()| cause)),
        None => rows.end().map_err(failed).err(),
    };
    let partial = rows.file().partial().display().to_string();
    match failure {
        None => rows.publish().map_err(|source| stopped(failed(source), written, partial)),
        // What was there before stays.
        Some(cause) if written == 0 => Err(stopped(cause, written, name)),
        Some(cause) => {
            let output = if rows.publish().is_ok() { name } else { partial };
            Err(stopped(cause, written, output))
        }
    }
}

#[cfg(feature = "parquet")]
fn end_parts(name: String, parts: parquet::Parts, failure: Option<CliError>) -> Result<(), CliError> {
    let folder = parts.folder().display().to_string();
    let continued = if parts.is_repeatable() { "; the same command continues from there" } else { "" };
    let failure = failure.or_else(|| parts.check_input().err());
    let (cause, rows) = match failure {
        Some(cause) => (cause, parts.abandon()),
        None => match parts.publish() {
            Ok(()) => return Ok(()),
            Err((source, rows)) => (CliError::Write { name: name.clone(), source }, rows),
        },
    };
    let output = if rows == 0 { name } else { format!("{folder}{continued}") };
    Err(stopped(cause, rows, output))
}
