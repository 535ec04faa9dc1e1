//! The service as its clients see it: the built-in model and a small reranker behind a router.
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

mod support;

use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Request, StatusCode};
use base64::{Engine, prelude::BASE64_STANDARD};
use mlx_embed_server::{Config, Kind, Load, ModelConfig, Models};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::ServiceExt;

use support::{answer, ask, bytes, checkpoint, get, message, numbers, post, service_of};

fn config() -> Config {
    let mut reranker = ModelConfig::new("ranker", Some(checkpoint("reranker-bert-sigmoid")));
    reranker.kind = Kind::Reranker;
    reranker.load = Load::FirstUse;
    Config { models: vec![ModelConfig::new("small", None), reranker], ..Config::default() }
}

async fn service() -> Router {
    service_of(&config()).await.1
}

#[tokio::test]
async fn vectors_are_the_librarys_in_each_form_that_clients_ask_for() {
    let router = service().await;
    let embedder = mlx_embed::Embedder::default_model().unwrap();
    let texts = ["The cat sat on the mat", "naïve 🦀"];
    let expected: Vec<Vec<f32>> =
        embedder.embed(texts).unwrap().into_iter().map(|each| each.vector).collect();

    let request = json!({"model": "small", "input": texts});
    let body = answer(&router, "/v1/embeddings", request, StatusCode::OK).await;
    assert_eq!(body["model"], "small");
    for (index, expected) in expected.iter().enumerate() {
        assert_eq!(&numbers(&body["data"][index]["embedding"]), expected);
        assert_eq!(body["data"][index]["index"], index);
    }
    assert!(body["usage"]["prompt_tokens"].as_u64().unwrap() > 8, "{body}");

    let request = json!({"input": texts[0], "encoding_format": "base64", "dimensions": 64});
    let body = answer(&router, "/v1/embeddings", request, StatusCode::OK).await;
    let raw = BASE64_STANDARD.decode(body["data"][0]["embedding"].as_str().unwrap()).unwrap();
    let cut: Vec<f32> =
        raw.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
    assert_eq!(cut.len(), 64);
    assert!((cut.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);

    let ids = embedder.token_ids(texts[0], &Default::default()).unwrap();
    for input in [json!(ids), json!([ids])] {
        let body = answer(&router, "/v1/embeddings", json!({"input": input}), StatusCode::OK).await;
        assert_eq!(numbers(&body["data"][0]["embedding"]), expected[0], "{input}");
    }

    let body = answer(&router, "/embed", json!({"inputs": texts}), StatusCode::OK).await;
    assert_eq!(body.as_array().unwrap().len(), 2);
    assert_eq!(numbers(&body[1]), expected[1]);
}

#[tokio::test]
async fn documents_are_ranked_as_the_library_ranks_them() {
    let router = service().await;
    let documents = ["A feline rested on the rug", "The stock market crashed today", ""];
    let query = "where do cats sleep?";
    let reranker = mlx_embed::Reranker::load(checkpoint("reranker-bert-sigmoid")).unwrap();
    let expected = reranker.rerank(query, &documents).unwrap();

    let request = json!({"query": query, "documents": [documents[0], {"text": documents[1]}, documents[2]],
        "top_n": 2, "return_documents": true, "max_tokens_per_doc": 4096});
    for path in ["/v1/rerank", "/v2/rerank"] {
        let body = answer(&router, path, request.clone(), StatusCode::OK).await;
        let results = body["results"].as_array().unwrap();
        assert_eq!(results.len(), 2);
        for (result, expected) in results.iter().zip(&expected) {
            assert_eq!(result["index"], expected.index);
            assert_eq!(result["relevance_score"].as_f64().unwrap() as f32, expected.score);
            assert_eq!(result["document"]["text"], documents[expected.index]);
        }
        assert_eq!(body["usage"]["total_tokens"], expected.iter().map(|each| each.tokens).sum::<usize>());
    }

    let request = json!({"query": query, "texts": documents, "raw_scores": true});
    let body = answer(&router, "/rerank", request, StatusCode::OK).await;
    let raw = body[0]["score"].as_f64().unwrap();
    let score = 1.0 / (1.0 + (-raw).exp());
    assert!((score - f64::from(expected[0].score)).abs() < 1e-6, "{body}");
    assert_eq!(body.as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn what_cannot_be_answered_is_an_error_that_says_why() {
    let mut config = config();
    config.limits.inputs = 3;
    config.limits.body_bytes = 4096;
    let (_, router) = service_of(&config).await;
    let long = "word ".repeat(2000);
    let cases = [
        ("/v1/embeddings", json!({"input": []}), 400, "input is empty"),
        ("/v1/embeddings", json!({"input": ["a", "b", "c", "d"]}), 413, "the limit is 3"),
        (
            "/v1/rerank",
            json!({"query": "a", "documents": ["b", "c d e f g h"], "max_tokens_per_doc": 7}),
            400,
            "max_tokens_per_doc is 7, but the pair with document 1",
        ),
        (
            "/v1/rerank",
            json!({"query": "a", "documents": ["b"], "max_tokens_per_doc": 0}),
            422,
            "max_tokens_per_doc",
        ),
        ("/v1/embeddings", json!({"input": 7}), 422, "input must be a string"),
        ("/v1/embeddings", json!({}), 422, "input"),
        ("/v1/embeddings", json!({"input": "a", "dimensions": 0}), 422, "dimensions"),
        ("/v1/embeddings", json!({"input": "a", "dimensions": 100_000}), 400, "dimensions is 100000"),
        ("/v1/embeddings", json!({"input": "a", "input_type": "nothing"}), 400, "nothing"),
        ("/v1/embeddings", json!({"input": "a", "model": "large"}), 404, "there is small"),
        ("/v1/embeddings", json!({"input": "a", "model": "ranker"}), 400, "is no embedder"),
        ("/v1/embeddings", json!({"input": [[4_000_000]]}), 422, "vocabulary"),
        ("/v1/embeddings", json!({"input": &long}), 413, "more than 4096 bytes (limits.body-bytes)"),
        ("/v1/rerank", json!({"query": "a", "documents": []}), 400, "documents is empty"),
        ("/v1/rerank", json!({"query": "a", "documents": ["b"], "model": "small"}), 400, "is no reranker"),
        ("/v1/rerank", json!({"query": "a", "documents": [1]}), 422, "a document must be"),
        ("/rerank", json!({"query": "a"}), 422, "texts"),
        ("/embed", json!({"inputs": "word ".repeat(600)}), 413, "truncate"),
        ("/nowhere", json!({}), 404, "no such endpoint"),
        // Others' fields that change what comes back, and misspelt ones.
        ("/v1/embeddings", json!({"input": "a", "normalized": false}), 422, "unknown field `normalized`"),
        ("/v1/embeddings", json!({"input": "a", "input_typ": "query"}), 422, "`input_type`"),
        ("/embed", json!({"inputs": "a", "normalise": false}), 422, "`normalize`"),
        ("/rerank", json!({"query": "a", "texts": ["b"], "raw_score": true}), 422, "`raw_scores`"),
        ("/v1/rerank", json!({"query": "a", "documents": ["b"], "rank_fields": ["c"]}), 422, "rank_fields"),
        ("/tokenize", json!({"inputs": "a", "add_special_token": false}), 422, "`add_special_tokens`"),
        ("/v1/embeddings", json!({"input": null}), 422, "input must be a string"),
        // An object's fields by their order.
        (
            "/v1/embeddings",
            json!(["small", "a", null, null, null, null]),
            422,
            "an object with the fields model, input",
        ),
    ];
    for (path, body, status, part) in cases {
        let status = StatusCode::from_u16(status).unwrap();
        let answer = answer(&router, path, body, status).await;
        assert!(message(&answer).contains(part), "{path}: {part}: {answer}");
    }
    let broken = Request::post("/embed").header("content-type", "application/json").body("{".into()).unwrap();
    assert_eq!(ask(&router, broken).await.0, StatusCode::BAD_REQUEST);
    let mut zipped = post("/embed", &json!({"inputs": "a"}));
    zipped.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
    let (status, answer) = ask(&router, zipped).await;
    assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert!(message(&answer).contains("uncompressed"), "{answer}");
    // What says nothing of vectors is taken.
    for (path, request) in [
        ("/v1/embeddings", json!({"input": "a", "user": "somebody"})),
        ("/v2/rerank", json!({"query": "a", "documents": ["b"], "priority": 1})),
        // Nor does a null.
        (
            "/v1/embeddings",
            json!({"input": "a", "dimensions": null, "encoding_format": null, "user": null, "seed": null}),
        ),
        ("/embed", json!({"inputs": "a", "normalize": null, "truncate": null, "truncation_direction": null})),
        (
            "/rerank",
            json!({"query": "a", "texts": ["b"], "truncate": null, "raw_scores": null, "return_text": null}),
        ),
        (
            "/v1/rerank",
            json!({"query": "a", "documents": ["b"], "return_documents": null, "rank_fields": null}),
        ),
        ("/tokenize", json!({"inputs": "a", "add_special_tokens": null, "prompt_name": null})),
    ] {
        self::answer(&router, path, request, StatusCode::OK).await;
    }
    // Before it is sent, if the client waits to be told so, and else where it is too long.
    let mut declared = post("/embed", &Value::Null);
    declared.headers_mut().insert("content-length", "4097".parse().unwrap());
    declared.headers_mut().insert("expect", "100-continue".parse().unwrap());
    *declared.body_mut() = Body::new(Never);
    let mut chunked = post("/embed", &Value::Null);
    *chunked.body_mut() = Body::from(json!({"inputs": long}).to_string());
    for request in [declared, chunked] {
        let (status, answer) = ask(&router, request).await;
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
        assert!(message(&answer).contains("limits.body-bytes"), "{answer}");
    }
    let untyped = Request::post("/embed").body("{}".into()).unwrap();
    assert_eq!(ask(&router, untyped).await.0, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(ask(&router, get("/embed")).await.0, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn time_that_a_client_gives_is_kept_to() {
    let router = service().await;
    let with = |value: &'static str| {
        let mut request = post("/embed", &json!({"inputs": "a"}));
        request.headers_mut().insert("x-request-timeout-ms", value.parse().unwrap());
        request
    };
    assert_eq!(ask(&router, with("60000")).await.0, StatusCode::OK);
    for wrong in ["0", "soon", "-1"] {
        assert_eq!(ask(&router, with(wrong)).await.0, StatusCode::BAD_REQUEST, "{wrong}");
    }
    // More than a millisecond's work.
    let texts = vec!["word ".repeat(200); 64];
    let mut request = post("/embed", &json!({"inputs": texts}));
    request.headers_mut().insert("x-request-timeout-ms", "1".parse().unwrap());
    let (status, body) = ask(&router, request).await;
    assert_eq!(status, StatusCode::GATEWAY_TIMEOUT, "{body}");
}

#[tokio::test]
async fn keys_are_asked_for_where_there_are_some() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    std::fs::write(&keys, "\u{feff}first\r\n\r\n# of the shop\n second \nkäse\n").unwrap();
    let config = Config { api_keys_file: Some(keys.clone()), ..Config::default() };
    let (models, router) = service_of(&config).await;
    let with = |key: &str| {
        let mut request = post("/embed", &json!({"inputs": "a"}));
        request.headers_mut().insert("authorization", HeaderValue::from_bytes(key.as_bytes()).unwrap());
        request
    };
    for (key, status) in [
        ("Bearer first", StatusCode::OK),
        ("bearer first", StatusCode::OK),
        ("Bearer käse", StatusCode::OK),
        ("Bearer First", StatusCode::UNAUTHORIZED),
        ("Basic  first", StatusCode::UNAUTHORIZED),
        ("Bearer second", StatusCode::OK),
        ("Bearer firs", StatusCode::UNAUTHORIZED),
        ("Bearer # of the shop", StatusCode::UNAUTHORIZED),
        ("Bearer ", StatusCode::UNAUTHORIZED),
        ("first", StatusCode::UNAUTHORIZED),
    ] {
        assert_eq!(ask(&router, with(key)).await.0, status, "{key}");
    }
    assert_eq!(ask(&router, post("/embed", &json!({"inputs": "a"}))).await.0, StatusCode::UNAUTHORIZED);
    let (status, headers, _) = bytes(&router, get("/v1/models")).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert_eq!(headers["www-authenticate"], "Bearer");
    assert_eq!(ask(&router, get("/health")).await.0, StatusCode::OK);

    std::fs::write(&keys, "# none\n").unwrap();
    let error = mlx_embed_server::router(models, &config, None).unwrap_err().to_string();
    assert!(error.contains("has no key"), "{error}");
}

#[tokio::test]
async fn too_many_at_once_are_told_to_come_again() {
    let mut config = Config::default();
    config.limits.concurrent_requests = 1;
    // However busy the machine is.
    config.limits.timeout_ms = 600_000;
    let (_, router) = service_of(&config).await;
    let texts = vec!["word ".repeat(200); 256];
    let first = tokio::spawn({
        let router = router.clone();
        async move { ask(&router, post("/embed", &json!({"inputs": texts}))).await.0 }
    });
    let refused = loop {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let (status, headers, _) = bytes(&router, post("/embed", &json!({"inputs": "a"}))).await;
        if status != StatusCode::OK || first.is_finished() {
            break (status, headers);
        }
    };
    assert_eq!(refused.0, StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.1.contains_key("retry-after"));
    assert_eq!(first.await.unwrap(), StatusCode::OK);
    answer(&router, "/embed", json!({"inputs": "a"}), StatusCode::OK).await;
}

#[tokio::test]
async fn who_looks_after_it_sees_what_is_loaded() {
    let router = service().await;
    let (_, models) = ask(&router, get("/v1/models")).await;
    assert_eq!((&models["data"][0]["id"], &models["data"][1]["id"]), (&json!("small"), &json!("ranker")));
    assert_eq!(ask(&router, get("/health")).await.0, StatusCode::OK);
    assert_eq!(ask(&router, get("/ready")).await.0, StatusCode::OK);
    let (_, info) = ask(&router, get("/info")).await;
    assert_eq!((&info["model_id"], &info["max_input_length"]), (&json!("small"), &json!(512)));
    let (_, _, metrics) = bytes(&router, get("/metrics")).await;
    assert_eq!(metrics, "texts_total 1\n");
    let (_, document) = ask(&router, get("/openapi.json")).await;
    for path in
        ["/v1/embeddings", "/v1/rerank", "/embed", "/rerank", "/info", "/health", "/ready", "/metrics"]
    {
        assert!(document["paths"][path].is_object(), "{path}");
    }
    let (status, headers, _) = bytes(&router, get("/")).await;
    assert_eq!(status, StatusCode::OK);
    assert!(headers["content-type"].to_str().unwrap().starts_with("text/html"));

    let (_, headers, _) = bytes(&router, get("/health")).await;
    assert!(!headers["x-request-id"].is_empty());
    let mut request = get("/health");
    request.headers_mut().insert("x-request-id", "mine".parse().unwrap());
    assert_eq!(bytes(&router, request).await.1["x-request-id"], "mine");
}

#[tokio::test]
async fn an_idle_model_goes_and_comes_back() {
    let mut config = config();
    config.models[1].idle_seconds = Some(1);
    let (models, router) = service_of(&config).await;
    let again = || answer(&router, "/v1/rerank", json!({"query": "a", "documents": ["b"]}), StatusCode::OK);
    let first = again().await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(ask(&router, get("/ready")).await.0, StatusCode::OK);
    assert_eq!(again().await, first);
    // Blocks, as the library's does.
    tokio::task::spawn_blocking(move || models.shut_down()).await.unwrap();
    assert_eq!(ask(&router, get("/ready")).await.0, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_model_that_is_not_there_stops_the_start_or_its_request() {
    let mut config =
        Config { models: vec![ModelConfig::new("gone", Some("no/such/folder".into()))], ..Config::default() };
    let error = Models::load(&config).await.unwrap_err().to_string();
    assert!(error.contains("gone") && error.contains("no/such/folder"), "{error}");
    config.models[0].load = Load::FirstUse;
    let (_, router) = service_of(&config).await;
    let body = answer(&router, "/embed", json!({"inputs": "a"}), StatusCode::SERVICE_UNAVAILABLE).await;
    assert!(message(&body).contains("no/such/folder"), "{body}");
}

/// Over a socket: a client that goes away takes its request back, and the next one is answered.
#[tokio::test]
async fn a_client_that_goes_away_takes_its_request_back() {
    let (models, router) = service_of(&Config::default()).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let body = json!({"inputs": vec!["word ".repeat(400); 2000]}).to_string();
    let head = |length: usize| {
        format!(
            "POST /embed HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        )
    };
    let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
    client.write_all(head(body.len()).as_bytes()).await.unwrap();
    client.write_all(body.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop(client);

    let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
    let body = json!({"inputs": "a"}).to_string();
    client.write_all(format!("{}{body}", head(body.len())).as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    tokio::task::spawn_blocking(move || models.shut_down()).await.unwrap();
}

/// Over a socket: clients write a request to its end before they read the answer.
#[tokio::test]
async fn a_body_that_is_too_large_is_answered_and_not_broken_off() {
    let mut config = Config::default();
    config.limits.body_bytes = 4096;
    let (_, router) = service_of(&config).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    // More than the system keeps for a reader.
    let body = vec![b' '; 32 << 20];
    let head = format!(
        "POST /embed HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
    client.write_all(head.as_bytes()).await.unwrap();
    client.write_all(&body).await.unwrap();
    let mut answer = [0; 12];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
}

/// A body of which nothing comes.
struct Never;

impl axum::body::HttpBody for Never {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, std::io::Error>>> {
        std::task::Poll::Pending
    }
}

#[tokio::test]
async fn a_body_that_does_not_come_keeps_its_place_for_a_time_only() {
    let mut config = Config::default();
    config.limits.concurrent_requests = 1;
    config.limits.timeout_ms = 300;
    let (_, router) = service_of(&config).await;
    let mut request = post("/embed", &Value::Null);
    *request.body_mut() = Body::new(Never);
    let (status, body) = ask(&router, request).await;
    assert_eq!(status, StatusCode::GATEWAY_TIMEOUT, "{body}");
    answer(&router, "/embed", json!({"inputs": "a"}), StatusCode::OK).await;
}

#[tokio::test]
async fn an_answer_keeps_its_place_until_it_is_read() {
    let mut config = Config::default();
    config.limits.concurrent_requests = 1;
    let (_, router) = service_of(&config).await;
    let request = || post("/embed", &json!({"inputs": "a"}));
    let unread = router.clone().oneshot(request()).await.unwrap();
    assert_eq!(unread.status(), StatusCode::OK);
    assert_eq!(ask(&router, request()).await.0, StatusCode::TOO_MANY_REQUESTS);
    drop(unread);
    assert_eq!(ask(&router, request()).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_model_is_loaded_on_where_nobody_waits_for_it_any_more() {
    let mut config = Config::default();
    config.models[0].load = Load::FirstUse;
    let (_, router) = service_of(&config).await;
    // Less time than it takes to load.
    for _ in 0..3 {
        let asked = ask(&router, post("/embed", &json!({"inputs": "a"})));
        let _ = tokio::time::timeout(Duration::from_millis(10), asked).await;
    }
    let start = std::time::Instant::now();
    while ask(&router, get("/info")).await.1["max_input_length"].is_null() {
        assert!(start.elapsed() < Duration::from_secs(120), "the model is not there");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
