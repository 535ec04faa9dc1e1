//! The kernels of `mlx-embed` and their tests, alone.

#[allow(dead_code, unused_imports, reason = "what calls them is not here")]
#[path = "../../mlx-embed/src/kernels/mod.rs"]
mod kernels;

/// `MLX_EMBED_EXPECTED` names what a machine runs, fastest first.
#[test]
fn the_machine_runs_the_families_expected_of_it() {
    let names: Vec<&str> = kernels::Family::available().map(kernels::Family::name).collect();
    if let Ok(expected) = std::env::var("MLX_EMBED_EXPECTED") {
        assert_eq!(names.join(" "), expected);
    }
}
