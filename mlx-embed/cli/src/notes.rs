//! Remarks on stderr: what a user would want to know about the vectors, but did not ask.

use std::io::{self, Write};

use mlx_embed::{EndTokenSource, Info, Source};

use crate::kind::Kind;

/// Says remarks, unless told to be quiet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Notes {
    quiet: bool,
}

impl Notes {
    pub(crate) fn new(quiet: bool) -> Self {
        Self { quiet }
    }

    pub(crate) fn say(self, text: &str) {
        if !self.quiet {
            // With stderr closed there is nobody left to tell.
            let _ = writeln!(io::stderr(), "note: {text}");
        }
    }

    /// What was decided for the user that changes the vectors.
    pub(crate) fn about_model(self, info: &Info, kind: Kind) {
        for doubt in &info.warnings {
            self.say(&doubt.to_string());
        }
        if kind == Kind::Vector && info.pooling_source == Source::Default {
            self.say(&format!(
                "the checkpoint doesn't say how to pool; {} is used (--pooling chooses)",
                info.pooling
            ));
        }
        if info.max_tokens > info.config.max_position_embeddings {
            self.say(&format!(
                "texts of up to {} tokens are taken, but the model was made for {}",
                info.max_tokens, info.config.max_position_embeddings
            ));
        }
        if let Some(end) = &info.end_token
            && end.appended_by == EndTokenSource::Embedder
        {
            self.say(&format!(
                "the tokenizer ends texts with no token, so {} is appended (--end-token chooses)",
                end.token
            ));
        }
    }

    /// What became of the texts.
    pub(crate) fn about_texts(self, truncated: usize, texts: usize, max_tokens: usize) {
        if truncated > 0 {
            self.say(&format!("{truncated} of {texts} texts had more than {max_tokens} tokens and were cut"));
        }
    }
}
