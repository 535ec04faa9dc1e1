//! Which of some sentences mean the same: `cargo run --release --features default-model --example similarity`

use std::error::Error;

use mlx_embed::{Embedder, vectors};

pub(crate) const SENTENCES: [&str; 4] = [
    "The cat sat on the mat",
    "A feline rested on the rug",
    "The stock market crashed today",
    "Share prices fell sharply",
];

/// Cosines of all pairs, `[texts][texts]`.
pub(crate) fn similarities(embedder: &Embedder, texts: &[&str]) -> Result<Vec<Vec<f64>>, mlx_embed::Error> {
    let embeddings = embedder.embed(texts)?;
    let row = |of| embeddings.iter().map(|other| vectors::cosine(of, other)).collect();
    Ok(embeddings.iter().map(row).collect())
}

/// The text that is most like text `index`, apart from itself.
pub(crate) fn nearest(similarities: &[Vec<f64>], index: usize) -> usize {
    let row = similarities[index].iter().enumerate().filter(|(other, _)| *other != index);
    row.max_by(|a, b| a.1.total_cmp(b.1)).map_or(index, |(other, _)| other)
}

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let embedder = Embedder::default_model()?;
    let similarities = similarities(&embedder, &SENTENCES)?;
    for (index, text) in SENTENCES.iter().enumerate() {
        let nearest = nearest(&similarities, index);
        println!("{text:?} is nearest to {:?}: {:.3}", SENTENCES[nearest], similarities[index][nearest]);
    }
    Ok(())
}
