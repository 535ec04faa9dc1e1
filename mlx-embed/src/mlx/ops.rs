//! MLX's operations, as far as a decoder needs them. Each adds a node to the lazy graph of `stream`.
//!
//! Whatever the arguments, each function does what it says or fails: what MLX doesn't check is checked here. An array
//! has at most 2^31 - 1 elements and 32 dimensions. For this limit a size of 0 counts as 1.
//!
//! # Errors
//! Every function fails if shapes or types don't fit; some errors have MLX's own message. Nothing has been computed at
//! that point, with three exceptions: [`eval`] computes, [`take`] reads its indices, and [`view`] finds out where the
//! elements lie if they are to become wider.
#![allow(clippy::missing_errors_doc, reason = "said once, above, for all of them")]

use mlx_sys as sys;

use super::array::Array;
use super::dtype::Dtype;
use super::error::{MlxError, check};
pub use super::quantized::{QuantMode, QuantizedRef};
use super::stream::{Stream, Streams};
use super::{checks, shape};

type Result<T> = std::result::Result<T, MlxError>;

const NO_ARRAY: sys::mlx_array = sys::mlx_array { ctx: std::ptr::null_mut() };

fn optional(array: Option<&Array>) -> sys::mlx_array {
    array.map_or(NO_ARRAY, Array::raw)
}

/// A node of `stream`'s graph, made by a call that stores it through its first argument and takes MLX's stream as its
/// second.
fn node<'a>(
    operation: &'static str,
    inputs: impl IntoIterator<Item = &'a Array>,
    stream: &Stream,
    call: impl FnOnce(*mut sys::mlx_array, sys::mlx_stream) -> std::ffi::c_int,
) -> Result<Array> {
    let raw = stream.raw()?;
    let mut permuted = false;
    let inputs = inputs.into_iter().inspect(|input| permuted |= input.is_permuted());
    let streams = held(inputs, stream);
    Ok(Array::from_call(operation, streams, |out| call(out, raw))?.permuted(permuted))
}

/// The streams that it takes to compute something on `stream` from `inputs`.
pub(super) fn held<'a>(inputs: impl IntoIterator<Item = &'a Array>, stream: &Stream) -> Streams {
    inputs.into_iter().fold(stream.held().clone(), |held, input| held.and(input.streams()))
}

fn some_int(value: i32) -> sys::mlx_optional_int {
    sys::mlx_optional_int { value, has_value: true }
}

/// Functions of the form `f(result, a, stream)` and `f(result, a, b, stream)`.
macro_rules! simple_ops {
    ($($(#[$doc:meta])* $name:ident($($arg:ident),+) = $raw:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name($($arg: &Array,)+ stream: &Stream) -> Result<Array> {
            node(stringify!($name), [$($arg),+], stream, |out, stream| {
                // SAFETY: live handles; mlx-c stores a new array in `out`.
                unsafe { sys::$raw(out, $($arg.raw(),)+ stream) }
            })
        }
    )*};
}

simple_ops! {
    /// `a + b`, broadcast.
    add(a, b) = mlx_add;
    /// `a * b`, broadcast.
    multiply(a, b) = mlx_multiply;
    /// `a / b`, broadcast.
    divide(a, b) = mlx_divide;
    /// `1 / (1 + exp(-a))`.
    sigmoid(a) = mlx_sigmoid;
    /// The error function, `2 / sqrt(pi) * integral of exp(-t^2) from 0 to a`.
    erf(a) = mlx_erf;
    /// The hyperbolic tangent.
    tanh(a) = mlx_tanh;
    /// The larger of each two elements, broadcast.
    maximum(a, b) = mlx_maximum;
}

/// Matrix product over the last two dimensions, broadcast over the others.
///
/// # Shape
/// `a` `[.., M, K]`, `b` `[.., K, N]`, result `[.., M, N]`.
pub fn matmul(a: &Array, b: &Array, stream: &Stream) -> Result<Array> {
    let product = checks::matmul(a, b)?;
    if product.contains(&0) {
        return nothing("matmul", &[a, b], &product);
    }
    node("matmul", [a, b], stream, |out, stream| {
        // SAFETY: live handles; mlx-c stores a new array in `out`.
        unsafe { sys::mlx_matmul(out, a.raw(), b.raw(), stream) }
    })
}

