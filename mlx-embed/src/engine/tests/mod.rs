//! The engine with a model that does what a test tells it, so that every order of events can be made to happen.

mod ends;
mod several;
mod ticket;
mod turns;

use std::cell::Cell;
use std::sync::atomic::AtomicUsize;
use std::sync::{Condvar, MutexGuard};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::queue::QueueLane;
use super::*;
use crate::batch::{Entry, Reading, Sharing};
use crate::error::InputError;

type Engine = super::Engine<Fake>;

/// What takes longer hangs, also on a machine with other things to do.
const HANGS: Duration = Duration::from_secs(120);

const FAILS: u32 = 13;
const PANICS: u32 = 666;
const NOT_FINITE: u32 = 7;
const BREAKS_DEVICE: u32 = 99;

/// What the test sees of the model, and how it holds it up.
#[derive(Default)]
struct Lab {
    state: Mutex<LabState>,
    changed: Condvar,
    unloaded: AtomicUsize,
}

#[derive(Default)]
struct LabState {
    /// Whether batches wait before they run, and how many may run all the same.
    held: bool,
    allowed: usize,
    /// Batches that have begun, each with its texts.
    batches: Vec<Vec<Vec<u32>>>,
    /// Prefixes made, and for each batch how many tokens of one it continued.
    prefixes: Vec<Vec<u32>>,
    continued: Vec<usize>,
    broken: bool,
}

impl Lab {
    fn lock(&self) -> MutexGuard<'_, LabState> {
        self.state.lock().unwrap()
    }

    fn hold(&self) {
        self.lock().held = true;
    }

    fn release(&self) {
        self.lock().held = false;
        self.changed.notify_all();
    }

    fn allow_one(&self) {
        self.lock().allowed += 1;
        self.changed.notify_all();
    }

    fn wait_for_batches(&self, count: usize) {
        let state = self.lock();
        let (state, timeout) =
            self.changed.wait_timeout_while(state, HANGS, |state| state.batches.len() < count).unwrap();
        assert!(!timeout.timed_out(), "{} of {count} batches", state.batches.len());
    }

    /// The first token of every text that ran, batch by batch.
    fn ran(&self) -> Vec<Vec<u32>> {
        self.lock().batches.iter().map(|batch| batch.iter().map(|text| text[0]).collect()).collect()
    }
}

struct Fake(Arc<Lab>);

impl Model for Fake {
    type Seen = Self;
    type Prefix = Vec<u32>;

    fn seen(&self) -> &Self {
        self
    }

    fn prefix(&self, ids: &[u32]) -> Result<Vec<u32>, Error> {
        self.0.lock().prefixes.push(ids.to_vec());
        Ok(ids.to_vec())
    }

    fn prefix_bytes(&self, tokens: usize) -> usize {
        100 * tokens
    }

