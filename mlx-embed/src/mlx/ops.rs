//! The MLX operations that the decoder is made of. Each adds a node to the lazy graph of `stream`.
//!
//! # Errors
//! Every function fails with MLX's own message when shapes or types don't fit; nothing is computed yet at that point.
#![allow(clippy::missing_errors_doc, reason = "said once, above, for all of them")]

use std::ffi::CStr;

use mlx_sys as sys;

use super::Stream;
use super::array::Array;
use super::dtype::Dtype;
use super::error::{MlxError, check, check_results};
use super::waiting::waiting;

type Result<T> = std::result::Result<T, MlxError>;

const NO_ARRAY: sys::mlx_array = sys::mlx_array { ctx: std::ptr::null_mut() };

fn optional(array: Option<&Array>) -> sys::mlx_array {
    array.map_or(NO_ARRAY, Array::raw)
}

fn some_int(value: i32) -> sys::mlx_optional_int {
    sys::mlx_optional_int { value, has_value: true }
}

/// Functions of the form `f(result, a, stream)` and `f(result, a, b, stream)`.
macro_rules! simple_ops {
    ($($(#[$doc:meta])* $name:ident($($arg:ident),+) = $raw:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name($($arg: &Array,)+ stream: &Stream) -> Result<Array> {
            Array::from_call(stringify!($name), |out| {
                // SAFETY: live handles; mlx-c stores a new array in `out`.
                unsafe { sys::$raw(out, $($arg.raw(),)+ stream.raw()) }
            })
        }
    )*};
}

simple_ops! {
    /// `a + b`, broadcast.
    add(a, b) = mlx_add;
    /// `a * b`, broadcast.
    multiply(a, b) = mlx_multiply;
    /// Matrix product over the last two dimensions, broadcast over the others.
    matmul(a, b) = mlx_matmul;
    /// `1 / (1 + exp(-a))`.
    sigmoid(a) = mlx_sigmoid;
    /// The error function.
    erf(a) = mlx_erf;
    /// The hyperbolic tangent.
    tanh(a) = mlx_tanh;
    /// The larger of each pair, broadcast.
    maximum(a, b) = mlx_maximum;
}

/// Copies `a` into row-major order unless it is so already.
pub fn contiguous(a: &Array, stream: &Stream) -> Result<Array> {
    Array::from_call("contiguous", |out| {
        // SAFETY: live handles; mlx-c stores a new array in `out`.
        unsafe { sys::mlx_contiguous(out, a.raw(), false, stream.raw()) }
    })
}

/// `a` with elements of another type.
pub fn astype(a: &Array, dtype: Dtype, stream: &Stream) -> Result<Array> {
    Array::from_call("astype", |out| {
        // SAFETY: live handles; mlx-c stores a new array in `out`.
        unsafe { sys::mlx_astype(out, a.raw(), dtype.to_raw(), stream.raw()) }
    })
}

/// The same bytes as elements of another type; the last dimension scales with the element's size.
pub fn view(a: &Array, dtype: Dtype, stream: &Stream) -> Result<Array> {
    Array::from_call("view", |out| {
        // SAFETY: live handles; mlx-c stores a new array in `out`.
        unsafe { sys::mlx_view(out, a.raw(), dtype.to_raw(), stream.raw()) }
    })
}

/// `a` in another shape; one dimension may be -1.
pub fn reshape(a: &Array, shape: &[i32], stream: &Stream) -> Result<Array> {
    Array::from_call("reshape", |out| {
        // SAFETY: live handles and a shape of the given length; mlx-c stores a new array in `out`.
        unsafe { sys::mlx_reshape(out, a.raw(), shape.as_ptr(), shape.len(), stream.raw()) }
    })
}

/// Permutes the dimensions.
pub fn transpose(a: &Array, axes: &[i32], stream: &Stream) -> Result<Array> {
    Array::from_call("transpose", |out| {
        // SAFETY: live handles and axes of the given length; mlx-c stores a new array in `out`.
        unsafe { sys::mlx_transpose_axes(out, a.raw(), axes.as_ptr(), axes.len(), stream.raw()) }
    })
}

