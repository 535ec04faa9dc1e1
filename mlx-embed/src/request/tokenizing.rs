//! Tokenising: on the caller's thread, or on threads that requests share text by text.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::thread;
use std::vec;

use super::{Before, Plan, Shared};
use crate::batch::{Reading, mark_second_part, mark_unseen};
use crate::engine::queue::QueueLane;
use crate::engine::turns::{Steps, Turns};
use crate::engine::{Admission, Caller, Crew, SharedPrompt, Text, given_up};
use crate::error::{Error, InputError};
use crate::mlx::Process;
use crate::panics::{panic_message, quietly};
use crate::runner::Inspect;
use crate::text::{Frame, Side, SideEncoding, Tokens};

/// Texts from this length on may take long where a tokenizer has to read them whole.
const LONG_BYTES: usize = 32 << 10;

/// Shared beginnings below this many tokens are not worth a batch of their own.
const LEAST_SHARED: usize = 8;

impl Shared {
    /// A text's tokens, unless its outcome is at hand. `None` if the request has ended meanwhile.
    pub(super) fn tokenize(
        &self,
        caller: &Arc<Caller>,
        plan: &Plan,
        slot: usize,
        text: &str,
    ) -> Option<Option<Text>> {
        if plan.before.len().saturating_add(text.len()) > self.max_text_bytes {
            caller.ticket.settle(slot, Err(self.too_many_bytes(plan, text)));
            return Some(None);
        }
        let stop = || self.engine.gives_up(caller);
        let read = match (stop(), &plan.before) {
            (true, _) => None,
            (_, Before::Prompt(prompt)) => self.read(prompt, text, &stop),
            (_, Before::Query(query)) => match query.frame(self) {
                Ok(frame) => self.read_pair(frame, text, &stop),
                Err(source) => {
                    caller.ticket.fail(Error::Query { source });
                    return None;
                }
            },
            (_, Before::Side(prompt, side)) => self.read_side(side, prompt, text, &stop),
        };
        match read {
            None => {
                self.engine.give_up(caller);
                None
            }
            Some(Err(error)) => {
                caller.ticket.settle(slot, Err(error));
                Some(None)
            }
            Some(Ok(Read { tokens, truncated, beginning, reading })) => {
                let beginning = beginning.and_then(|beginning| shared_part(&beginning, &tokens));
                Some(self.job(caller, slot, tokens, reading, truncated, beginning))
            }
        }
    }

    /// A text behind its prompt.
    fn read(&self, prompt: &str, text: &str, stop: &dyn Fn() -> bool) -> Option<Result<Read, InputError>> {
        let max_tokens = self.info.max_tokens;
        let tokens = self.text.encode_unless(prompt, text, max_tokens, stop)?;
        Some(tokens.map(|Tokens { ids, truncated }| Read {
            tokens: ids.into(),
            truncated,
            beginning: if self.shares_prompts { self.text.prompt_ids(prompt, max_tokens) } else { None },
            reading: Reading {
                left_out: if self.leaves_out_prompts {
                    self.text.prompt_length(prompt, max_tokens)
                } else {
                    0
                },
            },
        }))
    }

    /// A document with its query.
    fn read_pair(
        &self,
        frame: &Frame,
        document: &str,
        stop: &dyn Fn() -> bool,
    ) -> Option<Result<Read, InputError>> {
        let tokens = frame.encode(&self.text, document, self.info.max_tokens, stop)?;
        Some(tokens.map(|tokens| Read {
            truncated: tokens.truncated,
            tokens: marked(tokens.ids, tokens.second, None).into(),
            beginning: self.shares_prompts.then(|| frame.beginning()),
            reading: Reading::default(),
        }))
    }

    /// A query or a document of late interaction.
    fn read_side(
        &self,
        side: &Side,
        prompt: &str,
        text: &str,
        stop: &dyn Fn() -> bool,
    ) -> Option<Result<Read, InputError>> {
        let tokens = side.encode(&self.text, prompt, text, stop)?;
        Some(tokens.map(|tokens| Read {
            truncated: tokens.truncated,
            tokens: of_side(tokens).into(),
            beginning: None,
            reading: Reading::default(),
        }))
    }

    /// The threads that tokenise for callers who must not be held up; `None` where none can be had.
    pub(super) fn tokenizing_threads(&self) -> Option<&Threads> {
        self.tokenizing.get_or_init(|| Threads::start(self.engine.crew(), self.engine.process())).as_ref()
    }
}

