//! How long texts may be, and how many of them wait and run together.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::late;
use crate::batch::Sharing;
use crate::checkpoint::spec::{ModelSpec, PositionsSpec};
use crate::checkpoint::{Architecture, Checkpoint, CheckpointError, ModelConfig, RopeScaling, SideSpec};
use crate::engine::queue::Limits;
use crate::error::Error;
use crate::file::Files;
use crate::mlx::Backend;
use crate::options::LoadOptions;
use crate::text::Settings;

/// Tokens of a batch for each thread of the CPU. With as many, sixteen threads wait for each other for 3 % of their time;
/// with a quarter of it for 9 %.
const THREAD_TOKENS: usize = 128;
/// Few threads have enough to do with so many tokens in a batch, and more would only take memory.
const CPU_TOKENS: usize = 512;
/// Memory grows with the tokens of a batch, which are not many more than these on any number of threads.
const MOST_CPU_TOKENS: usize = 2048;

/// Of a batch on any device. Arrays with more than 2^31 elements can't be had, and a token has a thousand or more. A warm-up
/// runs a full batch.
pub(super) const MOST_BATCH_TOKENS: usize = 1 << 20;

/// On so few threads the time of a batch is proportional to its tokens from about here on.
const CPU_ENOUGH_TOKENS: usize = 128;
/// The same for each thread where there are many.
const THREAD_ENOUGH_TOKENS: usize = 32;

const BATCH_TIME: Duration = Duration::from_millis(25);
const QUEUE_TEXTS: usize = 4096;
const QUEUE_BYTES: usize = 64 << 20;

/// What the queue holds, and what runs at once.
pub(super) fn of_queue(
    options: &LoadOptions,
    backend: Backend,
    threads: usize,
    batch_tokens: usize,
    sharing: Sharing,
) -> Limits {
    Limits {
        capacity: options.queue_texts.map_or(QUEUE_TEXTS, NonZeroUsize::get),
        bytes: options.queue_bytes.map_or(QUEUE_BYTES, NonZeroUsize::get),
        batch_tokens,
        enough_tokens: match backend {
            Backend::Cpu => CPU_ENOUGH_TOKENS.max(threads * THREAD_ENOUGH_TOKENS),
            // A GPU has room for more.
            _ => batch_tokens,
        },
        batch_time: options.batch_time.unwrap_or(BATCH_TIME),
        sharing,
    }
}

pub(super) fn default_batch_tokens(backend: Backend, threads: usize) -> usize {
    match backend {
        Backend::Cpu => (threads * THREAD_TOKENS).clamp(CPU_TOKENS, MOST_CPU_TOKENS),
        _ => 4096,
    }
}

/// Most tokens of a text.
pub(super) struct Lengths {
    pub(super) max_tokens: usize,
    /// Who sets it.
    pub(super) source: String,
    /// Of a model of late interaction, those of queries and documents.
    pub(super) late: Option<late::Lengths>,
}

impl Lengths {
    pub(super) fn of(
        checkpoint: &Checkpoint,
        tokenizer: &Settings,
        options: &LoadOptions,
    ) -> Result<Self, Error> {
        let (max_tokens, source) = max_tokens(checkpoint, tokenizer, options.max_tokens)?;
        let Some(late) = checkpoint.late() else { return Ok(Self { max_tokens, source, late: None }) };
        let lengths = late::Lengths::of(late, checkpoint, max_tokens, options.max_tokens);
        let SideSpec { file, longest_field, longest, .. } = &late.document;
        let is_of_side = options.max_tokens.is_none() && longest.is_some();
        Ok(Self {
            max_tokens: lengths.query.max(lengths.document),
            source: if is_of_side { format!("{file} ({longest_field})") } else { source },
            late: Some(lengths),
        })
    }
}

