//! `mlx-embed serve`: an HTTP service, from a YAML file or from flags.

use std::io::{self, Write};
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use mlx_embed::{Device, Gpus, Precision};
use mlx_embed_server::{Config, Kind, LoadError, Metrics, ModelConfig, ServeError, serve};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::CliError;
use crate::options::{BATCH_TOKENS, MODEL, at_least_one, one_of};
use crate::process;
use crate::waiting::Waiting;

/// Arguments of `serve`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ServeArgs {
    /// YAML file with address, limits and models; flags override it
    #[arg(long, value_name = "FILE", env = "MLX_EMBED_SERVE_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,

    /// Check the configuration and its models' files, print the models, and end; nothing is fetched, no weights are loaded
    #[arg(long)]
    check_config: bool,

    /// Address and port [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS", env = "MLX_EMBED_SERVE_LISTEN", hide_env_values = true)]
    listen: Option<String>,

    /// File with one API key a line; clients must send one of them
    #[arg(long, value_name = "FILE", env = "MLX_EMBED_SERVE_API_KEYS_FILE", hide_env_values = true)]
    api_keys_file: Option<PathBuf>,

    /// Milliseconds after which a request is given up [default: 30000]
    #[arg(long, value_name = "N", env = "MLX_EMBED_SERVE_TIMEOUT_MS", hide_env_values = true)]
    timeout_ms: Option<NonZeroU64>,

    /// Most requests at once [default: 512]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    #[arg(env = "MLX_EMBED_SERVE_CONCURRENT_REQUESTS", hide_env_values = true)]
    concurrent_requests: Option<NonZeroUsize>,

    /// Most open connections [default: 4096]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    #[arg(env = "MLX_EMBED_SERVE_CONNECTIONS", hide_env_values = true)]
    connections: Option<NonZeroUsize>,

    /// Most texts in a request [default: 2048]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    #[arg(env = "MLX_EMBED_SERVE_INPUTS", hide_env_values = true)]
    inputs: Option<NonZeroUsize>,

    /// Most bytes in a request's body [default: 8388608]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    #[arg(env = "MLX_EMBED_SERVE_BODY_BYTES", hide_env_values = true)]
    body_bytes: Option<NonZeroUsize>,

    /// Most bytes of weights in memory; beyond, models with `load: first-use` are unloaded [default: no limit]
    #[arg(long, value_name = "N", env = "MLX_EMBED_SERVE_MODEL_BYTES", hide_env_values = true)]
    model_bytes: Option<NonZeroU64>,

    #[command(flatten)]
    model: ModelArgs,
}

/// The one model of a service without a file.
#[derive(Debug, Args)]
#[command(next_help_heading = "One model, instead of --config's")]
#[group(conflicts_with = "config")]
struct ModelArgs {
    #[arg(short, long, value_name = "MODEL")]
    #[arg(help = format!("{MODEL} [default: that of MLX_EMBED_MODEL, else the built-in English model]"))]
    model: Option<PathBuf>,

    /// The model's name in requests [default: the last part of a folder's path, else what --model says]
    #[arg(long)]
    name: Option<String>,

    /// Whether it makes vectors or scores [default: embedder]
    #[arg(long)]
    kind: Option<KindArg>,

    /// Where it runs [default: auto]
    #[arg(long, value_name = "WHERE", value_parser = one_of(Device::ALL))]
    device: Option<Device>,

    /// NVIDIA GPUs: a number, several separated by commas, or `all` [default: 0]
    #[arg(long, value_name = "N,..")]
    gpu: Option<Gpus>,

    /// How much is rounded; `mlx-embed embed --help` says what [default: exact]
    #[arg(long, value_name = "HOW", value_parser = one_of(Precision::ALL))]
    precision: Option<Precision>,

    /// Threads on the CPU [default: every core]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    threads: Option<NonZeroUsize>,

    /// Longest input in tokens [default: as the checkpoint says]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    max_tokens: Option<NonZeroUsize>,

