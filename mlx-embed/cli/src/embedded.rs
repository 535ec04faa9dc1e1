//! Texts of a window with their results.

use crate::error::CliError;
use crate::found::{Encoder, Found};
use crate::input::{OnError, Places, Window};
use crate::row::Row;

/// Texts of a window that have results, and those that are null.
#[derive(Debug)]
pub(crate) struct Embedded {
    pub(crate) rows: Vec<Row>,
    /// What is wrong with those that were skipped.
    pub(crate) skipped: Vec<CliError>,
    /// Why nothing follows them.
    pub(crate) failure: Option<CliError>,
}

impl Embedded {
    pub(crate) fn new(model: &Encoder, window: Window, places: &Places, on_error: OnError) -> Self {
        let Window { mut rows, skipped, error, .. } = window;
        let (texts, indices): (Vec<String>, Vec<usize>) =
            rows.iter_mut().filter_map(|row| Some((row.text.take()?, row.index))).unzip();
        let mut all = Self { rows: Vec::with_capacity(rows.len()), skipped, failure: None };
        let results = match model.embed_each(&texts, |text| places.of(indices[text])) {
            Ok(results) => results,
            Err(error) => {
                all.failure = Some(error);
                return all;
            }
        };
        let mut results = indices.into_iter().zip(texts).zip(results).peekable();
        for mut row in rows {
            let Some(((_, text), result)) = results.next_if(|((index, _), _)| *index == row.index) else {
                all.rows.push(row);
                continue;
            };
            match result {
                Ok(found) => {
                    (row.text, row.found) = (Some(text), Some(found));
                    all.rows.push(row);
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

    /// How many texts were cut.
    pub(crate) fn truncated(&self) -> usize {
        self.rows.iter().filter(|row| row.found.as_ref().is_some_and(Found::truncated)).count()
    }
}
