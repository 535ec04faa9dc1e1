//! The examples do what they say: an HTTP server is talked to, a folder is asked, the small ones give the right numbers.
#![allow(clippy::unwrap_used)] // clippy knows tests, but not what they share

#[allow(dead_code)] // main, here and below
#[path = "../examples/axum.rs"]
mod axum_example;
#[allow(dead_code)]
#[path = "../examples/custom_pooling.rs"]
mod custom_pooling_example;
#[allow(dead_code)]
#[path = "../examples/embed.rs"]
mod embed_example;
#[allow(dead_code)]
#[path = "../examples/host_kernel.rs"]
mod host_kernel_example;
#[allow(dead_code)]
#[path = "../examples/own_checkpoint.rs"]
mod own_checkpoint_example;
#[allow(dead_code)]
#[path = "../examples/rag.rs"]
mod rag_example;
#[allow(dead_code)]
#[path = "../examples/similarity.rs"]
mod similarity_example;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use std::{iter, thread};

use base64::{Engine, prelude::BASE64_STANDARD};
use metrics_exporter_prometheus::PrometheusHandle;
use mlx_embed::{Embedder, LoadOptions, Shutdown};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

static METRICS: LazyLock<PrometheusHandle> = LazyLock::new(|| axum_example::record_metrics().unwrap());

