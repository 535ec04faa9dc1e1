//! Tickets by themselves. They are not in the module itself, which other tests compile with a model checker's locks.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use crate::engine::Ticket;

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn outcomes_come_in_the_texts_order() {
    let ticket: Ticket<&str, ()> = Ticket::new(2);
    ticket.settle(1, "b");
    assert!(!ticket.is_done());
    ticket.settle(0, "a");
    assert_eq!(ticket.wait(None), Some(Ok(vec!["a", "b"])));
}

#[test]
fn the_first_ending_counts() {
    let ticket: Ticket<&str, &str> = Ticket::new(2);
    ticket.settle(0, "a");
    ticket.fail("lost");
    ticket.settle(1, "b");
    ticket.fail("again");
    assert_eq!(ticket.wait(None), Some(Err("lost")));
}

#[test]
fn a_text_settled_twice_keeps_its_first_outcome() {
    let ticket: Ticket<u8, ()> = Ticket::new(2);
    ticket.settle(0, 1);
    ticket.settle(0, 2);
    assert!(!ticket.is_done());
    ticket.settle(1, 3);
    assert_eq!(ticket.wait(None), Some(Ok(vec![1, 3])));
}

#[test]
fn who_asks_again_does_not_wait() {
    let ticket: Ticket<u8, &str> = Ticket::new(2);
    ticket.fail("lost");
    assert_eq!(ticket.wait(None), Some(Err("lost")));
    assert!(ticket.is_done());
    ticket.settle(1, 3);
    assert_eq!(ticket.wait(Some(Instant::now())), Some(Ok(vec![])));
}

#[test]
fn a_request_without_texts_has_ended() {
    assert_eq!(Ticket::<u8, ()>::new(0).wait(None), Some(Ok(vec![])));
}

#[test]
fn a_request_without_texts_can_fail() {
    let ticket: Ticket<u8, &str> = Ticket::new(0);
    ticket.fail("no such prompt");
    assert_eq!(ticket.wait(None), Some(Err("no such prompt")));
}

#[test]
fn waiting_ends_at_the_deadline() {
    let ticket: Ticket<u8, ()> = Ticket::new(1);
    assert_eq!(ticket.wait(Some(Instant::now() + Duration::from_millis(5))), None);
}

#[test]
fn the_last_waker_is_woken_once() {
    let ticket: Ticket<u8, ()> = Ticket::new(1);
    let (first, last) = (Arc::new(Count::default()), Arc::new(Count::default()));
    for waker in [&first, &last] {
        let waker = Waker::from(Arc::clone(waker));
        assert!(ticket.poll(&mut Context::from_waker(&waker)).is_pending());
    }
    ticket.settle(0, 7);
    ticket.fail(());
    assert_eq!([first, last].map(|count| count.0.load(Ordering::Relaxed)), [0, 1]);
    let waker = Waker::noop();
    assert_eq!(ticket.poll(&mut Context::from_waker(waker)), Poll::Ready(Ok(vec![7])));
}
