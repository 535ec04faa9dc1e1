//! The checkpoint's tokenizer, and the token that ends a text.

use std::borrow::Cow;
use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use serde::Serialize;
use tokenizers::{
    AddedToken, Encoding, Model, OffsetType, PostProcessor, PreTokenizer, Token, Tokenizer,
    TruncationDirection,
};

use super::assemble::{AddedTokenInfo, Assembled, TruncationSide, assemble};
use super::bare::BareRules;
use super::certain::Certain;
use super::guarded::guarded;
use super::input_error::InputError;
use super::settings::Settings;
use super::side_files::TOKENIZER_CONFIG;
use super::side_files::invalid as invalid_field;
use super::{TextError, limits, vocabulary};
use crate::file::Files;

/// Which token ends a text. With last-token pooling the vector is this token's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndToken {
    /// The one that the tokenizer appends. If it appends none and pooling is last-token, the model's own end token.
    #[default]
    Auto,
    /// The one that the tokenizer appends, if any.
    TokenizerOnly,
    /// This token, unless the tokenizer has appended it already.
    Token(String),
}

/// What appends the end token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum EndTokenSource {
    /// The tokenizer's post-processor.
    Tokenizer,
    /// This crate, because the tokenizer doesn't.
    Embedder,
}

/// A text's tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tokens {
    pub(crate) ids: Vec<u32>,
    /// Whether content was cut to fit the limit.
    pub(crate) truncated: bool,
}

/// Text to token ids.
#[derive(Debug)]
pub(crate) struct TextEncoder {
    tokenizer: Tokenizer,
    added: Vec<AddedTokenInfo>,
    truncation_side: TruncationDirection,
    pads_left: bool,
    /// Ids of the special tokens that the files name.
    special_ids: Vec<u32>,
    /// Appended here, behind whatever the tokenizer adds.
    appended: Option<u32>,
    end_token: Option<(u32, EndTokenSource)>,
    vocab_size: u32,
    /// Of static embeddings, which tokens don't count. A text without tokens is one.
    bare: Option<BareRules>,
    /// How the first tokens of a long text follow from its beginning, where they do.
    certain: Option<Certain>,
    /// Tokens of prompts, bounded in bytes.
    prompts: Cache<String, Arc<[u32]>, Bytes>,
    /// How many tokens of a text they are, by prompt.
    prompt_lengths: Cache<String, usize>,
}

/// Prompts whose tokens are kept, and how many bytes they and their tokens may take.
const PROMPTS: usize = 64;
const PROMPT_BYTES: u64 = 1 << 20;

/// Bytes of a text that are read first for each token that it may have, and for any text.
const BYTES_PER_TOKEN: usize = 8;
const LEAST_BYTES: usize = 512;

/// How much more is read where that was too little.
const GROWTH: usize = 4;

#[derive(Debug, Clone)]
struct Bytes;

impl Weighter<String, Arc<[u32]>> for Bytes {
    fn weight(&self, prompt: &String, ids: &Arc<[u32]>) -> u64 {
        (prompt.len() + size_of_val(&**ids)) as u64
    }
}

impl TextEncoder {
    /// Reads `tokenizer.json`, of which `settings` says what the files beside it do to it.
    ///
    /// `last_token` says that the vector is read off the last token; `eos_token_id` is the config's.
    pub(crate) fn open(
        files: &Files,
        settings: &Settings,
        end_token: &EndToken,
        last_token: bool,
        eos_token_id: Option<u32>,
        vocab_size: u32,
    ) -> Result<Self, TextError> {
        let name = "tokenizer.json";
        let mut path = files.path(name);
        let json = match vocabulary::contents(files, name)? {
            Some(json) => json,
            None => match vocabulary::in_place_of_tokenizer_json(files, settings)? {
                Some((file, made)) => {
                    path = file;
                    made.into()
                }
                None => return Err(TextError::MissingTokenizer { path }),
            },
        };
        limits::check(&json).map_err(|reason| invalid(&path, reason))?;
        let Assembled { tokenizer, added, truncation_side, pads_left, special_ids, bos_eos } =
            assemble(&json, settings, files, &path)?;
        let bare = settings.bare.map(|bare| BareRules::of(bare, &tokenizer, &json)).transpose();
        let mut encoder = Self {
            bare: bare.map_err(|error| invalid(&path, error.to_string()))?,
            // Behind what the files do to the tokenizer. The first tokens are of no use where the last ones stay, and
            // where special tokens are plain text nothing is known of them.
            certain: match truncation_side {
                TruncationDirection::Right if !settings.split_special_tokens => Certain::new(&tokenizer),
                _ => None,
            },
            tokenizer,
            added,
            truncation_side,
            pads_left,
            special_ids,
            appended: None,
            end_token: None,
            vocab_size,
            prompts: Cache::with_weighter(PROMPTS, PROMPT_BYTES, Bytes),
            prompt_lengths: Cache::new(PROMPTS),
        };
        let [first, last] = encoder.outer_tokens(&path)?;
        encoder.choose_end_token(end_token, last, last_token, eos_token_id)?;
        if settings.classes.llama_before && settings.ends.is_none() {
            let [bos, eos] = settings.declared_ends;
            encoder.check_declared(files, "add_bos_token", bos, bos_eos[0].as_ref(), first)?;
            // Where the caller chooses the end token, it is the caller's business what the files say.
            if *end_token == EndToken::Auto {
                // What this crate appends may be what the field asks for.
                let found = if eos == Some(true) { encoder.end_token.map(|(id, _)| id) } else { last };
                encoder.check_declared(files, "add_eos_token", eos, bos_eos[1].as_ref(), found)?;
            }
        }
        Ok(encoder)
    }

