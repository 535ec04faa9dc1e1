//! A hub on loopback: what a hub's API answers about one model, and what goes wrong where a test wants it to.
//!
//! Small files come from the hub itself with git's hash as their ETag; those that end in `.safetensors` or `.pt` from
//! another address, a CDN's, with the SHA-256 in `X-Linked-Etag`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{fs, thread};

use sha1::Sha1;
use sha2::{Digest, Sha256};

pub(crate) const MODEL: &str = "owner/name";
pub(crate) const COMMIT: &str = "00112233445566778899aabbccddeeff00112233";

/// What goes wrong with requests whose method and path are these.
pub(crate) struct Fault {
    pub(crate) method: &'static str,
    /// The path's end.
    pub(crate) path: &'static str,
    pub(crate) what: What,
    /// How often.
    pub(crate) times: usize,
}

#[derive(Clone)]
pub(crate) enum What {
    /// Another status, with these headers.
    Status(u16, &'static [(&'static str, &'static str)]),
    /// The connection ends after so many bytes of the body.
    Break(usize),
    /// The first byte is another one.
    Corrupt,
    /// A range is answered with everything.
    Whole,
    /// A range is answered with another one.
    OtherRange,
    /// Another ETag.
    Etag(&'static str),
    /// Another size.
    Size(u64),
    /// So long before the answer.
    Late(Duration),
}

/// A request that came.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
    /// Whether it came to the CDN.
    pub(crate) to_cdn: bool,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, Vec<u8>>,
    commit: String,
    /// Without this token files are refused, as those of a gated model.
    token: Option<String>,
    faults: Vec<Fault>,
    asked: Vec<Asked>,
    cdn: String,
}

pub(crate) struct Server {
    pub(crate) address: String,
    state: Arc<Mutex<State>>,
}

/// The files of a folder, by path.
pub(crate) fn files_of(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                files.insert(name, fs::read(path).unwrap());
            }
        }
    }
    files
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn git_hash(bytes: &[u8]) -> String {
    let hash = Sha1::new().chain_update(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize();
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a hub calls a file's contents.
pub(crate) fn etag(file: &str, bytes: &[u8]) -> String {
    if is_large(file) { sha256(bytes) } else { git_hash(bytes) }
}

fn is_large(file: &str) -> bool {
    [".safetensors", ".pt"].iter().any(|end| file.ends_with(end))
}

impl Server {
    pub(crate) fn of(files: BTreeMap<String, Vec<u8>>) -> Self {
        let [hub, cdn] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [address, cdn_address] =
            [&hub, &cdn].map(|listener| format!("http://{}", listener.local_addr().unwrap()));
        let state = State { files, commit: COMMIT.into(), cdn: cdn_address, ..State::default() };
        let state = Arc::new(Mutex::new(state));
        for (listener, to_cdn) in [(hub, false), (cdn, true)] {
            let state = Arc::clone(&state);
            thread::spawn(move || {
                for connection in listener.incoming() {
                    let state = Arc::clone(&state);
                    // Whoever asks may go away at any moment.
                    thread::spawn(move || answer(&state, connection.unwrap(), to_cdn));
                }
            });
        }
        Self { address, state }
    }

    pub(crate) fn fault(&self, method: &'static str, path: &'static str, what: What, times: usize) {
        self.state.lock().unwrap().faults.push(Fault { method, path, what, times });
    }

    /// Everything works again.
    pub(crate) fn clear(&self) {
        self.state.lock().unwrap().faults.clear();
    }

    pub(crate) fn require(&self, token: &str) {
        self.state.lock().unwrap().token = Some(token.into());
    }

    /// Another commit, with this file changed.
    pub(crate) fn publish(&self, commit: &str, file: &str, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap();
        state.commit = commit.into();
        state.files.insert(file.into(), bytes.into());
    }

    /// The requests since this was asked the last time.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state.lock().unwrap().asked)
    }
}

/// A request's answer; `None` where the connection just ends.
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// How much of the body is sent.
    sent: usize,
}

impl Answer {
    fn new(status: u16, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { status, headers, sent: body.len(), body }
    }

    fn send(self, mut connection: &TcpStream, head_only: bool) -> std::io::Result<()> {
        let mut head = format!("HTTP/1.1 {} x\r\nConnection: close\r\n", self.status);
        if !self.headers.iter().any(|(name, _)| name == "Content-Length") {
            head += &format!("Content-Length: {}\r\n", self.body.len());
        }
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        connection.write_all(head.as_bytes())?;
        connection.write_all(b"\r\n")?;
        if !head_only {
            connection.write_all(&self.body[..self.sent])?;
        }
        connection.flush()
    }
}

