//! Threads that wait for work as closely as a forward pass needs: a pass hands them a few hundred pieces of work of
//! some tens of microseconds each, so waking from the operating system's sleep every time would cost as much as the
//! work.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use super::placement::Placement;

/// How long an idle thread watches for work before it sleeps. Long enough to span what lies between two kernels of a
/// forward pass, short enough that an idle process uses no processor time that anyone would notice.
const WATCH: Duration = Duration::from_micros(if cfg!(miri) { 0 } else { 200 });

/// Most threads of all pools of the process. A system that has no more to give may let one start and then fail it, which
/// ends the process.
const MOST_HELPERS: usize = 4096;

static HELPERS: AtomicUsize = AtomicUsize::new(0);

/// Threads of [`HELPERS`] that are counted for as long as this lives.
struct Counted(usize);

impl Counted {
    fn new(count: usize) -> std::io::Result<Self> {
        // Counted only where there is room: what is refused must not be in the way of others even for a moment.
        let with = |running: usize| running.checked_add(count).filter(|all| *all <= MOST_HELPERS);
        match HELPERS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, with) {
            Ok(_) => Ok(Self(count)),
            Err(running) => Err(std::io::Error::other(format!(
                "{running} run already, and a process has {MOST_HELPERS} at most"
            ))),
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        HELPERS.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// A fixed number of threads, of which the caller of [`Pool::run`] is one.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    helpers: Vec<(Thread, JoinHandle<()>)>,
    /// One caller at a time.
    caller: Mutex<()>,
    /// Dropped behind the threads.
    _counted: Counted,
}

struct Shared {
    /// `epoch << 32 | open << 31 | helpers at work`. Helpers enter by counting themselves in while it is open.
    state: AtomicU64,
    /// What to run, valid while helpers are at work or the state is open.
    job: Mutex<Option<Job>>,
    /// Of each thread, the caller's first.
    shares: Vec<Share>,
    stop: AtomicBool,
    sleeping: Vec<AtomicBool>,
    placements: Vec<Placement>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// The tasks of a job that one thread does, unless others come to help: neighbours, since they often write neighbouring
/// memory, and the same ones of the next job often read it. In a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Share {
    next: AtomicUsize,
    end: AtomicUsize,
}

impl Share {
    fn claim(&self) -> Option<usize> {
        let end = self.end.load(Ordering::Relaxed);
        // Read before it is written: a line that only one thread writes stays with it.
        if self.next.load(Ordering::Relaxed) >= end {
            return None;
        }
        Some(self.next.fetch_add(1, Ordering::Relaxed)).filter(|&task| task < end)
    }
}

const OPEN: u64 = 1 << 31;
const AT_WORK: u64 = OPEN - 1;
const EPOCH: u64 = 1 << 32;

/// A task function whose lifetime was erased, and how many tasks there are.
#[derive(Clone, Copy)]
struct Job {
    work: *const (dyn Fn(usize) + Sync),
}

// SAFETY: `work` points to a `Sync` function that `Pool::run` keeps alive until no helper is at work.
unsafe impl Send for Job {}

impl Pool {
    /// A pool of `threads`, the caller counted; at least one.
    pub(crate) fn new(threads: usize) -> std::io::Result<Self> {
        let count = threads.max(1) - 1;
        let counted = Counted::new(count)?;
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: Mutex::new(None),
            shares: (0..=count).map(|_| Share::default()).collect(),
            stop: AtomicBool::new(false),
            sleeping: (0..count).map(|_| AtomicBool::new(false)).collect(),
            placements: (0..count).map(|_| Placement::new()).collect(),
            panic: Mutex::new(None),
        });
        let mut pool = Self { shared, helpers: Vec::new(), caller: Mutex::new(()), _counted: counted };
        for index in 0..count {
            let shared = Arc::clone(&pool.shared);
            let name = format!("mlx-embed-{}", index + 1);
            // A failure here drops the pool, which ends the threads made so far.
            let handle = thread::Builder::new().name(name).spawn(move || shared.help(index))?;
            pool.helpers.push((handle.thread().clone(), handle));
        }
        Ok(pool)
    }

    /// Threads, the caller's counted.
    pub(crate) fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// As [`Pool::run`], of tasks that can fail. The first error is returned when all are done.
    pub(crate) fn try_run<E: Send>(
        &self,
        tasks: usize,
        work: &(dyn Fn(usize) -> Result<(), E> + Sync),
    ) -> Result<(), E> {
        let failed = Mutex::new(None);
        self.run(tasks, &|task| {
            if let Err(error) = work(task) {
                lock(&failed).get_or_insert(error);
            }
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// Calls `work` with every number below `tasks`, each once, and returns when all are done. Neighbours go to the same
    /// thread, while it keeps up with the others.
    ///
    /// # Panics
    /// With a task's own panic, after all threads have let go of `work`.
    pub(crate) fn run(&self, tasks: usize, work: &(dyn Fn(usize) + Sync)) {
        if tasks <= 1 || self.helpers.is_empty() {
            (0..tasks).for_each(work);
            return;
        }
        let _one = self.caller.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes. Helpers reach the job while the state is open or they are counted as at
        // work; below, this function closes it and waits for the count to be zero before it returns, on every path.
        let work_erased: *const (dyn Fn(usize) + Sync + 'static) =
            unsafe { std::mem::transmute(work as *const (dyn Fn(usize) + Sync)) };
        *lock(&shared.job) = Some(Job { work: work_erased });
        let threads = shared.shares.len().min(tasks);
        for (index, share) in shared.shares.iter().enumerate() {
            let first = |index: usize| index.min(threads) * tasks / threads;
            share.next.store(first(index), Ordering::Relaxed);
            share.end.store(first(index + 1), Ordering::Relaxed);
        }
        let epoch = shared.state.load(Ordering::Relaxed) & !(EPOCH - 1);
        shared.state.store(epoch.wrapping_add(EPOCH) | OPEN, Ordering::SeqCst);
        // On a machine of many cores, waking more threads than there are tasks would cost more than small tasks do.
        for (index, (thread, _)) in self.helpers.iter().enumerate().take(tasks - 1) {
            if shared.sleeping[index].load(Ordering::SeqCst) {
                shared.placements[index].avoid_this_processor();
                thread.unpark();
            }
        }
        let own = panic::catch_unwind(AssertUnwindSafe(|| shared.work(0, work)));
        shared.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut looks = 0_u32;
        while shared.state.load(Ordering::Acquire) & AT_WORK != 0 {
            looks += 1;
            // A helper that lost its processor needs one to finish.
            if looks < 10_000 { std::hint::spin_loop() } else { thread::yield_now() }
        }
        *lock(&shared.job) = None;
        let theirs = lock(&shared.panic).take();
        if let Some(payload) = own.err().or(theirs) {
            panic::resume_unwind(payload);
        }
    }
}

impl Shared {
    /// Does the tasks of thread `own`, then what others have not begun.
    fn work(&self, own: usize, work: &(dyn Fn(usize) + Sync)) {
        let threads = self.shares.len();
        for index in own..own + threads {
            while let Some(task) = self.shares[index % threads].claim() {
                work(task);
            }
        }
    }

    fn help(&self, index: usize) {
        self.placements[index].introduce();
        let mut seen = 0;
        loop {
            let state = self.wait(index, seen);
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            seen = state & !(EPOCH - 1);
            if !self.enter(seen) {
                continue;
            }
            let job = *lock(&self.job);
            if let Some(Job { work }) = job {
                // SAFETY: this thread is counted as at work, so `Pool::run` keeps the function alive.
                let work = unsafe { &*work };
                if let Err(payload) = panic::catch_unwind(AssertUnwindSafe(|| self.work(index + 1, work))) {
                    lock(&self.panic).get_or_insert(payload);
                    // Nobody needs the rest of a job that fails.
                    self.shares.iter().for_each(|share| share.end.store(0, Ordering::Relaxed));
                }
            }
            self.state.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Counts this thread in, unless the job of `epoch` is closed already.
    fn enter(&self, epoch: u64) -> bool {
        let counted_in =
            |state: u64| (state & !(EPOCH - 1) == epoch && state & OPEN != 0).then_some(state + 1);
        self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, counted_in).is_ok()
    }

    /// Waits for a job after `seen`, or the end.
    fn wait(&self, index: usize, seen: u64) -> u64 {
        let news = || {
            let state = self.state.load(Ordering::SeqCst);
            (state & !(EPOCH - 1) != seen || self.stop.load(Ordering::SeqCst)).then_some(state)
        };
        loop {
            let start = Instant::now();
            while start.elapsed() < WATCH {
                for _ in 0..32 {
                    if let Some(state) = news() {
                        return state;
                    }
                    std::hint::spin_loop();
                }
            }
            self.sleeping[index].store(true, Ordering::SeqCst);
            // Looked at after the flag is up: whoever brings news later sees the flag and wakes this thread.
            if news().is_none() {
                thread::park();
            }
            self.sleeping[index].store(false, Ordering::SeqCst);
            // Not left to the next watch: where clocks outrun threads, as under Miri, it may be over before it looked.
            if let Some(state) = news() {
                return state;
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for (thread, handle) in self.helpers.drain(..) {
            thread.unpark();
            // Its panics were handed to the callers they concerned.
            let _ = handle.join();
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads()).finish_non_exhaustive()
    }
}

/// The data behind these locks is whole after every step, so another thread's panic can't have broken it.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_exactly_once() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads).unwrap();
            for tasks in [0, 1, 2, 3, 64, 1000] {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, &|task| {
                    counts[task].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1), "{threads} {tasks}");
            }
        }
    }

    #[test]
    fn what_a_thread_does_not_get_to_is_done_by_others() {
        let pool = Pool::new(2).unwrap();
        for _ in 0..20 {
            let done = AtomicUsize::new(0);
            pool.run(8, &|task| {
                // The first of a thread's tasks ends last.
                while task == 0 && done.load(Ordering::Acquire) < 7 {
                    thread::yield_now();
                }
                done.fetch_add(1, Ordering::Release);
            });
            assert_eq!(done.into_inner(), 8);
        }
    }

    #[test]
    fn more_threads_than_a_process_has_are_an_error() {
        let asks = || {
            for _ in 0..1000 {
                let error = Pool::new(100_000).unwrap_err();
                assert!(error.to_string().contains("4096"), "{error}");
            }
        };
        thread::scope(|scope| {
            scope.spawn(asks);
            // Whoever asks for too many is in nobody's way.
            for _ in 0..20 {
                Pool::new(2).unwrap();
            }
        });
    }

    #[test]
    fn a_thousand_jobs_in_a_row_lose_nothing() {
        let pool = Pool::new(3).unwrap();
        let sum = AtomicUsize::new(0);
        for _ in 0..1000 {
            pool.run(7, &|task| {
                sum.fetch_add(task, Ordering::Relaxed);
            });
        }
        assert_eq!(sum.into_inner(), 21_000);
    }

    #[test]
    fn a_pool_wakes_from_sleep() {
        let pool = Pool::new(2).unwrap();
        for _ in 0..3 {
            thread::sleep(WATCH * 10);
            let sum = AtomicUsize::new(0);
            pool.run(100, &|task| {
                sum.fetch_add(task, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 4950);
        }
    }

    #[test]
    fn callers_on_many_threads_take_turns() {
        let pool = Pool::new(2).unwrap();
        let sum = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        pool.run(10, &|task| {
                            sum.fetch_add(task, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), 4 * 200 * 45);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_leaves_the_pool_usable() {
        let pool = Pool::new(2).unwrap();
        for _ in 0..20 {
            let result = panic::catch_unwind(AssertUnwindSafe(|| {
                pool.run(50, &|task| assert_ne!(task, 31, "task thirty-one"));
            }));
            assert!(result.is_err());
        }
        let sum = AtomicUsize::new(0);
        pool.run(10, &|task| {
            sum.fetch_add(task, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 45);
    }
}
