//! The safe API over MLX: any operations, shapes, types, views, streams and threads.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mlx_embed_tests::api;

fuzz_target!(init: mlx_embed_fuzz::catch_panics(), |bytes: &[u8]| api::run(bytes));
