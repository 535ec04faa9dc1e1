//! The files that sentence-transformers puts beside a model: modules, pooling, normalisation, prompts, settings of the
//! tokenizer. What they say and this crate can't do is refused.

mod cross_encoder;
mod late;
mod modules;
mod pooling;
mod sparse;
mod transformer;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Map, Value};

use super::json::JsonObject;
use super::modules::{Input, ModuleSpec};
use super::spec::{ModelSpec, Splade};
use super::{Architecture, CheckpointError, Purpose};
use crate::file::Files;
use crate::pooling::{Pooling, PoolingMode};

pub(crate) use cross_encoder::CrossEncoder;
pub(super) use cross_encoder::scores_by_modules;
pub(super) use late::mask_settings;
use modules::Module;
pub(crate) use modules::place;
pub(super) use modules::{check_first, is_static};
use transformer::Calls;
pub(super) use transformer::{
    FILE as TRANSFORMER_FILE, FILES as TRANSFORMER_FILES, form_of_messages, generates,
    settings as transformer_settings,
};

const FILE: &str = "config_sentence_transformers.json";
const MODULES: &str = "modules.json";

/// Kinds of models, as sentence-transformers calls them.
const VECTORS: &str = "SentenceTransformer";
const SCORES: &str = "CrossEncoder";
const SPARSE: &str = "SparseEncoder";
/// As PyLate calls them, and as sentence-transformers does since version 6.
const TOKEN_VECTORS: &str = "ColBERT";
const MULTI_VECTOR: &str = "MultiVectorEncoder";

/// Whether these files say that a checkpoint is for this purpose: the kind of model that they name, or modules of classes
/// that no other has. Of a model that gives a vector a text they need not say anything.
pub(crate) fn says(files: &Files, purpose: Purpose) -> Result<bool, CheckpointError> {
    let (kinds, classes): (&[&str], &[&str]) = match purpose {
        Purpose::Vectors => (&[VECTORS], &[]),
        Purpose::Scores => (&[SCORES], &["sentence_transformers.cross_encoder."]),
        Purpose::Sparse => (&[SPARSE], &["sentence_transformers.sparse_encoder."]),
        Purpose::TokenVectors => {
            (&[TOKEN_VECTORS, MULTI_VECTOR], &["pylate.", "sentence_transformers.multi_vector_encoder."])
        }
    };
    let named = model_type(files)?;
    let modules = modules::read(files)?.unwrap_or_default();
    let has = |prefix: &&str| modules.iter().any(|module| module.class.starts_with(prefix));
    Ok(named.is_some_and(|named| kinds.contains(&named.as_str())) || classes.iter().any(has))
}

/// The kind of model that these files name.
fn model_type(files: &Files) -> Result<Option<String>, CheckpointError> {
    JsonObject::open(files, FILE)?
        .map(|config| config.optional("model_type"))
        .transpose()
        .map(Option::flatten)
}

/// Whether sentence-transformers reads these files' settings of a reranker. Without `modules.json`, or where no `model_type`
/// says that they are a reranker's, it makes the modules itself.
fn reads_rerankers_files(files: &Files) -> Result<bool, CheckpointError> {
    Ok(model_type(files)?.as_deref() == Some(SCORES) && files.holds(MODULES).unwrap_or(false))
}

/// Whether it is a model of late interaction as sentence-transformers 6 writes it.
pub(super) fn is_multi_vector_encoder(files: &Files) -> Result<bool, CheckpointError> {
    Ok(model_type(files)?.as_deref() == Some(MULTI_VECTOR))
}

/// The folders of the modules behind the model itself, and whether there are weights in each.
pub(super) fn folders(files: &Files) -> Result<Vec<(String, bool)>, CheckpointError> {
    let has_weights =
        |module: &Module| ["Dense", "LayerNorm"].iter().any(|class| module.class.ends_with(class));
    Ok(match modules::read(files)? {
        Some(modules) => {
            modules.iter().skip(1).map(|module| (module.path.clone(), has_weights(module))).collect()
        }
        None => vec![(POOLING.to_owned(), false)],
    })
}

/// Where the pooling's settings are if nothing says so: some conversions keep that folder and lose modules.json.
const POOLING: &str = "1_Pooling";

/// A module's own settings, in its folder.
const SETTINGS: &str = "config.json";

