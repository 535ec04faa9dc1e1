//! Raw bindings to mlx-c.
#![allow(non_camel_case_types, non_upper_case_globals, missing_docs, unreachable_pub)]

use libc::FILE;

/// The MLX version this crate was built for.
pub const MLX_VERSION: &str = env!("MLX_SYS_MLX_VERSION");
/// The mlx-c version this crate binds.
pub const MLXC_VERSION: &str = env!("MLX_SYS_MLXC_VERSION");

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
