//! Whether a checkpoint could be loaded, without loading it.

use std::num::NonZeroUsize;
use std::path::Path;

use super::limits::{self, Lengths};
use super::{rerankers, settings};
use crate::checkpoint::{Checkpoint, Doubt, Purpose};
use crate::error::Error;
use crate::info::Source;
use crate::options::LoadOptions;
use crate::pooling::Pooling;
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
    /// Whether it could be loaded with these options: nothing in it is left out, unless [`LoadOptions::lenient`] is set,
    /// the options fit it, and its tokenizer can be read. Opening it has checked the rest. No device is looked for, since
    /// it may be another machine's.
    ///
    /// # Errors
    /// The error that loading it with these options would give.
    pub fn check(&self, options: &LoadOptions) -> Result<(), Error> {
        let (pooling, _) = self::options(self, options)?;
        let (config, settings) = (self.config(), settings(self)?);
        let max_tokens = Lengths::of(self, &settings, options)?.max_tokens;
        limits::refuse_longer_than_factors(config, max_tokens, self.place())?;
        TextEncoder::open(
            self.place(),
            &settings,
            &options.end_token,
            pooling.takes_last_token() && self.scoring().is_none(),
            config.eos_token_id,
            config.vocab_size.unsigned_abs(),
        )?;
        Ok(())
    }
}

/// Refuses what is left out of a checkpoint, and options that don't fit it. Returns the pooling, and who says so.
pub(super) fn options(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<(Pooling, Source), Error> {
    if let (false, Some(error)) = (options.lenient, Doubt::error(checkpoint.doubts())) {
        return Err(Error::Checkpoint(error));
    }
    refuse_pooling(checkpoint.purpose(), options)?;
    let pooling = pooling(checkpoint, options)?;
    refuse_more_than("threads", options.threads, MOST_THREADS, "best as many as the machine has cores")?;
    let most = limits::MOST_BATCH_TOKENS;
    refuse_more_than("batch_tokens", options.batch_tokens, most, "larger batches save no time")?;
    if checkpoint.scoring().is_some() {
        rerankers::check_options(options)?;
    }
    Ok(pooling)
}

/// Refuses a pooling where there is none to choose.
fn refuse_pooling(purpose: Purpose, options: &LoadOptions) -> Result<(), Error> {
    let reason = match (purpose, options.pooling) {
        (Purpose::Sparse, Some(_)) => {
            "is given, but sparse vectors have a pooling of their own; leave it out"
        }
        (Purpose::TokenVectors, Some(_)) => "is given, but vectors of tokens are not pooled; leave it out",
        _ => return Ok(()),
    };
    Err(Error::Option { option: "pooling", reason: reason.into() })
}

/// How hidden states become a vector, and who says so.
fn pooling(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<(Pooling, Source), Error> {
    match (&checkpoint.spec().head, options.pooling) {
        (Some(head), Some(_)) => {
            let reason = format!("is {} by this reranker's head; leave it out", head.pooling);
            Err(Error::Option { option: "pooling", reason })
        }
        (None, Some(pooling)) => Ok((pooling, Source::Caller)),
        (head, None) => {
            let is_said = head.is_some() || checkpoint.sentence_transformers().pooling.is_some();
            Ok((checkpoint.pooling(), if is_said { Source::Checkpoint } else { Source::Default }))
        }
    }
}

/// More than any machine has processors for. Where the system has no more threads to give, starting one may end the process.
const MOST_THREADS: usize = 1024;

fn refuse_more_than(
    option: &'static str,
    number: Option<NonZeroUsize>,
    most: usize,
    advice: &str,
) -> Result<(), Error> {
    match number {
        Some(number) if number.get() > most => {
            Err(Error::Option { option, reason: format!("is {number}; give at most {most}, {advice}") })
        }
        _ => Ok(()),
    }
}
