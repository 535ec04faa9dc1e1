//! The company in which a text should be what it is alone.

use std::collections::VecDeque;

use crate::batch::with_id;

/// Tokens, padding included, from which on a batch gets no more texts: every hidden state of theirs is held at once.
const BATCH_TOKENS: usize = 512;

/// Others of a text's length that it runs among.
const EQUALS: usize = 3;

/// Orders in which a call's texts are shuffled.
pub(super) const SHUFFLES: usize = 3;

/// Texts of these lengths: the longest one with the shortest ones beside it, and so on with what is left. With `apart`
/// only texts of one length are put together.
pub(super) fn batches(lengths: &[usize], apart: bool) -> Vec<Vec<usize>> {
    let mut left: VecDeque<usize> = (0..lengths.len()).collect();
    left.make_contiguous().sort_by_key(|&index| lengths[index]);
    let mut batches = Vec::new();
    while let Some(longest) = left.pop_back() {
        let mut batch = vec![longest];
        while batch.len() == 1 || (batch.len() + 1) * lengths[longest] <= BATCH_TOKENS {
            let next = if apart {
                let equal = left.back().is_some_and(|&index| lengths[index] == lengths[longest]);
                if equal { left.pop_back() } else { None }
            } else {
                left.pop_front()
            };
            let Some(next) = next else { break };
            batch.push(next);
        }
        batches.push(batch);
    }
    batches
}

/// A text and others of its length that begin differently, all of its tokens.
pub(super) fn equals_of(ids: &[u32]) -> Vec<Vec<u32>> {
    // Marks stay where they are.
    let turned = |by: usize| {
        let other = ids.iter().cycle().skip(by * ids.len() / (EQUALS + 1));
        ids.iter().zip(other).map(|(&at, &other)| with_id(at, other)).collect()
    };
    (0..=EQUALS).map(turned).collect()
}

/// A fixed order that mixes lengths, another one each round.
pub(super) fn shuffle(order: &mut [usize], round: usize) {
    let half = order.len() / 2;
    for turn in 0..=round {
        order.rotate_left((3 + turn).min(order.len()));
        order[..half].reverse();
    }
}
