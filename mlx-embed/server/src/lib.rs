//! An HTTP service over [`mlx_embed`].
//!
//! | endpoint | in the shape of |
//! | --- | --- |
//! | `POST /v1/embeddings`, `GET /v1/models`, `GET /v1/models/NAME` | OpenAI |
//! | `POST /embed` and `/`, `POST /rerank`, `POST /tokenize`, `GET /info` | text-embeddings-inference |
//! | `POST /v1/rerank`, `POST /v2/rerank` | Cohere and Jina |
//! | `GET /health`, `GET /ready`, `GET /metrics` | those who look after it |
//! | `GET /openapi.json`, `GET /` | OpenAPI, and a page to try it |
//!
//! [`Config`] is what a YAML file has. [`Models`] holds the models that it names. [`router`] answers requests with them;
//! mount it in a server of your own, or let [`serve`] do it all.
//!
//! ```no_run
//! use mlx_embed_server::{Config, Models, router};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let config = Config::from_yaml("models: [{name: qwen, path: path/to/Qwen3-Embedding-0.6B-4bit}]")?;
//!     let models = Models::load(&config).await?;
//!     let listener = tokio::net::TcpListener::bind(&config.listen).await?;
//!     axum::serve(listener, router(models, &config, None)?).await?;
//!     Ok(())
//! }
//! ```
//!
//! It needs `axum` 0.8, and `tokio` with the features `macros`, `net` and `rt-multi-thread`.
#![deny(unsafe_code)]

mod app;
mod auth;
mod config;
mod connections;
mod error;
mod fields;
mod guard;
mod memory;
mod model_list;
mod models;
mod openai;
mod openapi;
mod rerank;
mod router;
mod run;
mod slot;
mod status;
mod tei;
mod tokenize;

pub use app::Metrics;
pub use config::{Config, ConfigError, Kind, Limits, Load, ModelConfig};
pub use models::Models;
pub use router::router;
pub use run::{ServeError, serve};
pub use slot::LoadError;

/// The page's example has to compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Page;
