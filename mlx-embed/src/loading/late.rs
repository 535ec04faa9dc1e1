//! What loading a model of late interaction takes besides.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::rerankers::invalid;
use crate::checkpoint::spec::PositionsSpec;
use crate::checkpoint::{Checkpoint, Expansion, LateInteraction, SideSpec};
use crate::error::{Error, InputError};
use crate::file::Files;
use crate::info::LateInteractionInfo;
use crate::request::Sides;
use crate::text::{Fill, LeftOut, Settings, Side, TextEncoder};

/// Most tokens that a query is filled up to. Those in use are filled up to some hundred at most.
const MOST_FILLED: usize = 8192;

/// Most tokens of queries and of documents, and of queries that are filled up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lengths {
    pub(super) query: usize,
    pub(super) document: usize,
    filled: usize,
}

impl Lengths {
    /// Those of the files, as far as the model has positions, or the limit of all texts, `max_tokens`. The caller's is one
    /// of documents, as queries may be filled up to theirs.
    pub(super) fn of(
        late: &LateInteraction,
        checkpoint: &Checkpoint,
        max_tokens: usize,
        wanted: Option<usize>,
    ) -> Self {
        let positions = checkpoint.spec().embedding.positions.as_ref();
        let most = positions.map_or(usize::MAX, PositionsSpec::longest);
        let [query, document] = [late.query.longest, wanted.or(late.document.longest)]
            .map(|longest| longest.unwrap_or(max_tokens).min(most));
        Self { query, document, filled: late.expansion.as_ref().map_or(0, |to| to.length.min(most)) }
    }
}

/// How queries and documents are read.
pub(super) fn sides(
    late: &LateInteraction,
    lengths: Lengths,
    text: &TextEncoder,
    tokenizer: &Settings,
    vocab_size: i32,
    place: &Files,
) -> Result<Sides, Error> {
    let known = |id: Option<u32>| {
        id.filter(|&id| InputError::check_vocabulary(&[id], vocab_size.unsigned_abs()).is_ok())
    };
    let marker = |spec: &SideSpec| {
        let Some(marker) = &spec.marker else { return Ok(None) };
        let Some(id) = known(text.id_of(marker)) else {
            let reason = format!(
                "is `{marker}`, which is no token of tokenizer.json that the model has; copy the tokenizer's files \
                 that belong to the model, or set this to its marker (or to \"\" if it has none)"
            );
            return Err(invalid(place, spec.file, spec.marker_field, reason));
        };
        // sentence-transformers writes it before the text, where a word grows together with what is behind it.
        if !text.is_added(id) && text.bare(marker).is_ok_and(|ids| ids == [id]) {
            let reason = format!(
                "is `{marker}`, a word of the vocabulary: PyLate puts it in as a token, sentence-transformers as text; \
                 list it as an added token in tokenizer.json if it is one"
            );
            return Err(invalid(place, spec.file, spec.marker_field, reason));
        }
        Ok(Some(id))
    };
    let fill = |expansion: &Expansion| -> Result<Fill, Error> {
        let Expansion { token, seen, by_padding, .. } = expansion;
        if *by_padding && text.pads_left() {
            let reason = "is `left`, by this file, by tokenizer.json's `padding` or by the tokenizer's class, so that queries are \
                          filled up in front of their own tokens; only filling up behind them is supported: write `right` \
                          if the model was trained with that";
            return Err(invalid(place, "tokenizer_config.json", "padding_side", reason.into()));
        }
        // A model without a mask token fills queries up with the end token.
        let names = ["mask_token", "eos_token", "pad_token"];
        let named = || names.iter().find_map(|name| tokenizer.special_token(name));
        let id = known(token.as_deref().or_else(named).and_then(|token| text.id_of(token)));
        let token = id.ok_or_else(|| match token {
            Some(token) => {
                let reason = format!("is `{token}`, which is no token of tokenizer.json that the model has");
                invalid(place, late.query.file, "query_expansion.token", reason)
            }
            None => {
                let reason = "is missing or no token that the model has, and queries are filled up with it";
                invalid(place, "tokenizer_config.json", "mask_token", reason.into())
            }
        })?;
        Ok(Fill { token, length: lengths.filled, seen: *seen })
    };
    let fill = late.expansion.as_ref().map(fill).transpose()?;
    let side = |spec: &SideSpec, longest, fill| -> Result<Arc<Side>, Error> {
        // A word that is no token stands for none; the token for unknown ones is not meant by it.
        let ids: BTreeSet<u32> = spec.skiplist.iter().filter_map(|word| text.id_of(word)).collect();
        let left_out = LeftOut { ids, first: late.first };
        let side = Side { marker: marker(spec)?, longest, fill, left_out: Arc::new(left_out) };
        let added = side.added_tokens(text);
        let filled = side.fill.map_or(0, |fill| fill.length);
        let reason = if longest <= added {
            format!("leaves no room: the limit is {longest} tokens, of which special ones take {added}")
        } else if filled > MOST_FILLED {
            format!(
                "is {filled}, and a query of any length is filled up to it; {MOST_FILLED} at most are read"
            )
        } else {
            return Ok(Arc::new(side));
        };
        Err(invalid(place, spec.file, spec.longest_field, reason))
    };
    Ok(Sides {
        query: side(&late.query, lengths.query, fill)?,
        document: side(&late.document, lengths.document, None)?,
    })
}

/// What users see of it.
pub(super) fn info(late: &LateInteraction, sides: &Sides) -> LateInteractionInfo {
    LateInteractionInfo {
        query_marker: late.query.marker.clone(),
        document_marker: late.document.marker.clone(),
        query_tokens: sides.query.longest,
        document_tokens: sides.document.longest,
        expands_queries: late.expansion.is_some(),
        attends_to_expansion: late.expansion.as_ref().is_some_and(|expansion| expansion.seen),
        skipped_tokens: sides.document.left_out.ids.len(),
    }
}

/// Tokens that have no weight in bge-m3's sparse vectors: those that stand for no text.
pub(super) fn without_weight(text: &TextEncoder, tokenizer: &Settings) -> LeftOut {
    let names = ["cls_token", "eos_token", "pad_token", "unk_token"];
    let ids = names.iter().filter_map(|name| text.id_of(tokenizer.special_token(name)?));
    LeftOut { ids: ids.collect(), first: 0 }
}
