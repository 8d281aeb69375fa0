//! Snapshots of the key-value state machine.

#![allow(clippy::unwrap_used, reason = "a test binary: a failed unwrap is a failed test")]

#[allow(dead_code, reason = "shared with the other test binary, which uses the rest")]
mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use d_engine_core::snapshot::SnapshotCompression;
use d_engine_core::{Error, KvCommand, KvStore, LogId, Membership, SnapshotChecksum, SnapshotMetadata, StateMachine};
use d_engine_kv::{KvStateMachine, SNAPSHOT_FILE};
use d_engine_mem::MemKvStore;
use proptest::collection::vec;
use proptest::prelude::*;
use support::{NoViews, command, delete, digest, entries, outcomes, put, run, value};
use tempfile::TempDir;

fn machine() -> KvStateMachine {
    KvStateMachine::new(MemKvStore::new()).unwrap()
}

fn machine_without_views() -> KvStateMachine {
    KvStateMachine::new(NoViews(MemKvStore::new())).unwrap()
}

fn generate(machine: &KvStateMachine, dir: &Path) -> SnapshotMetadata {
    let checksum = run(machine.generate_snapshot_data(dir.to_path_buf(), machine.last_applied())).unwrap();
    metadata(machine.last_applied(), checksum, dir)
}

fn metadata(last_included: LogId, checksum: SnapshotChecksum, dir: &Path) -> SnapshotMetadata {
    assert!(!checksum.is_zero());
    let size = fs::metadata(dir.join(SNAPSHOT_FILE)).unwrap().len();
    SnapshotMetadata::new(last_included, Membership::default(), checksum, size)
}

fn install(machine: &KvStateMachine, metadata: &SnapshotMetadata, dir: &Path) -> Result<(), Error> {
    run(machine.apply_snapshot_from_file(metadata, dir.join(SNAPSHOT_FILE)))
}

fn state(machine: &KvStateMachine) -> ([u8; 32], LogId, usize) {
    (digest(machine), machine.last_applied(), machine.len())
}

fn some_commands() -> Vec<KvCommand> {
    vec![put("a", "1"), put("b", "2"), put("a", "3"), delete("b"), put("c", "")]
}

#[test]
fn a_snapshot_replaces_everything_and_survives_a_restart() {
    let dir = TempDir::new().unwrap();
    let source = machine();
    outcomes(&source, 1, &some_commands());
    let metadata = generate(&source, dir.path());
    let files: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(files, [SNAPSHOT_FILE]);

    let store = MemKvStore::new();
    let target = KvStateMachine::new(store.clone()).unwrap();
    outcomes(&target, 1, &[put("old", "x"), put("a", "x")]);
    install(&target, &metadata, dir.path()).unwrap();
    assert_eq!(state(&target), state(&source));
    assert_eq!(value(&target, "old"), None);
    let target = KvStateMachine::new(store).unwrap();
    assert_eq!(state(&target), state(&source));
    let next = [put("a", "4"), put("d", "5")];
    assert_eq!(outcomes(&target, 6, &next), outcomes(&source, 6, &next));
    assert_eq!(state(&target), state(&source));
}

#[test]
fn a_compressed_snapshot_is_smaller_and_the_same_state_to_a_machine_that_compresses_nothing() {
    let (plain, packed) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let commands: Vec<_> = (0..500).map(|n| put(&format!("key-{n:03}"), &"value ".repeat(20))).collect();
    let source = machine();
    outcomes(&source, 1, &commands);
    let plain_size = generate(&source, plain.path()).size;
    let source = machine().with_snapshot_compression(SnapshotCompression::Lz4);
    outcomes(&source, 1, &commands);
    for in_background in [false, true] {
        let metadata = if in_background {
            let view = source.begin_snapshot().unwrap().unwrap();
            let checksum = view.write(packed.path()).unwrap();
            metadata(source.last_applied(), checksum, packed.path())
        } else {
            generate(&source, packed.path())
        };
        assert!(metadata.size * 4 < plain_size, "{} of {plain_size} bytes", metadata.size);
        let target = machine();
        install(&target, &metadata, packed.path()).unwrap();
        assert_eq!(state(&target), state(&source));
    }
}

#[test]
fn the_initial_state_has_a_snapshot_too() {
    let dir = TempDir::new().unwrap();
    let metadata = generate(&machine(), dir.path());
    let target = machine();
    outcomes(&target, 1, &some_commands());
    install(&target, &metadata, dir.path()).unwrap();
    assert_eq!(state(&target), state(&machine()));
}

