//! From a configuration to a service that answers until it is told to end.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use crate::app::Metrics;
use crate::config::{Config, ConfigError};
use crate::connections;
use crate::models::Models;
use crate::router::router;
use crate::slot::LoadError;

/// Why a service did not start, or why it ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The configuration can't be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A model can't be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The service can't listen on the address.
    #[error("listen: {address}: {source}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        r#source: std::io::Error,
    },
    /// The system no longer lets it serve.
    #[error("the service ended: {0}")]
    Ended(std::io::Error),
}

/// Loads the models, listens, calls `listening` with the address, and answers requests until `stop` resolves.
///
/// Requests that were accepted by then are answered, if they arrive and are read within
/// [`Limits::timeout_ms`](crate::Limits). Then the models are freed.
///
/// If `stop` resolves before the models are loaded, the service never listens. A model that is being fetched or loaded
/// then is dropped once it is there. That happens on a thread for which the runtime waits, unless it ends by
/// [`Runtime::shutdown_background`](tokio::runtime::Runtime::shutdown_background).
///
/// # Errors
/// When the configuration can't be used, a model can't be loaded, or the address is taken or forbidden.
pub async fn serve(
    config: &Config,
    metrics: Option<Metrics>,
    stop: impl Future<Output = ()> + Send + 'static,
    listening: impl FnOnce(SocketAddr),
) -> Result<(), ServeError> {
    config.check()?;
    let at = |source| ServeError::Listen { address: config.listen.clone(), source };
    // Before the models, which take longer to load than an address that is taken should take to be told of.
    let listener = connections::listen(&config.listen).await.map_err(at)?;
    let address = listener.local_addr().map_err(at)?;
    let mut stop = pin!(stop);
    let models = tokio::select! {
        models = Models::load(config) => models?,
        () = &mut stop => return Ok(()),
    };
    // Not on this thread: the file of API keys may be a pipe that nobody writes to yet.
    let routed = {
        let (models, config) = (Arc::clone(&models), config.clone());
        tokio::task::spawn_blocking(move || router(models, &config, metrics))
    };
    let router = tokio::select! {
        router = routed => router.map_err(|error| ServeError::Ended(std::io::Error::other(error)))??,
        () = &mut stop => return Ok(()),
    };
    listening(address);
    connections::serve(listener, router, &config.limits, stop).await;
    let freed = tokio::task::spawn_blocking(move || models.shut_down()).await;
    freed.map_err(|error| ServeError::Ended(std::io::Error::other(error)))
}
