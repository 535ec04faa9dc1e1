//! Raw bindings to [mlx-c], the C interface of the MLX array framework, and a few functions that it lacks.
//!
//! Everything in mlx-c is here under its C name, unsafe and unchecked; `mlx-embed` builds its safe layer on it. Two
//! things to know before calling anything: the default error handler ends the process
//! ([`mlx_set_error_handler`] replaces it), and a panic must not leave a callback.
//!
//! Beyond mlx-c: [`mlxsys_array_new_mapped`] and [`mlxsys_array_can_map`] (arrays over memory of the caller's, without
//! a copy), [`mlxsys_host_kernel`] (a callback as an operation of MLX's CPU backend), [`mlxsys_stream_new_cpu`] (a new
//! stream while others compute), [`mlxsys_outlives_exit`] and [`mlxsys_before_exit`] (the end of the process),
//! [`mlxsys_blas_set_num_threads`] and [`mlxsys_blas_get_num_threads`]. `native/mlxsys.h` describes them.
//!
//! On Linux `libmlxc` changes three things in MLX: an allocation that fails on the CPU is an error, not a NULL that is
//! written to; the destructors of MLX's static objects don't run when the process ends, as other threads may be using
//! them; and the table of CPU streams is read and written under a lock, which a fork finds free.
//!
//! # Building
//!
//! A build needs Rust, a C++20 compiler and Python with pip. It fetches what `vendor/` pins by version and hash (MLX's
//! own library from its Python wheel, mlx-c's sources, OpenBLAS on Linux, and cmake, ninja and libclang where they are
//! needed), builds `libmlxc` with CMake and writes the bindings with bindgen. It all stays in two folders, so the next
//! build fetches and compiles nothing: the libraries that programs run on in one of their own, the rest in a cache.
//! MLX's Linux wheels need glibc 2.35 (Debian 12, Ubuntu 22.04).
//!
//! | variable | meaning |
//! | --- | --- |
//! | `MLX_SYS_LIBRARY_DIR` | the folder of the libraries that programs run on; by default that of `MLX_SYS_CACHE_DIR`, else `mlx-sys` in `$XDG_DATA_HOME`, `~/.local/share`, or on macOS `~/Library/Application Support` |
//! | `MLX_SYS_CACHE_DIR` | the folder of what only builds need; by default `mlx-sys` in `$XDG_CACHE_HOME`, `~/.cache`, or on macOS `~/Library/Caches` |
//! | `MLX_SYS_OFFLINE=1` | never fetch; say what is missing instead |
//! | `MLX_SYS_WHEELS` | a folder with the pinned wheels and mlx-c's `.crate`, used instead of the network |
//! | `MLX_SYS_MLX_DIR` | your own MLX: a folder with `include/` and `lib/`, of the version in [`MLX_VERSION`] |
//! | `MLX_SYS_MLXC_DIR` | your own source tree of mlx-c, of the version in [`MLXC_VERSION`] |
//! | `MLX_SYS_OPENBLAS_DIR` | your own OpenBLAS: a folder with `libopenblas.so` in it or in its `lib/` (Linux) |
//! | `LIBCLANG_PATH` | folder of your own libclang |
//! | `CMAKE`, `PYTHON` | the programs to use; by default `cmake` if it is there, and `python3` |
//! | `CC`, `CXX`, `CMAKE_GENERATOR` | as everywhere |
//!
//! Paths are absolute: a build script runs in its crate's folder, not in yours.
//!
//! The features `cuda-12` and `cuda-13` take MLX's CUDA builds and NVIDIA's libraries instead of the CPU build. On
//! macOS it is always the Metal build. With `DOCS_RS` set, the documentation builds from committed bindings and
//! nothing native is touched.
//!
//! # Linking
//!
//! `libmlxc` is a shared library whose name for the loader is the absolute path it has in the folder of libraries,
//! and it knows where libmlx and OpenBLAS are. So binaries, tests and crates that depend on this one run without any
//! rpath or `LD_LIBRARY_PATH`, also after `cargo clean` and `cargo install` and without the cache, as long as the folder
//! of libraries stays. A folder in `LD_LIBRARY_PATH` that holds another build of the same version of libmlx goes before
//! the one there.
//!
//! One case asks for a flag. GNU ld, which Rust uses on aarch64 and before 1.90 on x86-64, insists on libcuda.so.1 when
//! it links a CUDA build, and that comes with NVIDIA's driver. To link on a machine without one, set
//! `RUSTFLAGS=-Clink-arg=-Wl,--allow-shlib-undefined`.
//!
//! MLX's Linux wheel brings a slow BLAS. `libmlxc` defines the functions that libmlx calls and passes them on to
//! OpenBLAS, which it loads with the first of these calls; the loader looks through libraries breadth-first and meets
//! these first.
//!
//! Build scripts of crates that depend on this one find `DEP_MLXC_INCLUDE` (folders, joined as in `PATH`),
//! `DEP_MLXC_LIB` (folder of libmlxc), `DEP_MLXC_MLX_INCLUDE` and `DEP_MLXC_MLX_LIBRARY`.
//!
//! [mlx-c]: https://github.com/ml-explore/mlx-c
#![deny(missing_docs)]

/// The version of MLX this crate is built against; `mlx_version` tells the one that is loaded.
pub const MLX_VERSION: &str = env!("MLX_SYS_MLX_VERSION");

/// The version of mlx-c this crate binds.
pub const MLXC_VERSION: &str = env!("MLX_SYS_MLXC_VERSION");

mod bindings {
    #![allow(missing_docs, non_camel_case_types, non_upper_case_globals)]
    use libc::FILE;

    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

pub use bindings::*;
