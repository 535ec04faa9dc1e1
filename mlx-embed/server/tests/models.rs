//! What a configuration says of models: prompts, lanes, memory; and what clients are told of them.
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

mod support;

use std::sync::Arc;

use axum::http::StatusCode;
use mlx_embed::{EmbedOptions, Embedder, Prompt};
use mlx_embed_server::{Config, Models};
use serde_json::{Value, json};

use support::{answer, ask, checkpoint, get, message, numbers, post, service_of};

fn config(yaml: &str) -> Config {
    let ranker = checkpoint("reranker-bert-sigmoid");
    Config::from_yaml(&yaml.replace("RANKER", &ranker.display().to_string())).unwrap()
}

#[tokio::test]
async fn prompts_of_the_configuration_go_before_the_checkpoints() {
    let yaml = "models: [{name: a, prompts: {query: 'search: ', document: ''}, default-prompt: query}]";
    let (_, router) = service_of(&config(yaml)).await;
    let embedder = Embedder::default_model().unwrap();
    let expected = |prompt: &str| {
        let options = EmbedOptions { prompt: Prompt::Text(prompt.into()), ..Default::default() };
        embedder.embed_with(&["a cat"], &options).unwrap().remove(0).vector
    };
    for (input_type, prompt) in
        [(Value::Null, "search: "), (json!("query"), "search: "), (json!("document"), "")]
    {
        let request = json!({"input": "a cat", "input_type": input_type});
        let body = answer(&router, "/v1/embeddings", request, StatusCode::OK).await;
        assert_eq!(numbers(&body["data"][0]["embedding"]), expected(prompt), "{input_type}");
        let request = json!({"inputs": "a cat", "prompt_name": input_type});
        assert_eq!(numbers(&answer(&router, "/embed", request, StatusCode::OK).await[0]), expected(prompt));
    }
    let ids = json!({"input": [1], "input_type": "query"});
    let body = answer(&router, "/v1/embeddings", ids, StatusCode::BAD_REQUEST).await;
    assert_eq!(body["error"]["param"], "input_type", "{body}");

    let unknown = config("models: [{name: a, default-prompt: nothing, prompts: {query: q}}]");
    let error = Models::load(&unknown).await.unwrap_err().to_string();
    assert!(error.contains("no prompt `nothing`; it has query"), "{error}");
    let unknown = json!({"input": "a cat", "input_type": "nothing"});
    let body = answer(&router, "/v1/embeddings", unknown, StatusCode::BAD_REQUEST).await;
    assert!(message(&body).contains("it has document, query"), "{body}");
}

#[tokio::test]
async fn a_default_prompt_that_is_replaced_is_so_without_being_named() {
    let folder = tempfile::tempdir().unwrap();
    let from = checkpoint("bert-prefix-cls-f16");
    for name in
        ["config.json", "model.safetensors", "modules.json", "tokenizer.json", "tokenizer_config.json"]
    {
        std::fs::copy(from.join(name), folder.path().join(name)).unwrap();
    }
    std::fs::create_dir(folder.path().join("1_Pooling")).unwrap();
    std::fs::copy(from.join("1_Pooling/config.json"), folder.path().join("1_Pooling/config.json")).unwrap();
    let settings = json!({"prompts": {"query": "old: ", "other": "x"}, "default_prompt_name": "query"});
    std::fs::write(folder.path().join("config_sentence_transformers.json"), settings.to_string()).unwrap();
    let path = folder.path().display();
    let (_, router) =
        service_of(&config(&format!("models: [{{name: a, path: {path}, prompts: {{query: 'new: '}}}}]")))
            .await;
    let vector = async |request: Value| {
        numbers(&answer(&router, "/v1/embeddings", request, StatusCode::OK).await["data"][0]["embedding"])
    };
    let named = vector(json!({"input": "a cat", "input_type": "query"})).await;
    assert_eq!(vector(json!({"input": "a cat"})).await, named);
    assert_ne!(vector(json!({"input": "a cat", "input_type": "other"})).await, named);
}

#[tokio::test]
async fn lanes_are_the_models_or_the_requests() {
    let (_, router) = service_of(&config("models: [{name: a, lane: bulk}]")).await;
    for (lane, status) in [("query", 200), ("bulk", 200), ("auto", 200), ("fast", 400)] {
        let mut request = post("/embed", &json!({"inputs": "a"}));
        request.headers_mut().insert("x-lane", lane.parse().unwrap());
        let (found, body) = ask(&router, request).await;
        assert_eq!(found.as_u16(), status, "{lane}: {body}");
    }
    let error = Config::from_yaml("models: [{name: a, lane: slow}]").unwrap_err().to_string();
    assert!(error.contains("slow") && error.contains("bulk"), "{error}");
}

