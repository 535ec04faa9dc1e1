//! Golden files: what a reference implementation computes with a checkpoint.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserialize;

use crate::error::{GOLDEN_VERSION, GoldenError};
use crate::file::{Files, Foreign, OpenFile, Parts, safetensors_head, safetensors_header};
use crate::pooling::Pooling;
use crate::request::{Shared, marked};
use crate::text::Prompt;

/// What a golden file is called beside a checkpoint.
pub(super) const FILE_NAME: &str = "golden.safetensors";

/// Bytes of one: the hidden states of dozens of texts in a large model.
const FILE_BYTES: u64 = 4 << 30;

/// What a golden file says of itself.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Facts {
    version: u64,
    /// What computed it.
    pub(super) reference: String,
    pub(super) model: Geometry,
    pub(super) weights_sha256: BTreeMap<String, String>,
    poolings: Vec<Pooling>,
    /// What it holds.
    #[serde(default = "vectors")]
    outputs: Vec<String>,
    /// Whether its vectors have length 1.
    #[serde(default = "yes")]
    pub(super) normalized: bool,
    pub(super) texts: Vec<GoldenText>,
}

fn yes() -> bool {
    true
}

fn vectors() -> Vec<String> {
    vec![VECTOR.to_owned()]
}

/// What a file may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    Vectors,
    Scores,
    Tokens,
    Sparse,
}

impl Holds {
    const ALL: [Self; 4] = [Self::Vectors, Self::Scores, Self::Tokens, Self::Sparse];

    /// As the file calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Vectors => VECTOR,
            Self::Scores => "score",
            Self::Tokens => "tokens",
            Self::Sparse => "sparse",
        }
    }

    /// In words.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Vectors => "vectors of texts",
            Self::Scores => "scores of pairs",
            Self::Tokens => "vectors of tokens",
            Self::Sparse => "weights of the vocabulary's tokens",
        }
    }
}

const VECTOR: &str = "vector";

/// The model that a golden file was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) struct Geometry {
    pub(super) layers: usize,
    pub(super) hidden_size: usize,
    pub(super) vocab_size: usize,
    /// Width of vectors, where it isn't the hidden size.
    #[serde(default)]
    pub(super) embedding_size: Option<usize>,
}

impl Geometry {
    pub(super) fn width(&self) -> usize {
        self.embedding_size.unwrap_or(self.hidden_size)
    }
}

/// A text of a golden file, or a pair.
#[derive(Debug, Clone, Deserialize)]
#[non_exhaustive]
pub struct GoldenText {
    /// The text, without its prompt. Of a pair, the document.
    pub text: String,
    /// Name of the checkpoint's prompt that goes before the text; `None` for no prompt.
    pub prompt_name: Option<String>,
    /// Token ids by the reference's tokenizer, prompt and special tokens included.
    pub ids: Vec<u32>,
    /// Places of the tokens whose whole hidden states the file has, counted from 0.
    pub rows: Vec<usize>,
    /// Of a pair, the query.
    #[serde(default)]
    pub query: Option<String>,
    /// The type of each token; `None` if all are 0.
    #[serde(default)]
    pub token_type_ids: Option<Vec<u32>>,
    /// With late interaction, how the text is read: `query` or `document`.
    #[serde(default)]
    pub side: Option<String>,
    /// With late interaction, 1 for each token that others attend to, else 0; `None` if all are 1.
    #[serde(default)]
    pub attention_mask: Option<Vec<u32>>,
}

impl GoldenText {
    /// The text's prompt, as [`EmbedOptions`](crate::EmbedOptions) takes it.
    pub fn prompt(&self) -> Prompt {
        self.prompt_name.clone().map_or(Prompt::None, Prompt::Named)
    }

    /// Its tokens with their types and what none sees, as a model takes them.
    pub(super) fn tokens(&self) -> Vec<u32> {
        marked(self.ids.clone(), self.second(), self.unseen())
    }

    /// Why this model doesn't take its tokens, if it doesn't.
    pub(super) fn check_model(&self, shared: &Shared) -> Result<(), String> {
        shared.check_ids(&self.ids).map_err(|error| error.to_string())?;
        if let Some(types) = &self.token_type_ids {
            shared.check_types(types, self.ids.len()).map_err(|reason| format!("its types {reason}"))?;
        }
        if self.unseen().is_some() && shared.sides.is_none() {
            return Err("it has tokens that none attends to, which only late interaction has".into());
        }
        Ok(())
    }

