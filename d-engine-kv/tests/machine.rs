//! What the key-value state machine promises, on a store with views and on one without.

#![allow(clippy::unwrap_used, reason = "a test binary: a failed unwrap is a failed test")]

#[allow(dead_code, reason = "shared with the other test binaries, which use the rest")]
mod support;

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use d_engine_core::command::{KeySpan, KvRange};
use d_engine_core::{
    Entry, EntryKind, Error, KvAnswer, KvCommand, KvOutcome, KvQuery, KvRecord, KvReject, KvStore, LogId, StateMachine,
    WriteBatch,
};
use d_engine_kv::KvStateMachine;
use d_engine_mem::MemKvStore;
use support::{
    FailingStore, NoViews, RecordingStore, apply, cas, delete, digest, entries, entry, get, outcomes, put, range, run,
    value,
};

fn machine() -> KvStateMachine {
    KvStateMachine::new(MemKvStore::new()).unwrap()
}

#[test]
fn a_put_creates_and_changes_with_revisions_and_versions() {
    let machine = machine();
    let found = outcomes(&machine, 1, &[put("a", "1"), put("b", "2"), put("a", "3")]);
    assert_eq!(found, [1, 2, 3].map(|revision| KvOutcome::Put { revision }));
    let (answer, at) = get(&machine, "a");
    assert_eq!(answer, KvAnswer::Get { record: Some(KvRecord::new("a", "3", 1, 3, 2)), revision: 3 });
    assert_eq!(at, LogId::new(1, 3));
    assert_eq!(machine.get(b"a").unwrap(), Some(b"3".to_vec()));
    assert_eq!(machine.get_bytes(b"b").unwrap(), Some(Bytes::from_static(b"2")));
    assert_eq!((machine.len(), machine.last_applied()), (2, LogId::new(1, 3)));
}

#[test]
fn a_deleted_key_begins_anew() {
    let machine = machine();
    let found = outcomes(&machine, 1, &[put("a", "1"), delete("a"), delete("a"), put("a", "2")]);
    assert_eq!(
        found,
        [
            KvOutcome::Put { revision: 1 },
            KvOutcome::Deleted { revision: 2, existed: true },
            KvOutcome::Deleted { revision: 2, existed: false },
            KvOutcome::Put { revision: 3 },
        ]
    );
    let record = Some(KvRecord::new("a", "2", 3, 3, 1));
    assert_eq!(get(&machine, "a").0, KvAnswer::Get { record, revision: 3 });
    assert_eq!(outcomes(&machine, 5, &[delete("a")]), [KvOutcome::Deleted { revision: 4, existed: true }]);
    assert!(machine.is_empty());
    assert_eq!(machine.get(b"a").unwrap(), None);
}

#[test]
fn compare_and_swap_decides_by_what_the_key_holds() {
    let machine = machine();
    let ok = |revision| KvOutcome::Cas { revision, succeeded: true, current: None };
    let failed = |revision, current: Option<&'static str>| KvOutcome::Cas {
        revision,
        succeeded: false,
        current: current.map(Bytes::from),
    };
    let steps = [
        (cas("k", Some("x"), Some("1")), failed(0, None)),
        (cas("k", None, None), ok(0)),
        (cas("k", None, Some("1")), ok(1)),
        (cas("k", None, Some("2")), failed(1, Some("1"))),
        (cas("k", Some("1"), Some("")), ok(2)),
        (cas("k", None, Some("2")), failed(2, Some(""))),
        (cas("k", Some("x"), None), failed(2, Some(""))),
        (cas("k", Some(""), None), ok(3)),
        (cas("k", None, Some("new")), ok(4)),
    ];
    let (commands, expected): (Vec<_>, Vec<_>) = steps.into_iter().unzip();
    assert_eq!(outcomes(&machine, 1, &commands), expected, "in one chunk");
    assert_eq!(get(&machine, "k").0, KvAnswer::Get { record: Some(KvRecord::new("k", "new", 4, 4, 1)), revision: 4 });

    let machine = self::machine();
    for (place, (command, expected)) in commands.into_iter().zip(expected).enumerate() {
        assert_eq!(outcomes(&machine, place as u64 + 1, &[command]), [expected], "in chunks of one, step {place}");
    }
}

