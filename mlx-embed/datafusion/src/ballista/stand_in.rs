//! `embed` and `rerank` where queries are planned: their types, without a model.

use async_trait::async_trait;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::async_udf::AsyncScalarUDFImpl;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature};

use super::ModelId;
use crate::{embed, rerank};

/// A function that asks a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Embed,
    Rerank,
}

impl Kind {
    /// The function of that name, if it is one of them.
    pub(super) fn named(name: &str) -> Option<Self> {
        [Self::Embed, Self::Rerank].into_iter().find(|kind| kind.name() == name)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Embed => embed::NAME,
            Self::Rerank => rerank::NAME,
        }
    }

    fn signature(self) -> Signature {
        match self {
            Self::Embed => embed::signature(),
            Self::Rerank => rerank::signature(),
        }
    }
}

/// The function, of whichever model.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct StandIn {
    kind: Kind,
    model: ModelId,
    signature: Signature,
}

impl StandIn {
    pub(super) fn new(kind: Kind, model: ModelId) -> Self {
        Self { kind, model, signature: kind.signature() }
    }
}

impl ScalarUDFImpl for StandIn {
    fn name(&self) -> &str {
        self.kind.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match self.kind {
            Kind::Embed => embed::vector(i32::try_from(self.model.dims()).unwrap_or(i32::MAX)),
            Kind::Rerank => rerank::SCORE,
        })
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        exec_err!("{}: executors compute it, and this is none", self.name())
    }
}

#[async_trait]
impl AsyncScalarUDFImpl for StandIn {
    async fn invoke_async_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.invoke_with_args(args)
    }
}
