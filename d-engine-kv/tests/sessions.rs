//! Sessions: commands that are proposed more than once and applied once.

#![allow(clippy::unwrap_used, reason = "a test binary: a failed unwrap is a failed test")]

#[allow(dead_code, reason = "shared with the other test binaries, which use the rest")]
mod support;

use d_engine_core::command::{KeySpan, KvDelete, SessionHeader};
use d_engine_core::{Entry, EntryKind, KvCommand, KvOutcome, KvReject, KvRequest, KvStore, StateMachine};
use d_engine_kv::KvStateMachine;
use d_engine_mem::MemKvStore;
use support::model::WINDOW;
use support::{apply, cas, delete, digest, put, value};

struct Replica {
    machine: KvStateMachine,
    index: u64,
}

impl Replica {
    fn new() -> Self {
        Self { machine: KvStateMachine::new(MemKvStore::new()).unwrap(), index: 0 }
    }

    fn entry(&mut self, command: &KvCommand, header: Option<SessionHeader>) -> Entry {
        self.index += 1;
        Entry::new(self.index, 1, EntryKind::Command, KvRequest::new(command.clone(), header).encode())
    }

    fn run(&mut self, command: &KvCommand, header: Option<SessionHeader>) -> KvOutcome {
        let entry = self.entry(command, header);
        KvOutcome::decode(&apply(&self.machine, vec![entry]).unwrap()[0].response).unwrap()
    }

    fn open(&mut self) -> u64 {
        match self.run(&KvCommand::SessionOpen, None) {
            KvOutcome::SessionOpened { session, window: WINDOW } => session,
            other => panic!("{other:?}"),
        }
    }
}

fn header(session: u64, sequence: u64, lowest: u64) -> Option<SessionHeader> {
    Some(SessionHeader { session, sequence, lowest })
}

fn expired(session: u64) -> KvOutcome {
    KvOutcome::Rejected(KvReject::SessionExpired { session })
}

#[test]
fn a_retried_command_gives_the_first_result_and_does_nothing() {
    let mut replica = Replica::new();
    let session = replica.open();
    assert_eq!(session, 1, "the id is the index of the entry");
    let first = replica.run(&put("a", "1"), header(session, 1, 1));
    assert_eq!(first, KvOutcome::Put { revision: 1 });
    replica.run(&put("a", "2"), None);
    assert_eq!(replica.run(&put("a", "1"), header(session, 1, 1)), first);
    assert_eq!(value(&replica.machine, "a"), Some("2".into()));

    let both = [replica.entry(&delete("a"), header(session, 2, 1)), replica.entry(&delete("a"), header(session, 2, 1))];
    let results = apply(&replica.machine, both.to_vec()).unwrap();
    let deleted = KvOutcome::Deleted { revision: 3, existed: true };
    assert!(results.iter().all(|result| KvOutcome::decode(&result.response).unwrap() == deleted), "in one chunk, too");
}

#[test]
fn numbers_come_in_any_order_within_the_window() {
    let mut replica = Replica::new();
    let session = replica.open();
    for sequence in [3, 1, 2, WINDOW] {
        assert!(matches!(replica.run(&put("k", "v"), header(session, sequence, 1)), KvOutcome::Put { .. }));
    }
    let before = value(&replica.machine, "k");
    let outside = |sequence, lowest| {
        KvOutcome::Rejected(KvReject::OutOfWindow { sequence, lowest, highest: lowest + WINDOW - 1 })
    };
    assert_eq!(replica.run(&put("k", "w"), header(session, WINDOW + 1, 1)), outside(WINDOW + 1, 1));
    assert_eq!(value(&replica.machine, "k"), before);
    assert!(matches!(replica.run(&put("k", "w"), header(session, WINDOW + 1, 2)), KvOutcome::Put { .. }));
    assert_eq!(replica.run(&put("k", "x"), header(session, 1, 1)), outside(1, 2), "its result is not kept any more");
}

#[test]
fn a_refusal_is_a_result_too() {
    let mut replica = Replica::new();
    let session = replica.open();
    let revoke = KvCommand::LeaseRevoke { id: 5 };
    let refused = KvOutcome::Rejected(KvReject::LeaseNotFound { id: 5 });
    assert_eq!(replica.run(&revoke, header(session, 1, 1)), refused);
    replica.run(&KvCommand::LeaseGrant { id: 5, ttl_ms: 10 }, None);
    assert_eq!(replica.run(&revoke, header(session, 1, 1)), refused);
    assert!(matches!(replica.run(&revoke, header(session, 2, 1)), KvOutcome::LeasesEnded { leases: 1, .. }));
}

#[test]
fn a_session_that_is_gone_applies_nothing() {
    let mut replica = Replica::new();
    let session = replica.open();
    assert_eq!(replica.run(&put("a", "1"), header(99, 1, 1)), expired(99));
    replica.run(&put("a", "1"), header(session, 1, 1));
    let close = KvCommand::SessionClose { session };
    assert_eq!(replica.run(&close, None), KvOutcome::SessionClosed { existed: true });
    assert_eq!(replica.run(&close, None), KvOutcome::SessionClosed { existed: false });
    assert_eq!(replica.run(&put("a", "2"), header(session, 1, 1)), expired(session));
    assert_eq!(value(&replica.machine, "a"), Some("1".into()));
}

