//! Embeds texts: `cargo run --release --example embed -- DIR TEXT...`

use std::env;
use std::error::Error;
use std::io::{self, Write};
use std::path::Path;

use mlx_embed::Embedder;

pub(crate) fn embed<T: AsRef<str>>(
    dir: &Path,
    texts: &[T],
    out: &mut impl Write,
) -> Result<(), Box<dyn Error>> {
    let embedder = Embedder::load(dir)?;
    for (text, embedding) in texts.iter().zip(embedder.embed(texts)?) {
        let (tokens, vector) = (embedding.tokens, &embedding.vector);
        let start = &vector[..vector.len().min(4)];
        writeln!(out, "{:?}: {tokens} tokens, {} numbers, starting {start:?}", text.as_ref(), vector.len())?;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let dir = arguments.next().ok_or("usage: embed DIR TEXT...")?;
    let texts: Vec<String> = arguments.collect();
    embed(Path::new(&dir), &texts, &mut io::stdout())
}
