use mlx_embed::{Embedder, vectors::cosine};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [_, folder, one, other] = &std::env::args().collect::<Vec<_>>()[..] else {
        return Err("say FOLDER TEXT TEXT".into());
    };
    let vectors = Embedder::load(folder)?.embed([one, other])?;
    println!("{:.4}", cosine(&vectors[0], &vectors[1]));
    Ok(())
}