fn read(connection: &TcpStream, to_cdn: bool) -> Option<Asked> {
    let mut lines = BufReader::new(connection).lines();
    let first = lines.next()?.ok()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line.ok()?;
        if line.is_empty() {
            return Some(Asked { method, path, headers, to_cdn });
        }
        let (name, value) = line.split_once(':')?;
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    None
}

fn answer(state: &Mutex<State>, connection: TcpStream, to_cdn: bool) {
    let Some(asked) = read(&connection, to_cdn) else { return };
    let (fault, answer) = {
        let mut state = state.lock().unwrap();
        state.asked.push(asked.clone());
        let fault = state.fault(&asked);
        let answer = if to_cdn { state.cdn(&asked, fault.as_ref()) } else { state.hub(&asked) };
        (fault, answer)
    };
    let mut answer = answer;
    match fault {
        Some(What::Status(status, headers)) => answer = Answer::new(status, headers, "no"),
        Some(What::Break(after)) => answer.sent = after.min(answer.body.len()),
        Some(What::Corrupt) => answer.body[0] ^= 1,
        Some(What::Etag(etag)) => {
            answer.headers.retain(|(name, _)| !name.to_ascii_lowercase().ends_with("etag"));
            answer.headers.push(("ETag".into(), etag.into()));
        }
        Some(What::Size(bytes)) => answer.headers.push(("X-Linked-Size".into(), bytes.to_string())),
        Some(What::Late(time)) => thread::sleep(time),
        Some(What::Whole | What::OtherRange) | None => {}
    }
    let _ = answer.send(&connection, asked.method == "HEAD");
}

impl State {
    /// What goes wrong with this request, which is then one less.
    fn fault(&mut self, asked: &Asked) -> Option<What> {
        let fault = self.faults.iter_mut().find(|fault| {
            fault.times > 0 && fault.method == asked.method && asked.path.ends_with(fault.path)
        })?;
        fault.times -= 1;
        Some(fault.what.clone())
    }

    fn hub(&self, asked: &Asked) -> Answer {
        let error = |status, code| Answer::new(status, &[("X-Error-Code", code)], "");
        if let Some(path) = asked.path.strip_prefix("/api/models/") {
            let Some((model, revision)) = path.split_once("/revision/") else {
                return error(404, "RepoNotFound");
            };
            if model != MODEL {
                // So that nobody learns which private models there are.
                return error(401, "RepoNotFound");
            }
            if ![&self.commit, "main"].contains(&revision) {
                return error(404, "RevisionNotFound");
            }
            let files: Vec<_> =
                self.files.keys().map(|file| format!("{{\"rfilename\":\"{file}\",\"more\":1}}")).collect();
            let body = format!("{{\"sha\":\"{}\",\"siblings\":[{}]}}", self.commit, files.join(","));
            return Answer::new(200, &[("Content-Type", "application/json")], body);
        }
        let Some(file) = asked.path.strip_prefix(&format!("/{MODEL}/resolve/{}/", self.commit)) else {
            return error(404, "RepoNotFound");
        };
        let bearer = self.token.as_ref().map(|token| format!("Bearer {token}"));
        if bearer.is_some() && bearer.as_ref() != asked.headers.get("authorization") {
            return error(if asked.headers.contains_key("authorization") { 403 } else { 401 }, "GatedRepo");
        }
        let Some(bytes) = self.files.get(file) else { return error(404, "EntryNotFound") };
        let quoted = format!("\"{}\"", etag(file, bytes));
        if !is_large(file) {
            return Answer::new(200, &[("ETag", &quoted)], bytes.clone());
        }
        let (to, size) = (format!("{}/blob/{file}", self.cdn), bytes.len().to_string());
        let headers = [
            ("X-Linked-Etag", quoted.as_str()),
            ("X-Linked-Size", size.as_str()),
            ("ETag", "\"of-the-redirect\""),
            ("Location", to.as_str()),
        ];
        Answer::new(302, &headers, "moved")
    }

    fn cdn(&self, asked: &Asked, fault: Option<&What>) -> Answer {
        let Some(bytes) = asked.path.strip_prefix("/blob/").and_then(|file| self.files.get(file)) else {
            return Answer::new(404, &[], "");
        };
        let range = asked
            .headers
            .get("range")
            .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
        match (range, fault) {
            (Some(from), _) if from >= bytes.len() => Answer::new(416, &[], ""),
            (Some(from), fault) if !matches!(fault, Some(What::Whole)) => {
                let from = from - usize::from(matches!(fault, Some(What::OtherRange)));
                let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
                Answer::new(206, &[("Content-Range", &range)], &bytes[from..])
            }
            _ => Answer::new(200, &[], bytes.clone()),
        }
    }
}
