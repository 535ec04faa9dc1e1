//! What the tests share: golden cases, damaged and scratch copies of checkpoints, and comparing vectors.

pub mod api;
pub mod child;
pub mod compare;
pub mod damage;
pub mod exits;
pub mod files;
pub mod golden;
pub mod scratch;

/// The README's example has to compile.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;

/// So have the guide's.
#[cfg(doctest)]
#[doc = include_str!("../../docs/first-steps.md")]
#[doc = include_str!("../../docs/server.md")]
pub struct Guide;