    fn embed_batch(
        &self,
        entries: &[Entry<'_>],
        prefix: Option<(&Vec<u32>, usize)>,
    ) -> Result<Outputs, Error> {
        let start = prefix.map_or(&[][..], |(ids, shared)| &ids[..shared]);
        let texts: Vec<Vec<u32>> = entries.iter().map(|text| [start, text.ids].concat()).collect();
        let left_out = entries[0].reading.left_out;
        let mut state = self.0.lock();
        state.batches.push(texts.clone());
        state.continued.push(start.len());
        self.0.changed.notify_all();
        let waits = |state: &mut LabState| state.held && state.allowed == 0;
        // A test that fails must not hang: its engine waits for this.
        let mut state = self.0.changed.wait_timeout_while(state, HANGS, waits).unwrap().0;
        state.allowed = state.allowed.saturating_sub(1);
        let any = |id| texts.iter().any(|text| text.contains(&id));
        if any(BREAKS_DEVICE) {
            state.broken = true;
        }
        drop(state);
        assert!(!any(PANICS), "told to panic");
        if any(FAILS) || any(BREAKS_DEVICE) {
            return Err(Error::Option { option: "test", reason: "is told to fail".into() });
        }
        let vector = |text: &Vec<u32>| {
            if text.contains(&NOT_FINITE) {
                Err(InputError::NotFinite)
            } else {
                Ok(text.iter().skip(left_out).map(|&id| id as f32).collect::<Vec<_>>().into())
            }
        };
        Ok(texts.iter().map(vector).collect())
    }

    fn check(&self) -> Result<(), String> {
        if self.0.lock().broken { Err("the device is gone".into()) } else { Ok(()) }
    }

    fn unload(self) {
        MAY_END.set(!self.0.lock().broken);
        self.0.unloaded.fetch_add(1, Ordering::SeqCst);
    }

    fn may_end_thread() -> bool {
        MAY_END.get()
    }
}

thread_local! {
    static MAY_END: Cell<bool> = const { Cell::new(true) };
}

fn options() -> EngineOptions {
    EngineOptions {
        limits: Limits {
            capacity: 100,
            bytes: 1_000_000,
            batch_tokens: 64,
            enough_tokens: 64,
            batch_time: Duration::from_secs(1),
            sharing: Sharing::Packed,
        },
        cache: None,
        prompt_cache: 10_000,
        meters: Arc::new(Meters::new("test")),
    }
}

fn start_with(options: EngineOptions) -> (Arc<Lab>, Engine) {
    let lab = Arc::new(Lab::default());
    let model = Fake(Arc::clone(&lab));
    let engine = Engine::start(vec![move || Ok(model)], &options).unwrap().wait().unwrap();
    (lab, engine)
}

fn start() -> (Arc<Lab>, Engine) {
    start_with(options())
}

#[derive(Clone, Copy)]
struct Ask {
    lane: QueueLane,
    timeout: Option<Duration>,
    refusable: bool,
}

const QUERY: Ask = Ask { lane: QueueLane::Query, timeout: None, refusable: true };
const BULK: Ask = Ask { lane: QueueLane::Bulk, ..QUERY };

impl Ask {
    fn within(self, timeout: Duration) -> Self {
        Self { timeout: Some(timeout), ..self }
    }

    fn send(self, engine: &Engine, texts: &[&[u32]]) -> Arc<Caller> {
        let caller = Caller::new(texts.len(), self.timeout);
        if let Some(admission) = engine.admit(&caller, &self.asks(texts.len(), 0)) {
            let texts = texts.iter().enumerate();
            let texts = texts
                .map(|(slot, &ids)| Text::new(&caller, slot, ids.into(), Reading::default(), false, None));
            engine.push(&caller, admission, texts.collect());
        }
        caller
    }