#[test]
fn a_snapshot_of_another_entry_is_refused() {
    let dir = TempDir::new().unwrap();
    let machine = machine();
    outcomes(&machine, 1, &some_commands());
    for wrong in [LogId::default(), LogId::new(1, 4), LogId::new(1, 6), LogId::new(2, 5)] {
        let refused = run(machine.generate_snapshot_data(dir.path().to_path_buf(), wrong));
        assert!(matches!(refused, Err(Error::Invalid { .. })), "{wrong}");
    }
    let mut metadata = generate(&machine, dir.path());
    metadata.last_included = LogId::new(1, 6);
    assert!(matches!(install(&self::machine(), &metadata, dir.path()), Err(Error::Invalid { .. })));
}

#[test]
fn a_damaged_file_leaves_the_old_state() {
    let dir = TempDir::new().unwrap();
    let source = machine();
    outcomes(&source, 1, &some_commands());
    let metadata = generate(&source, dir.path());
    let path = dir.path().join(SNAPSHOT_FILE);
    let good = fs::read(&path).unwrap();

    let target = machine();
    outcomes(&target, 1, &[put("old", "x")]);
    let before = state(&target);
    let mut bad_files = vec![Vec::new(), good[..good.len() - 1].to_vec(), [&good[..], b"x"].concat()];
    bad_files.extend((0..good.len()).map(|at| {
        let mut bad = good.clone();
        bad[at] ^= 1;
        bad
    }));
    for (number, bad) in bad_files.iter().enumerate() {
        fs::write(&path, bad).unwrap();
        assert!(install(&target, &metadata, dir.path()).is_err(), "bad file {number}");
        assert_eq!(state(&target), before, "bad file {number}");
    }
    fs::write(&path, &good).unwrap();
    let mut other = metadata.clone();
    other.checksum = SnapshotChecksum::new([7; 32]);
    assert!(matches!(install(&target, &other, dir.path()), Err(Error::Corrupt { .. })));
    assert_eq!(state(&target), before);
    install(&target, &metadata, dir.path()).unwrap();
}

#[test]
fn a_view_is_written_beside_applies_and_holds_the_state_of_its_label() {
    let dir = TempDir::new().unwrap();
    let machine = machine();
    outcomes(&machine, 1, &some_commands());
    let before = state(&machine);
    let view = machine.begin_snapshot().unwrap().unwrap();
    outcomes(&machine, 6, &[put("a", "later"), put("new", "later")]);
    assert_eq!(view.last_applied(), LogId::new(1, 5));
    let checksum = view.write(dir.path()).unwrap();

    let target = self::machine();
    install(&target, &metadata(LogId::new(1, 5), checksum, dir.path()), dir.path()).unwrap();
    assert_eq!(state(&target), before);
}

#[test]
fn a_view_given_up_lets_the_store_go() {
    let store: Arc<dyn KvStore> = Arc::new(MemKvStore::new());
    let machine = KvStateMachine::from_arc(store.clone()).unwrap();
    let view = machine.begin_snapshot().unwrap().unwrap();
    assert_eq!(Arc::strong_count(&store), 3);
    drop(view);
    assert_eq!(Arc::strong_count(&store), 2);
    let failed = machine.begin_snapshot().unwrap().unwrap().write(Path::new("/does/not/exist"));
    assert!(matches!(failed, Err(Error::Io { .. })));
    assert_eq!(Arc::strong_count(&store), 2);
}

#[test]
fn a_store_without_views_leaves_it_to_the_engine_to_hold_applies() {
    let machine = machine_without_views();
    assert!(machine.begin_snapshot().unwrap().is_none());
}

proptest! {
    // Few cases: each syncs two files and two directories.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn equal_states_give_equal_files_whatever_the_store_and_the_chunks(commands in vec(command(), 0..60)) {
        let (whole, single) = (machine(), machine_without_views());
        outcomes(&whole, 1, &commands);
        for entry in entries(1, &commands) {
            run(single.apply_chunk(vec![entry])).unwrap();
        }
        let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
        let made = [generate(&whole, dirs[0].path()), generate(&single, dirs[1].path())];
        prop_assert_eq!(&made[0], &made[1]);
        let files = dirs.each_ref().map(|dir| fs::read(dir.path().join(SNAPSHOT_FILE)).unwrap());
        prop_assert_eq!(&files[0], &files[1]);

        let target = machine_without_views();
        install(&target, &made[0], dirs[0].path()).unwrap();
        prop_assert_eq!(state(&target), state(&whole));
    }
}
