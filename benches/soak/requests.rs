//! The requests, and what each has to end with.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use mlx_embed::{EmbedOptions, Embedder, Embedding, Error, Lane, Prompt, WhenFull};

use super::series::Window;

const WORDS: [&str; 24] = [
    "cats", "sleep", "in", "boxes", "the", "market", "fell", "today", "rain", "over", "old", "bridges",
    "engines", "of", "steam", "and", "light", "she", "reads", "letters", "from", "naïve", "Zürich", "猫",
];
const PROMPTS: [&str; 4] = [
    "query: ",
    "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery: ",
    "passage: ",
    "Instruct: Given a question about old engines and bridges, retrieve passages of the handbook that answer it\nQuery: ",
];
const PROBE: &str = "The cat sat on the mat";

/// How many requests ended how.
#[derive(Default)]
pub(crate) struct Counts {
    done: AtomicU64,
    cancelled: AtomicU64,
    late: AtomicU64,
    refused: AtomicU64,
    bad_input: AtomicU64,
    wrong: AtomicU64,
    first_wrong: Mutex<Option<String>>,
}

impl Counts {
    pub(crate) fn ended(&self) -> u64 {
        let Self { done, cancelled, late, refused, bad_input, wrong, .. } = self;
        [done, cancelled, late, refused, bad_input, wrong].iter().map(|count| count.load(Relaxed)).sum()
    }

    /// Fails if a result was wrong, or if some kind of end never came, so that it was not tried.
    pub(crate) fn check(&self) -> Result<(), String> {
        if let Some(wrong) = self.first_wrong.lock().map_err(|error| error.to_string())?.as_ref() {
            return Err(format!("{} results are wrong, the first: {wrong}", self.wrong.load(Relaxed)));
        }
        let Self { done, cancelled, late, bad_input, .. } = self;
        if [done, cancelled, late, bad_input].iter().any(|count| count.load(Relaxed) == 0) {
            return Err(format!("some kind of request never came: {self}"));
        }
        Ok(())
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} done, {} cancelled, {} late, {} refused by a full queue, {} bad input, {} wrong",
            self.done.load(Relaxed),
            self.cancelled.load(Relaxed),
            self.late.load(Relaxed),
            self.refused.load(Relaxed),
            self.bad_input.load(Relaxed),
            self.wrong.load(Relaxed)
        )
    }
}

enum End {
    Done,
    Cancelled,
    Late,
    Refused,
    BadInput,
    Wrong(String),
}

/// Numbers that follow from a request's own: runs are alike, whichever thread sends what.
struct Draw(u64);

impl Draw {
    /// splitmix64
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below
    }

    fn text(&mut self, words: std::ops::Range<u64>) -> String {
        let count = words.start + self.next(words.end - words.start);
        let words: Vec<&str> = (0..count).map(|_| WORDS[self.next(WORDS.len() as u64) as usize]).collect();
        words.join(" ")
    }

    fn texts(&mut self, count: std::ops::Range<u64>, words: std::ops::Range<u64>) -> Vec<String> {
        let count = count.start + self.next(count.end - count.start);
        (0..count).map(|_| self.text(words.clone())).collect()
    }
}

/// Makes requests, each from its number alone.
pub(crate) struct Requests<'a> {
    embedder: &'a Embedder,
    hidden: usize,
    vocab_size: u32,
    probe: Vec<f32>,
}

impl<'a> Requests<'a> {
    pub(crate) fn new(embedder: &'a Embedder) -> Result<Self, Error> {
        let config = &embedder.info().config;
        Ok(Self {
            embedder,
            hidden: config.hidden_size as usize,
            vocab_size: config.vocab_size as u32,
            probe: embedder.embed_one(PROBE)?.vector,
        })
    }

    /// Fails unless the probe still has the bits of its first vector.
    pub(crate) fn check_answer(&self) -> Result<(), String> {
        let now = self.embedder.embed_one(PROBE).map_err(|error| error.to_string())?;
        if now.vector == self.probe { Ok(()) } else { Err("the same text has another vector now".into()) }
    }

    /// Sends request `number` and counts how it ends.
    pub(crate) fn send(&self, number: u64, counts: &Counts, window: &Window) {
        let draw = &mut Draw(number);
        let end = match draw.next(100) {
            0..50 => self.short(draw, window),
            50..60 => self.several(draw),
            60..68 => self.behind_a_prompt(draw),
            68..71 => self.long(draw),
            71..72 => self.bulk(draw),
            72..77 => self.token_ids(draw),
            77..84 => self.in_a_hurry(draw),
            84..90 => self.left_alone(draw),
            90..91 => self.stream_left_early(draw),
            91..92 => self.if_there_is_room(draw),
            92..93 => self.probe(),
            _ => self.bad(draw),
        };
        let count = match end {
            End::Done => &counts.done,
            End::Cancelled => &counts.cancelled,
            End::Late => &counts.late,
            End::Refused => &counts.refused,
            End::BadInput => &counts.bad_input,
            End::Wrong(what) => {
                if let Ok(mut first) = counts.first_wrong.lock() {
                    first.get_or_insert(format!("request {number}: {what}"));
                }
                &counts.wrong
            }
        };
        count.fetch_add(1, Relaxed);
    }

    fn short(&self, draw: &mut Draw, window: &Window) -> End {
        let text = draw.text(1..24);
        let start = Instant::now();
        let result = self.embedder.embed(&[text]);
        window.record(start.elapsed());
        self.done(result, 1, self.hidden)
    }

    fn several(&self, draw: &mut Draw) -> End {
        let texts = draw.texts(2..9, 1..40);
        self.done(self.embedder.embed(&texts), texts.len(), self.hidden)
    }

