//! Random programs over the safe API, as the fuzz target `api` makes them.

use mlx_embed_tests::api;

#[test]
fn programs_of_random_bytes_end() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..1500 {
        let length = 64 + next() as usize % 1500;
        let bytes: Vec<u8> = (0..length).map(|_| (next() >> 32) as u8).collect();
        api::run(&bytes);
    }
}
