//! A model of any kind, for commands that look at models rather than use them.

use clap::Args;
use mlx_embed::verify::{Golden, Verification};
use mlx_embed::{Error, Info, Reranker};

use crate::error::CliError;
use crate::found::Encoder;
use crate::kind::Kind;
use crate::options::CommonArgs;

/// Which model is looked at, what it is taken for, and how that is told.
#[derive(Debug, Args)]
pub(crate) struct AnyModelArgs {
    /// Treat the checkpoint as a reranker; the first Qwen3-Rerankers don't say that they are
    #[arg(long)]
    reranker: bool,

    /// Treat the checkpoint as a model of this kind [default: what its files say, else vector]
    #[arg(long, value_name = "KIND", conflicts_with = "reranker")]
    kind: Option<Kind>,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// A loaded model.
#[derive(Debug)]
pub(crate) enum AnyModel {
    Reranker(Reranker),
    Encoder(Encoder, Kind),
}

impl AnyModelArgs {
    pub(crate) fn load(&self) -> Result<AnyModel, CliError> {
        let common = &self.common;
        if self.reranker || common.model.is_reranker()? {
            common.refuse_vectors()?;
            return Ok(AnyModel::Reranker(common.model.load_reranker()?));
        }
        let kind = common.kind(self.kind)?;
        Ok(AnyModel::Encoder(Encoder::load(common, kind, None)?, kind))
    }
}

impl AnyModel {
    /// What it gives for a text; a reranker has one vector on the way to its scores.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Reranker(_) => Kind::Vector,
            Self::Encoder(_, kind) => *kind,
        }
    }

    pub(crate) fn info(&self) -> &Info {
        match self {
            Self::Reranker(reranker) => reranker.info(),
            Self::Encoder(encoder, _) => encoder.info(),
        }
    }

    /// Numbers in each vector; of a reranker logits of each pair.
    pub(crate) fn dims(&self) -> usize {
        match self {
            Self::Reranker(reranker) => reranker.info().embedding_size,
            Self::Encoder(encoder, _) => encoder.dims(),
        }
    }

    /// The SHA-256 of each weights file, by name.
    pub(crate) fn weights_sha256(&self) -> Result<Vec<(String, String)>, Error> {
        match self {
            Self::Reranker(reranker) => reranker.weights_sha256(),
            Self::Encoder(encoder, _) => encoder.weights_sha256(),
        }
    }

    /// The golden file beside its checkpoint, if there is one.
    pub(crate) fn golden(&self) -> Result<Option<Golden>, Error> {
        Ok(match self {
            Self::Reranker(reranker) => reranker.golden(),
            Self::Encoder(Encoder::Vector(model), _) => model.embedder.golden(),
            Self::Encoder(Encoder::Sparse(embedder, _), _) => embedder.golden(),
            Self::Encoder(Encoder::Tokens(embedder, ..), _) => embedder.golden(),
        }?)
    }

    /// Holds what it computes against the golden file, or against itself where there is none.
    pub(crate) fn verify(&self, golden: Option<&Golden>) -> Result<Verification, Error> {
        match self {
            Self::Reranker(reranker) => reranker.verify(golden),
            Self::Encoder(Encoder::Vector(model), _) => model.embedder.verify(golden),
            Self::Encoder(Encoder::Sparse(embedder, _), _) => embedder.verify(golden),
            Self::Encoder(Encoder::Tokens(embedder, ..), _) => embedder.verify(golden),
        }
    }
}
