//! The engine's queue and tickets under many orders of their threads' steps.
//!
//! They are compiled here anew, with the locks of the model checker `shuttle` in place of the standard library's. Each
//! test runs thousands of schedules, drawn at random and by PCT (Burckhardt et al., 2010), which finds bugs of few
//! ordering constraints; a failure prints the schedule that shows it.

#![allow(dead_code, reason = "what is not about order is tested where it is")]

#[path = "../mlx-embed/src/batch.rs"]
mod batch;

#[path = "../mlx-embed/src/engine"]
mod engine {
    pub(crate) mod sync {
        pub(crate) use shuttle::sync::{Condvar, Mutex, MutexGuard};
        pub(crate) use std::sync::PoisonError;
    }
    #[path = "queue/mod.rs"]
    pub(crate) mod queue;
    #[path = "ticket.rs"]
    pub(crate) mod ticket;
}

use std::sync::Arc as StdArc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use shuttle::sync::{Arc, Condvar, Mutex};
use shuttle::thread;

use batch::Sharing;
use engine::queue::{Ending, Job, Limits, Queue, QueueLane, Refused, Request, Work};
use engine::ticket::Ticket;

/// Schedules of each kind.
const SCHEDULES: usize = 3000;

fn check(test: impl Fn() + Send + Sync + Clone + 'static) {
    shuttle::check_random(test.clone(), SCHEDULES);
    shuttle::check_pct(test, SCHEDULES, 3);
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
struct Numbered(usize);

impl Job for Numbered {
    fn tokens(&self) -> usize {
        1
    }
    fn goes_with(&self, _: &Self) -> bool {
        true
    }
}

type Tasks = Queue<Numbered, &'static str>;

fn queue(capacity: usize) -> Arc<Tasks> {
    let batch_time = Duration::from_secs(1);
    let sharing = Sharing::Packed;
    Arc::new(Queue::new(Limits { capacity, batch_tokens: 2, enough_tokens: 2, batch_time, sharing }))
}

fn request(lane: QueueLane, jobs: &[usize]) -> Request<Numbered> {
    Request { lane, deadline: None, jobs: jobs.iter().copied().map(Numbered).collect(), refusable: true }
}

/// Takes work until there is none any more.
fn consume(queue: &Tasks) -> Vec<Numbered> {
    let mut run = Vec::new();
    loop {
        match queue.next() {
            Work::Batch(batch) => run.extend(batch.jobs),
            Work::Task(_) => run.push(Numbered(100)),
            Work::End => return run,
        }
    }
}

fn sorted(mut jobs: Vec<Numbered>) -> Vec<usize> {
    jobs.sort_unstable();
    jobs.into_iter().map(|Numbered(job)| job).collect()
}

#[test]
fn every_job_is_run_or_taken_back_exactly_once() {
    check(|| {
        let queue = queue(100);
        let consumer = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || consume(&queue))
        };
        let keeps = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || {
                queue.push(request(QueueLane::Query, &[0, 1])).unwrap();
                queue.push(request(QueueLane::Bulk, &[2])).unwrap();
                queue.ask("task").unwrap();
            })
        };
        let cancels = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || {
                let id = queue.push(request(QueueLane::Bulk, &[3, 4, 5])).unwrap();
                let mut back = queue.cancel(id);
                back.extend(queue.extract(|&job| job == Numbered(1)));
                back
            })
        };
        keeps.join().unwrap();
        let mut all = cancels.join().unwrap();
        assert_eq!(queue.close(Ending::Finish), []);
        all.extend(consumer.join().unwrap());
        assert_eq!(sorted(all), [0, 1, 2, 3, 4, 5, 100]);
        assert_eq!(queue.depth(), [0, 0]);
    });
}