    /// Why it can't be any model's, if it can't.
    fn check(&self, vocab_size: usize) -> Result<(), String> {
        let tokens = self.ids.len();
        if tokens == 0 || self.rows.iter().any(|&row| row >= tokens) {
            return Err(format!("has {tokens} tokens and rows {:?}", self.rows));
        }
        if let Some(id) = self.ids.iter().find(|&&id| id as usize >= vocab_size) {
            return Err(format!("has token {id} of a vocabulary of {vocab_size}"));
        }
        let is_mask = |mask: &Vec<u32>| {
            mask.len() == tokens && mask.first() == Some(&1) && mask.is_sorted_by(|a, b| a >= b)
        };
        if !self.attention_mask.as_ref().is_none_or(is_mask) {
            return Err("has no mask of 1 for its first tokens and then 0".into());
        }
        match self.side.as_deref() {
            None | Some("query" | "document") => Ok(()),
            Some(other) => Err(format!("has side `{other}`, which is neither query nor document")),
        }
    }

    /// Where tokens of type 1 begin, if there are any.
    fn second(&self) -> Option<usize> {
        self.token_type_ids.iter().flatten().position(|&kind| kind != 0)
    }

    /// Where tokens begin that none attends to, if there are any.
    fn unseen(&self) -> Option<usize> {
        self.attention_mask.iter().flatten().position(|&seen| seen == 0)
    }
}

/// A golden file: texts, and what a reference implementation computes for them with a checkpoint. `tools/golden/make.py`
/// makes it, and `tools/golden/README.md` describes its format.
#[derive(Debug, Clone)]
pub struct Golden {
    path: PathBuf,
    pub(super) facts: Facts,
    embeddings: Vec<Vec<f32>>,
    scores: Vec<f32>,
    /// Of each text `[kept, width]`, and the width.
    tokens: Vec<(Vec<f32>, usize)>,
    /// Of each text `[vocabulary]`.
    sparse: Vec<Vec<f32>>,
    hidden: Vec<Vec<f32>>,
    sketches: Vec<Vec<f32>>,
    /// `[K, D]`, K possibly 0.
    pub(super) directions: Vec<f32>,
}

/// The hidden states that a golden file holds for one text after one layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct GoldenState<'a> {
    /// Tokens that `whole` has.
    pub(super) rows: &'a [usize],
    /// `[rows, D]`.
    pub(super) whole: &'a [f32],
    /// `[L, K]`, or nothing.
    pub(super) sketch: &'a [f32],
}

