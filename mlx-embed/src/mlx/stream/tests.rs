#![allow(clippy::unwrap_used, reason = "a test's helper fails its test")]

use super::*;

#[test]
fn streams_are_held_once_each() {
    let (a, b) = (Stream::cpu().unwrap(), Stream::cpu().unwrap());
    let both = a.held().and(b.held());
    assert_eq!(both.queues().len(), 2);
    assert_eq!(both.and(a.held()).queues().len(), 2);
    assert_eq!(b.held().and(&both).queues().len(), 2);
    assert_eq!(a.held().and(&Streams::default()).queues().len(), 1);
    assert_eq!(Streams::default().and(&Streams::default()).queues().len(), 0);
}
