//! The store through builds, transfers, installations and interruptions.

use super::*;
use d_engine_core::snapshot::Steady;
use d_engine_core::{ClusterSettings, Member, MemberKind};

const CLUSTER: u128 = 7;

fn membership() -> Membership {
    let members = vec![Member::new(1, 10, "a:1", MemberKind::Voter)];
    Membership::new(CLUSTER, members, ClusterSettings::new(500, 500, 1))
}

fn build(store: &SnapshotStore, at: LogId, bytes: &[u8]) -> Arc<Record> {
    let dir = store.begin_build().unwrap();
    fs::write(dir.join("whatever"), bytes).unwrap();
    store.keep_built(at, membership(), SnapshotChecksum::new([1; 32])).unwrap();
    store.newest().unwrap()
}

fn reopen(store: SnapshotStore) -> SnapshotStore {
    let (dir, kept) = (store.dir.clone(), store.kept_max);
    drop(store);
    SnapshotStore::open(&dir, kept, CLUSTER).unwrap()
}

fn offer(bytes: &[u8], at: LogId) -> Record {
    let other = tempfile::tempdir().unwrap();
    let store = SnapshotStore::open(other.path(), 1, CLUSTER).unwrap();
    Record::clone(&build(&store, at, bytes))
}

#[test]
fn the_newest_snapshots_are_kept_and_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = SnapshotStore::open(&dir.path().join("s"), 2, CLUSTER).unwrap();
    assert!(store.newest().is_none());
    (1..=3).for_each(|index| drop(build(&store, LogId::new(1, index), b"abc")));
    let store = reopen(store);
    let indexes: Vec<_> = store.shelf().kept.iter().map(|record| record.at().index).collect();
    assert_eq!(indexes, [2, 3]);
    let (record, _) = store.open_newest().unwrap().unwrap();
    assert_eq!((record.metadata.size, &record.metadata.membership), (3, &membership()));
    assert!(SnapshotStore::open(&store.dir, 2, 8).unwrap().newest().is_none(), "another cluster's");
}

#[test]
fn an_interrupted_build_or_transfer_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = SnapshotStore::open(dir.path(), 1, CLUSTER).unwrap();
    fs::write(store.begin_build().unwrap().join("half"), b"x").unwrap();
    store.begin_receiving(offer(b"abc", LogId::new(1, 9))).unwrap();
    let store = reopen(store);
    assert_eq!(fs::read_dir(&store.dir).unwrap().count(), 0);
    assert!(store.received().is_none());
}

#[test]
fn a_transfer_goes_on_only_with_the_same_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = SnapshotStore::open(dir.path(), 1, CLUSTER).unwrap();
    let at = LogId::new(1, 9);
    let (first, offset) = store.begin_receiving(offer(b"abcdef", at)).unwrap();
    assert_eq!(offset, 0);
    store.receive(first, 0, b"abc").unwrap();
    assert!(store.receive(first, 4, b"ef").is_err(), "a hole");
    let (second, offset) = store.begin_receiving(offer(b"abcdef", at)).unwrap();
    assert_eq!(offset, 3);
    assert!(store.receive(first, 3, b"def").is_err(), "the older sender");
    assert_eq!(store.begin_receiving(offer(b"abcdeg", at)).unwrap().1, 0, "another file");
    assert!(store.mark_received(second).is_err());
}

#[test]
#[cfg(target_os = "linux")]
fn a_transfer_begins_anew_after_the_disk_has_failed() {
    let dir = tempfile::tempdir().unwrap();
    let store = SnapshotStore::open(dir.path(), 1, CLUSTER).unwrap();
    let at = LogId::new(1, 9);
    let (turn, _) = store.begin_receiving(offer(b"abcdef", at)).unwrap();
    store.receive(turn, 0, b"abc").unwrap();
    store.receiving().current.as_mut().unwrap().file =
        Steady::new(File::options().write(true).open("/dev/full").unwrap());
    assert!(store.receive(turn, 3, b"def").is_err());
    assert!(store.mark_received(turn).is_err());
    let (turn, offset) = store.begin_receiving(offer(b"abcdef", at)).unwrap();
    assert_eq!(offset, 0);
    store.receive(turn, 0, b"abcdef").unwrap();
    store.mark_received(turn).unwrap();
}

