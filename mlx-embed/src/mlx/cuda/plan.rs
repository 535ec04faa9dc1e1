//! What the kernels need to know of a batch, as one list of numbers.

use super::queue::Tensor;
use crate::mlx::error::MlxError;

/// Queries of a head that a block of attention takes at once.
const QUERIES: usize = 64;

/// How attention is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Division {
    /// A block takes 64 queries of one head: `attention.cu`.
    Single,
    /// A block takes twice 64 queries that see the keys of the same head, as so many heads do: `attention_hopper.cu`.
    Pairs { sharing: usize },
}

impl Division {
    /// With `sharing` heads for each head of keys. Short texts are better off alone.
    pub(super) fn of(lengths: &[usize], cached: usize, hopper: bool, sharing: usize) -> Self {
        let longest = lengths.iter().max().map_or(0, |longest| cached + longest);
        if hopper && longest > QUERIES { Self::Pairs { sharing } } else { Self::Single }
    }
}

/// Token ids, positions and blocks of attention of a packed batch.
#[derive(Debug)]
pub(crate) struct Plan {
    /// i32: the ids `[T]`, the positions `[T]`, and for each part of attention the text's start, its length, the first
    /// query (of pairs, the first item) and how many of the text's tokens are seen.
    pub(super) numbers: Vec<i32>,
    pub(super) tokens: i32,
    /// Parts of attention.
    pub(super) parts: i32,
    pub(super) division: Division,
    pub(super) cached: i32,
    /// One more than the highest position.
    positions: usize,
    /// One more than the highest id.
    ids: u32,
}

impl Plan {
    /// `ids` are those of all texts, `lengths` how many each has, of which the first `seen` are keys; each text continues
    /// `cached` tokens.
    pub(super) fn new(
        ids: &[u32],
        lengths: &[usize],
        seen: &[usize],
        cached: usize,
        division: Division,
    ) -> Result<Self, MlxError> {
        let failed = |message: String| Err(MlxError::new("plan", message));
        if ids.is_empty() || lengths.iter().sum::<usize>() != ids.len() || seen.len() != lengths.len() {
            return failed(format!("{} tokens in texts of {lengths:?}", ids.len()));
        }
        let numbers = numbers(ids, lengths, seen, cached, division);
        let longest = lengths.iter().max().map_or(0, |longest| cached + longest);
        // The kernels count elements in 32 bits, some 2^14 a token.
        if ids.len().max(longest) >= 1 << 17 {
            return failed(format!("{} tokens are more than a batch may have", ids.len().max(longest)));
        }
        Ok(Self {
            tokens: ids.len() as i32,
            parts: ((numbers.len() - 2 * ids.len()) / 4) as i32,
            division,
            numbers,
            cached: cached as i32,
            positions: longest,
            ids: ids.iter().max().map_or(0, |id| id + 1),
        })
    }

    /// T.
    pub(crate) fn tokens(&self) -> i32 {
        self.tokens
    }

    /// Where the positions are of the plan on the GPU.
    pub(super) fn positions_in(&self, meta: &Tensor) -> u64 {
        meta.pointer() + self.tokens as u64 * 4
    }

    /// Where the parts of attention are.
    pub(super) fn parts_in(&self, meta: &Tensor) -> u64 {
        meta.pointer() + 2 * self.tokens as u64 * 4
    }

    /// How many positions its angles need.
    pub(crate) fn positions(&self) -> usize {
        self.positions
    }

    pub(super) fn ids(&self) -> u32 {
        self.ids
    }
}

