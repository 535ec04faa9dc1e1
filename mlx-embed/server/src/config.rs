//! The service's configuration: a YAML file, or a program's own values.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mlx_embed::{
    Checkpoint, Device, Error, Gpus, Lane, LoadOptions, Precision, Prompt, SentenceTransformers, TextError,
};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::auth::Keys;

/// Bytes of a configuration, or of API keys: a hundred thousand of them.
const FILE_BYTES: u64 = 8 << 20;

/// The whole configuration. [`Config::default`] serves the built-in model on 127.0.0.1:8080.
///
/// ```
/// let config = mlx_embed_server::Config::from_yaml(
///     "
/// listen: 127.0.0.1:9000
/// limits: {timeout-ms: 2000}
/// models:
///   - {name: small, path: models/bge-small, precision: fast}
///   - {name: ranker, path: models/bge-reranker, kind: reranker, load: first-use, idle-seconds: 600}
/// ",
/// )?;
/// assert_eq!(config.models.len(), 2);
///
/// let error = mlx_embed_server::Config::from_yaml("lisen: 0.0.0.0:80").unwrap_err();
/// assert!(error.to_string().contains("did you mean `listen`?"), "{error}");
/// # Ok::<(), mlx_embed_server::ConfigError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Config {
    /// Address and port to listen on. Default: 127.0.0.1:8080.
    pub listen: String,
    /// A file with one API key a line. Without it no request needs a key.
    pub api_keys_file: Option<PathBuf>,
    /// Limits of requests and connections.
    pub limits: Limits,
    /// The models. The first one answers requests that name none.
    pub models: Vec<ModelConfig>,
}

/// Limits of requests, connections and memory.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Limits {
    /// Most bytes of a request's body. Default: 8 MiB.
    pub body_bytes: usize,
    /// Most texts of a request, or documents. Default: 2048.
    pub inputs: usize,
    /// Most requests at a time, each from its head until its answer is sent. More get status 429. Default: 512.
    pub concurrent_requests: usize,
    /// Most open connections. More wait until one is closed. Default: 4096.
    pub connections: usize,
    /// Most bytes of weights in memory, over all models, as their files have them. Without it there is no limit.
    ///
    /// If another model wouldn't fit, models that were loaded by their first request are unloaded, beginning with the
    /// one unused for longest.
    pub model_bytes: Option<u64>,
    /// Milliseconds after which a request is given up, counted from its head. The header `x-request-timeout-ms` may ask
    /// for less. Default: 30,000.
    pub timeout_ms: u64,
}

/// A model, and how to run it. Options that are left out have the library's defaults.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ModelConfig {
    /// The model's name in requests.
    pub name: String,
    /// The checkpoint's directory. With the feature `hub` it may be a hub's name, `owner/name[@revision]`, if there is
    /// no such directory; the model is then fetched when it is loaded. Without a path it is the built-in model.
    pub path: Option<PathBuf>,
    /// Whether it is an embedder or a reranker.
    #[serde(default)]
    pub kind: Kind,
    /// When it is loaded.
    #[serde(default)]
    pub load: Load,
    /// Seconds without a request after which it is unloaded. The next request loads it again.
    pub idle_seconds: Option<u64>,
    /// `auto`, `cpu` or `gpu`.
    #[serde(default)]
    pub device: Device,
    /// NVIDIA GPUs that share the work: a number, a list of numbers, or `all`.
    #[serde(default, deserialize_with = "gpus")]
    pub gpu: Gpus,
    /// `exact` or `fast`.
    #[serde(default)]
    pub precision: Precision,
    /// Number of threads on the CPU.
    pub threads: Option<NonZeroUsize>,
    /// As [`LoadOptions::max_tokens`].
    pub max_tokens: Option<NonZeroUsize>,
    /// As [`LoadOptions::batch_tokens`].
    pub batch_tokens: Option<NonZeroUsize>,
    /// As [`LoadOptions::queue_texts`].
    pub queue_texts: Option<NonZeroUsize>,
    /// As [`LoadOptions::queue_bytes`].
    pub queue_bytes: Option<NonZeroUsize>,
    /// As [`LoadOptions::max_text_bytes`].
    pub max_text_bytes: Option<NonZeroUsize>,
    /// As [`LoadOptions::vector_cache`].
    #[serde(default)]
    pub vector_cache: usize,
    /// As [`LoadOptions::lenient`].
    #[serde(default)]
    pub lenient: bool,
    /// Prompts by name. They replace the checkpoint's of the same name.
    #[serde(default)]
    pub prompts: BTreeMap<String, String>,
    /// Name of the prompt for requests that name none: one of these, or of the checkpoint's. Without it the checkpoint's
    /// default.
    pub default_prompt: Option<String>,
    /// The queue's lane for requests that don't name one in the header `x-lane`.
    #[serde(default)]
    pub lane: Lane,
}

