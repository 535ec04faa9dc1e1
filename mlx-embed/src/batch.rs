//! Which texts run together: buckets of similar length under a token budget.

use std::sync::Arc;

/// Padding that a batch may carry: this share of its tokens, or [`FREE_PADDING`], whichever is more.
const PADDING_SHARE: f64 = 0.25;

/// Padded tokens so few that a batch of its own would cost more than they do.
const FREE_PADDING: usize = 128;

/// How texts may share a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// Padded on the right to the longest.
    Padded,
    /// One behind the other, without padding.
    Joined,
    /// Only texts of one length, for models whose rows depend on the longest one's.
    EqualLengths,
}

/// Groups texts of the given lengths into batches, longest first. Each batch lists positions in `lengths`.
///
/// A batch holds at most `budget` tokens, padding included; a text longer than the budget runs alone.
pub(crate) fn plan(lengths: &[usize], budget: usize, sharing: Sharing) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    // Stable, so that equal inputs make equal batches.
    order.sort_by_key(|&text| std::cmp::Reverse(lengths[text]));

    let mut batches: Vec<Vec<usize>> = Vec::new();
    let (mut longest, mut padding) = (0, 0);
    for text in order {
        let length = lengths[text];
        if let Some(batch) = batches.last_mut() {
            let padded = longest * (batch.len() + 1);
            let padding_then = padding + longest - length;
            let (tokens, allowed) = match sharing {
                Sharing::EqualLengths => (padded, 0),
                Sharing::Padded => (padded, FREE_PADDING.max((padded as f64 * PADDING_SHARE) as usize)),
                Sharing::Joined => (padded - padding_then, usize::MAX),
            };
            if tokens <= budget && padding_then <= allowed {
                batch.push(text);
                padding = padding_then;
                continue;
            }
        }
        batches.push(vec![text]);
        (longest, padding) = (length, 0);
    }
    batches
}

/// Texts that run together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Batch {
    /// Token ids, `shape[0] * shape[1]`.
    pub(crate) ids: Vec<u32>,
    /// `[B, L]` if padded, `[1, T]` if joined.
    pub(crate) shape: [i32; 2],
    /// Tokens of each text.
    pub(crate) lengths: Arc<[usize]>,
    /// Where in `ids` each text starts.
    pub(crate) starts: Vec<usize>,
}

impl Batch {
    /// Texts as rows, padded on the right with id 0.
    pub(crate) fn padded(texts: &[&[u32]]) -> Self {
        let length = texts.iter().map(|text| text.len()).max().unwrap_or(0);
        let mut ids = Vec::with_capacity(texts.len() * length);
        for text in texts {
            ids.extend_from_slice(text);
            ids.resize(ids.len() + length - text.len(), 0);
        }
        Self {
            ids,
            shape: [texts.len() as i32, length as i32],
            lengths: texts.iter().map(|text| text.len()).collect(),
            starts: (0..texts.len()).map(|text| text * length).collect(),
        }
    }

    /// Texts one behind the other.
    pub(crate) fn joined(texts: &[&[u32]]) -> Self {
        let ids = texts.concat();
        let starts = texts.iter().scan(0, |next, text| {
            *next += text.len();
            Some(*next - text.len())
        });
        Self {
            shape: [1, ids.len() as i32],
            lengths: texts.iter().map(|text| text.len()).collect(),
            starts: starts.collect(),
            ids,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(batches: &[Vec<usize>]) -> Vec<usize> {
        let mut all: Vec<usize> = batches.iter().flatten().copied().collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn every_text_runs_exactly_once() {
        let lengths: Vec<usize> = (0..500).map(|i| 1 + (i * 7919) % 613).collect();
        let batches = plan(&lengths, 2048, Sharing::Padded);
        assert_eq!(sorted(&batches), (0..500).collect::<Vec<_>>());
    }

    #[test]
    fn no_batch_exceeds_the_budget_or_its_share_of_padding() {
        let lengths: Vec<usize> = (0..500).map(|i| 1 + (i * 7919) % 613).collect();
        for batch in plan(&lengths, 2048, Sharing::Padded) {
            let longest = batch.iter().map(|&text| lengths[text]).max().unwrap();
            let tokens = longest * batch.len();
            let real: usize = batch.iter().map(|&text| lengths[text]).sum();
            assert!(tokens <= 2048, "{tokens} tokens");
            assert!(tokens - real <= FREE_PADDING.max(tokens / 4), "{real} of {tokens}");
        }
    }

    #[test]
    fn a_text_over_the_budget_runs_alone() {
        assert_eq!(plan(&[5, 100, 5], 10, Sharing::Padded), [vec![1], vec![0, 2]]);
    }

    #[test]
    fn a_handful_of_short_texts_share_one_batch() {
        assert_eq!(plan(&[3, 20, 8, 15], 4096, Sharing::Padded).len(), 1);
    }

    #[test]
    fn equal_lengths_never_pad() {
        let lengths = [4, 2, 4, 3, 2];
        for batch in plan(&lengths, 4096, Sharing::EqualLengths) {
            assert!(batch.iter().all(|&text| lengths[text] == lengths[batch[0]]));
        }
    }

    #[test]
    fn padding_sits_on_the_right() {
        let batch = Batch::padded(&[&[1, 2, 3], &[4]]);
        assert_eq!((batch.ids, batch.shape), (vec![1, 2, 3, 4, 0, 0], [2, 3]));
        assert_eq!((&batch.lengths[..], batch.starts), (&[3, 1][..], vec![0, 3]));
    }

    #[test]
    fn joined_texts_have_no_padding() {
        let batch = Batch::joined(&[&[1, 2, 3], &[4], &[5, 6]]);
        assert_eq!((batch.ids, batch.shape), (vec![1, 2, 3, 4, 5, 6], [1, 6]));
        assert_eq!((&batch.lengths[..], batch.starts), (&[3, 1, 2][..], vec![0, 3, 4]));
    }

    #[test]
    fn joined_batches_are_bounded_by_their_own_tokens() {
        let lengths = [100, 1, 1, 1, 50, 30];
        let batches = plan(&lengths, 103, Sharing::Joined);
        assert_eq!(batches, [vec![0], vec![4, 5, 1, 2, 3]]);
    }

    #[test]
    fn nothing_makes_no_batches() {
        assert!(plan(&[], 10, Sharing::Padded).is_empty());
    }
}
