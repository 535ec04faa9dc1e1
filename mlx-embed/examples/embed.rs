//! Embeds texts: `cargo run --release --example embed -- DIR TEXT...`

use std::env;
use std::error::Error;

use mlx_embed::Embedder;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let dir = arguments.next().ok_or("usage: embed DIR TEXT...")?;
    let texts: Vec<String> = arguments.collect();
    let embedder = Embedder::load(dir)?;
    for (text, embedding) in texts.iter().zip(embedder.embed(&texts)?) {
        let start = &embedding.vector[..embedding.vector.len().min(4)];
        println!(
            "{text:?}: {} tokens, {} numbers, starting {start:?}",
            embedding.tokens,
            embedding.vector.len()
        );
    }
    Ok(())
}
