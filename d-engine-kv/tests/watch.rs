//! Watches: every change once and in order, whatever the chunks, the place to begin and the speed of the watcher.

#![allow(clippy::unwrap_used, reason = "a test binary: a failed unwrap is a failed test")]

#[allow(dead_code, reason = "shared with the other test binaries, which use the rest")]
mod support;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use d_engine_core::command::{KeySpan, KvChange, KvDelete, KvPut, KvWatch, LeaseChoice, WatchEnd, WatchMessage};
use d_engine_core::{Error, KvCommand, KvRecord, Membership, SnapshotMetadata, StateMachine, WatchSink};
use d_engine_kv::{KvStateMachine, SNAPSHOT_FILE};
use d_engine_mem::MemKvStore;
use proptest::collection::vec;
use proptest::prelude::*;
use support::{apply, command, delete, entries, outcomes, put, run};

/// Where a watcher's messages wait.
#[derive(Default)]
struct Mailbox {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Default)]
struct State {
    messages: VecDeque<WatchMessage>,
    waker: Option<Waker>,
}

/// Takes `capacity` messages; says when it is full, or not.
struct Sink {
    mailbox: Arc<Mailbox>,
    capacity: usize,
    says_so: bool,
}

impl WatchSink for Sink {
    fn offer(&mut self, event: Bytes) -> bool {
        let mut state = self.mailbox.state.lock().unwrap();
        if state.messages.len() >= self.capacity {
            assert!(!self.says_so, "nothing is offered to a sink that is not ready");
            return false;
        }
        state.messages.push_back(WatchMessage::decode_bytes(event).unwrap());
        self.mailbox.arrived.notify_all();
        true
    }

    fn is_ready(&self) -> bool {
        !self.says_so || self.mailbox.state.lock().unwrap().messages.len() < self.capacity
    }

    fn set_waker(&mut self, waker: Waker) {
        self.mailbox.state.lock().unwrap().waker = Some(waker);
    }

    fn end(self: Box<Self>, event: Bytes) {
        let mut state = self.mailbox.state.lock().unwrap();
        state.messages.push_back(WatchMessage::decode_bytes(event).unwrap());
        self.mailbox.arrived.notify_all();
    }
}

impl Mailbox {
    fn next(&self) -> WatchMessage {
        let state = self.state.lock().unwrap();
        let (mut state, timeout) =
            self.arrived.wait_timeout_while(state, Duration::from_secs(60), |state| state.messages.is_empty()).unwrap();
        assert!(!timeout.timed_out(), "no message has come");
        let message = state.messages.pop_front().unwrap();
        let waker = state.waker.clone();
        drop(state);
        waker.unwrap_or(Waker::noop().clone()).wake();
        message
    }

    fn is_empty(&self) -> bool {
        self.state.lock().unwrap().messages.is_empty()
    }

    /// Waits until the watch has begun, and says at which revision.
    fn created(&self) -> u64 {
        match self.next() {
            WatchMessage::Created { revision } => revision,
            other => panic!("{other:?}"),
        }
    }

    /// The next `count` changes with their revisions.
    fn changes(&self, count: usize) -> Vec<(u64, KvChange)> {
        let mut found = Vec::new();
        while found.len() < count {
            match self.next() {
                WatchMessage::Changes { revision, changes, .. } => {
                    assert!(!changes.is_empty());
                    found.extend(changes.into_iter().map(|change| (revision, change)));
                }
                other => panic!("{other:?} behind {} changes", found.len()),
            }
        }
        assert_eq!(found.len(), count);
        found
    }

    fn end(&self) -> WatchEnd {
        loop {
            if let WatchMessage::Ended(end) = self.next() {
                return end;
            }
        }
    }
}

fn machine() -> KvStateMachine {
    KvStateMachine::new(MemKvStore::new()).unwrap()
}

fn from(span: KeySpan, revision: u64) -> KvWatch {
    let mut watch = KvWatch::new(span);
    watch.from_revision = revision;
    watch
}

fn watch_with(machine: &KvStateMachine, watch: &KvWatch, capacity: usize, says_so: bool) -> Arc<Mailbox> {
    let mailbox = Arc::new(Mailbox::default());
    let sink = Sink { mailbox: mailbox.clone(), capacity, says_so };
    machine.watch(watch.encode(), Box::new(sink)).unwrap();
    mailbox
}