    fn asks(self, jobs: usize, bytes: usize) -> queue::Ask {
        queue::Ask { lane: self.lane, jobs, bytes, refusable: self.refusable, held: false }
    }
}

/// A text of one token.
fn one(caller: &Arc<Caller>, slot: usize) -> Text {
    Text::new(caller, slot, Arc::from([2]), Reading::default(), false, None)
}

/// A request of which the test has heard the end.
fn end(caller: &Caller) -> Result<Vec<Outcome>, Error> {
    caller.ticket.wait(Some(Instant::now() + HANGS)).expect("the request ends")
}

fn vectors(caller: &Caller) -> Vec<Vec<f32>> {
    end(caller).unwrap().into_iter().map(|outcome| outcome.unwrap().output.to_numbers()).collect()
}

fn is_stopped(caller: &Caller) -> bool {
    matches!(end(caller), Err(Error::Stopped { .. }))
}

/// A model that is busy with a text of token 1 until it is released.
fn busy() -> (Arc<Lab>, Engine) {
    let (lab, engine) = start();
    lab.hold();
    QUERY.send(&engine, &[&[1]]);
    lab.wait_for_batches(1);
    (lab, engine)
}

#[test]
fn results_come_in_the_texts_order() {
    let (_lab, engine) = start();
    let caller = QUERY.send(&engine, &[&[2], &[3, 4, 5], &[6, 8]]);
    assert_eq!(vectors(&caller), [vec![2.0], vec![3.0, 4.0, 5.0], vec![6.0, 8.0]]);
}

#[test]
fn requests_that_come_while_the_model_is_busy_leave_together() {
    let (lab, engine) = busy();
    let callers: Vec<_> = (2..6).map(|id| QUERY.send(&engine, &[&[id]])).collect();
    lab.release();
    for caller in callers {
        vectors(&caller);
    }
    assert_eq!(lab.ran(), [vec![1], vec![2, 3, 4, 5]]);
}

#[test]
fn batches_keep_to_their_budget() {
    let (lab, engine) = busy();
    let long = [9; 40];
    let callers: Vec<_> = [2, 3, 4].map(|id| QUERY.send(&engine, &[&[&[id], &long[..]].concat()])).into();
    let short = QUERY.send(&engine, &[&[5]]);
    lab.release();
    callers.iter().chain([&short]).for_each(|caller| drop(vectors(caller)));
    assert_eq!(lab.ran(), [vec![1], vec![2, 5], vec![3], vec![4]]);
}

#[test]
fn with_enough_in_a_batch_no_further_request_is_begun() {
    let mut options = options();
    options.limits.enough_tokens = 4;
    let (lab, engine) = start_with(options);
    lab.hold();
    QUERY.send(&engine, &[&[1]]);
    lab.wait_for_batches(1);
    let callers = [
        QUERY.send(&engine, &[&[2], &[3]]),
        QUERY.send(&engine, &[&[4, 4], &[5, 5], &[6, 6]]),
        QUERY.send(&engine, &[&[8]]),
    ];
    lab.release();
    callers.iter().for_each(|caller| drop(vectors(caller)));
    // The second request is begun, and then all of it is taken: it has waited as long as its first text.
    assert_eq!(lab.ran(), [vec![1], vec![2, 3, 4, 5, 6], vec![8]]);
}

#[test]
fn queries_go_first_and_bulk_still_moves() {
    let (lab, engine) = busy();
    let text = |id: u32| vec![id; 64];
    let bulk: Vec<_> = (100..103).map(|id| BULK.send(&engine, &[&text(id)])).collect();
    let queries: Vec<_> = (200..216).map(|id| QUERY.send(&engine, &[&text(id)])).collect();
    lab.release();
    for caller in bulk.iter().chain(&queries) {
        vectors(caller);
    }
    let order: Vec<u32> = lab.ran()[1..].iter().map(|batch| batch[0]).collect();
    let expected: Vec<u32> =
        (200..207).chain([100]).chain(207..214).chain([101]).chain(214..216).chain([102]).collect();
    assert_eq!(order, expected);
}

#[test]
fn a_bulk_job_lets_a_query_in_between_its_batches() {
    let (lab, engine) = busy();
    let texts: Vec<Vec<u32>> = (100..104).map(|id| vec![id; 64]).collect();
    let bulk = BULK.send(&engine, &texts.iter().map(Vec::as_slice).collect::<Vec<_>>());
    lab.allow_one();
    lab.wait_for_batches(2);
    let query = QUERY.send(&engine, &[&[2]]);
    lab.release();
    vectors(&query);
    vectors(&bulk);
    let order: Vec<u32> = lab.ran()[1..].iter().map(|batch| batch[0]).collect();
    let at = order.iter().position(|&id| id == 2).unwrap();
    assert!(at < 4, "{order:?}");
}

#[test]
fn what_is_too_late_is_not_run() {
    let (lab, engine) = busy();
    let late = QUERY.within(Duration::from_millis(5)).send(&engine, &[&[2], &[3]]);
    let patient = QUERY.within(Duration::from_secs(1000)).send(&engine, &[&[4]]);
    // Its caller hears of it while the model is still busy.
    assert!(late.ticket.wait(late.deadline).is_none());
    lab.release();
    assert_eq!(vectors(&patient), [[4.0]]);
    assert!(matches!(end(&late), Err(Error::DeadlineExceeded { .. })));
    assert_eq!(lab.ran(), [vec![1], vec![4]]);
}

#[test]
fn what_can_not_be_in_time_is_not_begun_while_others_wait() {
    let (lab, engine) = busy();
    let hopeless = QUERY.within(Duration::from_secs(2000)).send(&engine, &[&[2; 30]]);
    let feasible = QUERY.within(Duration::from_secs(2000)).send(&engine, &[&[3; 5]]);
    // An estimate ages, and on a busy machine the engine may look at it late.
    let later = Instant::now() + HANGS;
    for _ in 0..3 {
        engine.queue.record(10, Duration::from_secs(1000), later);
    }
    lab.release();
    assert!(matches!(end(&hopeless), Err(Error::DeadlineExceeded { .. })));
    vectors(&feasible);
    assert_eq!(lab.ran(), [[1], [3]]);
}

#[test]
fn a_lone_request_is_begun_however_hopeless_it_looks() {
    let (_lab, engine) = start();
    engine.queue.record(10, Duration::from_secs(100_000), Instant::now());
    vectors(&QUERY.within(Duration::from_secs(1000)).send(&engine, &[&[2; 30]]));
}

#[test]
fn a_request_that_nobody_waits_for_is_taken_back() {
    let (lab, engine) = busy();
    let gone = QUERY.send(&engine, &[&[2], &[3]]);
    let stays = QUERY.send(&engine, &[&[4]]);
    engine.abandon(&gone);
    assert_eq!(engine.queued(), [1, 0]);
    lab.release();
    vectors(&stays);
    assert_eq!(lab.ran(), [vec![1], vec![4]]);
}

#[test]
fn a_caller_that_goes_before_its_texts_are_tokenised_leaves_nothing_behind() {
    let (lab, engine) = busy();
    let caller = Caller::new(1, None);
    let admission = engine.admit(&caller, &QUERY.asks(1, 10)).unwrap();
    engine.abandon(&caller);
    engine.push(&caller, admission, vec![one(&caller, 0)]);
    assert_eq!(engine.queued(), [0, 0]);
    lab.release();
}

#[test]
fn a_full_queue_says_so_and_each_lane_has_its_own() {
    let (lab, engine) = busy();
    let texts: Vec<Vec<u32>> = (0..100).map(|id| vec![1000 + id]).collect();
    let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
    let fills = QUERY.send(&engine, &texts);
    let refused = QUERY.send(&engine, &[&[2]]);
    assert!(matches!(end(&refused), Err(Error::QueueFull { queued: 100, bytes: 400 })));
    let waits = Ask { refusable: false, ..QUERY }.send(&engine, &[&[3]]);
    let bulk = BULK.send(&engine, &[&[4]]);
    lab.release();
    for caller in [&fills, &waits, &bulk] {
        vectors(caller);
    }
}

#[test]
fn a_request_of_any_size_finds_room_in_an_empty_lane() {
    let (_lab, engine) = start();
    let texts: Vec<Vec<u32>> = (0..500).map(|id| vec![1000 + id]).collect();
    let caller = BULK.send(&engine, &texts.iter().map(Vec::as_slice).collect::<Vec<_>>());
    assert_eq!(vectors(&caller).len(), 500);
}

#[test]
fn identical_texts_are_computed_once() {
    let (lab, engine) = busy();
    let same_as_running = QUERY.send(&engine, &[&[1]]);
    let twice = QUERY.send(&engine, &[&[2, 3], &[2, 3], &[2]]);
    let bulk = BULK.send(&engine, &[&[2, 3], &[4]]);
    lab.release();
    assert_eq!(vectors(&same_as_running), [[1.0]]);
    assert_eq!(vectors(&twice), [vec![2.0, 3.0], vec![2.0, 3.0], vec![2.0]]);
    let bulk = end(&bulk).unwrap();
    assert_eq!(
        bulk.iter().map(|outcome| outcome.as_ref().unwrap().cached).collect::<Vec<_>>(),
        [true, false]
    );
    assert_eq!(lab.ran(), [vec![1], vec![2, 2], vec![4]]);
}

#[test]
fn only_the_request_that_fails_fails() {
    let (lab, engine) = busy();
    let fine = QUERY.send(&engine, &[&[2], &[3]]);
    let fails = QUERY.send(&engine, &[&[FAILS], &[4]]);
    let also_fine = QUERY.send(&engine, &[&[5]]);
    lab.release();
    assert_eq!(vectors(&fine), [[2.0], [3.0]]);
    assert!(matches!(end(&fails), Err(Error::Option { option: "test", .. })));
    assert_eq!(vectors(&also_fine), [[5.0]]);
    assert_eq!(engine.state(), State::Running);
}

#[test]
fn only_the_text_that_has_no_vector_has_none() {
    let (_lab, engine) = start();
    let outcomes = end(&QUERY.send(&engine, &[&[2], &[NOT_FINITE], &[3]])).unwrap();
    assert!(outcomes[0].is_ok() && outcomes[2].is_ok());
    assert_eq!(outcomes[1].as_ref().unwrap_err(), &InputError::NotFinite);
}

#[test]
fn a_panic_ends_every_request_and_the_engine_says_that_it_is_dead() {
    let (lab, engine) = busy();
    let panics = QUERY.send(&engine, &[&[PANICS; 64]]);
    let behind = QUERY.send(&engine, &[&[2]]);
    let bulk = BULK.send(&engine, &[&[3]]);
    lab.release();
    for caller in [&panics, &behind, &bulk] {
        assert!(is_stopped(caller));
    }
    assert!(is_stopped(&QUERY.send(&engine, &[&[4]])), "one that comes later ends, too");
    let State::Dead { reason } = engine.state() else { panic!("{:?}", engine.state()) };
    assert!(reason.contains("told to panic"), "{reason}");
    let asked = engine.ask(|_| Ok(()));
    assert!(matches!(asked, Err(Error::Stopped { reason }) if reason.contains("told to panic")));
}

#[test]
fn a_lost_device_ends_the_engine() {
    let (_lab, engine) = start();
    let caller = QUERY.send(&engine, &[&[BREAKS_DEVICE]]);
    assert!(matches!(end(&caller), Err(Error::Option { .. })));
    assert!(is_stopped(&QUERY.send(&engine, &[&[2]])));
    let State::Dead { reason } = engine.state() else { panic!("{:?}", engine.state()) };
    assert_eq!(reason, "the device is gone");
}

#[test]
fn a_lost_device_is_asked_for_nothing_more() {
    let (lab, engine) = busy();
    let callers = [QUERY.send(&engine, &[&[BREAKS_DEVICE]]), QUERY.send(&engine, &[&[2]])];
    lab.release();
    assert!(callers.iter().all(|caller| is_stopped(caller)));
    assert_eq!(lab.ran(), [vec![1], vec![BREAKS_DEVICE, 2]]);
}

#[test]
fn a_task_that_panics_ends_the_engine_and_not_its_caller() {
    let (_lab, engine) = start();
    let asked: Result<(), Error> = engine.ask(|_| panic!("in a task"));
    assert!(matches!(asked, Err(Error::Stopped { reason }) if reason.contains("in a task")));
}

#[test]
fn shutting_down_finishes_what_is_queued_or_hands_it_back() {
    for (ending, runs) in [(Ending::Finish, true), (Ending::Return, false)] {
        let (lab, engine) = busy();
        let queued = [QUERY.send(&engine, &[&[2]]), BULK.send(&engine, &[&[3], &[4]])];
        engine.fate.tell(&engine.queue.close(ending));
        assert!(is_stopped(&QUERY.send(&engine, &[&[5]])), "it takes no more");
        assert_eq!(engine.state(), State::ShutDown);
        lab.release();
        engine.shut_down(ending);
        assert_eq!(lab.unloaded.load(Ordering::SeqCst), 1);
        for caller in &queued {
            assert_eq!(end(caller).is_ok(), runs);
        }
    }
}

#[test]
fn shutting_down_twice_or_from_many_threads_is_fine() {
    let (lab, engine) = start();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| engine.shut_down(Ending::Finish));
        }
    });
    engine.shut_down(Ending::Return);
    assert_eq!(lab.unloaded.load(Ordering::SeqCst), 1);
}