    /// Refuses a token at an end of texts of which one file says that it is there and another that it isn't.
    fn check_declared(
        &self,
        files: &Files,
        field: &str,
        declared: Option<bool>,
        token: Option<&AddedToken>,
        found: Option<u32>,
    ) -> Result<(), TextError> {
        let (Some(declared), Some(token)) = (declared, token) else { return Ok(()) };
        let is_there = found.is_some() && found == self.tokenizer.token_to_id(&token.content);
        if is_there == declared {
            return Ok(());
        }
        let puts = if is_there { "puts" } else { "does not put" };
        let reason = format!(
            "is {declared}, but the post_processor of tokenizer.json {puts} `{}` there. LlamaTokenizer went by this \
             field in transformers 4, and goes by tokenizer.json since 5; make the two agree as the model was trained",
            token.content
        );
        Err(invalid_field((files.path(TOKENIZER_CONFIG), field), reason))
    }

    fn choose_end_token(
        &mut self,
        wanted: &EndToken,
        by_tokenizer: Option<u32>,
        last_token: bool,
        eos_token_id: Option<u32>,
    ) -> Result<(), TextError> {
        self.appended = match wanted {
            EndToken::TokenizerOnly => None,
            EndToken::Token(token) => {
                let id = self
                    .tokenizer
                    .token_to_id(token)
                    .ok_or_else(|| TextError::UnknownEndToken { token: token.clone() })?;
                (by_tokenizer != Some(id)).then_some(id)
            }
            // Qwen's embedding models end on `<|endoftext|>`, also where config.json names the chat model's end token.
            EndToken::Auto if last_token && by_tokenizer.is_none() => {
                self.tokenizer.token_to_id("<|endoftext|>").or(eos_token_id)
            }
            EndToken::Auto => None,
        };
        self.end_token = match (self.appended, by_tokenizer) {
            (Some(id), _) => Some((id, EndTokenSource::Embedder)),
            (None, Some(id)) => Some((id, EndTokenSource::Tokenizer)),
            (None, None) => None,
        };
        Ok(())
    }

    /// The tokens that the tokenizer puts before and behind every text, where it does.
    fn outer_tokens(&self, path: &Path) -> Result<[Option<u32>; 2], TextError> {
        let encoding =
            guarded(|| self.tokenizer.encode_fast("a", true)).map_err(|reason| invalid(path, reason))?;
        let tokens = || encoding.get_ids().iter().copied().zip(encoding.get_special_tokens_mask());
        let special = |(id, &special): (u32, &u32)| (special == 1).then_some(id);
        Ok([tokens().next().and_then(special), tokens().next_back().and_then(special)])
    }

    /// Refuses a tokenizer that gives tokens of a single text other types than 0, with which all texts are computed. For
    /// models that have several types.
    pub(crate) fn check_types(&self, files: &Files) -> Result<(), TextError> {
        let path = files.path("tokenizer.json");
        let encoding =
            guarded(|| self.tokenizer.encode_fast("a", true)).map_err(|reason| invalid(&path, reason))?;
        if encoding.get_type_ids().iter().all(|&kind| kind == 0) {
            return Ok(());
        }
        let reason = "gives tokens of a text other types than 0, which is not supported; if the model was trained with 0, \
                      write that there as type_id";
        Err(invalid_field((path, "post_processor"), reason))
    }

