//! Which texts run together: buckets of similar length under a token budget.

use std::sync::Arc;

/// Padding that a batch may carry: this share of its tokens, or [`FREE_PADDING`], whichever is more.
const PADDING_SHARE: f64 = 0.25;

/// Padded tokens so few that a batch of its own would cost more than they do.
const FREE_PADDING: usize = 128;

/// The bit of a token that makes it one of a pair's second part, with type 1. Ids are below it. The mark goes with the
/// token through queue and caches, where nothing else has to know of types.
const SECOND_PART: u32 = 1 << 31;

/// The same for a token that others don't see: it is no key of attention, not even its own.
const UNSEEN: u32 = 1 << 30;

/// Marks tokens as those of a pair's second part.
pub(crate) fn mark_second_part(tokens: &mut [u32]) {
    tokens.iter_mut().for_each(|token| *token |= SECOND_PART);
}

/// Marks tokens as ones that none sees. They are the last ones of their text, and not all of it.
pub(crate) fn mark_unseen(tokens: &mut [u32]) {
    tokens.iter_mut().for_each(|token| *token |= UNSEEN);
}

/// The mark of token `at` with another token's id.
pub(crate) fn with_id(at: u32, other: u32) -> u32 {
    at & !id(u32::MAX) | id(other)
}

/// A token's id without its marks.
pub(crate) fn id(token: u32) -> u32 {
    token & !(SECOND_PART | UNSEEN)
}

/// How texts may share a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// Padded on the right to the longest.
    Padded,
    /// Packed: one text after the other, without padding.
    Packed,
    /// Only texts of one length, for models whose rows depend on the longest one's.
    EqualLengths,
}

/// Chooses the texts of one batch, one text after the other.
#[derive(Debug)]
pub(crate) struct Packing {
    budget: usize,
    sharing: Sharing,
    texts: usize,
    longest: usize,
    /// Without padding.
    tokens: usize,
}

impl Packing {
    /// An empty batch for at most `budget` tokens, padding included.
    pub(crate) fn new(budget: usize, sharing: Sharing) -> Self {
        Self { budget, sharing, texts: 0, longest: 0, tokens: 0 }
    }

    /// Takes in a text of `length` tokens if there is room. The first always finds it: what is longer than the budget
    /// runs alone.
    pub(crate) fn add(&mut self, length: usize) -> bool {
        let tokens = self.tokens + length;
        let longest = self.longest.max(length);
        let padded = longest * (self.texts + 1);
        let allowed = FREE_PADDING.max((padded as f64 * PADDING_SHARE) as usize);
        let fits = match self.sharing {
            Sharing::Packed => tokens <= self.budget,
            Sharing::Padded => padded <= self.budget && padded - tokens <= allowed,
            Sharing::EqualLengths => padded <= self.budget && length == self.longest,
        };
        if !fits && self.texts > 0 {
            return false;
        }
        (self.texts, self.longest, self.tokens) = (self.texts + 1, longest, tokens);
        true
    }

    /// Tokens taken in, padding not counted.
    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    /// Whether no text at all would find room.
    pub(crate) fn is_full(&self) -> bool {
        self.tokens >= self.budget
    }
}

/// What a text's result depends on beside its ids.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Reading {
    /// So many of its first tokens pooling leaves out.
    pub(crate) left_out: usize,
}

/// A text of a batch, or what of it follows a prefix.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(crate) ids: &'a [u32],
    pub(crate) reading: Reading,
}

impl<'a> Entry<'a> {
    /// Read as it stands.
    pub(crate) fn plain(ids: &'a [u32]) -> Self {
        Self { ids, reading: Reading::default() }
    }
}

/// Texts that run together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Batch {
    /// Token ids, `shape[0] * shape[1]`.
    pub(crate) ids: Vec<u32>,
    /// Their types, where not all are 0.
    pub(crate) types: Option<Vec<u32>>,
    /// `[B, L]` if padded, `[1, T]` if packed.
    pub(crate) shape: [i32; 2],
    /// Tokens of each text.
    pub(crate) lengths: Arc<[usize]>,
    /// Of each text how many tokens others see, the first ones: mostly all.
    pub(crate) seen: Arc<[usize]>,
    /// Where in `ids` each text starts.
    pub(crate) starts: Vec<usize>,
}

