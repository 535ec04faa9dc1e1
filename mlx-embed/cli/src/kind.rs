//! What a model gives for a text, by name.

use clap::ValueEnum;
use mlx_embed::Role;

/// What is wanted of each text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// One vector for each text
    Vector,
    /// Weights of the vocabulary's tokens: SPLADE, bge-m3
    Sparse,
    /// One vector for each token: ColBERT, bge-m3
    Tokens,
}

impl Kind {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Vector => "one vector per text",
            Self::Sparse => "weights of tokens",
            Self::Tokens => "one vector per token",
        }
    }
}

/// What texts are to late interaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleArg {
    Query,
    Document,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Query => Self::Query,
            RoleArg::Document => Self::Document,
        }
    }
}