fn numbers(ids: &[u32], lengths: &[usize], seen: &[usize], cached: usize, division: Division) -> Vec<i32> {
    let mut numbers: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
    numbers
        .extend(lengths.iter().flat_map(|&length| cached..cached + length).map(|position| position as i32));
    // With how many keys each sees.
    let mut parts = Vec::new();
    let mut start = 0;
    for (&length, &keys) in lengths.iter().zip(seen) {
        match division {
            Division::Single => parts.extend((0..length).step_by(QUERIES).map(|query| {
                let seen = (query + QUERIES).min(length);
                (seen, [start, length, query, keys])
            })),
            // An item is 64 queries of a head; heads go fastest.
            Division::Pairs { sharing } => {
                parts.extend((0..length.div_ceil(QUERIES) * sharing).step_by(2).map(|item| {
                    let seen = ((item + 1) / sharing * QUERIES + QUERIES).min(length);
                    (seen, [start, length, item, keys])
                }));
            }
        }
        start += length;
    }
    // Those with most keys first, so that the last ones to start are short.
    parts.sort_by_key(|(seen, _)| std::cmp::Reverse(*seen));
    numbers.extend(parts.iter().flat_map(|(_, part)| part).map(|&number| number as i32));
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_holds_every_query_once() {
        let lengths = [3, 130, 64, 1];
        let ids: Vec<u32> = (0..198).collect();
        let numbers = numbers(&ids, &lengths, &[3, 100, 64, 1], 10, Division::Single);
        assert_eq!(numbers[..198], (0..198).collect::<Vec<i32>>());
        assert_eq!(numbers[198..204], [10, 11, 12, 10, 11, 12]);
        let mut seen = vec![0; 198];
        let mut keys = usize::MAX;
        for block in numbers[2 * 198..].chunks(4) {
            let [start, length, query, of_text] =
                [block[0], block[1], block[2], block[3]].map(|x| x as usize);
            assert_eq!(of_text, length.min(100));
            let end = (query + QUERIES).min(length);
            assert!(end <= keys, "the longest come first");
            keys = end;
            seen[start + query..start + end].iter_mut().for_each(|times| *times += 1);
        }
        assert_eq!(seen, [1; 198]);
    }

    #[test]
    fn pairs_hold_every_query_of_every_head_once() {
        let lengths = [3, 130, 64, 1];
        let ids: Vec<u32> = (0..198).collect();
        for sharing in [1, 2, 3, 7] {
            let numbers = numbers(&ids, &lengths, &lengths, 0, Division::Pairs { sharing });
            let mut seen = vec![0; 198 * sharing];
            let mut keys = usize::MAX;
            for part in numbers[2 * 198..].chunks(4) {
                let [start, length, first] = [part[0], part[1], part[2]].map(|x| x as usize);
                let mut most = 0;
                for item in [first, first + 1] {
                    let (head, query) = (item % sharing, item / sharing * QUERIES);
                    // The last of a text may have no second.
                    for token in query..(query + QUERIES).min(length) {
                        seen[(start + token) * sharing + head] += 1;
                        most = most.max(token + 1);
                    }
                }
                assert!(most <= keys, "the longest come first");
                keys = most;
            }
            assert_eq!(seen, vec![1; 198 * sharing], "{sharing}");
        }
    }

    #[test]
    fn only_long_texts_are_divided_into_pairs() {
        let pairs = Division::Pairs { sharing: 2 };
        assert_eq!(Division::of(&[1, 65], 0, true, 2), pairs);
        assert_eq!(Division::of(&[1, 20], 60, true, 2), pairs);
        assert_eq!(Division::of(&[1, 64], 0, true, 2), Division::Single);
        assert_eq!(Division::of(&[1, 65], 0, false, 2), Division::Single);
    }

    #[test]
    fn a_plan_counts() {
        let plan = Plan::new(&[7, 5, 3], &[1, 2], &[1, 2], 4, Division::Single).unwrap();
        assert_eq!((plan.tokens(), plan.cached, plan.positions(), plan.ids()), (3, 4, 6, 8));
        assert_eq!(plan.parts, 2);
    }

    #[test]
    fn lengths_must_match_the_ids() {
        let of = |ids: &[u32], lengths: &[usize]| Plan::new(ids, lengths, lengths, 0, Division::Single);
        assert!(of(&[1, 2], &[3]).unwrap_err().to_string().contains("2 tokens"));
        assert!(of(&[], &[]).is_err());
    }
}