impl Batch {
    /// Takes the marks off tokens.
    fn unmarked(mut ids: Vec<u32>, shape: [i32; 2], lengths: Arc<[usize]>, starts: Vec<usize>) -> Self {
        let marks = ids.iter().fold(0, |marks, token| marks | token) & !id(u32::MAX);
        let seen = if marks & UNSEEN == 0 {
            Arc::clone(&lengths)
        } else {
            let of_text = |(&start, &length): (&usize, &usize)| {
                ids[start..start + length].iter().take_while(|&token| token & UNSEEN == 0).count()
            };
            starts.iter().zip(lengths.iter()).map(of_text).collect()
        };
        let types = (marks & SECOND_PART != 0)
            .then(|| ids.iter().map(|token| u32::from(token & SECOND_PART != 0)).collect());
        if marks != 0 {
            ids.iter_mut().for_each(|token| *token = id(*token));
        }
        Self { ids, types, shape, lengths, seen, starts }
    }

    /// Texts as rows, padded on the right with id 0.
    pub(crate) fn padded(texts: &[&[u32]]) -> Self {
        let length = texts.iter().map(|text| text.len()).max().unwrap_or(0);
        let mut ids = Vec::with_capacity(texts.len() * length);
        for text in texts {
            ids.extend_from_slice(text);
            ids.resize(ids.len() + length - text.len(), 0);
        }
        Self::unmarked(
            ids,
            [texts.len() as i32, length as i32],
            texts.iter().map(|text| text.len()).collect(),
            (0..texts.len()).map(|text| text * length).collect(),
        )
    }

