//! From a call's texts to its results.

mod pending;
mod tokenizing;

use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::batch::Reading;
use crate::checkpoint::{DenseActivation, Purpose};
use crate::engine::queue::{Ask, QueueLane};
use crate::engine::{
    Admission, Caller, Computed, Ended, Engine, Meters, Outcome, SharedPrompt, Text, Ticket, VectorCache,
};
use crate::error::{Error, InputError};
use crate::file::{Files, OpenFile};
use crate::info::Info;
use crate::options::{EmbedOptions, Embedding, Lane, WhenFull};
use crate::pooling;
use crate::runner::Inspect;
use crate::text::{Frame, LeftOut, PairForm, Prompts, Side, TextEncoder};
pub use pending::Pending;
use tokenizing::Tokenizing;
pub(crate) use tokenizing::{Threads, marked, of_side};

/// Text that is tokenised where it is submitted: a millisecond's worth. More goes to a thread for it, so that an async
/// caller's thread is not held up.
const INLINE_BYTES: usize = 2048;

/// Requests with more texts stand in the bulk lane unless they say otherwise.
const QUERY_TEXTS: usize = 64;

/// Texts of one request. A slice of texts that have no size may be of any length, and each has a result of some size.
const MOST_TEXTS: usize = 1 << 24;

/// What every handle of one embedder shares.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) text: TextEncoder,
    /// Of a reranker, how its pairs are put together.
    pub(crate) pairs: Option<PairForm>,
    /// Of a model of late interaction, how its texts are read.
    pub(crate) sides: Option<Sides>,
    /// Tokens that have no weight, where each that a text has gets one.
    pub(crate) left_out: Option<Arc<LeftOut>>,
    /// Types of tokens that the model tells apart.
    pub(crate) token_types: usize,
    pub(crate) prompts: Prompts,
    pub(crate) place: Files,
    /// The files that the weights were loaded from.
    pub(crate) weights: Vec<Arc<OpenFile>>,
    pub(crate) info: Info,
    pub(crate) cache: Option<Arc<VectorCache>>,
    pub(crate) meters: Arc<Meters>,
    /// What the model gives.
    pub(crate) purpose: Purpose,
    /// Whether texts with a beginning in common may share its keys and values.
    pub(crate) shares_prompts: bool,
    /// Whether pooling leaves out the tokens of a text's prompt.
    pub(crate) leaves_out_prompts: bool,
    /// Bytes that a text may have, prompt included.
    pub(crate) max_text_bytes: usize,
    pub(crate) tokenizing: OnceLock<Option<Threads>>,
    pub(crate) engine: Engine<dyn Inspect>,
}

/// How queries and documents are read.
#[derive(Debug)]
pub(crate) struct Sides {
    pub(crate) query: Arc<Side>,
    pub(crate) document: Arc<Side>,
}

/// Each text's result or why it has none.
pub(crate) type Results<T> = Vec<Result<T, InputError>>;

/// Makes a call's return value of what became of its texts.
pub(crate) type Convert<R> = fn(Vec<Outcome>, &Finish) -> Result<R, Error>;

/// What a call gives for a text.
pub(crate) trait Reply: Sized {
    /// Of what the model gave.
    fn of(computed: Computed, finish: &Finish) -> Self;
}

/// A result each.
pub(crate) fn each<T: Reply>(outcomes: Vec<Outcome>, finish: &Finish) -> Result<Results<T>, Error> {
    Ok(outcomes.into_iter().map(|outcome| Ok(T::of(outcome?, finish))).collect())
}

/// All results, or the first text's error.
pub(crate) fn all<T: Reply>(outcomes: Vec<Outcome>, finish: &Finish) -> Result<Vec<T>, Error> {
    unless_one_failed(each(outcomes, finish)?)
}

