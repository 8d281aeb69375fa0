//! Bounds, and what may wait.

use super::*;
use crate::inbox::waiting::CROWD_MIN;
use d_engine_raft::{Body, Input};

fn message() -> Message {
    Message { term: 1, incarnation: 1, group: 0, body: Body::FormationProbe }
}

const BOUNDS: Bounds = Bounds { callers: 2, bytes: 10, messages: 2 };

fn later() -> tokio::time::Instant {
    tokio::time::Instant::now() + std::time::Duration::from_secs(60)
}

fn take_all(inbox: &Inbox, taken: &mut Vec<Inbound>) {
    inbox.take_all(taken);
    let mut proposals = Vec::new();
    inbox.take_proposals(&mut proposals, 0);
    taken.append(&mut proposals);
}

#[test]
fn a_call_beyond_the_bound_is_told_at_once_until_another_ends() {
    let inbox = Inbox::new(BOUNDS);
    let (first, second) = (inbox.enter(0).unwrap(), inbox.enter(0).unwrap());
    assert_eq!(inbox.enter(0).err(), Some(NotTaken::Busy));
    drop(first);
    let _third = inbox.enter(0).unwrap();
    assert_eq!(inbox.enter(0).err(), Some(NotTaken::Busy));
    drop(second);
    assert_eq!(inbox.calls(), 1);
}

#[test]
fn calls_hold_only_so_many_bytes() {
    let inbox = Inbox::new(BOUNDS);
    let place = inbox.enter(6).unwrap();
    assert_eq!(inbox.enter(5).err(), Some(NotTaken::Busy));
    let _fits = inbox.enter(4).unwrap();
    drop(place);
    let _fits_now = inbox.enter(6).unwrap();
    assert_eq!(inbox.enter(usize::MAX).err(), Some(NotTaken::Busy));
}

#[test]
fn a_call_that_ended_without_an_answer_keeps_no_place_while_the_node_decides() {
    let inbox = Inbox::new(Bounds { callers: 1, ..BOUNDS });
    let place = inbox.enter(1).unwrap();
    let answer = inbox.propose(Bytes::from_static(b"c")).unwrap();
    let mut taken = Vec::new();
    take_all(&inbox, &mut taken);
    drop((place, answer));
    let Some(Inbound::Propose { caller, .. }) = taken.pop() else { panic!("no proposal") };
    assert!(caller.has_gone());
    let _next = inbox.enter(1).unwrap();
    let _taken_in = inbox.propose(Bytes::from_static(b"d")).unwrap();
}

#[test]
fn what_calls_leave_in_the_queue_is_bounded_as_they_are() {
    let inbox = Inbox::new(BOUNDS);
    for command in [&b"12345"[..], b"1234"] {
        drop(inbox.propose(Bytes::from_static(command)).unwrap());
    }
    assert_eq!(inbox.propose(Bytes::new()).unwrap_err(), NotTaken::Busy, "two wait");
    let mut taken = Vec::new();
    take_all(&inbox, &mut taken);
    drop(inbox.propose(Bytes::from_static(b"12345")).unwrap());
    assert_eq!(inbox.propose(Bytes::from_static(b"123456")).unwrap_err(), NotTaken::Busy, "too many bytes");
}

#[test]
fn messages_beyond_the_bound_are_dropped_and_completions_never() {
    let inbox = Inbox::new(BOUNDS);
    assert!((0..5).all(|from| inbox.deliver(from, vec![message()])));
    (0..5).for_each(|seq| inbox.complete(Input::Persisted { seq }));
    let mut taken = Vec::new();
    take_all(&inbox, &mut taken);
    assert_eq!(taken.len(), 2 + 5);
    assert!(inbox.deliver(9, vec![message(), message(), message()]));
    taken.clear();
    take_all(&inbox, &mut taken);
    assert_eq!(taken.len(), 2, "taking makes room");
}

const WAITS: Outlook =
    Outlook { proposals_min: 0, proposals_at: None, reads_wait: true, applied_waits: true, wake_at: None };

