//! What MLX takes on trust: it counts elements in machine words that wrap around, and reads indices and groups as they come.

use super::array::Array;
use super::dtype::Dtype;
use super::error::MlxError;
use super::quantized::{QuantMode, QuantizedRef};
use super::shape::{count, count_all, refuse};

type Result<T> = std::result::Result<T, MlxError>;

/// `axis`, counted from the front.
pub(super) fn axis(operation: &'static str, array: &Array, axis: i32) -> Result<usize> {
    let dimensions = array.ndim() as i64;
    let from_front = if axis < 0 { i64::from(axis) + dimensions } else { i64::from(axis) };
    if (0..dimensions).contains(&from_front) {
        return Ok(from_front as usize);
    }
    refuse(operation, format!("there is no axis {axis} in shape {:?}", array.shape()))
}

/// The shape that `a` gets by a reshape to `shape`, where one size may be -1.
pub(super) fn reshaped(a: &Array, shape: &[i32]) -> Result<Vec<i32>> {
    const RESHAPE: &str = "reshape";
    let unfit = || refuse(RESHAPE, format!("an array of shape {:?} can't have shape {shape:?}", a.shape()));
    let mut made = shape.to_vec();
    let mut unknown = made.iter_mut().filter(|size| **size == -1);
    if let Some(size) = unknown.next() {
        if unknown.next().is_some() {
            return refuse(RESHAPE, format!("shape {shape:?} leaves two sizes open"));
        }
        let known = count(RESHAPE, &shape.iter().copied().filter(|&size| size != -1).collect::<Vec<_>>())?;
        if known == 0 || !a.size().is_multiple_of(known) {
            return unfit();
        }
        // No more than `a` has elements.
        *size = (a.size() / known) as i32;
    }
    if count(RESHAPE, &made)? == a.size() { Ok(made) } else { unfit() }
}

/// That `len` elements from `offset` on are the array's.
pub(super) fn flat_range(a: &Array, offset: usize, len: i32) -> Result<()> {
    let end = usize::try_from(len).ok().and_then(|len| offset.checked_add(len));
    if end.is_some_and(|end| end <= a.size()) {
        return Ok(());
    }
    refuse("as_strided", format!("{len} elements at {offset} lie outside an array of {}", a.size()))
}

/// Holds ids, which have been computed, against the axis that they index.
pub(super) fn ids(ids: &Array, size: i32) -> Result<()> {
    let size = i64::from(size);
    // Negative ones count from the end.
    let outside = |id: i64| !(-size..size).contains(&id);
    let wrong = match ids.dtype() {
        Some(Dtype::U8) => ids.as_slice::<u8>()?.iter().map(|&id| i64::from(id)).find(|&id| outside(id)),
        Some(Dtype::U32) => ids.as_slice::<u32>()?.iter().map(|&id| i64::from(id)).find(|&id| outside(id)),
        Some(Dtype::I32) => ids.as_slice::<i32>()?.iter().map(|&id| i64::from(id)).find(|&id| outside(id)),
        other => {
            let other = other.map_or_else(|| "another type".to_owned(), |dtype| dtype.to_string());
            return refuse("take", format!("indices are u8, u32 or i32, not {other}"));
        }
    };
    match wrong {
        None => Ok(()),
        Some(id) => refuse("take", format!("index {id} lies outside an axis of {size}")),
    }
}

/// Whether two shapes broadcast, and how many elements come of it.
fn broadcast(operation: &'static str, a: &[i32], b: &[i32]) -> Result<Vec<i32>> {
    let dimensions = a.len().max(b.len());
    let size = |shape: &[i32], index: usize| {
        (index + shape.len()).checked_sub(dimensions).map_or(1, |index| shape[index])
    };
    (0..dimensions)
        .map(|index| match (size(a, index), size(b, index)) {
            (a, b) if a == b => Ok(a),
            (1, size) | (size, 1) => Ok(size),
            _ => refuse(operation, format!("shapes {a:?} and {b:?} don't broadcast")),
        })
        .collect()
}

/// Matrices that are multiplied, and the shape of their product. MLX may copy either to the shape that it is broadcast
/// to.
pub(super) fn matmul(a: &Array, b: &Array) -> Result<Vec<i32>> {
    const MATMUL: &str = "matmul";
    let (a, b) = (a.shape(), b.shape());
    let (Some((&inner, left)), Some(&last)) = (a.split_last(), b.last()) else {
        return refuse(MATMUL, "a number is no matrix");
    };
    let (batch, rows) = left.split_last().map_or((left, 1), |(&rows, batch)| (batch, rows));
    let (other, columns) = match b {
        [] | [_] => (&b[..0], 1),
        [other @ .., _, columns] => (other, *columns),
    };
    let of_b = if b.len() == 1 { last } else { b[b.len() - 2] };
    if inner != of_b {
        return refuse(MATMUL, format!("shapes {a:?} and {b:?}: {inner} columns meet {of_b} rows"));
    }
    let mut product = broadcast(MATMUL, batch, other)?;
    for pair in [[rows, inner], [inner, columns], [rows, columns]] {
        count_all(MATMUL, product.iter().chain(&pair))?;
    }
    // Of a vector there is neither.
    product.extend((!left.is_empty()).then_some(rows));
    product.extend((b.len() > 1).then_some(columns));
    Ok(product)
}