/// The one result.
pub(crate) fn one<T: Reply>(outcomes: Vec<Outcome>, finish: &Finish) -> Result<T, Error> {
    let only = all(outcomes, finish)?.pop();
    only.ok_or(Error::Input { index: 0, source: InputError::Empty })
}

/// All results, or the first text's error.
pub(crate) fn unless_one_failed<T>(results: Results<T>) -> Result<Vec<T>, Error> {
    let results = results.into_iter().enumerate();
    results.map(|(index, result)| result.map_err(|source| Error::Input { index, source })).collect()
}

/// What becomes of a result after the model.
#[derive(Debug, Clone, Default)]
pub(crate) struct Finish {
    pub(crate) dims: Option<usize>,
    pub(crate) normalize: bool,
    /// Of a reranker, what becomes of a logit, and how many of the best scores are wanted.
    pub(crate) activation: Option<DenseActivation>,
    pub(crate) top_n: Option<NonZeroUsize>,
    /// Of results of tokens, those that don't count.
    pub(crate) left_out: Option<Arc<LeftOut>>,
}

/// What goes before each of a call's texts.
#[derive(Debug, Clone)]
pub(crate) enum Before {
    Prompt(Arc<str>),
    Query(Arc<Query>),
    /// A prompt, and how the texts are read.
    Side(Arc<str>, Arc<Side>),
}

impl Before {
    /// Bytes of it.
    fn len(&self) -> usize {
        match self {
            Self::Prompt(prompt) | Self::Side(prompt, _) => prompt.len(),
            Self::Query(query) => query.instruction.len() + query.query.len(),
        }
    }
}

/// A reranker's query, tokenised when the first of its documents is.
#[derive(Debug)]
pub(crate) struct Query {
    instruction: String,
    query: String,
    frame: OnceLock<Result<Frame, InputError>>,
}

impl Query {
    pub(crate) fn new(instruction: &str, query: &str) -> Self {
        Self { instruction: instruction.to_owned(), query: query.to_owned(), frame: OnceLock::new() }
    }

    /// What it puts around each document.
    pub(crate) fn frame(&self, shared: &Shared) -> Result<&Frame, InputError> {
        let frame = self.frame.get_or_init(|| {
            let (bytes, max_bytes) = (self.instruction.len() + self.query.len(), shared.max_text_bytes);
            if bytes > max_bytes {
                return Err(InputError::TooManyBytes { bytes, max_bytes });
            }
            let form = shared
                .pairs
                .as_ref()
                .ok_or_else(|| InputError::Tokenizer { reason: "the model takes no pairs".into() })?;
            form.frame(&shared.text, &self.instruction, &self.query, shared.info.max_tokens)
        });
        frame.as_ref().map_err(Clone::clone)
    }
}

/// A call's options, held against the model.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    before: Before,
    finish: Finish,
    lane: QueueLane,
    refusable: bool,
}

impl Plan {
    /// `refuse` is what a call of this kind does by default when the queue is full.
    pub(crate) fn new(
        before: Before,
        finish: Finish,
        texts: usize,
        lane: Lane,
        when_full: Option<WhenFull>,
        refuse: bool,
    ) -> Self {
        let lane = match lane {
            Lane::Auto if texts > QUERY_TEXTS => QueueLane::Bulk,
            Lane::Auto | Lane::Query => QueueLane::Query,
            Lane::Bulk => QueueLane::Bulk,
        };
        let refusable = match when_full {
            Some(WhenFull::Refuse) => true,
            Some(WhenFull::Wait) => false,
            None => refuse,
        };
        Self { before, finish, lane, refusable }
    }

    /// What a request of this plan asks of the queue.
    pub(crate) fn ask(&self, texts: usize, bytes: usize, held: bool) -> Ask {
        Ask { lane: self.lane, jobs: texts, bytes, refusable: self.refusable, held }
    }
}

/// How a request is sent.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sending {
    pub(crate) timeout: Option<Duration>,
    /// Whether this thread waits for the result anyway, so that it may as well tokenise.
    pub(crate) waits: bool,
    /// Whether it is part of a call that is finished once it is begun.
    pub(crate) held: bool,
}