#[test]
fn what_may_wait_is_urgent_once_it_may_wait_no_longer() {
    let inbox = Inbox::new(Bounds { callers: 9, bytes: 9, messages: 9 });
    let is_urgent = || inbox.waiting().is_urgent;
    inbox.set_outlook(Outlook { proposals_min: 2, ..WAITS });
    let _first = inbox.propose(Bytes::new()).unwrap();
    let _read = inbox.read(false).unwrap();
    inbox.complete(Input::Applied { index: 1 });
    assert!(!is_urgent());
    let _second = inbox.propose(Bytes::new()).unwrap();
    assert!(is_urgent(), "there are two");
    let mut taken = Vec::new();
    inbox.take_all(&mut taken);
    assert_eq!((taken.len(), is_urgent()), (2, false), "proposals are taken apart");
    inbox.take_proposals(&mut Vec::new(), 3);
    inbox.set_outlook(WAITS);
    assert!(is_urgent(), "not so many are needed any more");
    taken.clear();
    inbox.take_proposals(&mut taken, 2);
    assert_eq!(taken.len(), 2);
    inbox.take_all(&mut Vec::new());

    for no_more in [Outlook { reads_wait: false, ..WAITS }, Outlook { applied_waits: false, ..WAITS }] {
        inbox.set_outlook(WAITS);
        let _read = inbox.read(false).unwrap();
        inbox.complete(Input::Applied { index: 1 });
        assert!(!is_urgent());
        inbox.set_outlook(no_more);
        assert!(is_urgent());
        inbox.take_all(&mut Vec::new());
    }
    inbox.set_outlook(WAITS);
    let _by_lease = inbox.read(true).unwrap();
    assert!(is_urgent(), "a lease may answer it at once");
    inbox.take_all(&mut Vec::new());
    inbox.complete(Input::Persisted { seq: 1 });
    assert!(is_urgent(), "a completion never waits");
}

#[test]
fn of_a_crowd_one_gathers_what_the_others_bring_and_drives_even_if_it_goes_away() {
    let inbox = Inbox::new(Bounds { callers: 99, bytes: 99, messages: 9 });
    let is_urgent = || inbox.waiting().is_urgent;
    let (_alone, gathering) = inbox.propose_along(Bytes::new(), later()).unwrap();
    assert!(gathering.is_none() && is_urgent(), "who is alone waits for nobody");
    take_all(&inbox, &mut Vec::new());

    let _crowd: Vec<_> = (0..2 * CROWD_MIN).map(|_| inbox.enter(0).unwrap()).collect();
    let (_first, gathering) = inbox.propose_along(Bytes::new(), later()).unwrap();
    let (_second, other) = inbox.propose_along(Bytes::new(), later()).unwrap();
    let (_third, another) = inbox.read_along(false, later()).unwrap();
    inbox.set_outlook(Outlook { reads_wait: false, ..WAITS });
    assert!(gathering.is_some() && other.is_none() && another.is_none() && !is_urgent());
    drop(gathering);
    assert!(is_urgent());
    let mut taken = Vec::new();
    take_all(&inbox, &mut taken);
    assert_eq!((taken.len(), is_urgent()), (3, false));

    let calls: Vec<_> = (0..CROWD_MIN).map(|_| inbox.propose_along(Bytes::new(), later()).unwrap()).collect();
    assert!(calls[0].1.is_some() && is_urgent(), "half of the crowd is enough");
    take_all(&inbox, &mut Vec::new());
    drop(calls);
    assert!(!is_urgent());

    let (_by_lease, gathering) = inbox.read_along(true, later()).unwrap();
    assert!(gathering.is_none() && is_urgent(), "a lease may answer it at once");
    take_all(&inbox, &mut Vec::new());
    let past = Instant::now();
    inbox.set_outlook(Outlook { proposals_min: 9, proposals_at: Some(past), ..WAITS });
    let (_late, gathering) = inbox.propose_along(Bytes::new(), later()).unwrap();
    assert!(!is_urgent());
    drop(gathering.unwrap());
    assert!(is_urgent(), "it waits no longer than any other");
    take_all(&inbox, &mut Vec::new());
    inbox.close();
    assert!(matches!(inbox.propose_along(Bytes::new(), later()), Err(NotTaken::Closed)));
}

