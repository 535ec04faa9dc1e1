//! The models that the service has, each loaded at start or with its first request, and unloaded when nobody asks.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use mlx_embed::{Embedder, Info, Reranker, Shutdown, State};
use tokio::sync::Mutex;
use tokio::task::JoinError;

use crate::config::{Config, Kind, Load, ModelConfig};
use crate::error::ApiError;

/// Every model of a configuration.
#[derive(Debug)]
pub struct Models {
    slots: Vec<Arc<Slot>>,
}

/// Why a model is not there.
#[derive(Debug, thiserror::Error)]
#[error("model {name:?}: {reason}")]
pub struct LoadError {
    /// The model's name in the configuration.
    pub name: String,
    /// What the library says.
    pub reason: String,
}

/// A place for one model.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) config: ModelConfig,
    loaded: Mutex<Option<Loaded>>,
    used: std::sync::Mutex<Instant>,
}

/// A model in memory. Clones share it.
#[derive(Debug, Clone)]
pub(crate) enum Loaded {
    Embedder(Embedder),
    Reranker(Reranker),
}

impl Loaded {
    pub(crate) fn info(&self) -> &Info {
        match self {
            Self::Embedder(model) => model.info(),
            Self::Reranker(model) => model.info(),
        }
    }

    pub(crate) fn state(&self) -> State {
        match self {
            Self::Embedder(model) => model.state(),
            Self::Reranker(model) => model.state(),
        }
    }

    /// Blocks until what is queued is done and the memory is given back.
    fn shut_down(&self) {
        match self {
            Self::Embedder(model) => model.shut_down(Shutdown::Finish),
            Self::Reranker(model) => model.shut_down(Shutdown::Finish),
        }
    }

    fn load(config: &ModelConfig) -> Result<Self, mlx_embed::Error> {
        let options = config.load_options();
        let folder = config.path.as_deref().map(|path| folder(path, &config.name)).transpose()?;
        match (config.kind, folder) {
            (Kind::Embedder, Some(folder)) => Embedder::load_with(folder, options).map(Self::Embedder),
            (Kind::Reranker, Some(folder)) => Reranker::load_with(folder, options).map(Self::Reranker),
            (_, None) => built_in(options).map(Self::Embedder),
        }
    }
}

/// A checkpoint's folder, which is fetched if `path` is a hub's name for it.
#[cfg(feature = "hub")]
fn folder(path: &Path, model: &str) -> Result<PathBuf, mlx_embed::Error> {
    use mlx_embed::hub::{Progress, find};

    let model = model.to_owned();
    let tell = move |progress: Progress<'_>| match progress {
        Progress::Fetching { file, done, of } => tracing::trace!(model, file, done, of, "fetching"),
        Progress::Waiting { file } => tracing::info!(model, file, "another process fetches it"),
        Progress::Retrying { reason, seconds } => tracing::warn!(model, reason, seconds, "asking again"),
        Progress::FromCache { reason } => tracing::warn!(model, reason, "taken as it is in the cache"),
        _ => {}
    };
    Ok(find(path, tell)?)
}

#[cfg(not(feature = "hub"))]
fn folder(path: &Path, _: &str) -> Result<PathBuf, mlx_embed::Error> {
    Ok(path.to_owned())
}

#[cfg(feature = "default-model")]
fn built_in(options: mlx_embed::LoadOptions) -> Result<Embedder, mlx_embed::Error> {
    Embedder::default_model_with(options)
}

#[cfg(not(feature = "default-model"))]
fn built_in(_: mlx_embed::LoadOptions) -> Result<Embedder, mlx_embed::Error> {
    Err(mlx_embed::Error::Option {
        option: "path",
        reason: "is missing, and this build carries no model; name a folder, or build with the feature default-model"
            .into(),
    })
}

impl Slot {
    /// The model, loaded if it isn't. It is loaded on, and once, where those who wait for it go away.
    pub(crate) async fn get(self: &Arc<Self>) -> Result<Loaded, LoadError> {
        self.touch();
        if let Some(model) = self.peek().filter(|model| model.state().takes_requests()) {
            return Ok(model);
        }
        let slot = Arc::clone(self);
        let loading = tokio::spawn(async move { slot.load().await });
        loading.await.unwrap_or_else(|error| Err(self.failed(died(&error))))
    }

    fn failed(&self, reason: String) -> LoadError {
        LoadError { name: self.config.name.clone(), reason }
    }

    async fn load(&self) -> Result<Loaded, LoadError> {
        // Who comes while it is loaded waits for that.
        let mut loaded = self.loaded.lock().await;
        // A model whose thread has died is loaded anew.
        if let Some(model) = loaded.as_ref().filter(|model| model.state().takes_requests()) {
            return Ok(model.clone());
        }
        let config = self.config.clone();
        let model = tokio::task::spawn_blocking(move || Loaded::load(&config)).await;
        let reason = match model {
            Ok(Ok(model)) => return Ok(loaded.insert(model).clone()),
            Ok(Err(error)) => error.to_string(),
            Err(error) => died(&error),
        };
        Err(self.failed(reason))
    }

