//! Every request ends, whatever goes wrong around it; and room that was taken counts until it is given back.

use std::task::{Wake, Waker};

use metrics::{CounterFn, GaugeFn, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};

use super::*;

#[test]
fn a_text_that_is_dropped_without_a_result_ends_its_request() {
    let caller = Caller::new(2, None);
    let texts = [0, 1].map(|slot| one(&caller, slot));
    texts[0].settle(Err(InputError::NotFinite));
    assert!(!caller.ticket.is_done());
    drop(texts);
    assert!(is_stopped(&caller));
}

#[test]
fn texts_that_have_their_results_may_go_while_others_wait() {
    let caller = Caller::new(2, None);
    let texts = [0, 1].map(|slot| one(&caller, slot));
    let [first, second] = texts;
    first.settle(Err(InputError::NotFinite));
    drop(first);
    assert!(!caller.ticket.is_done());
    second.settle(Err(InputError::NotFinite));
    drop(second);
    assert_eq!(end(&caller).unwrap().len(), 2);
}

/// A recorder of metrics with a mistake in it.
struct Broken;

impl CounterFn for Broken {
    fn increment(&self, _: u64) {
        panic!("a counter of somebody's own");
    }
    fn absolute(&self, _: u64) {
        panic!("a counter of somebody's own");
    }
}

impl GaugeFn for Broken {
    fn increment(&self, _: f64) {
        panic!("a gauge of somebody's own");
    }
    fn decrement(&self, _: f64) {
        panic!("a gauge of somebody's own");
    }
    fn set(&self, _: f64) {
        panic!("a gauge of somebody's own");
    }
}

impl HistogramFn for Broken {
    fn record(&self, _: f64) {
        panic!("a histogram of somebody's own");
    }
}

impl Recorder for Broken {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> metrics::Counter {
        metrics::Counter::from_arc(Arc::new(Self))
    }
    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> metrics::Gauge {
        metrics::Gauge::from_arc(Arc::new(Self))
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> metrics::Histogram {
        metrics::Histogram::from_arc(Arc::new(Self))
    }
}

#[test]
fn a_recorder_that_panics_disturbs_no_request() {
    let meters = metrics::with_local_recorder(&Broken, || Arc::new(Meters::new("test")));
    let (_lab, engine) = start_with(EngineOptions { meters: Arc::clone(&meters), ..options() });
    for _ in 0..3 {
        assert_eq!(vectors(&QUERY.send(&engine, &[&[2], &[3], &[3]])), [[2.0], [3.0], [3.0]]);
    }
    meters.request(Ended::Done, Duration::ZERO);
    meters.cache(true);
    assert_eq!(engine.state(), State::Running);
}

struct Bell(mpsc::Sender<()>);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        let _ = self.0.send(());
    }
}

#[test]
fn a_task_is_woken_when_its_time_is_over_whatever_runs() {
    let (lab, engine) = busy();
    let late = QUERY.within(Duration::from_millis(20)).send(&engine, &[&[2]]);
    let (ring, rings) = mpsc::channel();
    let waker = Waker::from(Arc::new(Bell(ring)));
    assert!(late.ticket.poll(&mut Context::from_waker(&waker)).is_pending());
    engine.wake_at(late.deadline.unwrap(), &late).unwrap();
    rings.recv_timeout(HANGS).expect("it is woken while the model is busy");
    let Poll::Ready(result) = late.ticket.poll(&mut Context::from_waker(&waker)) else {
        panic!("it has not ended")
    };
    assert!(matches!(result, Err(Error::DeadlineExceeded { .. })));
    assert_eq!(engine.queued(), [0, 0], "nor does it wait in the queue");
    lab.release();
}