fn watch(machine: &KvStateMachine, watch: &KvWatch) -> Arc<Mailbox> {
    watch_with(machine, watch, usize::MAX, false)
}

fn put_of(key: &str, value: &str, create: u64, modified: u64, version: u64) -> (u64, KvChange) {
    let record = KvRecord::new(key.to_owned(), value.to_owned(), create, modified, version);
    (modified, KvChange::Put { record, prev: None })
}

fn deleted(key: &str, revision: u64) -> (u64, KvChange) {
    (revision, KvChange::Delete { key: Bytes::copy_from_slice(key.as_bytes()), prev: None })
}

#[test]
fn a_key_a_prefix_and_a_range_see_their_changes_and_no_others() {
    let machine = machine();
    outcomes(&machine, 1, &[put("before", "x")]);
    let key = watch(&machine, &KvWatch::new(KeySpan::key("ab")));
    let prefix = watch(&machine, &KvWatch::new(KeySpan::prefix("a")));
    let range = watch(&machine, &KvWatch::new(KeySpan::new("aa", Some("b".into()))));
    let all = watch(&machine, &KvWatch::new(KeySpan::ALL));
    for mailbox in [&key, &prefix, &range, &all] {
        assert_eq!(mailbox.created(), 1);
    }
    outcomes(&machine, 2, &[put("ab", "1"), put("a", "2"), put("ab", "3"), put("b", "4"), delete("ab"), delete("ab")]);
    let changes = [
        put_of("ab", "1", 2, 2, 1),
        put_of("a", "2", 3, 3, 1),
        put_of("ab", "3", 2, 4, 2),
        put_of("b", "4", 5, 5, 1),
        deleted("ab", 6),
    ];
    let of = |places: &[usize]| places.iter().map(|place| changes[*place].clone()).collect::<Vec<_>>();
    assert_eq!(key.changes(3), of(&[0, 2, 4]));
    assert_eq!(prefix.changes(4), of(&[0, 1, 2, 4]));
    assert_eq!(range.changes(3), of(&[0, 2, 4]));
    assert_eq!(all.changes(5), of(&[0, 1, 2, 3, 4]));
}

