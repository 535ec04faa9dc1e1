//! The modules of a model of late interaction: a Transformer, and Dense modules of each token.

use std::path::Path;

use super::modules::{Module, check_inside};
use super::{MODULES, SentenceTransformers};
use crate::checkpoint::CheckpointError;
use crate::checkpoint::json;
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
        let modules = json::read::<Vec<Module>>(files, MODULES)?;
        match modules.as_deref() {
            // ColBERT's own layout has no such file.
            None | Some([]) if !self.behind.is_empty() => Ok(()),
            Some([transformer, dense @ ..]) if is(transformer, "Transformer") && !dense.is_empty() => {
                for module in dense {
                    if !is(module, "Dense") {
                        return Err(refused(files, Some(&module.class)));
                    }
                    let folder = Path::new(&module.path);
                    check_inside(files, folder)?;
                    self.behind.push(ModuleSpec::dense(files, folder, None, Input::Tokens)?);
                }
                Ok(())
            }
            modules => {
                Err(refused(files, modules.and_then(|modules| modules.first()).map(|first| &*first.class)))
            }
        }
    }
}

/// Whether a module is of this class, PyLate's or sentence-transformers'.
fn is(module: &Module, name: &str) -> bool {
    let class = module.class.as_str();
    let own = ["pylate.", "sentence_transformers."].iter().any(|package| class.starts_with(package));
    own && class.rsplit('.').next() == Some(name)
}

#[cold]
fn refused(files: &Files, class: Option<&str>) -> CheckpointError {
    let names = class.map_or("is missing".to_owned(), |class| format!("is `{class}`"));
    CheckpointError::InvalidField {
        path: files.path(MODULES),
        field: "type".into(),
        reason: format!(
            "{names}; a model of late interaction has one Transformer and behind it Dense modules alone (PyLate), or \
             its config.json names `HF_ColBERT`. For one vector a text load the checkpoint with Embedder"
        ),
    }
}
