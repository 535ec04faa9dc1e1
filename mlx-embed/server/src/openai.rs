//! `POST /v1/embeddings` and `GET /v1/models`, as OpenAI's clients know them.

use std::num::NonZeroUsize;
use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Json, State};
use base64::{Engine, prelude::BASE64_STANDARD};
use mlx_embed::{EmbedOptions, Embedding, Prompt};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::ApiError;
use crate::guard::{Timeout, count};
use crate::router::App;

/// Texts to embed.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct EmbeddingsRequest {
    /// The model's name; the first embedder if it is left out.
    model: Option<String>,
    input: Input,
    encoding_format: Option<Format>,
    /// Only the first so many numbers of each vector (Matryoshka).
    #[schema(value_type = Option<u32>, minimum = 1)]
    dimensions: Option<NonZeroUsize>,
    /// The checkpoint's prompt of this name, such as `query`.
    #[serde(alias = "prompt_name")]
    input_type: Option<String>,
}

/// A text, several, or token ids of one or several.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "input must be a string, an array of strings, or one or more arrays of token ids"
)]
pub(crate) enum Input {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    TokenTexts(Vec<Vec<u32>>),
}

impl Input {
    fn len(&self) -> usize {
        match self {
            Self::Text(_) => 1,
            Self::Texts(texts) => texts.len(),
            Self::Tokens(ids) => usize::from(!ids.is_empty()),
            Self::TokenTexts(texts) => texts.len(),
        }
    }
}

/// How vectors are written.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Format {
    /// A JSON array of numbers.
    #[default]
    Float,
    /// f32, little endian, in base64.
    Base64,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EmbeddingsResponse {
    object: &'static str,
    data: Vec<EmbeddingObject>,
    model: String,
    usage: Usage,
}

#[derive(Debug, Serialize, ToSchema)]
struct EmbeddingObject {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum Vector {
    Float(Vec<f32>),
    Base64(String),
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
}

impl Usage {
    pub(crate) fn of(tokens: usize) -> Self {
        Self { prompt_tokens: tokens, total_tokens: tokens }
    }
}

impl Vector {
    fn new(vector: Vec<f32>, format: Format) -> Self {
        match format {
            Format::Float => Self::Float(vector),
            Format::Base64 => {
                let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
                Self::Base64(BASE64_STANDARD.encode(bytes))
            }
        }
    }
}

/// Vectors of `input` by `model`: [`EmbedOptions`] and whoever waits for them are the same for every endpoint.
pub(crate) async fn embed(
    app: &App,
    model: Option<&str>,
    param: &'static str,
    input: Input,
    options: &EmbedOptions,
) -> Result<(String, Vec<Embedding>), ApiError> {
    count(param, input.len(), app.limits.inputs)?;
    let (name, embedder) = app.models.embedder(model).await?;
    // Dropped with the request where its client goes away, which takes back what is not running.
    let pending = match input {
        Input::Text(text) => embedder.submit(&[text], options),
        Input::Texts(texts) => embedder.submit(&texts, options),
        Input::Tokens(ids) => embedder.submit_token_ids(vec![ids], options),
        Input::TokenTexts(ids) => embedder.submit_token_ids(ids, options),
    };
    Ok((name.to_owned(), pending.await?))
}

/// Turn texts into vectors
#[utoipa::path(
    post, path = "/v1/embeddings", request_body = EmbeddingsRequest,
    responses((status = 200, body = EmbeddingsResponse), (status = "4XX", body = crate::openapi::Failure), (status = "5XX", body = crate::openapi::Failure)),
)]
pub(crate) async fn embeddings(
    State(app): State<Arc<App>>,
    timeout: Timeout,
    body: Result<Json<EmbeddingsRequest>, JsonRejection>,
) -> Result<Json<EmbeddingsResponse>, ApiError> {
    let Json(EmbeddingsRequest { model, input, encoding_format, dimensions, input_type }) = body?;
    let options = EmbedOptions {
        prompt: input_type.map_or(Prompt::Default, Prompt::Named),
        dims: dimensions,
        timeout: Some(timeout.0),
        ..Default::default()
    };
    let (model, embeddings) = embed(&app, model.as_deref(), "input", input, &options).await?;
    let usage = Usage::of(embeddings.iter().map(|each| each.tokens).sum());
    let format = encoding_format.unwrap_or_default();
    let object = |(index, each): (usize, Embedding)| EmbeddingObject {
        object: "embedding",
        index,
        embedding: Vector::new(each.vector, format),
    };
    let data = embeddings.into_iter().enumerate().map(object).collect();
    Ok(Json(EmbeddingsResponse { object: "list", data, model, usage }))
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelList {
    object: &'static str,
    data: Vec<ModelObject>,
}

#[derive(Debug, Serialize, ToSchema)]
struct ModelObject {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
}

/// The names of the models
#[utoipa::path(get, path = "/v1/models", responses((status = 200, body = ModelList)))]
pub(crate) async fn models(State(app): State<Arc<App>>) -> Json<ModelList> {
    let names = app.models.slots().iter().map(|slot| slot.config.name.clone());
    let object = |id| ModelObject { id, object: "model", created: app.started, owned_by: "mlx-embed" };
    Json(ModelList { object: "list", data: names.map(object).collect() })
}