    /// Texts packed one after the other.
    pub(crate) fn packed(texts: &[&[u32]]) -> Self {
        let ids = texts.concat();
        let starts = texts.iter().scan(0, |next, text| {
            *next += text.len();
            Some(*next - text.len())
        });
        let (shape, starts) = ([1, ids.len() as i32], starts.collect());
        Self::unmarked(ids, shape, texts.iter().map(|text| text.len()).collect(), starts)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn sharing() -> impl Strategy<Value = Sharing> {
        prop_oneof![Just(Sharing::Padded), Just(Sharing::Packed), Just(Sharing::EqualLengths)]
    }

    proptest! {
        #[test]
        fn batch_after_batch_takes_every_text_once_and_stays_within_bounds(
            lengths in vec(1_usize..400, 1..80), budget in 1_usize..2000, sharing in sharing(),
        ) {
            let mut waiting = lengths.clone();
            let mut taken = Vec::new();
            while !waiting.is_empty() {
                let mut packing = Packing::new(budget, sharing);
                let mut batch = Vec::new();
                waiting.retain(|&length| {
                    let fits = packing.add(length);
                    if fits {
                        batch.push(length);
                    }
                    !fits
                });
                // The first always fits, so this ends.
                prop_assert!(!batch.is_empty());
                let (longest, tokens) = (*batch.iter().max().unwrap(), batch.iter().sum::<usize>());
                prop_assert_eq!(packing.tokens(), tokens);
                let padded = longest * batch.len();
                prop_assert!(batch.len() == 1 || tokens <= budget);
                match sharing {
                    Sharing::Padded => {
                        prop_assert!(batch.len() == 1 || padded <= budget);
                        prop_assert!(padded - tokens <= FREE_PADDING.max(padded / 4));
                    }
                    Sharing::EqualLengths => prop_assert_eq!(padded, tokens),
                    Sharing::Packed => {}
                }
                taken.extend(batch);
            }
            let mut expected = lengths;
            expected.sort_unstable();
            taken.sort_unstable();
            prop_assert_eq!(taken, expected);
        }

        #[test]
        fn each_text_lies_where_the_batch_says_and_the_rest_is_padding(
            texts in vec(vec(1_u32..1000, 1..30), 1..12),
        ) {
            let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
            let tokens: usize = texts.iter().map(|text| text.len()).sum();
            for batch in [Batch::padded(&texts), Batch::packed(&texts)] {
                for ((text, &start), &length) in texts.iter().zip(&batch.starts).zip(&batch.lengths[..]) {
                    prop_assert_eq!(&batch.ids[start..start + length], *text);
                }
                prop_assert_eq!(batch.ids.len(), (batch.shape[0] * batch.shape[1]) as usize);
                // Ids are above 0, so every other place holds padding.
                prop_assert_eq!(batch.ids.iter().filter(|&&id| id != 0).count(), tokens);
            }
        }
    }

    /// Which of `lengths` one batch takes, in order.
    fn taken(lengths: &[usize], budget: usize, sharing: Sharing) -> Vec<usize> {
        let mut packing = Packing::new(budget, sharing);
        lengths.iter().copied().filter(|&length| packing.add(length)).collect()
    }

    #[test]
    fn no_batch_exceeds_the_budget_or_its_share_of_padding() {
        let lengths: Vec<usize> = (0..500).map(|i| 1 + (i * 7919) % 613).collect();
        for start in 0..lengths.len() {
            let batch = taken(&lengths[start..], 2048, Sharing::Padded);
            let tokens = batch.iter().max().unwrap() * batch.len();
            let real: usize = batch.iter().sum();
            assert!(tokens <= 2048, "{tokens} tokens");
            assert!(tokens - real <= FREE_PADDING.max(tokens / 4), "{real} of {tokens}");
        }
    }

    #[test]
    fn a_text_over_the_budget_runs_alone() {
        for sharing in [Sharing::Padded, Sharing::Packed, Sharing::EqualLengths] {
            assert_eq!(taken(&[100, 5, 100], 10, sharing), [100]);
            assert_eq!(taken(&[5, 100, 5], 10, sharing), [5, 5]);
        }
    }

    #[test]
    fn a_handful_of_short_texts_share_one_batch() {
        assert_eq!(taken(&[3, 20, 8, 15], 4096, Sharing::Padded), [3, 20, 8, 15]);
    }

    #[test]
    fn equal_lengths_never_pad() {
        assert_eq!(taken(&[4, 2, 4, 3, 2], 4096, Sharing::EqualLengths), [4, 4]);
    }

    #[test]
    fn packed_batches_are_bounded_by_their_own_tokens() {
        assert_eq!(taken(&[100, 1, 1, 1, 50, 30], 103, Sharing::Packed), [100, 1, 1, 1]);
    }

    #[test]
    fn a_full_batch_says_so() {
        let mut packing = Packing::new(4, Sharing::Padded);
        assert!(packing.add(3) && !packing.is_full());
        assert!(!packing.add(3) && !packing.is_full());
        let mut packing = Packing::new(4, Sharing::Packed);
        assert!(packing.add(3) && packing.add(1) && packing.is_full());
    }

    #[test]
    fn padding_sits_on_the_right() {
        let batch = Batch::padded(&[&[1, 2, 3], &[4]]);
        assert_eq!((batch.ids, batch.shape), (vec![1, 2, 3, 4, 0, 0], [2, 3]));
        assert_eq!((&batch.lengths[..], batch.starts), (&[3, 1][..], vec![0, 3]));
    }

    #[test]
    fn types_are_taken_off_the_tokens_that_carry_them() {
        let mut second = [4, 5];
        mark_second_part(&mut second);
        let pair = [&[1, 2, 3], &second[..]].concat();
        let packed = Batch::packed(&[&[7], &pair]);
        assert_eq!((&packed.ids[..], packed.types), (&[7, 1, 2, 3, 4, 5][..], Some(vec![0, 0, 0, 0, 1, 1])));
        let padded = Batch::padded(&[&pair, &[7]]);
        assert_eq!(
            (&padded.ids[..5], padded.types.as_deref()),
            (&[1, 2, 3, 4, 5][..], Some(&[0, 0, 0, 1, 1, 0, 0, 0, 0, 0][..]))
        );
        assert_eq!(Batch::packed(&[&[1, 2]]).types, None);
    }

    #[test]
    fn tokens_that_none_sees_are_counted_and_have_their_ids() {
        let mut unseen = [4, 4];
        mark_unseen(&mut unseen);
        let filled = [&[1, 2], &unseen[..]].concat();
        for batch in [Batch::packed(&[&[7, 8, 9], &filled]), Batch::padded(&[&[7, 8, 9], &filled])] {
            assert_eq!((&batch.lengths[..], &batch.seen[..]), (&[3, 4][..], &[3, 2][..]));
            let start = batch.starts[1];
            assert_eq!((&batch.ids[start..], batch.types), (&[1, 2, 4, 4][..], None));
        }
        assert_eq!(Batch::packed(&[&[1, 2]]).seen[..], [2]);
    }

    #[test]
    fn packed_texts_have_no_padding() {
        let batch = Batch::packed(&[&[1, 2, 3], &[4], &[5, 6]]);
        assert_eq!((batch.ids, batch.shape), (vec![1, 2, 3, 4, 5, 6], [1, 6]));
        assert_eq!((&batch.lengths[..], batch.starts), (&[3, 1, 2][..], vec![0, 3, 4]));
    }
}