/// What comes of products without elements.
///
/// MLX's own (0.32.2) on the CPU copies operands that don't lie as it wants them, and lets go of the copies at once:
/// their memory has a new owner while they are still written. With a quantised matrix it divides by the number of rows.
fn nothing(operation: &'static str, operands: &[&Array], shape: &[i32]) -> Result<Array> {
    Array::from_bytes(&[], shape, checks::float_of(operation, operands)?)
}

/// Copies `a` into row-major order unless it is so already.
pub fn contiguous(a: &Array, stream: &Stream) -> Result<Array> {
    let in_rows = node("contiguous", [a], stream, |out, stream| {
        // SAFETY: live handles; mlx-c stores a new array in `out`.
        unsafe { sys::mlx_contiguous(out, a.raw(), false, stream) }
    })?;
    Ok(in_rows.permuted(false))
}

/// `a` with its elements converted to another type.
pub fn astype(a: &Array, dtype: Dtype, stream: &Stream) -> Result<Array> {
    node("astype", [a], stream, |out, stream| {
        // SAFETY: live handles; mlx-c stores a new array in `out`.
        unsafe { sys::mlx_astype(out, a.raw(), dtype.to_raw(), stream) }
    })
}

/// The same bytes as elements of another type; the size of the last dimension changes with the element's. Nothing is
/// copied if the bytes are aligned for it.
///
/// Bytes can't become bools. If elements become wider, the array is computed at once.
pub fn view(a: &Array, dtype: Dtype, stream: &Stream) -> Result<Array> {
    const VIEW: &str = "view";
    let Some(from) = a.dtype() else {
        return shape::refuse(VIEW, "the elements are of a type that this crate has no use for");
    };
    if dtype == Dtype::Bool && from != dtype {
        return shape::refuse(VIEW, "bytes can't become bools");
    }
    let (before, after) = (from.size(), dtype.size());
    let mut shape = a.shape().to_vec();
    match shape.last_mut() {
        None if before != after => return shape::refuse(VIEW, "a number has no dimension that could scale"),
        None => {}
        Some(last) => {
            let bytes = i64::from(*last) * before as i64;
            *last = match i32::try_from(bytes / after as i64) {
                Ok(size) if bytes % after as i64 == 0 => size,
                _ => return shape::refuse(VIEW, format!("rows of {bytes} bytes can't be seen as {dtype}")),
            };
            shape::count(VIEW, &shape)?;
        }
    }
    if after == before || a.size() == 0 {
        return view_in_place(a, dtype, stream);
    }
    // In one dimension, as MLX (0.32.2) scales the strides of all dimensions but the last, and takes rows for columns
    // still where there were both: elements would be read and written behind the array's end.
    let mut flat = reshape(a, &[-1], stream)?;
    if flat.size() == 1 {
        // A lone element may have any stride, such as the 0 of a broadcast, and what it becomes would have it, too.
        flat = slice_of_rows(&flat, 0, 1, stream)?;
    }
    if after > before {
        flat = contiguous(&flat, stream)?;
        flat.eval()?;
        let data = flat.data_ptr()?;
        if !data.addr().is_multiple_of(after) {
            // SAFETY: evaluated and in row order, so `nbytes` bytes lie there for as long as `flat`.
            let bytes = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), flat.nbytes()) };
            return Array::from_bytes(bytes, &shape, dtype);
        }
    }
    reshape(&view_in_place(&flat, dtype, stream)?, &shape, stream)
}

fn view_in_place(a: &Array, dtype: Dtype, stream: &Stream) -> Result<Array> {
    node("view", [a], stream, |out, stream| {
        // SAFETY: live handles; mlx-c stores a new array in `out`.
        unsafe { sys::mlx_view(out, a.raw(), dtype.to_raw(), stream) }
    })
}