#[test]
fn a_command_of_no_version_is_a_result_and_costs_no_other_entry() {
    let machine = machine();
    let chunk = vec![entry(1, &put("a", "1")), raw(2, b""), raw(3, b"\x01\x00\x01\xff"), entry(4, &put("", "x"))];
    let found = apply(&machine, chunk).unwrap();
    let found: Vec<_> = found.iter().map(|result| KvOutcome::decode(&result.response).unwrap()).collect();
    // The text is part of the result and must not change within a version.
    let malformed = |why: &str| KvOutcome::Rejected(KvReject::Malformed { why: why.into() });
    assert_eq!(
        found,
        [
            KvOutcome::Put { revision: 1 },
            malformed("key-value command: 1 bytes expected, 0 left"),
            malformed("key-value command: 4 bytes expected, 1 left"),
            KvOutcome::Rejected(KvReject::EmptyKey),
        ]
    );
    assert_eq!((machine.last_applied().index, machine.len()), (4, 1));
    let long = KvCommand::Delete { key: vec![b'k'; 64 * 1024 + 1].into() };
    let too_large = KvReject::KeyTooLarge { len: 64 * 1024 + 1, limit: 64 * 1024 };
    assert_eq!(outcomes(&machine, 5, &[long]), [KvOutcome::Rejected(too_large)]);
    assert_eq!(machine.last_applied().index, 5);
}

#[test]
fn a_command_of_a_newer_version_stops_the_replica_with_nothing_applied() {
    let machine = machine();
    outcomes(&machine, 1, &[put("a", "1")]);
    let before = digest(&machine);
    for newer in [&b"\x02\x00\x01"[..], b"\x01\x02\x01\x00\x00\x00\x00\x00\x00\x00\x00", b"\x01\x00\x63"] {
        let error = apply(&machine, vec![entry(2, &put("b", "2")), raw(3, newer), entry(4, &put("c", "3"))]);
        assert!(matches!(error, Err(Error::Unsupported { .. })), "{newer:?}");
        assert_eq!((digest(&machine), machine.last_applied()), (before, LogId::new(1, 1)));
    }
}

#[test]
fn entries_that_were_applied_before_are_skipped_in_their_places() {
    let machine = machine();
    outcomes(&machine, 1, &[put("a", "1"), put("b", "2")]);
    let again = apply(&machine, entries(1, &[put("a", "9"), put("b", "9"), put("c", "3")])).unwrap();
    let places: Vec<_> = again.iter().map(|result| (result.index, result.response.is_empty())).collect();
    assert_eq!(places, [(1, true), (2, true), (3, false)]);
    assert_eq!(KvOutcome::decode(&again[2].response).unwrap(), KvOutcome::Put { revision: 3 });
    assert_eq!(value(&machine, "a"), Some("1".into()));

    let before = digest(&machine);
    let all_old = apply(&machine, entries(2, &[delete("a"), delete("b")])).unwrap();
    assert!(all_old.iter().all(|result| result.response.is_empty()));
    assert!(apply(&machine, Vec::new()).unwrap().is_empty());
    assert_eq!((digest(&machine), machine.last_applied()), (before, LogId::new(1, 3)));
}

#[test]
fn indexes_may_skip_and_must_increase() {
    let machine = machine();
    apply(&machine, vec![entry(3, &put("a", "1")), entry(7, &put("b", "1"))]).unwrap();
    assert_eq!(machine.last_applied().index, 7);
    let before = digest(&machine);
    for indexes in [[9, 8], [9, 9], [5, 5], [6, 3]] {
        let chunk = indexes.map(|index| entry(index, &put("c", "2"))).to_vec();
        assert!(matches!(apply(&machine, chunk), Err(Error::Invalid { .. })), "{indexes:?}");
    }
    let noop = Entry::new(8, 1, EntryKind::Noop, b"");
    assert!(matches!(apply(&machine, vec![noop]), Err(Error::Invalid { .. })));
    assert_eq!((digest(&machine), machine.last_applied().index), (before, 7));
}

#[test]
fn a_chunk_is_one_batch_so_that_every_crash_leaves_a_whole_number_of_chunks() {
    let store = RecordingStore::default();
    let machine = KvStateMachine::new(store.clone()).unwrap();
    let chunks = [
        vec![put("a", "1"), put("b", "1"), put("a", "2")],
        vec![delete("b"), put("c", "1"), delete("c"), delete("none")],
        vec![cas("a", Some("2"), Some("3")), put("b", "2")],
    ];
    let mut first = 1;
    let mut states = vec![(digest(&machine), machine.last_applied(), machine.len())];
    for commands in &chunks {
        outcomes(&machine, first, commands);
        first += commands.len() as u64;
        states.push((digest(&machine), machine.last_applied(), machine.len()));
    }
    let batches = store.batches();
    assert_eq!(batches.len(), chunks.len());
    for (survivors, expected) in states.into_iter().enumerate() {
        let survived = MemKvStore::new();
        for batch in &batches[..survivors] {
            survived.write(batch.clone()).unwrap();
        }
        let machine = KvStateMachine::new(survived).unwrap();
        assert_eq!((digest(&machine), machine.last_applied(), machine.len()), expected, "{survivors} batches");
    }
}

