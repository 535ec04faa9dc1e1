//! What a checkpoint's files say of late interaction (Khattab and Zaharia, 2020): how queries and documents are read, whose
//! tokens each get a vector. PyLate and ColBERT write it in files of their own, sentence-transformers 6 in the settings of
//! its modules.

mod version_6;

use super::json::JsonObject;
use super::spec::{ModelSpec, Sees};
use super::{CheckpointError, marks, sentence_transformers};
use crate::file::Files;

/// How queries and documents are read.
#[derive(Debug, Clone)]
pub(crate) struct LateInteraction {
    pub(crate) query: SideSpec,
    pub(crate) document: SideSpec,
    /// Whether short queries are filled up with mask tokens, and how.
    pub(crate) expansion: Option<Expansion>,
    /// How many tokens at a text's beginning have no vector.
    pub(crate) first: usize,
}

/// How one of the two is read.
#[derive(Debug, Clone)]
pub(crate) struct SideSpec {
    /// The token behind a text's first one.
    pub(crate) marker: Option<String>,
    /// Most tokens, the marker among them; `None` for the model's own limit.
    pub(crate) longest: Option<usize>,
    /// Written forms of tokens whose vectors are left out.
    pub(crate) skiplist: Vec<String>,
    /// Where marker and limit stand, or where they would.
    pub(crate) file: &'static str,
    pub(crate) marker_field: &'static str,
    pub(crate) longest_field: &'static str,
}

/// What queries are filled up with.
#[derive(Debug, Clone)]
pub(crate) struct Expansion {
    /// Tokens that a query has then, special ones among them.
    pub(crate) length: usize,
    /// Its written form; `None` for the tokenizer's mask token.
    pub(crate) token: Option<String>,
    /// Whether tokens attend to it. What fills a query up attends to the query in any case.
    pub(crate) seen: bool,
    /// Whether the tokenizer does it, on the side on which it pads. If not, tokens are put behind the query.
    pub(crate) by_padding: bool,
}

/// Where a layout has what: of queries first, then of documents. Without a limit the model's own holds, as in
/// sentence-transformers.
struct Layout {
    file: &'static str,
    /// With what holds where it doesn't say so.
    markers: [(&'static str, &'static str); 2],
    longest: [&'static str; 2],
    seen: &'static str,
}

pub(super) const PYLATE_FILE: &str = "config_sentence_transformers.json";
const COLBERT_FILE: &str = "artifact.metadata";

const PYLATE: Layout = Layout {
    file: PYLATE_FILE,
    markers: [("query_prefix", "[Q] "), ("document_prefix", "[D] ")],
    longest: ["query_length", "document_length"],
    seen: "attend_to_expansion_tokens",
};
const COLBERT: Layout = Layout {
    file: COLBERT_FILE,
    markers: [("query_token_id", "[unused0]"), ("doc_token_id", "[unused1]")],
    longest: ["query_maxlen", "doc_maxlen"],
    seen: "attend_to_mask_tokens",
};

/// To so many tokens queries are filled up unless a file says otherwise.
const QUERY_LENGTH: usize = 32;

/// Python's `string.punctuation`, which both skip unless they are told otherwise.
const PUNCTUATION: &str = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";

impl LateInteraction {
    /// Texts as they are, with a vector for each token but the first: bge-m3's.
    pub(super) fn plain() -> Self {
        let side = SideSpec {
            marker: None,
            longest: None,
            skiplist: Vec::new(),
            file: "config.json",
            marker_field: "",
            longest_field: "max_position_embeddings",
        };
        Self { query: side.clone(), document: side, expansion: None, first: 1 }
    }

    /// By the files of a model whose config is `config`.
    pub(super) fn read(
        files: &Files,
        config: &JsonObject,
        spec: &ModelSpec,
    ) -> Result<Self, CheckpointError> {
        let read = match marks::is_colbert(config)? {
            true => Self::colbert(files)?,
            false if sentence_transformers::is_multi_vector_encoder(files)? => version_6::read(files)?,
            false => Self::pylate(files)?,
        };
        read.check_sight(files, spec)?;
        Ok(read)
    }