/// What a model computes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Vectors of texts.
    #[default]
    Embedder,
    /// Scores of documents for a query.
    Reranker,
}

impl Kind {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Embedder => "embedder",
            Self::Reranker => "reranker",
        }
    }
}

/// When a model is loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Load {
    /// Before the first request is accepted. If it can't be loaded, the service does not start.
    #[default]
    AtStart,
    /// With the first request for it, which waits.
    FirstUse,
}

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        r#source: std::io::Error,
    },
    /// It is no YAML, or has a key or value that is unknown.
    #[error("{name}: {message}")]
    Syntax {
        /// The file.
        name: String,
        /// What is wrong, and in which line.
        message: String,
    },
    /// A value can't be used.
    #[error("{key} {reason}")]
    Value {
        /// Its key.
        key: String,
        /// What is wrong, and what would do.
        reason: String,
    },
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".into(),
            api_keys_file: None,
            limits: Limits::default(),
            models: vec![ModelConfig::new("default", None)],
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 8 << 20,
            inputs: 2048,
            concurrent_requests: 512,
            connections: 4096,
            model_bytes: None,
            timeout_ms: 30_000,
        }
    }
}

impl Limits {
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

/// A number, a list of them, or what [`Gpus`] is read from.
fn gpus<'de, D: Deserializer<'de>>(from: D) -> Result<Gpus, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a GPU's number, a list of them, or `all`")]
    enum Written {
        One(usize),
        Several(Vec<usize>),
        Text(String),
    }
    match Written::deserialize(from)? {
        Written::One(gpu) => Ok(Gpus::At(vec![gpu])),
        Written::Several(gpus) => Ok(Gpus::At(gpus)),
        Written::Text(text) => text.parse().map_err(D::Error::custom),
    }
}

impl ModelConfig {
    /// A model with the library's defaults; the built-in one without a path.
    pub fn new(name: impl Into<String>, path: Option<PathBuf>) -> Self {
        Self {
            name: name.into(),
            path,
            kind: Kind::default(),
            load: Load::default(),
            idle_seconds: None,
            device: Device::default(),
            gpu: Gpus::default(),
            precision: Precision::default(),
            threads: None,
            max_tokens: None,
            batch_tokens: None,
            queue_texts: None,
            queue_bytes: None,
            max_text_bytes: None,
            vector_cache: 0,
            lenient: false,
            prompts: BTreeMap::new(),
            default_prompt: None,
            lane: Lane::default(),
        }
    }

    /// The names of the prompts here and of the checkpoint, if it is known.
    pub(crate) fn prompt_names<'a>(&'a self, files: Option<&'a SentenceTransformers>) -> BTreeSet<&'a str> {
        let theirs = files.into_iter().flat_map(|files| files.prompts.keys());
        self.prompts.keys().chain(theirs).map(String::as_str).collect()
    }