    /// Tokens that texts are searched for beside those of tokenizer.json.
    pub(crate) fn added(&self) -> &[AddedTokenInfo] {
        &self.added
    }

    /// The side on which long texts are cut.
    pub(crate) fn truncation_side(&self) -> TruncationSide {
        TruncationSide::of(self.truncation_side)
    }

    /// The end token's id and who appends it.
    pub(crate) fn end_token(&self) -> Option<(u32, EndTokenSource)> {
        self.end_token
    }

    /// The written form of a token.
    pub(crate) fn token(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }

    /// How many tokens every text gets besides its content.
    pub(crate) fn added_tokens(&self) -> usize {
        let by_tokenizer =
            self.tokenizer.get_post_processor().map_or(0, |processor| processor.added_tokens(false));
        by_tokenizer + usize::from(self.appended.is_some())
    }

    /// The tokens that texts behind `prompt` begin with, up to where the tokenizer may merge its end with a text's
    /// beginning; `None` if there is no prompt. What a text really has in common with them is to be seen from its own
    /// tokens.
    pub(crate) fn prompt_ids(&self, prompt: &str, max_tokens: usize) -> Option<Arc<[u32]>> {
        if prompt.is_empty() {
            return None;
        }
        if let Some(ids) = self.prompts.get(prompt) {
            return Some(ids);
        }
        let mut ids = self.encode(prompt, "", max_tokens).ok()?.ids;
        if self.end_token.is_some_and(|(end, _)| ids.last() == Some(&end)) {
            ids.pop();
        }
        let ids: Arc<[u32]> = ids.into();
        self.prompts.insert(prompt.to_owned(), Arc::clone(&ids));
        Some(ids)
    }

    /// How many of a text's first tokens are the prompt's, as sentence-transformers counts them where it leaves them
    /// out of the mean: those of the prompt alone, less a special one at its end.
    pub(crate) fn prompt_length(&self, prompt: &str, max_tokens: usize) -> usize {
        if prompt.is_empty() {
            return 0;
        }
        if let Some(length) = self.prompt_lengths.get(prompt) {
            return length;
        }
        let Ok(Tokens { mut ids, .. }) = self.encode(prompt, "", max_tokens) else {
            return 0;
        };
        if self.appended.is_some() {
            ids.pop();
        }
        if ids.last().is_some_and(|id| self.special_ids.contains(id)) {
            ids.pop();
        }
        self.prompt_lengths.insert(prompt.to_owned(), ids.len());
        ids.len()
    }

    /// Tokens of `prompt` and `text` together: content cut to the limit first, then special tokens and end token.
    pub(crate) fn encode(&self, prompt: &str, text: &str, max_tokens: usize) -> Result<Tokens, InputError> {
        // Without a reason to stop there always is a result.
        self.encode_unless(prompt, text, max_tokens, &|| false).unwrap_or(Err(InputError::Empty))
    }

    /// As [`TextEncoder::encode`], but `None` soon after `stop` has begun to say yes.
    pub(crate) fn encode_unless(
        &self,
        prompt: &str,
        text: &str,
        max_tokens: usize,
        stop: &dyn Fn() -> bool,
    ) -> Option<Result<Tokens, InputError>> {
        let room = max_tokens.saturating_sub(self.added_tokens());
        let failed = |reason| InputError::Tokenizer { reason };
        Some(self.cut_content(prompt, 0, text, room, stop)?.and_then(|(content, truncated)| {
            let token = |id| Token::new(id, String::new(), (0, 0));
            let encoding = Encoding::from_tokens(content.into_iter().map(token).collect(), 0);
            let encoding = guarded(|| self.tokenizer.post_process(encoding, None, true)).map_err(failed)?;
            let mut ids = encoding.get_ids().to_vec();
            ids.extend(self.appended);
            if ids.is_empty() && self.bare.is_none() {
                return Err(InputError::Empty);
            }
            InputError::check_vocabulary(&ids, self.vocab_size)?;
            Ok(Tokens { ids, truncated })
        }))
    }

