//! `embed(text)`, `embed(text, prompt => 'query')`.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{ArrayRef, FixedSizeListArray, Float32Array};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Result, exec_err, internal_err};
use datafusion::logical_expr::async_udf::AsyncScalarUDFImpl;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature};
use futures_util::StreamExt;
use mlx_embed::{EmbedOptions, Embedder, Prompt};

use crate::model::Model;
use crate::texts::{self, Texts};

pub(crate) const NAME: &str = "embed";

/// What may be given to it.
pub(crate) fn signature() -> Signature {
    texts::signature(&["text", "prompt"], 1)
}

/// A vector of so many numbers.
pub(crate) fn vector(dims: i32) -> DataType {
    DataType::FixedSizeList(item(), dims)
}

fn item() -> FieldRef {
    Arc::new(Field::new_list_field(DataType::Float32, false))
}

/// The function, with its model.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Embed {
    embedder: Model<Embedder>,
    dims: i32,
    signature: Signature,
}

impl Embed {
    pub(crate) fn new(embedder: Embedder) -> Self {
        let dims = i32::try_from(embedder.info().embedding_size).unwrap_or(i32::MAX);
        Self { embedder: Model::new(embedder), dims, signature: signature() }
    }

    /// The vectors of `texts`, null where the text is.
    async fn vectors(&self, texts: &Texts, options: &EmbedOptions) -> Result<ArrayRef, mlx_embed::Error> {
        let rows = if texts.is_constant() { texts.rows().min(1) } else { texts.rows() };
        let known: Vec<usize> = (0..rows).filter(|&row| texts.get(row).is_some()).collect();
        let owned = texts.clone();
        let asked = known.clone().into_iter().filter_map(move |row| owned.get(row).map(str::to_owned));
        let mut found = self.embedder.embed_stream(asked, options);
        let dims = usize::try_from(self.dims).unwrap_or_default();
        let mut numbers = Vec::with_capacity(rows * dims);
        for row in known {
            let Some(embedding) = found.next().await else { break };
            numbers.resize(row * dims, 0.0);
            numbers.extend(embedding.map_err(|error| in_row(error, row))?.vector);
        }
        numbers.resize(rows * dims, 0.0);
        if texts.is_constant() && rows == 1 {
            numbers = numbers.repeat(texts.rows());
        }
        let known = NullBuffer::from_iter((0..texts.rows()).map(|row| texts.get(row).is_some()));
        let numbers = Arc::new(Float32Array::from(numbers));
        Ok(Arc::new(FixedSizeListArray::new(item(), self.dims, numbers, Some(known))))
    }
}

/// Texts are counted among those that are not null, and people count rows.
fn in_row(error: mlx_embed::Error, row: usize) -> mlx_embed::Error {
    match error {
        mlx_embed::Error::Input { source, .. } => mlx_embed::Error::Input { index: row, source },
        error => error,
    }
}

impl ScalarUDFImpl for Embed {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(vector(self.dims))
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        internal_err!("{NAME} is computed by invoke_async_with_args")
    }
}

#[async_trait]
impl AsyncScalarUDFImpl for Embed {
    async fn invoke_async_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let prompt = match args.args.get(1) {
            None => Prompt::Default,
            Some(_) => match texts::constant(&args, 1) {
                Some(Some(name)) => Prompt::Named(name),
                Some(None) => Prompt::None,
                None => {
                    return exec_err!(
                        "{NAME}: `prompt` is one of the checkpoint's prompts for all rows, such as 'query', and no column"
                    );
                }
            },
        };
        let options = EmbedOptions { prompt, ..Default::default() };
        let vectors = self.vectors(&Texts::of(&args, 0)?, &options).await;
        vectors.map(ColumnarValue::Array).map_err(|error| texts::failed(NAME, &args, error))
    }
}

#[cfg(test)]
mod tests {
    use datafusion::logical_expr::Volatility;

    use super::*;

    #[test]
    fn one_function_is_another_if_both_have_one_model() {
        let embedder = Embedder::default_model().unwrap();
        let (a, b) = (Embed::new(embedder.clone()), Embed::new(embedder));
        assert!(a == a && a != b);
        assert_eq!(a.return_type(&[]).unwrap(), vector(384));
        assert_eq!(
            Volatility::Volatile,
            a.signature().volatility,
            "so that no rule computes it while it plans"
        );
    }
}
