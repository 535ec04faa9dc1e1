//! A request on its way, as its caller holds it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::{Convert, Finish, Shared};
use crate::engine::{Alarm, Caller, Ended, Outcome};
use crate::error::Error;

/// A request that was queued. It is a future, and can be waited for without a runtime, too.
///
/// As a future it needs no particular runtime: it wakes its task when the result is there or its timeout has passed.
/// Dropping it takes back the texts that are not running yet.
///
/// ```no_run
/// # async fn example(embedder: mlx_embed::Embedder) -> Result<(), mlx_embed::Error> {
/// let options = mlx_embed::EmbedOptions::default();
/// let embeddings = embedder.submit(&["one text", "another"], &options).await?;
/// assert_eq!(embeddings.len(), 2);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "dropping it takes the request back"]
pub struct Pending<R>(Answer<R>);

#[derive(Debug)]
enum Answer<R> {
    ToCome(Sent<R>),
    /// `None` once it has been taken.
    Here(Option<Result<R, Error>>),
}

/// A request that the engine has.
#[derive(Debug)]
struct Sent<R> {
    shared: Arc<Shared>,
    caller: Arc<Caller>,
    finish: Finish,
    convert: Convert<R>,
    /// What wakes the task that polls it.
    alarm: Option<Alarm>,
    answered: bool,
}

impl<R> Pending<R> {
    /// Of a request that is on its way.
    pub(super) fn of(shared: &Arc<Shared>, caller: Arc<Caller>, finish: Finish, convert: Convert<R>) -> Self {
        let shared = Arc::clone(shared);
        Self(Answer::ToCome(Sent { shared, caller, finish, convert, alarm: None, answered: false }))
    }

    /// A result that is there already, for tests of code that awaits one.
    ///
    /// ```
    /// use mlx_embed::{Embedding, Pending};
    ///
    /// let pending = Pending::ready(Ok(vec![Embedding::new(vec![0.6, 0.8])]));
    /// assert_eq!(pending.wait()?[0].vector, [0.6, 0.8]);
    /// # Ok::<(), mlx_embed::Error>(())
    /// ```
    pub fn ready(result: Result<R, Error>) -> Self {
        Self(Answer::Here(Some(result)))
    }

    /// Blocks until the result is there.
    ///
    /// # Errors
    /// Those of the call that made the request, such as [`Embedder::embed_with`](crate::Embedder::embed_with).
    ///
    /// # Panics
    /// When it was polled to its end before: the result has been taken.
    pub fn wait(self) -> Result<R, Error> {
        match self.0 {
            Answer::ToCome(sent) => sent.wait(),
            Answer::Here(result) => result.expect(TAKEN),
        }
    }

    /// Whether the result is there, so that waiting for it takes no time.
    pub fn is_done(&self) -> bool {
        match &self.0 {
            Answer::ToCome(sent) => sent.shared.engine.is_forked() || sent.caller.ticket.is_done(),
            Answer::Here(_) => true,
        }
    }
}

/// What someone did who is told this.
const TAKEN: &str = "a request was polled after its result had been taken";

impl<R> Sent<R> {
    fn wait(mut self) -> Result<R, Error> {
        assert!(!self.answered, "{TAKEN}");
        self.shared.engine.check_process()?;
        if self.shared.engine.is_own_thread() && !self.caller.ticket.is_done() {
            self.shared.engine.abandon(&self.caller);
            return self.answer(Err(Error::WaitsForItself));
        }
        match self.caller.ticket.wait(self.caller.deadline) {
            Some(outcomes) => self.answer(outcomes),
            None => self.late(),
        }
    }

    fn late(&mut self) -> Result<R, Error> {
        self.shared.engine.abandon(&self.caller);
        self.answer(Err(self.caller.too_late()))
    }

    fn answer(&mut self, outcomes: Result<Vec<Outcome>, Error>) -> Result<R, Error> {
        self.answered = true;
        if let Some(alarm) = self.alarm.take() {
            self.shared.engine.forget(alarm);
        }
        let ended = match &outcomes {
            Ok(_) => Ended::Done,
            Err(Error::QueueFull { .. }) => Ended::Refused,
            Err(Error::DeadlineExceeded { .. }) => Ended::Late,
            Err(_) => Ended::Failed,
        };
        self.shared.meters.request(ended, self.caller.arrived.elapsed());
        (self.convert)(outcomes?, &self.finish)
    }
}

/// # Panics
/// When polled again after it was ready.
impl<R> Future for Pending<R> {
    type Output = Result<R, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.get_mut().0 {
            Answer::ToCome(sent) => sent.poll(context),
            Answer::Here(result) => Poll::Ready(result.take().expect(TAKEN)),
        }
    }
}

/// Nothing in it is pinned.
impl<R> Unpin for Pending<R> {}

impl<R> Sent<R> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<R, Error>> {
        assert!(!self.answered, "{TAKEN}");
        if let Err(forked) = self.shared.engine.check_process() {
            self.answered = true;
            return Poll::Ready(Err(forked));
        }
        match self.caller.ticket.poll(context) {
            Poll::Ready(outcomes) => Poll::Ready(self.answer(outcomes)),
            Poll::Pending if self.caller.is_late() => Poll::Ready(self.late()),
            Poll::Pending => {
                if let (None, Some(deadline)) = (self.alarm, self.caller.deadline) {
                    self.alarm = self.shared.engine.wake_at(deadline, &self.caller);
                }
                Poll::Pending
            }
        }
    }
}

impl<R> Drop for Sent<R> {
    fn drop(&mut self) {
        if self.shared.engine.is_forked() {
            // It is the parent's still.
            return;
        }
        if let Some(alarm) = self.alarm.take() {
            self.shared.engine.forget(alarm);
        }
        if !self.answered {
            self.shared.engine.abandon(&self.caller);
            self.shared.meters.request(Ended::Cancelled, self.caller.arrived.elapsed());
        }
    }
}