/// `len` elements of the flattened `a`, from element `offset` on.
pub fn flat_slice(a: &Array, offset: usize, len: i32, stream: &Stream) -> Result<Array> {
    let (shape, strides) = ([len], [1_i64]);
    let end = offset.checked_add(usize::try_from(len).unwrap_or(usize::MAX));
    if end.is_none_or(|end| end > a.size()) {
        return Err(MlxError::new(
            "as_strided",
            format!("{len} elements at {offset} lie outside an array of {}", a.size()),
        ));
    }
    Array::from_call("as_strided", |out| {
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
                stream.raw(),
            )
        }
    })
}

/// `a[start..stop]` along `axis`.
pub fn slice_axis(a: &Array, axis: usize, start: i32, stop: i32, stream: &Stream) -> Result<Array> {
    let mut starts = vec![0; a.ndim()];
    let mut stops = a.shape().to_vec();
    let steps = vec![1; a.ndim()];
    let (Some(first), Some(last)) = (starts.get_mut(axis), stops.get_mut(axis)) else {
        return Err(MlxError::new("slice", format!("no axis {axis} in {a:?}")));
    };
    (*first, *last) = (start, stop);
    Array::from_call("slice", |out| {
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
                stream.raw(),
            )
        }
    })
}

/// `a[indices]` along `axis`.
pub fn take(a: &Array, indices: &Array, axis: i32, stream: &Stream) -> Result<Array> {
    Array::from_call("take", |out| {
        // SAFETY: live handles; mlx-c stores a new array in `out`.
        unsafe { sys::mlx_take_axis(out, a.raw(), indices.raw(), axis, stream.raw()) }
    })
}

/// `a` repeated, without a copy, to fill `shape`: along dimensions where it has size 1.
pub fn broadcast_to(a: &Array, shape: &[i32], stream: &Stream) -> Result<Array> {
    Array::from_call("broadcast_to", |out| {
        // SAFETY: live handles and a shape of the given length; mlx-c stores a new array in `out`.
        unsafe { sys::mlx_broadcast_to(out, a.raw(), shape.as_ptr(), shape.len(), stream.raw()) }
    })
}

/// Joins arrays along `axis`.
pub fn concatenate(arrays: &[Array], axis: i32, stream: &Stream) -> Result<Array> {
    let vector = ArrayVec::new(arrays)?;
    Array::from_call("concatenate", |out| {
        // SAFETY: live handles; mlx-c stores a new array in `out`.
        unsafe { sys::mlx_concatenate_axis(out, vector.0, axis, stream.raw()) }
    })
}

/// Runs the graph up to all of `arrays` and waits for them.
pub fn eval<'a>(arrays: impl IntoIterator<Item = &'a Array>) -> Result<()> {
    let vector = ArrayVec::new(arrays)?;
    // SAFETY: a live vector of live arrays.
    check_results("eval", waiting(|| unsafe { sys::mlx_eval(vector.0) }))
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

    pub(super) fn get(&self, index: usize) -> Result<Array> {
        Array::from_call("vector_array_get", |out| {
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

/// How groups of quantised weights are scaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum QuantMode {
    /// `scale * q + bias` for each group.
    Affine,
    /// OCP microscaling, 4-bit floats, groups of 32.
    Mxfp4,
    /// OCP microscaling, 8-bit floats, groups of 32.
    Mxfp8,
    /// NVIDIA's 4-bit floats, groups of 16.
    Nvfp4,
}

impl QuantMode {
    fn name(self) -> &'static CStr {
        match self {
            Self::Affine => c"affine",
            Self::Mxfp4 => c"mxfp4",
            Self::Mxfp8 => c"mxfp8",
            Self::Nvfp4 => c"nvfp4",
        }
    }
}

impl std::fmt::Display for QuantMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name().to_string_lossy())
    }
}

/// A quantised matrix as MLX stores it.
#[derive(Debug, Clone, Copy)]
pub struct QuantizedRef<'a> {
    /// Packed values, u32 `[rows, columns * bits / 32]`.
    pub weight: &'a Array,
    /// `[rows, columns / group_size]`.
    pub scales: &'a Array,
    /// As `scales`; for [`QuantMode::Affine`] only.
    pub biases: Option<&'a Array>,
    /// Consecutive columns that share a scale.
    pub group_size: i32,
    /// Bits a value takes.
    pub bits: i32,
    /// How a group is scaled.
    pub mode: QuantMode,
}