    fn behind_a_prompt(&self, draw: &mut Draw) -> End {
        let prompt = match draw.next(8) {
            // Prompts of which there are more than are kept.
            0 => format!("{} {}: ", PROMPTS[1], draw.next(1000)),
            kept => PROMPTS[kept as usize % PROMPTS.len()].to_owned(),
        };
        let options = EmbedOptions { prompt: Prompt::Text(prompt), ..Default::default() };
        self.done(self.embedder.embed_with(&[draw.text(1..16)], &options), 1, self.hidden)
    }

    /// Some are longer than the model's limit.
    fn long(&self, draw: &mut Draw) -> End {
        let dims = 1 + draw.next(self.hidden as u64) as usize;
        let options = EmbedOptions { dims: NonZeroUsize::new(dims), ..Default::default() };
        self.done(self.embedder.embed_with(&[draw.text(60..700)], &options), 1, dims)
    }

    fn bulk(&self, draw: &mut Draw) -> End {
        let texts = draw.texts(20..80, 1..12);
        let options = EmbedOptions { lane: Lane::Bulk, ..Default::default() };
        self.done(self.embedder.embed_with(&texts, &options), texts.len(), self.hidden)
    }

    fn token_ids(&self, draw: &mut Draw) -> End {
        let length = 1 + draw.next(40);
        let ids = (0..length).map(|_| draw.next(u64::from(self.vocab_size)) as u32).collect();
        self.done(self.embedder.embed_token_ids(vec![ids], &EmbedOptions::default()), 1, self.hidden)
    }

    /// Done or late, as it happens.
    fn in_a_hurry(&self, draw: &mut Draw) -> End {
        let timeout = Some(Duration::from_micros(draw.next(20_000)));
        let options = EmbedOptions { timeout, ..Default::default() };
        let texts = draw.texts(1..4, 1..60);
        match self.embedder.embed_with(&texts, &options) {
            Err(Error::DeadlineExceeded { .. }) => End::Late,
            result => self.done(result, texts.len(), self.hidden),
        }
    }

    /// Submitted, and taken back at once or a little later.
    fn left_alone(&self, draw: &mut Draw) -> End {
        let pending = self.embedder.submit(&draw.texts(1..8, 1..60), &EmbedOptions::default());
        std::thread::sleep(Duration::from_micros(draw.next(3_000)));
        drop(pending);
        End::Cancelled
    }

    fn stream_left_early(&self, draw: &mut Draw) -> End {
        let texts = draw.texts(30..120, 1..12);
        let taken = draw.next(20) as usize;
        for result in self.embedder.embed_iter(&texts, &EmbedOptions::default()).take(taken) {
            if let End::Wrong(what) = self.done(result.map(|one| vec![one]), 1, self.hidden) {
                return End::Wrong(what);
            }
        }
        End::Cancelled
    }

    fn if_there_is_room(&self, draw: &mut Draw) -> End {
        let options = EmbedOptions { when_full: Some(WhenFull::Refuse), ..Default::default() };
        let texts = draw.texts(30..64, 1..6);
        match self.embedder.embed_with(&texts, &options) {
            Err(Error::QueueFull { .. }) => End::Refused,
            result => self.done(result, texts.len(), self.hidden),
        }
    }

    fn probe(&self) -> End {
        match self.embedder.embed_one(PROBE) {
            Ok(embedding) if embedding.vector == self.probe => End::Done,
            other => End::Wrong(format!("the probe's vector changed: {other:?}")),
        }
    }

    /// Each kind has its own error, and text that only looks bad has none.
    fn bad(&self, draw: &mut Draw) -> End {
        let options = |prompt, dims| EmbedOptions { prompt, dims, ..Default::default() };
        let defaults = EmbedOptions::default();
        let result = match draw.next(6) {
            0 => {
                let named = options(Prompt::Named("sonnet".into()), None);
                self.embedder.embed_with(&[draw.text(1..9)], &named)
            }
            1 => {
                let wide = options(Prompt::None, NonZeroUsize::new(self.hidden + 1));
                self.embedder.embed_with(&[draw.text(1..9)], &wide)
            }
            2 => self.embedder.embed_token_ids(vec![vec![self.vocab_size]], &defaults),
            3 => self.embedder.embed_token_ids(vec![vec![1], vec![]], &defaults),
            4 => self.embedder.embed_token_ids(vec![vec![1; 5000]], &defaults),
            _ => {
                let odd = ["", "\0\0", "\u{feff}", "\u{202e}abc", "🏳️‍🌈🏳️‍🌈", "a\u{301}\u{301}\u{301}"];
                return self.done(self.embedder.embed(odd), odd.len(), self.hidden);
            }
        };
        match result {
            Err(Error::Text(_) | Error::Option { .. } | Error::Input { .. }) => End::BadInput,
            other => End::Wrong(format!("bad input ended with {other:?}")),
        }
    }

    fn done(&self, result: Result<Vec<Embedding>, Error>, count: usize, dims: usize) -> End {
        let embeddings = match result {
            Ok(embeddings) => embeddings,
            Err(error) => return End::Wrong(error.to_string()),
        };
        if embeddings.len() != count {
            return End::Wrong(format!("{} vectors for {count} texts", embeddings.len()));
        }
        for Embedding { vector, .. } in &embeddings {
            let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
            if vector.len() != dims || (length - 1.0).abs() > 1e-4 {
                return End::Wrong(format!("a vector of {} numbers and length {length}", vector.len()));
            }
        }
        End::Done
    }
}
