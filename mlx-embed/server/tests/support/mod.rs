//! A service without a socket, and requests to it.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Request, StatusCode};
use mlx_embed_server::{Config, Metrics, Models, router};
use serde_json::Value;
use tower::ServiceExt;

pub(crate) fn checkpoint(case: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/families").join(case)
}

pub(crate) async fn service_of(config: &Config) -> (Arc<Models>, Router) {
    let models = Models::load(config).await.unwrap();
    let router =
        router(Arc::clone(&models), config, Some(Metrics::new(|| "texts_total 1\n".into()))).unwrap();
    (models, router)
}

pub(crate) fn post(path: &str, body: &Value) -> Request<Body> {
    Request::post(path).header("content-type", "application/json").body(Body::from(body.to_string())).unwrap()
}

pub(crate) fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

pub(crate) async fn bytes(
    router: &Router,
    request: Request<Body>,
) -> (StatusCode, axum::http::HeaderMap, Bytes) {
    let response = router.clone().oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    (head.status, head.headers, axum::body::to_bytes(body, usize::MAX).await.unwrap())
}

pub(crate) async fn ask(router: &Router, request: Request<Body>) -> (StatusCode, Value) {
    let (status, _, body) = bytes(router, request).await;
    (status, serde_json::from_slice(&body).unwrap_or_else(|_| panic!("no JSON: {body:?}")))
}

/// What this JSON sent to a path is answered with; the answer has to have the status.
pub(crate) async fn answer(router: &Router, path: &str, body: Value, status: StatusCode) -> Value {
    let (found, answer) = ask(router, post(path, &body)).await;
    assert_eq!(found, status, "{path} {body:.1000}: {answer}");
    answer
}

/// The words of an error.
pub(crate) fn message(answer: &Value) -> &str {
    answer["error"]["message"].as_str().unwrap_or_else(|| panic!("no error: {answer}"))
}

pub(crate) fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}