    /// The prompt that a request means by `name`, or has without one.
    pub(crate) fn prompt(&self, name: Option<&str>, theirs: &SentenceTransformers) -> Result<Prompt, Error> {
        let Some(name) = name.or(self.default_prompt.as_deref()) else {
            // The checkpoint's own default may be one that is replaced here.
            let replaced = theirs.default_prompt_name.as_ref().and_then(|name| self.prompts.get(name));
            return Ok(replaced.cloned().map_or(Prompt::Default, Prompt::Text));
        };
        if let Some(text) = self.prompts.get(name) {
            return Ok(Prompt::Text(text.clone()));
        }
        if theirs.prompts.contains_key(name) {
            return Ok(Prompt::Named(name.to_owned()));
        }
        let known = Vec::from_iter(self.prompt_names(Some(theirs))).join(", ");
        let known = if known.is_empty() { "none".to_owned() } else { known };
        Err(TextError::UnknownPrompt { name: name.to_owned(), known }.into())
    }

    /// Whether the model could be loaded: its files are checked, the tokenizer's too, and its settings by them. Of the
    /// weights only the headers are read. No device is looked for.
    ///
    /// # Errors
    /// The error that loading it would give.
    pub fn check(&self) -> Result<(), Error> {
        let checkpoint = match (self.kind, &self.path) {
            (Kind::Embedder, Some(folder)) => Checkpoint::open(folder)?,
            (Kind::Reranker, Some(folder)) => Checkpoint::open_reranker(folder)?,
            #[cfg(feature = "default-model")]
            (_, None) => Checkpoint::default_model()?,
            #[cfg(not(feature = "default-model"))]
            (_, None) => return Err(crate::slot::no_model()),
        };
        checkpoint.check(&self.load_options())?;
        self.prompt(None, checkpoint.sentence_transformers()).map(drop)
    }

    pub(crate) fn load_options(&self) -> LoadOptions {
        LoadOptions {
            device: self.device,
            gpus: self.gpu.clone(),
            precision: self.precision,
            threads: self.threads,
            max_tokens: self.max_tokens.map(NonZeroUsize::get),
            batch_tokens: self.batch_tokens,
            queue_texts: self.queue_texts,
            queue_bytes: self.queue_bytes,
            max_text_bytes: self.max_text_bytes,
            vector_cache: self.vector_cache,
            lenient: self.lenient,
            name: Some(self.name.clone()),
            ..Default::default()
        }
    }
}

impl Config {
    /// Reads a YAML file. Relative paths in it start from its folder.
    ///
    /// # Errors
    /// When the file can't be read, is no YAML, or has an unknown key or an impossible value. The message names the
    /// line.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let mut config = parse(&path.display().to_string(), &read_text(path)?)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let models = config.models.iter_mut().filter_map(|model| model.path.as_mut());
        for path in models.filter(|path| !is_name(path, folder)) {
            *path = folder.join(&path);
        }
        if let Some(path) = &mut config.api_keys_file {
            *path = folder.join(&path);
        }
        Ok(config)
    }

    /// Reads YAML text.
    ///
    /// # Errors
    /// As [`Config::from_file`].
    pub fn from_yaml(text: &str) -> Result<Self, ConfigError> {
        parse("configuration", text)
    }

    /// Checks its values.
    ///
    /// # Errors
    /// When there is no model, two have the same name, a limit is 0, or `listen` is no address with a port.
    pub fn check(&self) -> Result<(), ConfigError> {
        let wrong =
            |key: &str, reason: &str| Err(ConfigError::Value { key: key.into(), reason: reason.into() });
        if !has_port(&self.listen) {
            let reason =
                format!("is {:?}, which is no address with a port, such as 127.0.0.1:8080", self.listen);
            return wrong("listen", &reason);
        }
        if self.models.is_empty() {
            return wrong("models", "has none; name one, or leave `models` out for the built-in model");
        }
        for (index, model) in self.models.iter().enumerate() {
            let key = format!("models[{index}]");
            if model.name.is_empty() {
                return wrong(&format!("{key}.name"), "is empty; requests need a name for the model");
            }
            if self.models[..index].iter().any(|other| other.name == model.name) {
                return wrong(
                    &format!("{key}.name"),
                    &format!("is {:?}, as another model's; give each its own", model.name),
                );
            }
            if model.path.is_none() && model.kind == Kind::Reranker {
                return wrong(
                    &format!("{key}.path"),
                    "is missing, and the built-in model is no reranker; name a folder",
                );
            }
            if model.idle_seconds == Some(0) {
                return wrong(
                    &format!("{key}.idle-seconds"),
                    "is 0; leave it out to keep the model, or give it at least 1",
                );
            }
        }
        let Limits { body_bytes, inputs, concurrent_requests, connections, model_bytes, timeout_ms } =
            self.limits;
        let limits = [
            ("body-bytes", body_bytes),
            ("inputs", inputs),
            ("concurrent-requests", concurrent_requests),
            ("connections", connections),
            ("model-bytes", usize::from(model_bytes != Some(0))),
            ("timeout-ms", usize::from(timeout_ms > 0)),
        ];
        match limits.iter().find(|(_, value)| *value == 0) {
            Some((key, _)) => {
                wrong(&format!("limits.{key}"), "is 0, so nothing could be answered; give it at least 1")
            }
            None => Ok(()),
        }
    }
}