/// `a` in another shape with as many elements; one dimension may be -1, which stands for what is left.
pub fn reshape(a: &Array, shape: &[i32], stream: &Stream) -> Result<Array> {
    let shape = checks::reshaped(a, shape)?;
    // MLX (0.32.2) goes on taking what lies in columns for such in its new shape, where it doesn't copy.
    let in_rows = if a.is_permuted() { Some(contiguous(a, stream)?) } else { None };
    let a = in_rows.as_ref().unwrap_or(a);
    node("reshape", [a], stream, |out, stream| {
        // SAFETY: live handles and a shape of the given length; mlx-c stores a new array in `out`.
        unsafe { sys::mlx_reshape(out, a.raw(), shape.as_ptr(), shape.len(), stream) }
    })
}

/// Permutes the dimensions: dimension `i` of the result is dimension `axes[i]` of `a`.
pub fn transpose(a: &Array, axes: &[i32], stream: &Stream) -> Result<Array> {
    let transposed = node("transpose", [a], stream, |out, stream| {
        // SAFETY: live handles and axes of the given length; mlx-c stores a new array in `out`.
        unsafe { sys::mlx_transpose_axes(out, a.raw(), axes.as_ptr(), axes.len(), stream) }
    })?;
    Ok(transposed.permuted(true))
}

/// `len` elements of the flattened `a`, from element `offset` on.
pub fn flat_slice(a: &Array, offset: usize, len: i32, stream: &Stream) -> Result<Array> {
    checks::flat_range(a, offset, len)?;
    // MLX (0.32.2) puts an array of several dimensions into row order by itself, but takes one of a single dimension as it is.
    slice_of_rows(&contiguous(a, stream)?, offset, len, stream)
}

/// [`flat_slice`] of an array that lies in row order. Nothing is copied.
pub(super) fn slice_of_rows(a: &Array, offset: usize, len: i32, stream: &Stream) -> Result<Array> {
    checks::flat_range(a, offset, len)?;
    let (shape, strides) = ([len], [1_i64]);
    node("as_strided", [a], stream, |out, stream| {
        // SAFETY: live handles; the range was checked against the array just above.
        unsafe {
            sys::mlx_as_strided(
                out,
                a.raw(),
                shape.as_ptr(),
                shape.len(),
                strides.as_ptr(),
                strides.len(),
                offset,
                stream,
            )
        }
    })
}

/// `a[start..stop]` along `axis`. As in Python, negative numbers count from the end, and what is outside is left out.
pub fn slice_axis(a: &Array, axis: usize, start: i32, stop: i32, stream: &Stream) -> Result<Array> {
    let mut starts = vec![0; a.ndim()];
    let mut stops = a.shape().to_vec();
    let steps = vec![1; a.ndim()];
    let (Some(first), Some(last)) = (starts.get_mut(axis), stops.get_mut(axis)) else {
        return Err(MlxError::new("slice", format!("no axis {axis} in {a:?}")));
    };
    let size = *last;
    let inside = |at: i32| if at < 0 { at.saturating_add(size).max(0) } else { at.min(size) };
    *first = inside(start);
    *last = inside(stop).max(*first);
    node("slice", [a], stream, |out, stream| {
        // SAFETY: live handles; the three lists have one entry for each dimension.
        unsafe {
            sys::mlx_slice(
                out,
                a.raw(),
                starts.as_ptr(),
                starts.len(),
                stops.as_ptr(),
                stops.len(),
                steps.as_ptr(),
                steps.len(),
                stream,
            )
        }
    })
}

/// `a[indices]` along `axis`. Negative indices count from the end.
///
/// MLX doesn't check indices when it computes, so they are computed and checked here.
pub fn take(a: &Array, indices: &Array, axis: i32, stream: &Stream) -> Result<Array> {
    let from_front = checks::axis("take", a, axis)?;
    indices.eval()?;
    let in_row_order = if indices.is_row_contiguous()? { None } else { Some(contiguous(indices, stream)?) };
    let indices = in_row_order.as_ref().unwrap_or(indices);
    checks::ids(indices, a.shape()[from_front])?;
    node("take", [a, indices], stream, |out, stream| {
        // SAFETY: live handles; mlx-c stores a new array in `out`.
        unsafe { sys::mlx_take_axis(out, a.raw(), indices.raw(), axis, stream) }
    })
}

