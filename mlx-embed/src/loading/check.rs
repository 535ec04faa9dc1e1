//! Whether a checkpoint could be loaded, without loading it.

use std::path::Path;

use super::settings;
use crate::checkpoint::{Checkpoint, Doubt};
use crate::error::Error;
use crate::options::LoadOptions;
use crate::text::TextEncoder;

/// Whether a folder could be loaded as what its files say that it is: an embedder, a reranker, a sparse encoder or a
/// model of late interaction. All its files are opened and checked, the tokenizer's too. Of the weights only the headers
/// are read.
///
/// # Errors
/// The error that loading the folder would give.
pub fn check(dir: impl AsRef<Path>) -> Result<Checkpoint, Error> {
    let checkpoint = Checkpoint::open_any(dir)?;
    checkpoint.check(&LoadOptions::default())?;
    Ok(checkpoint)
}

impl Checkpoint {
    /// Whether it could be loaded: nothing in it is left out, unless [`LoadOptions::lenient`] is set, and its tokenizer can
    /// be read. Opening it has checked the rest.
    ///
    /// # Errors
    /// The error that loading it with these options would give.
    pub fn check(&self, options: &LoadOptions) -> Result<(), Error> {
        refuse_doubts(self, options)?;
        let (config, settings) = (self.config(), settings(self)?);
        let vocabulary = config.vocab_size.unsigned_abs();
        TextEncoder::open(
            self.place(),
            &settings,
            &options.end_token,
            false,
            config.eos_token_id,
            vocabulary,
        )?;
        Ok(())
    }
}

pub(super) fn refuse_doubts(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<(), Error> {
    match Doubt::error(checkpoint.doubts()) {
        Some(error) if !options.lenient => Err(Error::Checkpoint(error)),
        _ => Ok(()),
    }
}
