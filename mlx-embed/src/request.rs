//! From a call's texts to its results.

use std::future::Future;
use std::panic::{self, AssertUnwindSafe};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::engine::queue::QueueLane;
use crate::engine::{Caller, Computed, Ended, Engine, Meters, Outcome, SharedPrompt, Text, VectorCache};
use crate::error::{Error, InputError, panic_message};
use crate::file::Files;
use crate::info::Info;
use crate::options::{EmbedOptions, Embedding, Lane, WhenFull};
use crate::pooling;
use crate::text::{Prompts, TextEncoder};

/// Text that is tokenised where it is submitted: a millisecond's worth. More goes to a thread for it, so that an async
/// caller's thread is not held up.
const INLINE_BYTES: usize = 2048;

/// Requests with more texts stand in the bulk lane unless they say otherwise.
const QUERY_TEXTS: usize = 64;

/// Shared beginnings below this many tokens are not worth a batch of their own.
const LEAST_SHARED: usize = 8;

/// What every handle of one embedder shares.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) text: TextEncoder,
    pub(crate) prompts: Prompts,
    pub(crate) place: Files,
    pub(crate) info: Info,
    pub(crate) cache: Option<Arc<VectorCache>>,
    pub(crate) meters: Arc<Meters>,
    /// Whether texts with a beginning in common may share its keys and values.
    pub(crate) shares_prompts: bool,
    pub(crate) tokenizing: OnceLock<Option<ThreadPool>>,
    pub(crate) engine: Engine,
}

/// Each text's embedding or why it has none.
pub(crate) type Results = Vec<Result<Embedding, InputError>>;

/// Makes a call's return value.
pub(crate) type Convert<R> = fn(Results) -> Result<R, Error>;

/// What becomes of a vector after the model.
#[derive(Debug, Clone, Copy)]
struct Finish {
    dims: Option<usize>,
    normalize: bool,
}

/// A call's options, held against the model.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    prompt: String,
    finish: Finish,
    lane: QueueLane,
    refusable: bool,
}

/// A request on its way: a future, or something to wait for on this thread.
///
/// Dropping it takes back what is not running yet. As a future it needs no particular runtime, and learns that its
/// timeout has passed when the batch that runs then is done.
///
/// ```no_run
/// # async fn example(embedder: mlx_embed::Embedder) -> Result<(), mlx_embed::Error> {
/// let options = mlx_embed::EmbedOptions::default();
/// let embeddings = embedder.submit(&["one text", "another"], &options).await?;
/// assert_eq!(embeddings.len(), 2);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "dropping it takes the request back"]
pub struct Pending<R> {
    shared: Arc<Shared>,
    caller: Arc<Caller>,
    finish: Finish,
    convert: Convert<R>,
    answered: bool,
}

impl<R> Pending<R> {
    /// Waits for the result.
    ///
    /// # Errors
    /// As the call that made this request.
    pub fn wait(mut self) -> Result<R, Error> {
        match self.caller.ticket.wait(self.caller.deadline) {
            Some(outcomes) => self.answer(outcomes),
            None => {
                self.shared.engine.abandon(&self.caller);
                self.answer(Err(self.caller.too_late()))
            }
        }
    }

    /// Whether the result is there.
    pub fn is_done(&self) -> bool {
        self.caller.ticket.is_done()
    }

    fn answer(&mut self, outcomes: Result<Vec<Outcome>, Error>) -> Result<R, Error> {
        self.answered = true;
        let ended = match &outcomes {
            Ok(_) => Ended::Done,
            Err(Error::QueueFull { .. }) => Ended::Refused,
            Err(Error::DeadlineExceeded { .. }) => Ended::Late,
            Err(_) => Ended::Failed,
        };
        self.shared.meters.request(ended, self.caller.arrived.elapsed());
        let finished = outcomes?.into_iter().map(|outcome| Ok(self.finish.embedding(outcome?)));
        (self.convert)(finished.collect())
    }
}

