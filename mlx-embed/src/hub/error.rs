//! Why a model is not to be had.

use std::io;
use std::path::PathBuf;

use crate::checkpoint::CheckpointError;

/// Why a model is not to be had from a hub. `at` is the model, and the file where there is one: `owner/name:
/// tokenizer.json`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// That is no name.
    #[error("{name:?} names no model of a hub: {reason}; write owner/name or owner/name@revision")]
    Name {
        /// What was given.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Nothing says where models are kept.
    #[error("there is no folder to keep models in; set HF_HOME")]
    NoCache,
    /// The model is not in the cache, and no hub is known.
    #[error(
        "{model} is no folder here and not whole in {}; to fetch it from a hub, set HF_ENDPOINT to the hub's address",
        cache.display()
    )]
    NoEndpoint {
        /// The model.
        model: String,
        /// The cache.
        cache: PathBuf,
    },
    /// The model is not in the cache, and nothing may be fetched.
    #[error(
        "{model} is no folder here and not whole in {}; HF_HUB_OFFLINE forbids to fetch it: unset it, or copy the model \
         there",
        cache.display()
    )]
    Offline {
        /// The model.
        model: String,
        /// The cache.
        cache: PathBuf,
    },
    /// The hub's address is none.
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
        /// What is not there.
        what: &'static str,
        /// What to look at.
        remedy: &'static str,
    },
    /// The hub doesn't give it to everybody.
    #[error("{at}: the hub refuses it ({status}): {remedy}")]
    Refused {
        /// The model, and the file.
        at: String,
        /// HTTP's status.
        status: u16,
        /// What would help.
        remedy: &'static str,
    },
    /// The hub has too much to do, or was asked too often.
    #[error("{at}: the hub was asked too often (429){}", again(*.seconds))]
    Busy {
        /// The model, and the file.
        at: String,
        /// When to come again.
        seconds: Option<u64>,
    },
    /// The hub fails.
    #[error("{at}: the hub answers with status {status}; try again later")]
    Failing {
        /// The model, and the file.
        at: String,
        /// HTTP's status.
        status: u16,
    },
    /// The hub says what can't be used.
    #[error("{at}: the hub's answer can't be used: {reason}; is HF_ENDPOINT the address of a hub?")]
    Answer {
        /// The model, and the file.
        at: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The connection can't be made, or broke.
    #[error("{at}: {reason}; what has come is kept: see to the network and do the same again")]
    Connection {
        /// The model, and the file.
        at: String,
        /// How it failed.
        reason: String,
    },
    /// Who answers doesn't prove to be the hub.
    #[error(
        "{at}: {reason}; if a proxy of yours answers in the hub's place, set SSL_CERT_FILE to the file of certificates \
         that has the proxy's"
    )]
    Untrusted {
        /// The model, and the file.
        at: String,
        /// Why not.
        reason: String,
    },
    /// What came is not what the hub says that it is. It was deleted.
    #[error(
        "{at}: what came has the hash {found}, but the hub says {expected}; it is deleted. Do the same again; if it comes \
         again, something between here and the hub changes files"
    )]
    WrongHash {
        /// The model, and the file.
        at: String,
        /// By the hub, in hexadecimal.
        expected: String,
        /// Of what came.
        found: String,
    },
    /// The cache can't be written.
    #[error("{at}: {}: {}", path.display(), why_not_kept(.source))]
    Disk {
        /// The model, and the file.
        at: String,
        /// The file in the cache.
        path: PathBuf,
        /// Why.
        r#source: io::Error,
    },
    /// The cache can't be read.
    #[error("{}: {source}; set HF_HOME to another folder", path.display())]
    Cache {
        /// The cache.
        path: PathBuf,
        /// Why.
        r#source: io::Error,
    },
    /// The model's files are none that this crate reads.
    #[error("{model}: {source}")]
    Unusable {
        /// The model.
        model: String,
        /// Why.
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
            "{source}; what has come is kept: make room, or set HF_HOME to a folder on a larger disk, and do the same again"
        ),
        _ => format!("{source}; see to the folder's permissions, or set HF_HOME to another one"),
    }
}
