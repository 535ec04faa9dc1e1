//! The service's models: loaded at start or by the first request, and unloaded when idle.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use mlx_embed::{EmbedOptions, Embedder, Info, Reranker, Shutdown, State};
use tokio::sync::Mutex;
use tokio::task::JoinError;

use crate::config::{Config, Kind, Load, ModelConfig};
use crate::error::ApiError;
use crate::memory::{Room, weights_bytes};

/// The models of a configuration.
#[derive(Debug)]
pub struct Models {
    slots: Vec<Arc<Slot>>,
    room: Room,
}

/// Why a model can't be loaded.
#[derive(Debug, thiserror::Error)]
#[error("model {name:?}: {reason}")]
pub struct LoadError {
    /// The model's name in the configuration.
    pub name: String,
    /// The library's error.
    pub reason: String,
}

/// A place for one model.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) config: ModelConfig,
    loaded: Mutex<Option<Loaded>>,
    used: std::sync::Mutex<Instant>,
    /// Bytes of its weights while they are in memory, or about to be; 0 where nobody asks how many.
    pub(crate) bytes: AtomicU64,
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

    fn is_running(&self) -> bool {
        // One whose thread has died is loaded anew.
        self.state().takes_requests()
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

    fn load(config: &ModelConfig, folder: Option<&Path>) -> Result<Self, mlx_embed::Error> {
        let options = config.load_options();
        let embedder = match (config.kind, folder) {
            (Kind::Reranker, Some(folder)) => {
                return Reranker::load_with(folder, options).map(Self::Reranker);
            }
            (_, Some(folder)) => Embedder::load_with(folder, options)?,
            (_, None) => built_in(options)?,
        };
        // Rather than with each request.
        embedder.check_options(&EmbedOptions { prompt: config.prompt(None), ..Default::default() })?;
        Ok(Self::Embedder(embedder))
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
    fn new(config: &ModelConfig) -> Arc<Self> {
        Arc::new(Self {
            config: config.clone(),
            loaded: Mutex::default(),
            used: std::sync::Mutex::new(Instant::now()),
            bytes: AtomicU64::new(0),
        })
    }

    fn failed(&self, reason: String) -> LoadError {
        LoadError { name: self.config.name.clone(), reason }
    }

    /// Work that takes its time, on a thread for that.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&ModelConfig) -> Result<T, mlx_embed::Error> + Send + 'static,
    ) -> Result<T, LoadError> {
        let config = self.config.clone();
        let reason = match tokio::task::spawn_blocking(move || work(&config)).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) => error.to_string(),
            Err(error) => died(&error),
        };
        Err(self.failed(reason))
    }

    /// The model, loaded if it isn't, once there is room for it.
    async fn load(&self, models: &Models) -> Result<Loaded, LoadError> {
        // Who comes while it is loaded waits for that.
        let mut loaded = self.loaded.lock().await;
        if let Some(model) = loaded.as_ref().filter(|model| model.is_running()) {
            return Ok(model.clone());
        }
        let find =
            |config: &ModelConfig| config.path.as_deref().map(|path| folder(path, &config.name)).transpose();
        let folder = self.blocking(find).await?;
        if models.room.is_limited() {
            let place = folder.clone();
            let bytes = self.blocking(move |_| weights_bytes(place.as_deref())).await?;
            models.room.make(&models.slots, self, bytes).await.map_err(|reason| self.failed(reason))?;
        }
        match self.blocking(move |config| Loaded::load(config, folder.as_deref())).await {
            Ok(model) => Ok(loaded.insert(model).clone()),
            Err(error) => {
                self.bytes.store(0, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    /// The model if it is in memory and nobody is loading it.
    pub(crate) fn peek(&self) -> Option<Loaded> {
        self.loaded.try_lock().ok().and_then(|loaded| loaded.clone())
    }

    fn touch(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// How long nobody has asked for it.
    pub(crate) fn idle(&self) -> Duration {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Gives the model's memory back. Requests that it has taken are answered first.
    pub(crate) async fn unload(&self, why: &str) {
        let mut loaded = self.loaded.lock().await;
        if let Some(model) = loaded.take() {
            tracing::info!(model = self.config.name, "unloaded: {why}");
            let _ = tokio::task::spawn_blocking(move || model.shut_down()).await;
            self.bytes.store(0, Ordering::Relaxed);
        }
    }

    /// Gives the model's memory back whenever it has been idle so long, as long as the slot is there.
    async fn unload_after(slot: Weak<Self>, idle: Duration) {
        loop {
            tokio::time::sleep(idle.min(Duration::from_secs(1))).await;
            let Some(slot) = slot.upgrade() else { return };
            if slot.idle() >= idle {
                slot.unload("nobody has asked for it").await;
            }
        }
    }
}

fn died(error: &JoinError) -> String {
    format!("loading it ended in {error}")
}

impl Models {
    /// Loads the models that are to be there from the start, and starts unloading idle ones.
    ///
    /// # Errors
    /// When one of them can't be loaded.
    pub async fn load(config: &Config) -> Result<Arc<Self>, LoadError> {
        let slots = config.models.iter().map(Slot::new).collect();
        let models = Arc::new(Self { slots, room: Room::new(config.limits.model_bytes) });
        for slot in models.slots.iter().filter(|slot| slot.config.load == Load::AtStart) {
            models.get(slot).await?;
        }
        for slot in &models.slots {
            if let Some(seconds) = slot.config.idle_seconds {
                tokio::spawn(Slot::unload_after(Arc::downgrade(slot), Duration::from_secs(seconds)));
            }
        }
        Ok(models)
    }

    /// The model, loaded if it isn't. It is loaded on, and once, where those who wait for it go away.
    async fn get(self: &Arc<Self>, slot: &Arc<Slot>) -> Result<Loaded, LoadError> {
        slot.touch();
        if let Some(model) = slot.peek().filter(Loaded::is_running) {
            return Ok(model);
        }
        let (models, loaded) = (Arc::clone(self), Arc::clone(slot));
        let loading = tokio::spawn(async move { loaded.load(&models).await });
        loading.await.unwrap_or_else(|error| Err(slot.failed(died(&error))))
    }

    pub(crate) fn slots(&self) -> &[Arc<Slot>] {
        &self.slots
    }

    /// The model of this name, or the first that is of this kind.
    fn slot(&self, name: Option<&str>, kind: Kind) -> Result<&Arc<Slot>, ApiError> {
        let of_kind = |slot: &&Arc<Slot>| slot.config.kind == kind;
        let what = kind.word();
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
            None => Err(not_served(name, self.slots.iter().filter(of_kind))),
        }
    }

    /// The embedder of this name, or the first. Loads it if need be.
    pub(crate) async fn embedder(
        self: &Arc<Self>,
        name: Option<&str>,
    ) -> Result<(&ModelConfig, Embedder), ApiError> {
        let slot = self.slot(name, Kind::Embedder)?;
        match self.get(slot).await.map_err(unavailable)? {
            Loaded::Embedder(model) => Ok((&slot.config, model)),
            Loaded::Reranker(_) => Err(ApiError::field("model", "it is no embedder")),
        }
    }

    /// The reranker of this name, or the first. Loads it if need be.
    pub(crate) async fn reranker(
        self: &Arc<Self>,
        name: Option<&str>,
    ) -> Result<(&ModelConfig, Reranker), ApiError> {
        let slot = self.slot(name, Kind::Reranker)?;
        match self.get(slot).await.map_err(unavailable)? {
            Loaded::Reranker(model) => Ok((&slot.config, model)),
            Loaded::Embedder(_) => Err(ApiError::field("model", "it is no reranker")),
        }
    }

    /// Answers the requests that were accepted, and frees all models. It blocks. Call it after the last request.
    pub fn shut_down(&self) {
        for slot in &self.slots {
            let model = slot.peek();
            if let Some(model) = model {
                model.shut_down();
            }
        }
    }
}

/// No model has this name, but these are there.
pub(crate) fn not_served<'a>(name: &str, slots: impl Iterator<Item = &'a Arc<Slot>>) -> ApiError {
    let names: Vec<&str> = slots.map(|slot| slot.config.name.as_str()).collect();
    let message = format!("{name:?} is not served; there is {}", names.join(", "));
    ApiError { status: StatusCode::NOT_FOUND, ..ApiError::field("model", message) }
}

#[expect(clippy::needless_pass_by_value, reason = "so that map_err takes it")]
fn unavailable(error: LoadError) -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
}