impl Golden {
    /// Reads and checks a golden file.
    ///
    /// # Errors
    /// When the file can't be read, is no golden file, is cut short, or has a version that this crate doesn't know.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, GoldenError> {
        Self::read(&Files::of(Path::new("")), path.as_ref())
    }

    /// The one beside a checkpoint, if there is one.
    pub(super) fn beside(files: &Files) -> Result<Option<Self>, GoldenError> {
        let path = || files.path(FILE_NAME);
        if !files.holds(FILE_NAME).map_err(|source| GoldenError::Io { path: path(), source })? {
            return Ok(None);
        }
        Self::read(files, Path::new(FILE_NAME)).map(Some)
    }

    /// The head first, so that of a large file that is something else little is read; then a tensor at a time.
    fn read(files: &Files, name: &Path) -> Result<Self, GoldenError> {
        let fail = |source| GoldenError::Io { path: files.path(name), source };
        let invalid = |reason: String| GoldenError::Invalid { path: files.path(name), reason };
        let file = OpenFile::of(files, name).map_err(fail)?;
        if file.len() as u64 > FILE_BYTES {
            return Err(invalid(format!("it has {} bytes, but at most {FILE_BYTES} are read", file.len())));
        }
        let head = safetensors_head(&file).map_err(|source| match source.kind() {
            io::ErrorKind::InvalidData => invalid(source.to_string()),
            _ => fail(source),
        })?;
        if let Some(foreign) = Foreign::of(&head) {
            return Err(invalid(foreign.to_string()));
        }
        let header = safetensors_header(&head).map_err(|error| invalid(error.to_string()))?;
        let described = head.len() + header.data_len();
        if described != file.len() {
            return Err(invalid(format!(
                "its header describes {described} bytes but the file has {}",
                file.len()
            )));
        }
        let golden = Self::parse(&Tensors { header, start: head.len(), file: &file })?;
        file.check_unchanged().map_err(fail)?;
        Ok(golden)
    }

    /// Which implementation computed it, with versions and number type.
    pub fn reference(&self) -> &str {
        &self.facts.reference
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its texts.
    pub fn texts(&self) -> &[GoldenText] {
        &self.facts.texts
    }

    /// The ways of pooling for which it has vectors.
    pub fn poolings(&self) -> &[Pooling] {
        &self.facts.poolings
    }

    /// The reference's vector of text `index` by this pooling, f32, as the checkpoint's last module gives it; `None` if
    /// the file doesn't have it.
    pub fn embedding(&self, index: usize, pooling: impl Into<Pooling>) -> Option<&[f32]> {
        let pooling = pooling.into();
        let place = self.facts.poolings.iter().position(|&each| each == pooling)?;
        self.embeddings.get(index)?.chunks_exact(self.facts.model.width()).nth(place)
    }

    /// The reference's score of pair `index`; `None` if the file doesn't have it.
    pub fn score(&self, index: usize) -> Option<f32> {
        self.scores.get(index).copied()
    }

    /// The reference's vectors of text `index`'s tokens and their width: f32 `[vectors, width]`, for tokens that have a
    /// vector. `None` if the file doesn't have them.
    pub fn token_vectors(&self, index: usize) -> Option<(&[f32], usize)> {
        self.tokens.get(index).map(|(vectors, width)| (&vectors[..], *width))
    }

    /// The reference's weights for text `index`, f32 `[vocabulary]`; `None` if the file doesn't have them.
    pub fn token_weights(&self, index: usize) -> Option<&[f32]> {
        self.sparse.get(index).map(|weights| &weights[..])
    }

    /// What it holds.
    pub(super) fn holds(&self) -> impl Iterator<Item = Holds> {
        Holds::ALL.into_iter().filter(|what| self.facts.outputs.iter().any(|output| output == what.name()))
    }

    /// The reference's hidden states of text `index`: f32 `[rows, hidden]` after the embedding, after each layer and
    /// after the final norm. The rows are those of [`GoldenText::rows`]. Empty if the file has none.
    pub fn hidden_states(&self, index: usize) -> Vec<&[f32]> {
        match self.hidden.get(index) {
            Some(hidden) if !hidden.is_empty() => {
                hidden.chunks_exact(hidden.len() / self.facts.model.states()).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The same, with the projections of every token.
    pub(super) fn states(&self, index: usize) -> impl Iterator<Item = GoldenState<'_>> {
        let text = &self.facts.texts[index];
        let whole = text.rows.len() * self.facts.model.hidden_size;
        let sketch = self.sketches[index].len() / self.facts.model.states();
        let nth =
            |data: &'_ [f32], size: usize, state: usize| state * size..((state + 1) * size).min(data.len());
        (0..self.facts.model.states()).map(move |state| GoldenState {
            rows: &text.rows,
            whole: &self.hidden[index][nth(&self.hidden[index], whole, state)],
            sketch: &self.sketches[index][nth(&self.sketches[index], sketch, state)],
        })
    }

    /// Of an open file, whose header and length go together.
    fn parse(tensors: &Tensors<'_>) -> Result<Self, GoldenError> {
        let path = tensors.file.path().to_owned();
        let invalid = |reason: String| GoldenError::Invalid { path: path.clone(), reason };
        let json = tensors.header.metadata().as_ref().and_then(|metadata| metadata.get("golden"));
        let json = json.ok_or_else(|| invalid("its header says nothing of texts".into()))?;
        let facts = Facts::parse(json).map_err(|error| match error {
            FactsError::Version(found) => GoldenError::Version { path: path.clone(), found },
            FactsError::Json(error) => invalid(error.to_string()),
        })?;
        let Geometry { hidden_size, vocab_size, .. } = facts.model;
        let holds = |what: Holds| facts.outputs.iter().any(|output| output == what.name());
        if !Holds::ALL.into_iter().any(holds) {
            return Err(invalid(format!(
                "it holds neither vectors nor scores nor weights but {}",
                facts.outputs.join(", ")
            )));
        }
        if hidden_size == 0 || facts.model.width() == 0 || facts.texts.is_empty() || facts.poolings.is_empty()
        {
            return Err(invalid("it has no texts, no poolings or no width".into()));
        }
        let directions = match tensors.header.info("directions") {
            Some(tensor) => {
                let count = tensor.shape.first().copied().unwrap_or_default();
                tensors.floats("directions", &[count, hidden_size])?
            }
            None => Vec::new(),
        };
        let count = directions.len() / hidden_size;
        let (mut embeddings, mut scores, mut hidden, mut sketches) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut tokens_vectors, mut sparse) = (Vec::new(), Vec::new());
        for (index, text) in facts.texts.iter().enumerate() {
            text.check(vocab_size).map_err(|reason| invalid(format!("text {index} {reason}")))?;
            if holds(Holds::Vectors) {
                let shape = [facts.poolings.len(), facts.model.width()];
                embeddings.push(tensors.floats(&format!("embedding.{index}"), &shape)?);
            }
            if holds(Holds::Tokens) {
                tokens_vectors.push(tensors.rows(&format!("tokens.{index}"))?);
            }
            if holds(Holds::Sparse) {
                sparse.push(tensors.floats(&format!("sparse.{index}"), &[vocab_size])?);
            }
            if holds(Holds::Scores) {
                if text.query.is_none() {
                    return Err(invalid(format!("text {index} has no query")));
                }
                scores.extend(tensors.floats(&format!("score.{index}"), &[1])?);
            }
            hidden.push(if text.rows.is_empty() {
                Vec::new()
            } else {
                let shape = [facts.model.states(), text.rows.len(), hidden_size];
                tensors.floats(&format!("hidden.{index}"), &shape)?
            });
            sketches.push(if count == 0 {
                Vec::new()
            } else {
                tensors.floats(&format!("sketch.{index}"), &[facts.model.states(), text.ids.len(), count])?
            });
        }
        Ok(Self {
            facts,
            embeddings,
            scores,
            tokens: tokens_vectors,
            sparse,
            hidden,
            sketches,
            directions,
            path,
        })
    }
}

impl Geometry {
    /// Hidden states on the way of a text.
    pub(super) fn states(self) -> usize {
        self.layers.saturating_add(2)
    }
}

/// What every version says.
#[derive(Deserialize)]
struct Versioned {
    version: u64,
}

impl Facts {
    fn parse(json: &str) -> Result<Self, FactsError> {
        let is_known = |version: u64| (1..=GOLDEN_VERSION).contains(&version);
        match serde_json::from_str::<Self>(json) {
            Ok(facts) if is_known(facts.version) => Ok(facts),
            Ok(facts) => Err(FactsError::Version(facts.version)),
            // Another version may have another form.
            Err(error) => Err(match serde_json::from_str(json) {
                Ok(Versioned { version }) if !is_known(version) => FactsError::Version(version),
                _ => FactsError::Json(error),
            }),
        }
    }
}

/// Why what a file says of itself can't be used.
enum FactsError {
    Version(u64),
    Json(serde_json::Error),
}

/// The tensors of an open file, which are read one at a time.
struct Tensors<'a> {
    header: Metadata,
    /// Where they begin in the file.
    start: usize,
    file: &'a OpenFile,
}

