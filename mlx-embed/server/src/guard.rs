//! What stands before every request for a model: how many run at once, and how long each may take.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;
use tokio::sync::Semaphore;

use crate::error::ApiError;
use crate::router::App;

/// The header by which a client says how long it waits.
const TIMEOUT_HEADER: &str = "x-request-timeout-ms";

/// Tells a client to come again where as many requests as may run already do.
pub(crate) async fn bound(
    State(running): State<Arc<Semaphore>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let Ok(_permit) = running.try_acquire() else {
        let message = "too many requests are being worked on; try again later (limits.concurrent-requests)";
        return Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, message));
    };
    Ok(next.run(request).await)
}

/// How long a request may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeout(pub(crate) Duration);

impl FromRequestParts<Arc<App>> for Timeout {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let most = app.limits.timeout();
        let Some(value) = parts.headers.get(TIMEOUT_HEADER) else { return Ok(Self(most)) };
        match value.to_str().ok().and_then(|value| value.parse().ok()) {
            Some(0) | None => {
                let message = format!("{TIMEOUT_HEADER} must be a whole number of milliseconds, at least 1");
                Err(ApiError::new(StatusCode::BAD_REQUEST, message))
            }
            Some(milliseconds) => Ok(Self(Duration::from_millis(milliseconds).min(most))),
        }
    }
}

/// That a request has texts, and not too many.
pub(crate) fn count(param: &'static str, texts: usize, most: usize) -> Result<(), ApiError> {
    match texts {
        0 => Err(ApiError::field(param, format!("{param} is empty"))),
        texts if texts > most => Err(ApiError {
            status: StatusCode::PAYLOAD_TOO_LARGE,
            ..ApiError::field(
                param,
                format!("{param} has {texts} texts, but the limit is {most}; send several requests"),
            )
        }),
        _ => Ok(()),
    }
}
