//! What the tests share: golden cases, scratch copies of checkpoints, and comparing vectors.

pub mod compare;
pub mod golden;
pub mod scratch;
