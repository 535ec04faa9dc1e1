//! A query and a document as one text.

use std::sync::Arc;

use tokenizers::{Encoding, Token};

use super::guarded::guarded;
use super::side_files::{TOKENIZER_CONFIG, invalid as invalid_field};
use super::tokenizer::TextEncoder;
use super::{InputError, Settings, TextError};
use crate::file::Files;

/// How a query and a document become one text.
#[derive(Debug)]
pub(crate) enum PairForm {
    /// By the tokenizer's template: each is tokenised by itself.
    Template(Template),
    /// By words around them, with which they are tokenised.
    Written(Written),
}

/// What a tokenizer puts around the two texts of a pair.
#[derive(Debug, Default)]
pub(crate) struct Template {
    before: Vec<u32>,
    between: Vec<u32>,
    behind: Vec<u32>,
    /// Where in `between` tokens of type 1 begin, to which the document belongs then.
    second: Option<usize>,
}

/// Words around an instruction, a query and a document.
#[derive(Debug)]
pub(crate) struct Written {
    /// Tokens before the instruction.
    before: Vec<u32>,
    /// What stands before each of the three.
    parts: [&'static str; 3],
    /// The instruction where there is no other.
    instruction: &'static str,
    /// Tokens behind the document.
    behind: Vec<u32>,
}

/// What a query puts around each document's own tokens.
#[derive(Debug)]
pub(crate) struct Frame {
    before: Vec<u32>,
    /// The query's own tokens, and what stands between them and the document; both are in `prompt` where the document is
    /// tokenised together with them.
    query: Vec<u32>,
    between: Vec<u32>,
    /// Text that is tokenised together with the document, in front of it, and its tokens by itself.
    prompt: String,
    prompt_tokens: usize,
    behind: Vec<u32>,
    /// Where in `between` tokens of type 1 begin.
    second: Option<usize>,
    /// What texts of this query begin with, as far as can be said without a document.
    beginning: Arc<[u32]>,
}

/// A pair's tokens.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PairEncoding {
    pub(crate) ids: Vec<u32>,
    /// Where tokens of type 1 begin, if there are any.
    pub(crate) second: Option<usize>,
    /// Whether one of the two texts was cut to fit the limit.
    pub(crate) truncated: bool,
}

impl Template {
    /// Reads off what the post-processor puts around two texts. `types` are the rows of the model's table of types; a model
    /// without one has no use for them.
    fn read(
        encoder: &TextEncoder,
        files: &Files,
        settings: &Settings,
        types: usize,
    ) -> Result<Self, TextError> {
        // Ids that no vocabulary has, in place of the texts.
        const TEXTS: [u32; 2] = [u32::MAX - 1, u32::MAX];
        let refuse = |reason: &str| {
            Err(invalid_field((files.path("tokenizer.json"), "post_processor"), reason.to_owned()))
        };
        let text = |id, kind| Encoding::from_tokens(vec![Token::new(id, String::new(), (0, 0))], kind);
        let pair =
            guarded(|| encoder.tokenizer().post_process(text(TEXTS[0], 0), Some(text(TEXTS[1], 1)), true));
        let pair = match pair {
            Ok(pair) => pair,
            Err(reason) => return refuse(&format!("can't put a pair together: {reason}")),
        };
        let (ids, kinds) = (pair.get_ids(), pair.get_type_ids());
        let places = TEXTS.map(|text| ids.iter().position(|&id| id == text));
        let ([Some(query), Some(document)], 2) = (places, ids.iter().filter(|id| TEXTS.contains(id)).count())
        else {
            return refuse("does not have each text of a pair once");
        };
        if query > document {
            return refuse("has the second text of a pair in front, where the query belongs");
        }
        let mut template = Self {
            before: ids[..query].to_vec(),
            between: ids[query + 1..document].to_vec(),
            behind: ids[document + 1..].to_vec(),
            second: None,
        };
        let first = kinds.iter().position(|&kind| kind != 0);
        if types > 1 && first.is_some() && settings.gives_types().is_none() {
            let reason = "is missing. Without it, this tokenizer gives the second text of a pair a type of its own in \
                          transformers 4, and no types in version 5; write [\"input_ids\", \"token_type_ids\", \
                          \"attention_mask\"] there if the model was trained with types, and otherwise the same without \
                          the one in the middle";
            return Err(invalid_field((files.path(TOKENIZER_CONFIG), "model_input_names"), reason));
        }
        if types > 1 && settings.gives_types() == Some(true) {
            if kinds.iter().any(|&kind| kind > 1)
                || !kinds.is_sorted()
                || first.is_some_and(|at| at > document)
            {
                return refuse(
                    "gives tokens of a pair other types than 0 and then, from the document on at the latest, 1",
                );
            }
            if first.is_some_and(|at| at <= query) {
                return refuse("gives the query of a pair the type of the document");
            }
            template.second = first.map(|at| at - query - 1);
        }
        Ok(template)
    }
}

impl PairForm {
    /// As the tokenizer has it.
    pub(crate) fn template(
        encoder: &TextEncoder,
        files: &Files,
        settings: &Settings,
        types: usize,
    ) -> Result<Self, TextError> {
        Template::read(encoder, files, settings, types).map(Self::Template)
    }