#[test]
fn a_batch_names_each_changed_key_once_and_no_other() {
    let store = RecordingStore::default();
    let machine = KvStateMachine::new(store.clone()).unwrap();
    outcomes(&machine, 1, &[put("a", "1"), put("a", "2"), put("b", "1"), delete("b"), cas("c", Some("x"), None)]);
    outcomes(&machine, 6, &[cas("a", Some("x"), Some("y")), delete("none")]);
    let written: Vec<_> = store.batches().iter().map(|batch: &WriteBatch| batch.ops.len()).collect();
    assert_eq!(written, [2, 1], "the bookkeeping record, and `a` once in the first chunk");
}

#[test]
fn a_failed_write_changes_nothing() {
    let store = FailingStore::default();
    let machine = KvStateMachine::new(store.clone()).unwrap();
    outcomes(&machine, 1, &[put("a", "1")]);
    store.fail(true);
    assert!(apply(&machine, entries(2, &[put("a", "2")])).is_err());
    assert_eq!((machine.last_applied().index, machine.len()), (1, 1));
    store.fail(false);
    assert_eq!(outcomes(&machine, 2, &[put("a", "2")]), [KvOutcome::Put { revision: 2 }]);
}

#[test]
fn a_restart_continues_where_the_store_stands() {
    let store = MemKvStore::new();
    let machine = KvStateMachine::new(store.clone()).unwrap();
    machine.start().unwrap();
    assert!(machine.is_running());
    outcomes(&machine, 1, &[put("a", "1"), put("b", "2")]);
    let before = digest(&machine);
    machine.flush().unwrap();
    machine.stop().unwrap();
    assert!(!machine.is_running());
    let machine = KvStateMachine::new(store).unwrap();
    assert_eq!((digest(&machine), machine.last_applied(), machine.len()), (before, LogId::new(1, 2), 2));
    assert_eq!(outcomes(&machine, 3, &[put("a", "3")]), [KvOutcome::Put { revision: 3 }]);
}

#[test]
fn reset_goes_back_to_the_initial_state() {
    let store = MemKvStore::new();
    let machine = KvStateMachine::new(store.clone()).unwrap();
    let initial = digest(&machine);
    outcomes(&machine, 1, &[put("a", "1"), put("b", "2")]);
    run(machine.reset()).unwrap();
    for machine in [machine, KvStateMachine::new(store).unwrap()] {
        assert_eq!((digest(&machine), machine.last_applied(), machine.len()), (initial, LogId::default(), 0));
    }
}

#[test]
fn a_store_with_other_data_is_refused() {
    let store = MemKvStore::new();
    let mut batch = WriteBatch::new();
    batch.put("somebody's", "data");
    store.write(batch).unwrap();
    assert!(matches!(KvStateMachine::new(store), Err(Error::Invalid { .. })));
}

#[test]
fn ranges_have_pages_directions_and_ends() {
    let machine = machine();
    let commands: Vec<_> = (0..1_200).map(|n| put(&format!("k{n:04}"), "v")).collect();
    outcomes(&machine, 1, &commands);
    let keys = |answer: KvAnswer| match answer {
        KvAnswer::Range { records, more, revision: 1_200 } => {
            (records.iter().map(|r| String::from_utf8(r.key.to_vec()).unwrap()).collect::<Vec<_>>(), more)
        }
        other => panic!("{other:?}"),
    };
    let names = |range: &mut dyn Iterator<Item = i32>| range.map(|n| format!("k{n:04}")).collect::<Vec<_>>();

    assert_eq!(keys(range(&machine, "", None, 0, false)), (names(&mut (0..1_000)), true));
    assert_eq!(keys(range(&machine, "k1000", None, 0, false)), (names(&mut (1_000..1_200)), false));
    assert_eq!(keys(range(&machine, "k0005", Some("k0008"), 0, false)), (names(&mut (5..8)), false));
    assert_eq!(keys(range(&machine, "k0005", Some("k0008"), 3, false)), (names(&mut (5..8)), false));
    assert_eq!(keys(range(&machine, "k0005", Some("k0008"), 2, false)), (names(&mut (5..7)), true));
    assert_eq!(keys(range(&machine, "k0005", Some("k0008"), 2, true)), (names(&mut (6..8).rev()), true));
    assert_eq!(keys(range(&machine, "", None, u32::MAX, true)), (names(&mut (0..1_200).rev()), false));
    assert_eq!(keys(range(&machine, "k0008", Some("k0005"), 0, false)), (vec![], false));
    assert_eq!(keys(range(&machine, "k0005", Some("k0005"), 0, true)), (vec![], false));
}

