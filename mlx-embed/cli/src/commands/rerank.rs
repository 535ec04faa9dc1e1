//! `mlx-embed rerank`: documents in the order in which they answer a query.

use std::io::{self, BufWriter, Write};
use std::num::NonZeroUsize;

use clap::Args;
use mlx_embed::{DenseActivation, Error, Prompt, Ranked, RerankOptions};
use serde::Serialize;

use crate::error::CliError;
use crate::input::{Input, InputArgs};
use crate::kind::Kind;
use crate::label::label;
use crate::options::{MODEL, ModelArgs, at_least_one};
use crate::stdout;

/// Arguments of `rerank`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[command(mut_arg("texts", |documents| documents
    .value_name("DOCUMENT")
    .help("Documents [default: a document a line on standard input]")))]
#[command(mut_arg("input", |input| input
    .help("File with one document a line, JSONL, CSV (.csv, .tsv) or Parquet; `-` is standard input")))]
#[command(mut_arg("model", |model| model
    .help(format!("{MODEL}, of a reranker"))))]
pub(crate) struct RerankArgs {
    /// Query that each document is scored against
    #[arg(value_name = "QUERY")]
    query: String,

    #[command(flatten)]
    input: InputArgs,

    /// Show only the N best
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    top_n: Option<NonZeroUsize>,

    /// What makes a document a good answer: the instruction of a Qwen3-Reranker; other rerankers get it as text before the
    /// query [default: the checkpoint's]
    #[arg(long, value_name = "TEXT", conflicts_with = "prompt_name")]
    instruction: Option<String>,

    /// One of the checkpoint's prompts as the instruction; `inspect` lists them
    #[arg(long, value_name = "NAME")]
    prompt_name: Option<String>,

    /// Show logits, without the checkpoint's activation
    #[arg(long)]
    raw: bool,

    /// Print {"query": ..., "results": [{"index": ..., "score": ...}, ...]} instead of a table
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    model: ModelArgs,
}

const EXAMPLES: &str = "\
Examples:
  mlx-embed rerank --model DIR \"where do cats sleep?\" \"on the mat\" \"at sea\"
  mlx-embed rerank --model DIR \"where do cats sleep?\" --input docs.txt
  grep -h cat *.txt | mlx-embed rerank --model DIR --top-n 5 --json \"a query\"
  mlx-embed rerank --model DIR --instruction \"Find the cause of an error\" \\
    \"segfault at exit\" --input commits.jsonl --field message

DIR holds a reranker: a sequence classifier with one label (BERT and other
encoders), a causal decoder whose answer is a token (Qwen3-Reranker), or an
encoder with modules that make a score (ettin-reranker). A higher score is
better; most models give numbers between 0 and 1. An index is the document's
line or argument, counted from 0; the table counts from 1. If a pair is too
long, the end of the document is cut.";

/// Columns of a document in the table.
const LABEL: usize = 60;

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    query: &'a str,
    results: Vec<Row<'a>>,
}

#[derive(Debug, Serialize)]
struct Row<'a> {
    index: usize,
    score: f32,
    tokens: usize,
    truncated: bool,
    document: &'a str,
}

pub(crate) fn run(args: RerankArgs) -> Result<(), CliError> {
    stdout::check_open()?;
    let mut input = Input::open(args.input, &[], args.model.max_text_bytes())?;
    let (documents, indices) = input.read_all()?;
    if documents.is_empty() {
        return Err(CliError::Usage("rerank needs at least 1 document, and got none".to_owned()));
    }
    let reranker = args.model.load_reranker()?;
    let notes = args.model.notes();
    notes.about_model(reranker.info(), Kind::Vector);
    let options = RerankOptions {
        instruction: match (args.instruction, args.prompt_name) {
            (Some(text), _) => Prompt::Text(text),
            (None, Some(name)) => Prompt::Named(name),
            (None, None) => Prompt::Default,
        },
        top_n: args.top_n,
        activation: args.raw.then_some(DenseActivation::Identity),
        ..Default::default()
    };
    let ranked = reranker.rerank_with(&args.query, &documents, &options).map_err(|error| match error {
        Error::Input { index, source } => CliError::of_text(&source, input.place(indices[index])),
        error => error.into(),
    })?;
    let truncated = ranked.iter().filter(|ranked| ranked.truncated).count();
    notes.about_texts(truncated, ranked.len(), reranker.info().max_tokens);

    let row = |ranked: &Ranked| Row {
        index: indices[ranked.index],
        score: ranked.score,
        tokens: ranked.tokens,
        truncated: ranked.truncated,
        document: &documents[ranked.index],
    };
    let report = Report { query: &args.query, results: ranked.iter().map(row).collect() };
    let mut stdout = BufWriter::new(io::stdout().lock());
    let result = if args.json { json(&mut stdout, &report) } else { table(&mut stdout, &report) };
    result.and_then(|()| stdout.flush()).map_err(CliError::on_stdout)
}

fn json(out: &mut impl Write, report: &Report<'_>) -> io::Result<()> {
    serde_json::to_writer(&mut *out, report)?;
    writeln!(out)
}

/// A line a document: its score, its number from 1, and how it begins.
fn table(out: &mut impl Write, report: &Report<'_>) -> io::Result<()> {
    let digits = report.results.iter().map(|row| (row.index + 1).to_string().len()).max().unwrap_or(1);
    for row in &report.results {
        writeln!(out, "{:>9.4} {:>digits$} {}", row.score, row.index + 1, label(row.document, LABEL))?;
    }
    Ok(())
}
