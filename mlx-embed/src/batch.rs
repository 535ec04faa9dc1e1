//! Which texts run together: buckets of similar length under a token budget.

/// Padding that a batch may carry: this share of its tokens, or [`FREE_PADDING`], whichever is more.
const PADDING_SHARE: f64 = 0.25;

/// Padded tokens so few that a batch of its own would cost more than they do.
const FREE_PADDING: usize = 128;

/// How texts may share a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// Padded on the right to the longest.
    Padded,
    /// Only texts of one length, for models whose rows depend on the padded length.
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
            let tokens = longest * (batch.len() + 1);
            let padding_then = padding + longest - length;
            let allowed = match sharing {
                Sharing::EqualLengths => 0,
                Sharing::Padded => FREE_PADDING.max((tokens as f64 * PADDING_SHARE) as usize),
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

/// Token ids of a batch, padded on the right: row after row, and the length of a row.
pub(crate) fn pad<'a>(texts: impl Iterator<Item = &'a [u32]> + Clone, padding: u32) -> (Vec<u32>, usize) {
    let padded = texts.clone().map(<[u32]>::len).max().unwrap_or(0);
    let mut ids = Vec::new();
    for text in texts {
        ids.extend_from_slice(text);
        ids.resize(ids.len() + padded - text.len(), padding);
    }
    (ids, padded)
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
        let texts: [&[u32]; 2] = [&[1, 2, 3], &[4]];
        assert_eq!(pad(texts.into_iter(), 9), (vec![1, 2, 3, 4, 9, 9], 3));
    }

    #[test]
    fn nothing_makes_no_batches() {
        assert!(plan(&[], 10, Sharing::Padded).is_empty());
    }
}