/// A request whose texts are being tokenised.
#[derive(Debug)]
pub(super) struct Tokenizing {
    shared: Arc<Shared>,
    caller: Arc<Caller>,
    plan: Plan,
    admission: Option<Admission<dyn Inspect>>,
    /// Texts and which of the call's they are, those to come.
    texts: vec::IntoIter<(usize, String)>,
    done: Vec<Text>,
    /// Whether it has been handed on.
    ended: bool,
}

impl Tokenizing {
    pub(super) fn new(
        shared: &Arc<Shared>,
        caller: &Arc<Caller>,
        plan: Plan,
        admission: Admission<dyn Inspect>,
        texts: Vec<(usize, String)>,
    ) -> Self {
        Self {
            shared: Arc::clone(shared),
            caller: Arc::clone(caller),
            plan,
            admission: Some(admission),
            done: Vec::with_capacity(texts.len()),
            texts: texts.into_iter(),
            ended: false,
        }
    }

    /// Tokenises one text. Returns whether there are more.
    fn step(&mut self) -> bool {
        if let Some((slot, text)) = self.texts.next() {
            match self.shared.tokenize(&self.caller, &self.plan, slot, &text) {
                Some(job) => self.done.extend(job),
                None => {
                    self.ended = true;
                    return false;
                }
            }
        }
        if self.texts.len() > 0 {
            return true;
        }
        self.ended = true;
        if let Some(admission) = self.admission.take() {
            self.shared.queue(&self.caller, admission, std::mem::take(&mut self.done));
        }
        false
    }
}

impl Steps for Tokenizing {
    fn lane(&self) -> QueueLane {
        self.plan.lane
    }

    fn is_long(&self) -> bool {
        self.texts.as_slice().first().is_some_and(|(_, text)| text.len() >= LONG_BYTES)
    }
}

impl Drop for Tokenizing {
    fn drop(&mut self) {
        if !self.ended {
            self.caller.ticket.fail(given_up());
        }
    }
}

/// Threads that tokenise.
#[derive(Debug)]
pub(crate) struct Threads {
    turns: Arc<Turns<Tokenizing>>,
    /// The process that has them.
    process: Process,
}

impl Threads {
    /// `None` if not one thread could be started.
    fn start(crew: Crew, process: Process) -> Option<Self> {
        let cores = thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        let wanted = (cores / 2).clamp(2, 4);
        let turns: Arc<Turns<Tokenizing>> = Arc::new(Turns::new(wanted));
        let start = |index| {
            let turns = Arc::clone(&turns);
            let body = move || {
                crew.enter();
                while let Some((mut request, turn)) = turns.next() {
                    let more = panic::catch_unwind(AssertUnwindSafe(|| request.step()));
                    turns.done(turn);
                    match more {
                        Ok(true) => drop(turns.push(request)),
                        // What a request lets go may run somebody else's code.
                        Ok(false) => drop(quietly(|| drop(request))),
                        Err(payload) => {
                            let reason = format!("a panic: {}", panic_message(&*payload));
                            request.caller.ticket.fail(Error::Stopped { reason });
                            quietly(|| drop((request, payload)));
                        }
                    }
                }
            };
            thread::Builder::new().name(format!("mlx-embed-tokens-{index}")).spawn(body).is_ok()
        };
        let started = (0..wanted).filter(|&index| start(index)).count();
        (started > 0).then_some(Self { turns, process })
    }

    /// Takes a request in turn with others.
    pub(super) fn tokenize(&self, request: Tokenizing) {
        // One that comes back fails its caller when it is dropped.
        drop(self.turns.push(request));
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // The threads end by themselves: this may be one of them. A fork has none.
        if self.process.is_this() {
            drop(self.turns.close());
        }
    }
}

/// A text as the model sees it.
struct Read {
    tokens: Arc<[u32]>,
    truncated: bool,
    /// Tokens of what others begin with, too.
    beginning: Option<Arc<[u32]>>,
    reading: Reading,
}

/// Tokens with their marks: of type 1 from `second` on, seen by none from `unseen` on.
pub(crate) fn marked(mut ids: Vec<u32>, second: Option<usize>, unseen: Option<usize>) -> Vec<u32> {
    if let Some(second) = second {
        mark_second_part(&mut ids[second..]);
    }
    if let Some(unseen) = unseen {
        mark_unseen(&mut ids[unseen..]);
    }
    ids
}

/// A query's or document's tokens with marks on those that none sees.
pub(crate) fn of_side(SideEncoding { ids, unseen, .. }: SideEncoding) -> Vec<u32> {
    marked(ids, None, unseen)
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