#[test]
fn the_limit_evicts_those_applied_to_least_recently() {
    let mut replica = Replica::new();
    let set_limit = |limit| KvCommand::SessionLimit { limit };
    assert_eq!(replica.run(&set_limit(2), None), KvOutcome::SessionLimitSet { limit: 2, evicted: 0 });
    let (first, second) = (replica.open(), replica.open());
    replica.run(&put("a", "1"), header(first, 1, 1));
    let third = replica.open();
    assert_eq!(replica.run(&put("a", "2"), header(second, 1, 1)), expired(second));
    // Asking again counts as a use, so the third one goes next.
    replica.run(&put("a", "1"), header(first, 1, 1));
    assert_eq!(replica.run(&set_limit(1), None), KvOutcome::SessionLimitSet { limit: 1, evicted: 1 });
    assert_eq!(replica.run(&put("a", "2"), header(third, 1, 1)), expired(third));
    assert!(matches!(replica.run(&put("a", "2"), header(first, 2, 1)), KvOutcome::Put { .. }));
    let zero = replica.run(&set_limit(0), None);
    assert!(matches!(zero, KvOutcome::Rejected(KvReject::Malformed { .. })));
}

#[test]
fn a_session_that_opens_another_is_not_mixed_up_with_it() {
    let mut replica = Replica::new();
    let first = replica.open();
    let opened = replica.run(&KvCommand::SessionOpen, header(first, 1, 1));
    let KvOutcome::SessionOpened { session: second, .. } = opened else { panic!("{opened:?}") };
    assert_eq!(replica.run(&KvCommand::SessionOpen, header(first, 1, 1)), opened, "opened once");
    for session in [first, second] {
        assert!(matches!(replica.run(&put("a", "1"), header(session, 2, 1)), KvOutcome::Put { .. }));
    }
    assert_eq!(
        replica.run(&KvCommand::SessionLimit { limit: 1 }, None),
        KvOutcome::SessionLimitSet { limit: 1, evicted: 1 }
    );
    assert_eq!(replica.run(&put("a", "2"), header(first, 3, 1)), expired(first));
}

#[test]
fn sessions_survive_a_restart_and_leave_nothing_behind() {
    let store = MemKvStore::new();
    let mut replica = Replica { machine: KvStateMachine::new(store.clone()).unwrap(), index: 0 };
    let session = replica.open();
    let first = replica.run(&put("a", "1"), header(session, 1, 1));
    replica.run(&put("a", "2"), header(session, 2, 1));
    let before = digest(&replica.machine);
    replica.machine = KvStateMachine::new(store.clone()).unwrap();
    assert_eq!(digest(&replica.machine), before);
    assert_eq!(replica.run(&put("a", "1"), header(session, 1, 1)), first);
    replica.run(&KvCommand::SessionClose { session }, None);
    replica.run(&KvCommand::DeleteRange(KvDelete::new(KeySpan::ALL, false)), None);
    let left = store.scan(d_engine_core::KeyRange::ALL, 10, d_engine_core::Direction::Forward).unwrap();
    assert_eq!(left.len(), 1, "the bookkeeping record alone");
    assert!(replica.machine.is_empty());
}

#[test]
fn short_answers_stand_in_the_session_and_long_ones_apart_and_both_are_given_again_after_a_restart() {
    let store = MemKvStore::new();
    let mut replica = Replica { machine: KvStateMachine::new(store.clone()).unwrap(), index: 0 };
    let session = replica.open();
    let records = || store.scan(d_engine_core::KeyRange::ALL, 100, d_engine_core::Direction::Forward).unwrap().len();
    let empty = records();
    let long = cas("a", Some("other"), Some("new"));
    replica.run(&put("a", &"v".repeat(100)), header(session, 1, 1));
    assert_eq!(records(), empty + 1, "the key alone");
    let refused = replica.run(&long, header(session, 2, 1));
    assert!(refused.encode().len() > 100, "it says what the value is");
    assert_eq!(records(), empty + 2, "the key and the long answer");
    let short = replica.run(&put("b", "1"), header(session, 3, 1));
    let before = digest(&replica.machine);
    replica.machine = KvStateMachine::new(store.clone()).unwrap();
    assert_eq!(digest(&replica.machine), before);
    assert_eq!(replica.run(&long, header(session, 2, 1)), refused);
    assert_eq!(replica.run(&put("b", "1"), header(session, 3, 1)), short);
    // Answered: neither is kept any more.
    replica.run(&delete("b"), header(session, 4, 4));
    assert_eq!(records(), empty + 1, "the key alone");
    let outside = KvReject::OutOfWindow { sequence: 3, lowest: 4, highest: 3 + WINDOW };
    assert_eq!(replica.run(&put("b", "1"), header(session, 3, 3)), KvOutcome::Rejected(outside));
}