impl Sending {
    /// Of a request that is not waited for here.
    pub(crate) fn later(timeout: Option<Duration>) -> Self {
        Self { timeout, ..Self::default() }
    }
}

impl Reply for Embedding {
    fn of(computed: Computed, finish: &Finish) -> Self {
        let Computed { output, ids, truncated, cached, queue_time, device_time } = computed;
        let mut vector = output.to_numbers();
        pooling::finish(&mut vector, finish.dims, finish.normalize);
        Self { vector, tokens: ids.len(), truncated, cached, queue_time, device_time }
    }
}

impl Shared {
    /// Holds options against the model. `refuse` is what a call of this kind does by default when the queue is full.
    pub(crate) fn plan(&self, options: &EmbedOptions, texts: usize, refuse: bool) -> Result<Plan, Error> {
        let finish = self.finish(options)?;
        let before = Before::Prompt(self.prompts.resolve(&options.prompt)?.into());
        Ok(Plan::new(before, finish, texts, options.lane, options.when_full, refuse))
    }

    /// What the options make of results.
    pub(crate) fn finish(&self, options: &EmbedOptions) -> Result<Finish, Error> {
        let EmbedOptions { dims, normalize, .. } = options;
        if self.purpose == Purpose::Sparse && (dims.is_some() || *normalize == Some(true)) {
            let option = if dims.is_some() { "dims" } else { "normalize" };
            let reason = "is given, but sparse vectors are neither cut nor scaled; leave it out".into();
            return Err(Error::Option { option, reason });
        }
        let hidden = self.info.embedding_size;
        let dims = dims.map(NonZeroUsize::get);
        if let Some(dims) = dims.filter(|&dims| dims > hidden) {
            return Err(Error::Option {
                option: "dims",
                reason: format!("is {dims}, but this model's vectors have {hidden}; give at most that"),
            });
        }
        let normalize = normalize.unwrap_or(self.info.normalize);
        Ok(Finish { dims, normalize, left_out: self.left_out.clone(), ..Finish::default() })
    }

    /// Sends texts on their way. They are tokenised on this thread if there is little of them, or if it waits for the
    /// result without a timeout that it has to keep; else on another.
    pub(crate) fn send<T: AsRef<str>, R>(
        self: &Arc<Self>,
        texts: &[T],
        plan: Result<Plan, Error>,
        sending: Sending,
        convert: Convert<R>,
    ) -> Pending<R> {
        self.begin(texts.len(), plan, sending.timeout, convert, |caller, plan| {
            let prompt = plan.before.len();
            let fits = |text: &T| prompt.saturating_add(text.as_ref().len()) <= self.max_text_bytes;
            let bytes = texts.iter().filter(|text| fits(text)).map(|text| prompt + text.as_ref().len()).sum();
            let Some(admission) = self.engine.admit(caller, &plan.ask(texts.len(), bytes, sending.held))
            else {
                return;
            };
            let may_stay = sending.waits && sending.timeout.is_none();
            let threads = if may_stay || bytes <= INLINE_BYTES { None } else { self.tokenizing_threads() };
            match threads {
                None => {
                    let mut jobs = Vec::with_capacity(texts.len());
                    for (slot, text) in texts.iter().enumerate() {
                        match self.tokenize(caller, &plan, slot, text.as_ref()) {
                            Some(job) => jobs.extend(job),
                            None => return,
                        }
                    }
                    self.queue(caller, admission, jobs);
                }
                Some(threads) => {
                    // A text over the limit is not copied; it has its outcome from its length alone.
                    let (mut copies, mut outcomes) = (Vec::with_capacity(texts.len()), Vec::new());
                    for (slot, text) in texts.iter().enumerate() {
                        if fits(text) {
                            copies.push((slot, text.as_ref().to_owned()));
                        } else {
                            outcomes.push((slot, self.too_many_bytes(&plan, text.as_ref())));
                        }
                    }
                    for (slot, outcome) in outcomes {
                        caller.ticket.settle(slot, Err(outcome));
                    }
                    threads.tokenize(Tokenizing::new(self, caller, plan, admission, copies));
                }
            }
        })
    }

