//! `modules.json`: which modules a text goes through.

use std::path::{Component, Path};

use serde::Deserialize;

use super::{MODULES, POOLING, SETTINGS, SentenceTransformers, pooling};
use crate::checkpoint::json::{self, JsonObject};
use crate::checkpoint::modules::{Input, ModuleSpec};
use crate::checkpoint::spec::StepSpec;
use crate::checkpoint::{Architecture, CheckpointError};
use crate::file::Files;

/// An entry of the file.
#[derive(Deserialize)]
pub(super) struct Module {
    pub(super) path: String,
    #[serde(rename = "type")]
    pub(super) class: String,
}

/// What the file lists; `None` where there is no such file.
pub(super) fn read(files: &Files) -> Result<Option<Vec<Module>>, CheckpointError> {
    json::read(files, MODULES)
}

impl Module {
    /// Whether it is of this class, and of this package's.
    pub(super) fn is(&self, package: &str, name: &str) -> bool {
        own(package, &self.class) == Some(name)
    }

    /// Its folder. One that leads out of the checkpoint is refused.
    pub(super) fn folder(&self, files: &Files) -> Result<&Path, CheckpointError> {
        let folder = Path::new(&self.path);
        if folder.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
            return Ok(folder);
        }
        let reason = format!("is `{}`, which leads out of the checkpoint", self.path);
        Err(refused(files, "path", reason))
    }

    /// Its settings; `hint` says what they are where they are missing.
    pub(super) fn settings(&self, files: &Files, hint: &'static str) -> Result<JsonObject, CheckpointError> {
        let file = self.folder(files)?.join(SETTINGS);
        let missing = || CheckpointError::MissingFile { path: files.path(&file), hint };
        JsonObject::open(files, &file)?.ok_or_else(missing)
    }
}

/// The name of a class that is this package's. Full Python paths moved between versions; the name is what counts.
pub(super) fn own<'a>(package: &str, class: &'a str) -> Option<&'a str> {
    class.strip_prefix(package)?.strip_prefix('.')?.rsplit('.').next()
}

/// The package of most classes.
pub(super) const PACKAGE: &str = "sentence_transformers";

/// The modules that this crate has, in the order in which texts go through them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Kind {
    Transformer,
    /// The mean of a table's rows: model and pooling in one.
    StaticEmbedding,
    Pooling,
    /// What may follow the pooling in any order.
    Dense,
    LayerNorm,
    Normalize,
    /// Which changes nothing but in training.
    Dropout,
    /// pplx-embed's rounding to int8.
    TanhInt8,
}

impl Kind {
    /// A class of another package than sentence-transformers, or in a file of the checkpoint, is another one whatever its
    /// name, but for that of a family whose checkpoints all have it.
    fn of(class: &str, architecture: Architecture) -> Option<Self> {
        if class == "st_quantize.FlexibleQuantizer" && architecture == Architecture::PplxQwen3 {
            return Some(Self::TanhInt8);
        }
        let of_another_kind =
            ["sentence_transformers.sparse_encoder.", "sentence_transformers.multi_vector_encoder."];
        if of_another_kind.iter().any(|start| class.starts_with(start)) {
            return None;
        }
        Some(match own(PACKAGE, class)? {
            "Transformer" => Self::Transformer,
            "StaticEmbedding" => Self::StaticEmbedding,
            "Pooling" => Self::Pooling,
            "Normalize" => Self::Normalize,
            "Dense" => Self::Dense,
            "LayerNorm" => Self::LayerNorm,
            "Dropout" => Self::Dropout,
            _ => return None,
        })
    }
}

