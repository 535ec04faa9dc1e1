//! `mlx-embed-sql 'SELECT …'`: SQL over files, with functions that embed, rerank and compare texts.
#![deny(unsafe_code)]

mod models;

use std::error::Error;
use std::io::{self, BufWriter, ErrorKind, IsTerminal, Write};
use std::num::NonZeroUsize;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::csv;
use datafusion::arrow::json::LineDelimitedWriter;
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::prelude::SessionContext;
use futures_util::StreamExt;
use models::ModelArgs;

/// SQL over files, with functions that embed, rerank and compare texts.
#[derive(Debug, Parser)]
#[command(name = "mlx-embed-sql", version, max_term_width = 80, after_help = EXAMPLES)]
struct Args {
    /// The query; files are tables by their names in quotes
    query: String,

    #[command(flatten)]
    models: ModelArgs,

    /// Run the query on the cluster of the Ballista scheduler at this address
    #[arg(long, value_name = "HOST:PORT")]
    scheduler: Option<String>,

    /// Parts that a query's work is cut into [default: as many as cores, 16 on a cluster]
    #[arg(long, value_name = "N")]
    partitions: Option<NonZeroUsize>,

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
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let context = match &args.scheduler {
            Some(address) => remote(address, &args.models).await?,
            None => local(&args.models)?,
        };
        let context = context.enable_url_table();
        if let Some(partitions) = args.partitions {
            context.state_ref().write().config_mut().options_mut().execution.target_partitions =
                partitions.into();
        }
        let rows = context.sql(&args.query).await?.execute_stream().await?;
        let by_default = if io::stdout().is_terminal() { Format::Table } else { Format::Jsonl };
        print(rows, args.format.unwrap_or(by_default)).await
    })
}

fn local(models: &ModelArgs) -> Result<SessionContext, Box<dyn Error>> {
    let context = SessionContext::new();
    let (embedder, reranker) = models.load()?;
    mlx_embed_datafusion::register(&context, embedder);
    if let Some(reranker) = reranker {
        mlx_embed_datafusion::register_reranker(&context, reranker);
    }
    Ok(context)
}

#[cfg(feature = "ballista")]
async fn remote(address: &str, models: &ModelArgs) -> Result<SessionContext, Box<dyn Error>> {
    let (embedder, reranker) = models.ids()?;
    Ok(mlx_embed_datafusion::ballista::remote(address, embedder, reranker).await?)
}

#[cfg(not(feature = "ballista"))]
async fn remote(_: &str, _: &ModelArgs) -> Result<SessionContext, Box<dyn Error>> {
    Err("--scheduler needs a program that was built with the feature `ballista`: \
         cargo install --path mlx-embed/datafusion --features ballista"
        .into())
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
