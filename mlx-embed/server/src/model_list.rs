//! `GET /v1/models`, as OpenAI's clients know it, with what else is known of each model.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Json, Path, State};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::config::{Kind, Load};
use crate::error::{ApiError, Failure};
use crate::models::not_served;
use crate::slot::{Loaded, Slot};

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelList {
    object: &'static str,
    data: Vec<ModelObject>,
}

/// A model. What only a loaded one tells is null until then.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelObject {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    /// `embedder` or `reranker`.
    kind: &'static str,
    /// `at-start` or `first-use`.
    load: &'static str,
    loaded: bool,
    /// Numbers of a vector.
    dimensions: Option<usize>,
    /// Longest input in tokens.
    max_tokens: Option<usize>,
    architecture: Option<String>,
    parameters: Option<u64>,
    /// What computes, and where.
    kernels: Option<&'static str>,
    device: Option<String>,
    /// Names that a request may give as `input_type`.
    prompts: Vec<String>,
    default_prompt: Option<String>,
}

impl ModelObject {
    fn of(slot: &Slot, app: &App) -> Self {
        let config = &slot.config;
        let model = slot.peek();
        let info = model.as_ref().map(Loaded::info);
        Self {
            id: config.name.clone(),
            object: "model",
            created: app.started,
            owned_by: "mlx-embed",
            kind: config.kind.word(),
            load: match config.load {
                Load::AtStart => "at-start",
                Load::FirstUse => "first-use",
            },
            loaded: info.is_some(),
            dimensions: info.filter(|_| config.kind == Kind::Embedder).map(|info| info.embedding_size),
            max_tokens: info.map(|info| info.max_tokens),
            architecture: info.map(|info| info.config.architecture.to_string()),
            parameters: info.map(|info| info.parameters),
            kernels: info.map(|info| info.kernels),
            device: info.map(|info| info.backend.to_string()),
            prompts: config
                .prompt_names(info.map(|info| &info.sentence_transformers))
                .into_iter()
                .map(str::to_owned)
                .collect(),
            default_prompt: config
                .default_prompt
                .clone()
                .or_else(|| info?.sentence_transformers.default_prompt_name.clone()),
        }
    }
}

/// The models
#[utoipa::path(get, path = "/v1/models", responses((status = 200, body = ModelList)))]
pub(crate) async fn models(State(app): State<Arc<App>>) -> Json<ModelList> {
    let data = app.models.slots().iter().map(|slot| ModelObject::of(slot, &app)).collect();
    Json(ModelList { object: "list", data })
}

/// A model by its name
#[utoipa::path(
    get, path = "/v1/models/{model}", params(("model" = String, Path)),
    responses((status = 200, body = ModelObject), (status = 404, body = Failure)),
)]
pub(crate) async fn model(
    State(app): State<Arc<App>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<ModelObject>, ApiError> {
    let Path(name) = name?;
    let slots = app.models.slots();
    match slots.iter().find(|slot| slot.config.name == name) {
        Some(slot) => Ok(Json(ModelObject::of(slot, &app))),
        None => Err(not_served(&name, slots.iter())),
    }
}
