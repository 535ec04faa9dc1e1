//! Results of texts that were embedded before.

use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::Output;
use crate::batch::Reading;

/// What an entry takes beside its numbers: two allocations' headers and the table's own.
const ENTRY_BYTES: usize = 96;

/// Entries that a table is made for at once.
const MOST_EXPECTED: usize = 1 << 16;

/// Results by token ids, bounded in bytes. The ids and how they are read are all that a result depends on for one model:
/// prompt, end token and truncation are in them; cutting and normalising come later.
#[derive(Debug)]
pub(crate) struct VectorCache {
    outputs: Cache<Arc<[u32]>, Output, Bytes>,
}

#[derive(Debug, Clone)]
struct Bytes;

impl Weighter<Arc<[u32]>, Output> for Bytes {
    fn weight(&self, ids: &Arc<[u32]>, output: &Output) -> u64 {
        (size_of_val(&**ids) + output.bytes() + ENTRY_BYTES) as u64
    }
}

impl VectorCache {
    /// A cache of at most `bytes` for results of some `width` numbers.
    pub(crate) fn new(bytes: usize, width: usize) -> Self {
        // A guess that the table is first made for. It grows, so that no limit in bytes asks for a table beforehand.
        let entries = (bytes / (size_of::<f32>() * width + ENTRY_BYTES)).min(MOST_EXPECTED);
        Self { outputs: Cache::with_weighter(entries, bytes as u64, Bytes) }
    }

    pub(crate) fn get(&self, ids: &Arc<[u32]>, reading: Reading) -> Option<Output> {
        self.outputs.get(&key(ids, reading))
    }

    pub(crate) fn insert(&self, ids: &Arc<[u32]>, reading: Reading, output: &Output) {
        self.outputs.insert(key(ids, reading), output.clone());
    }
}

/// The ids themselves, mostly. Where they are read in another way, what says so stands behind an id that no vocabulary
/// has.
fn key(ids: &Arc<[u32]>, reading: Reading) -> Arc<[u32]> {
    match reading {
        Reading { left_out: 0 } => Arc::clone(ids),
        Reading { left_out } => ids.iter().copied().chain([u32::MAX, left_out as u32]).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(numbers: &[f32]) -> Output {
        numbers.to_vec().into()
    }

    #[test]
    fn bytes_bound_it() {
        for result in [output(&[0.5; 100]), Output::Weights(vec![(7, 0.5); 50].into())] {
            let cache = VectorCache::new(10_000, 100);
            for id in 0..1000_u32 {
                cache.insert(&Arc::from([id, 1]), Reading::default(), &result);
            }
            assert!(cache.outputs.weight() <= 10_000, "{}", cache.outputs.weight());
            assert!(cache.outputs.len() >= 5, "{}", cache.outputs.len());
        }
    }

    #[test]
    fn other_ids_or_another_reading_are_another_text() {
        let cache = VectorCache::new(10_000, 1);
        let plain = Reading::default();
        let others = [Reading { left_out: 1 }];
        cache.insert(&Arc::from([1, 2]), plain, &output(&[0.5]));
        assert_eq!(cache.get(&Arc::from([1, 2]), plain), Some(output(&[0.5])));
        assert_eq!(cache.get(&Arc::from([2, 1]), plain), None);
        for (reading, number) in others.into_iter().zip([0.25]) {
            assert_eq!(cache.get(&Arc::from([1, 2]), reading), None);
            cache.insert(&Arc::from([1, 2]), reading, &output(&[number]));
            assert_eq!(cache.get(&Arc::from([1, 2]), reading), Some(output(&[number])));
        }
        assert_eq!(cache.get(&Arc::from([1, 2]), plain), Some(output(&[0.5])));
    }
}