impl Finish {
    fn embedding(self, computed: Computed) -> Embedding {
        let Computed { vector, tokens, truncated, cached, queue_time, device_time } = computed;
        let mut vector = vector.to_vec();
        pooling::finish(&mut vector, self.dims, self.normalize);
        Embedding { vector, tokens, truncated, cached, queue_time, device_time }
    }
}

/// # Panics
/// When polled again after it was ready.
impl<R> Future for Pending<R> {
    type Output = Result<R, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        assert!(!self.answered, "a request was polled after its result had been taken");
        match self.caller.ticket.poll(context) {
            Poll::Ready(outcomes) => Poll::Ready(self.answer(outcomes)),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<R> Drop for Pending<R> {
    fn drop(&mut self) {
        if !self.answered {
            self.shared.engine.abandon(&self.caller);
            self.shared.meters.request(Ended::Cancelled, self.caller.arrived.elapsed());
        }
    }
}

impl Shared {
    /// Holds options against the model. `refuse` is what a call of this kind does by default when the queue is full.
    pub(crate) fn plan(&self, options: &EmbedOptions, texts: usize, refuse: bool) -> Result<Plan, Error> {
        let EmbedOptions { prompt, dims, normalize, lane, timeout: _, when_full } = options;
        let hidden = self.info.config.hidden_size.unsigned_abs() as usize;
        let dims = dims.map(std::num::NonZeroUsize::get);
        if let Some(dims) = dims.filter(|&dims| dims > hidden) {
            return Err(Error::Option {
                option: "dims",
                reason: format!("is {dims}, but this model's vectors have {hidden}; give at most that"),
            });
        }
        let lane = match lane {
            Lane::Auto if texts > QUERY_TEXTS => QueueLane::Bulk,
            Lane::Auto | Lane::Query => QueueLane::Query,
            Lane::Bulk => QueueLane::Bulk,
        };
        Ok(Plan {
            prompt: self.prompts.resolve(prompt)?.to_owned(),
            finish: Finish { dims, normalize: normalize.unwrap_or(self.info.normalize) },
            lane,
            refusable: match when_full {
                Some(WhenFull::Refuse) => true,
                Some(WhenFull::Wait) => false,
                None => refuse,
            },
        })
    }

    /// Sends texts on their way. On `here` they are tokenised on this thread; else on another if there is much of it.
    pub(crate) fn send<T: AsRef<str>, R>(
        self: &Arc<Self>,
        texts: &[T],
        plan: Result<Plan, Error>,
        timeout: Option<Duration>,
        here: bool,
        convert: Convert<R>,
    ) -> Pending<R> {
        let plan = plan.and_then(|plan| {
            if plan.refusable && !texts.is_empty() {
                // Before the work of tokenising.
                self.engine.check_room(plan.lane, texts.len())?;
            }
            Ok(plan)
        });
        self.begin(texts.len(), plan, timeout, convert, |caller, plan| {
            let bytes: usize = texts.iter().map(|text| text.as_ref().len()).sum();
            let elsewhere = !here && bytes > INLINE_BYTES;
            match if elsewhere { self.tokenizing_threads() } else { None } {
                None => self.tokenize(caller, &plan, texts),
                Some(threads) => {
                    let texts: Vec<String> = texts.iter().map(|text| text.as_ref().to_owned()).collect();
                    let (shared, caller) = (Arc::clone(self), Arc::clone(caller));
                    threads.spawn_fifo(move || {
                        let work = AssertUnwindSafe(|| shared.tokenize(&caller, &plan, &texts));
                        if let Err(payload) = panic::catch_unwind(work) {
                            let reason = format!("a panic: {}", panic_message(&*payload));
                            caller.ticket.fail(Error::Stopped { reason });
                        }
                    });
                }
            }
        })
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
        let caller = Caller::new(texts, timeout);
        let mut finish = Finish { dims: None, normalize: false };
        match plan {
            Err(error) => caller.ticket.fail(error),
            Ok(plan) => {
                finish = plan.finish;
                work(&caller, plan);
            }
        }
        Pending { shared: Arc::clone(self), caller, finish, convert, answered: false }
    }

    /// The threads that tokenise for callers who must not be held up; `None` where none can be had.
    fn tokenizing_threads(&self) -> Option<&ThreadPool> {
        let start = || {
            let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
            ThreadPoolBuilder::new()
                .num_threads((cores / 2).clamp(1, 4))
                .thread_name(|index| format!("mlx-embed-tokens-{index}"))
                .build()
                .ok()
        };
        self.tokenizing.get_or_init(start).as_ref()
    }

    fn tokenize<T: AsRef<str>>(&self, caller: &Arc<Caller>, plan: &Plan, texts: &[T]) {
        let prompt =
            if self.shares_prompts { self.text.prompt_ids(&plan.prompt, self.info.max_tokens) } else { None };
        let mut jobs = Vec::with_capacity(texts.len());
        for (slot, text) in texts.iter().enumerate() {
            if caller.is_gone() {
                return;
            }
            if caller.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return caller.ticket.fail(caller.too_late());
            }
            match self.text.encode(&plan.prompt, text.as_ref(), self.info.max_tokens) {
                Err(error) => caller.ticket.settle(slot, Err(error)),
                Ok(tokens) => {
                    let ids: Arc<[u32]> = tokens.ids.into();
                    let prompt = prompt.as_ref().and_then(|prompt| shared_part(prompt, &ids));
                    jobs.extend(self.job(caller, slot, ids, tokens.truncated, prompt));
                }
            }
        }
        self.queue(caller, plan, jobs);
    }

    fn queue(&self, caller: &Arc<Caller>, plan: &Plan, texts: Vec<Text>) {
        self.engine.push(caller, plan.lane, texts, plan.refusable);
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
            let mut jobs = Vec::with_capacity(texts.len());
            for (slot, ids) in texts.into_iter().enumerate() {
                jobs.extend(self.job(caller, slot, ids.into(), false, None));
            }
            self.queue(caller, &plan, jobs);
        })
    }

    /// A text to be computed, unless its vector is at hand.
    fn job(
        &self,
        caller: &Arc<Caller>,
        slot: usize,
        ids: Arc<[u32]>,
        truncated: bool,
        prompt: Option<SharedPrompt>,
    ) -> Option<Text> {
        if let Some(cache) = &self.cache {
            let found = cache.get(&ids);
            self.meters.cache(found.is_some());
            if let Some(vector) = found {
                let computed = Computed {
                    vector,
                    tokens: ids.len(),
                    truncated,
                    cached: true,
                    queue_time: caller.arrived.elapsed(),
                    device_time: Duration::ZERO,
                };
                caller.ticket.settle(slot, Ok(computed));
                return None;
            }
        }
        Some(Text::new(caller, slot, ids, truncated, prompt))
    }
}

