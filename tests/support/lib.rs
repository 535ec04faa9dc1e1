//! What the tests share: golden cases, damaged and scratch copies of checkpoints, and comparing vectors.

pub mod api;
pub mod child;
pub mod compare;
pub mod damage;
pub mod exits;
pub mod files;
pub mod golden;
pub mod scratch;

/// The pages' examples have to compile. `tests/links.rs` sees that none is left out.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
#[doc = include_str!("../../mlx-embed/README.md")]
#[doc = include_str!("../../docs/first-steps.md")]
#[doc = include_str!("../../docs/server.md")]
pub struct Pages;