impl SentenceTransformers {
    /// `own` are steps in the model's own weights, where some conversions put what Dense modules hold. `last` is what the
    /// last module is given.
    pub(super) fn read_modules(
        &mut self,
        files: &Files,
        architecture: Architecture,
        own: &[StepSpec],
        last: Input,
    ) -> Result<(), CheckpointError> {
        let Some(modules) = read(files)? else {
            self.behind = own.iter().map(ModuleSpec::of_weights).collect();
            let folder = Path::new(POOLING);
            let pooling = JsonObject::open(files, folder.join(SETTINGS))?;
            return pooling.map_or(Ok(()), |settings| self.take_pooling(folder, &settings));
        };
        let (all_own, mut own) = (own.len(), own.iter());
        let refuse = |field, reason| Err(refused(files, field, reason));
        if modules.is_empty() {
            return refuse(
                "type",
                "is nowhere, as the list is empty; name the modules, or remove the file".into(),
            );
        }
        self.normalize = Some(false);
        let mut before = None;
        // Before their order: a class that no embedder has says best what else the checkpoint is.
        if let Some(module) = modules.iter().find(|module| Kind::of(&module.class, architecture).is_none()) {
            return refuse("type", why_not(&module.class));
        }
        let first = if architecture.is_static() { Kind::StaticEmbedding } else { Kind::Transformer };
        let kinds =
            modules.iter().filter_map(|module| Some((module, Kind::of(&module.class, architecture)?)));
        for (index, (module, kind)) in kinds.enumerate() {
            let follows = match (before, kind) {
                (None, kind) => kind == first,
                (Some(Kind::Transformer), kind) => kind == Kind::Pooling,
                (Some(_), kind) => kind > Kind::Pooling,
            };
            if !follows {
                let classes: Vec<&str> = modules.iter().map(|module| module.class.as_str()).collect();
                return refuse(
                    "type",
                    format!(
                        "names {}; supported with this model is one {}, then Dense, LayerNorm, Dropout and Normalize",
                        classes.join(", "),
                        if architecture.is_static() {
                            "StaticEmbedding"
                        } else {
                            "Transformer, then one Pooling"
                        },
                    ),
                );
            }
            let folder = module.folder(files)?;
            match kind {
                // Its files are looked up in its folder.
                Kind::Transformer | Kind::StaticEmbedding => {}
                Kind::Pooling => {
                    let settings =
                        module.settings(files, "modules.json names it as the pooling's settings")?;
                    self.take_pooling(folder, &settings)?;
                }
                Kind::Dense => {
                    let input = if index + 1 == modules.len() { last } else { Input::Pooled };
                    self.behind.push(ModuleSpec::dense(files, folder, own.next(), input)?);
                }
                Kind::LayerNorm => self.behind.push(ModuleSpec::layer_norm(files, folder)?),
                Kind::Dropout => {}
                Kind::TanhInt8 => self.behind.push(ModuleSpec::TanhInt8),
                Kind::Normalize => {
                    check_normalize(files, folder, Input::Pooled)?;
                    self.behind.push(ModuleSpec::Normalize);
                }
            }
            before = Some(kind);
        }
        // Those that no module names belong to the model itself, unless there are modules for some of them.
        let left = own.len();
        if left > 0 && left < all_own {
            return refuse(
                "type",
                format!(
                    "names {} Dense, and the model's weights hold {all_own} (dense.0 to dense.{}); name a module for each, or none",
                    all_own - left,
                    all_own - 1,
                ),
            );
        }
        self.behind.splice(0..0, own.map(ModuleSpec::of_weights));
        self.take_last_normalize();
        Ok(())
    }

    /// A Normalize that comes last is up to the caller; one that others follow is not.
    pub(super) fn take_last_normalize(&mut self) {
        while self.behind.last() == Some(&ModuleSpec::Normalize) {
            self.behind.pop();
            self.normalize = Some(true);
        }
    }

    /// The pooling of this folder.
    fn take_pooling(&mut self, folder: &Path, settings: &JsonObject) -> Result<(), CheckpointError> {
        self.pooling = Some(pooling::mode(settings)?);
        self.include_prompt = settings.switch("include_prompt")?.unwrap_or(true);
        self.pooling_file = Some(folder.join(SETTINGS).display().to_string());
        Ok(())
    }
}

/// What is told of a module that has whole models in it.
pub(super) fn of_several_models(class: &str) -> Option<String> {
    ["Router", "Asym"].contains(&own(PACKAGE, class)?).then(|| {
        format!(
            "is `{class}`, which has several models, one for queries and another for documents; load one of them: \
             write its modules into modules.json, which router_config.json lists by their folders (its `structure`)"
        )
    })
}

