//! Requests to a hub: redirects, who is told the token, what a status means, and when to ask again.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde::Deserialize;
use ureq::http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, ETAG, LOCATION, RANGE, RETRY_AFTER,
};
use ureq::http::{Method, Request, Response, StatusCode};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};

use super::name::is_commit;
use super::{Hub, HubError, ModelName, Progress};

/// How often one request may be sent elsewhere.
const REDIRECTS: usize = 8;
/// Bytes of a list of files.
const LISTING_BYTES: u64 = 32 << 20;
/// Until a connection stands, and without a byte of an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest wait that a hub may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What stands in a hub's answers beside HTTP's own headers.
const ERROR_CODE: &str = "x-error-code";
const LINKED_ETAG: &str = "x-linked-etag";
const LINKED_SIZE: &str = "x-linked-size";

/// Asks one hub.
pub(super) struct Client<'a> {
    hub: &'a Hub,
    endpoint: &'a str,
    agent: Agent,
}

/// A model's files at a commit.
pub(super) struct Listing {
    pub(super) commit: String,
    pub(super) files: Vec<String>,
}

#[derive(Deserialize)]
struct ModelInfo {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

/// What a file has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expected {
    /// Its SHA-256, or, of a small file, git's hash of it; in hexadecimal.
    pub(super) hash: String,
    pub(super) bytes: u64,
}

impl<'a> Client<'a> {
    pub(super) fn new(hub: &'a Hub, endpoint: &'a str) -> Result<Self, HubError> {
        let endpoint = endpoint.trim_end_matches('/');
        if origin(endpoint).is_none() {
            return Err(HubError::Endpoint { endpoint: endpoint.to_owned() });
        }
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::PlatformVerifier)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            // They are followed here, since not every host may see the token.
            .max_redirects(0)
            .timeout_connect(Some(PATIENCE))
            .timeout_per_read(Some(PATIENCE))
            .user_agent(concat!("mlx-embed/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls)
            .build();
        Ok(Self { hub, endpoint, agent: agent.new_agent() })
    }

    /// The commit that a revision is now, and its files.
    pub(super) fn listing(&self, name: &ModelName) -> Result<Listing, HubError> {
        let at = name.to_string();
        let revision = encoded(name.revision(), false);
        let url = format!("{}/api/models/{}/revision/{revision}", self.endpoint, name.repository());
        let mut attempts = Attempts::new(self.hub);
        let text = loop {
            let answer = self.send(&Method::GET, &url, &at, 0).and_then(|response| {
                let mut body = response.into_body();
                let text = body.with_config().limit(LISTING_BYTES).read_to_string();
                text.map_err(|error| HubError::Connection { at: at.clone(), reason: error.to_string() })
            });
            match answer {
                Ok(text) => break text,
                Err(error) => attempts.after(error)?,
            }
        };
        let info: ModelInfo = serde_json::from_str(&text)
            .map_err(|error| HubError::Answer { at: at.clone(), reason: error.to_string() })?;
        if !is_commit(&info.sha) {
            return Err(HubError::Answer { at, reason: format!("`sha` is {:?}, no commit", info.sha) });
        }
        Ok(Listing {
            commit: info.sha,
            files: info.siblings.into_iter().map(|file| file.rfilename).collect(),
        })
    }

    /// Where a file of a commit is.
    pub(super) fn url(&self, name: &ModelName, commit: &str, file: &str) -> String {
        format!("{}/{}/resolve/{commit}/{}", self.endpoint, name.repository(), encoded(file, true))
    }

    /// What a file has to be, by the hub itself: where it redirects to is only asked for the bytes.
    pub(super) fn expected(&self, url: &str, at: &str) -> Result<Expected, HubError> {
        let mut attempts = Attempts::new(self.hub);
        let response = loop {
            match self.send(&Method::HEAD, url, at, 0) {
                Ok(response) => break response,
                Err(error) => attempts.after(error)?,
            }
        };
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let etag = header(LINKED_ETAG).or_else(|| header(ETAG.as_str())).unwrap_or_default();
        let hash = etag.trim_start_matches("W/").trim_matches('"').to_ascii_lowercase();
        let bytes = header(LINKED_SIZE).or_else(|| header(CONTENT_LENGTH.as_str()));
        let wrong = |reason: String| HubError::Answer { at: at.to_owned(), reason };
        let is_hash = [40, 64].contains(&hash.len()) && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_hash {
            return Err(wrong(format!("its ETag is {etag:?}, which is neither SHA-256 nor git's hash")));
        }
        let bytes = bytes.and_then(|bytes| bytes.parse().ok());
        Ok(Expected { hash, bytes: bytes.ok_or_else(|| wrong("it gives no length".into()))? })
    }

    /// A file's bytes from the `from`th on; or from the first on, which the status tells.
    pub(super) fn bytes(&self, url: &str, at: &str, from: u64) -> Result<Response<Body>, HubError> {
        self.send(&Method::GET, url, at, from)
    }

    /// Sends a request to wherever it is redirected. A `HEAD` only as far as the hub says nothing about the file.
    fn send(&self, method: &Method, url: &str, at: &str, from: u64) -> Result<Response<Body>, HubError> {
        let wrong = |reason: String| HubError::Answer { at: at.to_owned(), reason };
        let mut url = url.to_owned();
        for _ in 0..REDIRECTS {
            let mut request = Request::builder().method(method).uri(&url).header(ACCEPT_ENCODING, "identity");
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            if let Some(token) = &self.hub.token
                && origin(&url) == origin(self.endpoint)
            {
                request = request.header(AUTHORIZATION, format!("Bearer {token}"));
            }
            let request = request.body(()).map_err(|error| wrong(error.to_string()))?;
            let response = self.agent.run(request).map_err(|error| not_asked(at, &url, error))?;
            if !response.status().is_redirection() {
                return self.judged(response, at);
            }
            let to = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
            let to = to.ok_or_else(|| wrong("it redirects to nowhere".into()))?;
            let next = match to.strip_prefix('/') {
                Some(path) => format!("{}/{path}", origin(&url).unwrap_or_default()),
                None => to.to_owned(),
            };
            if origin(&next).is_none() {
                return Err(wrong(format!("it redirects to {to:?}")));
            }
            let tells = response.headers().contains_key(LINKED_ETAG);
            if *method == Method::HEAD && (tells || origin(&next) != origin(self.endpoint)) {
                return Ok(response);
            }
            url = next;
        }
        Err(wrong(format!("it redirects more than {REDIRECTS} times")))
    }

    /// What the status says.
    fn judged(&self, response: Response<Body>, at: &str) -> Result<Response<Body>, HubError> {
        let at = at.to_owned();
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let (code, status) = (header(ERROR_CODE).unwrap_or_default(), response.status());
        Err(match status {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                return Ok(response);
            }
            StatusCode::NOT_FOUND => {
                let (what, remedy) = match code {
                    "RevisionNotFound" => ("revision", "see which branches and tags the model has there"),
                    "EntryNotFound" => ("file", "the hub lists it and can't give it; try again later"),
                    _ => (
                        "model",
                        "nor is it a folder here; see to its spelling, upper and lower case included",
                    ),
                };
                HubError::NotFound { at, what, remedy }
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let remedy = match (code, &self.hub.token) {
                    ("GatedRepo", None) => {
                        "its owner wants to know who asks; accept the terms on the model's page and set HF_TOKEN to a \
                         token of yours"
                    }
                    ("GatedRepo", Some(_)) => {
                        "its owner has not let in whom the token in HF_TOKEN belongs to; ask on the model's page"
                    }
                    (_, None) => {
                        "there is no such model, nor a folder of that name here, or it is private; see to its spelling, \
                         or set HF_TOKEN to a token of yours"
                    }
                    (_, Some(_)) => {
                        "there is no such model, or the token in HF_TOKEN is no good or may not read it"
                    }
                };
                HubError::Refused { at, status: status.as_u16(), remedy }
            }
            StatusCode::TOO_MANY_REQUESTS => HubError::Busy {
                at,
                seconds: header(RETRY_AFTER.as_str()).and_then(|text| text.parse().ok()),
            },
            status if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => {
                HubError::Failing { at, status: status.as_u16() }
            }
            status => HubError::Answer { at, reason: format!("its status is {}", status.as_u16()) },
        })
    }
}

