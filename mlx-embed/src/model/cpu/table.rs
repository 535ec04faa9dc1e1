//! Embedding tables: their rows are read from the file when a text first needs them, and kept.

use std::sync::{Mutex, PoisonError};

use crate::checkpoint::CheckpointError;
use crate::kernels::{ByRows, Engine, RowBuffer};

use super::weights::Stored;

/// Bytes of rows that are kept of a table: all of those that are small, and of large ones those that texts are made of.
const KEPT_BYTES: usize = 64 << 20;

/// Most tokens that are looked up together. So many rows may be kept whatever they take.
const TOGETHER: usize = 4096;

/// A table, `[rows, width]`.
///
/// A call of the system for each row of each text would be felt in short texts, and a copy of a large table in memory.
/// Where no more are to be kept, all are dropped and read anew as they are needed.
#[derive(Debug)]
pub(crate) struct Table {
    stored: Stored,
    width: usize,
    /// Rows that are kept.
    most: usize,
    kept: Mutex<Kept>,
}

/// Rows in f32, in the order in which they were read.
#[derive(Debug)]
struct Kept {
    rows: Vec<f32>,
    /// Of each of the table's rows where it is among these.
    places: Vec<u32>,
    buffer: RowBuffer,
}

/// The place of what is not kept.
const NOWHERE: u32 = u32::MAX;

impl Table {
    pub(super) fn new(stored: Stored, width: usize) -> Self {
        let places = vec![NOWHERE; stored.count()];
        Self {
            stored,
            width,
            most: (KEPT_BYTES / size_of::<f32>() / width).max(TOGETHER),
            kept: Mutex::new(Kept { rows: Vec::new(), places, buffer: RowBuffer::default() }),
        }
    }

    /// Rows `ids`: `[ids, width]`.
    pub(super) fn gather(
        &self,
        engine: &Engine,
        ids: &[u32],
        out: &mut [f32],
    ) -> Result<(), CheckpointError> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let together = TOGETHER.min(self.most);
        for (ids, out) in ids.chunks(together).zip(out.chunks_mut(together * self.width)) {
            let places = self.places(&mut kept, ids)?;
            engine.gather(&kept.rows, &places, self.width, out);
        }
        Ok(())
    }

    /// Where rows `ids` are kept, once they are.
    fn places(&self, kept: &mut Kept, ids: &[u32]) -> Result<Vec<usize>, CheckpointError> {
        let is_new = |id: &&u32| kept.places[**id as usize] == NOWHERE;
        if kept.rows.len() / self.width + ids.iter().filter(is_new).count() > self.most {
            kept.rows.clear();
            kept.places.fill(NOWHERE);
        }
        ids.iter().map(|&id| self.place(kept, id as usize)).collect()
    }

    fn place(&self, kept: &mut Kept, row: usize) -> Result<usize, CheckpointError> {
        if kept.places[row] == NOWHERE {
            let source = self.stored.read(row..row + 1, &mut kept.buffer)?;
            let place = kept.rows.len();
            kept.rows.resize(place + self.width, 0.0);
            source.row(0, &mut kept.rows[place..]);
            kept.places[row] = (place / self.width) as u32;
        }
        Ok(kept.places[row] as usize)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::checkpoint::{Checkpoint, Weights};
    use crate::kernels::Family;

    const WIDTH: usize = 32;

    /// A copy of a golden checkpoint, which tests may write to, and its table of tokens. `None` where there are none.
    fn table() -> Option<(tempfile::TempDir, Engine, Table)> {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/qwen3-f32");
        let copy = tempfile::tempdir().unwrap();
        for file in fs::read_dir(golden).ok()? {
            let file = file.unwrap();
            fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
        }
        let checkpoint = Checkpoint::open(copy.path()).unwrap();
        let spec = &checkpoint.spec().embedding.tokens;
        assert_eq!(spec.width, WIDTH);
        let stored = Stored(Weights::new(&checkpoint).table(spec).unwrap());
        let engine = Engine::new(Family::available().next().unwrap(), 2).unwrap();
        Some((copy, engine, Table::new(stored, WIDTH)))
    }

    fn rows(table: &Table, engine: &Engine, ids: &[u32]) -> Result<Vec<f32>, CheckpointError> {
        let mut rows = vec![f32::NAN; ids.len() * WIDTH];
        table.gather(engine, ids, &mut rows).map(|()| rows)
    }

    #[test]
    fn a_row_that_is_no_longer_in_the_file_is_an_error_and_kept_ones_stay() {
        let Some((folder, engine, table)) = table() else { return };
        let before = rows(&table, &engine, &[7, 3, 7]).unwrap();
        assert_eq!(before[..WIDTH], before[2 * WIDTH..]);
        let weights = folder.path().join("model.safetensors");
        fs::OpenOptions::new().write(true).open(&weights).unwrap().set_len(4096).unwrap();
        let error = rows(&table, &engine, &[3, 4]).unwrap_err().to_string();
        assert!(error.contains("model.safetensors") && error.contains("shrank"), "{error}");
        assert_eq!(rows(&table, &engine, &[7, 3, 7]).unwrap(), before);
    }

    #[test]
    fn rows_are_the_same_however_few_are_kept() {
        let Some((_folder, engine, mut table)) = table() else { return };
        let ids: Vec<u32> = (0..200).map(|i| i * i % 23).collect();
        let expected = rows(&table, &engine, &ids).unwrap();
        for most in [1, 2, 5, 22] {
            table.most = most;
            *table.kept.get_mut().unwrap() =
                Table::new(Stored(table.stored.0.clone()), WIDTH).kept.into_inner().unwrap();
            assert_eq!(rows(&table, &engine, &ids).unwrap(), expected, "{most}");
            assert!(table.kept.get_mut().unwrap().rows.len() <= most * WIDTH);
        }
    }
}
