//! Element types.

use half::{bf16, f16};

/// Element type of an [`Array`](super::Array).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Dtype {
    /// Boolean, one byte.
    Bool,
    /// Unsigned 8-bit integer.
    U8,
    /// Signed 8-bit integer.
    I8,
    /// Unsigned 32-bit integer. MLX packs quantised weights into these.
    U32,
    /// Signed 32-bit integer.
    I32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// IEEE single precision.
    F32,
}

impl Dtype {
    /// Size of an element in bytes.
    pub fn size(self) -> usize {
        match self {
            Self::Bool | Self::U8 | Self::I8 => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
        }
    }

    /// Whether this is `F16`, `Bf16` or `F32`.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::Bf16 | Self::F32)
    }

    pub(super) fn to_raw(self) -> mlx_sys::mlx_dtype {
        match self {
            Self::Bool => mlx_sys::mlx_dtype__MLX_BOOL,
            Self::U8 => mlx_sys::mlx_dtype__MLX_UINT8,
            Self::I8 => mlx_sys::mlx_dtype__MLX_INT8,
            Self::U32 => mlx_sys::mlx_dtype__MLX_UINT32,
            Self::I32 => mlx_sys::mlx_dtype__MLX_INT32,
            Self::F16 => mlx_sys::mlx_dtype__MLX_FLOAT16,
            Self::Bf16 => mlx_sys::mlx_dtype__MLX_BFLOAT16,
            Self::F32 => mlx_sys::mlx_dtype__MLX_FLOAT32,
        }
    }

    pub(super) fn from_raw(raw: mlx_sys::mlx_dtype) -> Option<Self> {
        [Self::Bool, Self::U8, Self::I8, Self::U32, Self::I32, Self::F16, Self::Bf16, Self::F32]
            .into_iter()
            .find(|dtype| dtype.to_raw() == raw)
    }
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Bool => "bool",
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
        })
    }
}

mod sealed {
    pub trait Sealed {}
}

/// Rust types that an [`Array`](super::Array) can be made from and read as.
pub trait Element: sealed::Sealed + Copy + 'static {
    /// The matching MLX type.
    const DTYPE: Dtype;
}

macro_rules! element {
    ($($rust:ty => $dtype:ident),*) => {$(
        impl sealed::Sealed for $rust {}
        impl Element for $rust {
            const DTYPE: Dtype = Dtype::$dtype;
        }
    )*};
}
element!(bool => Bool, u8 => U8, i8 => I8, u32 => U32, i32 => I32, f16 => F16, bf16 => Bf16, f32 => F32);
