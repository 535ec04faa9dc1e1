//! For those who look after the service: is it alive, can it answer, what has it done.

use std::sync::Arc;

use axum::extract::{Json, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use mlx_embed::State as ModelState;
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::config::Load;
use crate::error::{ApiError, Failure};
use crate::slot::Slot;

/// Whether the process answers at all, and nothing is wrong that only a new one can mend: a model whose GPUs have failed for
/// good
#[utoipa::path(get, path = "/health", responses((status = 200), (status = 503, body = Failure)))]
pub(crate) async fn health(State(app): State<Arc<App>>) -> Result<Json<Value>, ApiError> {
    let is_dead =
        |slot: &Arc<Slot>| slot.peek().is_some_and(|model| matches!(model.state(), ModelState::Dead { .. }));
    match mlx_embed::mlx::lost_gpus().first() {
        Some((gpu, reason)) if app.models.slots().iter().any(is_dead) => {
            let message = format!("GPU {gpu} has failed for good; restart this process: {reason}");
            Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message))
        }
        _ => Ok(Json(json!({"status": "ok"}))),
    }
}

/// Why a model can't answer, if it can't. One that is loaded with its first request can.
fn trouble(slot: &Slot) -> Option<String> {
    match slot.peek() {
        Some(model) => match model.state() {
            state if state.takes_requests() => None,
            state => Some(format!("model {:?} is {state:?}", slot.config.name)),
        },
        None if slot.config.load == Load::FirstUse || slot.config.idle_seconds.is_some() => None,
        None => Some(format!("model {:?} is not loaded", slot.config.name)),
    }
}

/// Whether every model can answer. One that has lost some of its GPUs can, and the answer says so
#[utoipa::path(get, path = "/ready", responses((status = 200), (status = 503, body = Failure)))]
pub(crate) async fn ready(State(app): State<Arc<App>>) -> Result<Json<Value>, ApiError> {
    let slots = app.models.slots();
    if let Some(trouble) = slots.iter().find_map(|slot| trouble(slot)) {
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, trouble));
    }
    let lost: Map<String, Value> = slots.iter().filter_map(|slot| lost(slot)).collect();
    if lost.is_empty() {
        return Ok(Json(json!({"status": "ready"})));
    }
    Ok(Json(json!({"status": "degraded", "lost": lost})))
}

/// A model's name and why its lost GPUs are lost, if some are and it goes on without them.
fn lost(slot: &Slot) -> Option<(String, Value)> {
    match slot.peek()?.state() {
        ModelState::Degraded { lost } => Some((slot.config.name.clone(), json!(lost))),
        _ => None,
    }
}

/// What the library's meters say, for Prometheus
#[utoipa::path(get, path = "/metrics", responses((status = 200, content_type = "text/plain"), (status = 404)))]
pub(crate) async fn metrics(State(app): State<Arc<App>>) -> Response {
    match &app.metrics {
        Some(metrics) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics.render()).into_response()
        }
        None => ApiError::new(StatusCode::NOT_FOUND, "this server records no metrics").into_response(),
    }
}