    fn pylate(files: &Files) -> Result<Self, CheckpointError> {
        let config = JsonObject::open(files, PYLATE.file)?;
        let config = config.as_ref();
        let expands = optional(config, "do_query_expansion")?.unwrap_or(true);
        let skiplist = optional(config, "skiplist_words")?.unwrap_or_else(punctuation);
        PYLATE.read(config, files, expands, skiplist)
    }

    fn colbert(files: &Files) -> Result<Self, CheckpointError> {
        let metadata = JsonObject::open(files, COLBERT.file)?;
        let metadata = metadata.as_ref();
        if let Some(metadata) = metadata {
            metadata.only::<String, _>("similarity", &["cosine"], "")?;
            metadata.only::<String, _>("interaction", &["colbert"], "")?;
        }
        let skips = optional(metadata, "mask_punctuation")?.unwrap_or(true);
        let skiplist = if skips { punctuation() } else { Vec::new() };
        COLBERT.read(metadata, files, true, skiplist)
    }

    /// Refuses mask tokens that attend to nothing, or to each other though they should not.
    fn check_sight(&self, files: &Files, spec: &ModelSpec) -> Result<(), CheckpointError> {
        let Some(Expansion { length, seen: false, .. }) = self.expansion else { return Ok(()) };
        let sees = spec.layers.iter().map(|layer| layer.attention.sees);
        let reason = match sees.clone().find(|sees| sees.is_causal()) {
            Some(_) => {
                "fills queries up with tokens that none sees, which a causal mask doesn't allow for".into()
            }
            None => {
                let windows = sees.filter_map(|sees| match sees {
                    Sees::AllWithin(away) => Some(away),
                    _ => None,
                });
                match windows.min().filter(|away| length > away + 1) {
                    None => return Ok(()),
                    Some(away) => format!(
                        "is {length}, to which queries are filled up with tokens that see the query alone; layers of \
                         this model see {away} tokens on each side, so that some would see nothing: set it to {} at most",
                        away + 1
                    ),
                }
            }
        };
        let SideSpec { file, longest_field, .. } = self.query;
        Err(CheckpointError::InvalidField { path: files.path(file), field: longest_field.into(), reason })
    }
}

impl Layout {
    fn read(
        &self,
        config: Option<&JsonObject>,
        files: &Files,
        expands: bool,
        skiplist: Vec<String>,
    ) -> Result<LateInteraction, CheckpointError> {
        let side = |index: usize, skiplist: Vec<String>| -> Result<SideSpec, CheckpointError> {
            let ((marker_field, marker), longest_field) = (self.markers[index], self.longest[index]);
            let found: Option<String> = optional(config, marker_field)?;
            let by_default = (self.file != PYLATE_FILE).then(|| marker.to_owned());
            let marker = found.or(by_default).ok_or_else(|| {
                let reason = format!(
                    "is missing. PyLate puts `{marker}` before texts then, and sentence-transformers nothing; write the \
                     model's marker there, or \"\" if it has none"
                );
                let path = files.path(self.file);
                CheckpointError::InvalidField { path, field: marker_field.into(), reason }
            })?;
            let longest: Option<usize> = optional(config, longest_field)?;
            if longest == Some(0) {
                let reason = "is 0; it must be at least 1".into();
                let path = files.path(self.file);
                return Err(CheckpointError::InvalidField { path, field: longest_field.into(), reason });
            }
            let marker = Some(marker).filter(|marker| !marker.is_empty());
            let file = self.file;
            Ok(SideSpec { marker, longest, skiplist, file, marker_field, longest_field })
        };
        let (mut query, document) = (side(0, Vec::new())?, side(1, skiplist)?);
        let seen = optional(config, self.seen)?.unwrap_or(false);
        let expansion = expands.then(|| {
            let length = *query.longest.get_or_insert(QUERY_LENGTH);
            Expansion { length, token: None, seen, by_padding: true }
        });
        Ok(LateInteraction { query, document, expansion, first: 0 })
    }
}

fn optional<T: serde::de::DeserializeOwned>(
    config: Option<&JsonObject>,
    field: &str,
) -> Result<Option<T>, CheckpointError> {
    Ok(config.map(|config| config.optional(field)).transpose()?.flatten())
}

fn punctuation() -> Vec<String> {
    PUNCTUATION.chars().map(String::from).collect()
}
