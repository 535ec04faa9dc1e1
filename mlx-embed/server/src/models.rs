//! The service's models: loaded at start or by the first request, and unloaded when idle.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use mlx_embed::{Embedder, Reranker};
use tokio::sync::OwnedRwLockReadGuard;

use crate::config::{Config, Kind, Load, ModelConfig};
use crate::error::ApiError;
use crate::memory::Room;
use crate::slot::{InUse, LoadError, Loaded, Slot, died, running};

/// The models of a configuration.
#[derive(Debug)]
pub struct Models {
    slots: Vec<Arc<Slot>>,
    room: Room,
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
    async fn get(self: &Arc<Self>, slot: &Arc<Slot>) -> Result<InUse, LoadError> {
        slot.touch();
        if let Some(model) = Arc::clone(&slot.loaded).try_read_owned().ok().and_then(running) {
            return Ok(model);
        }
        let (models, loaded) = (Arc::clone(self), Arc::clone(slot));
        let loading = tokio::spawn(async move { models.load_slot(&loaded).await });
        loading.await.unwrap_or_else(|error| Err(slot.failed(died(&error))))
    }

    /// The slot's model, loaded if it isn't, once there is room for it.
    async fn load_slot(&self, slot: &Slot) -> Result<InUse, LoadError> {
        // Who comes while it is loaded waits for that.
        let _loading = slot.loading.lock().await;
        if let Some(model) = running(Arc::clone(&slot.loaded).read_owned().await) {
            return Ok(model);
        }
        let folder = slot.folder().await?;
        let bytes = if self.room.is_limited() { slot.weights_bytes(folder.clone()).await? } else { 0 };
        let room = self.room.make(&self.slots, slot, bytes).await;
        let mut place = room.map_err(|reason| slot.failed(reason))?;
        *place = Some(slot.read(folder).await?);
        // Without a moment in between, in which another model could take its memory.
        running(place.downgrade()).ok_or_else(|| slot.failed("it stopped as soon as it was loaded".into()))
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
    ) -> Result<(&ModelConfig, InUse<Embedder>), ApiError> {
        let slot = self.slot(name, Kind::Embedder)?;
        let model =
            OwnedRwLockReadGuard::try_map(self.get(slot).await.map_err(unavailable)?, |model| match model {
                Loaded::Embedder(model) => Some(model),
                Loaded::Reranker(_) => None,
            });
        model.map(|model| (&slot.config, model)).map_err(|_| ApiError::field("model", "it is no embedder"))
    }

    /// The reranker of this name, or the first. Loads it if need be.
    pub(crate) async fn reranker(
        self: &Arc<Self>,
        name: Option<&str>,
    ) -> Result<(&ModelConfig, InUse<Reranker>), ApiError> {
        let slot = self.slot(name, Kind::Reranker)?;
        let model =
            OwnedRwLockReadGuard::try_map(self.get(slot).await.map_err(unavailable)?, |model| match model {
                Loaded::Reranker(model) => Some(model),
                Loaded::Embedder(_) => None,
            });
        model.map(|model| (&slot.config, model)).map_err(|_| ApiError::field("model", "it is no reranker"))
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
