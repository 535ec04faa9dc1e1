//! `mlx-embed serve`, from its start to SIGTERM.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

#[cfg(feature = "hub")]
use super::support::until;
use super::support::{Started, binary, golden, run};

/// A service and where it listens.
struct Service {
    process: Started,
    address: String,
}

impl Service {
    fn start(arguments: &[&str]) -> Self {
        let mut process = Started::of(binary().args(["serve", "--listen", "127.0.0.1:0"]).args(arguments));
        let address = process.address();
        Self { process, address }
    }

    fn ask(&self, path: &str, body: &Value) -> (u16, Value) {
        let body = body.to_string();
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or_else(|_| panic!("{answer}")))
    }
}

#[test]
fn without_a_file_the_built_in_model_answers_until_it_is_told_to_end() {
    let mut service = Service::start(&[]);
    let (status, body) = service.ask("/v1/embeddings", &json!({"input": "The cat sat on the mat"}));
    assert_eq!((status, body["data"][0]["embedding"].as_array().unwrap().len()), (200, 384), "{body}");
    assert_eq!(body["model"], "default");

    let mut stream = TcpStream::connect(&service.address).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
    let mut metrics = String::new();
    stream.read_to_string(&mut metrics).unwrap();
    assert!(metrics.contains("mlx_embed_texts_total{model=\"default\"} 1"), "{metrics}");

    assert_eq!(terminate(&mut service.process), Some(0));
}

/// Asks the process to end, and waits for that.
fn terminate(process: &mut Started) -> Option<i32> {
    process.send("TERM");
    process.ended().code()
}