/// `x @ dequantize(w).T`, without expanding `w`.
///
/// # Shape
/// `x` `[.., in]`, `w` `[out, in]`, result `[.., out]`.
pub fn quantized_matmul(x: &Array, w: QuantizedRef<'_>, stream: &Stream) -> Result<Array> {
    Array::from_call("quantized_matmul", |out| {
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
                stream.raw(),
            )
        }
    })
}

/// Expands a quantised matrix to `dtype`.
pub fn dequantize(w: QuantizedRef<'_>, dtype: Dtype, stream: &Stream) -> Result<Array> {
    let dtype = sys::mlx_optional_dtype { value: dtype.to_raw(), has_value: true };
    Array::from_call("dequantize", |out| {
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
                stream.raw(),
            )
        }
    })
}

/// `x / sqrt(mean(x^2) + eps) * weight` over the last dimension (Zhang and Sennrich, 2019).
pub fn rms_norm(x: &Array, weight: &Array, eps: f32, stream: &Stream) -> Result<Array> {
    Array::from_call("rms_norm", |out| {
        // SAFETY: live handles; mlx-c stores a new array in `out`.
        unsafe { sys::mlx_fast_rms_norm(out, x.raw(), weight.raw(), eps, stream.raw()) }
    })
}

/// `(x - mean(x)) / sqrt(var(x) + eps) * weight + bias` over the last dimension (Ba et al., 2016).
pub fn layer_norm(
    x: &Array,
    weight: &Array,
    bias: Option<&Array>,
    eps: f32,
    stream: &Stream,
) -> Result<Array> {
    Array::from_call("layer_norm", |out| {
        // SAFETY: live handles (the bias may be empty); mlx-c stores a new array in `out`.
        unsafe { sys::mlx_fast_layer_norm(out, x.raw(), weight.raw(), optional(bias), eps, stream.raw()) }
    })
}

/// Where RoPE takes its angular frequencies from.
#[derive(Debug, Clone, Copy)]
pub enum RopeFrequencies<'a> {
    /// `base^(-2i / dims)`.
    Base(f32),
    /// Reciprocals of the frequencies, f32 `[dims / 2]`.
    Periods(&'a Array),
}

/// Settings of [`rope`].
#[derive(Debug, Clone, Copy)]
pub struct RopeSettings<'a> {
    /// How many of the last dimension's elements rotate.
    pub dims: i32,
    /// Whether neighbours are paired, as in the paper, rather than halves.
    pub traditional: bool,
    /// Angular frequencies.
    pub frequencies: RopeFrequencies<'a>,
    /// Factor on positions.
    pub scale: f32,
    /// First position.
    pub offset: i32,
}

/// Rotary position embedding (Su et al., 2021).
///
/// # Shape
/// `x` `[B, H, L, E]`; positions are `offset + 0..L`, each multiplied by `scale`.
pub fn rope(x: &Array, settings: RopeSettings<'_>, stream: &Stream) -> Result<Array> {
    let RopeSettings { dims, traditional, frequencies, scale, offset } = settings;
    let (base, periods) = match frequencies {
        RopeFrequencies::Base(value) => (Some(value), None),
        RopeFrequencies::Periods(periods) => (None, Some(periods)),
    };
    let base = sys::mlx_optional_float { value: base.unwrap_or_default(), has_value: base.is_some() };
    Array::from_call("rope", |out| {
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
                stream.raw(),
            )
        }
    })
}

/// Causal attention, `softmax(scale * q @ k.T + mask) @ v`, with grouped keys and values.
///
/// The mask is aligned to the end: query `i` of `Lq` sees keys `0..=i + Lk - Lq`.
///
/// # Shape
/// `q` `[B, H, Lq, E]`, `k` and `v` `[B, K, Lk, E]` with `K` a divisor of `H`; result `[B, H, Lq, E]`.
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
    mode: &CStr,
    mask: Option<&Array>,
    stream: &Stream,
) -> Result<Array> {
    Array::from_call("scaled_dot_product_attention", |out| {
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
                stream.raw(),
            )
        }
    })
}
