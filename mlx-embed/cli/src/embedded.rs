//! Texts of a window with their vectors.

use mlx_embed::Embedding;

use crate::error::CliError;
use crate::input::{Input, OnError, Window};
use crate::options::Model;

/// Texts of a window that have vectors.
#[derive(Debug)]
pub(crate) struct Embedded {
    indices: Vec<usize>,
    texts: Vec<String>,
    embeddings: Vec<Embedding>,
    /// What is wrong with those that were skipped.
    pub(crate) skipped: Vec<CliError>,
    /// Why nothing follows them.
    pub(crate) failure: Option<CliError>,
}

impl Embedded {
    pub(crate) fn new(model: &Model, window: Window, input: &Input, on_error: OnError) -> Self {
        let Window { texts, indices, skipped, error, .. } = window;
        let mut all =
            Self { indices: Vec::new(), texts: Vec::new(), embeddings: Vec::new(), skipped, failure: None };
        let results = match model.embed_each(&texts, |text| input.place(indices[text])) {
            Ok(results) => results,
            Err(error) => {
                all.failure = Some(error);
                return all;
            }
        };
        for ((index, text), result) in indices.into_iter().zip(texts).zip(results) {
            match result {
                Ok(embedding) => {
                    all.indices.push(index);
                    all.texts.push(text);
                    all.embeddings.push(embedding);
                }
                Err(error) if on_error == OnError::Skip => all.skipped.push(error),
                Err(error) => {
                    all.failure = Some(error);
                    return all;
                }
            }
        }
        all.failure = error;
        all
    }

    /// Texts that follow one another in the input, with the number of the first.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (usize, &[String], &[Embedding])> {
        let mut end = 0;
        self.indices.chunk_by(|index, next| index + 1 == *next).map(move |run| {
            let part = end..end + run.len();
            end = part.end;
            (run[0], &self.texts[part.clone()], &self.embeddings[part])
        })
    }
}
