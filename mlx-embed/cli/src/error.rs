//! Why a command failed, in the words of the command line.

use std::io;

use mlx_embed::{Error, InputError, TextError};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The command line can't be right.
    #[error("{0}")]
    Usage(String),
    /// The library failed on something other than a single text.
    #[error("{}", in_command_line_words(.0))]
    Embed(#[from] Error),
    /// The service can't start, or ended.
    #[cfg(feature = "serve")]
    #[error(transparent)]
    Serve(#[from] mlx_embed_server::ServeError),
    /// Results are not what they should be; they are printed.
    #[error("{0}")]
    Off(String),
    /// A text can't be read or embedded.
    #[error("{place}: {reason}")]
    Text { place: String, reason: String },
    /// The input can't be read.
    #[error("{name}: {source}")]
    Read { name: String, source: io::Error },
    /// The output can't be written.
    #[error("{name}: {}", why_not_written(source))]
    Write { name: String, source: io::Error },
    /// Texts were left out, each of them with a reason that is printed.
    #[error("{skipped} of {} texts were skipped", skipped + done)]
    Skipped { skipped: usize, done: usize },
    /// A command that streams got this far.
    #[error("{cause}\n{}", how_far(*.written, .output))]
    Stopped { cause: Box<CliError>, written: usize, output: String },
}

/// How to get what this program leaves out.
#[cfg(not(feature = "parquet"))]
pub(crate) const WITHOUT_PARQUET: &str =
    "Parquet is not in this program: cargo install --path mlx-embed/cli, whose features have it by default";

impl CliError {
    /// Parquet where there is none.
    #[cfg(not(feature = "parquet"))]
    pub(crate) fn without_parquet(name: &str) -> Self {
        Self::Usage(format!("{name}: {WITHOUT_PARQUET}"))
    }

    /// The library's error while it embedded several texts, of which `place` names the first.
    pub(crate) fn of_texts(error: Error, place: String) -> Self {
        if concerns_an_option(&error) {
            return Self::Embed(error);
        }
        Self::Text { place: format!("stopped at {place}"), reason: in_command_line_words(&error) }
    }

    /// One text that has no vector.
    pub(crate) fn of_text(error: &InputError, place: String) -> Self {
        let reason = match error {
            InputError::TooManyBytes { bytes, max_bytes } => format!(
                "it has {bytes} bytes, prompt included, but the limit is {max_bytes}; split it, or raise --max-text-bytes"
            ),
            error => error.to_string(),
        };
        Self::Text { place, reason }
    }

    /// There is no thread for a part of the work.
    pub(crate) fn no_thread(source: io::Error) -> Self {
        Self::Embed(Error::Stopped { reason: format!("its thread could not start: {source}") })
    }

    /// Standard output can't be written.
    pub(crate) fn on_stdout(source: io::Error) -> Self {
        Self::Write { name: "standard output".to_owned(), source }
    }

    /// The process's exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Embed(error) if concerns_an_option(error) => 2,
            Self::Stopped { cause, .. } => cause.exit_code(),
            #[cfg(feature = "serve")]
            Self::Serve(mlx_embed_server::ServeError::Config(_)) => 2,
            Self::Skipped { .. } => 3,
            _ => 1,
        }
    }
}

/// Whether another value of an option is what helps.
fn concerns_an_option(error: &Error) -> bool {
    matches!(
        error,
        Error::Option { .. }
            | Error::Golden(_)
            | Error::Text(TextError::UnknownPrompt { .. } | TextError::UnknownEndToken { .. })
    )
}

/// The library's message with options by their names here.
fn in_command_line_words(error: &Error) -> String {
    match error {
        Error::Option { option, reason } => format!("--{} {reason}", option.replace('_', "-")),
        _ => error.to_string(),
    }
}

fn why_not_written(source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::BrokenPipe => "its reader is gone before everything was written".to_owned(),
        _ => source.to_string(),
    }
}

fn how_far(written: usize, output: &str) -> String {
    match written {
        0 => format!("nothing is written to {output}"),
        1 => format!("the result before it is written to {output}"),
        _ => format!("the {written} results before it are written to {output}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_have_their_command_line_names() {
        let error = Error::Option { option: "max_tokens", reason: "is 0".into() };
        let error = CliError::of_texts(error, "line 1".into());
        assert_eq!(error.to_string(), "--max-tokens is 0");
        assert_eq!(error.exit_code(), 2);
    }
}
