//! What a request over HTTP costs beside a call of the library, with the built-in model on loopback.
//!
//! ```text
//! cargo bench -p mlx-embed-server --bench overhead
//! ```
//!
//! Both are asked in turn, in one process and about the same texts, so that whatever else the machine does meets both.
//! The service has a model of its own. Requests ask for base64, as OpenAI's clients do.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mlx_embed::{EmbedOptions, Embedder};
use mlx_embed_server::{Config, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, oneshot};

/// One text at a time: pairs of calls, after some that nobody counts.
const PAIRS: usize = 3000;
const WARM_UP: usize = 200;

/// Requests a second of so many texts, in rounds of each kind in turn.
const RATE: f64 = 50.0;
const TEXTS: usize = 10;
const ROUNDS: usize = 8;
const ROUND: Duration = Duration::from_secs(8);

/// Connections, each of which asks again as soon as it is answered.
const CONNECTIONS: usize = 256;

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Asked<'a> = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + 'a>>;

/// Who is asked for the vectors of texts.
trait Way: Send + Sync {
    fn ask(&self, texts: Vec<String>) -> Asked<'_>;
}

impl Way for Embedder {
    fn ask(&self, texts: Vec<String>) -> Asked<'_> {
        Box::pin(async move {
            let embeddings = self.submit(&texts, &EmbedOptions::default()).await?;
            if embeddings.len() == texts.len() { Ok(()) } else { Err("texts without a vector".into()) }
        })
    }
}

/// Connections that are kept, as many as requests were under way at once.
struct Http {
    address: String,
    idle: Mutex<Vec<TcpStream>>,
}

impl Http {
    async fn connection(&self) -> io::Result<TcpStream> {
        while let Some(idle) = self.idle.lock().await.pop() {
            // The service closes those that it has not heard of for long.
            if matches!(idle.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
                return Ok(idle);
            }
        }
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

impl Way for Http {
    fn ask(&self, texts: Vec<String>) -> Asked<'_> {
        Box::pin(async move {
            let body = serde_json::json!({"model": "default", "input": texts, "encoding_format": "base64"})
                .to_string();
            let head = format!(
                "POST /v1/embeddings HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                self.address,
                body.len()
            );
            let mut stream = self.connection().await?;
            stream.write_all((head + &body).as_bytes()).await?;
            let answer = read_answer(&mut stream).await?;
            self.idle.lock().await.push(stream);
            let vectors = answer.matches("\"embedding\":\"").count();
            if vectors == texts.len() { Ok(()) } else { Err(format!("no answer: {answer}").into()) }
        })
    }
}

async fn read_answer(stream: &mut TcpStream) -> Result<String, Failure> {
    let mut bytes = Vec::with_capacity(1 << 15);
    loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err("the connection was closed".into());
        }
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = std::str::from_utf8(&bytes[..end])?.to_lowercase();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
        let length: usize = length.ok_or("an answer without a length")?.trim().parse()?;
        if bytes.len() >= end + 4 + length {
            return Ok(String::from_utf8(bytes)?);
        }
    }
}

/// A sentence of about ten tokens that no other request has.
fn text(number: usize) -> String {
    let animals = ["cats", "dogs", "mice", "fish", "hens"];
    format!("Why do the {} in my house sleep for {number} hours?", animals[number % 5])
}

fn texts(request: usize, count: usize) -> Vec<String> {
    (0..count).map(|at| text(request * count + at)).collect()
}

/// What the two ways took, the library first.
#[derive(Default)]
struct Both([Vec<Duration>; 2]);

impl fmt::Display for Both {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted = self.0.clone();
        sorted.iter_mut().for_each(|times| times.sort_unstable());
        for quantile in [0.5, 0.95, 0.99] {
            let ms = |times: &Vec<Duration>| {
                times[((times.len() - 1) as f64 * quantile) as usize].as_secs_f64() * 1e3
            };
            let (library, http) = (ms(&sorted[0]), ms(&sorted[1]));
            let more = http - library;
            write!(f, "  p{:.0}: {library:.3} ms, {http:.3} over HTTP: {more:+.3}", quantile * 100.0)?;
        }
        Ok(())
    }
}

