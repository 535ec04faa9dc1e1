//! A text's result of any kind, and the models that give it.

use std::path::Path;

use mlx_embed::{
    EmbedOptions, Embedding, Error, Info, InputError, MultiVectorEmbedder, Role, SparseEmbedder,
    SparseVector, TokenVectors,
};

use crate::error::CliError;
use crate::kind::{Kind, RoleArg};
use crate::options::{CommonArgs, Model};

/// A text's result.
#[derive(Debug)]
pub(crate) enum Found {
    Vector(Embedding),
    Sparse(SparseVector),
    Tokens(TokenVectors),
}

impl Found {
    /// Tokens that the model saw.
    pub(crate) fn tokens(&self) -> usize {
        match self {
            Self::Vector(found) => found.tokens,
            Self::Sparse(found) => found.tokens,
            Self::Tokens(found) => found.tokens,
        }
    }

    pub(crate) fn truncated(&self) -> bool {
        match self {
            Self::Vector(found) => found.truncated,
            Self::Sparse(found) => found.truncated,
            Self::Tokens(found) => found.truncated,
        }
    }

    /// The one vector, for formats that hold nothing else.
    pub(crate) fn vector(&self) -> &[f32] {
        match self {
            Self::Vector(found) => &found.vector,
            Self::Sparse(_) | Self::Tokens(_) => &[],
        }
    }
}

/// A loaded model of any kind with the options of its calls.
#[derive(Debug)]
pub(crate) enum Encoder {
    Vector(Model),
    Sparse(SparseEmbedder, EmbedOptions),
    Tokens(MultiVectorEmbedder, Role, EmbedOptions),
}

impl Encoder {
    /// Loads the model for what is wanted of it, and holds the options against it.
    pub(crate) fn load(args: &CommonArgs, kind: Kind, role: Option<RoleArg>) -> Result<Self, CliError> {
        if role.is_some() && kind != Kind::Tokens {
            let reason = format!(
                "--role needs a model of late interaction (--kind tokens); this one gives {}",
                kind.words()
            );
            return Err(CliError::Usage(reason));
        }
        let dir = args.model.model_dir()?.unwrap_or(Path::new(""));
        let (load, options) = (args.load_options(), args.embed_options());
        Ok(match kind {
            Kind::Vector => Self::Vector(args.load()?),
            Kind::Sparse => {
                let embedder = SparseEmbedder::load_with(dir, load)?;
                embedder.check_options(&options)?;
                Self::Sparse(embedder, options)
            }
            Kind::Tokens => {
                let role = role.unwrap_or(RoleArg::Document).into();
                let embedder = MultiVectorEmbedder::load_with(dir, load)?;
                embedder.check_options(role, &options)?;
                Self::Tokens(embedder, role, options)
            }
        })
    }

    pub(crate) fn info(&self) -> &Info {
        match self {
            Self::Vector(model) => model.embedder.info(),
            Self::Sparse(embedder, _) => embedder.info(),
            Self::Tokens(embedder, ..) => embedder.info(),
        }
    }

    /// Most tokens of a text.
    pub(crate) fn max_tokens(&self) -> usize {
        let info = self.info();
        match (self, &info.late_interaction) {
            (Self::Tokens(_, Role::Query, _), Some(late)) => late.query_tokens,
            (Self::Tokens(_, Role::Document, _), Some(late)) => late.document_tokens,
            _ => info.max_tokens,
        }
    }

    /// The SHA-256 of each weights file, by name.
    pub(crate) fn weights_sha256(&self) -> Result<Vec<(String, String)>, Error> {
        match self {
            Self::Vector(model) => model.embedder.weights_sha256(),
            Self::Sparse(embedder, _) => embedder.weights_sha256(),
            Self::Tokens(embedder, ..) => embedder.weights_sha256(),
        }
    }

    /// Numbers in each vector; of a sparse one, all that it could have.
    pub(crate) fn dims(&self) -> usize {
        match self {
            Self::Vector(model) => model.dims(),
            _ => self.info().embedding_size,
        }
    }

    /// What becomes of each of `texts`. `place` names a text of the call.
    pub(crate) fn embed_each(
        &self,
        texts: &[String],
        place: impl Fn(usize) -> String,
    ) -> Result<Vec<Result<Found, CliError>>, CliError> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        match self {
            Self::Vector(model) => {
                let results = model.embed_each(texts, place)?;
                Ok(results.into_iter().map(|result| result.map(Found::Vector)).collect())
            }
            Self::Sparse(embedder, options) => {
                named(embedder.embed_each(texts, options), Found::Sparse, place)
            }
            Self::Tokens(embedder, role, options) => {
                named(embedder.embed_each(texts, *role, options), Found::Tokens, place)
            }
        }
    }
}

/// Results with their texts' places in what failed.
fn named<T>(
    results: Result<Vec<Result<T, InputError>>, Error>,
    found: fn(T) -> Found,
    place: impl Fn(usize) -> String,
) -> Result<Vec<Result<Found, CliError>>, CliError> {
    let results = results.map_err(|error| CliError::of_texts(error, place(0)))?.into_iter().enumerate();
    let of_text = |(index, result): (usize, Result<T, InputError>)| {
        result.map(found).map_err(|error| CliError::of_text(&error, place(index)))
    };
    Ok(results.map(of_text).collect())
}
