//! The commands, one a file: its arguments and what it does.

mod bench;
mod embed;
mod inspect;
mod load;
#[cfg(feature = "hub")]
mod models;
#[cfg(feature = "hub")]
mod pull;
mod rerank;
#[cfg(feature = "serve")]
mod serve;
mod similarity;
mod sql;
mod verify;

use clap::Subcommand;

use crate::error::CliError;

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Turn texts into vectors
    Embed(embed::EmbedArgs),
    /// Show how alike texts are
    Similarity(similarity::SimilarityArgs),
    /// Show how well documents answer a query, the best first
    Rerank(rerank::RerankArgs),
    /// Show what a checkpoint is and how it would run
    Inspect(inspect::InspectArgs),
    /// Compare a checkpoint's results with a reference's, layer by layer
    Verify(verify::VerifyArgs),
    /// Query files by SQL that embeds, reranks and compares texts
    Sql(sql::SqlArgs),
    /// Answer requests over HTTP
    #[cfg(feature = "serve")]
    Serve(serve::ServeArgs),
    /// Fetch models from a hub, to be used later
    #[cfg(feature = "hub")]
    Pull(pull::PullArgs),
    /// Show which models were fetched, and whether this program runs them
    #[cfg(feature = "hub")]
    Models(models::ModelsArgs),
    /// Measure how long forward passes take
    Bench(bench::BenchArgs),
    /// Measure how long answers take while requests come at a given rate
    Load(load::LoadArgs),
}

impl Command {
    pub(crate) fn run(self) -> Result<(), CliError> {
        match self {
            Self::Embed(args) => embed::run(args),
            Self::Similarity(args) => similarity::run(args),
            Self::Rerank(args) => rerank::run(args),
            Self::Inspect(args) => inspect::run(&args),
            Self::Verify(args) => verify::run(args),
            Self::Sql(args) => sql::run(&args),
            #[cfg(feature = "serve")]
            Self::Serve(args) => serve::run(args),
            #[cfg(feature = "hub")]
            Self::Pull(args) => pull::run(&args),
            #[cfg(feature = "hub")]
            Self::Models(args) => models::run(&args),
            Self::Bench(args) => bench::run(&args),
            Self::Load(args) => load::run(&args),
        }
    }
}
