//! What the engine costs and what it saves, for one text at a time.
//!
//! ```text
//! cargo bench --bench engine                        # the built-in model
//! MLX_EMBED_MODEL=DIR cargo bench --bench engine    # any other
//! ```
//!
//! The overhead is a request's time from the caller's side less its time on the device: queue, two changes of thread,
//! and the finishing of the vector. For a prompt, queries of about ten tokens run behind an instruction of about forty,
//! by an embedder that keeps the instruction's keys and values and by one that doesn't, in turn.

use std::time::{Duration, Instant};

use mlx_embed::{EmbedOptions, Embedder, Error, LoadOptions, Prompt};

const ROUNDS: usize = 201;

const INSTRUCTION: &str = "Instruct: Given a question about the keeping of animals at home, retrieve the passages of \
                           the handbook that answer it, whether they are long or short and old or new, the most \
                           useful first\nQuery: ";

fn load(options: LoadOptions) -> Result<Embedder, Error> {
    match std::env::var_os("MLX_EMBED_MODEL").filter(|dir| !dir.is_empty()) {
        Some(dir) => Embedder::load_with(dir, options),
        None => Embedder::default_model_with(options),
    }
}

/// Median and 95th percentile in microseconds.
fn quantiles(times: &mut [Duration]) -> [f64; 2] {
    times.sort_unstable();
    [0.5, 0.95].map(|q| times[((times.len() - 1) as f64 * q) as usize].as_secs_f64() * 1e6)
}

fn queries(rounds: usize) -> Vec<String> {
    let animals = ["cats", "dogs", "mice", "fish", "hens"];
    (0..rounds).map(|round| format!("why do my {} sleep for {round} hours?", animals[round % 5])).collect()
}

fn overhead(embedder: &Embedder) -> Result<(), Error> {
    let mut times = Vec::new();
    for query in &queries(ROUNDS) {
        let ids = embedder.token_ids(query, &EmbedOptions::default())?;
        let start = Instant::now();
        let embedding = embedder.embed_token_ids(vec![ids], &EmbedOptions::default())?.remove(0);
        times.push(start.elapsed().saturating_sub(embedding.device_time));
    }
    let [p50, p95] = quantiles(&mut times);
    println!("overhead of a request of one text: p50 {p50:.1} us, p95 {p95:.1} us");
    Ok(())
}

fn prompt() -> Result<(), Error> {
    let keeps = load(LoadOptions::default())?;
    let computes = load(LoadOptions { prompt_cache: Some(0), ..Default::default() })?;
    let behind = EmbedOptions { prompt: Prompt::Text(INSTRUCTION.into()), ..Default::default() };
    let alone = EmbedOptions { prompt: Prompt::None, ..Default::default() };
    let cases = [(&computes, &behind), (&keeps, &behind), (&keeps, &alone)];
    let mut times = [const { Vec::new() }; 3];
    let mut tokens = [0; 3];
    // The first two make what later ones find.
    for (round, query) in queries(ROUNDS.min(101) + 2).iter().enumerate() {
        for (case, (embedder, options)) in cases.iter().enumerate() {
            let start = Instant::now();
            tokens[case] = embedder.embed_with(&[query], options)?[0].tokens;
            if round >= 2 {
                times[case].push(start.elapsed());
            }
        }
    }
    let [whole, kept, bare] = times.map(|mut times| quantiles(&mut times)[0]);
    println!(
        "a query of {} tokens, {} with its instruction: p50 {whole:.0} us computed whole, {kept:.0} us behind kept keys \
         and values ({:.2} times as fast), {bare:.0} us without the instruction",
        tokens[2],
        tokens[0],
        whole / kept
    );
    Ok(())
}

fn main() -> Result<(), Error> {
    // Under `cargo test --benches` nothing is measured.
    if std::env::args().any(|argument| argument == "--test") {
        return Ok(());
    }
    let embedder = load(LoadOptions::default())?;
    embedder.warm_up()?;
    overhead(&embedder)?;
    drop(embedder);
    prompt()
}