/// What a text has in common with its prompt's own tokens. That may be less than all of them: a tokenizer can merge the
/// prompt's end with the text's beginning.
fn shared_part(prompt: &Arc<[u32]>, ids: &[u32]) -> Option<SharedPrompt> {
    let common = prompt.iter().zip(ids).take_while(|(a, b)| a == b).count();
    // Something is always left to compute.
    let shared = common.min(ids.len().saturating_sub(1));
    (shared >= LEAST_SHARED).then(|| SharedPrompt { ids: Arc::clone(prompt), shared })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merged_token_shortens_the_shared_part() {
        let prompt: Arc<[u32]> = (0..10).collect();
        let merged: Vec<u32> = (0..9).chain([77, 78]).collect();
        assert_eq!(shared_part(&prompt, &merged).unwrap().shared, 9);
        let whole: Vec<u32> = (0..12).collect();
        assert_eq!(shared_part(&prompt, &whole).unwrap().shared, 10);
    }

    #[test]
    fn something_is_always_left_to_compute() {
        let prompt: Arc<[u32]> = (0..10).collect();
        assert_eq!(shared_part(&prompt, &prompt).unwrap().shared, 9);
        assert!(shared_part(&prompt, &[]).is_none());
    }

    #[test]
    fn short_beginnings_are_not_shared() {
        let prompt: Arc<[u32]> = (0..7).collect();
        assert!(shared_part(&prompt, &[0, 1, 2, 3, 4, 5, 6, 7]).is_none());
    }
}
