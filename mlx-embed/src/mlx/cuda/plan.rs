//! What the kernels need to know of a batch, as one list of numbers.

use crate::mlx::error::MlxError;

/// Queries of a block of attention.
const QUERIES: usize = 64;

/// Token ids, positions and blocks of attention of a batch whose texts lie one behind the other.
#[derive(Debug)]
pub(crate) struct Plan {
    /// i32: the ids `[T]`, the positions `[T]`, and for each block of attention the text's start, its length, the first
    /// query and 0.
    pub(super) numbers: Vec<i32>,
    pub(super) tokens: i32,
    pub(super) blocks: i32,
    pub(super) past: i32,
    /// One more than the highest position.
    positions: usize,
    /// One more than the highest id.
    ids: u32,
}

impl Plan {
    /// `ids` are those of all texts, `lengths` how many each has; each text continues `past` tokens.
    pub(crate) fn new(ids: &[u32], lengths: &[usize], past: usize) -> Result<Self, MlxError> {
        let failed = |message: String| Err(MlxError::new("plan", message));
        if ids.is_empty() || lengths.iter().sum::<usize>() != ids.len() {
            return failed(format!("{} tokens in texts of {lengths:?}", ids.len()));
        }
        let numbers = numbers(ids, lengths, past);
        let longest = lengths.iter().max().map_or(0, |longest| past + longest);
        // The kernels count elements in 32 bits, some 2^14 a token.
        if ids.len().max(longest) >= 1 << 17 {
            return failed(format!("{} tokens are more than a batch may have", ids.len().max(longest)));
        }
        Ok(Self {
            tokens: ids.len() as i32,
            blocks: ((numbers.len() - 2 * ids.len()) / 4) as i32,
            numbers,
            past: past as i32,
            positions: longest,
            ids: ids.iter().max().map_or(0, |id| id + 1),
        })
    }

    /// T.
    pub(crate) fn tokens(&self) -> i32 {
        self.tokens
    }

    /// How many positions its angles need.
    pub(crate) fn positions(&self) -> usize {
        self.positions
    }

    pub(super) fn ids(&self) -> u32 {
        self.ids
    }
}

fn numbers(ids: &[u32], lengths: &[usize], past: usize) -> Vec<i32> {
    let mut numbers: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
    numbers.extend(lengths.iter().flat_map(|&length| past..past + length).map(|position| position as i32));
    let mut blocks = Vec::new();
    let mut start = 0;
    for &length in lengths {
        blocks.extend((0..length).step_by(QUERIES).map(|query| [start, length, query, 0]));
        start += length;
    }
    // Those with most keys first, so that the last ones to start are short.
    blocks.sort_by_key(|[_, length, query, _]| std::cmp::Reverse((*query + QUERIES).min(*length)));
    numbers.extend(blocks.iter().flatten().map(|&number| number as i32));
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_holds_every_query_once() {
        let lengths = [3, 130, 64, 1];
        let ids: Vec<u32> = (0..198).collect();
        let numbers = numbers(&ids, &lengths, 10);
        assert_eq!(numbers[..198], (0..198).collect::<Vec<i32>>());
        assert_eq!(numbers[198..204], [10, 11, 12, 10, 11, 12]);
        let mut seen = vec![0; 198];
        let mut keys = usize::MAX;
        for block in numbers[2 * 198..].chunks(4) {
            let [start, length, query, zero] = [block[0], block[1], block[2], block[3]].map(|x| x as usize);
            assert_eq!(zero, 0);
            let end = (query + QUERIES).min(length);
            assert!(end <= keys, "the longest come first");
            keys = end;
            seen[start + query..start + end].iter_mut().for_each(|times| *times += 1);
        }
        assert_eq!(seen, [1; 198]);
    }

    #[test]
    fn a_plan_counts() {
        let plan = Plan::new(&[7, 5, 3], &[1, 2], 4).unwrap();
        assert_eq!((plan.tokens(), plan.past, plan.positions(), plan.ids()), (3, 4, 6, 8));
        assert_eq!(plan.blocks, 2);
    }

    #[test]
    fn lengths_must_match_the_ids() {
        assert!(Plan::new(&[1, 2], &[3], 0).unwrap_err().to_string().contains("2 tokens"));
        assert!(Plan::new(&[], &[], 0).is_err());
    }
}
