//! `POST /v1/rerank` and `/v2/rerank`, in the shape that Cohere's and Jina's clients know.

use std::num::NonZeroUsize;
use std::sync::Arc;

use axum::extract::{Json, State};
use mlx_embed::{DenseActivation, Ranked, RerankOptions};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::app::App;
use crate::error::{ApiError, Failure};
use crate::fields::Fields;
use crate::guard::{Terms, count};
use crate::openai::Usage;

/// Documents to sort by how well they answer a query.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RerankRequest {
    /// The model's name; the first reranker if it is left out.
    model: Option<String>,
    query: String,
    documents: Vec<Document>,
    /// Only so many of the best.
    #[schema(value_type = Option<u32>, minimum = 1)]
    top_n: Option<NonZeroUsize>,
    return_documents: Option<bool>,
    /// Documents are not cut at this length, so one that is longer is an error.
    #[schema(value_type = Option<u32>, minimum = 1)]
    max_tokens_per_doc: Option<NonZeroUsize>,
    /// Whose request goes first at Cohere. It changes nothing.
    #[expect(dead_code, reason = "it changes nothing")]
    priority: Option<u32>,
}

/// A document, by itself or in an object.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "a document must be a string, or an object with a field text")]
enum Document {
    Text(String),
    Object { text: String },
}

impl Document {
    fn into_text(self) -> String {
        match self {
            Self::Text(text) | Self::Object { text } => text,
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RerankResponse {
    model: String,
    results: Vec<RankedDocument>,
    usage: Usage,
}

#[derive(Debug, Serialize, ToSchema)]
struct RankedDocument {
    index: usize,
    relevance_score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<DocumentText>,
}

#[derive(Debug, Serialize, ToSchema)]
struct DocumentText {
    text: String,
}

/// The documents' places and scores, the best first.
pub(crate) async fn rank(
    app: &App,
    model: Option<&str>,
    query: &str,
    (param, documents): (&'static str, &[String]),
    activation: Option<DenseActivation>,
    terms: Terms,
) -> Result<(String, Vec<Ranked>), ApiError> {
    count(param, documents.len(), app.limits.inputs)?;
    let (config, reranker) = app.models.reranker(model).await?;
    let options = RerankOptions {
        instruction: config.prompt(None, &reranker.info().sentence_transformers)?,
        activation,
        lane: terms.lane.unwrap_or(config.lane),
        timeout: Some(terms.timeout),
        ..Default::default()
    };
    Ok((config.name.clone(), reranker.submit(query, documents, &options).await?))
}

/// Sort documents by how well they answer a query
#[utoipa::path(
    post, path = "/v1/rerank", request_body = RerankRequest,
    responses((status = 200, body = RerankResponse), (status = "4XX", body = Failure), (status = "5XX", body = Failure)),
)]
pub(crate) async fn rerank(
    State(app): State<Arc<App>>,
    terms: Terms,
    Fields(request): Fields<RerankRequest>,
) -> Result<Json<RerankResponse>, ApiError> {
    let RerankRequest { model, query, documents, top_n, return_documents, max_tokens_per_doc, .. } = request;
    let documents: Vec<String> = documents.into_iter().map(Document::into_text).collect();
    // All, as usage counts those that are left out, too.
    let (model, mut ranked) =
        rank(&app, model.as_deref(), &query, ("documents", &documents), None, terms).await?;
    // A pair has its document's tokens and more.
    let most = max_tokens_per_doc.map_or(usize::MAX, NonZeroUsize::get);
    if let Some(longer) = ranked.iter().find(|each| each.tokens > most) {
        let reason = format!(
            "max_tokens_per_doc is {most}, but the pair with document {} has {} tokens; documents are cut at the model's own limit alone, so \
             leave this out, or send shorter ones",
            longer.index, longer.tokens
        );
        return Err(ApiError::field("max_tokens_per_doc", reason));
    }
    let usage = Usage::of(ranked.iter().map(|each| each.tokens).sum());
    ranked.truncate(top_n.map_or(usize::MAX, NonZeroUsize::get));
    let result = |each: Ranked| RankedDocument {
        index: each.index,
        relevance_score: each.score,
        document: return_documents
            .unwrap_or(false)
            .then(|| DocumentText { text: documents[each.index].clone() }),
    };
    Ok(Json(RerankResponse { model, results: ranked.into_iter().map(result).collect(), usage }))
}
