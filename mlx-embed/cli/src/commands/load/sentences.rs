//! English sentences that are all different, so that neither caches nor the sharing of identical texts make a model
//! look faster than it is.

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

/// The words of the main clause, in order.
const MAIN: [&[&str]; 5] = [&ADJECTIVES, &PEOPLE, &VERBS, &THINGS, &PLACES];

/// Main clauses that can be made of these words.
const CLAUSES: u64 = {
    let mut product = 1;
    let mut at = 0;
    while at < MAIN.len() {
        product *= MAIN[at].len() as u64;
        at += 1;
    }
    product
};

/// A prime above the length of every list has no factor in common with their product, so multiples of it meet each
/// clause once. Neighbours share no words but by chance.
const STEP: u64 = 1_000_000_007;

fn sentence(number: u64) -> String {
    let mut clause = (number % CLAUSES) * STEP % CLAUSES;
    let mut pick = |words: &[&'static str]| {
        let word = words[(clause % words.len() as u64) as usize];
        clause /= words.len() as u64;
        word
    };
    let [adjective, person, verb, thing, place] = MAIN.map(&mut pick);
    let mut random = Random::new(number);
    let mut text = String::with_capacity(160);
    if random.below(4) == 0 {
        text.push_str(OPENINGS[random.below(OPENINGS.len())]);
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
        text.push_str(TAILS[random.below(TAILS.len())]);
    }
    text.push('.');
    text
}

const OPENINGS: [&str; 20] = [
    "On Monday morning",
    "After the long winter",
    "Late in the evening",
    "To everyone's surprise",
    "According to the report",
    "As usual",
    "During the festival",
    "Before the meeting",
    "In the last week of May",
    "Without a word",
    "For the third time",
    "Since nobody else would",
    "Early the next day",
    "At the end of the season",
    "Despite the heavy rain",
    "With some help from a friend",
    "Once the letter had arrived",
    "In the meantime",
    "Years later",
    "By noon",
];

const ADJECTIVES: [&str; 60] = [
    "patient",
    "old",
    "young",
    "careful",
    "tired",
    "cheerful",
    "famous",
    "quiet",
    "clever",
    "nervous",
    "honest",
    "proud",
    "lonely",
    "generous",
    "stubborn",
    "polite",
    "curious",
    "busy",
    "brave",
    "shy",
    "serious",
    "lazy",
    "kind",
    "angry",
    "hungry",
    "wealthy",
    "retired",
    "foreign",
    "local",
    "new",
    "former",
    "friendly",
    "careless",
    "gifted",
    "grumpy",
    "humble",
    "restless",
    "sleepy",
    "thoughtful",
    "talented",
    "worried",
    "bold",
    "calm",
    "determined",
    "elderly",
    "experienced",
    "forgetful",
    "graceful",
    "helpful",
    "impatient",
    "jealous",
    "lucky",
    "modest",
    "observant",
    "practical",
    "reliable",
    "skilful",
    "strict",
    "trusted",
    "unknown",
];

const PEOPLE: [&str; 80] = [
    "gardener",
    "teacher",
    "doctor",
    "sailor",
    "baker",
    "engineer",
    "painter",
    "nurse",
    "farmer",
    "lawyer",
    "musician",
    "pilot",
    "carpenter",
    "student",
    "librarian",
    "journalist",
    "waiter",
    "captain",
    "chemist",
    "clerk",
    "dentist",
    "driver",
    "editor",
    "fisherman",
    "grandmother",
    "guard",
    "guide",
    "hunter",
    "inspector",
    "judge",
    "king",
    "mayor",
    "mechanic",
    "merchant",
    "miner",
    "neighbour",
    "novelist",
    "officer",
    "photographer",
    "plumber",
    "poet",
    "postman",
    "priest",
    "professor",
    "programmer",
    "referee",
    "reporter",
    "scientist",
    "secretary",
    "shepherd",
    "shopkeeper",
    "singer",
    "soldier",
    "tailor",
    "tourist",
    "translator",
    "umpire",
    "violinist",
    "visitor",
    "watchmaker",
    "widow",
    "witness",
    "zoologist",
    "actor",
    "architect",
    "astronomer",
    "banker",
    "barber",
    "biologist",
    "butcher",
    "cook",
    "dancer",
    "detective",
    "diver",
    "electrician",
    "firefighter",
    "geologist",
    "historian",
    "landlord",
    "magician",
];

