//! Why a command failed, in the words of the command line.

use std::io;

use mlx_embed::{Error, TextError};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The command line can't be right.
    #[error("{0}")]
    Usage(String),
    /// The library failed on something other than a single text.
    #[error("{}", in_command_line_words(.0))]
    Embed(#[from] Error),
    /// A text can't be read or embedded.
    #[error("{place}: {reason}")]
    Text { place: String, reason: String },
    /// The input can't be read.
    #[error("{name}: {source}")]
    Read { name: String, source: io::Error },
    /// The output can't be written.
    #[error("{name}: {source}")]
    Write { name: String, source: io::Error },
    /// A command that streams got this far.
    #[error("{cause}\n{}", how_far(*.written, .output))]
    Stopped { cause: Box<CliError>, written: usize, output: String },
}

impl CliError {
    /// The library's error while it embedded several texts, the first of them at `first` in the input. `place` names
    /// a text of the input.
    pub(crate) fn of_texts(error: Error, first: usize, place: impl Fn(usize) -> String) -> Self {
        let message = in_command_line_words(&error);
        match failed_text(&error) {
            Some(index) => {
                let reason = message.strip_prefix(&format!("text {index}")).unwrap_or(&message);
                Self::Text {
                    place: place(first + index),
                    reason: reason.trim_start_matches([':', ' ']).to_owned(),
                }
            }
            None if concerns_an_option(&error) => Self::Embed(error),
            None => Self::Text { place: format!("stopped at {}", place(first)), reason: message },
        }
    }

    /// Whether the reader of our output has gone away, as `head` does: it has what it wanted.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Write { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
    }

    /// The process's exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Embed(error) if concerns_an_option(error) => 2,
            Self::Stopped { cause, .. } => cause.exit_code(),
            _ => 1,
        }
    }
}

/// Which of the texts of a call the library failed on, if it was one.
pub(crate) fn failed_text(error: &Error) -> Option<usize> {
    match error {
        Error::NotFinite { index }
        | Error::Text(
            TextError::Tokenizer { index, .. }
            | TextError::Empty { index }
            | TextError::OutsideVocabulary { index, .. },
        ) => Some(*index),
        _ => None,
    }
}

/// Whether another value of an option is what helps.
fn concerns_an_option(error: &Error) -> bool {
    matches!(
        error,
        Error::Option { .. }
            | Error::Text(
                TextError::LimitTooSmall { .. }
                    | TextError::UnknownPrompt { .. }
                    | TextError::UnknownEndToken { .. }
            )
    )
}

/// The library's message with options by their names here.
fn in_command_line_words(error: &Error) -> String {
    match error {
        Error::Option { option, reason } => format!("--{} {reason}", option.replace('_', "-")),
        Error::Text(TextError::LimitTooSmall { .. }) => {
            error.to_string().replacen("max_tokens", "--max-tokens", 1)
        }
        _ => error.to_string(),
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
    fn a_texts_index_becomes_its_place_in_the_input() {
        let error =
            CliError::of_texts(TextError::Empty { index: 2 }.into(), 10, |index| format!("line {index}"));
        assert_eq!(
            error.to_string(),
            "line 12: is empty and this model adds no token of its own; leave it out"
        );
        let error = CliError::of_texts(Error::NotFinite { index: 0 }, 10, |index| format!("line {index}"));
        assert!(error.to_string().starts_with("line 10: the model produced"), "{error}");
    }

    #[test]
    fn options_have_their_command_line_names() {
        let error = Error::Option { option: "max_tokens", reason: "is 0".into() };
        assert_eq!(CliError::from(error).to_string(), "--max-tokens is 0");
        let error = CliError::from(Error::from(TextError::LimitTooSmall { max_tokens: 1, added: 1 }));
        assert!(error.to_string().starts_with("--max-tokens is 1,"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}
