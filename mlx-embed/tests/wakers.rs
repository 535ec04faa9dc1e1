//! Wakers that call back: they run on threads that the model's requests depend on, where nothing may wait for these.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use mlx_embed::{EmbedOptions, Embedder, Embedding, Error, LoadOptions, Pending, Shutdown, State};

/// What does `work` on whatever thread wakes it, and sends what came of it.
struct Does<T> {
    embedder: Embedder,
    work: fn(&Embedder) -> T,
    done: mpsc::Sender<T>,
}

impl<T: 'static> Wake for Does<T> {
    fn wake(self: Arc<Self>) {
        // Nobody listens to later ones.
        let _ = self.done.send((self.work)(&self.embedder));
    }
}

/// How a request comes to be answered by each kind of thread.
#[derive(Clone, Copy, Debug)]
enum Answered {
    /// By that which computes.
    Computed,
    /// By one that tokenises, as the result is at hand once the tokens are known.
    AtHand,
    /// By that which keeps time.
    Late,
}

const ALL: [Answered; 3] = [Answered::Computed, Answered::AtHand, Answered::Late];

fn load() -> Embedder {
    Embedder::default_model_with(LoadOptions { vector_cache: 1 << 20, ..Default::default() }).unwrap()
}

/// Has `work` done where such a request is answered, and returns what came of it.
fn on_own_thread<T: Send + 'static>(embedder: &Embedder, answered: Answered, work: fn(&Embedder) -> T) -> T {
    let options = EmbedOptions::default();
    let long = "at hand ".repeat(20_000);
    embedder.embed_one(&long).unwrap();
    let submit = |attempt: u32| -> Pending<Embedding> {
        match answered {
            // Another text each time: the vector of one that was computed is at hand from then on.
            Answered::Computed => embedder.submit_one(format!("a text of some words, {attempt}"), &options),
            Answered::AtHand => embedder.submit_one(&long, &options),
            Answered::Late => {
                // Longer each time: on a busy machine time may be over before the result is asked for.
                let timeout = Some(Duration::from_millis(5) * (attempt + 1));
                embedder.submit_one("late ".repeat(200_000), &EmbedOptions { timeout, ..options.clone() })
            }
        }
    };
    let (done, is_done) = mpsc::channel();
    let waker = Waker::from(Arc::new(Does { embedder: embedder.clone(), work, done }));
    for attempt in 0..100 {
        let mut pending = submit(attempt);
        match Pin::new(&mut pending).poll(&mut Context::from_waker(&waker)) {
            // Where time was over while one before was asked for, its waker may have stopped the embedder all the same.
            Poll::Pending | Poll::Ready(Err(Error::Stopped { .. })) => {
                return is_done.recv_timeout(Duration::from_secs(120)).expect("it does not hang");
            }
            // Done before it is asked for, at times.
            Poll::Ready(_) => {}
        }
    }
    panic!("{answered:?}: each result was there before it was asked for")
}

#[test]
fn calls_are_errors_and_no_wait() {
    let embedder = load();
    for answered in ALL {
        let errors = on_own_thread(&embedder, answered, |embedder| {
            let options = EmbedOptions::default();
            [
                embedder.submit_one("another ".repeat(20_000), &options).wait().err(),
                embedder.embed_one("one more").err(),
                embedder.embed(["others"; 1000]).err(),
                embedder.embed_each(&["others"; 2], &options).err(),
                embedder.embed_token_ids(vec![vec![1]], &options).err(),
                embedder.embed_iter(["more"; 2], &options).find_map(Result::err),
                embedder.warm_up().err(),
            ]
        });
        for (index, error) in errors.iter().enumerate() {
            // Beside a thread that tokenises or keeps time, a result may be there before it is waited for.
            let may_be_there = error.is_none() && !matches!(answered, Answered::Computed);
            assert!(
                may_be_there || matches!(error, Some(Error::WaitsForItself)),
                "{answered:?} {index}: {error:?}"
            );
        }
    }
    assert_eq!(embedder.state(), State::Running);
    embedder.embed_one("on another thread").unwrap();
}

#[test]
fn shutting_down_waits_for_nobody() {
    for answered in ALL {
        let embedder = load();
        on_own_thread(&embedder, answered, |embedder| embedder.shut_down(Shutdown::Finish));
        embedder.shut_down(Shutdown::Finish);
        assert_eq!(embedder.state(), State::ShutDown);
    }
}
