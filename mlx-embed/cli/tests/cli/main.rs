//! The binary as its users run it, on the golden checkpoints.
#![allow(clippy::unwrap_used)] // clippy knows tests, but not what they share

mod bench;
mod faults;
mod input;
mod inspect;
mod kinds;
mod load;
mod options;
mod output;
mod output_files;
mod reopen;
mod rerank;
#[cfg(feature = "serve")]
mod serve;
mod similarity;
mod support;
mod verify;
