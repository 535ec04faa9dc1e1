//! A thread that owns a model: takes work from the queue, runs it, and brings the results to those who wait. Where there
//! are several, each has the model on a device of its own.

use std::collections::HashMap;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::fate::{Fate, tell};
use super::model::{Model, Outputs};
use super::prefixes::Prefixes;
use super::queue::{Batch, Ending, QueueLane, Work};
use super::{Computed, EngineOptions, Meters, Output, Text, TextQueue, VectorCache};
use crate::batch::{Entry, Reading};
use crate::error::{Error, InputError};
use crate::panics::{panic_message, quietly};

/// Something else that the model's thread is asked to do with what is seen of the model.
pub(crate) struct Task<S: ?Sized>(pub(super) Box<dyn FnOnce(&S) + Send>);

impl<S: ?Sized> std::fmt::Debug for Task<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Task")
    }
}

/// Why a batch gave nothing.
enum Failure {
    Error(Error),
    Panic(String),
}

pub(super) struct Worker<M: Model> {
    model: M,
    queue: Arc<TextQueue<M::Seen>>,
    fate: Arc<Fate>,
    cache: Option<Arc<VectorCache>>,
    prefixes: Prefixes<M::Prefix>,
    meters: Arc<Meters>,
    /// Why it does no more work.
    death: Option<String>,
}

impl<M: Model> Worker<M> {
    pub(super) fn new(
        model: M,
        queue: Arc<TextQueue<M::Seen>>,
        fate: Arc<Fate>,
        EngineOptions { cache, prompt_cache, meters, .. }: EngineOptions,
    ) -> Self {
        Self { model, queue, fate, cache, prefixes: Prefixes::new(prompt_cache), meters, death: None }
    }

    /// Works until the queue ends, or it dies.
    pub(super) fn run(mut self) {
        // Whatever happens here, nobody may be left waiting.
        let _last = LastWord { queue: Arc::clone(&self.queue), fate: Arc::clone(&self.fate) };
        while self.death.is_none() {
            match self.queue.next() {
                Work::Task(Task(task)) => {
                    let task = AssertUnwindSafe(|| task(self.model.seen()));
                    if let Err(payload) = panic::catch_unwind(task) {
                        self.die(format!("a panic: {}", panic_message(&*payload)));
                        // What it carries may panic when it is dropped.
                        std::mem::forget(payload);
                    }
                }
                Work::Batch(batch) => self.run_batch(batch),
                Work::End => break,
            }
            self.meters.queued(self.queue.depth());
        }
        let Self { model, prefixes, .. } = self;
        drop(prefixes);
        model.unload();
    }

    fn run_batch(&mut self, Batch { lane, jobs, expired }: Batch<Text>) {
        for caller in expired.iter().map(|text| &text.caller) {
            caller.ticket.fail(caller.too_late());
        }
        if !expired.is_empty() {
            quietly(|| tracing::debug!(texts = expired.len(), "too late to be embedded"));
        }
        if !jobs.is_empty() {
            self.run_jobs(lane, jobs);
        }
    }

    /// Runs texts together. If that fails and the model still works, each request runs alone, so that all but the one at
    /// fault get their vectors.
    fn run_jobs(&mut self, lane: QueueLane, jobs: Vec<Text>) {
        let error = match self.compute(lane, &jobs) {
            Ok(()) => return,
            Err(Failure::Panic(reason)) => {
                self.die(reason.clone());
                return tell(&jobs, &reason);
            }
            Err(Failure::Error(error)) => error,
        };
        let mut requests: Vec<Vec<Text>> = Vec::new();
        for job in jobs {
            match requests.iter_mut().find(|request| Arc::ptr_eq(&request[0].caller, &job.caller)) {
                Some(request) => request.push(job),
                None => requests.push(vec![job]),
            }
        }
        let count = requests.len();
        quietly(|| tracing::warn!(%error, requests = count, "a batch failed"));
        // Before it is asked for more, as a device that has failed may not be touched again; and before anybody is told: who
        // then asks for the state finds what is the case.
        self.check_model();
        if let [request] = &requests[..] {
            request[0].caller.ticket.fail(error);
        }
        for request in requests.into_iter().filter(|_| count > 1) {
            match &self.death {
                Some(reason) => tell(&request, reason),
                None => self.run_jobs(lane, request),
            }
        }
    }

    fn check_model(&mut self) {
        let alive = panic::catch_unwind(AssertUnwindSafe(|| self.model.check()));
        match alive {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => self.die(reason),
            Err(payload) => self.die(format!("a panic: {}", panic_message(&*payload))),
        }
    }

