//! `mlx-embed pull`: models into the cache, to be used later.

use std::io::{self, Write};

use clap::Args;
use mlx_embed::Error;
use mlx_embed::hub::{Hub, ModelName};

use crate::error::CliError;
use crate::hub::bar::Bar;

/// Arguments of `pull`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct PullArgs {
    /// Names of models on the hub: owner/name, or owner/name@revision
    #[arg(value_name = "NAME", required = true)]
    names: Vec<ModelName>,

    /// Print no notes and no progress bar to stderr
    #[arg(short, long)]
    quiet: bool,
}

const EXAMPLES: &str = "\
Examples:
  HF_ENDPOINT=https://HOST mlx-embed pull owner/name
  mlx-embed pull owner/name@v1.5 owner/another
  HF_HUB_OFFLINE=1 mlx-embed embed --model owner/name \"a text\"

Prints each model's folder. Only what a checkpoint needs is fetched: weights
(safetensors, or pytorch_model.bin where there are none), config.json, the files
of tokenizer and modules. If a download breaks off, the same command continues
it. A file is used once its hash is right.

HF_ENDPOINT is the hub's address. HF_HOME is where models are kept, by default
~/.cache/huggingface. HF_TOKEN is for gated and private models. The hub's Python
library has the same cache: models that it fetched are found.";

pub(crate) fn run(args: &PullArgs) -> Result<(), CliError> {
    let bar = Bar::new(args.quiet);
    let hub = Hub::from_env().map_err(Error::from)?.on_progress(bar.watcher());
    for name in &args.names {
        let folder = hub.fetch(name);
        bar.clear();
        let folder = folder.map_err(Error::from)?;
        writeln!(io::stdout(), "{}", folder.display()).map_err(CliError::on_stdout)?;
    }
    Ok(())
}
