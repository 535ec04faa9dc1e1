//! An open loop: requests start when they are meant to, whatever became of those before them.
//!
//! Some threads send, another takes the answers. The model's thread only rings a bell for each.

use std::collections::HashMap;
use std::future::Future;
use std::io::{self, Write};
use std::panic;
use std::pin::Pin;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use mlx_embed::{Embedder, Embedding, Pending};

use super::schedule::{Arrival, Arrivals, Phase, Schedule};
use super::sentences::Sentences;
use super::tally::{Ended, Tally, Times};
use crate::options::Model;
use crate::process::Resident;

/// How long before its time a sleep ends: systems wake a thread late by about that.
const SPIN: Duration = Duration::from_micros(100);

/// How often a long run says how it goes.
const INTERVAL: Duration = Duration::from_secs(10);

/// What is sent, and when.
#[derive(Debug, Clone)]
pub(super) struct Drive {
    /// Requests a second.
    pub(super) rate: f64,
    pub(super) phases: Vec<Phase>,
    pub(super) arrivals: Arrivals,
    /// Texts of a request.
    pub(super) texts: usize,
    /// Of each request, from its intended start.
    pub(super) timeout: Option<Duration>,
    /// What a latency should stay under.
    pub(super) limit: Duration,
    /// Whether to tell now and then how it goes.
    pub(super) tell: bool,
}

/// A run that is over.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) tally: Tally,
    /// From the start to the end of the schedule or the last answer, whichever is later.
    pub(super) elapsed: Duration,
}

/// What the answering thread hears.
enum Message {
    Sent(Box<Sent>),
    /// A request's result is there.
    Ready(u64),
    /// Nothing more is sent.
    End,
}

/// A request that is under way.
struct Sent {
    arrival: Arrival,
    intended: Instant,
    called: Instant,
    submit: Duration,
    pending: Pending<Vec<Embedding>>,
}

/// Tells the answering thread that a request can be looked at.
struct Bell {
    number: u64,
    inbox: Sender<Message>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        // With the other thread gone nobody waits for answers.
        let _ = self.inbox.send(Message::Ready(self.number));
    }
}

impl Drive {
    /// How long requests are sent.
    pub(super) fn length(&self) -> Duration {
        Duration::from_secs_f64(self.phases.iter().map(|phase| phase.seconds).sum())
    }

    /// Sends every request and waits for the last answer.
    pub(super) fn run(&self, model: &Model, sentences: &Sentences) -> Run {
        let (inbox, messages) = mpsc::channel();
        // Time for the threads to be there.
        let start = Instant::now() + Duration::from_millis(5);
        let answers = Answers {
            tally: Tally::new(self.phases.len(), self.length(), self.limit),
            inbox: inbox.clone(),
            under_way: HashMap::new(),
            sent: 0,
            told: self.tell.then(|| Told { next: start + INTERVAL, latency: Times::new() }),
        };
        let tally = thread::scope(|scope| {
            let embedder = &model.embedder;
            let answering = scope.spawn(move || answers.collect(&messages, start, embedder));
            let schedule = Mutex::new(Schedule::new(self.rate, &self.phases, self.arrivals));
            thread::scope(|scope| {
                for _ in 0..senders() {
                    scope.spawn(|| self.send(model, sentences, start, &schedule, &inbox));
                }
            });
            sleep_until(start + self.length());
            // With the other thread gone there is nobody to tell.
            let _ = inbox.send(Message::End);
            answering.join().unwrap_or_else(|payload| panic::resume_unwind(payload))
        });
        Run { tally, elapsed: start.elapsed().max(self.length()) }
    }

