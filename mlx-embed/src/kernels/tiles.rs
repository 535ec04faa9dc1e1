//! Rows in tiles: a tile is what a product holds in registers at once.

/// A tile of consecutive rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tile {
    pub(super) first: usize,
    pub(super) rows: usize,
}

/// Cuts `rows` into as few tiles of at most `most` as there can be, as equal as they can be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tiles {
    rows: usize,
    count: usize,
}

impl Tiles {
    pub(super) fn new(rows: usize, most: usize) -> Self {
        Self { rows, count: rows.div_ceil(most) }
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Rows of the largest tile.
    pub(super) fn most_rows(&self) -> usize {
        self.rows.div_ceil(self.count.max(1))
    }

    pub(super) fn get(&self, index: usize) -> Tile {
        let (base, more) = (self.rows / self.count, self.rows % self.count);
        Tile { first: index * base + index.min(more), rows: base + usize::from(index < more) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_every_row_once_in_order() {
        for most in [1, 2, 3, 12] {
            for rows in 1..200 {
                let tiles = Tiles::new(rows, most);
                let mut next = 0;
                for index in 0..tiles.count() {
                    let tile = tiles.get(index);
                    assert_eq!(tile.first, next);
                    assert!((1..=most).contains(&tile.rows), "{rows} rows in tiles of {most}: {tile:?}");
                    assert!(tile.rows <= tiles.most_rows() && tiles.most_rows() <= most);
                    next += tile.rows;
                }
                assert_eq!(next, rows);
            }
        }
    }

    #[test]
    fn no_rows_make_no_tiles() {
        assert_eq!(Tiles::new(0, 12).count(), 0);
    }
}
