//! Why a request has no answer, in the shape that OpenAI's clients read.

use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use mlx_embed::{Error, InputError, TextError};
use serde::Serialize;
use utoipa::ToSchema;

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
    /// The field of the request that is wrong.
    pub(crate) param: Option<&'static str>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None }
    }

    /// A field of the request is wrong.
    pub(crate) fn field(param: &'static str, message: impl Into<String>) -> Self {
        Self { param: Some(param), ..Self::new(StatusCode::BAD_REQUEST, message) }
    }

    /// What the client may do about it: come again, or not.
    fn retry_after(&self) -> Option<HeaderValue> {
        let again = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
        again.contains(&self.status).then(|| HeaderValue::from_static("1"))
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        // By the name that requests have for it.
        if let Error::Option { option: "dims", reason } = &error {
            return Self::field("dimensions", format!("dimensions {reason}"));
        }
        let status = match &error {
            Error::QueueFull { .. } => StatusCode::TOO_MANY_REQUESTS,
            Error::DeadlineExceeded { .. } => StatusCode::GATEWAY_TIMEOUT,
            Error::Stopped { .. } | Error::WeightsChanged { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Error::Input { source: InputError::NotFinite, .. } => StatusCode::INTERNAL_SERVER_ERROR,
            Error::Input { source: InputError::TooManyBytes { .. }, .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Error::Input { .. } | Error::Query { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Error::Option { .. } | Error::Text(TextError::UnknownPrompt { .. }) => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

/// The body of an answer with an error.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Failure {
    error: FailureDetail,
    /// text-embeddings-inference's clients look for it here.
    error_type: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
struct FailureDetail {
    message: String,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<&'static str>,
    code: u16,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let kind = match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_client_error() => "invalid_request_error",
            _ => "server_error",
        };
        let retry_after = self.retry_after();
        let error =
            FailureDetail { message: self.message, kind, param: self.param, code: self.status.as_u16() };
        let body = Failure { error, error_type: kind };
        let mut response = (self.status, Json(body)).into_response();
        if response.status() == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}
