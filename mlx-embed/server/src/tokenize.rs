//! `POST /tokenize`, in the shape of text-embeddings-inference.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::{Json, State};
use axum::http::StatusCode;
use mlx_embed::{Error, TextToken};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::app::App;
use crate::error::{ApiError, Failure};
use crate::fields::Fields;
use crate::guard::count;

/// Texts to split into tokens.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenizeRequest {
    inputs: Texts,
    /// Those that are put around a text, too, as is done by default.
    add_special_tokens: Option<bool>,
    prompt_name: Option<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "inputs must be a string or an array of strings")]
enum Texts {
    One(String),
    Several(Vec<String>),
}

/// A token; `start` and `stop` are bytes of prompt and text together.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Token {
    id: u32,
    text: String,
    special: bool,
    start: Option<usize>,
    stop: Option<usize>,
}

impl From<TextToken> for Token {
    fn from(token: TextToken) -> Self {
        let (start, stop) = token.bytes.map(|bytes| (bytes.start, bytes.end)).unzip();
        Self { id: token.id, text: token.text, special: token.special, start, stop }
    }
}

/// Says so once the request is gone.
struct Gone(Arc<AtomicBool>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Split texts into tokens, as the first embedder reads them
#[utoipa::path(
    post, path = "/tokenize", request_body = TokenizeRequest,
    responses((status = 200, body = Vec<Vec<Token>>), (status = "4XX", body = Failure), (status = "5XX", body = Failure)),
)]
pub(crate) async fn tokenize(
    State(app): State<Arc<App>>,
    Fields(request): Fields<TokenizeRequest>,
) -> Result<Json<Vec<Vec<Token>>>, ApiError> {
    let TokenizeRequest { inputs, add_special_tokens, prompt_name } = request;
    let add_special_tokens = add_special_tokens.unwrap_or(true);
    let texts = match inputs {
        Texts::One(text) => vec![text],
        Texts::Several(texts) => texts,
    };
    count("inputs", texts.len(), app.limits.inputs)?;
    let (config, embedder) = app.models.embedder(None).await?;
    let prompt = config.prompt(prompt_name.as_deref(), &embedder.info().sentence_transformers)?;
    let is_gone = Arc::new(AtomicBool::new(false));
    let _gone = Gone(Arc::clone(&is_gone));
    let split = move || -> Result<Vec<Vec<Token>>, Error> {
        // Nobody reads what comes behind that.
        let wanted = texts.iter().enumerate().take_while(|_| !is_gone.load(Ordering::Relaxed));
        wanted
            .map(|(index, text)| {
                let tokens = embedder.tokenize(text, &prompt, add_special_tokens);
                let tokens = tokens.map_err(|error| match error {
                    Error::Input { source, .. } => Error::Input { index, source },
                    error => error,
                })?;
                Ok(tokens.into_iter().map(Token::from).collect())
            })
            .collect()
    };
    let ended = |error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, format!("it ended in {error}"));
    Ok(Json(tokio::task::spawn_blocking(split).await.map_err(ended)??))
}
