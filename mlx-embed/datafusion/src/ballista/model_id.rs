//! Which model a function asks.

use std::fmt;

use mlx_embed::{Checkpoint, EndToken, Error, LoadOptions};
use serde::{Deserialize, Serialize};

/// Which model a function asks, and how it is loaded, without the model itself. A query's plan carries it. An executor
/// with another model refuses the query: else one result would have vectors of two models.
///
/// Two are equal if their vectors can be compared. The device doesn't count: CPU and GPU differ by rounding only.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelId {
    /// The folder's name, for messages.
    name: String,
    /// Of all files that say which model it is.
    sha256: String,
    dims: usize,
    /// What of the options changes vectors.
    options: Vec<String>,
}

impl ModelId {
    /// The model of an opened checkpoint, loaded with `options`. The checkpoint's files are read through, which takes
    /// about a second a gigabyte.
    ///
    /// # Errors
    /// When a file can't be read, or was changed since the checkpoint was opened.
    pub fn of(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<Self, Error> {
        let name = checkpoint.dir().file_name().unwrap_or(checkpoint.dir().as_os_str());
        Ok(Self {
            name: name.to_string_lossy().into_owned(),
            sha256: checkpoint.sha256()?,
            dims: checkpoint.dimensions(options.pooling)?,
            options: that_change_vectors(options),
        })
    }

    pub(super) fn dims(&self) -> usize {
        self.dims
    }

    /// All that has to be the same for vectors to be comparable.
    fn facts(&self) -> (&str, usize, &[String]) {
        (&self.sha256, self.dims, &self.options)
    }
}

fn that_change_vectors(options: &LoadOptions) -> Vec<String> {
    let LoadOptions { precision, pooling, end_token, max_tokens, lenient, .. } = options;
    let mut words = vec![precision.to_string()];
    words.extend(pooling.map(|pooling| format!("pooling {pooling}")));
    words.extend(Some(end_token).filter(|end| **end != EndToken::Auto).map(|end| format!("{end:?}")));
    words.extend(max_tokens.map(|tokens| format!("at most {tokens} tokens")));
    words.extend(lenient.then(|| "lenient".to_owned()));
    words
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, sha256, dims, options } = self;
        let start = sha256.get(..12).unwrap_or(sha256);
        write!(f, "{name} ({dims} numbers, {}, SHA-256 {start}..)", options.join(", "))
    }
}

impl PartialEq for ModelId {
    fn eq(&self, other: &Self) -> bool {
        self.facts() == other.facts()
    }
}

impl Eq for ModelId {}

impl std::hash::Hash for ModelId {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.facts().hash(state);
    }
}