/// `a` repeated without a copy to fill `shape`, along dimensions where it has size 1.
pub fn broadcast_to(a: &Array, shape: &[i32], stream: &Stream) -> Result<Array> {
    node("broadcast_to", [a], stream, |out, stream| {
        // SAFETY: live handles and a shape of the given length; mlx-c stores a new array in `out`.
        unsafe { sys::mlx_broadcast_to(out, a.raw(), shape.as_ptr(), shape.len(), stream) }
    })
}

/// Joins arrays along `axis`.
pub fn concatenate(arrays: &[Array], axis: i32, stream: &Stream) -> Result<Array> {
    const CONCATENATE: &str = "concatenate";
    let Some(first) = arrays.first() else {
        return shape::refuse(CONCATENATE, "there are no arrays");
    };
    let along = checks::axis(CONCATENATE, first, axis)?;
    // An array of fewer dimensions is MLX's to refuse.
    let total: i64 =
        arrays.iter().filter_map(|array| array.shape().get(along)).map(|&size| i64::from(size)).sum();
    let Ok(total) = i32::try_from(total) else {
        return shape::refuse(CONCATENATE, format!("a size of {total} is more than an array may have"));
    };
    let mut shape = first.shape().to_vec();
    shape[along] = total;
    shape::count(CONCATENATE, &shape)?;
    let vector = ArrayVec::new(arrays)?;
    node("concatenate", arrays, stream, |out, stream| {
        // SAFETY: live handles; mlx-c stores a new array in `out`.
        unsafe { sys::mlx_concatenate_axis(out, vector.0, axis, stream) }
    })
}

/// Computes the graph up to all of `arrays`, and waits for them.
pub fn eval<'a>(arrays: impl IntoIterator<Item = &'a Array>) -> Result<()> {
    let arrays: Vec<&Array> = arrays.into_iter().collect();
    let vector = ArrayVec::new(arrays.iter().copied())?;
    let streams = arrays.iter().fold(Streams::default(), |all, array| all.and(array.streams()));
    // SAFETY: a live vector of live arrays.
    streams.compute(|| unsafe { sys::mlx_eval(vector.0) })
}

/// mlx-c's list of arrays; it shares them.
pub(super) struct ArrayVec(sys::mlx_vector_array);

impl ArrayVec {
    pub(super) fn new<'a>(arrays: impl IntoIterator<Item = &'a Array>) -> Result<Self> {
        // SAFETY: an empty vector, owned by this value; appending shares a live array.
        unsafe {
            let vector = Self(sys::mlx_vector_array_new());
            for array in arrays {
                check("vector_array_append", sys::mlx_vector_array_append_value(vector.0, array.raw()))?;
            }
            Ok(vector)
        }
    }

    pub(super) fn raw(&self) -> sys::mlx_vector_array {
        self.0
    }

    /// The array at `index`, which is to be computed on `streams`.
    pub(super) fn get(&self, index: usize, streams: &Streams) -> Result<Array> {
        Array::from_call("vector_array_get", streams.clone(), |out| {
            // SAFETY: a live vector; an index behind its end is an error of mlx-c's.
            unsafe { sys::mlx_vector_array_get(out, self.0, index) }
        })
    }
}

impl Drop for ArrayVec {
    fn drop(&mut self) {
        // SAFETY: owned by this value and freed once.
        unsafe { sys::mlx_vector_array_free(self.0) };
    }
}