#[test]
fn the_drivers_own_thread_is_woken_only_for_what_comes_earlier() {
    let inbox = Inbox::new(BOUNDS);
    let now = Instant::now();
    let in_ms = |ms| Some(now + std::time::Duration::from_millis(ms));
    let sleeps_until = |until| inbox.waiting().sleeps_until = Some(until);
    let is_woken = || inbox.waiting().sleeps_until.is_none();
    sleeps_until(in_ms(50_000));
    inbox.set_outlook(Outlook { wake_at: in_ms(60_000), proposals_min: 9, proposals_at: in_ms(20_000), ..WAITS });
    assert!(!is_woken(), "no proposal waits");
    let _waits = inbox.propose(Bytes::new()).unwrap();
    assert!(is_woken(), "one does");
    sleeps_until(None);
    inbox.set_outlook(Outlook { wake_at: in_ms(70_000), ..WAITS });
    assert!(is_woken());
}

#[test]
fn the_drivers_own_thread_is_woken_for_what_a_crowd_leaves_too() {
    let inbox = Inbox::new(Bounds { callers: 99, bytes: 99, messages: 9 });
    let _crowd: Vec<_> = (0..2 * CROWD_MIN).map(|_| inbox.enter(0).unwrap()).collect();
    let in_ms = |ms| Some(Instant::now() + std::time::Duration::from_millis(ms));
    let sleeps_until = |until| inbox.waiting().sleeps_until = Some(until);
    let is_woken = || inbox.waiting().sleeps_until.is_none();
    sleeps_until(in_ms(50_000));
    inbox.set_outlook(Outlook { wake_at: in_ms(60_000), proposals_min: 9, proposals_at: in_ms(20_000), ..WAITS });
    let (_waits, gathering) = inbox.propose_along(Bytes::new(), later()).unwrap();
    assert!(gathering.is_none() && is_woken(), "it waits for a group");
    inbox.take_proposals(&mut Vec::new(), 0);
    inbox.set_outlook(Outlook { wake_at: in_ms(60_000), ..WAITS });
    sleeps_until(in_ms(50_000));
    let (_first, gathering) = inbox.propose_along(Bytes::new(), later()).unwrap();
    assert!(gathering.is_some() && is_woken(), "its caller may never come back");
    // A round that somebody else drives ends the gathering, and the next one is not that of who comes back late.
    take_all(&inbox, &mut Vec::new());
    let (_second, next) = inbox.propose_along(Bytes::new(), later()).unwrap();
    assert!(next.is_some());
    drop(gathering);
    assert!(!inbox.waiting().is_urgent);
    drop(next);
    assert!(inbox.waiting().is_urgent);
}

#[test]
fn a_closed_inbox_says_so() {
    let inbox = Inbox::new(BOUNDS);
    inbox.close();
    assert_eq!(inbox.read(false).unwrap_err(), NotTaken::Closed);
}

#[test]
fn calls_end_in_time_after_the_drivers_end_whoever_has_them() {
    let inbox = Inbox::new(BOUNDS);
    let soon = tokio::time::Instant::now() + std::time::Duration::from_millis(20);
    let (read, _) = inbox.read_along(false, soon).unwrap();
    let (write, _) = inbox.propose_along(Bytes::new(), soon).unwrap();
    let mut taken = Vec::new();
    take_all(&inbox, &mut taken);
    inbox.close();
    inbox.end_calls();
    assert!(tokio::time::Instant::now() >= soon);
    assert_eq!(read.wait().unwrap_err(), NoAnswer::Late);
    assert_eq!(write.wait().unwrap_err(), NoAnswer::Late);
    assert_eq!(taken.len(), 2, "nobody has answered them");
}

#[test]
fn the_drivers_own_thread_is_woken_in_time_for_a_call_that_may_be_late() {
    let inbox = Inbox::new(BOUNDS);
    inbox.set_outlook(WAITS);
    inbox.waiting().sleeps_until = Some(None);
    let _waits = inbox.read_along(false, later()).unwrap();
    assert!(inbox.waiting().sleeps_until.is_none());
    assert_eq!(inbox.waiting().wake_at().map(|at| at <= later().into_std()), Some(true));
}

#[test]
fn whatever_is_taken_makes_room_for_as_much() {
    let inbox = Inbox::new(BOUNDS);
    for _ in 0..3 {
        let _write = inbox.propose(Bytes::from_static(b"1234567890")).unwrap();
        assert!(inbox.deliver(9, vec![message()]));
        inbox.complete(Input::Persisted { seq: 1 });
        let _transfer = inbox.transfer(2).unwrap();
        assert_eq!(inbox.read(false).unwrap_err(), NotTaken::Busy);
        take_all(&inbox, &mut Vec::new());
    }
}
