//! SQL functions that embed, rerank and compare texts, for [DataFusion](datafusion).
//!
//! ```
//! use datafusion::prelude::SessionContext;
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let ctx = SessionContext::new().enable_url_table(); // so that FROM takes files
//!     mlx_embed_datafusion::register(&ctx, mlx_embed::Embedder::default_model()?);
//!     ctx.sql("SELECT cosine(embed('a cat'), embed('a feline')) AS alike").await?.show().await?;
//!     Ok(())
//! }
//! ```
//!
//! | function | returns |
//! | --- | --- |
//! | `embed(text)`, `embed(text, prompt => 'query')` | the text's vector, a list of fixed size of f32; the prompt is one of the checkpoint's, by its name |
//! | `rerank(query, text)` | how well the text answers the query, f32: more is better |
//! | `cosine(a, b)` | the cosine of two vectors, f64: lists of f16, f32, f64 or whole numbers. NaN where one has no length |
//!
//! Null gives null. A text that can't be embedded ends the query with an error, which names the function and its
//! argument.
//!
//! All partitions and all queries of a context use the one model that was registered. What they ask for at the same time
//! runs in common batches. A partition asks for a few hundred texts at a time, so memory does not grow with the table.
//! Dropping a query takes back the texts that are not running yet.
//!
//! DataFusion computes functions like these in SELECT and WHERE only. For ORDER BY and GROUP BY, give the result a name
//! in SELECT.
#![deny(unsafe_code)]

#[cfg(feature = "ballista")]
pub mod ballista;
mod cosine;
mod embed;
mod model;
mod rerank;
mod texts;

use std::sync::Arc;

use datafusion::logical_expr::ScalarUDF;
use datafusion::logical_expr::async_udf::AsyncScalarUDF;
use datafusion::prelude::SessionContext;
use mlx_embed::{Embedder, Reranker};

/// The pages' examples have to compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
#[doc = include_str!("../../../docs/sql.md")]
struct Pages;

/// Adds `embed`, which asks `embedder`, and `cosine` to the functions of `ctx`.
pub fn register(ctx: &SessionContext, embedder: Embedder) {
    ctx.register_udf(embed_function(embedder));
    ctx.register_udf(cosine_function());
}

/// Adds `rerank`, which asks `reranker`, to the functions of `ctx`.
pub fn register_reranker(ctx: &SessionContext, reranker: Reranker) {
    ctx.register_udf(rerank_function(reranker));
}

fn embed_function(embedder: Embedder) -> ScalarUDF {
    AsyncScalarUDF::new(Arc::new(embed::Embed::new(embedder))).into_scalar_udf()
}

fn rerank_function(reranker: Reranker) -> ScalarUDF {
    AsyncScalarUDF::new(Arc::new(rerank::Rerank::new(reranker))).into_scalar_udf()
}

fn cosine_function() -> ScalarUDF {
    ScalarUDF::new_from_impl(cosine::Cosine::new())
}
