//! Vectors of texts that were embedded before.

use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;

/// What an entry takes beside its numbers: two allocations' headers and the table's own.
const ENTRY_BYTES: usize = 96;

/// Entries that a table is made for at once.
const MOST_EXPECTED: usize = 1 << 16;

/// Vectors by token ids, bounded in bytes. The ids are all that a vector depends on for one model, but for how many of
/// them pooling leaves out: prompt, end token and truncation are in them; cutting and normalising come later.
#[derive(Debug)]
pub(crate) struct VectorCache {
    vectors: Cache<Arc<[u32]>, Arc<[f32]>, Bytes>,
}

#[derive(Debug, Clone)]
struct Bytes;

impl Weighter<Arc<[u32]>, Arc<[f32]>> for Bytes {
    fn weight(&self, ids: &Arc<[u32]>, vector: &Arc<[f32]>) -> u64 {
        (size_of_val(&**ids) + size_of_val(&**vector) + ENTRY_BYTES) as u64
    }
}

impl VectorCache {
    /// A cache of at most `bytes` for vectors of `width` numbers.
    pub(crate) fn new(bytes: usize, width: usize) -> Self {
        // A guess that the table is first made for. It grows, so that no limit in bytes asks for a table beforehand.
        let entries = (bytes / (size_of::<f32>() * width + ENTRY_BYTES)).min(MOST_EXPECTED);
        Self { vectors: Cache::with_weighter(entries, bytes as u64, Bytes) }
    }

    pub(crate) fn get(&self, ids: &Arc<[u32]>, left_out: usize) -> Option<Arc<[f32]>> {
        self.vectors.get(&key(ids, left_out))
    }

    pub(crate) fn insert(&self, ids: &Arc<[u32]>, left_out: usize, vector: &Arc<[f32]>) {
        self.vectors.insert(key(ids, left_out), Arc::clone(vector));
    }
}

/// The ids themselves, mostly. Where some of them are left out, what says so stands behind an id that no vocabulary
/// has.
fn key(ids: &Arc<[u32]>, left_out: usize) -> Arc<[u32]> {
    match left_out {
        0 => Arc::clone(ids),
        _ => ids.iter().copied().chain([u32::MAX, left_out as u32]).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_bound_it() {
        let cache = VectorCache::new(10_000, 100);
        for id in 0..1000_u32 {
            cache.insert(&Arc::from([id, 1]), 0, &Arc::from([0.5; 100]));
        }
        assert!(cache.vectors.weight() <= 10_000, "{}", cache.vectors.weight());
        assert!(cache.vectors.len() >= 5, "{}", cache.vectors.len());
    }

    #[test]
    fn other_ids_are_another_text() {
        let cache = VectorCache::new(10_000, 1);
        cache.insert(&Arc::from([1, 2]), 0, &Arc::from([0.5]));
        assert_eq!(cache.get(&Arc::from([1, 2]), 0).as_deref(), Some(&[0.5][..]));
        assert_eq!(cache.get(&Arc::from([2, 1]), 0), None);
        assert_eq!(cache.get(&Arc::from([1, 2]), 1), None);
        cache.insert(&Arc::from([1, 2]), 1, &Arc::from([0.25]));
        assert_eq!(cache.get(&Arc::from([1, 2]), 1).as_deref(), Some(&[0.25][..]));
        assert_eq!(cache.get(&Arc::from([1, 2]), 0).as_deref(), Some(&[0.5][..]));
    }
}