impl Config {
    /// Reads the file of API keys, as [`router`](crate::router) does. It blocks where the file is a pipe.
    ///
    /// # Errors
    /// When it can't be read, or has no key.
    pub fn check_api_keys(&self) -> Result<(), ConfigError> {
        self.api_keys_file.as_deref().map_or(Ok(()), |file| Keys::from_file(file).map(drop))
    }
}

/// The text of a file, which may be a pipe, but has an end.
pub(crate) fn read_text(path: &Path) -> Result<String, ConfigError> {
    let fail = |source| ConfigError::Read { path: path.display().to_string(), source };
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES + 1).read_to_string(&mut text));
    if read.map_err(fail)? as u64 > FILE_BYTES {
        let reason = format!("has more than {FILE_BYTES} bytes, which is no file of this kind");
        return Err(fail(io::Error::new(io::ErrorKind::InvalidData, reason)));
    }
    Ok(text)
}

/// Whether a model's path is a hub's name for it, as nothing lies there.
#[cfg(feature = "hub")]
fn is_name(path: &Path, folder: &Path) -> bool {
    !folder.join(path).exists() && mlx_embed::hub::ModelName::unless_a_path(path).is_some()
}

#[cfg(not(feature = "hub"))]
fn is_name(_: &Path, _: &Path) -> bool {
    false
}

fn parse(name: &str, text: &str) -> Result<Config, ConfigError> {
    // An empty file has nothing to say, rather than nothing where a configuration should be.
    let config = if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        Config::default()
    } else {
        serde_saphyr::from_str(text).map_err(|error| ConfigError::Syntax {
            name: name.into(),
            message: with_nearest(&without_hints(error.to_string().trim_start_matches("error: "))),
        })?
    };
    config.check()?;
    Ok(config)
}