#[test]
fn dropping_the_engine_frees_the_model_whatever_is_queued() {
    let (lab, engine) = busy();
    let queued = QUERY.send(&engine, &[&[2]]);
    let dropper = thread::spawn(move || drop(engine));
    assert!(is_stopped(&queued), "its caller hears of it while the model is still busy");
    lab.release();
    dropper.join().unwrap();
    assert_eq!(lab.unloaded.load(Ordering::SeqCst), 1);
}

#[test]
fn nobody_waits_for_a_thread_that_may_not_end() {
    thread_local! {
        /// Goes when its thread ends.
        static ON_THREAD: Cell<Option<mpsc::Sender<()>>> = const { Cell::new(None) };
    }
    let watch = || {
        let (on_thread, ends) = mpsc::channel();
        (move || ON_THREAD.set(Some(on_thread)), ends)
    };
    let seen_dropping = |engine: Engine| {
        let (done, wait) = mpsc::channel();
        thread::spawn(move || {
            drop(engine);
            let _ = done.send(());
        });
        wait.recv_timeout(HANGS).expect("the engine waits for a thread that may not end");
    };

    let (lab, (on_thread, ends)) = (Arc::new(Lab::default()), watch());
    let load = {
        let lab = Arc::clone(&lab);
        move || {
            on_thread();
            Ok(Fake(lab))
        }
    };
    let engine = Engine::start(vec![load], &options()).unwrap().wait().unwrap();
    end(&QUERY.send(&engine, &[&[BREAKS_DEVICE]])).unwrap_err();
    seen_dropping(engine);
    assert_eq!(lab.unloaded.load(Ordering::SeqCst), 1);
    assert_eq!(ends.try_recv(), Err(mpsc::TryRecvError::Empty), "the thread has ended");

    let (on_thread, ends) = watch();
    let load = move || {
        on_thread();
        MAY_END.set(false);
        Err::<Fake, _>(Error::Option { option: "device", reason: "is gone".into() })
    };
    let Starting { engine, started } = Engine::start(vec![load], &options()).unwrap();
    started.recv().unwrap().unwrap_err();
    seen_dropping(engine);
    assert_eq!(ends.try_recv(), Err(mpsc::TryRecvError::Empty), "the thread has ended");
}

