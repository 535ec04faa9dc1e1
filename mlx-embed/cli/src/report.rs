//! Reports to standard output: JSON for programs, text for people.

use std::io::{self, Write};

use serde::Serialize;

use crate::error::CliError;

/// Prints `report` as JSON if `json` says so, else `text` of it.
pub(crate) fn print<T: Serialize>(
    json: bool,
    report: &T,
    text: impl FnOnce(&T) -> String,
) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    let result = if json {
        serde_json::to_writer_pretty(&mut stdout, report)
            .map_err(io::Error::from)
            .and_then(|()| writeln!(stdout))
    } else {
        stdout.write_all(text(report).as_bytes())
    };
    result.and_then(|()| stdout.flush()).map_err(CliError::on_stdout)
}
