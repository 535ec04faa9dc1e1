//! How jobs share threads. They are not in the module itself, which other tests compile with a model checker's locks.

use crate::engine::queue::QueueLane;
use crate::engine::turns::{Steps, Turns};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Named(char, QueueLane, bool);

impl Steps for Named {
    fn lane(&self) -> QueueLane {
        self.1
    }
    fn is_long(&self) -> bool {
        self.2
    }
}

fn query(name: char) -> Named {
    Named(name, QueueLane::Query, false)
}

fn bulk(name: char) -> Named {
    Named(name, QueueLane::Bulk, false)
}

/// Who has a turn, one after the other, each going to the end of its lane again.
fn order(turns: &Turns<Named>, count: usize) -> String {
    let mut order = String::new();
    for _ in 0..count {
        let (job, turn) = turns.next().unwrap();
        order.push(job.0);
        turns.done(turn);
        turns.push(job).unwrap();
    }
    order
}

#[test]
fn jobs_of_a_lane_go_on_side_by_side() {
    let turns = Turns::new(2);
    for name in ['a', 'b', 'c'] {
        turns.push(query(name)).unwrap();
    }
    assert_eq!(order(&turns, 7), "abcabca");
}

#[test]
fn queries_go_first_and_bulk_still_moves() {
    let turns = Turns::new(2);
    turns.push(bulk('B')).unwrap();
    turns.push(query('q')).unwrap();
    assert_eq!(order(&turns, 16), "qqqqqqqBqqqqqqqB");
}

#[test]
fn long_steps_leave_a_thread_to_the_others() {
    let turns = Turns::new(3);
    for name in ['1', '2', '3'] {
        turns.push(Named(name, QueueLane::Query, true)).unwrap();
    }
    let [first, second] = [(); 2].map(|()| turns.next().unwrap());
    assert_eq!((first.0.0, second.0.0), ('1', '2'));
    turns.push(bulk('b')).unwrap();
    let (short, turn) = turns.next().unwrap();
    assert_eq!(short.0, 'b', "the third long one waits, and a short one passes it");
    turns.done(turn);
    turns.done(first.1);
    assert_eq!(turns.next().unwrap().0.0, '3');
}

#[test]
fn the_end_hands_back_what_waits() {
    let turns = Turns::new(2);
    turns.push(query('a')).unwrap();
    turns.push(bulk('b')).unwrap();
    assert_eq!(turns.close(), [query('a'), bulk('b')]);
    assert!(turns.next().is_none());
    assert_eq!(turns.push(query('c')), Err(query('c')));
}