/// `x @ dequantize(w).T`, without dequantising `w`.
///
/// # Shape
/// `x` `[.., in]`, `w` `[out, in]`, result `[.., out]`.
pub fn quantized_matmul(x: &Array, w: QuantizedRef<'_>, stream: &Stream) -> Result<Array> {
    const QUANTIZED_MATMUL: &str = "quantized_matmul";
    let [rows, columns] = *checks::quantized(QUANTIZED_MATMUL, &w)? else {
        return shape::refuse(QUANTIZED_MATMUL, format!("{:?} is more than one matrix", w.weight));
    };
    let product = match x.shape() {
        [outer @ .., inner] if *inner == columns && x.dtype().is_some_and(Dtype::is_float) => {
            [outer, &[rows]].concat()
        }
        _ => {
            let text = format!("{x:?} does not go with a matrix of {rows} x {columns}");
            return shape::refuse(QUANTIZED_MATMUL, text);
        }
    };
    shape::count(QUANTIZED_MATMUL, &product)?;
    if product.contains(&0) {
        return nothing(QUANTIZED_MATMUL, &[x, w.scales], &product);
    }
    node(QUANTIZED_MATMUL, [x, w.weight, w.scales].into_iter().chain(w.biases), stream, |out, stream| {
        // SAFETY: live handles (biases may be empty); mlx-c stores a new array in `out`.
        unsafe {
            sys::mlx_quantized_matmul(
                out,
                x.raw(),
                w.weight.raw(),
                w.scales.raw(),
                optional(w.biases),
                true,
                some_int(w.group_size),
                some_int(w.bits),
                w.mode.name().as_ptr(),
                stream,
            )
        }
    })
}

/// Dequantises a quantised matrix to `dtype`.
///
/// # Shape
/// `w` `[rows, columns]` by its packed values (see [`QuantizedRef`]), result the same.
pub fn dequantize(w: QuantizedRef<'_>, dtype: Dtype, stream: &Stream) -> Result<Array> {
    const DEQUANTIZE: &str = "dequantize";
    let dense = checks::quantized(DEQUANTIZE, &w)?;
    if !dtype.is_float() {
        return shape::refuse(DEQUANTIZE, format!("weights can't be {dtype}"));
    }
    if dense.contains(&0) {
        return Array::from_bytes(&[], &dense, dtype);
    }
    let dtype = sys::mlx_optional_dtype { value: dtype.to_raw(), has_value: true };
    node(DEQUANTIZE, [w.weight, w.scales].into_iter().chain(w.biases), stream, |out, stream| {
        // SAFETY: live handles (biases and the global scale may be empty); mlx-c stores a new array in `out`.
        unsafe {
            sys::mlx_dequantize(
                out,
                w.weight.raw(),
                w.scales.raw(),
                optional(w.biases),
                some_int(w.group_size),
                some_int(w.bits),
                w.mode.name().as_ptr(),
                NO_ARRAY,
                dtype,
                stream,
            )
        }
    })
}

/// `x / sqrt(mean(x^2) + eps) * weight` over the last dimension (Zhang and Sennrich, 2019). `weight` is `[D]`.
pub fn rms_norm(x: &Array, weight: Option<&Array>, eps: f32, stream: &Stream) -> Result<Array> {
    node("rms_norm", [Some(x), weight].into_iter().flatten(), stream, |out, stream| {
        // SAFETY: live handles (the weight may be empty); mlx-c stores a new array in `out`.
        unsafe { sys::mlx_fast_rms_norm(out, x.raw(), optional(weight), eps, stream) }
    })
}

/// `(x - mean(x)) / sqrt(var(x) + eps) * weight + bias` over the last dimension (Ba et al., 2016). `weight` and `bias`
/// are `[D]`.
pub fn layer_norm(
    x: &Array,
    weight: &Array,
    bias: Option<&Array>,
    eps: f32,
    stream: &Stream,
) -> Result<Array> {
    checks::last_dimension("layer_norm", x, weight)?;
    if let Some(bias) = bias {
        checks::last_dimension("layer_norm", x, bias)?;
    }
    node("layer_norm", [x, weight].into_iter().chain(bias), stream, |out, stream| {
        // SAFETY: live handles (the bias may be empty); mlx-c stores a new array in `out`.
        unsafe { sys::mlx_fast_layer_norm(out, x.raw(), weight.raw(), optional(bias), eps, stream) }
    })
}

/// The angular frequencies of [`rope`].
#[derive(Debug, Clone, Copy)]
pub enum RopeFrequencies<'a> {
    /// `base^(-2i / dims)` for pair `i`.
    Base(f32),
    /// Reciprocals of the frequencies, f32 `[dims / 2]`.
    Periods(&'a Array),
}

