//! docs.rs builds from committed bindings, as it has no network. They are what bindgen writes.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::fs;

#[test]
fn committed_bindings_are_the_generated_ones() {
    let generated = fs::read_to_string(concat!(env!("OUT_DIR"), "/bindings.rs")).unwrap();
    let committed = concat!(env!("CARGO_MANIFEST_DIR"), "/src/bindings_docs.rs");
    if std::env::var_os("MLX_SYS_UPDATE_BINDINGS").is_some() {
        fs::write(committed, &generated).unwrap();
    }
    assert!(
        fs::read_to_string(committed).unwrap() == generated,
        "src/bindings_docs.rs is out of date; refresh it with\n    \
         MLX_SYS_UPDATE_BINDINGS=1 cargo test -p mlx-embed-sys --test bindings"
    );
}
