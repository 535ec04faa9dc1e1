//! The decoder: token ids to hidden states.
//!
//! Shapes in comments use one set of letters: B batch, L tokens, D hidden, H heads, K key and value heads, E head_dim.

mod attention;
mod decoder;
mod linear;
mod mlp;
mod norm;
mod rope;

pub(crate) use decoder::{Decoder, Rows};