#[tokio::test]
async fn a_limit_on_memory_unloads_what_was_asked_for_longest_ago() {
    let bytes = mlx_embed::Checkpoint::default_model().unwrap().weights_bytes();
    let models = "models:
  - {name: a, load: first-use}
  - {name: b, load: first-use}
  - {name: c, load: first-use}";
    // Room for two.
    let (_, router) =
        service_of(&config(&format!("limits: {{model-bytes: {}}}\n{models}", bytes * 2 + 1))).await;
    let loaded = async || {
        let (_, list) = ask(&router, get("/v1/models")).await;
        let loaded = list["data"].as_array().unwrap().iter().filter(|model| model["loaded"] == true);
        loaded.map(|model| model["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for (name, there) in
        [("a", &["a"][..]), ("b", &["a", "b"]), ("a", &["a", "b"]), ("c", &["a", "c"]), ("b", &["b", "c"])]
    {
        answer(&router, "/v1/embeddings", json!({"model": name, "input": "a"}), StatusCode::OK).await;
        assert_eq!(loaded().await, there, "after {name}");
    }
    // All at once: each is answered, whoever has to go for it, and whoever waits for whom.
    for _ in 0..4 {
        let asked = ["a", "b", "c", "a", "b", "c"].map(|name| {
            let router = router.clone();
            tokio::spawn(async move {
                answer(&router, "/v1/embeddings", json!({"model": name, "input": "a"}), StatusCode::OK).await
            })
        });
        for asked in asked {
            asked.await.unwrap();
        }
        assert!(loaded().await.len() <= 2);
    }
}

#[tokio::test]
async fn a_model_that_has_no_room_is_told_so() {
    let bytes = mlx_embed::Checkpoint::default_model().unwrap().weights_bytes();
    let yaml =
        format!("limits: {{model-bytes: {bytes}}}\nmodels: [{{name: a}}, {{name: b, load: first-use}}]");
    let (_, router) = service_of(&config(&yaml)).await;
    let ask = |model: &str, status| {
        answer(&router, "/v1/embeddings", json!({"model": model, "input": "a"}), status)
    };
    let body = ask("b", StatusCode::SERVICE_UNAVAILABLE).await;
    for part in ["\"b\"", "limits.model-bytes", &bytes.to_string(), "load: first-use"] {
        assert!(message(&body).contains(part), "{part}: {body}");
    }
    ask("a", StatusCode::OK).await;
    let both = format!("limits: {{model-bytes: {bytes}}}\nmodels: [{{name: a}}, {{name: b}}]");
    let error = Models::load(&config(&both)).await.unwrap_err().to_string();
    assert!(error.contains("\"b\"") && error.contains("model-bytes"), "{error}");
}

#[tokio::test]
async fn models_are_described() {
    let yaml = "models:
  - {name: owner/small, prompts: {query: 'q: '}}
  - {name: ranker, path: RANKER, kind: reranker, load: first-use}";
    let (models, router) = service_of(&config(yaml)).await;
    let (_, small) = ask(&router, get("/v1/models/owner/small")).await;
    let expected = [
        ("id", json!("owner/small")),
        ("object", json!("model")),
        ("kind", json!("embedder")),
        ("load", json!("at-start")),
        ("loaded", json!(true)),
        ("dimensions", json!(384)),
        ("max_tokens", json!(512)),
        ("prompts", json!(["query"])),
    ];
    for (field, value) in expected {
        assert_eq!(small[field], value, "{field}: {small}");
    }
    assert!(small["device"].is_string(), "{small}");
    let (_, ranker) = ask(&router, get("/v1/models/ranker")).await;
    assert_eq!((&ranker["loaded"], &ranker["max_tokens"]), (&json!(false), &Value::Null), "{ranker}");
    ask(&router, post("/v1/rerank", &json!({"query": "a", "documents": ["b"]}))).await;
    let (_, ranker) = ask(&router, get("/v1/models/ranker")).await;
    assert_eq!((&ranker["loaded"], &ranker["dimensions"]), (&json!(true), &Value::Null), "{ranker}");
    let (status, body) = ask(&router, get("/v1/models/none")).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(message(&body).contains("owner/small, ranker"), "{body}");
    let (status, body) = ask(&router, get("/v1/models/%ff")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(message(&body).contains("UTF-8"), "{body}");
    drop(Arc::clone(&models));
}

#[tokio::test]
async fn texts_are_split_into_the_tokens_that_the_model_sees() {
    let yaml = "models: [{name: a, prompts: {query: 'search: '}}]";
    let (_, router) = service_of(&config(yaml)).await;
    let embedder = Embedder::default_model().unwrap();
    let text = "naïve cats 🦀";
    let tokenize = |request, status| answer(&router, "/tokenize", request, status);
    let body = tokenize(json!({"inputs": [text, ""]}), StatusCode::OK).await;
    let tokens = body[0].as_array().unwrap();
    let ids: Vec<u32> = tokens.iter().map(|token| token["id"].as_u64().unwrap() as u32).collect();
    assert_eq!(ids, embedder.token_ids(text, &EmbedOptions::default()).unwrap());
    for token in tokens {
        let (start, stop) = (token["start"].as_u64(), token["stop"].as_u64());
        assert_eq!(token["special"].as_bool().unwrap(), start.is_none(), "{token}");
        if let (Some(start), Some(stop)) = (start, stop) {
            assert_eq!(token["text"], text[start as usize..stop as usize], "{token}");
        }
    }
    assert_eq!((&tokens[0]["special"], &tokens.last().unwrap()["special"]), (&json!(false), &json!(true)));
    let bare = json!({"inputs": text, "add_special_tokens": false});
    let bare = tokenize(bare, StatusCode::OK).await;
    assert_eq!(bare[0].as_array().unwrap(), &tokens[..tokens.len() - 1]);
    let prompted = json!({"inputs": text, "add_special_tokens": false, "prompt_name": "query"});
    let first = &tokenize(prompted, StatusCode::OK).await[0][0];
    assert_eq!((&first["text"], &first["start"]), (&json!("search"), &json!(0)), "{first}");
    let long = json!({"inputs": ["a", "b ".repeat(1 << 20)]});
    let body = tokenize(long, StatusCode::PAYLOAD_TOO_LARGE).await;
    assert!(message(&body).contains("text 1"), "{body}");
}

#[tokio::test]
async fn the_root_answers_as_embed_does_and_cuts_no_other_side_than_the_model() {
    let (_, router) = service_of(&Config::default()).await;
    let request = json!({"inputs": ["a cat"], "truncate": true, "truncation_direction": "Right"});
    let at_root = ask(&router, post("/", &request)).await;
    assert_eq!(at_root, ask(&router, post("/embed", &request)).await);
    assert_eq!(at_root.0, StatusCode::OK);
    let other = json!({"inputs": ["a cat"], "truncate": true, "truncation_direction": "left"});
    let body = answer(&router, "/embed", other, StatusCode::BAD_REQUEST).await;
    assert_eq!(body["error"]["param"], "truncation_direction");
}

#[tokio::test]
async fn a_model_whose_file_was_written_to_is_loaded_anew() {
    let dir = tempfile::tempdir().unwrap();
    let sound = checkpoint("bert-f32");
    std::fs::create_dir(dir.path().join("1_Pooling")).unwrap();
    for file in
        ["config.json", "model.safetensors", "modules.json", "tokenizer.json", "1_Pooling/config.json"]
    {
        std::fs::copy(sound.join(file), dir.path().join(file)).unwrap();
    }
    let weights = dir.path().join("model.safetensors");
    let (_, router) =
        service_of(&config(&format!("models: [{{name: a, path: {}}}]", dir.path().display()))).await;
    let embed = |status| answer(&router, "/v1/embeddings", json!({"input": "a cat"}), status);
    let first = embed(StatusCode::OK).await;

    let bytes = std::fs::read(&weights).unwrap();
    // The clock of a file system may have a resolution of some milliseconds.
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    std::fs::write(&weights, &bytes).unwrap();
    let body = embed(StatusCode::SERVICE_UNAVAILABLE).await;
    assert!(message(&body).contains("written to"), "{body}");
    // What was written is a checkpoint, and the same one.
    assert_eq!(embed(StatusCode::OK).await["data"], first["data"]);
    assert_eq!(ask(&router, get("/ready")).await.0, StatusCode::OK);
}
