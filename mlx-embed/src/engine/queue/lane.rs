//! Requests of one kind, in the order in which they came.

use std::collections::VecDeque;
use std::time::Instant;

use super::pace::Pace;
use super::{Job, Request, RequestId};
use crate::batch::Packing;

/// Jobs that do not fit a batch, after which no further ones are tried: looking takes time under a lock.
const MISFITS: usize = 256;

/// Jobs that [`Lane::extract`] looks at, for the same reason.
const LOOKED_AT: usize = 4096;

#[derive(Debug)]
pub(super) struct Lane<J> {
    requests: VecDeque<(RequestId, Request<J>)>,
    jobs: usize,
    bytes: usize,
    /// Jobs that are still being made, and the bytes of what they are made of.
    expected: (usize, usize),
}

impl<J: Job> Lane<J> {
    pub(super) fn new() -> Self {
        Self { requests: VecDeque::new(), jobs: 0, bytes: 0, expected: (0, 0) }
    }

    pub(super) fn requests(&self) -> usize {
        self.requests.len()
    }

    pub(super) fn jobs(&self) -> usize {
        self.jobs
    }

    /// All that waits, jobs that are still being made included.
    pub(super) fn depth(&self) -> usize {
        self.jobs + self.expected.0
    }

    /// Bytes of all that waits.
    pub(super) fn bytes(&self) -> usize {
        self.bytes + self.expected.1
    }

    pub(super) fn expect(&mut self, jobs: usize, bytes: usize) {
        self.expected.0 += jobs;
        self.expected.1 += bytes;
    }

    pub(super) fn expect_no_more(&mut self, jobs: usize, bytes: usize) {
        self.expected.0 -= jobs;
        self.expected.1 -= bytes;
    }

    /// Counts jobs that were taken out.
    fn gone(&mut self, jobs: &[J]) {
        self.jobs -= jobs.len();
        self.bytes -= jobs.iter().map(Job::bytes).sum::<usize>();
    }

    pub(super) fn push(&mut self, id: RequestId, request: Request<J>) {
        self.jobs += request.jobs.len();
        self.bytes += request.jobs.iter().map(Job::bytes).sum::<usize>();
        self.requests.push_back((id, request));
    }

    pub(super) fn remove(&mut self, id: RequestId) -> Vec<J> {
        // Ids rise from front to back.
        let Ok(at) = self.requests.binary_search_by_key(&id, |(id, _)| *id) else { return Vec::new() };
        self.take_out(at)
    }

    fn take_out(&mut self, at: usize) -> Vec<J> {
        let jobs: Vec<J> = self.requests.remove(at).map_or(Vec::new(), |(_, request)| request.jobs.into());
        self.gone(&jobs);
        jobs
    }

    /// Takes out requests whose time is over.
    pub(super) fn expire(&mut self, now: Instant, expired: &mut Vec<J>) {
        self.drop_requests(expired, |request| request.deadline.is_some_and(|deadline| deadline <= now));
    }

    fn drop_requests(&mut self, dropped: &mut Vec<J>, is_dropped: impl Fn(&Request<J>) -> bool) {
        let before = dropped.len();
        self.requests.retain_mut(|(_, request)| {
            let drop = is_dropped(request);
            if drop {
                dropped.extend(request.jobs.drain(..));
            }
            !drop
        });
        self.gone(&dropped[before..]);
    }

    /// Takes out every job.
    pub(super) fn clear(&mut self, jobs: &mut Vec<J>) {
        self.drop_requests(jobs, |_| true);
    }

    /// Takes out those of the first [`LOOKED_AT`] jobs that `wanted` names.
    pub(super) fn extract(&mut self, jobs: &mut Vec<J>, mut wanted: impl FnMut(&J) -> bool) {
        let before = jobs.len();
        let mut left = LOOKED_AT;
        self.requests.retain_mut(|(_, request)| {
            let mut at = 0;
            while at < request.jobs.len() && left > 0 {
                left -= 1;
                if wanted(&request.jobs[at]) {
                    jobs.extend(request.jobs.remove(at));
                } else {
                    at += 1;
                }
            }
            !request.jobs.is_empty()
        });
        self.gone(&jobs[before..]);
    }

    /// Fills `packing` with the jobs that wait longest, and others that go with the first of them; with `enough` tokens
    /// in it, no further request is begun. Where others wait (`contended`), requests that would not be done in time go to
    /// `expired` instead: what would come too late is not worth the others' time.
    pub(super) fn pick(
        &mut self,
        packing: &mut Packing,
        enough: usize,
        contended: bool,
        pace: &Pace,
        now: Instant,
        expired: &mut Vec<J>,
    ) -> Vec<J> {
        let mut picked: Vec<J> = Vec::new();
        let (mut at, mut misfits) = (0, 0);
        while at < self.requests.len() && packing.tokens() < enough && !packing.is_full() && misfits < MISFITS
        {
            let request = &mut self.requests[at].1;
            let late = |deadline| {
                let own: usize = request.jobs.iter().map(Job::tokens).sum();
                contended && now + pace.estimate(packing.tokens() + own, now) > deadline
            };
            if request.deadline.is_some_and(late) {
                expired.extend(self.take_out(at));
                continue;
            }
            let mut job = 0;
            while job < request.jobs.len() && !packing.is_full() && misfits < MISFITS {
                let candidate = &request.jobs[job];
                if picked.first().is_none_or(|first| candidate.goes_with(first))
                    && packing.add(candidate.tokens())
                {
                    picked.extend(request.jobs.remove(job));
                } else {
                    (job, misfits) = (job + 1, misfits + 1);
                }
            }
            if request.jobs.is_empty() {
                self.requests.remove(at);
            } else {
                at += 1;
            }
        }
        self.gone(&picked);
        picked
    }
}
