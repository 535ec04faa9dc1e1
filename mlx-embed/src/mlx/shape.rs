//! How many elements a shape has, as MLX counts them.

use super::dtype::Dtype;
use super::error::MlxError;

type Result<T> = std::result::Result<T, MlxError>;

/// Most elements of an array. MLX counts them in an i32 in places.
const MOST_ELEMENTS: usize = i32::MAX as usize;

/// Most dimensions of an array.
const MOST_DIMENSIONS: usize = 32;

#[cold]
pub(super) fn refuse<T>(operation: &'static str, message: impl Into<String>) -> Result<T> {
    Err(MlxError::new(operation, message))
}

/// How many elements an array of this shape has. An empty one's other dimensions are held to the same bound, as MLX
/// multiplies them, too.
pub(super) fn count(operation: &'static str, shape: &[i32]) -> Result<usize> {
    let sizes = shape.iter().map(|&dim| usize::try_from(dim).ok());
    let bounded = |product: usize, size: Option<usize>| {
        product.checked_mul(size?.max(1)).filter(|&product| product <= MOST_ELEMENTS)
    };
    match sizes.clone().try_fold(1, bounded) {
        Some(_) if shape.len() > MOST_DIMENSIONS => {
            refuse(operation, format!("{} dimensions are more than {MOST_DIMENSIONS}", shape.len()))
        }
        Some(product) => Ok(if shape.contains(&0) { 0 } else { product }),
        None if shape.iter().any(|&dim| dim < 0) => {
            refuse(operation, format!("shape {shape:?} has a negative size"))
        }
        None => refuse(operation, format!("shape {shape:?} has more than {MOST_ELEMENTS} elements")),
    }
}

/// Holds `nbytes` against what an array of this shape and type takes.
pub(super) fn expect_filled(
    operation: &'static str,
    nbytes: usize,
    shape: &[i32],
    dtype: Dtype,
) -> Result<()> {
    // Counted together, sizes of an empty array could be too much for MLX's strides.
    if count(operation, shape)? * dtype.size() == nbytes {
        return Ok(());
    }
    refuse(operation, format!("{nbytes} bytes do not fill shape {shape:?} of {dtype}"))
}

/// [`count`] where sizes come from several arrays.
pub(super) fn count_all<'a>(
    operation: &'static str,
    sizes: impl IntoIterator<Item = &'a i32>,
) -> Result<usize> {
    count(operation, &sizes.into_iter().copied().filter(|&size| size != 1).collect::<Vec<_>>())
}