const VERBS: [&str; 60] = [
    "repaired",
    "found",
    "sold",
    "painted",
    "described",
    "forgot",
    "bought",
    "borrowed",
    "hid",
    "measured",
    "photographed",
    "inspected",
    "carried",
    "cleaned",
    "lost",
    "stole",
    "admired",
    "examined",
    "opened",
    "dropped",
    "delivered",
    "kept",
    "burned",
    "buried",
    "drew",
    "returned",
    "replaced",
    "weighed",
    "noticed",
    "recognised",
    "ordered",
    "collected",
    "ignored",
    "tested",
    "damaged",
    "improved",
    "labelled",
    "locked",
    "moved",
    "packed",
    "polished",
    "pushed",
    "received",
    "refused",
    "rented",
    "saved",
    "searched",
    "shared",
    "shipped",
    "stored",
    "studied",
    "touched",
    "traded",
    "unpacked",
    "used",
    "wanted",
    "washed",
    "watched",
    "wrapped",
    "discovered",
];

const THINGS: [&str; 90] = [
    "lantern",
    "piano",
    "bicycle",
    "letter",
    "map",
    "clock",
    "boat",
    "camera",
    "coat",
    "ladder",
    "mirror",
    "violin",
    "telescope",
    "basket",
    "carpet",
    "hammer",
    "kettle",
    "umbrella",
    "wallet",
    "suitcase",
    "engine",
    "statue",
    "chair",
    "curtain",
    "diamond",
    "envelope",
    "fence",
    "flag",
    "guitar",
    "helmet",
    "jacket",
    "key",
    "knife",
    "lamp",
    "machine",
    "medal",
    "newspaper",
    "notebook",
    "painting",
    "parcel",
    "pillow",
    "pipe",
    "radio",
    "ring",
    "rope",
    "saddle",
    "scarf",
    "shovel",
    "sofa",
    "stamp",
    "stove",
    "table",
    "tent",
    "ticket",
    "toolbox",
    "tractor",
    "trumpet",
    "vase",
    "wagon",
    "watch",
    "wheel",
    "whistle",
    "window",
    "anchor",
    "barrel",
    "battery",
    "bell",
    "blanket",
    "book",
    "bottle",
    "bridge",
    "bucket",
    "cabinet",
    "candle",
    "contract",
    "computer",
    "compass",
    "diary",
    "drum",
    "globe",
    "harp",
    "manuscript",
    "microscope",
    "necklace",
    "photograph",
    "recipe",
    "robot",
    "sculpture",
    "sword",
    "thermometer",
];

const PLACES: [&str; 60] = [
    "behind the station",
    "in the kitchen",
    "near the river",
    "at the market",
    "under the bridge",
    "in the museum",
    "on the roof",
    "beside the church",
    "in an empty office",
    "at the harbour",
    "outside the village",
    "in the garden",
    "on the train",
    "in a small hotel",
    "at the airport",
    "by the lake",
    "in the basement",
    "on the mountain",
    "across the street",
    "in the library",
    "near the border",
    "at the university",
    "in the attic",
    "on the beach",
    "inside the tower",
    "in the old town",
    "at the factory",
    "by the fire",
    "in the forest",
    "on a farm",
    "at school",
    "in the courtroom",
    "behind the theatre",
    "in a crowded bar",
    "on the island",
    "at the hospital",
    "in the valley",
    "near the lighthouse",
    "in the desert",
    "at the castle",
    "on the ferry",
    "in a quiet street",
    "at the stadium",
    "in the laboratory",
    "by the sea",
    "under an old tree",
    "in the car park",
    "at the bank",
    "on the balcony",
    "in the cellar",
    "at the workshop",
    "near the school",
    "in the warehouse",
    "at the bakery",
    "on the platform",
    "in the orchard",
    "at the auction",
    "in the hall",
    "next to the mill",
    "in the capital",
];

const TAILS: [&str; 24] = [
    "because the weather had changed",
    "although nobody had asked for it",
    "while the others were asleep",
    "and then went home without saying goodbye",
    "which cost more than a month's wages",
    "before the police could ask any questions",
    "so that the work could begin at once",
    "as the newspapers reported the following week",
    "since there was not enough time for a second attempt",
    "and the price of bread rose again",
    "but the committee did not agree",
    "until the lights went out",
    "whose owner had moved to another country",
    "hoping that it would bring luck",
    "which turned out to be a mistake",
    "although the instructions were clear",
    "and wrote a long report about the differences between the two",
    "when the first snow fell",
    "as if nothing had happened",
    "with the help of a neighbour's dog",
    "just as the contract required",
    "even though the museum had offered a better one",
    "for reasons that remain unknown",
    "and later taught others how to do the same",
];

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
        for words in MAIN {
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
