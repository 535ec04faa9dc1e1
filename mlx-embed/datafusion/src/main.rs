//! `mlx-embed-sql 'SELECT …'`: SQL over files, with functions that embed, rerank and compare texts.
#![deny(unsafe_code)]

use std::error::Error;
use std::io::{self, BufWriter, ErrorKind, IsTerminal, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::csv;
use datafusion::arrow::json::LineDelimitedWriter;
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::prelude::SessionContext;
use futures_util::StreamExt;
use mlx_embed::{Device, Embedder, LoadOptions, Reranker};

/// SQL over files, with functions that embed, rerank and compare texts.
#[derive(Debug, Parser)]
#[command(name = "mlx-embed-sql", version, max_term_width = 80, after_help = EXAMPLES)]
struct Args {
    /// The query; files are tables by their names in quotes
    query: String,

    /// Checkpoint directory of the model that `embed` asks [default: the built-in English model]
    #[arg(short, long, value_name = "DIR", env = "MLX_EMBED_MODEL", hide_env_values = true)]
    model: Option<PathBuf>,

    /// Checkpoint directory of the model that `rerank` asks
    #[arg(long, value_name = "DIR")]
    reranker: Option<PathBuf>,

    /// Where the models run: auto, cpu or gpu
    #[arg(long, value_name = "WHERE", default_value = "auto")]
    device: Device,

    /// Threads of a model on the CPU [default: every core]
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,

    /// How rows are printed [default: a table on a terminal, else JSONL]
    #[arg(short, long)]
    format: Option<Format>,
}

const EXAMPLES: &str = "\
Functions beside DataFusion's own:
  embed(text), embed(text, prompt => 'query')   the vector, a list of f32
  rerank(query, text)                           how well text answers, f32
  cosine(a, b)                                  of two vectors, f64

Examples:
  mlx-embed-sql \"SELECT id, cosine(embed(body), embed('cats asleep')) AS score
      FROM 'docs/*.parquet' ORDER BY score DESC LIMIT 5\"
  mlx-embed-sql \"COPY (SELECT id, embed(body) AS embedding FROM 'docs.csv')
      TO 'vectors.parquet'\"
  mlx-embed-sql --reranker DIR \"SELECT body FROM 'docs.parquet'
      WHERE rerank('where do cats sleep?', body) > 0.5\"";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people; held in memory until the query ends
    Table,
    /// An object a line, as rows come
    Jsonl,
    /// Lists, such as vectors, have no place in it
    Csv,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        // Who listened has heard enough.
        Err(error) if is_broken_pipe(error.as_ref()) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().build()?;
    let context = context(args)?;
    runtime.block_on(async {
        let rows = context.sql(&args.query).await?.execute_stream().await?;
        let by_default = if io::stdout().is_terminal() { Format::Table } else { Format::Jsonl };
        print(rows, args.format.unwrap_or(by_default)).await
    })
}

fn context(args: &Args) -> Result<SessionContext, Box<dyn Error>> {
    let options = LoadOptions { device: args.device, threads: args.threads, ..Default::default() };
    let context = SessionContext::new().enable_url_table();
    let model = args.model.as_deref().filter(|model| !model.as_os_str().is_empty());
    let embedder = match model {
        Some(dir) => Embedder::load_with(dir, options.clone())?,
        None => Embedder::default_model_with(options.clone())?,
    };
    mlx_embed_datafusion::register(&context, embedder);
    if let Some(dir) = &args.reranker {
        mlx_embed_datafusion::register_reranker(&context, Reranker::load_with(dir, options)?);
    }
    Ok(context)
}

async fn print(mut rows: SendableRecordBatchStream, format: Format) -> Result<(), Box<dyn Error>> {
    let mut out = BufWriter::new(io::stdout());
    let mut all: Vec<RecordBatch> = Vec::new();
    let mut header = true;
    while let Some(batch) = rows.next().await {
        let batch = batch?;
        match format {
            Format::Table => all.push(batch),
            Format::Jsonl => {
                let mut bytes = Vec::new();
                LineDelimitedWriter::new(&mut bytes).write(&batch)?;
                out.write_all(&bytes)?;
            }
            Format::Csv => {
                let mut bytes = Vec::new();
                csv::WriterBuilder::new().with_header(header).build(&mut bytes).write(&batch)?;
                out.write_all(&bytes)?;
                header = false;
            }
        }
        out.flush()?;
    }
    if format == Format::Table {
        writeln!(out, "{}", pretty_format_batches(&all)?)?;
    }
    out.flush()?;
    Ok(())
}
