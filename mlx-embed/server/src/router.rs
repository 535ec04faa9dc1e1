//! The routes, and what stands before them.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderName, StatusCode};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use tokio::sync::Semaphore;
use tower_http::request_id::{MakeRequestId, PropagateRequestIdLayer, RequestId, SetRequestIdLayer};
use tracing::Instrument;

use crate::app::{App, Metrics};
use crate::auth::{self, Keys};
use crate::config::{Config, ConfigError};
use crate::error::ApiError;
use crate::models::Models;
use crate::{guard, model_list, openai, openapi, rerank, status, tei, tokenize};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Ids of requests that come without one: when the service started, and a number.
#[derive(Debug, Clone)]
struct Ids {
    started: u64,
    next: Arc<std::sync::atomic::AtomicU64>,
}

impl MakeRequestId for Ids {
    fn make_request_id<B>(&mut self, _: &axum::http::Request<B>) -> Option<RequestId> {
        let number = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        format!("{:x}-{number:x}", self.started).parse().ok().map(RequestId::new)
    }
}

/// A span around a request, so that what the library tells of it has its id.
async fn traced(request: Request, next: Next) -> Response {
    let id = request.headers().get(&REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default();
    let span = tracing::info_span!("request", id, method = %request.method(), path = request.uri().path());
    async {
        let response = next.run(request).await;
        tracing::debug!(status = response.status().as_u16(), "answered");
        response
    }
    .instrument(span)
    .await
}

/// The service's routes over `models`, to be served by itself or mounted in another router.
///
/// # Errors
/// When the file of API keys can't be read, or has no key.
pub fn router(models: Arc<Models>, config: &Config, metrics: Option<Metrics>) -> Result<Router, ConfigError> {
    let keys = config.api_keys_file.as_deref().map(Keys::from_file).transpose()?;
    let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let limits = config.limits.clone();
    let bounds = guard::Bounds {
        running: Arc::new(Semaphore::new(limits.concurrent_requests.min(Semaphore::MAX_PERMITS))),
        most: limits.timeout(),
    };
    let body_limit = DefaultBodyLimit::max(limits.body_bytes);
    let app = Arc::new(App { models, limits, metrics, started });
    let mut with_models = Router::new()
        .route("/v1/embeddings", post(openai::embeddings))
        .route("/v1/rerank", post(rerank::rerank))
        .route("/v2/rerank", post(rerank::rerank))
        .route("/embed", post(tei::embed))
        .route("/", post(tei::embed))
        .route("/rerank", post(tei::rerank))
        .route("/tokenize", post(tokenize::tokenize))
        .layer(body_limit)
        .layer(middleware::from_fn(guard::uncompressed))
        .layer(middleware::from_fn_with_state(bounds, guard::bound))
        .route("/v1/models", get(model_list::models))
        // Names may have a slash.
        .route("/v1/models/{*model}", get(model_list::model))
        .route("/info", get(tei::info));
    if let Some(keys) = keys {
        with_models = with_models.layer(middleware::from_fn_with_state(keys, auth::check));
    }
    let ids = Ids { started, next: Arc::default() };
    Ok(with_models
        .route("/health", get(status::health))
        .route("/ready", get(status::ready))
        .route("/metrics", get(status::metrics))
        .route("/openapi.json", get(openapi::document))
        .route("/", get(openapi::page))
        .fallback(|| async {
            ApiError::new(StatusCode::NOT_FOUND, "there is no such endpoint; / lists those that there are")
        })
        .method_not_allowed_fallback(|| async {
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "this endpoint takes another method; / lists them")
        })
        .layer(middleware::from_fn(traced))
        .layer(PropagateRequestIdLayer::new(REQUEST_ID))
        .layer(SetRequestIdLayer::new(REQUEST_ID, ids))
        .with_state(app))
}
