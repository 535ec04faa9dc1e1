//! The program of `tests/exit.rs` on its own, so that it can be built with `panic = "abort"`.

use mlx_embed_tests::exits;

fn main() {
    let task = std::env::var(exits::TASK)
        .unwrap_or_else(|_| panic!("{} names a mode, a code and a wait", exits::TASK));
    exits::run(&task);
}
