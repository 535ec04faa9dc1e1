//! Vectors of texts that were embedded before.

use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;

/// What an entry takes beside its numbers: two allocations' headers and the table's own.
const ENTRY_BYTES: usize = 96;

/// Entries that a table is made for at once.
const MOST_EXPECTED: usize = 1 << 16;

/// Vectors by token ids, bounded in bytes. The ids are all that a vector depends on for one model: prompt, end token
/// and truncation are in them; cutting and normalising come later.
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

    pub(crate) fn get(&self, ids: &Arc<[u32]>) -> Option<Arc<[f32]>> {
        self.vectors.get(ids)
    }

    pub(crate) fn insert(&self, ids: &Arc<[u32]>, vector: &Arc<[f32]>) {
        self.vectors.insert(Arc::clone(ids), Arc::clone(vector));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_bound_it() {
        let cache = VectorCache::new(10_000, 100);
        for id in 0..1000_u32 {
            cache.insert(&Arc::from([id, 1]), &Arc::from([0.5; 100]));
        }
        assert!(cache.vectors.weight() <= 10_000, "{}", cache.vectors.weight());
        assert!(cache.vectors.len() >= 5, "{}", cache.vectors.len());
    }

    #[test]
    fn other_ids_are_another_text() {
        let cache = VectorCache::new(10_000, 1);
        cache.insert(&Arc::from([1, 2]), &Arc::from([0.5]));
        assert_eq!(cache.get(&Arc::from([1, 2])).as_deref(), Some(&[0.5][..]));
        assert_eq!(cache.get(&Arc::from([2, 1])), None);
    }
}