async fn one_at_a_time(ways: &[Arc<dyn Way>; 2]) -> Result<Both, Failure> {
    let mut both = Both::default();
    for pair in 0..WARM_UP + PAIRS {
        // Who is second may find caches warm, so they take turns at that, too.
        for way in [pair % 2, (pair + 1) % 2] {
            let asked = texts(pair, 1);
            let start = Instant::now();
            ways[way].ask(asked).await?;
            if pair >= WARM_UP {
                both.0[way].push(start.elapsed());
            }
        }
    }
    Ok(both)
}

/// Requests at times of their own, whether or not others are answered; latency counts from when they were meant to start.
async fn at_a_rate(way: &Arc<dyn Way>, first: usize) -> Result<Vec<Duration>, Failure> {
    let begin = Instant::now();
    let requests = (RATE * ROUND.as_secs_f64()) as usize;
    let mut asked = Vec::new();
    let mut due = Duration::ZERO;
    for request in 0..requests {
        // Exponential gaps, the same ones for both: callers don't keep in step.
        let uniform = (request.wrapping_mul(2_654_435_761) % 1000) as f64 / 1000.0;
        due += Duration::from_secs_f64(-(1.0 - uniform).ln() / RATE);
        tokio::time::sleep_until((begin + due).into()).await;
        let (way, asks) = (Arc::clone(way), texts(first + request, TEXTS));
        asked.push(tokio::spawn(
            async move { way.ask(asks).await.map(|()| begin.elapsed().saturating_sub(due)) },
        ));
    }
    let mut times = Vec::new();
    for one in asked {
        times.push(one.await??);
    }
    Ok(times)
}

async fn rounds_at_a_rate(ways: &[Arc<dyn Way>; 2]) -> Result<Both, Failure> {
    let mut both = Both::default();
    for round in 0..ROUNDS {
        for way in [round % 2, (round + 1) % 2] {
            both.0[way].extend(at_a_rate(&ways[way], 1_000_000 * (round + 1)).await?);
        }
    }
    Ok(both)
}

/// Answers a second while so many ask all the time.
async fn all_at_once(way: &Arc<dyn Way>, first: usize) -> Result<f64, Failure> {
    let begin = Instant::now();
    let callers = (0..CONNECTIONS).map(|caller| {
        let way = Arc::clone(way);
        tokio::spawn(async move {
            let mut answers = 0;
            while begin.elapsed() < ROUND {
                way.ask(texts(first + caller * 100_000 + answers, 1)).await?;
                answers += 1;
            }
            Ok::<_, Failure>(answers)
        })
    });
    let mut answers = 0;
    for caller in callers.collect::<Vec<_>>() {
        answers += caller.await??;
    }
    Ok(answers as f64 / begin.elapsed().as_secs_f64())
}

async fn measure(address: String) -> Result<(), Failure> {
    let http = Http { address, idle: Mutex::new(Vec::new()) };
    let ways: [Arc<dyn Way>; 2] = [Arc::new(Embedder::default_model()?), Arc::new(http)];
    println!("one text at a time, {PAIRS} each:\n{}", one_at_a_time(&ways).await?);
    println!("{RATE} requests a second of {TEXTS} texts, {ROUNDS} rounds of {ROUND:?} each:");
    println!("{}", rounds_at_a_rate(&ways).await?);
    println!("{CONNECTIONS} that ask all the time, answers a second:");
    for round in 0..3 {
        let [library, http] =
            [all_at_once(&ways[0], round << 26).await?, all_at_once(&ways[1], round << 26).await?];
        println!("  {library:.0}, {http:.0} over HTTP: {:.2} of it", http / library);
    }
    Ok(())
}

fn main() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let config = Config { listen: "127.0.0.1:0".to_owned(), ..Default::default() };
    runtime.block_on(async {
        let (stop, stopped) = oneshot::channel();
        let (listens, listening) = oneshot::channel();
        let service = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            serve(&config, None, stopped, |address| {
                let _ = listens.send(address.to_string());
            })
            .await
        });
        measure(listening.await?).await?;
        let _ = stop.send(());
        service.await??;
        Ok(())
    })
}
