//! Reading JSON files so that an error names the file and the field.

use std::borrow::Cow;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::CheckpointError;
use crate::file::Files;
use crate::json;

/// Bytes of a JSON file. Configurations have a few thousand, indices of shards some hundred for a tensor; parsed, they take
/// up to sixteen times as much.
const FILE_BYTES: u64 = 4 << 20;

/// A JSON object and where it came from.
pub(crate) struct JsonObject {
    path: PathBuf,
    /// Dotted path of this object inside the file, with a trailing dot; empty at the top.
    prefix: String,
    value: Map<String, Value>,
    /// What stands in for fields that are missing.
    defaults: Map<String, Value>,
}

impl JsonObject {
    /// The file's object, or `None` if there is no such file.
    pub(crate) fn open(files: &Files, name: impl AsRef<Path>) -> Result<Option<Self>, CheckpointError> {
        let path = files.path(&name);
        let Some(value) = read(files, name)? else {
            return Ok(None);
        };
        match value {
            Value::Object(value) => Ok(Some(Self::of(path, value))),
            _ => Err(CheckpointError::InvalidField {
                path,
                field: "(the whole file)".into(),
                reason: "must be a JSON object".into(),
            }),
        }
    }

    /// What stands for a file that isn't there.
    pub(crate) fn of(path: PathBuf, value: Map<String, Value>) -> Self {
        Self { path, prefix: String::new(), value, defaults: Map::new() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The field with the levels above it.
    pub(crate) fn name(&self, field: &str) -> String {
        format!("{}{field}", self.prefix)
    }

    /// Whether there is such a field, `null` included.
    pub(crate) fn has(&self, field: &str) -> bool {
        self.value.contains_key(field)
    }

    pub(crate) fn raw(&self, field: &str) -> Option<&Value> {
        self.value.get(field).filter(|value| !value.is_null())
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.value.iter()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.value.is_empty()
    }

    /// The field, or `None` where it is missing or null.
    pub(crate) fn optional<T: DeserializeOwned>(&self, field: &str) -> Result<Option<T>, CheckpointError> {
        let Some(value) = self.raw(field) else {
            return Ok(None);
        };
        T::deserialize(value)
            .map(Some)
            .map_err(|error| self.invalid(field, format!("is not usable: {error}")))
    }

    /// A switch as Python takes it: null is false. `None` where it is missing.
    pub(crate) fn switch(&self, field: &str) -> Result<Option<bool>, CheckpointError> {
        Ok(self.has(field).then_some(self.optional(field)?.unwrap_or(false)))
    }

    /// The same with values for fields that are missing.
    pub(crate) fn with_defaults(self, defaults: Map<String, Value>) -> Self {
        Self { defaults, ..self }
    }

    /// What stands in for a field, if it is missing.
    pub(crate) fn default_of(&self, field: &str) -> Option<&Value> {
        self.defaults.get(field).filter(|_| !self.has(field))
    }

    /// The fields that are missing, and what stands in for them.
    pub(crate) fn missing(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.defaults.iter().filter(|(field, _)| !self.has(field))
    }

    pub(crate) fn required<T: DeserializeOwned>(&self, field: &str) -> Result<T, CheckpointError> {
        let default = || self.default_of(field).and_then(|value| T::deserialize(value).ok());
        self.optional(field)?.or_else(default).ok_or_else(|| CheckpointError::MissingField {
            path: self.path.clone(),
            field: format!("{}{field}", self.prefix),
        })
    }

    /// A nested object, or `None` where it is missing or null.
    pub(crate) fn object(&self, field: &str) -> Result<Option<Self>, CheckpointError> {
        match self.raw(field) {
            None => Ok(None),
            Some(Value::Object(value)) => Ok(Some(Self {
                path: self.path.clone(),
                prefix: format!("{}{field}.", self.prefix),
                value: value.clone(),
                defaults: Map::new(),
            })),
            Some(_) => Err(self.invalid(field, "must be an object")),
        }
    }

    /// Refuses any value but the ones that are supported, of which the first is told; `remedy` is what else to say. Missing
    /// and null are well.
    pub(crate) fn only<T, S>(&self, field: &str, supported: &[S], remedy: &str) -> Result<(), CheckpointError>
    where
        T: DeserializeOwned + Display + PartialEq<S>,
        S: Display,
    {
        match self.optional::<T>(field)? {
            Some(value) if supported.iter().all(|supported| value != *supported) => {
                Err(self
                    .invalid(field, format!("is `{value}`; only `{}` is supported{remedy}", supported[0])))
            }
            _ => Ok(()),
        }
    }

    #[cold]
    pub(crate) fn invalid(&self, field: &str, reason: impl Into<String>) -> CheckpointError {
        CheckpointError::InvalidField {
            path: self.path.clone(),
            field: format!("{}{field}", self.prefix),
            reason: reason.into(),
        }
    }
}

/// Parses a file, or gives `None` if there is none.
pub(crate) fn read<T: DeserializeOwned>(
    files: &Files,
    name: impl AsRef<Path>,
) -> Result<Option<T>, CheckpointError> {
    let Some(text) = read_bytes(files, &name)? else { return Ok(None) };
    json::parse(&text).map(Some).map_err(|source| CheckpointError::Json { path: files.path(name), source })
}

/// A file's text, or `None` if there is none.
pub(crate) fn read_text(files: &Files, name: &str) -> Result<Option<String>, CheckpointError> {
    Ok(read_bytes(files, name)?.map(|text| String::from_utf8_lossy(&text).into_owned()))
}

fn read_bytes(files: &Files, name: impl AsRef<Path>) -> Result<Option<Cow<'static, [u8]>>, CheckpointError> {
    let found = files.read_if_there(&name, FILE_BYTES);
    found.map_err(|source| CheckpointError::Io { path: files.path(name), source })
}
