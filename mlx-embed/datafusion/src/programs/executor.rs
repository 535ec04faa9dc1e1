//! `mlx-embed-executor`: Ballista's executor, with models behind `embed` and `rerank`.
#![deny(unsafe_code)]

mod log;
mod models;

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use clap::Parser;
use mlx_embed_datafusion::ballista;
use models::ModelArgs;

/// Runs tasks of queries that `mlx-embed-sql --scheduler` sends.
///
/// Whoever reaches its port can read and write all files that it can: keep it inside a network that you trust.
#[derive(Debug, Parser)]
#[command(name = "mlx-embed-executor", version, max_term_width = 80)]
struct Args {
    /// Where the scheduler is
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:50050", value_parser = address)]
    scheduler: (String, u16),

    #[command(flatten)]
    models: ModelArgs,

    /// Address to listen on; other executors and clients fetch results from it
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,

    /// Name or address that others reach this executor by [default: the one that it reaches the scheduler from]
    #[arg(long, value_name = "HOST")]
    external_host: Option<String>,

    /// Port that results are fetched from
    #[arg(long, value_name = "N", default_value_t = 50051)]
    port: u16,

    /// Parts of a query that run at once: with two, one is read and written while the other is computed
    #[arg(long, value_name = "N", default_value = "2")]
    tasks: NonZeroUsize,

    /// Folder for what other executors and clients fetch [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,

    /// How long the scheduler may take to come up
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait: u64,
}

fn address(text: &str) -> Result<(String, u16), String> {
    let parts = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let (host, port) = parts.filter(|(host, _)| !host.is_empty()).ok_or("give HOST:PORT")?;
    Ok((host.to_owned(), port))
}

fn main() -> ExitCode {
    log::to_stderr();
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<(), Box<dyn Error>> {
    let temporary = tempfile::Builder::new().prefix("mlx-embed-executor-").tempdir()?;
    let work_dir = args.work_dir.as_deref().unwrap_or(temporary.path());
    let work_dir = work_dir.to_str().ok_or("--work-dir: its name is not UTF-8")?.to_owned();
    let (scheduler_host, scheduler_port) = args.scheduler;
    let scheduler = format!("{scheduler_host}:{scheduler_port}");
    let config = ExecutorProcessConfig {
        bind_host: match args.host {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        },
        external_host: args.external_host,
        port: args.port,
        scheduler_host,
        scheduler_port,
        vcores: args.tasks.get(),
        work_dir: Some(work_dir),
        ..ExecutorProcessConfig::default()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        ballista::wait_for(&scheduler, Duration::from_secs(args.wait)).await?;
        let (embedder_id, reranker_id) = args.models.ids()?;
        let (embedder, reranker) = args.models.load()?;
        let config = ballista::executor(config, (embedder_id, embedder), reranker_id.zip(reranker))?;
        Ok(start_executor_process(Arc::new(config)).await?)
    })
}
