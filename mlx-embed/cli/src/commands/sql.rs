//! `mlx-embed sql`: runs `mlx-embed-sql`, a program of its own, since an engine of SQL takes long to compile.

use std::env;
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use clap::Args;

use crate::error::CliError;

/// The program.
const PROGRAM: &str = "mlx-embed-sql";

/// Arguments of `sql`, which are those of the program.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct SqlArgs {
    /// A query, and options of `mlx-embed-sql`; `--help` shows them where that is installed
    #[arg(value_name = "QUERY", trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Becomes the program beside this one, else the one in PATH; returns where there is none.
pub(crate) fn run(args: &SqlArgs) -> Result<(), CliError> {
    let error = match beside() {
        Some(path) => become_program(path, args),
        None => become_program(PROGRAM.into(), args),
    };
    if error.kind() == ErrorKind::NotFound {
        return Err(CliError::Usage(format!(
            "`sql` needs {PROGRAM}, which is neither beside this program nor in PATH; build it with Rust 1.94 or later: cargo install --path mlx-embed/datafusion"
        )));
    }
    Err(CliError::Read { name: PROGRAM.to_owned(), source: error })
}

fn beside() -> Option<PathBuf> {
    let path = env::current_exe().ok()?.with_file_name(PROGRAM);
    path.is_file().then_some(path)
}

/// Why the program can't be started.
fn become_program(path: PathBuf, args: &SqlArgs) -> io::Error {
    Command::new(path).args(&args.arguments).exec()
}
