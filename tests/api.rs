//! Random programs over the safe API, as the fuzz target `api` makes them. `MLX_EMBED_API_SECONDS` has them go on, and
//! `MLX_EMBED_API_PROGRAMS` names a folder with more of them, such as `fuzz/corpus/api`.

use std::time::{Duration, Instant};

use mlx_embed_tests::{api, files};

#[test]
fn programs_of_random_bytes_end() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let seconds = std::env::var("MLX_EMBED_API_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    let (start, least) = (Instant::now(), Duration::from_secs(seconds.unwrap_or(0)));
    let mut programs = 0;
    while programs < 1500 || start.elapsed() < least {
        programs += 1;
        let length = 64 + next() as usize % 1500;
        let bytes: Vec<u8> = (0..length).map(|_| (next() >> 32) as u8).collect();
        api::run(&bytes);
    }
    println!("{programs} programs in {:?}", start.elapsed());
}

#[test]
fn programs_that_the_fuzzer_kept_end() {
    let more = std::env::var("MLX_EMBED_API_PROGRAMS").ok();
    for folder in ["fuzz/seeds/api"].into_iter().chain(more.as_deref()) {
        for path in files::below(folder) {
            // Said before, for whoever looks for the one that a checker of memory stumbles over.
            if more.is_some() {
                eprintln!("{}", path.display());
            }
            api::run(&std::fs::read(path).expect("readable"));
        }
    }
}
