//! `POST /embed`, `POST /rerank` and `GET /info`, in the shape of text-embeddings-inference.

use std::num::NonZeroUsize;
use std::sync::Arc;

use axum::extract::{Json, State};
use axum::http::StatusCode;
use mlx_embed::{DenseActivation, TruncationSide};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::app::App;
use crate::config::Kind;
use crate::error::{ApiError, Failure};
use crate::fields::Fields;
use crate::guard::Terms;
use crate::openai::{Input, Wanted, embed as embed_input};
use crate::rerank::rank;
use crate::slot::Loaded;

/// Texts to embed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EmbedRequest {
    inputs: Input,
    /// Scale vectors to length 1, as is done by default.
    normalize: Option<bool>,
    /// Cut texts that are too long rather than refuse them.
    truncate: Option<bool>,
    /// Which side is cut. Only the one that the model is made for is.
    truncation_direction: Option<Direction>,
    prompt_name: Option<String>,
    #[schema(value_type = Option<u32>, minimum = 1)]
    dimensions: Option<NonZeroUsize>,
}

/// A side of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Direction {
    #[serde(alias = "Left")]
    Left,
    #[serde(alias = "Right")]
    Right,
}

/// Refuses to cut another side of texts than the model does.
async fn check_direction(app: &App, truncate: bool, wanted: Option<Direction>) -> Result<(), ApiError> {
    let Some(wanted) = wanted.filter(|_| truncate) else { return Ok(()) };
    let (_, embedder) = app.models.embedder(None).await?;
    let side = embedder.info().truncation_side;
    if (wanted == Direction::Left) == (side == TruncationSide::Left) {
        return Ok(());
    }
    let message = format!("truncation_direction is not what this model is made for, which is {side:?}");
    Err(ApiError::field("truncation_direction", message))
}

/// That a text was cut though nobody allowed it.
fn too_long(param: &'static str, index: usize) -> ApiError {
    ApiError {
        status: StatusCode::PAYLOAD_TOO_LARGE,
        ..ApiError::field(
            param,
            format!(
                "{param}[{index}] is longer than the model takes; send \"truncate\": true to have it cut"
            ),
        )
    }
}

/// Turn texts into vectors
#[utoipa::path(
    post, path = "/embed", request_body = EmbedRequest,
    responses((status = 200, body = Vec<Vec<f32>>), (status = "4XX", body = Failure), (status = "5XX", body = Failure)),
)]
pub(crate) async fn embed(
    State(app): State<Arc<App>>,
    terms: Terms,
    Fields(request): Fields<EmbedRequest>,
) -> Result<Json<Vec<Vec<f32>>>, ApiError> {
    let EmbedRequest { inputs, normalize, truncate, truncation_direction, prompt_name, dimensions } = request;
    let truncate = truncate.unwrap_or(false);
    check_direction(&app, truncate, truncation_direction).await?;
    let wanted = Wanted {
        model: None,
        param: "inputs",
        input: inputs,
        prompt: ("prompt_name", prompt_name.as_deref()),
        dims: dimensions,
        normalize: Some(normalize.unwrap_or(true)),
        terms,
    };
    let (_, embeddings) = embed_input(&app, wanted).await?;
    if let Some(index) = embeddings.iter().position(|each| each.truncated && !truncate) {
        return Err(too_long("inputs", index));
    }
    Ok(Json(embeddings.into_iter().map(|each| each.vector).collect()))
}

/// Texts to sort by how well they answer a query.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TextsRequest {
    query: String,
    texts: Vec<String>,
    /// Cut texts that are too long rather than refuse them.
    truncate: Option<bool>,
    /// Logits rather than what the checkpoint makes of them.
    raw_scores: Option<bool>,
    return_text: Option<bool>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RankedText {
    index: usize,
    score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

/// Sort texts by how well they answer a query
#[utoipa::path(
    post, path = "/rerank", request_body = TextsRequest,
    responses((status = 200, body = Vec<RankedText>), (status = "4XX", body = Failure), (status = "5XX", body = Failure)),
)]
pub(crate) async fn rerank(
    State(app): State<Arc<App>>,
    terms: Terms,
    Fields(request): Fields<TextsRequest>,
) -> Result<Json<Vec<RankedText>>, ApiError> {
    let TextsRequest { query, texts, truncate, raw_scores, return_text } = request;
    let activation = raw_scores.unwrap_or(false).then_some(DenseActivation::Identity);
    let (_, ranked) = rank(&app, None, &query, ("texts", &texts), activation, terms).await?;
    if let Some(cut) = ranked.iter().find(|each| each.truncated && !truncate.unwrap_or(false)) {
        return Err(too_long("texts", cut.index));
    }
    let text = |index: usize| return_text.unwrap_or(false).then(|| texts[index].clone());
    let result = ranked.into_iter().map(|each| RankedText {
        index: each.index,
        score: each.score,
        text: text(each.index),
    });
    Ok(Json(result.collect()))
}

/// What the first model is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelInfo {
    model_id: String,
    model_type: &'static str,
    /// Longest input in tokens; nothing until the model is loaded.
    max_input_length: Option<usize>,
    max_batch_tokens: Option<usize>,
    max_client_batch_size: usize,
    max_concurrent_requests: usize,
    /// What computes.
    kernels: Option<&'static str>,
    version: &'static str,
}

/// What the first model is
#[utoipa::path(get, path = "/info", responses((status = 200, body = ModelInfo)))]
pub(crate) async fn info(State(app): State<Arc<App>>) -> Result<Json<ModelInfo>, ApiError> {
    let Some(slot) = app.models.slots().first() else {
        return Err(ApiError::new(StatusCode::NOT_FOUND, "no model is configured"));
    };
    let model = slot.peek();
    let info = model.as_ref().map(Loaded::info);
    Ok(Json(ModelInfo {
        model_id: slot.config.name.clone(),
        model_type: match slot.config.kind {
            Kind::Embedder => "embedding",
            Kind::Reranker => "reranker",
        },
        max_input_length: info.map(|info| info.max_tokens),
        max_batch_tokens: info.map(|info| info.batch_tokens),
        max_client_batch_size: app.limits.inputs,
        max_concurrent_requests: app.limits.concurrent_requests,
        kernels: info.map(|info| info.kernels),
        version: env!("CARGO_PKG_VERSION"),
    }))
}
