//! Static embeddings: a text's vector is the mean of its tokens' rows in a table, and nothing else is computed.
//!
//! sentence-transformers' StaticEmbedding has no config.json, so its sizes are those of its table. model2vec has one. Where it
//! made the table smaller, several tokens share a row, and each has a weight of its own.

use crate::checkpoint::CheckpointError;
use crate::checkpoint::config::{Architecture, Encoder, ModelConfig};
use crate::checkpoint::files::TensorFiles;
use crate::checkpoint::json::JsonObject;
use crate::checkpoint::spec::{EmbeddingSpec, LookupSpec, ModelSpec};

/// The table, as sentence-transformers calls it.
const TABLE: &str = "embedding";

/// model2vec's tensors beside it, of a number for each token id.
const ROWS: &str = "mapping";
const FACTORS: &str = "weights";

/// Most tokens of a text where config.json says nothing of it, as with model2vec.
const MODEL2VEC_LONGEST: usize = 512;

/// Where no file has a limit; more than the tokens of any text.
const UNLIMITED: usize = 1 << 30;

pub(super) fn read(
    config: &JsonObject,
    weights: &TensorFiles,
    architecture: Architecture,
) -> Result<(ModelConfig, ModelSpec), CheckpointError> {
    let shape = shape(weights, &format!("{TABLE}.weight"))?;
    let &[rows, width] = shape else {
        return Err(invalid(
            weights,
            TABLE,
            format!("has the shape {shape:?}; a table has rows and columns"),
        ));
    };
    let lookup = lookup(weights, rows)?;
    let vocabulary = lookup.as_ref().map_or(rows, |lookup| lookup.vocabulary);
    let size = |number: usize| match i32::try_from(number) {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(invalid(weights, TABLE, format!("has the shape {shape:?}, which is empty or too large"))),
    };
    let is_model2vec = architecture == Architecture::Model2Vec;
    let own = ModelConfig::of(Encoder {
        architecture,
        hidden_size: size(width)?,
        layers: 0,
        intermediate_size: 0,
        heads: 0,
        head_dim: 0,
        vocab_size: size(vocabulary)?,
        longest: if is_model2vec { longest(config)? } else { UNLIMITED },
        norm_eps: 0.0,
        eos_token_id: None,
    });
    let mut tokens = super::table(TABLE, rows, own.hidden_size);
    tokens.may_be_whole = is_model2vec;
    let embedding = EmbeddingSpec { lookup, ..EmbeddingSpec::of(tokens) };
    let normalizes = match is_model2vec {
        true => Some(config.optional("normalize")?.unwrap_or(false)),
        false => None,
    };
    Ok((own, ModelSpec { normalizes, ..ModelSpec::of(width, embedding, Vec::new()) }))
}

/// Most tokens of a text by model2vec's config; null stands for no limit.
fn longest(config: &JsonObject) -> Result<usize, CheckpointError> {
    let field = "max_length";
    match config.optional::<usize>(field)? {
        Some(0) => Err(config.invalid(field, "is 0; it must be at least 1, or null for no limit")),
        Some(limit) => Ok(limit.min(UNLIMITED)),
        None if config.has(field) => Ok(UNLIMITED),
        None => Ok(MODEL2VEC_LONGEST),
    }
}

/// What the file has beside a table of so many rows.
fn lookup(weights: &TensorFiles, rows: usize) -> Result<Option<LookupSpec>, CheckpointError> {
    let held = |name: &str| weights.tensors.contains_key(name).then(|| name.to_owned());
    let (of_ids, factors) = (held(ROWS), held(FACTORS));
    let mut vocabulary = rows;
    for (name, is_first) in [(&of_ids, true), (&factors, of_ids.is_none())] {
        let Some(name) = name else { continue };
        let shape = shape(weights, name)?;
        let &[length] = shape else {
            return Err(invalid(weights, name, format!("has the shape {shape:?}; it must be a list")));
        };
        // Without a mapping a token's id is its row, too.
        if is_first && of_ids.is_some() {
            vocabulary = length;
        } else if length != vocabulary {
            let reason = format!("has {length} numbers for {vocabulary} token ids; save the model again");
            return Err(invalid(weights, name, reason));
        }
    }
    let any = of_ids.is_some() || factors.is_some();
    Ok(any.then_some(LookupSpec { rows: of_ids, factors, vocabulary }))
}

fn shape<'a>(weights: &'a TensorFiles, name: &str) -> Result<&'a [usize], CheckpointError> {
    match weights.tensors.get(name) {
        Some(entry) => Ok(&entry.shape),
        None => Err(CheckpointError::MissingTensor { path: path(weights), tensor: name.to_owned() }),
    }
}

#[cold]
fn invalid(weights: &TensorFiles, name: &str, reason: String) -> CheckpointError {
    CheckpointError::InvalidTensor { path: path(weights), tensor: name.to_owned(), reason }
}

fn path(weights: &TensorFiles) -> std::path::PathBuf {
    weights.files.first().map(|file| file.path().to_owned()).unwrap_or_default()
}