fn why_not(class: &str) -> String {
    if class.starts_with("sentence_transformers.cross_encoder.") {
        return format!("is `{class}`, a reranker's; load it with `Reranker` (mlx-embed rerank)");
    }
    let package = class.split('.').next().unwrap_or_default();
    if package == "pylate" || class.starts_with("sentence_transformers.multi_vector_encoder.") {
        return format!(
            "is `{class}`, of a model of late interaction; load the checkpoint with MultiVectorEmbedder"
        );
    }
    if let Some(reason) = of_several_models(class) {
        return reason;
    }
    if class.starts_with("sentence_transformers.sparse_encoder.") {
        format!("is `{class}`, a sparse encoder's; load the checkpoint with SparseEmbedder")
    } else if package == "sentence_transformers" {
        format!(
            "is `{class}`; supported are sentence-transformers' Transformer, StaticEmbedding, Pooling, Dense, LayerNorm, Dropout and Normalize, and leaving \
             a module out would change the vectors"
        )
    } else {
        format!(
            "is `{class}`, Python code of `{package}` that this crate can't run; supported are \
             sentence-transformers' own Transformer, StaticEmbedding, Pooling, Dense, LayerNorm, Dropout and Normalize. If the code only loads the model, name \
             `sentence_transformers.models.Transformer` in its place"
        )
    }
}

/// Where the files of a directory are: those of the model itself are in the folder that its module has.
pub(crate) fn place(dir: &Path) -> Result<Files, CheckpointError> {
    let files = Files::of(dir);
    let modules = read(&files)?.unwrap_or_default();
    let Some(first) = modules.first() else { return Ok(files) };
    let class = first.class.rsplit('.').next().unwrap_or_default();
    if !["Transformer", "MLMTransformer", "StaticEmbedding"].contains(&class) {
        return Ok(files);
    }
    let model = first.folder(&files)?.components().filter(|part| *part != Component::CurDir).collect();
    Ok(Files::with_model(dir, model))
}

/// Whether the first module is a StaticEmbedding.
pub(in crate::checkpoint) fn is_static(files: &Files) -> Result<bool, CheckpointError> {
    let modules = read(files)?.unwrap_or_default();
    let first = modules.first().and_then(|first| Kind::of(&first.class, Architecture::StaticEmbedding));
    Ok(first == Some(Kind::StaticEmbedding))
}

/// Refuses what begins with another module than a model.
pub(in crate::checkpoint) fn check_first(files: &Files) -> Result<(), CheckpointError> {
    let modules = read(files)?.unwrap_or_default();
    let Some(first) = modules.first() else { return Ok(()) };
    match Kind::of(&first.class, Architecture::Bert) {
        None => Err(refused(files, "type", why_not(&first.class))),
        Some(_) => Ok(()),
    }
}

/// What is wrong with the file.
#[cold]
pub(super) fn refused(files: &Files, field: &str, reason: String) -> CheckpointError {
    CheckpointError::InvalidField { path: files.path(MODULES), field: field.into(), reason }
}

/// Refuses a normalisation of something else than what comes to it.
pub(super) fn check_normalize(files: &Files, folder: &Path, input: Input) -> Result<(), CheckpointError> {
    let (wanted, what) = input.name();
    // A module without a folder of its own would find the model's config.json here.
    let own = !folder.components().all(|part| part == Component::CurDir);
    let config = if own { JsonObject::open(files, folder.join(SETTINGS))? } else { None };
    let name = |field: &str| config.as_ref().map(|config| config.optional::<String>(field)).transpose();
    let input_name = name("module_input_name")?.flatten().unwrap_or_else(|| Input::Pooled.name().0.into());
    let output_name = name("module_output_name")?.flatten().unwrap_or_else(|| input_name.clone());
    for (field, name) in [("module_input_name", input_name), ("module_output_name", output_name)] {
        if name != wanted {
            return Err(CheckpointError::InvalidField {
                path: files.path(folder.join(SETTINGS)),
                field: field.into(),
                reason: format!("is `{name}`; only {what}, `{wanted}`, can be normalised here"),
            });
        }
    }
    Ok(())
}
