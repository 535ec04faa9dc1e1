//! Models by name, fetched from a hub into the cache that the hub's Python library uses too (feature `hub`).
//!
//! ```no_run
//! use mlx_embed::{Embedder, LoadOptions, Reranker, hub};
//!
//! let embedder = Embedder::from_hub("owner/an-embedder")?;
//! // The folder itself, for options and for other programs.
//! let folder = hub::fetch("owner/a-reranker@main")?;
//! let reranker = Reranker::load_with(folder, LoadOptions::default())?;
//! # Ok::<(), mlx_embed::Error>(())
//! ```
//!
//! # What is fetched
//! Only what a checkpoint needs: safetensors weights and their index, `config.json`, the files of the tokenizer and of
//! sentence-transformers with the folders of its modules, and the `.pt` heads of bge-m3.
//!
//! A file gets its final name only once its length and hash are what the hub says. A revision's name points at a commit
//! only once all files of the commit are there. A download that breaks off continues the next time.
//!
//! Nothing is fetched unless a name is given, and this crate contains no hub's address. [`Hub::from_env`] lists the
//! environment variables that set it.
//!
//! # Why not the crate `hf-hub`
//! Version 1.0.0 starts a broken download from the beginning, checks no hash, and brings about 225 crates along. This
//! module is `ureq` with the part of the hub's protocol that it needs.

mod cache;
mod download;
mod error;
mod http;
mod name;
mod settings;
mod wanted;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, fs};

pub use cache::CachedModel;
pub use error::HubError;
pub use name::ModelName;

use cache::Repo;
use http::Client;

/// A hub's address, and the cache where fetched models are kept.
///
/// ```no_run
/// use mlx_embed::hub::{Hub, Progress};
///
/// let mut hub = Hub::from_env()?;
/// hub.cache = "/srv/models".into();
/// let hub = hub.on_progress(|progress| {
///     if let Progress::Fetching { file, done, of } = progress {
///         println!("{file}: {done} of {of} bytes");
///     }
/// });
/// let folder = hub.fetch(&"owner/name".parse()?)?;
/// # Ok::<(), mlx_embed::hub::HubError>(())
/// ```
#[derive(Clone)]
pub struct Hub {
    /// The cache: a folder that has one folder `models--OWNER--NAME` for each model.
    pub cache: PathBuf,
    /// The hub's address, `https://HOST`. Without one nothing is fetched.
    pub endpoint: Option<String>,
    /// Access token, for models that are not public. It is sent to the endpoint only, not to addresses that it redirects
    /// to.
    pub token: Option<String>,
    /// Fetch nothing: a model that is not in the cache is an error.
    pub offline: bool,
    /// How many times a failed request is repeated before it counts as an error. A byte of progress starts the count
    /// anew. Default: 5.
    pub retries: u32,
    progress: Option<Arc<Tell>>,
}

/// Who is told how far a model is.
type Tell = dyn Fn(Progress<'_>) + Send + Sync;

/// What happens while a model is fetched, for [`Hub::on_progress`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress<'a> {
    /// Data arrives.
    Fetching {
        /// Name of the file that is being fetched.
        file: &'a str,
        /// Bytes that are there, over all files known to be needed so far.
        done: u64,
        /// Size of those files in bytes.
        of: u64,
    },
    /// Another process is fetching this file, and this one waits for it to end.
    Waiting {
        /// Name of the file.
        file: &'a str,
    },
    /// A request failed and will be repeated.
    Retrying {
        /// Why it failed.
        reason: &'a str,
        /// Seconds until it is repeated, rounded up.
        seconds: u64,
    },
    /// The hub can't be reached, so the model is used as it is in the cache.
    FromCache {
        /// Why the hub can't be reached.
        reason: &'a str,
    },
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("cache", &self.cache)
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "..."))
            .field("offline", &self.offline)
            .field("retries", &self.retries)
            .finish_non_exhaustive()
    }
}

