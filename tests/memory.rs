//! Nothing leaks. A test binary of its own, because the counters are the process's.

use mlx_embed::Embedder;
use mlx_embed::mlx::memory;
use mlx_embed_tests::golden;

/// Resident memory in bytes, where the system tells.
fn resident() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

#[test]
fn a_thousand_embeddings_and_twenty_loads_leave_memory_as_it_was() {
    let texts = ["short", "a text of middling length, to vary the shapes", "漢字と🦀", ""];
    let embedder = golden::load("qwen3-affine-4bit-g64");
    let run = |embedder: &Embedder, rounds: usize| {
        for round in 0..rounds {
            embedder.embed(&texts[..=round % texts.len()]).unwrap();
        }
    };
    // The first rounds fill MLX's cache and the allocator's arenas.
    run(&embedder, 200);
    let (active, resident_before) = (memory::active().unwrap(), resident());
    run(&embedder, 1000);
    // A GPU frees what the last call used only at its next one.
    let slack = if golden::on_gpu() { 1 << 20 } else { 0 };
    let active_now = || memory::active().unwrap();
    assert!(active_now() <= active + slack, "MLX's active memory grew from {active} to {}", active_now());
    if let (Some(before), Some(after)) = (resident_before, resident()) {
        let growth = after.saturating_sub(before);
        assert!(growth < 4 << 20, "resident memory grew by {growth} bytes");
    }

    // A second model at a time takes a second stream, which MLX then keeps.
    drop(golden::load("qwen3-affine-4bit-g64"));
    let threads = || std::fs::read_dir("/proc/self/task").map(Iterator::count).unwrap_or(0);
    let threads_before = threads();
    for _ in 0..20 {
        run(&golden::load("qwen3-affine-4bit-g64"), 4);
    }
    assert!(active_now() <= active + slack, "loading and dropping models left {} of {active}", active_now());
    assert_eq!(threads(), threads_before, "threads of dropped models");

    drop(embedder);
    assert!(active_now() <= slack, "{} bytes are active with no model left", active_now());
}
