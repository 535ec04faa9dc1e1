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
    Pooling,
    /// What may follow the pooling in any order.
    Dense,
    LayerNorm,
    Normalize,
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
            "Pooling" => Self::Pooling,
            "Normalize" => Self::Normalize,
            "Dense" => Self::Dense,
            "LayerNorm" => Self::LayerNorm,
            _ => return None,
        })
    }
}

impl SentenceTransformers {
    /// `own` are steps in the model's own weights, where some conversions put what Dense modules hold.
    pub(super) fn read_modules(
        &mut self,
        files: &Files,
        architecture: Architecture,
        own: &[StepSpec],
    ) -> Result<(), CheckpointError> {
        let Some(modules) = json::read::<Vec<Module>>(files, MODULES)? else {
            self.behind = own.iter().map(ModuleSpec::of_weights).collect();
            return self.read_pooling(files, Path::new(POOLING)).map(drop);
        };
        let mut own = own.iter();
        let refuse = |field: &str, reason: String| {
            Err(CheckpointError::InvalidField { path: files.path(MODULES), field: field.into(), reason })
        };
        self.normalize = Some(false);
        let mut before = None;
        for module in &modules {
            let Some(kind) = Kind::of(&module.class, architecture) else {
                return refuse("type", why_not(&module.class));
            };
            let follows = match (before, kind) {
                (None, Kind::Transformer) | (Some(Kind::Transformer), Kind::Pooling) => true,
                (None | Some(Kind::Transformer), _) => false,
                (Some(_), kind) => kind > Kind::Pooling,
            };
            if !follows {
                let classes: Vec<&str> = modules.iter().map(|module| module.class.as_str()).collect();
                return refuse(
                    "type",
                    format!(
                        "names {}; supported is one Transformer, then one Pooling, then Dense, LayerNorm and Normalize",
                        classes.join(", ")
                    ),
                );
            }
            let folder = Path::new(&module.path);
            check_inside(files, folder)?;
            match kind {
                Kind::Transformer if folder.components().any(|part| part != Component::CurDir) => {
                    return refuse(
                        "path",
                        format!(
                            "puts the model into the folder `{0}`; move the files of {0} beside modules.json and \
                             set the path to \"\"",
                            module.path
                        ),
                    );
                }
                Kind::Transformer => {}
                Kind::Pooling => {
                    if !self.read_pooling(files, folder)? {
                        return Err(CheckpointError::MissingFile {
                            path: files.path(folder.join(SETTINGS)),
                            hint: "modules.json names it as the pooling's settings",
                        });
                    }
                }
                Kind::Dense => self.behind.push(ModuleSpec::dense(files, folder, own.next(), Input::Pooled)?),
                Kind::LayerNorm => self.behind.push(ModuleSpec::layer_norm(files, folder)?),
                Kind::TanhInt8 => self.behind.push(ModuleSpec::TanhInt8),
                Kind::Normalize => {
                    check_normalize(files, folder)?;
                    self.behind.push(ModuleSpec::Normalize);
                }
            }
            before = Some(kind);
        }
        // Those that no module names belong to the model itself.
        self.behind.splice(0..0, own.map(ModuleSpec::of_weights));
        // What comes last is up to the caller; what others follow is not.
        while self.behind.last() == Some(&ModuleSpec::Normalize) {
            self.behind.pop();
            self.normalize = Some(true);
        }
        Ok(())
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
    if class.starts_with("sentence_transformers.sparse_encoder.") {
        format!("is `{class}`, a sparse encoder's; load the checkpoint with SparseEmbedder")
    } else if package == "sentence_transformers" {
        format!(
            "is `{class}`; supported are sentence-transformers' Transformer, Pooling, Dense, LayerNorm and Normalize, and leaving a \
             module out would change the vectors"
        )
    } else {
        format!(
            "is `{class}`, Python code of `{package}` that this crate can't run; supported are \
             sentence-transformers' own Transformer, Pooling, Dense, LayerNorm and Normalize. If the code only loads the model, name \
             `sentence_transformers.models.Transformer` in its place"
        )
    }
}

/// Refuses a normalisation of something else than the pooled vector.
fn check_normalize(files: &Files, folder: &Path) -> Result<(), CheckpointError> {
    // A module without a folder of its own would find the model's config.json here.
    if folder.components().all(|part| part == Component::CurDir) {
        return Ok(());
    }
    let Some(config) = JsonObject::open(files, folder.join(SETTINGS))? else {
        return Ok(());
    };
    for field in ["module_input_name", "module_output_name"] {
        let name: Option<String> = config.optional(field)?;
        if let Some(name) = name.filter(|name| name != "sentence_embedding") {
            return Err(config.invalid(
                field,
                format!("is `{name}`; only the pooled vector, `sentence_embedding`, can be normalised"),
            ));
        }
    }
    Ok(())
}
