//! What inputs are made of: one record after the other, each with its number.

use std::fmt::Debug;
use std::iter::Enumerate;
use std::vec;

use super::Places;
use super::lines::{Line, Lines};
use crate::error::CliError;
use crate::row::{Column, Kept, Row};

/// A piece of the input.
#[derive(Debug)]
pub(super) enum Record {
    /// A text, or null in its place.
    Row(Row),
    /// Counted, but neither.
    Blank,
    /// There is none.
    End,
}

impl Record {
    pub(super) fn row(index: usize, text: Option<String>, kept: Kept) -> Self {
        Self::Row(Row { index, text, kept, found: None })
    }
}

/// A source of records.
pub(super) trait Records: Debug + Send {
    /// The next record. After an error about what stands in one ([`CliError::Text`]), the next can be read.
    fn next(&mut self) -> Result<Record, CliError>;

    /// Records read so far, those with errors among them.
    fn position(&self) -> usize;

    /// How texts are named.
    fn places(&self) -> Places;

    /// Leaves out the records before this one.
    fn skip_to(&mut self, position: usize) -> Result<(), CliError> {
        while self.position() < position {
            match self.next() {
                Ok(Record::End) => return Ok(()),
                Ok(_) | Err(CliError::Text { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether the next record is here already, so that reading it can't wait.
    fn is_next_here(&self) -> bool {
        true
    }

    /// How much is read of [`Records::len`], or where that is not known in bytes.
    fn read(&self) -> u64 {
        0
    }

    /// Records in all, where known; [`Records::read`] then counts records.
    fn len(&self) -> Option<u64> {
        None
    }

    /// The columns that are kept.
    fn columns(&self) -> &[Column] {
        &[]
    }
}

/// Texts of the command line.
#[derive(Debug)]
pub(super) struct Arguments {
    texts: Enumerate<vec::IntoIter<String>>,
    position: usize,
}

impl Arguments {
    pub(super) fn new(texts: Vec<String>) -> Self {
        Self { texts: texts.into_iter().enumerate(), position: 0 }
    }
}

impl Records for Arguments {
    fn next(&mut self) -> Result<Record, CliError> {
        let Some((index, text)) = self.texts.next() else { return Ok(Record::End) };
        self.position = index + 1;
        Ok(Record::row(index, Some(text), Kept::Values(Vec::new())))
    }

    fn position(&self) -> usize {
        self.position
    }

    fn places(&self) -> Places {
        Places::Arguments
    }
}

/// Lines that are texts, or have one in a field.
#[derive(Debug)]
pub(super) struct Jsonl {
    lines: Lines,
    columns: Vec<Column>,
}

impl Jsonl {
    pub(super) fn new(lines: Lines) -> Self {
        Self::with_columns(lines, Vec::new())
    }

    pub(super) fn with_columns(lines: Lines, columns: Vec<Column>) -> Self {
        Self { lines, columns }
    }
}

impl Records for Jsonl {
    fn next(&mut self) -> Result<Record, CliError> {
        let text = match self.lines.next()? {
            Line::Text(text) => Some(text),
            Line::Null => None,
            Line::Blank => return Ok(Record::Blank),
            Line::End => return Ok(Record::End),
        };
        Ok(Record::row(self.position() - 1, text, Kept::Values(self.lines.take_kept())))
    }

    fn position(&self) -> usize {
        self.lines.count()
    }

    fn places(&self) -> Places {
        self.lines.places()
    }

    fn is_next_here(&self) -> bool {
        self.lines.has_whole_line()
    }

    fn read(&self) -> u64 {
        self.lines.read()
    }

    fn columns(&self) -> &[Column] {
        &self.columns
    }
}