    fn too_many_bytes(&self, plan: &Plan, text: &str) -> InputError {
        let bytes = plan.before.len().saturating_add(text.len());
        InputError::TooManyBytes { bytes, max_bytes: self.max_text_bytes }
    }

    /// A request whose texts `work` puts on their way, or which fails for what is wrong with its plan.
    fn begin<R>(
        self: &Arc<Self>,
        texts: usize,
        plan: Result<Plan, Error>,
        timeout: Option<Duration>,
        convert: Convert<R>,
        work: impl FnOnce(&Arc<Caller>, Plan),
    ) -> Pending<R> {
        let refused = if texts > MOST_TEXTS {
            let reason = format!(
                "are {texts}, too many for one request; give at most {MOST_TEXTS}, or an iterator, which takes any number"
            );
            Some(Error::Option { option: "texts", reason })
        } else if !Ticket::<Outcome, Error>::has_memory(texts) {
            let [queries, bulk] = self.engine.queued();
            Some(Error::QueueFull { queued: queries + bulk, bytes: 0 })
        } else {
            None
        };
        if let Some(error) = refused {
            self.meters.request(Ended::Refused, Duration::ZERO);
            return Pending::ready(Err(error));
        }
        let caller = Caller::new(texts, timeout);
        let mut finish = Finish::default();
        match plan {
            Err(error) => caller.ticket.fail(error),
            Ok(plan) => {
                finish = plan.finish.clone();
                if texts > 0 {
                    work(&caller, plan);
                }
            }
        }
        Pending::of(self, caller, finish, convert)
    }

    fn queue(&self, caller: &Arc<Caller>, admission: Admission<dyn Inspect>, texts: Vec<Text>) {
        self.engine.push(caller, admission, texts);
        // The worker tells it, too, but not while it is busy, when the queue is worth a look.
        self.meters.queued(self.engine.queued());
    }

    /// Sends texts that are tokenised already.
    pub(crate) fn send_ids<R>(
        self: &Arc<Self>,
        texts: Vec<Vec<u32>>,
        plan: Result<Plan, Error>,
        timeout: Option<Duration>,
        convert: Convert<R>,
    ) -> Pending<R> {
        self.begin(texts.len(), plan, timeout, convert, |caller, plan| {
            let bytes = texts.iter().map(|ids| size_of_val(&ids[..])).sum();
            let Some(admission) = self.engine.admit(caller, &plan.ask(texts.len(), bytes, false)) else {
                return;
            };
            let mut jobs = Vec::with_capacity(texts.len());
            for (slot, ids) in texts.into_iter().enumerate() {
                jobs.extend(self.job(caller, slot, ids.into(), Reading::default(), false, None));
            }
            self.queue(caller, admission, jobs);
        })
    }

    /// A text to be computed, unless its result is at hand.
    fn job(
        &self,
        caller: &Arc<Caller>,
        slot: usize,
        ids: Arc<[u32]>,
        reading: Reading,
        truncated: bool,
        prompt: Option<SharedPrompt>,
    ) -> Option<Text> {
        if let Some(cache) = &self.cache {
            let found = cache.get(&ids, reading);
            self.meters.cache(found.is_some());
            if let Some(output) = found {
                let computed = Computed {
                    output,
                    ids,
                    truncated,
                    cached: true,
                    queue_time: caller.arrived.elapsed(),
                    device_time: Duration::ZERO,
                };
                caller.ticket.settle(slot, Ok(computed));
                return None;
            }
        }
        Some(Text::new(caller, slot, ids, reading, truncated, prompt))
    }
}
