//! What a worker in Rust speaks: the lines that `../../workers/serve.py` describes.

use std::error::Error;
use std::io::{Write, stdin, stdout};
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;
pub type Vectors = Vec<Vec<f32>>;

/// A model that answers for batches of token ids.
pub trait Peer {
    /// What a batch becomes before time is taken.
    type Input;

    fn input(&self, ids: &[Vec<u32>]) -> Result<Self::Input>;

    /// One vector a text.
    fn embed(&mut self, input: &Self::Input) -> Result<Vectors>;

    /// How long `embed` takes for work that the other peers are not asked for.
    fn aside(&self, _: &Self::Input) -> Result<Duration> {
        Ok(Duration::ZERO)
    }
}

/// Answers until standard input ends. Random ids are below `vocabulary`.
pub fn serve(peer: &mut impl Peer, vocabulary: u32, facts: &Value) -> Result<()> {
    answer(&json!({ "ready": facts }))?;
    let mut generator = StdRng::seed_from_u64(0);
    for line in stdin().lines() {
        let request: Value = serde_json::from_str(&line?)?;
        let given = request.get("ids").is_some();
        let ids = if given {
            serde_json::from_value(request["ids"].clone())?
        } else {
            random_ids(&request, vocabulary, &mut generator)?
        };
        let input = peer.input(&ids)?;
        let begin = Instant::now();
        let vectors = peer.embed(&input)?;
        let took = begin.elapsed();
        if vectors.len() != ids.len() || vectors.iter().flatten().any(|x| !x.is_finite()) {
            return Err(format!("{} vectors, or numbers that are not finite", vectors.len()).into());
        }
        let ms = took.saturating_sub(peer.aside(&input)?).as_secs_f64() * 1e3;
        let mut reply = json!({ "batch": ids.len(), "tokens": ids[0].len(), "ms": ms });
        if given {
            reply["vectors"] = json!(vectors);
        }
        answer(&reply)?;
    }
    Ok(())
}

/// The number of threads that this process was given.
pub fn threads() -> String {
    std::env::var("RAYON_NUM_THREADS").unwrap_or_default()
}

fn random_ids(request: &Value, vocabulary: u32, generator: &mut StdRng) -> Result<Vec<Vec<u32>>> {
    let count = |name: &str| request[name].as_u64().ok_or(format!("a request needs {name}"));
    let (batch, tokens) = (count("batch")?, count("tokens")?);
    Ok((0..batch).map(|_| (0..tokens).map(|_| generator.random_range(0..vocabulary)).collect()).collect())
}

fn answer(value: &Value) -> Result<()> {
    let mut out = stdout().lock();
    writeln!(out, "{value}")?;
    Ok(out.flush()?)
}
