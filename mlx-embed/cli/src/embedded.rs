//! Texts of a window with their results.

use crate::error::CliError;
use crate::found::{Encoder, Found};
use crate::input::{OnError, Places, Window};

/// Texts of a window that have results.
#[derive(Debug)]
pub(crate) struct Embedded {
    indices: Vec<usize>,
    texts: Vec<String>,
    found: Vec<Found>,
    /// What is wrong with those that were skipped.
    pub(crate) skipped: Vec<CliError>,
    /// Why nothing follows them.
    pub(crate) failure: Option<CliError>,
}

impl Embedded {
    pub(crate) fn new(model: &Encoder, window: Window, places: &Places, on_error: OnError) -> Self {
        let Window { texts, indices, skipped, error, .. } = window;
        let mut all =
            Self { indices: Vec::new(), texts: Vec::new(), found: Vec::new(), skipped, failure: None };
        let results = match model.embed_each(&texts, |text| places.of(indices[text])) {
            Ok(results) => results,
            Err(error) => {
                all.failure = Some(error);
                return all;
            }
        };
        for ((index, text), result) in indices.into_iter().zip(texts).zip(results) {
            match result {
                Ok(found) => {
                    all.indices.push(index);
                    all.texts.push(text);
                    all.found.push(found);
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
    pub(crate) fn runs(&self) -> impl Iterator<Item = (usize, &[String], &[Found])> {
        let mut end = 0;
        self.indices.chunk_by(|index, next| index + 1 == *next).map(move |run| {
            let part = end..end + run.len();
            end = part.end;
            (run[0], &self.texts[part.clone()], &self.found[part])
        })
    }
}
