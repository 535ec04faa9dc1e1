//! Where a text stands, for messages.

use std::sync::Arc;

/// How texts are named.
#[derive(Debug, Clone)]
pub(crate) enum Places {
    Arguments,
    /// Of the input with this name.
    Lines(Arc<str>),
    /// Of the table with this name, in this column.
    Rows(Arc<str>, Arc<str>),
}

impl Places {
    /// Of the text with this index.
    pub(crate) fn of(&self, index: usize) -> String {
        match self {
            Self::Arguments => format!("text {} of the command line", index + 1),
            Self::Lines(name) => format!("{name}, line {}", index + 1),
            Self::Rows(name, column) => format!("{name}, row {}, column `{column}`", index + 1),
        }
    }
}