/// What a checkpoint's sentence-transformers files say.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SentenceTransformers {
    /// How hidden states become one vector; `None` if no file says so.
    pub pooling: Option<Pooling>,
    /// The file that says so.
    pub pooling_file: Option<String>,
    /// Whether pooling includes the prompt's tokens.
    pub include_prompt: bool,
    /// The modules after pooling, in order. Cutting and scaling come after them.
    pub behind: Vec<ModuleSpec>,
    /// Whether vectors are scaled to length 1; `None` if no file says so.
    pub normalize: Option<bool>,
    /// How many weights a sparse vector keeps at most, the largest ones; `None` if no file says so.
    pub max_active_dims: Option<usize>,
    /// How a sparse vector's weights are made.
    #[serde(skip)]
    pub(crate) splade: Splade,
    /// Prompts by name. A prompt goes before the text as it is.
    pub prompts: BTreeMap<String, String>,
    /// Name of the prompt for texts whose caller names none.
    pub default_prompt_name: Option<String>,
    /// Longest input in tokens; `None` if no file says so, or a file says that there is no limit.
    pub max_seq_length: Option<usize>,
    /// Whether texts are lower-cased.
    pub do_lower_case: bool,
    /// Further settings that go to the tokenizer, over those of its own files; and their file and field.
    #[serde(skip)]
    pub(crate) processor_kwargs: Map<String, Value>,
    #[serde(skip)]
    pub(crate) processor_kwargs_at: (PathBuf, &'static str),
    /// What sets the limit, where a file of these does, and what it is; `None` for one without end.
    #[serde(skip)]
    pub(crate) limit: Option<(&'static str, Option<usize>)>,
}

impl Default for SentenceTransformers {
    fn default() -> Self {
        Self {
            pooling: None,
            pooling_file: None,
            include_prompt: true,
            behind: Vec::new(),
            normalize: None,
            max_active_dims: None,
            splade: Splade::default(),
            prompts: BTreeMap::new(),
            default_prompt_name: None,
            max_seq_length: None,
            do_lower_case: false,
            processor_kwargs: Map::new(),
            processor_kwargs_at: (PathBuf::new(), "processor_kwargs"),
            limit: None,
        }
    }
}

impl SentenceTransformers {
    /// `spec` has the steps whose weights are the model's own; `token_head` is what in place of all modules makes results
    /// of tokens.
    pub(super) fn read(
        files: &Files,
        architecture: Architecture,
        spec: &ModelSpec,
        purpose: Purpose,
        token_head: Option<ModuleSpec>,
    ) -> Result<Self, CheckpointError> {
        let mut all = Self::default();
        let (kind, calls) = match purpose {
            _ if token_head.is_some() => {
                all.read_modules(files, architecture, &spec.behind, Input::Pooled)?;
                all.behind = token_head.into_iter().collect();
                all.normalize = Some(purpose == Purpose::TokenVectors);
                (VECTORS, Calls::VECTORS)
            }
            Purpose::Sparse => {
                let Some(splade) = sparse::pooling(files)? else {
                    // sentence-transformers makes the modules itself, and reads no setting of these files.
                    of_kind(files, SPARSE)?;
                    return Ok(all);
                };
                all.splade = splade;
                (SPARSE, Calls::LOGITS)
            }
            Purpose::TokenVectors => {
                all.read_late_modules(files, spec)?;
                match is_multi_vector_encoder(files)? {
                    true => (MULTI_VECTOR, Calls::TOKEN_VECTORS),
                    false => (TOKEN_VECTORS, Calls::VECTORS),
                }
            }
            Purpose::Vectors | Purpose::Scores => {
                all.read_modules(files, architecture, &spec.behind, Input::Pooled)?;
                if architecture.is_static() {
                    let file = if architecture == Architecture::Model2Vec { "config.json" } else { MODULES };
                    (all.pooling, all.pooling_file) = (Some(PoolingMode::Mean.into()), Some(file.to_owned()));
                }
                if let Some(normalize) = spec.normalizes {
                    all.hold_normalize(files, normalize)?;
                }
                // Of each token, and so before all else.
                all.behind.splice(0..0, spec.token_step().map(|step| ModuleSpec::of_weights(&step)));
                (VECTORS, Calls::VECTORS)
            }
        };
        if let Some(config) = all.read_prompts(files, kind)? {
            match purpose {
                Purpose::Vectors => all.cut(at_least_one(&config, "truncate_dim")?),
                Purpose::Sparse => all.max_active_dims = at_least_one(&config, "max_active_dims")?,
                _ => {}
            }
        }
        // Static embeddings have no Transformer, and nobody reads its settings.
        if !architecture.is_static() {
            all.read_transformer(files, calls)?;
        }
        Ok(all)
    }

    /// What config.json says of the vectors' length, held against modules.json, if there is one: model2vec goes by the
    /// first, and sentence-transformers by the second.
    fn hold_normalize(&mut self, files: &Files, normalize: bool) -> Result<(), CheckpointError> {
        let refuse = |file: &str, field: &str, reason: String| {
            Err(CheckpointError::InvalidField { path: files.path(file), field: field.into(), reason })
        };
        if let Some(module) = self.behind.first() {
            let reason = format!(
                "names {module}, which sentence-transformers computes and model2vec does not; remove it, or remove \
                 config.json if the model is to be read by sentence-transformers alone"
            );
            return refuse(MODULES, "type", reason);
        }
        if let Some(other) = self.normalize.filter(|other| *other != normalize) {
            let names = if other { "names Normalize" } else { "names no Normalize" };
            let reason = format!(
                "is {normalize}, but modules.json {names}. model2vec goes by this field, and sentence-transformers by \
                 modules.json; make the two agree"
            );
            return refuse("config.json", "normalize", reason);
        }
        self.normalize = Some(normalize);
        Ok(())
    }

    /// Leaves the first numbers of each vector, which are not scaled anew.
    fn cut(&mut self, size: Option<usize>) {
        let Some(size) = size else { return };
        if self.normalize == Some(true) {
            self.behind.push(ModuleSpec::Normalize);
            self.normalize = Some(false);
        }
        self.behind.push(ModuleSpec::Truncate { size });
    }

    /// The default prompt, if it says anything.
    pub(crate) fn default_prompt(&self) -> Option<&str> {
        let prompt = self.prompts.get(self.default_prompt_name.as_ref()?)?;
        Some(&prompt[..]).filter(|prompt| !prompt.is_empty())
    }

    /// Returns the file, of a model of this kind.
    fn read_prompts(&mut self, files: &Files, wanted: &str) -> Result<Option<JsonObject>, CheckpointError> {
        let Some(config) = of_kind(files, wanted)? else { return Ok(None) };
        let prompts: BTreeMap<String, Option<String>> = config.optional("prompts")?.unwrap_or_default();
        self.prompts = prompts.into_iter().map(|(name, text)| (name, text.unwrap_or_default())).collect();
        self.default_prompt_name = config.optional("default_prompt_name")?;
        if let Some(name) = &self.default_prompt_name
            && !self.prompts.contains_key(name)
        {
            // sentence-transformers has these two in any case, as empty ones.
            if name != "query" && name != "document" {
                return Err(config
                    .invalid("default_prompt_name", format!("is `{name}`, which `prompts` does not hold")));
            }
            self.prompts.insert(name.clone(), String::new());
        }
        Ok(Some(config))
    }
}

/// The file with the prompts, of a model of this kind.
fn of_kind(files: &Files, wanted: &str) -> Result<Option<JsonObject>, CheckpointError> {
    let Some(config) = JsonObject::open(files, FILE)? else { return Ok(None) };
    let kind: Option<String> = config.optional("model_type")?;
    if kind.is_none() && config.has("model_type") {
        // To sentence-transformers it is another kind of model, whose modules it makes anew.
        return Err(config.invalid("model_type", format!("is null; remove it, or write `{wanted}`")));
    }
    if let Some(kind) = kind.filter(|kind| kind != wanted) {
        let what = match kind.as_str() {
            SCORES => "a reranker; load it with `Reranker` (mlx-embed rerank)",
            VECTORS => "an embedder; load it with `Embedder` (mlx-embed embed)",
            SPARSE => "of sparse vectors; load it with `SparseEmbedder`",
            TOKEN_VECTORS | MULTI_VECTOR => "a model of late interaction; load it with `MultiVectorEmbedder`",
            _ => "which this crate does not compute",
        };
        return Err(config.invalid("model_type", format!("is `{kind}`, {what}")));
    }
    Ok(Some(config))
}

/// A number of things, where the file has one.
fn at_least_one(config: &JsonObject, field: &str) -> Result<Option<usize>, CheckpointError> {
    match config.optional(field)? {
        Some(0) => Err(config.invalid(field, "is 0; it must be at least 1")),
        number => Ok(number),
    }
}
