//! Queries on many machines, by [Ballista](https://datafusion.apache.org/ballista/) (feature `ballista`).
//!
//! A client plans a query and sends it to a scheduler. The scheduler cuts the plan into stages and tasks, which
//! executors run. There are three programs, and a function for each that programs of your own can call:
//!
//! | program | function | has models |
//! | --- | --- | --- |
//! | `mlx-embed-sql --scheduler HOST:PORT` | [`remote`] | no: it reads which they are off their files |
//! | `mlx-embed-scheduler` | [`scheduler`] | no |
//! | `mlx-embed-executor` | [`executor`] | loaded |
//!
//! ```no_run
//! use mlx_embed::{Checkpoint, LoadOptions};
//! use mlx_embed_datafusion::ballista::{ModelId, remote};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let model = ModelId::of(&Checkpoint::default_model()?, &LoadOptions::default())?;
//! let ctx = remote("10.0.0.1:50050", model, None).await?.enable_url_table();
//! ctx.sql("SELECT id, embed(body) FROM '/shared/docs/'").await?.show().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Ballista's own scheduler refuses such a query. It turns the client's plan into DataFusion's types, for which it needs
//! each function's types. [`scheduler`] gives it functions that have types and no model.
//!
//! On an executor `embed` and `rerank` are the same asynchronous functions as in one process. A plan names them, and
//! carries bytes that say which model each asks. An executor with another model refuses the query; the error names both
//! models.

mod codec;
mod functions;
mod model_id;
mod one_file;
mod stand_in;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ballista_core::config::TaskSchedulingPolicy;
use ballista_core::extension::{SessionConfigExt, SessionStateExt};
use ballista_core::registry::BallistaFunctionRegistry;
use ballista_core::utils::default_session_builder;
use ballista_executor::executor_process::ExecutorProcessConfig;
use ballista_scheduler::config::SchedulerConfig;
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::prelude::{SessionConfig, SessionContext};
use mlx_embed::{Embedder, Reranker};
use tokio::net::TcpStream;

pub use model_id::ModelId;

use functions::Functions;
use one_file::OneFile;
use stand_in::Kind;

/// How long an address may take to answer once.
const ANSWER: Duration = Duration::from_secs(10);

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(500);

/// Returns once a scheduler answers at `address`. It asks at least once.
///
/// # Errors
/// When none has answered after `patience`.
pub async fn wait_for(address: &str, patience: Duration) -> Result<()> {
    let start = Instant::now();
    loop {
        let answer = tokio::time::timeout(ANSWER, TcpStream::connect(address)).await;
        match answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(_) => return Ok(()),
            Err(error) if start.elapsed() + PAUSE > patience => {
                let what =
                    format!("no scheduler answers at {address}; is mlx-embed-scheduler running there?");
                return Err(DataFusionError::IoError(error).context(what));
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// A context whose queries run on the cluster of the scheduler at `address`, such as `10.0.0.1:50050`. `embed` asks the
/// model `embedder` there, and `rerank` the model `reranker`.
///
/// # Errors
/// When no scheduler answers at `address`.
pub async fn remote(address: &str, embedder: ModelId, reranker: Option<ModelId>) -> Result<SessionContext> {
    wait_for(address, Duration::ZERO).await?;
    let functions = Arc::new(Functions::standing_in());
    let config =
        SessionConfig::new_with_ballista().with_ballista_logical_extension_codec(codec::logical(&functions));
    let state = SessionStateBuilder::new().with_default_features().with_config(config);
    let state = state.with_analyzer_rule(Arc::new(OneFile)).build();
    let context = SessionContext::new_with_state(state.upgrade_for_ballista(format!("http://{address}"))?);
    let models = [(Kind::Embed, Some(embedder)), (Kind::Rerank, reranker)];
    for (kind, model) in models.into_iter().filter_map(|(kind, model)| Some((kind, model?))) {
        context.register_udf(functions.get(kind, model)?.as_ref().clone());
    }
    context.register_udf(crate::cosine_function());
    Ok(context)
}

/// Settings for Ballista's scheduler with these functions, to be run by [`start_server`]. Executors ask the scheduler
/// for tasks. (If it hands tasks out, an executor's reason for refusing one gets lost.)
///
/// [`start_server`]: ballista_scheduler::scheduler_process::start_server
pub fn scheduler(config: SchedulerConfig) -> SchedulerConfig {
    let functions = Arc::new(Functions::standing_in());
    SchedulerConfig {
        override_logical_codec: Some(codec::logical(&functions)),
        override_physical_codec: Some(codec::physical(&functions)),
        override_session_builder: Some(Arc::new(session)),
        scheduling_policy: TaskSchedulingPolicy::PullStaged,
        ..config
    }
}

/// Settings for Ballista's executor with these functions, to be run by [`start_executor_process`].
///
/// [`start_executor_process`]: ballista_executor::executor_process::start_executor_process
///
/// # Errors
/// None with Ballista's default settings.
pub fn executor(
    config: ExecutorProcessConfig,
    embedder: (ModelId, Embedder),
    reranker: Option<(ModelId, Reranker)>,
) -> Result<ExecutorProcessConfig> {
    let embed = (Kind::Embed, embedder.0, crate::embed_function(embedder.1));
    let rerank = reranker.map(|(model, reranker)| (Kind::Rerank, model, crate::rerank_function(reranker)));
    let functions = Arc::new(Functions::of_models([embed].into_iter().chain(rerank)));
    let registry = BallistaFunctionRegistry::from(&session(SessionConfig::new_with_ballista())?);
    Ok(ExecutorProcessConfig {
        override_function_registry: Some(Arc::new(registry)),
        task_scheduling_policy: TaskSchedulingPolicy::PullStaged,
        override_logical_codec: Some(codec::logical(&functions)),
        override_physical_codec: Some(codec::physical(&functions)),
        ..config
    })
}

/// Ballista's session, with the function that asks no model. Those that do come with a query's plan.
fn session(config: SessionConfig) -> Result<SessionState> {
    let state = default_session_builder(config)?;
    let cosine = Arc::new(crate::cosine_function());
    let functions = state.scalar_functions().values().cloned().chain([cosine]).collect();
    Ok(SessionStateBuilder::new_from_existing(state).with_scalar_functions(functions).build())
}