#[test]
fn a_waker_may_drop_the_engine_on_its_own_thread() {
    struct DropsEngine(Mutex<Option<Arc<Engine>>>);
    impl Wake for DropsEngine {
        fn wake(self: Arc<Self>) {
            self.0.lock().unwrap().take();
        }
    }
    let (lab, engine) = busy();
    let engine = Arc::new(engine);
    let caller = QUERY.send(&engine, &[&[2]]);
    let waker = Waker::from(Arc::new(DropsEngine(Mutex::new(Some(engine)))));
    assert!(matches!(caller.ticket.poll(&mut Context::from_waker(&waker)), Poll::Pending));
    lab.release();
    let start = Instant::now();
    while lab.unloaded.load(Ordering::SeqCst) == 0 {
        assert!(start.elapsed() < HANGS, "the model is not freed");
        thread::yield_now();
    }
    assert_eq!(vectors(&caller), [[2.0]]);
}

/// Panics when it is dropped.
struct Falls;

impl Drop for Falls {
    fn drop(&mut self) {
        if !thread::panicking() {
            panic!("dropped");
        }
    }
}

/// A waker of somebody's own, and what it does when it is woken.
struct Own<T>(T, fn(Arc<Self>));

impl<T: Send + Sync> Wake for Own<T> {
    fn wake(self: Arc<Self>) {
        (self.1)(self)
    }
}

