//! An OpenAI-compatible server: POST /v1/embeddings, GET /health, GET /metrics.
//!
//! `cargo run --release -p mlx-embed --features default-model --example axum -- [ADDRESS [DIR]]`
//!
//! A request is given up after its header `x-request-timeout-ms`, else after ten seconds, and when its client goes away.
//! Ctrl-C or SIGTERM ends the server once the requests that it has taken are answered.

use std::num::NonZeroUsize;
use std::time::Duration;

use axum::extract::{Json, State, rejection::JsonRejection};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{Router, get, post};
use base64::{Engine, prelude::BASE64_STANDARD};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use mlx_embed::{EmbedOptions, Embedder, Error, Shutdown};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
struct Request {
    input: Input,
    encoding_format: Option<Format>,
    dimensions: Option<NonZeroUsize>,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "input must be a string, an array of strings, or one or more arrays of token ids"
)]
enum Input {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    TokenTexts(Vec<Vec<u32>>),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    Float,
    Base64,
}

/// An error as OpenAI's clients expect it.
fn failure(status: StatusCode, message: &str) -> Response {
    let kind = if status.is_client_error() { "invalid_request_error" } else { "server_error" };
    let error = json!({"error": {"message": message, "type": kind, "param": null, "code": null}});
    let retry = (status == StatusCode::SERVICE_UNAVAILABLE).then_some([("retry-after", "1")]);
    (status, retry, Json(error)).into_response()
}

fn refusal(error: Error) -> Response {
    let status = match error {
        Error::Option { .. } | Error::Input { .. } => StatusCode::BAD_REQUEST,
        Error::QueueFull { .. } | Error::Stopped { .. } => StatusCode::SERVICE_UNAVAILABLE,
        Error::DeadlineExceeded { .. } => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    failure(status, &error.to_string())
}

async fn embeddings(
    State(embedder): State<Embedder>,
    headers: HeaderMap,
    body: Result<Json<Request>, JsonRejection>,
) -> Result<Json<Value>, Response> {
    let bad = |message: &str| failure(StatusCode::BAD_REQUEST, message);
    let Json(Request { input, encoding_format, dimensions }) =
        body.map_err(|error| bad(&error.body_text()))?;
    let timeout = match headers.get("x-request-timeout-ms").map(|value| value.to_str().map(str::parse)) {
        None => TIMEOUT,
        Some(Ok(Ok(milliseconds))) => Duration::from_millis(milliseconds),
        Some(_) => return Err(bad("x-request-timeout-ms must be a whole number")),
    };
    let options = EmbedOptions { dims: dimensions, timeout: Some(timeout), ..Default::default() };
    let pending = match input {
        Input::Text(text) => embedder.submit(&[text], &options),
        Input::Texts(texts) if texts.is_empty() => return Err(bad("input is empty")),
        Input::Texts(texts) => embedder.submit(&texts, &options),
        Input::Tokens(ids) => embedder.submit_token_ids(vec![ids], &options),
        Input::TokenTexts(ids) => embedder.submit_token_ids(ids, &options),
    };
    let (mut tokens, mut data) = (0, Vec::new());
    for (index, each) in pending.await.map_err(refusal)?.into_iter().enumerate() {
        tokens += each.tokens;
        let bytes: Vec<u8> = each.vector.iter().flat_map(|number| number.to_le_bytes()).collect();
        let vector = match encoding_format {
            Some(Format::Base64) => json!(BASE64_STANDARD.encode(bytes)),
            _ => json!(each.vector),
        };
        data.push(json!({"object": "embedding", "index": index, "embedding": vector}));
    }
    let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    Ok(Json(json!({"object": "list", "data": data, "model": embedder.info().model, "usage": usage})))
}

async fn health(State(embedder): State<Embedder>) -> Response {
    match embedder.state() {
        state if state.takes_requests() => Json(json!({"status": "ok"})).into_response(),
        state => failure(StatusCode::SERVICE_UNAVAILABLE, &format!("{state:?}")),
    }
}

pub(crate) fn app(embedder: Embedder, metrics: PrometheusHandle) -> Router {
    Router::new()
        .route("/v1/embeddings", post(embeddings))
        .route("/health", get(health))
        .route("/metrics", get(|| async move { metrics.render() }))
        .fallback(|| async { failure(StatusCode::NOT_FOUND, "ask for /v1/embeddings, /health or /metrics") })
        .with_state(embedder)
}

/// To be called before the model is loaded, which is when it looks for a recorder.
pub(crate) fn record_metrics() -> Result<PrometheusHandle, BuildError> {
    let seconds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
    let durations = Matcher::Suffix("_seconds".into());
    let metrics = PrometheusBuilder::new().set_buckets_for_metric(durations, &seconds)?.install_recorder()?;
    let upkeep = metrics.clone();
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_secs(5));
            upkeep.run_upkeep();
        }
    });
    Ok(metrics)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or("127.0.0.1:8080".into());
    let metrics = record_metrics()?;
    let embedder = arguments.next().map_or_else(Embedder::default_model, Embedder::load)?;
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = async move {
        tokio::select! { _ = tokio::signal::ctrl_c() => {}, _ = terminate.recv() => {} }
    };
    axum::serve(listener, app(embedder.clone(), metrics)).with_graceful_shutdown(stop).await?;
    embedder.shut_down(Shutdown::Finish);
    Ok(())
}
