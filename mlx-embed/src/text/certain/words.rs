//! Which words a pre-tokenizer makes of a text's beginning, whatever follows.

use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::metaspace::PrependScheme;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Result, SplitDelimiterBehavior,
};

use super::reach::Program;

/// The pattern that the byte-level pre-tokenizer splits by.
const BYTE_LEVEL: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// A pre-tokenizer's stages, one after the other.
#[derive(Debug)]
pub(super) struct Words {
    stages: Vec<Stage>,
}

#[derive(Debug)]
enum Stage {
    /// Splits by a pattern and changes nothing.
    Pattern(Split, Program),
    /// Splits by what kinds two characters beside each other are of, and changes nothing but spaces.
    Kinds(PreTokenizerWrapper),
    /// Splits nothing, and writes each character in another way.
    Rewrites(PreTokenizerWrapper),
    /// Puts a space before.
    Space,
}

/// What is certain of a text.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Whole words.
    pub(super) words: Vec<String>,
    /// What the word after them begins with.
    pub(super) tail: String,
}

/// A text on its way through the stages.
struct Piece<'a> {
    text: &'a str,
    /// Whether it lies at the very beginning of the input.
    first: bool,
    /// Whether more follows.
    open: bool,
}

impl Words {
    /// `None` if what the pre-tokenizer does can't be foreseen.
    pub(super) fn new(pre_tokenizer: Option<&PreTokenizerWrapper>) -> Option<Self> {
        let mut words = Self { stages: Vec::new() };
        if let Some(pre_tokenizer) = pre_tokenizer {
            words.add(pre_tokenizer)?;
        }
        Some(words)
    }

    fn add(&mut self, stage: &PreTokenizerWrapper) -> Option<()> {
        let stage = match stage {
            PreTokenizerWrapper::Sequence(stages) => {
                return stages.as_ref().iter().try_for_each(|stage| self.add(stage));
            }
            PreTokenizerWrapper::Split(split) => {
                let program = match &split.pattern {
                    SplitPattern::String(text) => Program::literal(text),
                    SplitPattern::Regex(pattern) => Program::new(pattern),
                };
                // As a clone, which panics where a pattern can't be compiled anew for want of memory.
                let again = Split::new(split.pattern.clone(), split.behavior, split.invert).ok()?;
                Stage::Pattern(again, program?)
            }
            PreTokenizerWrapper::ByteLevel(bytes) if bytes.use_regex => {
                if bytes.add_prefix_space {
                    self.stages.push(Stage::Space);
                }
                let pattern = SplitPattern::Regex(BYTE_LEVEL.into());
                let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).ok()?;
                self.add(&PreTokenizerWrapper::Split(split))?;
                let bytes = bytes.add_prefix_space(false).use_regex(false);
                Stage::Rewrites(PreTokenizerWrapper::ByteLevel(bytes))
            }
            PreTokenizerWrapper::Metaspace(metaspace) if !metaspace.get_split() => {
                Stage::Rewrites(stage.clone())
            }
            PreTokenizerWrapper::ByteLevel(_) => Stage::Rewrites(stage.clone()),
            PreTokenizerWrapper::Metaspace(_)
            | PreTokenizerWrapper::BertPreTokenizer(_)
            | PreTokenizerWrapper::Delimiter(_)
            | PreTokenizerWrapper::Whitespace(_)
            | PreTokenizerWrapper::Punctuation(_)
            | PreTokenizerWrapper::WhitespaceSplit(_)
            | PreTokenizerWrapper::Digits(_)
            | PreTokenizerWrapper::UnicodeScripts(_)
            | PreTokenizerWrapper::FixedLength(_) => Stage::Kinds(stage.clone()),
        };
        self.stages.push(stage);
        Some(())
    }

    /// The words of `text`, or of what begins with it if it is `open`. `first` says that it begins the input.
    pub(super) fn find(&self, text: &str, first: bool, open: bool) -> Result<Found> {
        let mut found = Found::default();
        run(&self.stages, &Piece { text, first, open }, &mut found)?;
        Ok(found)
    }
}

fn run(stages: &[Stage], piece: &Piece<'_>, found: &mut Found) -> Result<()> {
    let Some((stage, rest)) = stages.split_first() else {
        if piece.open {
            found.tail = piece.text.to_owned();
        } else if !piece.text.is_empty() {
            found.words.push(piece.text.to_owned());
        }
        return Ok(());
    };
    let splits = stage.split(piece)?;
    // Where the text's end begins to matter.
    let (whole, end) = match stage {
        _ if !piece.open => (splits.len(), 0),
        Stage::Pattern(split, program) => {
            let end = settled(split, program, piece.text);
            (splits.iter().take_while(|split| split.end < end).count(), end)
        }
        Stage::Kinds(_) => (splits.len().saturating_sub(1), usize::MAX),
        Stage::Rewrites(_) | Stage::Space => (0, usize::MAX),
    };
    for split in &splits[..whole] {
        let first = piece.first && split.start == 0;
        run(rest, &Piece { text: &split.text, first, open: false }, found)?;
    }
    match splits.get(whole) {
        Some(split) if piece.open && split.start < end => {
            let certain = split.text.len().min(end - split.start);
            let first = piece.first && split.start == 0;
            run(rest, &Piece { text: &split.text[..certain], first, open: true }, found)
        }
        _ => Ok(()),
    }
}

/// A part of a stage's text.
struct Part {
    text: String,
    start: usize,
    end: usize,
}

impl Stage {
    /// What the tokenizer library makes of a text by itself.
    fn split(&self, piece: &Piece<'_>) -> Result<Vec<Part>> {
        let mut text = PreTokenizedString::from(piece.text);
        match self {
            Self::Pattern(split, _) => split.pre_tokenize(&mut text)?,
            Self::Kinds(stage) | Self::Rewrites(stage) => match stage {
                PreTokenizerWrapper::Metaspace(metaspace)
                    if metaspace.get_prepend_scheme() == PrependScheme::First && !piece.first =>
                {
                    let mut metaspace = metaspace.clone();
                    metaspace.set_prepend_scheme(PrependScheme::Never);
                    metaspace.pre_tokenize(&mut text)?;
                }
                stage => stage.pre_tokenize(&mut text)?,
            },
            Self::Space => {
                let space = if piece.text.starts_with(' ') { "" } else { " " };
                let text = format!("{space}{}", piece.text);
                return Ok(vec![Part { text, start: 0, end: piece.text.len() }]);
            }
        }
        let splits = text.get_splits(OffsetReferential::Original, OffsetType::Byte).into_iter();
        Ok(splits.map(|(text, (start, end), _)| Part { text: text.to_owned(), start, end }).collect())
    }
}

/// The first place of `text` where a try of the pattern may depend on what follows the text.
fn settled(split: &Split, program: &Program, text: &str) -> usize {
    let mut from = 0;
    let depends = |from: usize, to: usize| {
        let places = text[from..].char_indices().map(|(at, _)| from + at);
        places.take_while(|&at| at <= to).find(|&at| program.reaches_end(text, at))
    };
    for (start, end) in split.regex.find_iter(text) {
        // It was tried at every place up to the match.
        if let Some(place) = depends(from, start) {
            return place;
        }
        from = end;
    }
    depends(from, text.len()).unwrap_or(text.len())
}
