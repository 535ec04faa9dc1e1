//! Which processor a waking thread is put on.
//!
//! Linux may wake a thread on the processor of whoever wakes it. In a pool that one is about to be busy, and only some
//! milliseconds later, more than a short text takes altogether, does the system's balancing move the thread to one that
//! is free. So a helper that sleeps is kept off its waker's processor before it is woken. On other systems, and where
//! the system won't have it, nothing is done.

#[cfg(all(target_os = "linux", not(miri)))]
mod system {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rustix::thread::{CpuSet, Pid, gettid, sched_getaffinity, sched_getcpu, sched_setaffinity};

    /// Where one thread may run.
    #[derive(Debug)]
    pub(in crate::kernels) struct Placement {
        /// The thread, and the processors that it was started with.
        thread: OnceLock<(Pid, CpuSet)>,
        /// The processor that it is kept off; none at first.
        avoided: AtomicUsize,
    }

    impl Placement {
        pub(in crate::kernels) const fn new() -> Self {
            Self { thread: OnceLock::new(), avoided: AtomicUsize::new(usize::MAX) }
        }

        /// To be called by the thread that it is about.
        pub(in crate::kernels) fn introduce(&self) {
            if let Ok(allowed) = sched_getaffinity(None) {
                // Set once: each thread has its own.
                let _ = self.thread.set((gettid(), allowed));
            }
        }

        /// Keeps the thread off the processor that this is called on, if it may use another.
        pub(in crate::kernels) fn avoid_this_processor(&self) {
            let Some((thread, allowed)) = self.thread.get() else { return };
            let here = sched_getcpu();
            if self.avoided.swap(here, Ordering::Relaxed) == here || here >= CpuSet::MAX_CPU {
                return;
            }
            let mut others = *allowed;
            others.unset(here);
            if others.count() > 0 {
                // Refused, say by a sandbox, the thread wakes where the system likes.
                let _ = sched_setaffinity(Some(*thread), &others);
            }
        }
    }
}

#[cfg(not(all(target_os = "linux", not(miri))))]
mod system {
    #[derive(Debug)]
    pub(in crate::kernels) struct Placement;

    impl Placement {
        pub(in crate::kernels) const fn new() -> Self {
            Self
        }

        pub(in crate::kernels) fn introduce(&self) {}

        pub(in crate::kernels) fn avoid_this_processor(&self) {}
    }
}

pub(super) use system::Placement;

#[cfg(all(test, target_os = "linux", not(miri)))]
mod tests {
    use std::sync::mpsc;

    use rustix::thread::sched_getaffinity;

    use super::*;

    #[test]
    fn a_thread_is_kept_off_its_wakers_processor_and_on_its_others() {
        static PLACEMENT: Placement = Placement::new();
        let (ready, introduced) = mpsc::channel();
        let (ask, asked) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            PLACEMENT.introduce();
            ready.send(sched_getaffinity(None).unwrap()).unwrap();
            asked.recv().unwrap();
            sched_getaffinity(None).unwrap()
        });
        let before = introduced.recv().unwrap();
        PLACEMENT.avoid_this_processor();
        ask.send(()).unwrap();
        let after = thread.join().unwrap();
        let left = (0..1024).filter(|&cpu| before.is_set(cpu) && !after.is_set(cpu)).count();
        assert_eq!(left, usize::from(before.count() > 1));
        assert_eq!(after.count(), before.count() - left as u32);
    }
}
