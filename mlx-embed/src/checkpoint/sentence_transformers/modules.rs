//! `modules.json`: which modules a text goes through.

use std::path::{Component, Path};

use serde::Deserialize;

use super::{MODULES, POOLING, SETTINGS, SentenceTransformers, pooling};
use crate::checkpoint::json::{self, JsonObject};
use crate::checkpoint::modules::{Input, ModuleSpec};
use crate::checkpoint::spec::StepSpec;
use crate::checkpoint::{Architecture, CheckpointError};
use crate::file::Files;

#[derive(Deserialize)]
pub(super) struct Module {
    pub(super) path: String,
    #[serde(rename = "type")]
    pub(super) class: String,
}

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
    /// Full Python paths of sentence-transformers' own classes moved between its versions; the class is what counts. A
    /// class of another package, or in a file of the checkpoint, is another one whatever its name, but for that of a family
    /// whose checkpoints all have it.
    fn of(class: &str, architecture: Architecture) -> Option<Self> {
        if class == "st_quantize.FlexibleQuantizer" && architecture == Architecture::PplxQwen3 {
            return Some(Self::TanhInt8);
        }
        let own = class.strip_prefix("sentence_transformers.")?;
        if own.starts_with("sparse_encoder.") || own.starts_with("multi_vector_encoder.") {
            return None;
        }
        Some(match own.rsplit('.').next()? {
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
        let Some(modules) = json::read::<Vec<Module>>(files, MODULES)? else {
            self.behind = own.iter().map(ModuleSpec::of_weights).collect();
            return self.read_pooling(files, Path::new(POOLING)).map(drop);
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
            let folder = Path::new(&module.path);
            check_inside(files, folder)?;
            match kind {
                // Its files are looked up in its folder.
                Kind::Transformer | Kind::StaticEmbedding => {}
                Kind::Pooling => {
                    if !self.read_pooling(files, folder)? {
                        return Err(CheckpointError::MissingFile {
                            path: files.path(folder.join(SETTINGS)),
                            hint: "modules.json names it as the pooling's settings",
                        });
                    }
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

    /// Whether there is a pooling's folder.
    fn read_pooling(&mut self, files: &Files, folder: &Path) -> Result<bool, CheckpointError> {
        let file = folder.join(SETTINGS);
        let Some(config) = JsonObject::open(files, &file)? else {
            return Ok(false);
        };
        self.pooling = Some(pooling::mode(&config)?);
        self.include_prompt = config.switch("include_prompt")?.unwrap_or(true);
        self.pooling_file = Some(file.display().to_string());
        Ok(true)
    }
}

/// Refuses a module's folder that is not one of the checkpoint's.
pub(super) fn check_inside(files: &Files, folder: &Path) -> Result<(), CheckpointError> {
    if folder.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Ok(());
    }
    Err(CheckpointError::InvalidField {
        path: files.path(MODULES),
        field: "path".into(),
        reason: format!("is `{}`, which leads out of the checkpoint", folder.display()),
    })
}

/// What is told of a module that has whole models in it.
pub(super) fn of_several_models(class: &str) -> Option<String> {
    let own = class.strip_prefix("sentence_transformers.")?;
    ["Router", "Asym"].contains(&own.rsplit('.').next()?).then(|| {
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
    let modules = json::read::<Vec<Module>>(&files, MODULES)?.unwrap_or_default();
    let Some(first) = modules.first() else { return Ok(files) };
    let folder = Path::new(&first.path);
    let class = first.class.rsplit('.').next().unwrap_or_default();
    if !["Transformer", "MLMTransformer", "StaticEmbedding"].contains(&class) {
        return Ok(files);
    }
    check_inside(&files, folder)?;
    let model = folder.components().filter(|part| *part != Component::CurDir).collect();
    Ok(Files::with_model(dir, model))
}

/// Whether the first module is a StaticEmbedding.
pub(in crate::checkpoint) fn is_static(files: &Files) -> Result<bool, CheckpointError> {
    let modules = json::read::<Vec<Module>>(files, MODULES)?.unwrap_or_default();
    let first = modules.first().and_then(|first| Kind::of(&first.class, Architecture::StaticEmbedding));
    Ok(first == Some(Kind::StaticEmbedding))
}

/// Refuses what begins with another module than a model.
pub(in crate::checkpoint) fn check_first(files: &Files) -> Result<(), CheckpointError> {
    let modules = json::read::<Vec<Module>>(files, MODULES)?.unwrap_or_default();
    let Some(first) = modules.first() else { return Ok(()) };
    match Kind::of(&first.class, Architecture::Bert) {
        None => Err(refused(files, "type", why_not(&first.class))),
        Some(_) => Ok(()),
    }
}

fn refused(files: &Files, field: &str, reason: String) -> CheckpointError {
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
