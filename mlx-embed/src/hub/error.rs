//! Why a model is not to be had.

use std::io;
use std::path::PathBuf;

use crate::checkpoint::CheckpointError;

/// Why a model can't be fetched from a hub. `at` names the model and, where there is one, the file:
/// `owner/name: tokenizer.json`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The text is no model's name.
    #[error("{name:?} names no model of a hub: {reason}; write owner/name or owner/name@revision")]
    Name {
        /// What was given.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There is no place for the cache.
    #[error("there is no folder to keep models in; set HF_HOME")]
    NoCache,
    /// The model is not in the cache, and no hub's address is set.
    #[error(
        "{model} is not a folder, and not complete in the cache {}; to fetch it from a hub, set HF_ENDPOINT to the \
         hub's address",
        cache.display()
    )]
    NoEndpoint {
        /// The model.
        model: String,
        /// The cache.
        cache: PathBuf,
    },
    /// The model is not in the cache, and fetching is switched off.
    #[error(
        "{model} is not a folder, and not complete in the cache {}; HF_HUB_OFFLINE forbids fetching it: unset \
         that, or copy the model there",
        cache.display()
    )]
    Offline {
        /// The model.
        model: String,
        /// The cache.
        cache: PathBuf,
    },
    /// The hub's address is no URL.
    #[error("HF_ENDPOINT is {endpoint:?}, but has to begin with https:// or http:// and name a host")]
    Endpoint {
        /// The address.
        endpoint: String,
    },
    /// The hub has no such model, revision or file.
    #[error("{at}: the hub has no such {what}; {remedy}")]
    NotFound {
        /// The model, and the file.
        at: String,
        /// Which of these is missing.
        what: &'static str,
        /// What to check.
        remedy: &'static str,
    },
    /// The hub refuses access.
    #[error("{at}: the hub refuses it ({status}): {remedy}")]
    Refused {
        /// The model, and the file.
        at: String,
        /// The HTTP status.
        status: u16,
        /// What would help.
        remedy: &'static str,
    },
    /// The hub is overloaded, or was asked too often.
    #[error("{at}: the hub was asked too often (429){}", again(*.seconds))]
    Busy {
        /// The model, and the file.
        at: String,
        /// Seconds after which to try again, if the hub says so.
        seconds: Option<u64>,
    },
    /// The hub failed.
    #[error("{at}: the hub answers with status {status}; try again later")]
    Failing {
        /// The model, and the file.
        at: String,
        /// The HTTP status.
        status: u16,
    },
    /// The hub's answer can't be used.
    #[error("{at}: the hub's answer can't be used: {reason}; is HF_ENDPOINT the address of a hub?")]
    Answer {
        /// The model, and the file.
        at: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The connection can't be made, or broke.
    #[error("{at}: {reason}; what was fetched is kept: check the network and try again")]
    Connection {
        /// The model, and the file.
        at: String,
        /// How it failed.
        reason: String,
    },
    /// The server's certificate is not trusted.
    #[error(
        "{at}: {reason}; if a proxy of yours answers in the hub's place, set SSL_CERT_FILE to the file of certificates \
         that has the proxy's"
    )]
    Untrusted {
        /// The model, and the file.
        at: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file's hash is not what the hub says. The file was deleted.
    #[error(
        "{at}: the fetched file has the hash {found}, but the hub says {expected}; it is deleted. Try again; if it \
         happens again, something between here and the hub changes files"
    )]
    WrongHash {
        /// The model, and the file.
        at: String,
        /// The hash by the hub, in hexadecimal.
        expected: String,
        /// The hash of the file that came, in hexadecimal.
        found: String,
    },
    /// The cache can't be written.
    #[error("{at}: {}: {}", path.display(), why_not_kept(.source))]
    Disk {
        /// The model, and the file.
        at: String,
        /// The file in the cache.
        path: PathBuf,
        /// The system's reason.
        r#source: io::Error,
    },
    /// The cache can't be read.
    #[error("{}: {source}; set HF_HOME to another folder", path.display())]
    Cache {
        /// The cache.
        path: PathBuf,
        /// The system's reason.
        r#source: io::Error,
    },
    /// This crate can't read the model's files.
    #[error("{model}: {source}")]
    Unusable {
        /// The model.
        model: String,
        /// What is wrong with the files.
        r#source: CheckpointError,
    },
}

impl HubError {
    /// Whether the same may work at another time.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::Connection { .. } | Self::Failing { .. } | Self::Busy { .. })
    }
}

fn again(seconds: Option<u64>) -> String {
    let when = seconds.map_or("later".to_owned(), |seconds| format!("in {seconds} s"));
    format!("; try again {when}, with a token of yours in HF_TOKEN if there is none")
}

fn why_not_kept(source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => format!(
            "{source}; what was fetched is kept: make room, or set HF_HOME to a folder on a larger disk, and try again"
        ),
        _ => format!("{source}; check the folder's permissions, or set HF_HOME to another folder"),
    }
}