/// Why there is no answer from `url`.
fn not_asked(at: &str, url: &str, error: ureq::Error) -> HubError {
    let reason = format!("{} can't be asked: {error}", origin(url).unwrap_or_default());
    let at = at.to_owned();
    let of_tls = match &error {
        ureq::Error::Io(error) => error.get_ref().is_some_and(|error| error.is::<rustls::Error>()),
        error => matches!(error, ureq::Error::Rustls(_) | ureq::Error::Tls(_)),
    };
    if of_tls { HubError::Untrusted { at, reason } } else { HubError::Connection { at, reason } }
}

/// How often a request is made again, and when.
pub(super) struct Attempts<'a> {
    hub: &'a Hub,
    made: u32,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(hub: &'a Hub) -> Self {
        Self { hub, made: 0 }
    }

    /// Bytes came, so that those before were not in vain.
    pub(super) fn renew(&mut self) {
        self.made = 0;
    }

    /// Waits after a failure, half a second and then twice as long each time or as the hub asks. The failure comes back
    /// where waiting won't help, or has not.
    pub(super) fn after(&mut self, error: HubError) -> Result<(), HubError> {
        let wait = match &error {
            HubError::Busy { seconds: Some(seconds), .. } => Duration::from_secs(*seconds),
            _ => Duration::from_millis(500 << self.made.min(6)),
        };
        if !error.may_pass() || self.made >= self.hub.retries || wait > LONGEST_WAIT {
            return Err(error);
        }
        self.made += 1;
        let seconds = wait.as_millis().div_ceil(1000) as u64;
        self.hub.tell(Progress::Retrying { reason: &error.to_string(), seconds });
        thread::sleep(wait);
        Ok(())
    }
}

/// Scheme, host and port of an address; `None` if it is none of HTTP's.
fn origin(url: &str) -> Option<&str> {
    let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let end = host.find(['/', '?', '#']).unwrap_or(host.len());
    (end > 0).then(|| &url[..url.len() - host.len() + end])
}

/// A name as part of an address. What leads to a folder stays in a path, and doesn't in a name.
fn encoded(name: &str, is_path: bool) -> String {
    let mut text = String::new();
    for byte in name.bytes() {
        match byte {
            b'/' if is_path => text.push('/'),
            b'-' | b'.' | b'_' | b'~' => text.push(byte.into()),
            byte if byte.is_ascii_alphanumeric() => text.push(byte.into()),
            byte => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        assert_eq!(origin("https://a.example:8/b/c"), Some("https://a.example:8"));
        assert_eq!(origin("http://a?b"), Some("http://a"));
        for other in ["ftp://a", "https://", "http:///b", "a/b", ""] {
            assert_eq!(origin(other), None, "{other}");
        }
    }

    #[test]
    fn names_are_encoded() {
        assert_eq!(encoded("refs/pr/1", false), "refs%2Fpr%2F1");
        assert_eq!(encoded("1_Pooling/a b#?%.json", true), "1_Pooling/a%20b%23%3F%25.json");
    }
}
