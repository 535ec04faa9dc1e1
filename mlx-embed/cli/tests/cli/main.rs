//! The binary as its users run it, on the golden checkpoints.
#![allow(clippy::unwrap_used)] // clippy knows tests, but not what they share

mod bench;
mod faults;
#[cfg(feature = "hub")]
mod hub;
mod input;
mod inspect;
mod kinds;
mod load;
mod options;
mod output;
mod output_files;
#[cfg(feature = "parquet")]
mod parquet;
mod reopen;
mod rerank;
#[cfg(feature = "serve")]
mod serve;
#[cfg(feature = "hub")]
#[path = "../../../tests/hub/server.rs"]
#[allow(dead_code, reason = "the library's tests need more of it")]
mod server;
mod signals;
mod similarity;
mod sql;
mod support;
mod verify;