impl Tensors<'_> {
    /// Rows, as many as there are, and their width.
    fn rows(&self, name: &str) -> Result<(Vec<f32>, usize), GoldenError> {
        match self.header.info(name).map(|tensor| &tensor.shape[..]) {
            Some(&[rows, width]) if width > 0 => Ok((self.floats(name, &[rows, width])?, width)),
            _ => Ok((self.floats(name, &[0, 1])?, 1)),
        }
    }

    fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, GoldenError> {
        let wrong = |reason: String| GoldenError::Tensor {
            path: self.file.path().to_owned(),
            tensor: name.to_owned(),
            reason,
        };
        let tensor = self.header.info(name).ok_or_else(|| wrong("is not there".into()))?;
        let TensorInfo { dtype, shape: found, data_offsets: (from, to) } = tensor;
        if *dtype != Dtype::F32 || found != shape {
            return Err(wrong(format!("is {dtype:?} {found:?}, where F32 {shape:?} is expected")));
        }
        let bytes = self
            .file
            .part(self.start + from..self.start + to)
            .map_err(|source| GoldenError::Io { path: self.file.path().to_owned(), source })?;
        let numbers = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        let numbers: Vec<f32> = numbers.collect();
        if numbers.iter().all(|number| number.is_finite()) {
            Ok(numbers)
        } else {
            Err(wrong("holds numbers that are not finite".into()))
        }
    }
}