    /// The tokens of `prompt` and `text`, cut to `room`, and whether any were; the first `kept` stay in any case. `None`
    /// soon after `stop` has begun to say yes.
    pub(super) fn cut_content(
        &self,
        prompt: &str,
        kept: usize,
        text: &str,
        room: usize,
        stop: &dyn Fn() -> bool,
    ) -> Option<Result<(Vec<u32>, bool), InputError>> {
        let stopped = Cell::new(false);
        let stop = || {
            stopped.set(stopped.get() || stop());
            stopped.get()
        };
        let (prompt, text, is_whole) =
            self.bare.map_or((prompt, text, true), |bare| bare.cut(prompt, text, room));
        let content = guarded(|| self.content(prompt, text, room, &stop));
        if stopped.get() {
            return None;
        }
        let failed = |reason| InputError::Tokenizer { reason };
        Some(content.map_err(failed).map(|(mut content, truncated)| {
            match self.truncation_side {
                TruncationDirection::Right => content.truncate(room),
                TruncationDirection::Left => {
                    let beyond = content.len().saturating_sub(room);
                    drop(content.drain(kept..kept + beyond));
                }
            }
            content.retain(|id| !self.leaves_out(*id));
            (content, truncated || !is_whole)
        }))
    }

    /// Whether a token is none of a text's, as one that stands for what the vocabulary hasn't.
    pub(super) fn leaves_out(&self, id: u32) -> bool {
        self.bare.is_some_and(|bare| bare.unknown == Some(id))
    }

    /// The tokens of a text by itself.
    pub(crate) fn bare(&self, text: &str) -> Result<Vec<u32>, InputError> {
        let ids = guarded(|| self.all_ids(text, &|| false));
        ids.map_err(|reason| InputError::Tokenizer { reason })
    }

    /// Whether the tokenizer pads texts in front.
    pub(crate) fn pads_left(&self) -> bool {
        self.pads_left
    }

    /// The id of a token by its written form.
    pub(crate) fn id_of(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// Whether texts are searched for this token before anything else is done with them.
    pub(crate) fn is_added(&self, id: u32) -> bool {
        self.tokenizer.get_added_tokens_decoder().contains_key(&id)
    }

    /// The token behind whatever the tokenizer adds.
    pub(super) fn appended(&self) -> Option<u32> {
        self.appended
    }

    pub(super) fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    pub(super) fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    /// The tokens of the content, or so many of them that it is certain to be longer than `room`, and whether it is.
    fn content(
        &self,
        prompt: &str,
        text: &str,
        room: usize,
        stop: &dyn Fn() -> bool,
    ) -> tokenizers::Result<(Vec<u32>, bool)> {
        let bytes = prompt.len() + text.len();
        let wanted = room.saturating_add(1);
        let mut first = wanted.saturating_mul(BYTES_PER_TOKEN).max(LEAST_BYTES);
        if let Some(certain) = &self.certain {
            while first.saturating_mul(2) < bytes && !stop() {
                let ids =
                    certain.first_ids(&self.tokenizer, &beginning(prompt, text, first), wanted, stop)?;
                if let Some(ids) = ids {
                    return Ok((ids, true));
                }
                first = first.saturating_mul(GROWTH);
            }
        }
        let ids = self.all_ids(&beginning(prompt, text, usize::MAX), stop)?;
        let truncated = ids.len() > room;
        Ok((ids, truncated))
    }

    /// The tokens of a whole text, neither cut nor with special ones.
    fn all_ids(&self, text: &str, stop: &dyn Fn() -> bool) -> tokenizers::Result<Vec<u32>> {
        Ok(self.content_of(text, OffsetType::None, stop)?.get_ids().to_vec())
    }

    /// As [`TextEncoder::all_ids`], with what the tokenizer knows of each beside its id.
    pub(super) fn content_of(
        &self,
        text: &str,
        offsets: OffsetType,
        stop: &dyn Fn() -> bool,
    ) -> tokenizers::Result<Encoding> {
        let tokenizer = &self.tokenizer;
        let unless_stopped = || if stop() { Err("it was given up") } else { Ok(()) };
        unless_stopped()?;
        let added = tokenizer.get_added_vocabulary();
        let mut words = added.extract_and_normalize(tokenizer.get_normalizer(), text);
        unless_stopped()?;
        if let Some(pre_tokenizer) = tokenizer.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut words)?;
        }
        words.tokenize(|word| {
            unless_stopped()?;
            tokenizer.get_model().tokenize(word.get())
        })?;
        words.into_encoding(None, 0, offsets)
    }
}

/// The first bytes of `prompt` and `text` together, up to a character's end.
fn beginning<'a>(prompt: &str, text: &'a str, bytes: usize) -> Cow<'a, str> {
    let prompt = up_to(prompt, bytes);
    let text = up_to(text, bytes - prompt.len());
    if prompt.is_empty() { Cow::Borrowed(text) } else { Cow::Owned(format!("{prompt}{text}")) }
}

fn up_to(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cold]
fn invalid(path: &Path, reason: String) -> TextError {
    TextError::InvalidTokenizer { path: path.to_owned(), reason }
}
