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
    Written(Box<Written>),
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
pub(crate) struct Words {
    /// Before the instruction, or before the query where none has a place.
    pub(crate) before: String,
    /// The instruction where nobody gives another, and what stands between it and the query.
    pub(crate) instruction: Option<[String; 2]>,
    /// Between query and document.
    pub(crate) between: String,
    pub(crate) behind: String,
}

/// A pair by words.
#[derive(Debug)]
pub(crate) struct Written {
    words: Words,
    /// Tokens that stand at the end whatever the document.
    end: Vec<u32>,
    /// How many tokens there are without texts.
    tokens: usize,
}

/// What a query puts around each document.
#[derive(Debug)]
pub(crate) struct Frame {
    around: Around,
    /// What texts of this query begin with, as far as can be said without a document.
    beginning: Arc<[u32]>,
}

#[derive(Debug)]
enum Around {
    /// Tokens, of which those before the document are the beginning.
    Tokens {
        behind: Vec<u32>,
        /// Where in the beginning tokens of type 1 start.
        second: Option<usize>,
    },
    /// Text that is tokenised together with the document.
    Words {
        before: String,
        /// How many tokens `before` has by itself.
        tokens: usize,
        behind: String,
        /// Tokens that stand at the end whatever the document, also where the limit cuts others.
        end: Vec<u32>,
    },
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

    /// By words.
    pub(crate) fn written(encoder: &TextEncoder, words: Words) -> Result<Self, InputError> {
        let with = |text: &str| encoder.bare(&format!("{}{text}{}", words.between, words.behind));
        // As sentence-transformers finds them: what two texts have in common at the end.
        let (one, other) = (with("0")?, with("1 2 3 4")?);
        let common = one.iter().rev().zip(other.iter().rev()).take_while(|(a, b)| a == b).count();
        let end = one[one.len() - common..].to_vec();
        let tokens = encoder.bare(&words.prompt("", ""))?.len() + end.len();
        Ok(Self::Written(Box::new(Written { words, end, tokens })))
    }

    /// How many tokens every pair has besides its texts.
    pub(crate) fn added_tokens(&self) -> usize {
        match self {
            Self::Template(Template { before, between, behind, .. }) => {
                before.len() + between.len() + behind.len()
            }
            Self::Written(written) => written.tokens,
        }
    }

    /// Whether an instruction has a place in it.
    pub(crate) fn takes_instruction(&self) -> bool {
        match self {
            Self::Template(_) => true,
            Self::Written(written) => written.words.instruction.is_some(),
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
        let (around, beginning, tokens) = match self {
            Self::Template(Template { before, between, behind, second }) => {
                let query = encoder.bare(&format!("{instruction}{query}"))?;
                let second = second.map(|second| before.len() + query.len() + second);
                let beginning = [&before[..], &query, between].concat();
                let tokens = beginning.len() + behind.len();
                (Around::Tokens { behind: behind.clone(), second }, beginning, tokens)
            }
            Self::Written(written) => {
                let before = written.words.prompt(instruction, query);
                let beginning = encoder.bare(&before)?;
                let (tokens, end) = (beginning.len(), written.end.clone());
                let needed = tokens + end.len();
                let behind = written.words.behind.clone();
                (Around::Words { before, tokens, behind, end }, beginning, needed)
            }
        };
        if tokens >= max_tokens {
            return Err(InputError::NoRoom { tokens, max_tokens });
        }
        InputError::check_vocabulary(&beginning, encoder.vocab_size())?;
        Ok(Frame { around, beginning: beginning.into() })
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
        match &self.around {
            Around::Words { before, tokens, behind, end } => {
                let text = format!("{document}{behind}");
                let content = encoder.cut_content(before, *tokens, &text, max_tokens, stop)?;
                Some(content.and_then(|(mut ids, truncated)| {
                    if truncated {
                        ids.truncate(max_tokens.saturating_sub(end.len()));
                        ids.extend(end);
                    }
                    checked(ids, None, truncated, encoder)
                }))
            }
            Around::Tokens { behind, second } => {
                let beginning = &self.beginning[..];
                let room = max_tokens.saturating_sub(beginning.len() + behind.len());
                let content = encoder.cut_content("", 0, document, room, stop)?;
                Some(content.and_then(|(content, truncated)| {
                    checked([beginning, &content, behind].concat(), *second, truncated, encoder)
                }))
            }
        }
    }
}

/// A pair's tokens, which the model has to have.
fn checked(
    ids: Vec<u32>,
    second: Option<usize>,
    truncated: bool,
    encoder: &TextEncoder,
) -> Result<PairEncoding, InputError> {
    if ids.is_empty() {
        return Err(InputError::Empty);
    }
    InputError::check_vocabulary(&ids, encoder.vocab_size())?;
    Ok(PairEncoding { ids, second, truncated })
}

impl Words {
    /// What stands before the document.
    fn prompt(&self, instruction: &str, query: &str) -> String {
        let Self { before, between, .. } = self;
        match &self.instruction {
            None => format!("{before}{query}{between}"),
            Some([default, behind]) => {
                let instruction = if instruction.is_empty() { default } else { instruction };
                format!("{before}{instruction}{behind}{query}{between}")
            }
        }
    }
}