#[test]
fn a_request_that_meets_the_end_is_run_returned_or_refused() {
    check(|| {
        let queue = queue(100);
        let consumer = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || consume(&queue))
        };
        let pushes = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || {
                (0..3).filter(|&job| queue.push(request(QueueLane::Query, &[job])).is_err()).collect()
            })
        };
        let closes = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || queue.close(Ending::Return))
        };
        let refused: Vec<usize> = pushes.join().unwrap();
        let mut all: Vec<Numbered> = refused.into_iter().map(Numbered).collect();
        all.extend(closes.join().unwrap());
        all.extend(consumer.join().unwrap());
        assert_eq!(sorted(all), [0, 1, 2]);
    });
}

#[test]
fn the_bound_holds_however_many_push_at_once() {
    check(|| {
        let queue = queue(3);
        let pushes: Vec<_> = (0..3)
            .map(|job| {
                let queue = Arc::clone(&queue);
                thread::spawn(move || queue.push(request(QueueLane::Query, &[job, job])))
            })
            .collect();
        let refused = pushes.into_iter().map(|push| push.join().unwrap()).filter(Result::is_err);
        let refused: Vec<_> = refused.collect();
        assert_eq!(queue.depth(), [2, 0]);
        assert_eq!(refused, [Err(Refused::Full { queued: 2 }), Err(Refused::Full { queued: 2 })]);
    });
}

#[test]
fn requests_and_tasks_wake_whoever_works() {
    check(|| {
        let queue = queue(100);
        let [ran, asked] = [(); 2].map(|()| Arc::new(Ticket::<(), ()>::new(1)));
        let consumer = {
            let (queue, ran, asked) = (Arc::clone(&queue), Arc::clone(&ran), Arc::clone(&asked));
            thread::spawn(move || {
                loop {
                    match queue.next() {
                        Work::Batch(_) => ran.settle(0, ()),
                        Work::Task(_) => asked.settle(0, ()),
                        Work::End => break,
                    }
                }
            })
        };
        // Nothing else happens until each is done.
        queue.push(request(QueueLane::Bulk, &[0])).unwrap();
        assert_eq!(ran.wait(None), Some(Ok(vec![()])));
        queue.ask("task").unwrap();
        assert_eq!(asked.wait(None), Some(Ok(vec![()])));
        queue.close(Ending::Finish);
        consumer.join().unwrap();
    });
}

#[test]
fn whoever_waits_is_woken() {
    check(|| {
        let ticket: Arc<Ticket<usize, &str>> = Arc::new(Ticket::new(2));
        let settles: Vec<_> = (0..2)
            .map(|slot| {
                let ticket = Arc::clone(&ticket);
                thread::spawn(move || ticket.settle(slot, 10 + slot))
            })
            .collect();
        assert_eq!(ticket.wait(None), Some(Ok(vec![10, 11])));
        for settle in settles {
            settle.join().unwrap();
        }
    });
}

/// A waker that a thread can wait for.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    fn wait(&self) {
        let mut rung = self.rung.lock().expect("no thread panicked");
        while !*rung {
            rung = self.changed.wait(rung).expect("no thread panicked");
        }
        *rung = false;
    }
}

impl Wake for Bell {
    fn wake(self: StdArc<Self>) {
        *self.rung.lock().expect("no thread panicked") = true;
        self.changed.notify_all();
    }
}

#[test]
fn no_wake_up_of_a_future_is_lost_and_the_first_ending_counts() {
    check(|| {
        let ticket: Arc<Ticket<usize, &str>> = Arc::new(Ticket::new(1));
        let settles = {
            let ticket = Arc::clone(&ticket);
            thread::spawn(move || ticket.settle(0, 7))
        };
        let fails = {
            let ticket = Arc::clone(&ticket);
            thread::spawn(move || ticket.fail("too late"))
        };
        let bell = StdArc::new(Bell::default());
        let waker = Waker::from(StdArc::clone(&bell));
        let result = loop {
            match ticket.poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(result) => break result,
                Poll::Pending => bell.wait(),
            }
        };
        assert!(result == Ok(vec![7]) || result == Err("too late"), "{result:?}");
        settles.join().unwrap();
        fails.join().unwrap();
    });
}
