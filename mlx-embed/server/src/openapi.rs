//! What the endpoints take and give, for programs and for people.

use axum::response::{Html, Json};
use utoipa::OpenApi;

use crate::{model_list, openai, rerank, status, tei, tokenize};

#[derive(OpenApi)]
#[openapi(
    info(title = "mlx-embed", description = "Texts to vectors, and documents to scores"),
    paths(
        openai::embeddings,
        model_list::models,
        model_list::model,
        rerank::rerank,
        tei::embed,
        tei::rerank,
        tei::info,
        tokenize::tokenize,
        status::health,
        status::ready,
        status::metrics
    )
)]
struct Document;

pub(crate) async fn document() -> Json<utoipa::openapi::OpenApi> {
    Json(Document::openapi())
}

/// A page that reads the document and sends what one types.
pub(crate) async fn page() -> Html<&'static str> {
    Html(include_str!("page.html"))
}