#[test]
fn the_record_before_comes_if_it_is_asked_for() {
    let machine = machine();
    let mut with_prev = KvWatch::new(KeySpan::key("k"));
    with_prev.prev = true;
    let mailbox = watch(&machine, &with_prev);
    mailbox.created();
    outcomes(&machine, 1, &[put("k", "1"), put("k", "2"), delete("k")]);
    let prevs: Vec<_> = mailbox
        .changes(3)
        .into_iter()
        .map(|(_, change)| match change {
            KvChange::Put { prev, .. } | KvChange::Delete { prev, .. } => prev.map(|record| record.value),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(prevs, [None, Some("1".into()), Some("2".into())]);
}

#[test]
fn a_command_s_changes_come_together_also_those_of_a_lease() {
    let machine = machine();
    let mailbox = watch(&machine, &KvWatch::new(KeySpan::ALL));
    mailbox.created();
    let attach = |key: &'static str| KvCommand::PutWith(KvPut::new(key, "v").lease(LeaseChoice::Attach(7)));
    let grant = KvCommand::LeaseGrant { id: 7, ttl_ms: 10 };
    outcomes(&machine, 1, &[grant, attach("b"), attach("a"), put("c", "v"), KvCommand::LeaseRevoke { id: 7 }]);
    mailbox.changes(3);
    let WatchMessage::Changes { revision: 4, changes, more: false } = mailbox.next() else { panic!("not the changes") };
    let keys: Vec<_> = changes.iter().map(|change| change.key().clone()).collect();
    assert_eq!(keys, ["a", "b"]);
    outcomes(&machine, 6, &[put("d", "v"), KvCommand::DeleteRange(KvDelete::new(KeySpan::ALL, false))]);
    mailbox.changes(1);
    assert!(matches!(mailbox.next(), WatchMessage::Changes { revision: 6, changes, .. } if changes.len() == 2));
}

#[test]
fn a_large_command_s_changes_come_in_several_messages() {
    let machine = machine();
    let large = "x".repeat(300_000);
    outcomes(&machine, 1, &(0..8).map(|n| put(&format!("k{n}"), &large)).collect::<Vec<_>>());
    let mut with_prev = KvWatch::new(KeySpan::ALL);
    with_prev.prev = true;
    let mailbox = watch(&machine, &with_prev);
    mailbox.created();
    outcomes(&machine, 9, &[KvCommand::DeleteRange(KvDelete::new(KeySpan::ALL, false))]);
    let mut found = Vec::new();
    while found.iter().map(|(changes, _)| changes).sum::<usize>() < 8 {
        let WatchMessage::Changes { revision: 9, changes, more } = mailbox.next() else { panic!("not the changes") };
        found.push((changes.len(), more));
    }
    assert_eq!(found, [(4, true), (4, false)]);
}

#[test]
fn a_past_revision_is_replayed_and_a_future_one_is_waited_for() {
    let machine = machine();
    outcomes(&machine, 1, &(1..=5).map(|n| put("k", &n.to_string())).collect::<Vec<_>>());
    let past = watch(&machine, &from(KeySpan::key("k"), 3));
    let future = watch(&machine, &from(KeySpan::key("k"), 8));
    assert_eq!((past.created(), future.created()), (5, 5));
    outcomes(&machine, 6, &(6..=9).map(|n| put("k", &n.to_string())).collect::<Vec<_>>());
    let revisions = |found: Vec<(u64, KvChange)>| found.into_iter().map(|(revision, _)| revision).collect::<Vec<_>>();
    assert_eq!(revisions(past.changes(7)), [3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(revisions(future.changes(2)), [8, 9]);
}

#[test]
fn revisions_that_are_not_kept_are_refused_with_the_first_that_is() {
    let machine = machine().with_watch_history(4_000);
    outcomes(&machine, 1, &(1..=100).map(|n| put("k", &n.to_string())).collect::<Vec<_>>());
    let WatchEnd::Compacted { first_revision } = watch(&machine, &from(KeySpan::ALL, 1)).end() else {
        panic!("not compacted")
    };
    assert!((50..100).contains(&first_revision), "{first_revision}");
    assert_eq!(watch(&machine, &from(KeySpan::ALL, first_revision - 1)).end(), WatchEnd::Compacted { first_revision });
    let kept = watch(&machine, &from(KeySpan::ALL, first_revision));
    kept.created();
    assert_eq!(kept.changes(101 - first_revision as usize)[0].0, first_revision);

    let store = MemKvStore::new();
    outcomes(&KvStateMachine::new(store.clone()).unwrap(), 1, &[put("k", "1")]);
    let restarted = KvStateMachine::new(store).unwrap();
    let compacted = WatchEnd::Compacted { first_revision: 2 };
    assert_eq!(watch(&restarted, &from(KeySpan::ALL, 1)).end(), compacted, "a restart forgets");
    assert_eq!(watch(&restarted, &from(KeySpan::ALL, 2)).created(), 1);
}

#[test]
fn a_full_sink_that_says_so_loses_nothing() {
    let machine = machine();
    let mailbox = watch_with(&machine, &KvWatch::new(KeySpan::ALL), 2, true);
    mailbox.created();
    for chunk in 0..20 {
        let first = 1 + chunk * 50;
        let commands: Vec<_> = (first..first + 50).map(|n| put(&format!("k{}", n % 7), &n.to_string())).collect();
        outcomes(&machine, first, &commands);
    }
    let found = mailbox.changes(1_000);
    assert!(found.iter().map(|(revision, _)| *revision).eq(1..=1_000));
    outcomes(&machine, 1_001, &[put("k", "again")]);
    assert_eq!(mailbox.changes(1)[0].0, 1_001);
}

#[test]
fn a_slow_watcher_is_told_why_it_is_ended_and_holds_nobody_up() {
    let machine = machine().with_watch_history(10_000);
    let deaf = watch_with(&machine, &KvWatch::new(KeySpan::ALL), 2, false);
    let slow = watch_with(&machine, &KvWatch::new(KeySpan::ALL), 2, true);
    let quick = watch(&machine, &KvWatch::new(KeySpan::key("k9")));
    quick.created();
    for n in 1..=1_000 {
        outcomes(&machine, n, &[put(&format!("k{}", n % 10), "some value")]);
    }
    let mut last = 0;
    let next_revision = loop {
        match deaf.next() {
            WatchMessage::Created { .. } => {}
            WatchMessage::Changes { revision, .. } => last = revision,
            WatchMessage::Ended(WatchEnd::Slow { next_revision }) => break next_revision,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(next_revision, last + 1);
    let mut told = 0;
    let next_revision = loop {
        match slow.next() {
            WatchMessage::Created { .. } => {}
            WatchMessage::Changes { revision, .. } => told = revision,
            WatchMessage::Ended(WatchEnd::Slow { next_revision }) => break next_revision,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(next_revision, told + 1);
}

#[test]
fn a_watch_from_the_past_that_was_told_nothing_ends_where_it_wanted_to_begin() {
    let machine = machine().with_watch_history(10_000);
    for n in 1..=10 {
        outcomes(&machine, n, &[put("k", "some value")]);
    }
    let deaf = watch_with(&machine, &from(KeySpan::ALL, 3), 1, false);
    for n in 11..=1_000 {
        outcomes(&machine, n, &[put("k", "some value")]);
    }
    assert!(matches!(deaf.next(), WatchMessage::Created { .. }));
    let ended = deaf.next();
    assert!(matches!(ended, WatchMessage::Ended(WatchEnd::Slow { next_revision: 3 })), "{ended:?}");
}

#[test]
fn progress_is_told_to_those_who_ask() {
    let machine = machine();
    let mut watched = KvWatch::new(KeySpan::key("quiet"));
    watched.progress = true;
    let asks = watch(&machine, &watched);
    let does_not = watch(&machine, &KvWatch::new(KeySpan::key("quiet")));
    asks.created();
    does_not.created();
    outcomes(&machine, 1, &[put("loud", "1"), put("loud", "2")]);
    let mut now = Duration::from_secs(10);
    while asks.is_empty() {
        machine.leadership(false, now);
        now += Duration::from_secs(10);
        std::thread::yield_now();
    }
    assert_eq!(asks.next(), WatchMessage::Progress { revision: 2 });
    outcomes(&machine, 3, &[put("quiet", "1")]);
    assert_eq!(asks.changes(1)[0].0, 3);
    assert_eq!(does_not.changes(1)[0].0, 3);
}

#[test]
fn an_installed_snapshot_ends_those_who_have_missed_something() {
    let dir = tempfile::TempDir::new().unwrap();
    let source = machine();
    outcomes(&source, 1, &[put("a", "1"), put("b", "2"), put("c", "3")]);
    let last = source.last_applied();
    let checksum = run(source.generate_snapshot_data(dir.path().to_path_buf(), last)).unwrap();
    let path = dir.path().join(SNAPSHOT_FILE);
    let size = std::fs::metadata(&path).unwrap().len();
    let metadata = SnapshotMetadata::new(last, Membership::default(), checksum, size);

    let target = machine();
    outcomes(&target, 1, &[put("a", "1")]);
    let behind = watch(&target, &KvWatch::new(KeySpan::ALL));
    let ahead = watch(&target, &from(KeySpan::ALL, 4));
    assert_eq!((behind.created(), ahead.created()), (1, 1));
    run(target.apply_snapshot_from_file(&metadata, path)).unwrap();
    assert_eq!(behind.next(), WatchMessage::Ended(WatchEnd::Compacted { first_revision: 4 }));
    let compacted = WatchEnd::Compacted { first_revision: 4 };
    assert_eq!(watch(&target, &from(KeySpan::ALL, 3)).end(), compacted);
    outcomes(&target, 4, &[put("d", "4")]);
    assert_eq!(ahead.changes(1), [put_of("d", "4", 4, 4, 1)]);
}

#[test]
fn stopping_ends_every_watch() {
    let machine = machine();
    machine.start().unwrap();
    let mailbox = watch(&machine, &KvWatch::new(KeySpan::ALL));
    machine.stop().unwrap();
    assert_eq!(mailbox.end(), WatchEnd::Stopped);
    machine.start().unwrap();
    let again = watch(&machine, &KvWatch::new(KeySpan::ALL));
    again.created();
    drop(machine);
    assert_eq!(again.next(), WatchMessage::Ended(WatchEnd::Stopped));
}

#[test]
fn bytes_that_are_no_request_are_the_caller_s_fault() {
    let machine = machine();
    let sink = || Box::new(Sink { mailbox: Arc::default(), capacity: 1, says_so: false });
    assert!(matches!(machine.watch(Bytes::from_static(b"\x01\x00\x01"), sink()), Err(Error::Invalid { .. })));
    assert!(matches!(machine.watch(Bytes::from_static(b"\x02\x00\x01"), sink()), Err(Error::Unsupported { .. })));
}

#[test]
fn ten_thousand_watchers_of_their_own_keys_each_see_it_once() {
    let machine = machine();
    let mailboxes: Vec<_> =
        (0..10_000).map(|n| watch(&machine, &KvWatch::new(KeySpan::key(format!("k{n:05}"))))).collect();
    let commands: Vec<_> = (0..10_000).map(|n| put(&format!("k{n:05}"), "v")).collect();
    for (chunk, commands) in commands.chunks(1_000).enumerate() {
        outcomes(&machine, 1 + 1_000 * chunk as u64, commands);
    }
    for (revision, mailbox) in (1..).zip(&mailboxes) {
        mailbox.created();
        assert_eq!(mailbox.changes(1)[0].0, revision);
        assert!(mailbox.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whoever replays what it was told has the keys as they are.
    #[test]
    fn the_changes_of_any_watcher_make_the_state(
        commands in vec(command(), 1..80),
        lens in vec(1usize..9, 80),
        capacity in 1usize..6,
        begin in 0usize..80,
        from_start: bool,
    ) {
        let machine = machine();
        let begin = begin % commands.len();
        outcomes(&machine, 1, &commands[..begin]);
        let span = KeySpan::prefix("a");
        let revision = if from_start { 1 } else { 0 };
        let mut seen = BTreeMap::new();
        if !from_start {
            for n in 0..26u8 {
                for key in [vec![b'a'], vec![b'a', b'a' + n]] {
                    if let Some(value) = machine.get(&key).unwrap() {
                        seen.insert(Bytes::from(key), Bytes::from(value));
                    }
                }
            }
        }
        let mailbox = watch_with(&machine, &from(span, revision), capacity, true);
        let mut left = entries(begin as u64 + 1, &commands[begin..]);
        for len in lens {
            let behind = left.split_off(len.min(left.len()));
            apply(&machine, left).unwrap();
            left = behind;
        }
        let last = (commands.len() as u64) + 1;
        let marker = outcomes(&machine, last, &[put("a-end", "of the test")]);
        let mut revision = 0;
        while !seen.contains_key(&b"a-end"[..]) {
            if let WatchMessage::Changes { revision: next, changes, .. } = mailbox.next() {
                prop_assert!(next > revision, "{} behind {}", next, revision);
                revision = next;
                for change in changes {
                    match change {
                        KvChange::Put { record, .. } => {
                            prop_assert_eq!(record.mod_revision, revision);
                            seen.insert(record.key, record.value);
                        }
                        KvChange::Delete { key, .. } => prop_assert!(seen.remove(&key).is_some()),
                        other => panic!("{other:?}"),
                    }
                }
            }
        }
        prop_assert_eq!(marker, [d_engine_core::KvOutcome::Put { revision }]);
        for (key, value) in &seen {
            let found = machine.get(key).unwrap();
            prop_assert_eq!(found.as_deref(), Some(&value[..]));
        }
        let all = support::range(&machine, "a", Some("b"), 0, false);
        let d_engine_core::KvAnswer::Range { records, .. } = all else { panic!("not a range") };
        prop_assert_eq!(records.len(), seen.len());
    }
}

#[test]
fn watches_that_are_ended_say_so_and_others_may_begin() {
    let machine = machine();
    let mailboxes: Vec<_> =
        [KeySpan::key("a"), KeySpan::prefix("a"), KeySpan::ALL].map(|span| watch(&machine, &from(span, 0))).into();
    machine.end_watches();
    mailboxes.iter().for_each(|mailbox| assert_eq!(mailbox.end(), WatchEnd::Stopped));
    let later = watch(&machine, &from(KeySpan::key("a"), 0));
    later.created();
    outcomes(&machine, 1, &[put("a", "v")]);
    assert_eq!(later.changes(1), [put_of("a", "v", 1, 1, 1)]);
    assert!(mailboxes.iter().all(|mailbox| mailbox.is_empty()), "they were told nothing more");
}