#[test]
fn a_received_file_is_marked_only_if_every_byte_is_right() {
    let dir = tempfile::tempdir().unwrap();
    let store = SnapshotStore::open(dir.path(), 1, CLUSTER).unwrap();
    let at = LogId::new(1, 9);
    for bytes in [&b"abcdeg"[..], b"abc"] {
        let (turn, _) = store.begin_receiving(offer(b"abcdef", at)).unwrap();
        store.receive(turn, 0, bytes).unwrap();
        assert!(matches!(store.mark_received(turn), Err(Error::Corrupt { .. })));
        assert!(store.marked().is_none());
    }
    let (turn, offset) = store.begin_receiving(offer(b"abcdef", at)).unwrap();
    assert_eq!(offset, 0);
    store.receive(turn, 0, b"abcdef").unwrap();
    store.mark_received(turn).unwrap();
    assert!(store.begin_receiving(offer(b"other", LogId::new(1, 10))).is_err(), "one at a time");
    let store = reopen(store);
    let (record, path) = store.marked().unwrap();
    assert_eq!((record.at(), fs::read(path).unwrap()), (at, b"abcdef".to_vec()));
    assert!(store.newest().is_none());
}

#[test]
fn a_mark_goes_once_the_machine_and_the_log_have_followed() {
    let dir = tempfile::tempdir().unwrap();
    let store = SnapshotStore::open(dir.path(), 1, CLUSTER).unwrap();
    let at = LogId::new(1, 9);
    let (turn, _) = store.begin_receiving(offer(b"abc", at)).unwrap();
    store.receive(turn, 0, b"abc").unwrap();
    let (_, mut receipt) = store.mark_received(turn).unwrap();
    store.purged(LogId::new(1, 20));
    assert!(store.marked().is_some(), "a purge before the machine has it says nothing");
    store.installed(at);
    assert_eq!(receipt.try_recv(), Ok(true));
    assert!(store.marked().is_some());
    store.purged(at);
    assert!(store.marked().is_none());
    assert_eq!(reopen(store).newest().unwrap().at(), at);
}

#[test]
fn a_discarded_snapshot_leaves_nothing_and_its_sender_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let store = SnapshotStore::open(dir.path(), 1, CLUSTER).unwrap();
    let at = LogId::new(1, 9);
    let (turn, _) = store.begin_receiving(offer(b"abc", at)).unwrap();
    store.receive(turn, 0, b"abc").unwrap();
    let (_, mut receipt) = store.mark_received(turn).unwrap();
    store.discard(at, false);
    assert_eq!(receipt.try_recv(), Ok(false));
    assert_eq!(fs::read_dir(&store.dir).unwrap().count(), 0);
}

#[test]
fn a_removal_that_was_interrupted_stands_in_nobodys_way() {
    let dir = tempfile::tempdir().unwrap();
    let store = SnapshotStore::open(dir.path(), 1, CLUSTER).unwrap();
    // The mark was taken away, and the power went before what was under it.
    fs::create_dir_all(dir.path().join(DISCARDED)).unwrap();
    fs::write(dir.path().join(DISCARDED).join(DATA), b"abc").unwrap();
    let store = reopen(store);
    assert_eq!(fs::read_dir(&store.dir).unwrap().count(), 0);
    // The disk refused to take the mark away.
    fs::create_dir_all(dir.path().join(INSTALLING)).unwrap();
    fs::write(dir.path().join(INSTALLING).join(DATA), b"old").unwrap();
    let (turn, _) = store.begin_receiving(offer(b"abc", LogId::new(1, 9))).unwrap();
    store.receive(turn, 0, b"abc").unwrap();
    store.mark_received(turn).unwrap();
    assert_eq!(fs::read(store.marked().unwrap().1).unwrap(), b"abc");
}

#[test]
fn a_temporary_store_goes_with_its_node() {
    let dir = tempfile::tempdir().unwrap();
    let store = SnapshotStore::temporary(dir.path().join("t"), 1);
    build(&store, LogId::new(1, 1), b"abc");
    let path = store.dir.clone();
    assert!(path.exists());
    drop(store);
    assert!(!path.exists());
}