/// The type of what comes of floats, where numbers of other types count as such.
pub(super) fn float_of(operation: &'static str, arrays: &[&Array]) -> Result<Dtype> {
    let floats = arrays.iter().filter_map(|array| array.dtype()).filter(|dtype| dtype.is_float());
    let common = floats.reduce(|a, b| if a == b { a } else { Dtype::F32 });
    common.map_or_else(|| refuse(operation, "none of the arrays holds floats"), Ok)
}

/// Quantised rows: what their parts have to be to each other. Gives the shape that they are dequantised to.
pub(super) fn quantized(operation: &'static str, w: &QuantizedRef<'_>) -> Result<Vec<i32>> {
    let QuantizedRef { weight, scales, biases, group_size, bits, mode } = *w;
    let known = match mode {
        QuantMode::Affine => [2, 3, 4, 5, 6, 8].contains(&bits) && [32, 64, 128].contains(&group_size),
        QuantMode::Mxfp4 => (bits, group_size) == (4, 32),
        QuantMode::Mxfp8 => (bits, group_size) == (8, 32),
        QuantMode::Nvfp4 => (bits, group_size) == (4, 16),
    };
    if !known {
        return refuse(operation, format!("there is no {mode} with {bits} bits in groups of {group_size}"));
    }
    let [outer @ .., packed] = weight.shape() else {
        return refuse(operation, "a number is no quantised matrix");
    };
    if outer.is_empty() {
        return refuse(operation, format!("a quantised matrix has two dimensions, not {:?}", weight.shape()));
    }
    let packed = *packed;
    if weight.dtype() != Some(Dtype::U32) {
        return refuse(operation, "packed weights are u32");
    }
    let columns = i64::from(packed) * 32 / i64::from(bits);
    let columns = match i32::try_from(columns) {
        Ok(found)
            if i64::from(packed) * 32 % i64::from(bits) == 0 && found % group_size == 0 && found > 0 =>
        {
            found
        }
        _ => {
            let text = format!("{packed} words a row are no groups of {group_size} with {bits} bits");
            return refuse(operation, text);
        }
    };
    let with_rows_of = |size: i32| [outer, &[size]].concat();
    let (shape, groups) = (with_rows_of(columns), with_rows_of(columns / group_size));
    count(operation, &shape)?;
    let affine = mode == QuantMode::Affine;
    let fits = |part: &Array| {
        let typed = if affine {
            part.dtype().is_some_and(Dtype::is_float) && part.dtype() == scales.dtype()
        } else {
            part.dtype() == Some(Dtype::U8)
        };
        typed && part.shape() == groups
    };
    if !fits(scales) || affine != biases.is_some() || !biases.is_none_or(fits) {
        let kind = if affine { "scales and biases of one float type" } else { "scales of u8 and no biases" };
        return refuse(operation, format!("{mode} weights of {shape:?} need {kind}, {groups:?}"));
    }
    Ok(shape)
}

/// The shapes of attention, and that of its result.
pub(super) fn attention(q: &Array, k: &Array, v: &Array) -> Result<[i32; 4]> {
    const ATTENTION: &str = "scaled_dot_product_attention";
    let unfit = |reason: &str| {
        let (q, k, v) = (q.shape(), k.shape(), v.shape());
        refuse(ATTENTION, format!("queries {q:?}, keys {k:?}, values {v:?}: {reason}"))
    };
    let ([batch, heads, queries, head_dim], [kb, kv_heads, keys, ke], [vb, vh, vl, values]) =
        (q.shape(), k.shape(), v.shape())
    else {
        return unfit("each has four dimensions");
    };
    if (batch, head_dim) != (kb, ke) || (kb, kv_heads, keys) != (vb, vh, vl) {
        return unfit("sizes differ");
    }
    if *kv_heads == 0 || heads % kv_heads != 0 {
        return unfit("the heads of queries are no multiple of those of keys");
    }
    if queries > keys {
        return unfit("the first queries see no keys");
    }
    if [q, k, v].iter().any(|array| !array.dtype().is_some_and(Dtype::is_float)) {
        return unfit("all are floats");
    }
    // The scores.
    count(ATTENTION, &[*batch, *heads, *queries, *keys])?;
    Ok([*batch, *heads, *queries, *values])
}

/// That `vector` has as many elements as the last dimension of `x`.
pub(super) fn last_dimension(operation: &'static str, x: &Array, vector: &Array) -> Result<()> {
    match (x.shape().last(), vector.shape()) {
        (Some(size), [own]) if own == size => Ok(()),
        (_, own) => refuse(operation, format!("shape {own:?} is no vector for the last of {:?}", x.shape())),
    }
}

/// That a mask of attention is of the queries' type and broadcasts to their scores.
pub(super) fn mask(q: &Array, k: &Array, mask: &Array) -> Result<()> {
    const ATTENTION: &str = "scaled_dot_product_attention";
    if mask.dtype() != q.dtype() {
        return refuse(ATTENTION, "the mask is of another type than the queries");
    }
    let (&[batch, heads, queries, _], &[_, _, keys, _]) = (q.shape(), k.shape()) else {
        return refuse(ATTENTION, "queries and keys have four dimensions");
    };
    let scores = [batch, heads, queries, keys];
    if broadcast(ATTENTION, &scores, mask.shape())? == scores {
        return Ok(());
    }
    refuse(ATTENTION, format!("a mask of shape {:?} does not broadcast to scores {scores:?}", mask.shape()))
}
