//! `rerank(query, text)`.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::Float32Array;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Result, internal_err};
use datafusion::logical_expr::async_udf::AsyncScalarUDFImpl;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature};
use mlx_embed::{Error, Lane, RerankOptions, Reranker, WhenFull};

use crate::model::Model;
use crate::texts::{self, Texts};

pub(crate) const NAME: &str = "rerank";

/// The type of a score.
pub(crate) const SCORE: DataType = DataType::Float32;

/// What may be given to it.
pub(crate) fn signature() -> Signature {
    texts::signature(&["query", "text"], 2)
}

/// Documents that are sent at once.
const DOCUMENTS: usize = 256;

/// The function, with its model.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Rerank {
    reranker: Model<Reranker>,
    signature: Signature,
}

impl Rerank {
    pub(crate) fn new(reranker: Reranker) -> Self {
        Self { reranker: Model::new(reranker), signature: signature() }
    }

    /// The scores of rows, null where one of the two is. Rows that follow one another and have one query go together.
    async fn scores(&self, queries: &Texts, documents: &Texts) -> Result<Vec<Option<f32>>, Error> {
        let mut scores = vec![None; documents.rows()];
        let pair = |row| Some((queries.get(row)?, documents.get(row)?));
        let rows: Vec<usize> = (0..documents.rows()).filter(|&row| pair(row).is_some()).collect();
        let options =
            RerankOptions { lane: Lane::Bulk, when_full: Some(WhenFull::Wait), ..Default::default() };
        for run in rows.chunk_by(|a, b| queries.get(*a) == queries.get(*b)) {
            let query = queries.get(run[0]).unwrap_or_default();
            for rows in run.chunks(DOCUMENTS) {
                let texts: Vec<&str> = rows.iter().filter_map(|&row| documents.get(row)).collect();
                let found = self.reranker.submit_each(query, &texts, &options).await?;
                for (&row, ranked) in rows.iter().zip(found) {
                    let ranked = ranked.map_err(|source| Error::Input { index: row, source })?;
                    scores[row] = Some(ranked.score);
                }
            }
        }
        Ok(scores)
    }
}

impl ScalarUDFImpl for Rerank {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(SCORE)
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        internal_err!("{NAME} is computed by invoke_async_with_args")
    }
}

#[async_trait]
impl AsyncScalarUDFImpl for Rerank {
    async fn invoke_async_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let (queries, documents) = (Texts::of(&args, 0)?, Texts::of(&args, 1)?);
        let scores = self.scores(&queries, &documents).await;
        let scores = scores.map_err(|error| texts::failed(NAME, &args, error))?;
        Ok(ColumnarValue::Array(Arc::new(Float32Array::from(scores))))
    }
}
