//! Arguments that are texts.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, StringArray};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{DataFusionError, Result, ScalarValue, exec_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, Signature, TypeSignature, Volatility};

/// A column of strings, of whatever type it came as, or one string for all rows.
#[derive(Debug, Clone)]
pub(crate) struct Texts {
    /// Of one row where it is `constant`.
    array: Strings,
    constant: bool,
    rows: usize,
}

#[derive(Debug, Clone)]
enum Strings {
    Small(ArrayRef),
    Large(ArrayRef),
    View(ArrayRef),
}

impl Texts {
    /// Argument `place` of a call.
    pub(crate) fn of(args: &ScalarFunctionArgs, place: usize) -> Result<Self> {
        let (array, constant) = match &args.args[place] {
            ColumnarValue::Array(array) => (Arc::clone(array), false),
            ColumnarValue::Scalar(value) => (value.to_array()?, true),
        };
        let array = match array.data_type() {
            DataType::Utf8 => Strings::Small(array),
            DataType::LargeUtf8 => Strings::Large(array),
            DataType::Utf8View => Strings::View(array),
            // A literal null.
            DataType::Null => Strings::Small(Arc::new(StringArray::new_null(array.len()))),
            other => return exec_err!("a text is wanted, and this is {other}"),
        };
        Ok(Self { array, constant, rows: args.number_rows })
    }

    /// Whether all rows have the same, so that one result serves them all.
    pub(crate) fn is_constant(&self) -> bool {
        self.constant
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn get(&self, row: usize) -> Option<&str> {
        let row = if self.constant { 0 } else { row };
        match &self.array {
            Strings::Small(array) => array.is_valid(row).then(|| array.as_string::<i32>().value(row)),
            Strings::Large(array) => array.is_valid(row).then(|| array.as_string::<i64>().value(row)),
            Strings::View(array) => array.is_valid(row).then(|| array.as_string_view().value(row)),
        }
    }
}

/// A failure of the library, with the call that it is of.
pub(crate) fn failed(function: &str, args: &ScalarFunctionArgs, error: mlx_embed::Error) -> DataFusionError {
    let names: Vec<&str> = args.arg_fields.iter().map(|field| field.name().as_str()).collect();
    DataFusionError::External(Box::new(error)).context(format!("{function}({})", names.join(", ")))
}

/// The one string that an argument is; `None` for null.
pub(crate) fn constant(args: &ScalarFunctionArgs, place: usize) -> Option<Option<String>> {
    match &args.args[place] {
        ColumnarValue::Scalar(ScalarValue::Null) => Some(None),
        ColumnarValue::Scalar(value) => value.try_as_str().map(|text| text.map(str::to_owned)),
        ColumnarValue::Array(_) => None,
    }
}

/// Strings by these names, of which `least` have to be given. Not immutable, or a rule would compute it while it plans,
/// where nothing can wait.
///
/// DataFusion asks no asynchronous function for its own rules of types, so they are these.
pub(crate) fn signature(names: &[&str], least: usize) -> Signature {
    let counts = (least..=names.len()).map(TypeSignature::String).collect();
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    Signature { parameter_names: Some(names), ..Signature::one_of(counts, Volatility::Volatile) }
}