/// Settings of [`rope`].
#[derive(Debug, Clone, Copy)]
pub struct RopeSettings<'a> {
    /// Number of the last dimension's elements that are rotated, from the first on.
    pub dims: i32,
    /// Whether element `2i` is paired with `2i + 1`, as in the paper, or element `i` with `i + dims / 2`.
    pub traditional: bool,
    /// Angular frequencies.
    pub frequencies: RopeFrequencies<'a>,
    /// Factor of all positions.
    pub scale: f32,
    /// Position of the first token.
    pub offset: i32,
}

/// Rotary position embedding (Su et al., 2021). Token `t` is rotated by `scale * (offset + t)` times the frequencies.
///
/// # Shape
/// `x` `[B, H, L, E]`, result the same.
pub fn rope(x: &Array, settings: RopeSettings<'_>, stream: &Stream) -> Result<Array> {
    let RopeSettings { dims, traditional, frequencies, scale, offset } = settings;
    let [_, _, tokens, width] = *x.shape() else {
        return shape::refuse("rope", format!("{x:?} does not have four dimensions"));
    };
    if !(2..=width).contains(&dims) || dims % 2 != 0 {
        return shape::refuse("rope", format!("{dims} elements of {width} can't rotate in pairs"));
    }
    if offset.checked_add(tokens).is_none() {
        return shape::refuse("rope", format!("{tokens} positions from {offset} on are too many"));
    }
    let (base, periods) = match frequencies {
        RopeFrequencies::Base(value) => (Some(value), None),
        RopeFrequencies::Periods(periods) => (None, Some(periods)),
    };
    let base = sys::mlx_optional_float { value: base.unwrap_or_default(), has_value: base.is_some() };
    node("rope", [x].into_iter().chain(periods), stream, |out, stream| {
        // SAFETY: live handles (the periods may be empty); mlx-c stores a new array in `out`.
        unsafe {
            sys::mlx_fast_rope(
                out,
                x.raw(),
                dims,
                traditional,
                base,
                scale,
                offset,
                optional(periods),
                stream,
            )
        }
    })
}

/// Causal attention, `softmax(scale * q @ k.T + mask) @ v`, with grouped keys and values.
///
/// The mask is aligned to the end: query `i` of `Lq` sees keys `0..=i + Lk - Lq`.
///
/// # Shape
/// `q` `[B, H, Lq, E]`, `k` and `v` `[B, K, Lk, E]` with `K` a divisor of `H` and `Lq` at most `Lk`; result
/// `[B, H, Lq, E]`.
pub fn causal_attention(q: &Array, k: &Array, v: &Array, scale: f32, stream: &Stream) -> Result<Array> {
    attention(q, k, v, scale, c"causal", None, stream)
}

/// Attention, `softmax(scale * q @ k.T + mask) @ v`, with grouped keys and values; without a mask every query sees
/// every key.
///
/// # Shape
/// As [`causal_attention`]; `mask` is of the type of `q` and broadcast to `[B, H, Lq, Lk]`.
pub fn masked_attention(
    q: &Array,
    k: &Array,
    v: &Array,
    scale: f32,
    mask: Option<&Array>,
    stream: &Stream,
) -> Result<Array> {
    attention(q, k, v, scale, if mask.is_some() { c"array" } else { c"" }, mask, stream)
}

fn attention(
    q: &Array,
    k: &Array,
    v: &Array,
    scale: f32,
    mode: &std::ffi::CStr,
    mask: Option<&Array>,
    stream: &Stream,
) -> Result<Array> {
    const ATTENTION: &str = "scaled_dot_product_attention";
    let shape = checks::attention(q, k, v)?;
    if let Some(mask) = mask {
        checks::mask(q, k, mask)?;
    }
    if shape.contains(&0) {
        return nothing(ATTENTION, &[q, k, v], &shape);
    }
    node(ATTENTION, [q, k, v].into_iter().chain(mask), stream, |out, stream| {
        // SAFETY: live handles (mask and sinks may be empty); mlx-c stores a new array in `out`.
        unsafe {
            sys::mlx_fast_scaled_dot_product_attention(
                out,
                q.raw(),
                k.raw(),
                v.raw(),
                scale,
                mode.as_ptr(),
                optional(mask),
                NO_ARRAY,
                false,
                stream,
            )
        }
    })
}
