//! The modules of a model of late interaction: a Transformer, and what each token's state goes through.

use super::modules::{self, Module, PACKAGE, check_normalize};
use super::{MULTI_VECTOR, SentenceTransformers};
use crate::checkpoint::CheckpointError;
use crate::checkpoint::json::JsonObject;
use crate::checkpoint::modules::{Input, ModuleSpec};
use crate::checkpoint::spec::ModelSpec;
use crate::file::Files;

impl SentenceTransformers {
    /// What each token's state goes through. Vectors have length 1 at last.
    pub(super) fn read_late_modules(
        &mut self,
        files: &Files,
        spec: &ModelSpec,
    ) -> Result<(), CheckpointError> {
        self.normalize = Some(true);
        self.behind = spec.token_step().iter().map(ModuleSpec::of_weights).collect();
        if self.behind.is_empty() && super::is_multi_vector_encoder(files)? {
            return self.read_multi_vector_modules(files);
        }
        let modules = modules::read(files)?;
        match modules.as_deref() {
            // ColBERT's own layout has no such file.
            None | Some([]) if !self.behind.is_empty() => Ok(()),
            Some([transformer, dense @ ..]) if is(transformer, "Transformer") && !dense.is_empty() => {
                for module in dense {
                    if !is(module, "Dense") {
                        return Err(refused(files, Some(&module.class)));
                    }
                    self.behind.push(ModuleSpec::dense(files, module.folder(files)?, None, Input::Tokens)?);
                }
                Ok(())
            }
            modules => {
                Err(refused(files, modules.and_then(|modules| modules.first()).map(|first| &*first.class)))
            }
        }
    }

    /// sentence-transformers 6 names all that it does: vectors have length 1 where Normalize comes last.
    fn read_multi_vector_modules(&mut self, files: &Files) -> Result<(), CheckpointError> {
        let modules = modules::read(files)?.unwrap_or_default();
        let refuse = |reason: String| Err(modules::refused(files, "type", reason));
        let Some((_, rest)) = modules.split_first().filter(|(first, _)| is(first, "Transformer")) else {
            return refuse("must name a Transformer first, as every MultiVectorEncoder does".into());
        };
        for module in rest {
            let folder = module.folder(files)?;
            if is(module, "Dense") {
                self.behind.push(ModuleSpec::dense(files, folder, None, Input::Tokens)?);
            } else if is(module, "Normalize") {
                check_normalize(files, folder, Input::Tokens)?;
                self.behind.push(ModuleSpec::Normalize);
            } else if !is(module, MASK) {
                return refuse(format!(
                    "is `{}`; supported in a MultiVectorEncoder are one Transformer, then Dense, Normalize and {MASK}, \
                     and leaving a module out would change the vectors",
                    module.class
                ));
            }
        }
        if rest.iter().filter(|module| is(module, MASK)).count() > 1 {
            return refuse(format!("names {MASK} twice; leave one"));
        }
        self.normalize = Some(false);
        self.take_last_normalize();
        Ok(())
    }
}

/// The module that says which tokens have vectors.
const MASK: &str = "MultiVectorMask";

/// Its settings, where `modules.json` names it.
pub(in crate::checkpoint) fn mask_settings(files: &Files) -> Result<Option<JsonObject>, CheckpointError> {
    let modules = modules::read(files)?.unwrap_or_default();
    let Some(mask) = modules.iter().find(|module| is(module, MASK)) else { return Ok(None) };
    mask.settings(files, "modules.json names it as MultiVectorMask's settings").map(Some)
}

/// Whether a module is of this class, PyLate's or sentence-transformers'.
fn is(module: &Module, name: &str) -> bool {
    module.is(PACKAGE, name) || module.is("pylate", name)
}

#[cold]
fn refused(files: &Files, class: Option<&str>) -> CheckpointError {
    let names = class.map_or("is missing".to_owned(), |class| format!("is `{class}`"));
    let reason = format!(
        "{names}; a model of late interaction has one Transformer and behind it Dense modules alone (PyLate), or \
         config_sentence_transformers.json gives its model_type as `{MULTI_VECTOR}`, or its config.json names \
         `HF_ColBERT`. For one vector per text load the checkpoint with Embedder"
    );
    modules::refused(files, "type", reason)
}
