//! Whether a folder could be loaded, without loading it.

use std::path::Path;

use super::settings;
use crate::checkpoint::{Checkpoint, Doubt};
use crate::error::Error;
use crate::text::{EndToken, TextEncoder};

/// Whether a folder could be loaded as what its files say that it is: an embedder, a reranker, a sparse encoder or a
/// model of late interaction. All its files are opened and checked, the tokenizer's too. Of the weights only the headers
/// are read.
///
/// # Errors
/// The error that loading the folder would give.
pub fn check(dir: impl AsRef<Path>) -> Result<Checkpoint, Error> {
    let checkpoint = Checkpoint::open_any(dir)?;
    if let Some(error) = Doubt::error(checkpoint.doubts()) {
        return Err(Error::Checkpoint(error));
    }
    let (config, settings) = (checkpoint.config(), settings(&checkpoint)?);
    let vocabulary = config.vocab_size.unsigned_abs();
    TextEncoder::open(
        checkpoint.place(),
        &settings,
        &EndToken::Auto,
        false,
        config.eos_token_id,
        vocabulary,
    )?;
    Ok(checkpoint)
}
