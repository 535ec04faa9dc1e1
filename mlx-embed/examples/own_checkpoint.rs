//! A checkpoint from disk, looked at and then loaded: `cargo run --release --example own_checkpoint -- DIR`
//!
//! DIR holds `config.json`, `tokenizer.json` and safetensors weights, as model repositories do. An error names the file
//! and what is wrong with it.

use std::error::Error;
use std::io::{self, Write};
use std::path::Path;
use std::{env, thread, time::Duration};

use mlx_embed::{Checkpoint, EmbedOptions, Embedder, LoadOptions, Prompt};

pub(crate) fn show(dir: &Path, out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    // Reads headers only: a checkpoint of any size is checked in milliseconds.
    let checkpoint = Checkpoint::open(dir)?;
    let config = checkpoint.config();
    writeln!(out, "{:?}, {} layers, {} wide", config.architecture, config.layers, config.hidden_size)?;
    for (kind, storages) in checkpoint.storage_by_kind()? {
        writeln!(out, "  {kind}: {storages:?}")?;
    }

    let loading = Embedder::load_in_background(dir, LoadOptions::default());
    while !loading.is_done() {
        thread::sleep(Duration::from_millis(10));
    }
    let embedder = loading.wait()?;
    let info = embedder.info();
    writeln!(out, "{} pooling, {} tokens at most, on {}", info.pooling, info.max_tokens, info.backend)?;

    // A checkpoint for search has a prompt for queries; documents go without.
    let prompt = match info.sentence_transformers.prompts.contains_key("query") {
        true => Prompt::Named("query".into()),
        false => Prompt::None,
    };
    let query = EmbedOptions { prompt, ..Default::default() };
    let question = embedder.embed_with(&["where do cats sleep?"], &query)?.remove(0);
    for text in ["Cats sleep in boxes.", "The market fell."] {
        let document = embedder.embed_one(text)?;
        let cosine: f32 = question.vector.iter().zip(&document.vector).map(|(a, b)| a * b).sum();
        writeln!(out, "{cosine:.3} {text}")?;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = env::args_os().nth(1).ok_or("usage: own_checkpoint DIR")?;
    show(Path::new(&dir), &mut io::stdout())
}