    /// Sends what the schedule has next, until nothing is left of it.
    fn send(
        &self,
        model: &Model,
        sentences: &Sentences,
        start: Instant,
        schedule: &Mutex<Schedule<'_>>,
        inbox: &Sender<Message>,
    ) {
        let mut options = model.options.clone();
        // The schedule is whole after every step. It is not held while this thread waits.
        let next = || schedule.lock().unwrap_or_else(PoisonError::into_inner).next();
        while let Some(arrival) = next() {
            let texts = sentences.next(self.texts);
            let intended = start + arrival.at;
            sleep_until(intended);
            let called = Instant::now();
            options.timeout = self.timeout.map(|timeout| timeout.saturating_sub(called - intended));
            let pending = model.embedder.submit(&texts, &options);
            let sent = Sent { arrival, intended, called, submit: called.elapsed(), pending };
            if inbox.send(Message::Sent(Box::new(sent))).is_err() || !model.embedder.state().takes_requests()
            {
                break;
            }
        }
    }
}

/// Threads that send. To tokenise a request's texts takes a part of a millisecond, which bounds what one thread can send;
/// on a machine of few processors more would only be in the model's way.
fn senders() -> usize {
    thread::available_parallelism().map_or(1, |processors| (processors.get() / 4).clamp(1, 8))
}

/// Sleeps for most of the time and stays awake for the last bit, to be there in time.
fn sleep_until(instant: Instant) {
    loop {
        let left = instant.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        if left > SPIN {
            thread::sleep(left - SPIN);
        } else {
            std::hint::spin_loop();
        }
    }
}

/// Takes answers as they come.
struct Answers {
    tally: Tally,
    inbox: Sender<Message>,
    under_way: HashMap<u64, Box<Sent>>,
    sent: u64,
    told: Option<Told>,
}

/// What there is to tell about the time since it was told last.
struct Told {
    next: Instant,
    latency: Times,
}

impl Answers {
    fn collect(mut self, messages: &Receiver<Message>, start: Instant, embedder: &Embedder) -> Tally {
        let mut ended = false;
        while !(ended && self.under_way.is_empty()) {
            let patience = match &self.told {
                Some(told) => told.next.saturating_duration_since(Instant::now()),
                None => INTERVAL,
            };
            match messages.recv_timeout(patience) {
                Ok(Message::Sent(sent)) => {
                    let number = self.sent;
                    self.sent += 1;
                    self.under_way.insert(number, sent);
                    self.look_at(number);
                }
                Ok(Message::Ready(number)) => self.look_at(number),
                Ok(Message::End) => ended = true,
                Err(RecvTimeoutError::Timeout) => {}
                // This thread has a sender itself.
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.tell(start, embedder);
        }
        self.tally
    }

    /// Takes the request's result if it is there; else its bell will ring.
    fn look_at(&mut self, number: u64) {
        let Some(sent) = self.under_way.get_mut(&number) else { return };
        let waker = Waker::from(Arc::new(Bell { number, inbox: self.inbox.clone() }));
        let Poll::Ready(outcome) = Pin::new(&mut sent.pending).poll(&mut Context::from_waker(&waker)) else {
            return;
        };
        let Sent { arrival, intended, called, submit, .. } = **sent;
        let (lag, took) = (called - intended, called.elapsed());
        self.under_way.remove(&number);
        let Arrival { at, phase } = arrival;
        let latency = self.tally.count(Ended { at, phase, lag, submit, took, outcome });
        if let (Some(told), Some(latency)) = (&mut self.told, latency) {
            told.latency.record(latency);
        }
    }

    fn tell(&mut self, start: Instant, embedder: &Embedder) {
        let Some(told) = &mut self.told else { return };
        let now = Instant::now();
        if now < told.next {
            return;
        }
        let seconds = (now - told.next + INTERVAL).as_secs_f64();
        let p95 = told.latency.quantile_ms(0.95).map_or("none done".into(), |p95| format!("p95 {p95:.2} ms"));
        let memory = Resident::read().map_or(String::new(), |memory| {
            format!(", {:.1} MiB resident", memory.now as f64 / f64::from(1 << 20))
        });
        // With stderr closed there is nobody left to tell.
        let _ = writeln!(
            io::stderr(),
            "{:>6.0} s: {:.1} done/s, {p95}, {} texts queued, {} requests under way{memory}",
            (now - start).as_secs_f64(),
            told.latency.count() as f64 / seconds,
            embedder.queued().iter().sum::<usize>(),
            self.under_way.len(),
        );
        told.latency.clear();
        told.next = now + INTERVAL;
    }
}