#[test]
fn an_alarm_that_is_not_wanted_any_more_is_forgotten() {
    let (_lab, engine) = start();
    let caller = QUERY.within(Duration::from_secs(1000)).send(&engine, &[&[2]]);
    let alarm = engine.wake_at(caller.deadline.unwrap(), &caller).unwrap();
    vectors(&caller);
    engine.forget(alarm);
    assert!(engine.timer.take_back(alarm).is_none());
    assert!(engine.timer.close().is_empty());
}

#[test]
fn text_that_is_still_being_tokenised_counts() {
    let (_lab, engine) = start();
    let first = Caller::new(60, None);
    let admission = engine.admit(&first, &QUERY.asks(60, 999_000)).unwrap();
    assert_eq!(engine.queued(), [60, 0]);
    let full = |jobs, bytes| {
        let caller = Caller::new(jobs, None);
        match engine.admit(&caller, &QUERY.asks(jobs, bytes)) {
            None => matches!(end(&caller), Err(Error::QueueFull { queued: 60, bytes: 999_000 })),
            Some(_) => false,
        }
    };
    assert!(full(41, 1), "one text too many");
    assert!(full(1, 1001), "one byte too many");
    assert!(!full(40, 1000), "what was only tried counts no more");
    let other_lane = Caller::new(1, None);
    assert!(engine.admit(&other_lane, &BULK.asks(1, 1 << 30)).is_some(), "an empty lane takes any");
    let waits = Caller::new(1, None);
    assert!(engine.admit(&waits, &Ask { refusable: false, ..QUERY }.asks(1, 1 << 30)).is_some());
    drop(admission);
    assert_eq!(engine.queued(), [0, 0]);
}

#[test]
fn bytes_in_the_queue_are_those_of_token_ids_and_go_with_them() {
    let (lab, engine) = busy();
    let texts = vec![vec![5; 100_000]; 3];
    let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
    let large = BULK.send(&engine, &texts[..2]);
    let refused = Caller::new(1, None);
    assert!(engine.admit(&refused, &BULK.asks(1, 300_000)).is_none());
    assert!(matches!(end(&refused), Err(Error::QueueFull { queued: 2, bytes: 800_000 })));
    engine.abandon(&large);
    let again = BULK.send(&engine, &texts);
    engine.abandon(&again);
    assert!(engine.admit(&Caller::new(1, None), &BULK.asks(1, 999_999)).is_some());
    lab.release();
}

#[test]
fn what_is_tokenised_at_the_end_is_finished_or_handed_back() {
    for (ending, runs) in [(Ending::Finish, true), (Ending::Return, false)] {
        let (lab, engine) = start();
        let caller = Caller::new(1, None);
        let admission = engine.admit(&caller, &QUERY.asks(1, 10)).unwrap();
        thread::scope(|scope| {
            let ends = scope.spawn(|| engine.shut_down(ending));
            while engine.state() == State::Running {
                thread::yield_now();
            }
            assert!(is_stopped(&QUERY.send(&engine, &[&[5]])), "it takes no more");
            if runs {
                assert!(!ends.is_finished(), "it waits for what was taken");
            }
            engine.push(&caller, admission, vec![one(&caller, 0)]);
            assert_eq!(end(&caller).is_ok(), runs);
        });
        assert_eq!(lab.unloaded.load(Ordering::SeqCst), 1);
    }
}

#[test]
fn a_call_that_is_held_sends_its_last_part_after_the_end_has_begun() {
    let (_lab, engine) = start();
    let hold = engine.hold(&BULK.asks(0, 0)).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| engine.shut_down(Ending::Finish));
        while engine.state() == State::Running {
            thread::yield_now();
        }
        let caller = Caller::new(1, None);
        let ask = queue::Ask { held: true, ..BULK.asks(1, 10) };
        let admission = engine.admit(&caller, &ask).unwrap();
        engine.push(&caller, admission, vec![one(&caller, 0)]);
        assert_eq!(vectors(&caller), [[2.0]]);
        drop(hold);
    });
    assert!(engine.hold(&BULK.asks(0, 0)).is_none());
}
