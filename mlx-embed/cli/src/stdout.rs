//! Standard output that would swallow results.

use crate::error::CliError;

/// Fails where standard output was closed when the program began.
///
/// Rust opens `/dev/null` in its place then, for reading and writing, and whatever is written is lost without an error.
/// Some programs hand just that to those they start, so it can't be told apart; a shell's `> /dev/null` is for writing
/// only.
#[cfg(target_os = "linux")]
pub(crate) fn check_open() -> Result<(), CliError> {
    use std::io;

    use rustix::fs::{OFlags, fcntl_getfl, fstat, stat};

    let leads_nowhere = || -> rustix::io::Result<bool> {
        let stdout = io::stdout();
        let is_null = fstat(&stdout)?.st_rdev == stat("/dev/null")?.st_rdev;
        Ok(is_null && fcntl_getfl(&stdout)? & OFlags::RWMODE == OFlags::RDWR)
    };
    // Where the system doesn't tell, writing will.
    if leads_nowhere().unwrap_or(false) {
        let reason = "closed, or /dev/null opened for reading, too: results would be lost; redirect it, or give \
                      --output FILE";
        return Err(CliError::on_stdout(io::Error::other(reason)));
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn check_open() -> Result<(), CliError> {
    Ok(())
}
