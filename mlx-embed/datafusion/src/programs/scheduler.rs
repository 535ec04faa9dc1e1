//! `mlx-embed-scheduler`: Ballista's scheduler, which knows the types of `embed` and `rerank`.
#![deny(unsafe_code)]

mod log;

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;

use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::config::SchedulerConfig;
use ballista_scheduler::scheduler_process::start_server;
use clap::Parser;

/// Most often that executors are looked after, in seconds.
const OFTEN: u64 = 5;

/// Plans queries of `mlx-embed-sql --scheduler` and hands their tasks to executors. It loads no model.
///
/// Whoever reaches its port can read and write all files that the executors can: keep it inside a network that you trust.
#[derive(Debug, Parser)]
#[command(name = "mlx-embed-scheduler", version, max_term_width = 80)]
struct Args {
    /// Address to listen on; executors and clients have to reach it
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,

    /// Port to listen on
    #[arg(long, value_name = "N", default_value_t = 50050)]
    port: u16,

    /// An executor that was not heard of for so long is taken for dead, and others do its tasks; at least 10
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    #[arg(value_parser = clap::value_parser!(u64).range(10..))]
    executor_timeout: u64,

    /// Clients fetch results from the scheduler, where they don't reach the executors
    #[arg(long)]
    proxy: bool,
}

fn main() -> ExitCode {
    log::to_stderr();
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let address = SocketAddr::new(args.host, args.port);
    let config = mlx_embed_datafusion::ballista::scheduler(SchedulerConfig {
        bind_host: args.host.to_string(),
        external_host: args.host.to_string(),
        bind_port: args.port,
        executor_timeout_seconds: args.executor_timeout,
        expire_dead_executor_interval_seconds: OFTEN,
        enable_embedded_flight_proxy: args.proxy,
        ..SchedulerConfig::default()
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let cluster = BallistaCluster::new_from_config(&config).await?;
        let served = start_server(cluster, address, Arc::new(config)).await;
        served.map_err(|error| format!("at {address}: {error}").into())
    })
}
