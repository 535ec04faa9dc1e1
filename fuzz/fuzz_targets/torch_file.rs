#![no_main]

use libfuzzer_sys::fuzz_target;
use mlx_embed_tests::damage;

fuzz_target!(init: mlx_embed_fuzz::catch_panics(), |input: &[u8]| damage::torch_file(input));