#[test]
fn a_page_ends_at_its_size_in_bytes() {
    let machine = machine();
    let large = "x".repeat(400 * 1024);
    let commands: Vec<_> = (0..5).map(|n| put(&format!("{n}"), &large)).collect();
    outcomes(&machine, 1, &commands);
    let KvAnswer::Range { records, more, .. } = range(&machine, "", None, 0, false) else { panic!("not a range") };
    assert_eq!((records.len(), more), (3, true), "the third record reaches 1 MiB");
    let mut all_keys = KvRange::new(KeySpan::ALL);
    all_keys.keys_only = true;
    let (answer, _) = machine.read_at(KvQuery::Range(all_keys).encode()).unwrap();
    let KvAnswer::Range { records, more, .. } = KvAnswer::decode(&answer).unwrap() else { panic!("not a range") };
    assert_eq!((records.len(), more), (5, false));
    assert!(records.iter().all(|record| record.value.is_empty() && record.version == 1));
}

#[test]
fn bytes_that_are_no_query_are_the_callers_fault() {
    let machine = machine();
    assert!(matches!(machine.read_at(Bytes::from_static(b"\x01\x00\x01")), Err(Error::Invalid { .. })));
    assert!(matches!(machine.read_at(Bytes::from_static(b"\x02\x00\x01")), Err(Error::Unsupported { .. })));
}

#[test]
fn the_digest_of_version_1_stays_the_same() {
    let machine = machine();
    outcomes(&machine, 1, &[put("a", "1"), put("b", ""), put("a", "2"), delete("b"), put("c", "3")]);
    let hex: String = digest(&machine).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "e4d406d1c6619e44f4e27c98d1432963b1be721b2537d2f942208c609dc7d328");
}

#[test]
fn what_is_read_belongs_to_the_marker_beside_it() {
    reads_are_of_one_point_in_time(machine());
    reads_are_of_one_point_in_time(KvStateMachine::new(NoViews(MemKvStore::new())).unwrap());
}

/// Each chunk sets two keys far apart to the index of its last entry; a reader sees both at the marker's index.
fn reads_are_of_one_point_in_time(machine: KvStateMachine) {
    const CHUNKS: u64 = 2_000;
    outcomes(&machine, 1, &(0..100).map(|n| put(&format!("m{n:03}"), "filler")).collect::<Vec<_>>());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = 0;
            let mut finished = false;
            while !finished {
                finished = done.load(Ordering::Acquire);
                let all = KvQuery::Range(KvRange::new(KeySpan::ALL));
                let (answer, at) = machine.read_at(all.encode()).unwrap();
                let KvAnswer::Range { records, revision, .. } = KvAnswer::decode(&answer).unwrap() else {
                    panic!("not a range")
                };
                assert!(at.index >= seen, "the marker went back from {seen} to {at}");
                assert_eq!(revision, at.index, "every entry of this test changes something");
                seen = at.index;
                if seen > 100 {
                    let marker = seen.to_string();
                    assert_eq!((&records[0].key[..], &records[0].value[..]), (&b"a"[..], marker.as_bytes()));
                    assert_eq!((&records[101].key[..], &records[101].value[..]), (&b"z"[..], marker.as_bytes()));
                }
            }
            seen
        });
        for chunk in 0..CHUNKS {
            let first = 101 + 2 * chunk;
            let marker = (first + 1).to_string();
            apply(&machine, entries(first, &[put("a", &marker), put("z", &marker)])).unwrap();
        }
        done.store(true, Ordering::Release);
        assert_eq!(reader.join().unwrap(), 100 + 2 * CHUNKS);
    });
}

fn raw(index: u64, data: &[u8]) -> Entry {
    Entry::new(index, 1, EntryKind::Command, data)
}

#[test]
fn commands_that_no_replica_can_read_are_refused_before_they_are_proposed() {
    let machine = KvStateMachine::new(d_engine_mem::MemKvStore::new()).unwrap();
    let good = d_engine_core::KvCommand::Delete { key: Bytes::from_static(b"k") }.encode();
    assert!(machine.check_command(&good).is_ok());
    let mut newer = good.to_vec();
    newer[0] = 250;
    assert!(matches!(machine.check_command(&newer), Err(Error::Unsupported { .. })));
    assert!(machine.check_command(b"\x01garbage").is_err());
}

#[test]
fn a_key_that_cannot_exist_is_refused_rather_than_not_found() {
    let machine = KvStateMachine::new(d_engine_mem::MemKvStore::new()).unwrap();
    let get = |key: Bytes| machine.read_at(d_engine_core::KvQuery::Get { key }.encode());
    assert!(matches!(get(Bytes::new()), Err(Error::Invalid { .. })));
    assert!(matches!(get(Bytes::from(vec![b'k'; (64 << 10) + 1])), Err(Error::Invalid { .. })));
    assert!(get(Bytes::from_static(b"absent")).is_ok());
}
