//! Instructions that go before a text.

use std::collections::BTreeMap;

use super::TextError;

/// What goes before each text, as it is and without a space.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Prompt {
    /// The checkpoint's default prompt, if it has one; most have none.
    #[default]
    Default,
    /// Nothing.
    None,
    /// The checkpoint's prompt of this name, such as `query`.
    Named(String),
    /// The checkpoint's prompt of this name if it has one, else nothing.
    IfNamed(String),
    /// This text.
    Text(String),
}

/// The prompts of a checkpoint.
#[derive(Debug)]
pub(crate) struct Prompts {
    by_name: BTreeMap<String, String>,
    default: String,
}

impl Prompts {
    pub(crate) fn new(by_name: BTreeMap<String, String>, default_name: Option<&str>) -> Self {
        let default = default_name.and_then(|name| by_name.get(name)).cloned().unwrap_or_default();
        Self { by_name, default }
    }

    /// As [`Prompts::resolve`], but by default it is the checkpoint's prompt of this name, or nothing: sentence-transformers
    /// has both sides' prompts by name in every model of late interaction, so that the default one is never taken.
    pub(crate) fn resolve_for<'a>(&'a self, prompt: &'a Prompt, name: &str) -> Result<&'a str, TextError> {
        match prompt {
            Prompt::Default => Ok(self.by_name.get(name).map_or("", String::as_str)),
            _ => self.resolve(prompt),
        }
    }

    pub(crate) fn resolve<'a>(&'a self, prompt: &'a Prompt) -> Result<&'a str, TextError> {
        match prompt {
            Prompt::Default => Ok(&self.default),
            Prompt::None => Ok(""),
            Prompt::Text(text) => Ok(text),
            Prompt::IfNamed(name) => Ok(self.by_name.get(name).map_or("", String::as_str)),
            Prompt::Named(name) => self.by_name.get(name).map(String::as_str).ok_or_else(|| {
                let known: Vec<&str> = self.by_name.keys().map(String::as_str).collect();
                TextError::UnknownPrompt {
                    name: name.clone(),
                    known: if known.is_empty() { "none".into() } else { known.join(", ") },
                }
            }),
        }
    }
}