#[test]
fn a_waker_that_panics_harms_nobody_else() {
    let wakers: [(&str, Waker); 3] = [
        ("when it is woken", Arc::new(Own((), |_| panic!("a waker of somebody's own"))).into()),
        ("with what panics when it is dropped", Arc::new(Own((), |_| std::panic::panic_any(Falls))).into()),
        ("when it is dropped", Arc::new(Own(Falls, std::mem::forget)).into()),
    ];
    for (when, waker) in wakers {
        println!("{when}");
        let (lab, engine) = busy();
        let caller = QUERY.send(&engine, &[&[2]]);
        assert!(caller.ticket.poll(&mut Context::from_waker(&waker)).is_pending(), "{when}");
        // What panics when it is dropped is the engine's to drop, and so is who asked.
        drop(waker);
        let _asks = (when != "when it is dropped").then_some(caller);
        let other = QUERY.send(&engine, &[&[3]]);
        lab.release();
        assert_eq!(vectors(&other), [[3.0]], "{when}");
        assert_eq!(engine.state(), State::Running, "{when}");
    }
}

#[test]
fn a_model_that_fails_to_load_is_told() {
    let load = || Err::<Fake, _>(Error::Option { option: "test", reason: "can't load".into() });
    let failed = Engine::start(vec![load], &options());
    assert!(matches!(failed.unwrap().wait(), Err(Error::Option { .. })));
    let panicked = Engine::start::<Fake>(vec![|| panic!("while loading")], &options());
    assert!(matches!(panicked.unwrap().wait(), Err(Error::Stopped { .. })));
}