/// From a hub that takes connections and says nothing.
#[cfg(feature = "hub")]
#[test]
fn sigterm_ends_a_service_that_waits_for_its_models() {
    for load in ["at-start", "first-use"] {
        let hub = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("serve.yaml");
        let models = format!("models: [{{name: m, path: nobody/nothing, load: {load}}}]");
        fs::write(&file, format!("limits: {{timeout-ms: 1000}}\n{models}\n")).unwrap();
        let mut command = binary();
        command.args(["serve", "--listen", "127.0.0.1:0", "--config", file.to_str().unwrap()]);
        command.env("HF_ENDPOINT", format!("http://{}", hub.local_addr().unwrap()));
        let mut process = Started::of(command.env("HF_HUB_CACHE", folder.path()));
        let mut asking = None;
        if load == "first-use" {
            let mut client = TcpStream::connect(process.address()).unwrap();
            let (body, head) =
                (r#"{"inputs": "a"}"#, "POST /embed HTTP/1.1\r\nhost: a\r\ncontent-type: application/json");
            write!(client, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
            asking = Some(client);
        }
        hub.set_nonblocking(true).unwrap();
        let _asked = until("the hub is asked", || hub.accept().ok());
        assert_eq!(terminate(&mut process), Some(0), "{load}");
        drop(asking);
    }
}

#[test]
fn a_file_names_several_models_and_flags_go_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("serve.yaml");
    let yaml = format!(
        "listen: 127.0.0.1:1\nlimits: {{inputs: 7}}\nmodels:\n  - {{name: small}}\n  \
         - {{name: ranker, kind: reranker, path: {}}}\n",
        golden("families/reranker-bert-sigmoid").display()
    );
    fs::write(&file, yaml).unwrap();
    let file = file.to_str().unwrap();
    let checked = run(binary().args(["serve", "--check-config", "--config", file])).done();
    assert!(checked.stdout.contains("small: built in"), "{}", checked.stdout);

    let service = Service::start(&["--config", file, "--inputs", "2"]);
    let (status, body) = service.ask("/v1/rerank", &json!({"query": "a", "documents": ["b", "c"]}));
    assert_eq!((status, body["results"].as_array().map(Vec::len)), (200, Some(2)), "{body}");
    let (status, body) = service.ask("/v1/rerank", &json!({"query": "a", "documents": ["b", "c", "d"]}));
    assert_eq!(status, 413, "{body}");
}

#[test]
fn what_cannot_start_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("serve.yaml");
    fs::write(&file, "models:\n  - name: a\n    treads: 1\n").unwrap();
    let file = file.to_str().unwrap();
    run(binary().args(["serve", "--config", file])).failed(2, &["serve.yaml", "did you mean `threads`?"]);
    run(binary().args(["serve", "--config", "none.yaml"])).failed(2, &["none.yaml"]);
    run(binary().args(["serve", "--config", file, "--model", "x"])).failed(2, &["--model"]);
    run(binary().args(["serve", "--model", "no/such"])).failed(1, &["no/such"]);
    run(binary().args(["serve", "--listen", "nowhere"])).failed(2, &["listen is \"nowhere\""]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    run(binary().args(["serve", "--listen", &address])).failed(1, &[&address]);
}

#[test]
fn a_check_of_the_configuration_opens_the_models_files() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("serve.yaml");
    let check = |model: &str| {
        fs::write(&file, format!("models:\n  - {{name: small}}\n  - {{name: other, {model}}}\n")).unwrap();
        run(binary().args(["serve", "--check-config", "--config", file.to_str().unwrap()]))
    };
    fs::create_dir(folder.path().join("empty")).unwrap();
    let reranker = golden("families/reranker-bert-sigmoid").display().to_string();
    check("path: ./nowhere").failed(1, &["model \"other\"", "nowhere"]);
    check("path: empty").failed(1, &["model \"other\"", "empty/config.json"]);
    check(&format!("path: {reranker}")).failed(1, &["model \"other\"", "Reranker"]);
    check(&format!("kind: reranker, path: {}", golden("families/bert-f32").display()))
        .failed(1, &["model \"other\"", "architectures"]);
    // Settings that don't fit the model.
    for (setting, parts) in [
        ("threads: 5000", ["threads is 5000", "1024"]),
        ("max-tokens: 100000", ["max_tokens is 100000", "positions"]),
        ("default-prompt: haiku", ["haiku", "none"]),
    ] {
        let path = golden("families/bert-f32").display().to_string();
        let [what, why] = parts;
        check(&format!("path: {path}, {setting}")).failed(1, &["model \"other\"", what, why]);
    }
    let checked = check(&format!("kind: reranker, path: {reranker}")).done();
    assert!(checked.stdout.contains(&format!("other: {reranker}")), "{}", checked.stdout);
    // Lenient is what is left out, and no other fault.
    for name in ["config.json", "model.safetensors"] {
        fs::copy(golden("families/bert-f32").join(name), folder.path().join("empty").join(name)).unwrap();
    }
    check("lenient: true, path: empty").failed(1, &["model \"other\"", "empty/tokenizer.json"]);
    let keys = |file: &str| run(binary().args(["serve", "--check-config", "--api-keys-file", file]));
    keys("no/such/keys").failed(2, &["no/such/keys"]);
    keys("/dev/null").failed(2, &["api-keys-file", "has no key"]);
}

#[test]
fn a_client_that_sends_half_a_request_does_not_keep_it_from_ending() {
    let mut service = Service::start(&["--timeout-ms", "500"]);
    let mut head = TcpStream::connect(&service.address).unwrap();
    write!(head, "POST /embed HTT").unwrap();
    let mut body = TcpStream::connect(&service.address).unwrap();
    write!(
        body,
        "POST /embed HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{{"
    )
    .unwrap();
    let (status, _) = service.ask("/embed", &json!({"inputs": "a"}));
    assert_eq!(status, 200);
    assert_eq!(terminate(&mut service.process), Some(0));
}

#[test]
fn files_without_an_end_are_refused() {
    let endless = |arguments: &[&str]| {
        run(binary().arg("serve").args(arguments)).failed(2, &["/dev/zero", "more than 8388608 bytes"]);
    };
    endless(&["--check-config", "--config", "/dev/zero"]);
    endless(&["--listen", "127.0.0.1:0", "--api-keys-file", "/dev/zero"]);
}
