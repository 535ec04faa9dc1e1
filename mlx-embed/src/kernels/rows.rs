//! Matrices of which a few rows are had at a time, as from a file.

use std::convert::Infallible;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use super::pool::Pool;
use super::simd::PAIR;
use super::source::Source;

/// A matrix whose rows are had a few at a time.
pub(crate) trait ByRows: Sync {
    /// Why rows can't be had.
    type Error: Send;

    /// How many there are.
    fn count(&self) -> usize;

    /// Some of them. They may lie in `buffer`.
    fn read<'a>(&'a self, rows: Range<usize>, buffer: &'a mut RowBuffer) -> Result<Source<'a>, Self::Error>;
}

/// Memory for rows that are read.
#[derive(Debug, Default)]
pub(crate) struct RowBuffer {
    pub(crate) weight: Vec<u32>,
    pub(crate) scales: Vec<u32>,
    pub(crate) biases: Vec<u32>,
}

/// Why a matrix can't be packed.
#[derive(Debug)]
pub(crate) enum PackError<E> {
    /// There is no memory for it.
    Memory(io::Error),
    /// Its rows can't be had.
    Rows(E),
}

/// A matrix in memory, `[rows, columns]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InMemory<'a> {
    pub(crate) source: Source<'a>,
    pub(crate) columns: usize,
}

impl ByRows for InMemory<'_> {
    type Error = Infallible;

    fn count(&self) -> usize {
        self.source.rows(self.columns)
    }

    fn read<'a>(&'a self, rows: Range<usize>, _: &'a mut RowBuffer) -> Result<Source<'a>, Infallible> {
        Ok(self.source.of_rows(rows, self.columns))
    }
}

/// Whether something holds of every part of a matrix.
pub(super) fn all<R: ByRows>(
    matrix: &R,
    pool: &Pool,
    holds: impl Fn(Source<'_>) -> bool + Sync,
) -> Result<bool, R::Error> {
    let otherwise = AtomicBool::new(false);
    pool.try_run(matrix.count().div_ceil(PAIR), &|band| {
        let first = band * PAIR;
        let mut buffer = RowBuffer::default();
        if !holds(matrix.read(first..matrix.count().min(first + PAIR), &mut buffer)?) {
            otherwise.store(true, Ordering::Relaxed);
        }
        Ok(())
    })?;
    Ok(!otherwise.into_inner())
}
