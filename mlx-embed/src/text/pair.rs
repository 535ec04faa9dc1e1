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
    /// Text that is tokenised together with the document, in front of it, and its tokens by itself.
    prompt: String,
    prompt_tokens: usize,
    behind: Vec<u32>,
    /// Where in `before` tokens of type 1 begin.
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
    /// Whether the document was cut to fit the limit.
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
                let second = second.map(|second| before.len() + query.len() + second);
                let before = [&before[..], &query, between].concat();
                let beginning = before[..].into();
                let (prompt, prompt_tokens) = (String::new(), 0);
                Frame { before, prompt, prompt_tokens, behind: behind.clone(), second, beginning }
            }
            Self::Written(Written { before, parts: [a, b, c], behind, instruction: default }) => {
                let instruction = if instruction.is_empty() { default } else { instruction };
                let prompt = format!("{a}{instruction}{b}{query}{c}");
                let ids = encoder.bare(&prompt)?;
                let beginning = [&before[..], &ids].concat().into();
                let (before, behind) = (before.clone(), behind.clone());
                Frame { before, prompt, prompt_tokens: ids.len(), behind, second: None, beginning }
            }
        };
        let tokens = frame.before.len() + frame.prompt_tokens + frame.behind.len();
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

    /// The tokens of this query's pair with a document, which is cut to what the limit leaves of it. `None` soon after
    /// `stop` has begun to say yes.
    pub(crate) fn encode(
        &self,
        encoder: &TextEncoder,
        document: &str,
        max_tokens: usize,
        stop: &dyn Fn() -> bool,
    ) -> Option<Result<PairEncoding, InputError>> {
        let Self { before, prompt, prompt_tokens, behind, second, .. } = self;
        let room = max_tokens.saturating_sub(before.len() + behind.len());
        let content = encoder.cut_content(prompt, *prompt_tokens, document, room, stop)?;
        Some(content.and_then(|(content, truncated)| {
            let ids = [&before[..], &content, behind].concat();
            if ids.is_empty() {
                return Err(InputError::Empty);
            }
            InputError::check_vocabulary(&ids, encoder.vocab_size())?;
            Ok(PairEncoding { ids, second: *second, truncated })
        }))
    }
}