/// A server on a port of its own.
struct Server {
    address: SocketAddr,
    embedder: Embedder,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    fn start(options: LoadOptions) -> Self {
        let metrics = METRICS.clone();
        let embedder = Embedder::default_model_with(options).unwrap();
        let app = axum_example::app(embedder.clone(), metrics);
        let (stop, stopped) = oneshot::channel();
        let (bound, address) = std::sync::mpsc::channel();
        let body = async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            bound.send(listener.local_addr().unwrap()).unwrap();
            let stopped = async {
                let _ = stopped.await;
            };
            axum::serve(listener, app).with_graceful_shutdown(stopped).await.unwrap();
        };
        let thread = thread::spawn(|| {
            tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(body)
        });
        Self { address: address.recv().unwrap(), embedder, stop: Some(stop), thread: Some(thread) }
    }

    /// Status, head and body of the answer.
    fn send(&self, request: &str, headers: &str, body: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let length = body.len();
        let head =
            format!("{request} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {length}\r\n");
        stream.write_all(format!("{head}{headers}\r\n{body}").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_lowercase(), body.to_owned())
    }

    fn embed_with(&self, headers: &str, request: &Value) -> (u16, String, Value) {
        let headers = format!("content-type: application/json\r\n{headers}");
        let (status, head, body) = self.send("POST /v1/embeddings", &headers, &request.to_string());
        (status, head, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}")))
    }

    fn embed(&self, request: &Value) -> Value {
        let (status, _, answer) = self.embed_with("", request);
        assert_eq!(status, 200, "{answer}");
        answer
    }

    /// Fails unless the request is refused with this status, in OpenAI's shape.
    fn refuses(&self, request: &Value, headers: &str, status: u16, part: &str) -> String {
        let (found, head, answer) = self.embed_with(headers, request);
        assert_eq!(found, status, "{answer}");
        let error = &answer["error"];
        assert!(error["message"].as_str().unwrap().contains(part), "{answer}");
        let kind = if status < 500 { "invalid_request_error" } else { "server_error" };
        assert_eq!(error["type"], kind);
        head
    }

    fn stop(&mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn vectors(answer: &Value) -> Vec<Vec<f32>> {
    let data = answer["data"].as_array().unwrap().iter().enumerate();
    data.map(|(index, item)| {
        assert_eq!((&item["index"], &item["object"]), (&json!(index), &json!("embedding")));
        match &item["embedding"] {
            Value::String(base64) => {
                let bytes = BASE64_STANDARD.decode(base64).unwrap();
                bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
            }
            numbers => serde_json::from_value(numbers.clone()).unwrap(),
        }
    })
    .collect()
}

const TEXTS: [&str; 2] = ["The cat sat on the mat", "The stock market crashed today"];

#[test]
fn the_server_answers_as_openai_does() {
    let server = Server::start(LoadOptions::default());
    let expected: Vec<Vec<f32>> =
        server.embedder.embed(TEXTS).unwrap().into_iter().map(|each| each.vector).collect();
    let answer = server.embed(&json!({"input": TEXTS, "model": "any"}));
    assert_eq!(vectors(&answer), expected);
    assert_eq!((&answer["object"], &answer["model"]), (&json!("list"), &json!("(built-in model)")));
    let ids = TEXTS.map(|text| server.embedder.token_ids(text, &Default::default()).unwrap());
    let tokens = ids[0].len() + ids[1].len();
    assert_eq!(answer["usage"], json!({"prompt_tokens": tokens, "total_tokens": tokens}));

    assert_eq!(vectors(&server.embed(&json!({"input": TEXTS, "encoding_format": "base64"}))), expected);
    assert_eq!(
        vectors(&server.embed(&json!({"input": TEXTS[0], "encoding_format": "float"}))),
        expected[..1]
    );
    assert_eq!(vectors(&server.embed(&json!({"input": ids}))), expected);
    assert_eq!(vectors(&server.embed(&json!({"input": ids[1]}))), expected[1..]);
    let short = vectors(&server.embed(&json!({"input": TEXTS[0], "dimensions": 8}))).remove(0);
    let norm = short.iter().map(|x| x * x).sum::<f32>().sqrt();
    assert!(short.len() == 8 && (norm - 1.0).abs() < 1e-5, "{short:?}");
}

#[test]
fn the_server_says_what_is_wrong() {
    let mut server = Server::start(LoadOptions::default());
    server.refuses(&json!({}), "", 400, "input");
    server.refuses(&json!({"input": 7}), "", 400, "input must be a string");
    server.refuses(&json!({"input": []}), "", 400, "input");
    server.refuses(&json!({"input": [[]]}), "", 400, "text 0");
    server.refuses(&json!({"input": [[1], [16_777_216]]}), "", 400, "text 1");
    server.refuses(&json!({"input": "a", "dimensions": 9999}), "", 400, "9999");
    server.refuses(&json!({"input": "a", "dimensions": 0}), "", 400, "dimensions");
    server.refuses(&json!({"input": "a", "encoding_format": "hex"}), "", 400, "hex");
    server.refuses(&json!({"input": "a"}), "x-request-timeout-ms: soon\r\n", 400, "x-request-timeout-ms");
    server.refuses(&json!({"input": "a"}), "x-request-timeout-ms: 0\r\n", 504, "timeout");
    let (status, _, body) = server.send("GET /v2", "", "");
    assert!(status == 404 && body.contains("/v1/embeddings"), "{status} {body}");

    assert_eq!(server.send("GET /health", "", "").0, 200);
    server.embedder.shut_down(Shutdown::Return);
    assert_eq!(server.send("GET /health", "", "").0, 503);
    let head = server.refuses(&json!({"input": "a"}), "", 503, "stopped");
    assert!(head.contains("retry-after: 1"), "{head}");
    server.stop();
}

#[test]
fn the_server_shows_metrics() {
    let server = Server::start(LoadOptions::default());
    server.embed(&json!({"input": TEXTS}));
    let (status, _, metrics) = server.send("GET /metrics", "", "");
    assert_eq!(status, 200);
    for line in [
        "mlx_embed_requests_total{model=\"(built-in model)\",outcome=\"done\"}",
        "mlx_embed_request_duration_seconds_bucket{model=\"(built-in model)\",le=\"0.001\"}",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
}

#[test]
fn a_server_that_stops_answers_what_it_has_taken() {
    let mut server = Server::start(LoadOptions::default());
    let address = server.address;
    let text = "many words ".repeat(200);
    let body = json!({"input": vec![text; 60]}).to_string();
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    let head = format!(
        "POST /v1/embeddings HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    // Where this thread never runs while the texts wait, they are answered already.
    let start = Instant::now();
    while METRICS.render().is_empty()
        || (server.embedder.queued() == [0, 0] && start.elapsed() < Duration::from_secs(60))
    {
        thread::sleep(Duration::from_millis(1));
    }
    server.stop();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn a_folder_is_asked_while_it_is_read_and_afterwards() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let embedder = Embedder::default_model().unwrap();
    let output = Shared::default();
    let all = || {
        let text = output.text();
        let passages = text.split(' ').next().unwrap().to_owned();
        (text.contains(&format!("; {passages} of {passages} passages searched")), text)
    };
    // The first at once, and then until everything is embedded.
    let questions = iter::from_fn(|| {
        thread::sleep(Duration::from_millis(20));
        (!all().0).then(|| Ok("what was the small model distilled from?".to_owned()))
    });
    rag_example::chat(&embedder, &folder, questions.take(3000), &mut output.clone()).unwrap();
    let (answered, text) = all();
    assert!(answered, "{text}");
    let last: Vec<&str> = text.lines().rev().take(4).collect();
    assert!(last[1..].iter().all(|line| line.contains(" default/README.md: ")), "{text}");
    assert!(last[1..].iter().any(|line| line.contains("MiniLM")), "{text}");
}

/// Output that can be looked at meanwhile.
#[derive(Clone, Default)]
struct Shared(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl Shared {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn sentences_are_nearest_to_those_that_mean_the_same() {
    let embedder = Embedder::default_model().unwrap();
    let similarities = similarity_example::similarities(&embedder, &similarity_example::SENTENCES).unwrap();
    let nearest: Vec<usize> = (0..4).map(|index| similarity_example::nearest(&similarities, index)).collect();
    assert_eq!(nearest, [1, 0, 3, 2], "{similarities:?}");
    similarity_example::main().unwrap();
}

#[test]
fn a_pooling_of_ones_own_is_another_mean() {
    let embedder = Embedder::default_model().unwrap();
    let own = custom_pooling_example::weighted_mean(&embedder, TEXTS[0]).unwrap();
    let usual = embedder.embed_one(TEXTS[0]).unwrap().vector;
    let cosine: f32 = own.iter().zip(&usual).map(|(a, b)| a * b).sum();
    assert!(own.len() == usual.len() && (0.8..0.9999).contains(&cosine), "{cosine}");
    custom_pooling_example::main().unwrap();
}

#[test]
fn a_checkpoint_of_ones_own_is_shown_and_asked() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    let mut output = Vec::new();
    own_checkpoint_example::show(&golden.join("st-last-token"), &mut output).unwrap();
    let output = String::from_utf8(output).unwrap();
    assert!(output.contains("q_proj: {\"dense bf16\": 2}") && output.contains("last-token"), "{output}");
    assert_eq!(output.lines().filter(|line| line.ends_with('.')).count(), 2, "{output}");
    let error = own_checkpoint_example::show(&golden.join("no-such-case"), &mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("config.json"), "{error}");
}

#[test]
fn texts_are_embedded_with_a_checkpoint_from_disk() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/default");
    let mut output = Vec::new();
    embed_example::embed(&model, &TEXTS, &mut output).unwrap();
    let output = String::from_utf8(output).unwrap();
    assert_eq!(output.matches("384 numbers").count(), 2, "{output}");
}

#[test]
fn a_host_kernel_runs_between_operations_of_mlx() {
    host_kernel_example::main().unwrap();
}
