//! Queries on many machines, by [Ballista](https://datafusion.apache.org/ballista/) (feature `ballista`).
//!
//! A client plans a query and sends it to a scheduler; that cuts it into stages and tasks, and executors run them. Three
//! programs, or three functions for programs of one's own:
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
//! Ballista's own scheduler refuses such a query: it turns the client's plan into DataFusion's types, for which it needs each
//! function's. [`scheduler`] gives it functions that have types and no model; all else of it is as it comes.
//!
//! On an executor `embed` and `rerank` are the same asynchronous functions as in one process: DataFusion sends the node of a
//! plan that waits for them, with each function by its name, and bytes of ours beside it, which say of which model it is.
//! An executor whose model is another one refuses the query and names both.

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

/// Returns once somebody answers at a scheduler's address, and asks at least once.
///
/// # Errors
/// When nobody does for as long as `patience`.
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

/// A context whose queries run on the cluster of the scheduler at `address`, such as `10.0.0.1:50050`. `embed` asks
/// `embedder` there, `rerank` `reranker`.
///
/// # Errors
/// When nobody answers at `address`.
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

/// Settings of Ballista's scheduler, with these functions: for [`start_server`]. Executors ask it for tasks; where a scheduler
/// hands them out, an executor's reason to refuse one is lost on the way.
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

/// Settings of Ballista's executor, with these functions: for [`start_executor_process`].
///
/// [`start_executor_process`]: ballista_executor::executor_process::start_executor_process
///
/// # Errors
/// None that Ballista's default settings have.
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
