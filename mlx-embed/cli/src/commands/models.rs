//! `mlx-embed models`: what is in the cache, and whether this program runs it.

use clap::Args;
use mlx_embed::Error;
use mlx_embed::hub::{CachedModel, Hub};
use serde::Serialize;

use crate::error::CliError;
use crate::notes::Notes;
use crate::report;

/// Arguments of `models`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ModelsArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Print no notes to stderr
    #[arg(short, long)]
    quiet: bool,
}

const EXAMPLES: &str = "\
Examples:
  mlx-embed models
  mlx-embed models --json | jq -r '.[] | select(.runs) | .folder'

Prints a line for each commit of a model in the cache (HF_HOME, by default
~/.cache/huggingface). A commit is named by a branch or tag that led to it when
the hub was last asked, else by its hash. Files are opened and checked; no model
is loaded.";

/// A model, and what becomes of it here.
#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    model: CachedModel,
    runs: bool,
    /// Why not.
    reason: Option<String>,
}

impl Row {
    fn of(model: CachedModel) -> Self {
        let reason = mlx_embed::check(&model.folder).err().map(|error| error.to_string());
        Self { runs: reason.is_none(), reason, model }
    }

    /// What it is called, by the revision that people know.
    fn name(&self) -> String {
        let CachedModel { repository, commit, revisions, .. } = &self.model;
        match &revisions[..] {
            [] => format!("{repository}@{commit}"),
            revisions if revisions.iter().any(|revision| revision == "main") => repository.clone(),
            [revision, ..] => format!("{repository}@{revision}"),
        }
    }
}

pub(crate) fn run(args: &ModelsArgs) -> Result<(), CliError> {
    let hub = Hub::from_env().map_err(Error::from)?;
    let models = hub.cached().map_err(Error::from)?;
    let rows: Vec<Row> = models.into_iter().map(Row::of).collect();
    if rows.is_empty() {
        Notes::new(args.quiet).say(&format!("there is no model in {}", hub.cache.display()));
    }
    report::print(args.json, &rows, |rows| table(rows))
}

fn table(rows: &[Row]) -> String {
    let names: Vec<String> = rows.iter().map(Row::name).collect();
    let widest = names.iter().map(String::len).max().unwrap_or_default();
    let line = |(row, name): (&Row, &String)| {
        let size = size(row.model.bytes);
        match &row.reason {
            None => format!("{name:<widest$}  {size:>10}  runs\n"),
            Some(reason) => format!("{name:<widest$}  {size:>10}  does not run: {reason}\n"),
        }
    };
    rows.iter().zip(&names).map(line).collect()
}

fn size(bytes: u64) -> String {
    let (unit, name) = if bytes < 1 << 30 { (1 << 20, "MiB") } else { (1 << 30, "GiB") };
    format!("{:.1} {name}", bytes as f64 / f64::from(unit))
}