    #[arg(long, value_name = "N", value_parser = at_least_one, help = BATCH_TOKENS)]
    batch_tokens: Option<NonZeroUsize>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum KindArg {
    Embedder,
    Reranker,
}

const EXAMPLES: &str = "\
Examples:
  mlx-embed serve
  mlx-embed serve --model DIR --listen 127.0.0.1:9000
  mlx-embed serve --config serve.yaml --check-config
  curl -s localhost:8080/v1/embeddings -H 'content-type: application/json' \\
       -d '{\"input\": [\"The cat sat on the mat\"]}'

serve.yaml:
  listen: 127.0.0.1:8080
  limits: {timeout-ms: 2000, inputs: 256}
  models:
    - {name: qwen, path: models/qwen3-embedding, precision: fast}
    - {name: ranker, path: models/bge-reranker, kind: reranker,
       load: first-use, idle-seconds: 600}

Endpoints:
  /v1/embeddings, /v1/models           as OpenAI's
  /embed, /rerank, /tokenize, /info    as text-embeddings-inference's
  /v1/rerank                           as Cohere's and Jina's
  /health, /ready, /metrics, /openapi.json, and / is a page to try them

SIGTERM, SIGHUP and Ctrl-C end the service once the requests that it has taken
are answered. A second signal ends it at once.";

pub(crate) fn run(args: ServeArgs) -> Result<(), CliError> {
    let check_only = args.check_config;
    let config = config(args).map_err(ServeError::Config)?;
    let keys = config.api_keys_file.as_deref();
    let waiting = keys.map(|keys| Waiting::on(keys, "the API keys are written to it and it is closed"));
    if check_only {
        config.check_api_keys().map_err(ServeError::Config)?;
        drop(waiting);
        for model in &config.models {
            // What has a hub's name may not be here yet.
            if !model.path.as_deref().is_some_and(is_hub_name) {
                model.check().map_err(|error| {
                    ServeError::Load(LoadError { name: model.name.clone(), reason: error.to_string() })
                })?;
            }
            let path = model.path.as_ref().map_or("built in".into(), |path| path.display().to_string());
            writeln!(io::stdout(), "{}: {path}", model.name).map_err(CliError::on_stdout)?;
        }
        return Ok(());
    }
    // Before the first model, which looks for a recorder when it is loaded.
    let metrics = record().map_err(|error| CliError::Off(format!("metrics can't be recorded: {error}")))?;
    let failed = |error| CliError::Serve(ServeError::Ended(error));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(failed)?;
    let served = runtime.block_on(async {
        let mut signals = Signals::new().map_err(ServeError::Ended)?;
        let stop = async move {
            signals.next().await;
            // Whoever asks again doesn't want to wait for answers.
            tokio::spawn(async move {
                signals.next().await;
                std::process::exit(1);
            });
        };
        let metrics = Metrics::new(move || {
            metrics.run_upkeep();
            metrics.render()
        });
        serve(&config, Some(metrics), stop, |address| {
            drop(waiting);
            // With stderr closed there is nobody to tell.
            let _ = writeln!(io::stderr(), "listening on http://{address}");
        })
        .await
        .map_err(CliError::from)
    });
    // A model that is still being fetched or loaded is not waited for.
    runtime.shutdown_background();
    served
}

#[cfg(feature = "hub")]
fn is_hub_name(path: &Path) -> bool {
    mlx_embed::hub::ModelName::unless_a_path(path).is_some()
}

#[cfg(not(feature = "hub"))]
fn is_hub_name(_: &Path) -> bool {
    false
}

/// The signals that end the service.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// Left alone where whoever started the program had it ignored, as `nohup` does.
    hangup: Option<Signal>,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let hangup = SignalKind::hangup();
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: process::heeds(hangup.as_raw_value()).then(|| signal(hangup)).transpose()?,
        })
    }

    async fn next(&mut self) {
        let Self { terminate, interrupt, hangup } = self;
        let hangup = async {
            match hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {}, _ = hangup => {} }
    }
}

/// What the file says, or nothing, and flags before that.
fn config(args: ServeArgs) -> Result<Config, mlx_embed_server::ConfigError> {
    let mut config = match &args.config {
        Some(file) => {
            let _waiting = Waiting::on(file, "the configuration is written to it and it is closed");
            Config::from_file(file)?
        }
        None => Config { models: vec![args.model.config()], ..Config::default() },
    };
    if let Some(listen) = args.listen {
        config.listen = listen;
    }
    if args.api_keys_file.is_some() {
        config.api_keys_file = args.api_keys_file;
    }
    let limits = &mut config.limits;
    limits.timeout_ms = args.timeout_ms.map_or(limits.timeout_ms, NonZeroU64::get);
    limits.model_bytes = args.model_bytes.map(NonZeroU64::get).or(limits.model_bytes);
    let counts = [
        (&mut limits.concurrent_requests, args.concurrent_requests),
        (&mut limits.connections, args.connections),
        (&mut limits.inputs, args.inputs),
        (&mut limits.body_bytes, args.body_bytes),
    ];
    for (limit, flag) in counts {
        *limit = flag.map_or(*limit, NonZeroUsize::get);
    }
    config.check()?;
    Ok(config)
}

impl ModelArgs {
    fn config(&self) -> ModelConfig {
        // Not by clap, for which a variable would contradict --config.
        let variable = || std::env::var_os("MLX_EMBED_MODEL").map(PathBuf::from);
        let path = self.model.clone().or_else(variable).filter(|path| !path.as_os_str().is_empty());
        let named = || path.as_deref().and_then(name_of);
        let name = self.name.clone().or_else(named).unwrap_or_else(|| "default".into());
        let mut config = ModelConfig::new(name, path);
        config.kind = match self.kind {
            None | Some(KindArg::Embedder) => Kind::Embedder,
            Some(KindArg::Reranker) => Kind::Reranker,
        };
        config.device = self.device.unwrap_or_default();
        config.precision = self.precision.unwrap_or_default();
        config.gpu = self.gpu.clone().unwrap_or_default();
        config.threads = self.threads;
        config.max_tokens = self.max_tokens;
        config.batch_tokens = self.batch_tokens;
        config
    }
}

/// What a model is called if nobody says: as the hub has it, or as its folder.
fn name_of(model: &Path) -> Option<String> {
    #[cfg(feature = "hub")]
    if let Some(name) = mlx_embed::hub::ModelName::unless_a_path(model) {
        return Some(name.repository().to_owned());
    }
    model.file_name().map(|name| name.to_string_lossy().into())
}

fn record() -> Result<PrometheusHandle, BuildError> {
    let seconds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
    let durations = Matcher::Suffix("_seconds".into());
    PrometheusBuilder::new().set_buckets_for_metric(durations, &seconds)?.install_recorder()
}
