//! Models by name: fetched from a hub into the cache that the hub's Python library has too (feature `hub`).
//!
//! ```no_run
//! use mlx_embed::{Embedder, Reranker, hub};
//!
//! let embedder = Embedder::from_hub("owner/an-embedder")?;
//! // Every handle loads a folder, and this is one.
//! let reranker = Reranker::load(hub::fetch("owner/a-reranker@main")?)?;
//! # Ok::<(), mlx_embed::Error>(())
//! ```
//!
//! Fetched is what a checkpoint needs and nothing else: safetensors weights with their index, `config.json`, the
//! tokenizer's and sentence-transformers' files with the folders of modules, and the `.pt` heads of bge-m3. A file lies
//! under its final name only once its length and hash are those that the hub gives, and the name of a revision points at a
//! commit only once all of the commit's files are there. What breaks off is gone on with the next time.
//!
//! Nothing is fetched unless a name is given, and no address of a hub is part of this crate. [`Hub::from_env`] says which
//! environment variables decide.
//!
//! # Why not the crate `hf-hub`
//! Version 1.0.0 begins a broken download anew, checks no hash, and brings some 225 crates along. This is `ureq` with what
//! the hub's protocol needs on top.

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

/// A hub, and where what it gives is kept.
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
    /// Where models are kept: a folder `models--OWNER--NAME` each.
    pub cache: PathBuf,
    /// The hub's address, `https://HOST`. Without one nothing is fetched.
    pub endpoint: Option<String>,
    /// Who asks, for models that not everybody may have. It is sent to the endpoint only, not where that redirects to.
    pub token: Option<String>,
    /// Fetch nothing: a model is in the cache or an error.
    pub offline: bool,
    /// How often a request that fails is made again without a byte of progress. Default: 5.
    pub retries: u32,
    progress: Option<Arc<Tell>>,
}

/// Who is told how far a model is.
type Tell = dyn Fn(Progress<'_>) + Send + Sync;

/// What happens while a model is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress<'a> {
    /// Bytes come.
    Fetching {
        /// Of this file.
        file: &'a str,
        /// Bytes that are there, of all files that are known to be needed by now.
        done: u64,
        /// Their sizes.
        of: u64,
    },
    /// Another process fetches this file; its end is waited for.
    Waiting {
        /// The file.
        file: &'a str,
    },
    /// A request failed and will be made again.
    Retrying {
        /// How it failed.
        reason: &'a str,
        /// Seconds until then, rounded up.
        seconds: u64,
    },
    /// The hub can't be asked for news; the model is taken as it is in the cache.
    FromCache {
        /// Why.
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

/// The folder of the model with this name, `owner/name` or `owner/name@revision`, fetched if need be, by
/// [`Hub::from_env`].
///
/// # Errors
/// As [`Hub::fetch`], and when that is no name.
pub fn fetch(name: &str) -> Result<PathBuf, HubError> {
    Hub::from_env()?.fetch(&name.parse()?)
}

/// What a user calls `model`: a path that there is, else the folder of the model with that name, fetched if need be, by
/// [`Hub::from_env`]; `tell` is told how far it is. What is neither comes back as it is, for a loader to say what is wrong
/// with it.
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
    /// Tells this function how far a model is.
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

    /// The model's folder in the cache. The hub is asked what the revision is now, and for the files that are missing; of a
    /// whole commit hash that is there nothing is asked. Where the hub can't be reached, a model that is there is taken.
    ///
    /// # Errors
    /// When the model is neither there nor to be had; the message names it, the file and what would help.
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

    /// The models in the cache, by name, a commit each.
    ///
    /// # Errors
    /// When the cache can't be read. One that isn't there has no models.
    pub fn cached(&self) -> Result<Vec<CachedModel>, HubError> {
        let at = |source| HubError::Cache { path: self.cache.clone(), source };
        match fs::read_dir(&self.cache) {
            Ok(entries) => cache::list(entries).map_err(at),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(at(error)),
        }
    }
}
