//! Options that say which models there are.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use clap::Args;
#[cfg(feature = "ballista")]
use mlx_embed::Checkpoint;
use mlx_embed::{Device, Embedder, Error, LoadOptions, Precision, Reranker};
#[cfg(feature = "ballista")]
use mlx_embed_datafusion::ballista::ModelId;

/// Which models `embed` and `rerank` ask, and what runs them.
#[derive(Debug, Args)]
pub(crate) struct ModelArgs {
    /// Checkpoint directory of the model that `embed` asks [default: the built-in English model]
    #[arg(short, long, value_name = "DIR", env = "MLX_EMBED_MODEL", hide_env_values = true)]
    model: Option<PathBuf>,

    /// Checkpoint directory of the model that `rerank` asks
    #[arg(long, value_name = "DIR")]
    reranker: Option<PathBuf>,

    /// Where the models run: auto, cpu or gpu
    #[arg(long, value_name = "WHERE", default_value = "auto")]
    device: Device,

    /// Threads of a model on the CPU [default: every core]
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,

    /// How closely the models are followed: exact or fast
    #[arg(long, value_name = "HOW", default_value = "exact")]
    precision: Precision,
}

impl ModelArgs {
    pub(crate) fn load(&self) -> Result<(Embedder, Option<Reranker>), Error> {
        let embedder = match self.model() {
            Some(dir) => Embedder::load_with(dir, self.options())?,
            None => Embedder::default_model_with(self.options())?,
        };
        let reranker = self.reranker.as_ref().map(|dir| Reranker::load_with(dir, self.options()));
        Ok((embedder, reranker.transpose()?))
    }

    /// Which models these are, without loading them.
    #[cfg(feature = "ballista")]
    pub(crate) fn ids(&self) -> Result<(ModelId, Option<ModelId>), Error> {
        let embedder = match self.model() {
            Some(dir) => Checkpoint::open(dir)?,
            None => Checkpoint::default_model()?,
        };
        let reranker = self.reranker.as_ref().map(Checkpoint::open_reranker).transpose()?;
        let id = |checkpoint: &Checkpoint| ModelId::of(checkpoint, &self.options());
        Ok((id(&embedder)?, reranker.as_ref().map(id).transpose()?))
    }

    /// An empty variable is no model.
    fn model(&self) -> Option<&Path> {
        self.model.as_deref().filter(|model| !model.as_os_str().is_empty())
    }

    fn options(&self) -> LoadOptions {
        LoadOptions {
            device: self.device,
            threads: self.threads,
            precision: self.precision,
            ..Default::default()
        }
    }
}
