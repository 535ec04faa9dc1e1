//! API keys from a file.

use std::path::Path;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::config::{ConfigError, read_text};
use crate::error::ApiError;

/// Hashes of the keys that are let in. As they all have one length, comparing them tells nothing of a key's.
#[derive(Debug, Clone)]
pub(crate) struct Keys(std::sync::Arc<[[u8; 32]]>);

fn hash(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

impl Keys {
    /// A key a line; empty lines and those that begin with `#` don't count.
    pub(crate) fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text = read_text(path)?;
        // Some editors put a byte order mark at the beginning.
        let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim);
        let keys = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        let keys: Vec<_> = keys.map(|key| hash(key.as_bytes())).collect();
        if keys.is_empty() {
            return Err(ConfigError::Value {
                key: "api-keys-file".into(),
                reason: format!("is {}, which has no key; write one a line", path.display()),
            });
        }
        Ok(Self(keys.into()))
    }

    /// Looks at every key, whichever is the right one.
    fn has(&self, key: &[u8]) -> bool {
        let given = hash(key);
        self.0.iter().fold(Choice::from(0), |found, key| found | key.ct_eq(&given)).into()
    }
}

/// Lets in who sends `Authorization: Bearer KEY`.
pub(crate) async fn check(
    State(keys): State<Keys>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let given = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    let (scheme, key) = given.and_then(|value| value.split_at_checked("Bearer ".len())).unzip();
    // The scheme's case doesn't matter, the key's does. A key may have letters beyond ASCII.
    let key = key.filter(|_| scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"Bearer ")));
    if key.is_some_and(|key| keys.has(key.trim_ascii())) {
        return Ok(next.run(request).await);
    }
    let message = match key {
        Some(_) => "this API key is not known here",
        None => "send an API key: Authorization: Bearer KEY",
    };
    Err(ApiError::new(StatusCode::UNAUTHORIZED, message))
}
