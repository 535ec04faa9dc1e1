//! `POST /v1/embeddings`, as OpenAI's clients know it.

use std::num::NonZeroUsize;
use std::sync::Arc;

use axum::extract::{Json, State};
use base64::{Engine, prelude::BASE64_STANDARD};
use mlx_embed::{EmbedOptions, Embedding};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::app::App;
use crate::error::{ApiError, Failure};
use crate::fields::Fields;
use crate::guard::{Terms, count};

/// Texts to embed. A field that isn't here may be one that changes vectors, such as `normalized`, and is an error.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
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
    /// Who asks, for the client's own records. It changes nothing.
    #[expect(dead_code, reason = "it changes nothing")]
    user: Option<String>,
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

/// What a request wants of a model, in whichever shape it came.
pub(crate) struct Wanted<'a> {
    /// The model's name; the first embedder if there is none.
    pub(crate) model: Option<&'a str>,
    /// The field of the input, for messages.
    pub(crate) param: &'static str,
    pub(crate) input: Input,
    /// The field of the prompt's name, and that.
    pub(crate) prompt: (&'static str, Option<&'a str>),
    pub(crate) dims: Option<NonZeroUsize>,
    pub(crate) normalize: Option<bool>,
    pub(crate) terms: Terms,
}

/// The name of the model that was used, and its vectors.
pub(crate) async fn embed(app: &App, wanted: Wanted<'_>) -> Result<(String, Vec<Embedding>), ApiError> {
    let Wanted { model, param, input, prompt: (prompt_param, prompt), dims, normalize, terms } = wanted;
    count(param, input.len(), app.limits.inputs)?;
    if prompt.is_some() && matches!(input, Input::Tokens(_) | Input::TokenTexts(_)) {
        let message = format!("{prompt_param} is for texts; put the prompt's token ids before the others");
        return Err(ApiError::field(prompt_param, message));
    }
    let (config, embedder) = app.models.embedder(model).await?;
    let options = EmbedOptions {
        prompt: config.prompt(prompt, &embedder.info().sentence_transformers)?,
        dims,
        normalize,
        lane: terms.lane.unwrap_or(config.lane),
        timeout: Some(terms.timeout),
        ..Default::default()
    };
    // Dropped with the request where its client goes away, which takes back what is not running.
    let pending = match input {
        Input::Text(text) => embedder.submit(&[text], &options),
        Input::Texts(texts) => embedder.submit(&texts, &options),
        Input::Tokens(ids) => embedder.submit_token_ids(vec![ids], &options),
        Input::TokenTexts(ids) => embedder.submit_token_ids(ids, &options),
    };
    Ok((config.name.clone(), pending.await?))
}

/// Turn texts into vectors
#[utoipa::path(
    post, path = "/v1/embeddings", request_body = EmbeddingsRequest,
    responses((status = 200, body = EmbeddingsResponse), (status = "4XX", body = Failure), (status = "5XX", body = Failure)),
)]
pub(crate) async fn embeddings(
    State(app): State<Arc<App>>,
    terms: Terms,
    Fields(request): Fields<EmbeddingsRequest>,
) -> Result<Json<EmbeddingsResponse>, ApiError> {
    let EmbeddingsRequest { model, input, encoding_format, dimensions, input_type, .. } = request;
    let wanted = Wanted {
        model: model.as_deref(),
        param: "input",
        input,
        prompt: ("input_type", input_type.as_deref()),
        dims: dimensions,
        normalize: None,
        terms,
    };
    let (model, embeddings) = embed(&app, wanted).await?;
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