/// The limit on a text's tokens that the caller (`wanted`) or the checkpoint sets, and who sets it.
fn max_tokens(
    checkpoint: &Checkpoint,
    tokenizer: &Settings,
    wanted: Option<usize>,
) -> Result<(usize, String), Error> {
    // Where positions are rows of a table, it ends; and so do the distances that are kept.
    let ModelSpec { embedding, relative, .. } = checkpoint.spec();
    let rows = embedding.positions.as_ref().map(PositionsSpec::longest);
    let rows = rows.or(relative.as_ref().map(|relative| relative.longest));
    let reject = |reason: String| Err(Error::Option { option: "max_tokens", reason });
    match (wanted, rows) {
        (None, rows) => {
            let (limit, source) = checkpoint_limit(checkpoint, tokenizer);
            match rows {
                Some(rows) if rows < limit => Ok((rows, "config.json (max_position_embeddings)".to_owned())),
                _ => Ok((limit, source)),
            }
        }
        (Some(0), _) => reject("is 0; give at least 1".into()),
        (Some(wanted), Some(rows)) if wanted > rows => {
            reject(format!("is {wanted}, but this model has positions for {rows} tokens; give at most that"))
        }
        (Some(wanted), _) => Ok((wanted, "the caller".to_owned())),
    }
}

/// The checkpoint's limit, as sentence-transformers finds it: one of its own files goes over the tokenizer's, of which
/// the model's positions may be less.
fn checkpoint_limit(checkpoint: &Checkpoint, tokenizer: &Settings) -> (usize, String) {
    let positions = checkpoint.config().max_position_embeddings;
    let (of_model, of_tokenizer) = match checkpoint.config().architecture {
        Architecture::StaticEmbedding => ("no file sets one", "tokenizer.json (truncation.max_length)"),
        Architecture::Model2Vec => ("config.json (max_length)", ""),
        _ => ("config.json (max_position_embeddings)", "tokenizer_config.json (model_max_length)"),
    };
    let by_model = (positions, of_model.to_owned());
    match (&checkpoint.sentence_transformers().limit, tokenizer.model_max_length()) {
        (Some((field, Some(limit))), _) => (*limit, format!("sentence_bert_config.json ({field})")),
        (None, Some(limit)) if limit < positions => (limit, of_tokenizer.to_owned()),
        // A limit without end still leaves the model's own.
        _ => by_model,
    }
}

/// Refuses texts for which rotary factors would depend on each one's length.
pub(super) fn refuse_longer_than_factors(
    config: &ModelConfig,
    max_tokens: usize,
    place: &Files,
) -> Result<(), Error> {
    if let RopeScaling::LongRope {
        original_max_position_embeddings: original, short_factor, long_factor, ..
    } = &config.rope_scaling
        && max_tokens as f32 > *original
        && short_factor != long_factor
    {
        return Err(Error::Checkpoint(CheckpointError::InvalidField {
            path: place.base().path("config.json"),
            field: "rope_scaling.long_factor".into(),
            reason: format!(
                "is for texts of more than {original} tokens, and texts of up to {max_tokens} are to be embedded; factors that depend on a text's length are not supported: set max_tokens (--max-tokens) to {original} at most"
            ),
        }));
    }
    Ok(())
}

/// The limit has to leave room for content beside the `added` special tokens.
pub(super) fn check_room_for_content(
    max_tokens: usize,
    added: usize,
    wanted: bool,
    place: &Files,
) -> Result<(), Error> {
    if max_tokens > added {
        Ok(())
    } else if wanted {
        Err(Error::Option {
            option: "max_tokens",
            reason: format!("is {max_tokens}, of which special tokens take {added}; give more than that"),
        })
    } else {
        Err(Error::Checkpoint(CheckpointError::InvalidField {
            path: place.base().path("config.json"),
            field: "max_position_embeddings".into(),
            reason: format!(
                "(or max_seq_length in sentence_bert_config.json, or model_max_length in tokenizer_config.json) leaves \
                 no room: it is {max_tokens}, of which special tokens take {added}"
            ),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_threads_get_larger_batches() {
        let tokens = |threads| default_batch_tokens(Backend::Cpu, threads);
        assert_eq!([1, 2, 4, 8, 16, 64].map(tokens), [512, 512, 512, 1024, 2048, 2048]);
    }
}
