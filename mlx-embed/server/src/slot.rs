//! A place for one model: not loaded, loaded, or on the way.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use mlx_embed::{Checkpoint, EmbedOptions, Embedder, Info, Reranker, Shutdown, State};
use tokio::sync::{Mutex, OwnedRwLockReadGuard, RwLock};
use tokio::task::JoinError;

use crate::config::{Kind, ModelConfig};

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
    /// Written while the model is loaded or unloaded, and read by those who use it.
    pub(crate) loaded: Arc<RwLock<Option<Loaded>>>,
    /// Held by whoever loads the model, or is about to.
    pub(crate) loading: Mutex<()>,
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

/// A model that stays in memory while this is held.
pub(crate) type InUse<Model = Loaded> = OwnedRwLockReadGuard<Option<Loaded>, Model>;

/// What a slot holds, if it takes requests. One whose thread has died is loaded anew.
pub(crate) fn running(loaded: OwnedRwLockReadGuard<Option<Loaded>>) -> Option<InUse> {
    OwnedRwLockReadGuard::try_map(loaded, |loaded| {
        loaded.as_ref().filter(|model| model.state().takes_requests())
    })
    .ok()
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
    pub(crate) fn shut_down(&self) {
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
        let prompt = config.prompt(None, &embedder.info().sentence_transformers)?;
        embedder.check_options(&EmbedOptions { prompt, ..Default::default() })?;
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
    Err(no_model())
}

#[cfg(not(feature = "default-model"))]
pub(crate) fn no_model() -> mlx_embed::Error {
    mlx_embed::Error::Option {
        option: "path",
        reason: "is missing, and this build carries no model; name a folder, or build with the feature default-model"
            .into(),
    }
}

/// Bytes of a model's weights, as its files have them; without a folder, of the one that the library carries.
fn weights_bytes(folder: Option<&Path>) -> Result<u64, mlx_embed::Error> {
    let checkpoint = match folder {
        Some(folder) => Checkpoint::open_any(folder)?,
        #[cfg(feature = "default-model")]
        None => Checkpoint::default_model()?,
        #[cfg(not(feature = "default-model"))]
        None => return Ok(0),
    };
    Ok(checkpoint.weights_bytes())
}

impl Slot {
    pub(crate) fn new(config: &ModelConfig) -> Arc<Self> {
        Arc::new(Self {
            config: config.clone(),
            loaded: Arc::default(),
            loading: Mutex::default(),
            used: std::sync::Mutex::new(Instant::now()),
            bytes: AtomicU64::new(0),
        })
    }

    pub(crate) fn failed(&self, reason: String) -> LoadError {
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

    /// The checkpoint's folder, which is fetched if need be; `None` for the built-in model.
    pub(crate) async fn folder(&self) -> Result<Option<PathBuf>, LoadError> {
        self.blocking(|config| config.path.as_deref().map(|path| folder(path, &config.name)).transpose())
            .await
    }

    /// Bytes of the weights in `folder`, as its files have them.
    pub(crate) async fn weights_bytes(&self, folder: Option<PathBuf>) -> Result<u64, LoadError> {
        self.blocking(move |_| weights_bytes(folder.as_deref())).await
    }

    /// Loads the model of `folder`. Whoever calls it is about to write it to `loaded`.
    pub(crate) async fn read(&self, folder: Option<PathBuf>) -> Result<Loaded, LoadError> {
        let read = self.blocking(move |config| Loaded::load(config, folder.as_deref())).await;
        if read.is_err() {
            self.bytes.store(0, Ordering::Relaxed);
        }
        read
    }

    /// The model if it is in memory, and nobody loads or unloads it.
    pub(crate) fn peek(&self) -> Option<Loaded> {
        self.loaded.try_read().ok().and_then(|loaded| loaded.clone())
    }

    pub(crate) fn touch(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// How long nobody has asked for it.
    pub(crate) fn idle(&self) -> Duration {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Gives the model's memory back once nobody uses it.
    pub(crate) async fn unload(&self, why: &str) {
        let mut loaded = self.loaded.write().await;
        if let Some(model) = loaded.take() {
            tracing::info!(model = self.config.name, "unloaded: {why}");
            let _ = tokio::task::spawn_blocking(move || model.shut_down()).await;
            self.bytes.store(0, Ordering::Relaxed);
        }
    }

    /// Gives the model's memory back whenever it has been idle so long, as long as the slot is there.
    pub(crate) async fn unload_after(slot: Weak<Self>, idle: Duration) {
        loop {
            tokio::time::sleep(idle.min(Duration::from_secs(1))).await;
            let Some(slot) = slot.upgrade() else { return };
            if slot.idle() < idle {
                continue;
            }
            if slot.loaded.try_write().is_ok() {
                slot.unload("nobody has asked for it").await;
            } else {
                // Somebody still uses what was asked for then.
                slot.touch();
            }
        }
    }
}

pub(crate) fn died(error: &JoinError) -> String {
    format!("loading it ended in {error}")
}