/// The folder of a model named `owner/name` or `owner/name@revision`, fetched if it is not in the cache. The settings
/// are those of [`Hub::from_env`].
///
/// # Errors
/// As [`Hub::fetch`], and when `name` is no such name.
pub fn fetch(name: &str) -> Result<PathBuf, HubError> {
    Hub::from_env()?.fetch(&name.parse()?)
}

/// The folder that a user means by `model`, a path or a hub's name. An existing path comes back as it is. For a name it
/// is the model's folder in the cache, fetched if need be with the settings of [`Hub::from_env`]; `tell` is called with
/// the progress. What is neither comes back as it is, so that loading it gives the error.
///
/// # Errors
/// As [`Hub::fetch`].
pub fn find(model: &Path, tell: impl Fn(Progress<'_>) + Send + Sync + 'static) -> Result<PathBuf, HubError> {
    match ModelName::unless_a_path(model) {
        Some(name) => Hub::from_env()?.on_progress(tell).fetch(&name),
        None => Ok(model.to_owned()),
    }
}

impl Hub {
    /// Calls this function with the progress while a model is fetched.
    #[must_use]
    pub fn on_progress(mut self, tell: impl Fn(Progress<'_>) + Send + Sync + 'static) -> Self {
        self.progress = Some(Arc::new(tell));
        self
    }

    fn tell(&self, progress: Progress<'_>) {
        if let Some(tell) = &self.progress {
            tell(progress);
        }
    }

    /// The model's folder in the cache; missing files are fetched first.
    ///
    /// The hub is asked which commit a branch or tag is now. For a full commit hash that is in the cache it isn't asked.
    /// If the hub can't be reached, a model that is in the cache is used as it is.
    ///
    /// # Errors
    /// When the model is not in the cache and can't be fetched. The message names the model, the file, and what to do.
    pub fn fetch(&self, name: &ModelName) -> Result<PathBuf, HubError> {
        let repo = Repo::of(&self.cache, name);
        let cached = repo.commit_of(name.revision()).map(|commit| repo.snapshot(&commit));
        let cached = cached.filter(|folder| wanted::is_whole(folder));
        let at = || (name.to_string(), self.cache.clone());
        if self.offline {
            return cached.ok_or_else(|| {
                let (model, cache) = at();
                HubError::Offline { model, cache }
            });
        }
        let Some(endpoint) = &self.endpoint else {
            return cached.ok_or_else(|| {
                let (model, cache) = at();
                HubError::NoEndpoint { model, cache }
            });
        };
        match cached {
            Some(folder) if name.is_commit() => Ok(folder),
            cached => match (self.pull(&Client::new(self, endpoint)?, name, &repo), cached) {
                (Err(error), Some(folder)) if error.may_pass() => {
                    self.tell(Progress::FromCache { reason: &error.to_string() });
                    Ok(folder)
                }
                (result, _) => result,
            },
        }
    }

    fn pull(&self, client: &Client<'_>, name: &ModelName, repo: &Repo) -> Result<PathBuf, HubError> {
        let listing = client.listing(name)?;
        let folder = repo.snapshot(&listing.commit);
        let mut pull = download::Pull::new(self, client, name, repo, &listing.commit);
        // Weights last, so that a folder that has them has the rest.
        pull.fetch(&wanted::first(&listing.files))?;
        let unusable = |source| HubError::Unusable { model: name.to_string(), source };
        let modules = wanted::modules(&folder, &listing.files).map_err(unusable)?;
        pull.fetch(&modules)?;
        pull.fetch(&wanted::weights(&folder, &listing.files).map_err(unusable)?)?;
        repo.set_commit(name, &listing.commit)?;
        Ok(folder)
    }

    /// The models in the cache, sorted by name, with one entry for each commit.
    ///
    /// # Errors
    /// When the cache can't be read. A cache that doesn't exist is empty.
    pub fn cached(&self) -> Result<Vec<CachedModel>, HubError> {
        let at = |source| HubError::Cache { path: self.cache.clone(), source };
        match fs::read_dir(&self.cache) {
            Ok(entries) => cache::list(entries).map_err(at),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(at(error)),
        }
    }
}