mod prompts {
    use super::*;

    fn send(engine: &Engine, prompt: &[u32], texts: &[&[u32]]) -> Arc<Caller> {
        let caller = Caller::new(texts.len(), None);
        let ids: Arc<[u32]> = prompt.into();
        let text = |(slot, text): (usize, &&[u32])| {
            let shared = SharedPrompt { ids: Arc::clone(&ids), shared: prompt.len() };
            Text::new(&caller, slot, [prompt, text].concat().into(), Reading::default(), false, Some(shared))
        };
        let admission = engine.admit(&caller, &QUERY.asks(texts.len(), 0)).unwrap();
        engine.push(&caller, admission, texts.iter().enumerate().map(text).collect());
        caller
    }

    #[test]
    fn a_prompt_is_kept_when_it_comes_again() {
        let (lab, engine) = start();
        for id in [5, 6, 8] {
            assert_eq!(vectors(&send(&engine, &[1, 2, 3], &[&[id]])), [[1.0, 2.0, 3.0, id as f32]]);
        }
        assert_eq!(lab.lock().continued, [0, 3, 3]);
        assert_eq!(lab.lock().prefixes, [[1, 2, 3]]);
    }

    #[test]
    fn a_prompt_of_several_texts_is_kept_at_once() {
        let (lab, engine) = start();
        vectors(&send(&engine, &[1, 2, 3], &[&[5], &[6]]));
        assert_eq!(lab.lock().continued, [3]);
    }

    #[test]
    fn texts_of_different_prompts_do_not_mix() {
        let (lab, engine) = busy();
        let callers = [
            send(&engine, &[1, 2, 3], &[&[5], &[6]]),
            send(&engine, &[1, 2, 4], &[&[5], &[6]]),
            QUERY.send(&engine, &[&[1, 2, 3, 9]]),
        ];
        lab.release();
        for caller in &callers {
            vectors(caller);
        }
        assert_eq!(lab.lock().continued, [0, 3, 3, 0]);
    }

    #[test]
    fn kept_prompts_are_bounded_and_the_last_used_stay() {
        let (lab, engine) = start();
        // 104 bytes a token, ids included, 10,000 in all: three of these fit.
        let prompt = |id| vec![id; 30];
        for id in [100, 101, 102, 100, 103, 100, 101] {
            vectors(&send(&engine, &prompt(id), &[&[1], &[2]]));
        }
        let made: Vec<u32> = lab.lock().prefixes.iter().map(|ids| ids[0]).collect();
        assert_eq!(made, [100, 101, 102, 103, 101]);
        vectors(&send(&engine, &[4; 200], &[&[1], &[2]]));
        assert_eq!(lab.lock().prefixes.len(), 5, "one that does not fit is not made");
    }
}