/// Whether it is what can be listened on: an address or a host's name, and a port.
fn has_port(listen: &str) -> bool {
    listen.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

/// A message of the YAML reader without what it tells programmers who use it.
fn without_hints(message: &str) -> String {
    const HINTS: [(&str, &str); 3] = [
        (", set DuplicateKeyPolicy in Options if acceptable", "; leave one"),
        ("; use from_str_multiple or from_str_multiple_with_options", "; leave one"),
        ("; use Option<String>", ""),
    ];
    HINTS.iter().fold(message.to_owned(), |message, (hint, ours)| message.replace(hint, ours))
}

/// serde's message about a name that isn't known, with the known one that is most like it.
fn with_nearest(message: &str) -> String {
    let nearest = unknown(message).and_then(|(wrong, known)| {
        let distances = known.map(|known| (strsim::damerau_levenshtein(wrong, known), known));
        distances.min().filter(|(distance, known)| *distance <= known.len() / 2)
    });
    match nearest {
        Some((_, known)) => format!("{message}\ndid you mean `{known}`?"),
        None => message.to_owned(),
    }
}

/// The name that isn't known, and those that are.
fn unknown(message: &str) -> Option<(&str, impl Iterator<Item = &str>)> {
    let kinds = ["unknown field ", "unknown variant "];
    let after = kinds.iter().find_map(|kind| message.split_once(kind))?.1;
    let (wrong, known) = after.split_once(", expected ")?;
    let known = known.lines().next()?.trim_start_matches("one of ");
    Some((
        wrong.trim_matches('`'),
        known.split([',', ' ']).map(|name| name.trim_matches('`')).filter(|name| !name.is_empty()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(yaml: &str) -> String {
        Config::from_yaml(yaml).expect_err("it is wrong").to_string()
    }

    #[test]
    fn nothing_said_is_the_built_in_model_on_loopback() {
        for nothing in ["", "\n", "# a comment\n"] {
            assert_eq!(Config::from_yaml(nothing).expect("defaults"), Config::default());
        }
    }

    #[test]
    fn what_nobody_can_listen_on_is_an_error() {
        for wrong in ["x", "127.0.0.1", "127.0.0.1:99999", "':8080'", "0", "unix:/tmp/socket", "''"] {
            let error = refused(&format!("listen: {wrong}"));
            assert!(error.contains("listen") && error.contains("127.0.0.1:8080"), "{error}");
        }
        for right in ["127.0.0.1:0", "'[::1]:8080'", "localhost:80", "0.0.0.0:65535"] {
            Config::from_yaml(&format!("listen: {right}")).expect(right);
        }
    }

    #[test]
    fn errors_tell_nothing_of_the_reader_s_own_options() {
        for yaml in ["listen: a:1\nlisten: b:1", "listen: a:1\n---\nlisten: b:1", "listen: null"] {
            let error = refused(yaml);
            let foreign = ["DuplicateKeyPolicy", "from_str", "Option<"];
            assert!(foreign.iter().all(|word| !error.contains(word)), "{error}");
            assert!(error.contains("line "), "{error}");
        }
    }

    #[test]
    fn what_is_not_known_is_an_error_with_its_line_and_the_nearest_name() {
        let error = refused("listen: 127.0.0.1:1\nmodels:\n  - name: a\n    thread: 2\n");
        assert!(error.contains("did you mean `threads`?") && error.contains('4'), "{error}");
        let error = refused("models: [{name: a, precision: exakt}]");
        assert!(error.contains("did you mean `exact`?"), "{error}");
        let error = refused("models: [{name: a, threads: 0}]");
        assert!(error.contains("nonzero") || error.contains("zero"), "{error}");
    }

    #[test]
    fn values_without_sense_are_refused_with_their_key() {
        let cases = [
            ("models: []", "models has none"),
            ("models: [{name: a}, {name: a}]", "models[1].name"),
            ("models: [{name: \"\"}]", "models[0].name is empty"),
            ("models: [{name: a, kind: reranker}]", "models[0].path"),
            ("models: [{name: a, idle-seconds: 0}]", "models[0].idle-seconds"),
            ("limits: {inputs: 0}", "limits.inputs"),
            ("limits: {timeout-ms: 0}", "limits.timeout-ms"),
            ("limits: {model-bytes: 0}", "limits.model-bytes"),
        ];
        for (yaml, part) in cases {
            let error = refused(yaml);
            assert!(error.contains(part), "{yaml}: {error}");
        }
    }

    #[test]
    fn paths_begin_where_the_file_lies() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("serve.yaml");
        std::fs::write(&file, "models: [{name: a, path: b}]\napi-keys-file: keys").expect("written");
        let config = Config::from_file(&file).expect("read");
        assert_eq!(config.models[0].path.as_deref(), Some(folder.path().join("b").as_path()));
        assert_eq!(config.api_keys_file, Some(folder.path().join("keys")));
        let missing = Config::from_file(&folder.path().join("none.yaml")).expect_err("not there").to_string();
        assert!(missing.contains("none.yaml"), "{missing}");
    }
}