    /// The model if it is in memory and nobody is loading it.
    pub(crate) fn peek(&self) -> Option<Loaded> {
        self.loaded.try_lock().ok().and_then(|loaded| loaded.clone())
    }

    fn touch(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn idle(&self) -> Duration {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Gives the model's memory back, if it has been idle so long.
    async fn unload_after(&self, idle: Duration) {
        let mut loaded = self.loaded.lock().await;
        if self.idle() < idle {
            return;
        }
        if let Some(model) = loaded.take() {
            tracing::info!(model = self.config.name, "unloaded, as nobody has asked for it");
            // Requests that hold a clone are answered first.
            let _ = tokio::task::spawn_blocking(move || model.shut_down()).await;
        }
    }
}

fn died(error: &JoinError) -> String {
    format!("loading it ended in {error}")
}

impl Models {
    /// Loads those that are to be there from the start, and starts to look after those that may go.
    ///
    /// # Errors
    /// When one of them can't be loaded.
    pub async fn load(config: &Config) -> Result<Arc<Self>, LoadError> {
        let slots: Vec<_> = config
            .models
            .iter()
            .map(|config| {
                Arc::new(Slot {
                    config: config.clone(),
                    loaded: Mutex::default(),
                    used: std::sync::Mutex::new(Instant::now()),
                })
            })
            .collect();
        for slot in slots.iter().filter(|slot| slot.config.load == Load::AtStart) {
            slot.get().await?;
        }
        for slot in &slots {
            if let Some(seconds) = slot.config.idle_seconds {
                let (slot, idle) = (Arc::downgrade(slot), Duration::from_secs(seconds));
                tokio::spawn(async move {
                    loop {
                        tokio::time::sleep(idle.min(Duration::from_secs(1))).await;
                        let Some(slot) = slot.upgrade() else { return };
                        slot.unload_after(idle).await;
                    }
                });
            }
        }
        Ok(Arc::new(Self { slots }))
    }

    pub(crate) fn slots(&self) -> &[Arc<Slot>] {
        &self.slots
    }

    /// The model of this name, or the first that is of this kind.
    fn slot(&self, name: Option<&str>, kind: Kind) -> Result<&Arc<Slot>, ApiError> {
        let of_kind = |slot: &&Arc<Slot>| slot.config.kind == kind;
        let what = match kind {
            Kind::Embedder => "embedder",
            Kind::Reranker => "reranker",
        };
        let Some(name) = name else {
            return self.slots.iter().find(of_kind).ok_or_else(|| {
                ApiError::new(
                    StatusCode::NOT_FOUND,
                    format!("no {what} is configured; name one under models"),
                )
            });
        };
        match self.slots.iter().find(|slot| slot.config.name == name) {
            Some(slot) if slot.config.kind == kind => Ok(slot),
            Some(_) => Err(ApiError::field("model", format!("{name:?} is no {what}"))),
            None => {
                let names: Vec<_> =
                    self.slots.iter().filter(of_kind).map(|slot| slot.config.name.as_str()).collect();
                Err(ApiError {
                    status: StatusCode::NOT_FOUND,
                    ..ApiError::field(
                        "model",
                        format!("{name:?} is not served; there is {}", names.join(", ")),
                    )
                })
            }
        }
    }

    /// The embedder of this name, or the first. Loads it if need be.
    pub(crate) async fn embedder(&self, name: Option<&str>) -> Result<(&str, Embedder), ApiError> {
        let slot = self.slot(name, Kind::Embedder)?;
        match slot.get().await.map_err(unavailable)? {
            Loaded::Embedder(model) => Ok((&slot.config.name, model)),
            Loaded::Reranker(_) => Err(ApiError::field("model", "it is no embedder")),
        }
    }

    /// The reranker of this name, or the first. Loads it if need be.
    pub(crate) async fn reranker(&self, name: Option<&str>) -> Result<(&str, Reranker), ApiError> {
        let slot = self.slot(name, Kind::Reranker)?;
        match slot.get().await.map_err(unavailable)? {
            Loaded::Reranker(model) => Ok((&slot.config.name, model)),
            Loaded::Embedder(_) => Err(ApiError::field("model", "it is no reranker")),
        }
    }

    /// Answers what was taken and frees every model. Blocks; to be called after the last request.
    pub fn shut_down(&self) {
        for slot in &self.slots {
            let model = slot.peek();
            if let Some(model) = model {
                model.shut_down();
            }
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "so that map_err takes it")]
fn unavailable(error: LoadError) -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
}
