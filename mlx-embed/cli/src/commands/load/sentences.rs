//! English sentences that are all different, so that neither caches nor the sharing of identical texts make a model
//! look faster than it is.

use std::array;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::random::Random;

/// Sentences of a main clause, no two alike, with an opening and further clauses now and then. Threads may share it.
#[derive(Debug, Default)]
pub(super) struct Sentences {
    made: AtomicU64,
}

impl Sentences {
    /// The next so many.
    pub(super) fn next(&self, count: usize) -> Vec<String> {
        let first = self.made.fetch_add(count as u64, Ordering::Relaxed);
        (first..first + count as u64).map(sentence).collect()
    }
}

/// Lists of words, one a line: openings; adjectives, people, verbs, things and places of the main clause; tails.
static WORDS: LazyLock<[Vec<&'static str>; 7]> = LazyLock::new(|| {
    let mut lines = include_str!("words.txt").lines();
    array::from_fn(|_| lines.next().unwrap_or_default().split('|').collect())
});

/// A prime above the length of every list has no factor in common with their product, so multiples of it meet each
/// clause once. Neighbours share no words but by chance.
const STEP: u64 = 1_000_000_007;

fn sentence(number: u64) -> String {
    let [openings, main @ .., tails] = &*WORDS;
    let clauses: u64 = main.iter().map(|words| words.len() as u64).product();
    let mut clause = (number % clauses) * STEP % clauses;
    let mut pick = |words: &Vec<&'static str>| {
        let word = words[(clause % words.len() as u64) as usize];
        clause /= words.len() as u64;
        word
    };
    let [adjective, person, verb, thing, place] = main.each_ref().map(&mut pick);
    let mut random = Random::new(number);
    let mut text = String::with_capacity(160);
    if random.below(4) == 0 {
        text.push_str(openings[random.below(openings.len())]);
        text.push_str(", the ");
    } else {
        text.push_str("The ");
    }
    for word in [adjective, person, verb, "the"] {
        text.push_str(word);
        text.push(' ');
    }
    text.push_str(thing);
    text.push(' ');
    text.push_str(place);
    while random.below(5) < 2 {
        text.push_str(", ");
        text.push_str(tails[random.below(tails.len())]);
    }
    text.push('.');
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_sentences_are_alike() {
        let sentences = Sentences::default();
        let mut seen = HashSet::new();
        assert!((0..1000).all(|_| sentences.next(100).into_iter().all(|text| seen.insert(text))));
    }

    #[test]
    fn words_are_listed_once() {
        for words in WORDS.iter() {
            assert_eq!(words.iter().collect::<HashSet<_>>().len(), words.len());
        }
    }

    #[test]
    fn lengths_vary() {
        let lengths: Vec<usize> =
            Sentences::default().next(1000).iter().map(|text| text.split(' ').count()).collect();
        let (shortest, longest) = (lengths.iter().min().unwrap(), lengths.iter().max().unwrap());
        let mean = lengths.iter().sum::<usize>() as f64 / lengths.len() as f64;
        assert!(
            *shortest <= 9 && *longest >= 30 && (10.0..20.0).contains(&mean),
            "{shortest} {longest} {mean}"
        );
    }
}
