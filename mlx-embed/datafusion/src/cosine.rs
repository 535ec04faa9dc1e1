//! `cosine(a, b)`.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Float64Array};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Float64Type};
use datafusion::common::{Result, exec_err, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

const NAME: &str = "cosine";

/// The function.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Cosine {
    signature: Signature,
}

impl Cosine {
    pub(crate) fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Cosine {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let numbers = |kind: &DataType| match kind {
            DataType::FixedSizeList(item, _) | DataType::List(item) | DataType::LargeList(item) => {
                item.data_type().is_numeric()
            }
            kind => kind.is_null(),
        };
        match types {
            [a, b] => match [a, b].into_iter().find(|kind| !numbers(kind)) {
                None => Ok(types.to_vec()),
                Some(other) => plan_err!("{NAME}(a, b): both are lists of numbers, and this is {other}"),
            },
            _ => plan_err!("{NAME}(a, b): {} arguments are given", types.len()),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let all_constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if all_constant { 1 } else { args.number_rows };
        let (a, b) = (Vectors::of(&args.args[0], rows)?, Vectors::of(&args.args[1], rows)?);
        let mut cosines = Vec::with_capacity(rows);
        for row in 0..rows {
            cosines.push(match (a.get(row)?, b.get(row)?) {
                (Some(a), Some(b)) => Some(cosine(a.values(), b.values(), row)?),
                _ => None,
            });
        }
        let cosines: ArrayRef = Arc::new(Float64Array::from(cosines));
        Ok(if all_constant {
            ColumnarValue::Scalar(datafusion::common::ScalarValue::try_from_array(&cosines, 0)?)
        } else {
            ColumnarValue::Array(cosines)
        })
    }
}

/// Lists of numbers.
struct Vectors(ArrayRef);

impl Vectors {
    fn of(arg: &ColumnarValue, rows: usize) -> Result<Self> {
        Ok(Self(arg.to_array(rows)?))
    }

    /// The row's numbers as f64, whichever type they have.
    fn get(&self, row: usize) -> Result<Option<datafusion::arrow::array::Float64Array>> {
        if self.0.is_null(row) || self.0.data_type().is_null() {
            return Ok(None);
        }
        let numbers = match self.0.data_type() {
            DataType::FixedSizeList(..) => self.0.as_fixed_size_list().value(row),
            DataType::LargeList(_) => self.0.as_list::<i64>().value(row),
            _ => self.0.as_list::<i32>().value(row),
        };
        if numbers.null_count() > 0 {
            return exec_err!("{NAME}: row {} has null among a vector's numbers", row + 1);
        }
        Ok(Some(cast(&numbers, &DataType::Float64)?.as_primitive::<Float64Type>().clone()))
    }
}

fn cosine(a: &[f64], b: &[f64], row: usize) -> Result<f64> {
    if a.len() != b.len() {
        return exec_err!(
            "{NAME}: the vectors of row {} have {} and {} numbers; are they of one model?",
            row + 1,
            a.len(),
            b.len()
        );
    }
    let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
    Ok(dot(a, b) / (dot(a, a) * dot(b, b)).sqrt())
}
