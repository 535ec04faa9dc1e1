//! A pooling of one's own: `cargo run --release --features default-model --example custom_pooling`
//!
//! `Embedder::hidden_states` gives what the model computes for each token. What becomes of that is up to the caller: here
//! a mean in which later tokens, which have seen more of the text, count for more.

use std::error::Error;

use mlx_embed::{EmbedOptions, Embedder};

/// The mean of a text's hidden states, token `i` weighing `i + 1`, scaled to length 1.
///
/// # Shape
/// f32 `[D]`.
pub(crate) fn weighted_mean(embedder: &Embedder, text: &str) -> Result<Vec<f32>, mlx_embed::Error> {
    // Cut to the model's limit, prompt and end token included, as for `embed`.
    let ids = embedder.token_ids(text, &EmbedOptions::default())?;
    // One state a layer, and the final norm's output at the end, each [tokens * D].
    let states = embedder.hidden_states(&ids)?;
    let hidden_size = embedder.info().config.hidden_size as usize;
    let mut sum = vec![0.0_f32; hidden_size];
    for (index, token) in states.last().into_iter().flat_map(|last| last.chunks(hidden_size)).enumerate() {
        for (sum, x) in sum.iter_mut().zip(token) {
            *sum += (index + 1) as f32 * x;
        }
    }
    let length = sum.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
    sum.iter_mut().for_each(|x| *x /= length);
    Ok(sum)
}

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let embedder = Embedder::default_model()?;
    println!("the checkpoint's pooling: {}", embedder.info().pooling);
    for text in ["The cat sat on the mat", "A feline rested on the rug"] {
        let [own, usual] = [weighted_mean(&embedder, text)?, embedder.embed_one(text)?.vector];
        let cosine: f32 = own.iter().zip(&usual).map(|(a, b)| a * b).sum();
        println!("{text:?}: cosine {cosine:.3} between this mean and that pooling");
    }
    Ok(())
}
