//! The engine's queue, tickets, timer and turns under many orders of their threads' steps.
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
    #[path = "timer.rs"]
    pub(crate) mod timer;
    #[path = "turns.rs"]
    pub(crate) mod turns;
}

use std::sync::Arc as StdArc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use shuttle::sync::{Arc, Condvar, Mutex};
use shuttle::thread;

use batch::Sharing;
use engine::queue::{Ask, Ending, Job, Limits, Queue, QueueLane, Refused, Request, RequestId, Work};
use engine::ticket::Ticket;
use engine::timer::Timer;
use engine::turns::{Steps, Turns};

/// Schedules of each kind.
const SCHEDULES: usize = 3000;

fn check(test: impl Fn() + Send + Sync + Clone + 'static) {
    shuttle::check_random(test.clone(), SCHEDULES);
    shuttle::check_pct(test, SCHEDULES, 3);
}

/// Works on a thread of its own with something that others have as well.
fn beside<S, T>(shared: &Arc<S>, work: impl FnOnce(&S) -> T + Send + 'static) -> thread::JoinHandle<T>
where
    S: Send + Sync + 'static,
    T: Send + 'static,
{
    let shared = Arc::clone(shared);
    thread::spawn(move || work(&shared))
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
struct Numbered(usize);

impl Job for Numbered {
    fn tokens(&self) -> usize {
        1
    }
    fn bytes(&self) -> usize {
        4
    }
    fn goes_with(&self, _: &Self) -> bool {
        true
    }
}

type Tasks = Queue<Numbered, &'static str>;

fn queue(capacity: usize) -> Arc<Tasks> {
    let batch_time = Duration::from_secs(1);
    let sharing = Sharing::Packed;
    let bytes = 10 * capacity;
    Arc::new(Queue::new(Limits { capacity, bytes, batch_tokens: 2, enough_tokens: 2, batch_time, sharing }))
}

fn asks(lane: QueueLane, jobs: usize, bytes: usize) -> Ask {
    Ask { lane, jobs, bytes, refusable: true, held: false }
}

fn request(jobs: &[usize]) -> Request<Numbered> {
    Request { deadline: None, jobs: jobs.iter().copied().map(Numbered).collect() }
}

/// Takes room and uses it.
fn push(queue: &Tasks, lane: QueueLane, jobs: &[usize]) -> Result<RequestId, Refused> {
    let room = queue.enter(&asks(lane, jobs.len(), 7))?;
    queue.push(room, request(jobs)).map_err(|_| Refused::Closed)
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

#[test]
fn several_consumers_run_every_job_once_and_all_end() {
    check(|| {
        let queue = queue(100);
        let consumers = [(); 2].map(|()| beside(&queue, consume));
        let producer = beside(&queue, |queue| {
            push(queue, QueueLane::Query, &[0, 1, 2]).unwrap();
            push(queue, QueueLane::Bulk, &[3]).unwrap();
            // Room that comes back unused may be the last that the end waits for.
            let room = queue.enter(&asks(QueueLane::Bulk, 1, 7)).unwrap();
            queue.close(Ending::Finish);
            queue.leave(room);
        });
        producer.join().unwrap();
        let run = consumers.map(|consumer| consumer.join().unwrap()).concat();
        assert_eq!(sorted(run), [0, 1, 2, 3]);
    });
}

fn sorted(mut jobs: Vec<Numbered>) -> Vec<usize> {
    jobs.sort_unstable();
    jobs.into_iter().map(|Numbered(job)| job).collect()
}

#[test]
fn every_job_is_run_or_taken_back_exactly_once() {
    check(|| {
        let queue = queue(100);
        let consumer = beside(&queue, consume);
        let keeps = beside(&queue, |queue| {
            push(queue, QueueLane::Query, &[0, 1]).unwrap();
            push(queue, QueueLane::Bulk, &[2]).unwrap();
            queue.ask("task").unwrap();
        });
        let cancels = beside(&queue, |queue| {
            let id = push(queue, QueueLane::Bulk, &[3, 4, 5]).unwrap();
            let mut back = queue.cancel(id);
            back.extend(queue.extract(|&job| job == Numbered(1)));
            back
        });
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
        let consumer = beside(&queue, consume);
        let pushes = beside(&queue, |queue| {
            (0..3).filter(|&job| push(queue, QueueLane::Query, &[job]).is_err()).collect()
        });
        let closes = beside(&queue, |queue| queue.close(Ending::Return));
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
        let push = |job| beside(&queue, move |queue| push(queue, QueueLane::Query, &[job, job]));
        let pushes = [0, 1, 2].map(push);
        let refused = pushes.into_iter().map(|push| push.join().unwrap()).filter(Result::is_err);
        let refused: Vec<_> = refused.collect();
        assert_eq!(queue.depth(), [2, 0]);
        // The one that was taken may still have been on its way.
        let full = |bytes| Err(Refused::Full { queued: 2, bytes });
        assert!(
            refused.len() == 2 && refused.iter().all(|one| *one == full(7) || *one == full(8)),
            "{refused:?}"
        );
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
        push(&queue, QueueLane::Bulk, &[0]).unwrap();
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
        let settles = [0, 1].map(|slot| beside(&ticket, move |ticket| ticket.settle(slot, 10 + slot)));
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
        let settles = beside(&ticket, |ticket| ticket.settle(0, 7));
        let fails = beside(&ticket, |ticket| ticket.fail("too late"));
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

#[test]
fn bytes_that_are_taken_keep_to_their_bound_and_come_back() {
    check(|| {
        let queue = queue(10);
        let takes: Vec<_> = (0..3)
            .map(|_| {
                let queue = Arc::clone(&queue);
                thread::spawn(move || match queue.enter(&asks(QueueLane::Query, 1, 60)) {
                    Ok(room) => {
                        assert_eq!(queue.depth(), [1, 0], "two of 60 bytes are over 100");
                        queue.leave(room);
                        true
                    }
                    Err(refused) => {
                        assert_eq!(refused, Refused::Full { queued: 1, bytes: 60 });
                        false
                    }
                })
            })
            .collect();
        let taken = takes.into_iter().map(|take| take.join().unwrap()).filter(|&taken| taken).count();
        assert!(taken >= 1);
        assert_eq!(queue.depth(), [0, 0]);
    });
}

#[test]
fn an_end_waits_for_those_that_were_taken_and_for_no_others() {
    check(|| {
        let queue = queue(100);
        let consumer = beside(&queue, consume);
        let makes = beside(&queue, |queue| {
            let Ok(hold) = queue.enter(&asks(QueueLane::Bulk, 0, 0)) else { return [0, 0] };
            let held = Ask { held: true, ..asks(QueueLane::Bulk, 1, 3) };
            // What belongs to a call that was taken is taken, whenever the end begins.
            let room = queue.enter(&held).unwrap();
            queue.push(room, request(&[1])).unwrap();
            let unused = queue.enter(&held).unwrap();
            queue.leave(unused);
            queue.leave(hold);
            [1, usize::from(push(queue, QueueLane::Query, &[2]).is_ok())]
        });
        let closes = beside(&queue, |queue| assert_eq!(queue.close(Ending::Finish), []));
        let [first, second] = makes.join().unwrap();
        closes.join().unwrap();
        let run = consumer.join().unwrap();
        assert_eq!(run.len(), first + second, "{run:?}");
    });
}

#[test]
fn what_is_due_is_handed_out_taken_back_or_returned_exactly_once() {
    check(|| {
        let timer: Arc<Timer<usize>> = Arc::new(Timer::new());
        let now = Instant::now();
        let due = Arc::new(Ticket::<usize, ()>::new(2));
        let waits = {
            let (timer, due) = (Arc::clone(&timer), Arc::clone(&due));
            thread::spawn(move || {
                let mut handed_out = Vec::new();
                while let Some(what) = timer.next() {
                    if what < 2 {
                        due.settle(what, what);
                    }
                    handed_out.push(what);
                }
                handed_out
            })
        };
        let sets = beside(&timer, move |timer| {
            timer.set(now, 0);
            let never = timer.set(now + Duration::from_secs(10_000), 7);
            let perhaps = timer.set(now, 2);
            [timer.take_back(never), timer.take_back(perhaps)]
        });
        let later = timer.set(now + Duration::from_secs(20_000), 9);
        timer.set(now, 1);
        // Whoever waits for what is far away is woken for what is near.
        assert_eq!(due.wait(None), Some(Ok(vec![0, 1])));
        let taken_back = sets.join().unwrap();
        assert_eq!(taken_back[0], Some(7));
        let returned = timer.close();
        assert_eq!(timer.take_back(later), None);
        let mut all: Vec<usize> = waits.join().unwrap();
        all.extend(taken_back.into_iter().flatten());
        all.extend(returned);
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 7, 9]);
    });
}

/// A job of so many steps.
#[derive(Debug)]
struct Climb {
    name: usize,
    left: usize,
    long: bool,
}

impl Steps for Climb {
    fn lane(&self) -> QueueLane {
        if self.name == 0 { QueueLane::Query } else { QueueLane::Bulk }
    }
    fn is_long(&self) -> bool {
        self.long
    }
}

#[test]
fn jobs_that_share_threads_come_to_their_ends() {
    check(|| {
        let turns: Arc<Turns<Climb>> = Arc::new(Turns::new(2));
        let ended = Arc::new(Ticket::<usize, ()>::new(3));
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (turns, ended) = (Arc::clone(&turns), Arc::clone(&ended));
                thread::spawn(move || {
                    while let Some((mut job, turn)) = turns.next() {
                        job.left -= 1;
                        turns.done(turn);
                        if job.left == 0 {
                            ended.settle(job.name, job.name);
                        } else {
                            turns.push(job).unwrap();
                        }
                    }
                })
            })
            .collect();
        for (name, left, long) in [(0, 2, false), (1, 2, true), (2, 1, true)] {
            turns.push(Climb { name, left, long }).unwrap();
        }
        assert_eq!(ended.wait(None), Some(Ok(vec![0, 1, 2])));
        assert!(turns.close().is_empty());
        for thread in threads {
            thread.join().unwrap();
        }
    });
}
