//! Queries and documents of late interaction as token ids: markers, what queries are filled up with, whose vectors count.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::InputError;
use super::tokenizer::{TextEncoder, Tokens};

/// How queries, or documents, are read.
#[derive(Debug)]
pub(crate) struct Side {
    /// The token behind a text's first one.
    pub(crate) marker: Option<u32>,
    /// Most tokens, the marker among them.
    pub(crate) longest: usize,
    /// What short texts are filled up with.
    pub(crate) fill: Option<Fill>,
    pub(crate) left_out: Arc<LeftOut>,
}

/// Tokens that are left out of a result.
#[derive(Debug, Default)]
pub(crate) struct LeftOut {
    pub(crate) ids: BTreeSet<u32>,
    /// So many at the beginning.
    pub(crate) first: usize,
}

impl LeftOut {
    /// Whether a text's token, with this id at this place, counts.
    pub(crate) fn keeps(&self, place: usize, id: u32) -> bool {
        place >= self.first && !self.ids.contains(&id)
    }
}

/// What texts are filled up with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fill {
    pub(crate) token: u32,
    /// To so many tokens.
    pub(crate) length: usize,
    /// Whether tokens attend to it.
    pub(crate) seen: bool,
}

/// A query's or document's tokens.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SideEncoding {
    pub(crate) ids: Vec<u32>,
    /// Where tokens begin that none attends to, if there are any.
    pub(crate) unseen: Option<usize>,
    /// Whether content was cut to fit the limit.
    pub(crate) truncated: bool,
}

impl Side {
    /// The tokens of `prompt` and `text` together: content cut to the limit, then what stands around it, then the marker
    /// and the filling. `None` soon after `stop` has begun to say yes.
    pub(crate) fn encode(
        &self,
        encoder: &TextEncoder,
        prompt: &str,
        text: &str,
        stop: &dyn Fn() -> bool,
    ) -> Option<Result<SideEncoding, InputError>> {
        let room = self.longest.saturating_sub(usize::from(self.marker.is_some()));
        let tokens = encoder.encode_unless(prompt, text, room, stop)?;
        Some(tokens.map(|Tokens { mut ids, truncated }| {
            if let Some(marker) = self.marker {
                ids.insert(1.min(ids.len()), marker);
            }
            let own = ids.len();
            if let Some(fill) = self.fill {
                ids.resize(fill.length.max(own), fill.token);
            }
            let unseen = self.fill.filter(|fill| !fill.seen && own < ids.len()).map(|_| own);
            SideEncoding { ids, unseen, truncated }
        }))
    }

    /// Tokens that every text has besides its content.
    pub(crate) fn added_tokens(&self, encoder: &TextEncoder) -> usize {
        encoder.added_tokens() + usize::from(self.marker.is_some())
    }
}
