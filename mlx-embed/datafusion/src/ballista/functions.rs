//! `embed` and `rerank` in plans that are sent: as bytes, and back.

use std::sync::{Arc, Mutex, PoisonError};

use datafusion::common::{DataFusionError, Result, exec_err};
use datafusion::logical_expr::ScalarUDF;
use datafusion::logical_expr::async_udf::AsyncScalarUDF;

use super::ModelId;
use super::stand_in::{Kind, StandIn};

/// The functions that are known here.
///
/// DataFusion's plans name a function and may add bytes of its own: here the [`ModelId`]. It hides an asynchronous function
/// behind a type that shows nothing of it, so a function's model is found by comparing it with those that were made here.
#[derive(Debug)]
pub(super) struct Functions {
    known: Mutex<Vec<Known>>,
    /// Whether those of other models are taken, too, and stand for them: where plans are made, not run.
    stand_in: bool,
}

#[derive(Debug, Clone)]
struct Known {
    kind: Kind,
    model: ModelId,
    function: Arc<ScalarUDF>,
}

impl Functions {
    /// Functions without models.
    pub(super) fn standing_in() -> Self {
        Self { known: Mutex::default(), stand_in: true }
    }

    /// Functions that run, and no others.
    pub(super) fn of_models(models: impl IntoIterator<Item = (Kind, ModelId, ScalarUDF)>) -> Self {
        let known = |(kind, model, function)| Known { kind, model, function: Arc::new(function) };
        Self { known: Mutex::new(models.into_iter().map(known).collect()), stand_in: false }
    }

    /// Adds the bytes that stand for a function's model, or what `other` adds for a function that isn't ours.
    pub(super) fn encode_or(
        &self,
        function: &ScalarUDF,
        bytes: &mut Vec<u8>,
        other: impl FnOnce(&mut Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        let model = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.iter().find(|known| *known.function == *function).map(|known| known.model.clone())
        };
        match model {
            Some(model) => serde_json::to_writer(bytes, &model)
                .map_err(|error| DataFusionError::External(Box::new(error))),
            None => other(bytes),
        }
    }

    /// The function that bytes stand for, or what `other` gives for a name that isn't ours.
    pub(super) fn decode_or(
        &self,
        name: &str,
        bytes: &[u8],
        other: impl FnOnce() -> Result<Arc<ScalarUDF>>,
    ) -> Result<Arc<ScalarUDF>> {
        let Some(kind) = Kind::named(name) else { return other() };
        if bytes.is_empty() {
            return exec_err!(
                "{name}: the query doesn't say of which model; connect with `mlx-embed-sql --scheduler` or \
                 mlx_embed_datafusion::ballista::remote"
            );
        }
        let model = serde_json::from_slice(bytes)
            .map_err(|error| DataFusionError::External(Box::new(error)).context(format!("{name}'s model")))?;
        self.get(kind, model)
    }

    /// The function that asks this model.
    pub(super) fn get(&self, kind: Kind, model: ModelId) -> Result<Arc<ScalarUDF>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut of_kind = known.iter().filter(|known| known.kind == kind);
        if let Some(found) = of_kind.clone().find(|known| known.model == model) {
            return Ok(Arc::clone(&found.function));
        }
        if self.stand_in {
            let stand_in = StandIn::new(kind, model.clone());
            let function = Arc::new(AsyncScalarUDF::new(Arc::new(stand_in)).into_scalar_udf());
            known.push(Known { kind, model, function: Arc::clone(&function) });
            return Ok(function);
        }
        let name = kind.name();
        match of_kind.next() {
            Some(other) => exec_err!(
                "{name}: the query is for the model {model}, and this executor has {}; start every executor and the \
                 client with the same model and --precision",
                other.model
            ),
            None => exec_err!(
                "{name}: the query is for the model {model}, and this executor has none for it; start it with \
                 --{name}er DIR"
            ),
        }
    }
}