    /// Runs texts as one batch and delivers their results.
    fn compute(&mut self, lane: QueueLane, jobs: &[Text]) -> Result<(), Failure> {
        // Identical texts are computed once.
        let mut which: HashMap<(&[u32], Reading), usize> = HashMap::with_capacity(jobs.len());
        let mut unique: Vec<&Text> = Vec::with_capacity(jobs.len());
        let mut of: Vec<usize> = Vec::with_capacity(jobs.len());
        for job in jobs {
            let next = unique.len();
            let place = *which.entry((&job.ids, job.reading)).or_insert(next);
            if place == next {
                unique.push(job);
            }
            of.push(place);
        }
        let tokens: usize = unique.iter().map(|text| text.ids.len()).sum();
        let span = quietly(|| {
            let span =
                tracing::debug_span!("mlx_embed.batch", lane = lane.name(), texts = unique.len(), tokens);
            for job in jobs {
                span.follows_from(&job.caller.span);
            }
            span.entered()
        });
        let started = Instant::now();
        let outputs = panic::catch_unwind(AssertUnwindSafe(|| self.forward(&unique)))
            .unwrap_or_else(|payload| Err(Failure::Panic(format!("a panic: {}", panic_message(&*payload)))));
        let took = started.elapsed();
        quietly(|| drop(span));
        let outputs = outputs?;
        if outputs.len() != unique.len() {
            let counts = format!("{} results for {} texts", outputs.len(), unique.len());
            return Err(Failure::Panic(format!("the model gave {counts}")));
        }
        self.queue.record(tokens, took, Instant::now());
        self.meters.batch(unique.len(), tokens, took);

        if let Some(cache) = &self.cache {
            for (text, output) in unique.iter().zip(&outputs) {
                if let Ok(output) = output {
                    cache.insert(&text.ids, text.reading, output);
                }
            }
        }
        // First: a caller who has its answer may ask for the same text again, and that is computed again.
        self.share(&unique, &outputs, started);
        for (job, &place) in jobs.iter().zip(&of) {
            self.deliver(job, &outputs[place], started, took, false);
        }
        let copies = jobs.len() - unique.len();
        if copies > 0 {
            self.meters.shared(copies);
        }
        Ok(())
    }

    fn forward(&mut self, texts: &[&Text]) -> Result<Outputs, Failure> {
        // All of them have the same prompt: that is what `goes_with` is about.
        let prompt = texts.first().and_then(|text| text.prompt.as_ref());
        let prefix = match prompt {
            Some(prompt) => self
                .prefixes
                .get(&self.model, &prompt.ids, texts.len())
                .map_err(Failure::Error)?
                .map(|prefix| (prefix, prompt.shared)),
            None => None,
        };
        let skipped = prefix.as_ref().map_or(0, |(_, shared)| *shared);
        self.meters.reused(skipped * texts.len());
        let entries: Vec<Entry<'_>> = texts.iter().map(|text| text.entry(skipped)).collect();
        self.model.embed_batch(&entries, prefix).map_err(Failure::Error)
    }

    /// Gives texts that are queued the results that identical ones have just got.
    fn share(&self, texts: &[&Text], outputs: &[Result<Output, InputError>], started: Instant) {
        if self.queue.depth() == [0, 0] {
            return;
        }
        let by_hash: HashMap<u64, usize> =
            texts.iter().enumerate().map(|(place, text)| (text.hash, place)).collect();
        let place_of = |job: &Text| by_hash.get(&job.hash).copied().filter(|&at| job.is_same(texts[at]));
        let same = self.queue.extract(|job| place_of(job).is_some());
        for job in &same {
            if let Some(place) = place_of(job) {
                self.deliver(job, &outputs[place], started, Duration::ZERO, true);
            }
        }
        self.meters.shared(same.len());
    }

    fn deliver(
        &self,
        job: &Text,
        output: &Result<Output, InputError>,
        started: Instant,
        device_time: Duration,
        cached: bool,
    ) {
        let queue_time = started.saturating_duration_since(job.caller.arrived);
        self.meters.queue_time(queue_time);
        let outcome = match output {
            Ok(output) => Ok(Computed {
                output: output.clone(),
                ids: Arc::clone(&job.ids),
                truncated: job.truncated,
                cached,
                queue_time,
                device_time,
            }),
            Err(error) => Err(error.clone()),
        };
        job.settle(outcome);
    }

    fn die(&mut self, reason: String) {
        // The first reason is the cause of later ones.
        if self.death.is_some() {
            return;
        }
        quietly(|| tracing::error!(reason, "a thread of the engine has died"));
        self.fate.lose(reason.clone(), &self.queue);
        self.death = Some(reason);
    }
}

/// Ends the queue if the last thread leaves [`Worker::run`] in any other way than by the queue's end.
struct LastWord<S: ?Sized + 'static> {
    queue: Arc<TextQueue<S>>,
    fate: Arc<Fate>,
}

impl<S: ?Sized + 'static> Drop for LastWord<S> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.fate.lose("a panic in the engine itself".into(), &self.queue);
        }
        if self.queue.is_closed() {
            self.fate.tell(&self.queue.close(Ending::Return));
        }
    }
}
