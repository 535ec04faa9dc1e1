//! `mlx-embed`: text in, vectors out, from the command line.
//!
//! A command a file in `commands/`; what commands share is beside it. Exit codes: 0 done, 1 failed, 2 the command line
//! can't be right, 3 done but for texts that were skipped.
#![deny(unsafe_code)]
#![cfg_attr(
    not(feature = "parquet"),
    allow(dead_code, reason = "what stands beside texts goes into Parquet only")
)]

mod any_model;
mod commands;
mod embedded;
mod error;
mod found;
mod hub;
mod input;
mod kind;
mod label;
mod notes;
mod options;
mod output;
mod process;
mod progress;
mod random;
mod report;
mod row;
mod signals;
mod stdout;
mod waiting;
mod windows;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::LazyLock;

use clap::builder::Resettable;
use clap::{CommandFactory, FromArgMatches, Parser};

use commands::Command;

/// Text embeddings and reranking, on CPUs, NVIDIA GPUs and Apple GPUs.
#[derive(Debug, Parser)]
#[command(name = "mlx-embed", max_term_width = 80, args_override_self = true, after_help = after_help())]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[cfg(feature = "hub")]
const MODELS: &str = "\
--model takes a folder
(config.json, tokenizer.json, safetensors weights), or a model's name on a hub,
owner/name, which is fetched once. The environment variable MLX_EMBED_MODEL
takes the same.";
#[cfg(not(feature = "hub"))]
const MODELS: &str = "\
--model takes a folder
(config.json, tokenizer.json, safetensors weights). So does the environment
variable MLX_EMBED_MODEL.";

fn after_help() -> String {
    format!(
        "\
Examples:
  mlx-embed embed --output vectors.npy \"The cat sat on the mat\"
  mlx-embed similarity \"a cat\" \"a feline\" \"the stock market\"
  mlx-embed rerank --model DIR \"where do cats sleep?\" --input docs.txt
  mlx-embed inspect --model DIR

Without --model, the built-in English model is used. {MODELS}
`mlx-embed COMMAND --help` has examples for each command.

Exit codes: 0 done, 1 failed, 2 the command line is wrong, 3 done, but some
texts were skipped."
    )
}

/// As `--version` prints it.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    format!(
        "{} (MLX {}, mlx-c {})",
        env!("CARGO_PKG_VERSION"),
        mlx_embed::mlx::version(),
        mlx_embed::mlx::C_VERSION
    )
});

/// clap takes a variable that is empty for an empty value, and here it counts as unset.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let unset = |arg: clap::Arg| match arg.get_env().and_then(std::env::var_os) {
        Some(value) if value.is_empty() => arg.env(Resettable::Reset),
        _ => arg,
    };
    command.mut_args(unset).mut_subcommands(without_empty_variables)
}

fn main() -> ExitCode {
    signals::handle();
    let command = without_empty_variables(Cli::command().version(VERSION.as_str()));
    let matches = command.get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match cli.command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // With stderr closed there is nobody left to tell.
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_declared_without_contradictions() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_speaks_of_hubs_where_there_are_some() {
        let mut root = Cli::command();
        root.build();
        for command in [&root].into_iter().chain(root.get_subcommands()) {
            let help = command.clone().render_long_help().to_string();
            assert!(cfg!(feature = "hub") || !help.contains("owner/name"), "{help}");
        }
        let embed = root.find_subcommand("embed").map(|embed| embed.clone().render_long_help().to_string());
        assert!(cfg!(not(feature = "hub")) || embed.is_some_and(|help| help.contains("owner/name")));
    }

    #[test]
    fn help_fits_eighty_columns() {
        let mut root = Cli::command();
        root.build();
        for command in [&root].into_iter().chain(root.get_subcommands()) {
            for line in command.clone().render_long_help().to_string().lines() {
                assert!(line.chars().count() <= 80, "{}: {line}", command.get_name());
            }
        }
    }
}