    /// By words: what stands before the instruction, before each part and behind the document.
    pub(crate) fn written(
        encoder: &TextEncoder,
        before: &str,
        parts: [&'static str; 3],
        behind: &str,
        instruction: &'static str,
    ) -> Result<Self, InputError> {
        let (before, behind) = (encoder.bare(before)?, encoder.bare(behind)?);
        Ok(Self::Written(Written { before, parts, instruction, behind }))
    }

    /// How many tokens every pair has besides its texts.
    pub(crate) fn added_tokens(&self) -> usize {
        match self {
            Self::Template(Template { before, between, behind, .. }) => {
                before.len() + between.len() + behind.len()
            }
            Self::Written(Written { before, behind, .. }) => before.len() + behind.len(),
        }
    }

    /// What `query` puts around each document. An instruction goes before the query.
    pub(crate) fn frame(
        &self,
        encoder: &TextEncoder,
        instruction: &str,
        query: &str,
        max_tokens: usize,
    ) -> Result<Frame, InputError> {
        let frame = match self {
            Self::Template(Template { before, between, behind, second }) => {
                let query = encoder.bare(&format!("{instruction}{query}"))?;
                let beginning = [&before[..], &query, between].concat().into();
                let [before, between, behind] = [before, between, behind].map(Vec::clone);
                let (prompt, prompt_tokens, second) = (String::new(), 0, *second);
                Frame { before, query, between, prompt, prompt_tokens, behind, second, beginning }
            }
            Self::Written(Written { before, parts: [a, b, c], behind, instruction: default }) => {
                let instruction = if instruction.is_empty() { default } else { instruction };
                let prompt = format!("{a}{instruction}{b}{query}{c}");
                let ids = encoder.bare(&prompt)?;
                let beginning = [&before[..], &ids].concat().into();
                let (before, behind, prompt_tokens) = (before.clone(), behind.clone(), ids.len());
                let (query, between) = (Vec::new(), Vec::new());
                Frame { before, query, between, prompt, prompt_tokens, behind, second: None, beginning }
            }
        };
        let tokens = frame.around() + frame.prompt_tokens;
        if tokens >= max_tokens {
            return Err(InputError::NoRoom { tokens, max_tokens });
        }
        InputError::check_vocabulary(&frame.beginning, encoder.vocab_size())?;
        Ok(frame)
    }
}

impl Frame {
    /// What texts of this query begin with, as far as can be said without a document.
    pub(crate) fn beginning(&self) -> Arc<[u32]> {
        Arc::clone(&self.beginning)
    }

    /// How many tokens stand around the two texts.
    fn around(&self) -> usize {
        self.before.len() + self.between.len() + self.behind.len()
    }

    /// The tokens of this query's pair with a document, cut to the limit: the longer of the two texts as far as it is
    /// longer, and then both. A document that is tokenised together with its query is cut alone. `None` soon after `stop`
    /// has begun to say yes.
    pub(crate) fn encode(
        &self,
        encoder: &TextEncoder,
        document: &str,
        max_tokens: usize,
        stop: &dyn Fn() -> bool,
    ) -> Option<Result<PairEncoding, InputError>> {
        let Self { before, query, between, prompt, prompt_tokens, behind, second, .. } = self;
        let room = max_tokens.saturating_sub(self.around());
        // As much of the document as may stay, or as tells which of the two is longer.
        let most = if query.len() <= room / 2 { room - query.len() } else { room.max(query.len() + 1) };
        let content = encoder.cut_content(prompt, *prompt_tokens, document, most, stop)?;
        Some(content.and_then(|(content, truncated)| {
            let [of_query, of_document] = shares(query.len(), content.len(), room);
            let truncated = truncated || of_query < query.len() || of_document < content.len();
            let (query, content) = (encoder.cut(query, of_query), encoder.cut(&content, of_document));
            let second = second.map(|second| before.len() + query.len() + second);
            let ids = [&before[..], query, between, content, behind].concat();
            if ids.is_empty() {
                return Err(InputError::Empty);
            }
            InputError::check_vocabulary(&ids, encoder.vocab_size())?;
            Ok(PairEncoding { ids, second, truncated })
        }))
    }
}

/// How many tokens of two texts stay where there is room for so many, as `longest_first` of transformers has it.
fn shares(query: usize, document: usize, room: usize) -> [usize; 2] {
    let (half, longer_half) = (room / 2, room - room / 2);
    if query + document <= room {
        [query, document]
    } else if query <= half {
        [query, room - query]
    } else if document <= half {
        [room - document, document]
    } else if query > document {
        [longer_half, half]
    } else {
        [half, longer_half]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_text_is_cut_first() {
        for (query, document, room, expected) in [
            (3, 4, 7, [3, 4]),
            (3, 9, 7, [3, 4]),
            (9, 3, 7, [4, 3]),
            (4, 9, 7, [3, 4]),
            (9, 4, 7, [4, 3]),
            (9, 9, 7, [3, 4]),
            (5, 5, 8, [4, 4]),
            (9, 0, 7, [7, 0]),
            (0, 9, 7, [0, 7]),
            (2, 2, 1, [0, 1]),
            (3, 2, 1, [1, 0]),
        ] {
            assert_eq!(shares(query, document, room), expected, "{query} {document} {room}");
        }
    }
}
