//! Which hub, and where models are kept: as the environment says.

use std::env;
use std::path::PathBuf;

use super::{Hub, HubError};
use crate::file;

/// The hub where `HF_ENDPOINT` names none. This crate names none itself; who packages a program may, by this variable of
/// the build.
const BUILT_IN_ENDPOINT: Option<&str> = option_env!("MLX_EMBED_HF_ENDPOINT");

/// An empty variable says nothing.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

fn folder(name: &str) -> Option<PathBuf> {
    variable(name).map(PathBuf::from)
}

impl Hub {
    /// Settings from the environment variables of the hub's Python library:
    ///
    /// | variable | meaning |
    /// | --- | --- |
    /// | `HF_ENDPOINT` | the hub's address |
    /// | `HF_HOME` | folder of cache and token. Default: `huggingface` in `XDG_CACHE_HOME` or in `~/.cache` |
    /// | `HF_HUB_CACHE` | the cache. Default: `hub` in `HF_HOME` |
    /// | `HF_TOKEN` | the access token. Default: what the file `HF_TOKEN_PATH` holds, or `token` in `HF_HOME` |
    /// | `HF_HUB_OFFLINE` | fetch nothing if this is `1`, `on`, `yes` or `true` |
    ///
    /// Without `HF_ENDPOINT` the address is the one that the program was built with (`MLX_EMBED_HF_ENDPOINT`), if any.
    /// `HTTPS_PROXY` and `NO_PROXY` are heeded. Certificates are checked against those that the system trusts.
    ///
    /// # Errors
    /// When no variable says where the cache is, and there is no home directory.
    pub fn from_env() -> Result<Self, HubError> {
        let home = folder("HF_HOME").or_else(|| {
            let caches = folder("XDG_CACHE_HOME").or_else(|| Some(env::home_dir()?.join(".cache")))?;
            Some(caches.join("huggingface"))
        });
        let below = |name: &str| home.as_ref().map(|home| home.join(name));
        let cache = folder("HF_HUB_CACHE").or_else(|| below("hub")).ok_or(HubError::NoCache)?;
        let token_file = folder("HF_TOKEN_PATH").or_else(|| below("token"));
        let from_file = || {
            let token = file::read_note(&token_file?).ok()?.trim().to_owned();
            Some(token).filter(|token| !token.is_empty())
        };
        let is_true =
            |value: String| ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str());
        Ok(Self {
            cache,
            endpoint: variable("HF_ENDPOINT").or(BUILT_IN_ENDPOINT.map(str::to_owned)),
            token: variable("HF_TOKEN").or_else(from_file),
            offline: variable("HF_HUB_OFFLINE").is_some_and(is_true),
            retries: 5,
            progress: None,
        })
    }
}
