//! What stands before every request for a model: how many run at once, and how long each may take.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use mlx_embed::{Lane, UnknownWord};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::app::App;
use crate::error::ApiError;

/// The header by which a client says how long it waits.
const TIMEOUT_HEADER: &str = "x-request-timeout-ms";
/// The header by which a client says whether somebody waits: `query` or `bulk`.
const LANE_HEADER: &str = "x-lane";

/// How many requests run at once, and how long each may take.
#[derive(Debug, Clone)]
pub(crate) struct Bounds {
    pub(crate) running: Arc<Semaphore>,
    pub(crate) most: Duration,
}

/// Tells a client to come again where as many requests as may run already do, and gives up those that take too long, be
/// it that the body doesn't come or that the model is still loaded.
pub(crate) async fn bound(
    State(Bounds { running, most }): State<Bounds>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let Ok(permit) = running.try_acquire_owned() else {
        let message = "too many requests at once; try again later (limits.concurrent-requests)";
        return Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, message));
    };
    let Ok(response) = timeout(most, next.run(request)).await else {
        let message = "the request was not answered in time, counted from its head (limits.timeout-ms)";
        return Err(ApiError::new(StatusCode::GATEWAY_TIMEOUT, message));
    };
    Ok(response.map(|body| Body::new(Held { body, _permit: permit })))
}

/// Refuses a compressed body, which would be taken for JSON with a fault in it.
pub(crate) async fn uncompressed(request: Request, next: Next) -> Result<Response, ApiError> {
    match request.headers().get(header::CONTENT_ENCODING) {
        Some(encoding) if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") => {
            let message = format!("Content-Encoding {encoding:?} is not read; send the body uncompressed");
            Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message))
        }
        _ => Ok(next.run(request).await),
    }
}

/// An answer, which takes memory until its client has read it.
struct Held {
    body: Body,
    _permit: OwnedSemaphorePermit,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// How long a request may take, and which line it stands in if it says so.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) timeout: Duration,
    pub(crate) lane: Option<Lane>,
}

impl FromRequestParts<Arc<App>> for Terms {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let header = |name| parts.headers.get(name).map(|value| value.to_str().unwrap_or_default());
        let most = app.limits.timeout();
        let timeout = match header(TIMEOUT_HEADER).map(str::parse) {
            None => most,
            Some(Ok(milliseconds @ 1..)) => Duration::from_millis(milliseconds).min(most),
            Some(_) => {
                let message = format!("{TIMEOUT_HEADER} must be a whole number of milliseconds, at least 1");
                return Err(ApiError::new(StatusCode::BAD_REQUEST, message));
            }
        };
        let lane = header(LANE_HEADER).map(str::parse).transpose().map_err(|error: UnknownWord| {
            ApiError::new(StatusCode::BAD_REQUEST, format!("{LANE_HEADER}: {error}"))
        })?;
        Ok(Self { timeout, lane })
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
