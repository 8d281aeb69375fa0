//! What the log of this crate does, on real files.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{
    Content, Model, content, copy_of_open, entries, entry, long_entry, now, open, scratch, segments, small, try_open,
};
use d_engine_core::{
    ClusterSettings, Entry, EntryKind, Error, HardState, LogId, LogStore, Member, MemberKind, Membership, MetaStore,
    StorageEngine,
};
use d_engine_file::vfs::sim::SimDisk;
use d_engine_file::{Compression, FileStorageEngine, FileStorageOptions};

#[test]
fn a_batch_that_does_not_continue_the_log_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    now(log.persist_entries(entries(1..=3, 1))).unwrap();
    for bad in [vec![entry(5, 1)], vec![entry(3, 1)], vec![entry(4, 1), entry(6, 1)]] {
        assert!(matches!(now(log.persist_entries(bad)), Err(Error::NotContiguous { .. })));
    }
    assert!(matches!(now(log.replace_from(5, entries(5..=5, 2))), Err(Error::NotContiguous { .. })));
    assert!(matches!(now(log.replace_from(2, entries(3..=3, 2))), Err(Error::NotContiguous { .. })));
    assert_eq!(content(&log).1, entries(1..=3, 1));
}

#[test]
fn reads_answer_for_every_index_from_memory_and_from_disk() {
    for cache in [0, 1 << 10, 1 << 30] {
        let dir = tempfile::tempdir().unwrap();
        let mut options = small();
        options.tail_cache_bytes = cache;
        let log = FileStorageEngine::open_with(dir.path(), &options).unwrap().log_store();
        let all: Vec<Entry> = (1..=500).map(|i| long_entry(i, i / 100, (i as usize * 37) % 2000)).collect();
        for batch in all.chunks(7) {
            now(log.persist_entries(batch.to_vec())).unwrap();
        }
        assert!(segments(dir.path()).len() > 3, "the log spans segments");
        assert_eq!(now(log.get_entries(1..=500)).unwrap(), all);
        assert_eq!(now(log.get_entries(490..=u64::MAX)).unwrap(), all[489..]);
        assert_eq!(now(log.get_entries(501..=600)).unwrap(), []);
        assert_eq!(now(log.entry(501)).unwrap(), None);
        assert!(matches!(now(log.entry(0)), Err(Error::Compacted { first: 1 })));
        for index in [1, 2, 100, 250, 499, 500] {
            assert_eq!(now(log.entry(index)).unwrap().unwrap(), all[index as usize - 1]);
        }
        let limited = now(log.read_limited(1..=500, 10_000)).unwrap();
        assert!(limited.iter().map(Entry::encoded_len).sum::<usize>() <= 10_000 && limited.len() > 3);
        assert_eq!(now(log.read_limited(50..=60, 0)).unwrap(), all[49..50]);
    }
}

#[test]
fn truncated_and_replaced_entries_stay_away_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    {
        let log = open(dir.path());
        now(log.persist_entries(entries(1..=10, 1))).unwrap();
        now(log.truncate(6)).unwrap();
        now(log.truncate(60)).unwrap();
        now(log.persist_entries(entries(6..=8, 2))).unwrap();
        now(log.replace_from(4, entries(4..=5, 3))).unwrap();
    }
    let log = open(dir.path());
    assert_eq!(content(&log).1, [entries(1..=3, 1), entries(4..=5, 3)].concat());
    now(log.replace_from(6, entries(6..=7, 3))).unwrap();
    now(log.replace_from(2, Vec::new())).unwrap();
    assert_eq!(after_kill(dir.path()).1, entries(1..=1, 1));
}

/// What a process finds after this one was killed.
fn after_kill(dir: &std::path::Path) -> Content {
    let copy = copy_of_open(dir);
    content(&open(copy.path()))
}

#[test]
fn purging_keeps_what_follows_only_behind_the_same_id() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    now(log.persist_entries(entries(1..=10, 1))).unwrap();
    now(log.purge(LogId::new(1, 4))).unwrap();
    assert_eq!(content(&log), (LogId::new(1, 4), entries(5..=10, 1)));
    assert_eq!(after_kill(dir.path()), content(&log));
    assert!(matches!(now(log.entry(4)), Err(Error::Compacted { first: 5 })));
    assert!(matches!(now(log.truncate(4)), Err(Error::Compacted { first: 5 })));
    now(log.purge(LogId::new(1, 3))).unwrap();
    assert_eq!(log.purged(), LogId::new(1, 4));

    now(log.purge(LogId::new(2, 8))).unwrap();
    assert_eq!(content(&log), (LogId::new(2, 8), vec![]));
    assert_eq!(after_kill(dir.path()), content(&log));
    now(log.persist_entries(entries(9..=9, 2))).unwrap();
    now(log.purge(LogId::new(5, 100))).unwrap();
    assert_eq!((log.last_index(), log.purged()), (100, LogId::new(5, 100)));
    now(log.persist_entries(entries(101..=102, 5))).unwrap();
    assert_eq!(after_kill(dir.path()), content(&log));

    now(log.reset()).unwrap();
    assert_eq!(content(&log), (LogId::default(), vec![]));
    assert_eq!(after_kill(dir.path()), content(&log));
    now(log.persist_entries(entries(1..=2, 6))).unwrap();
    drop(log);
    assert_eq!(content(&open(dir.path())).1, entries(1..=2, 6));
}

#[test]
fn purging_gives_disk_space_back() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    for i in 1..=400 {
        now(log.persist_entries(vec![long_entry(i, 1, 2000)])).unwrap();
    }
    let before = segments(dir.path()).len();
    now(log.purge(LogId::new(1, 390))).unwrap();
    assert!(before > 10 && segments(dir.path()).len() <= 2, "{before} segments before");
    assert_eq!(now(log.get_entries(391..=400)).unwrap().len(), 10);
    now(log.purge(LogId::new(1, 400))).unwrap();
    assert_eq!(segments(dir.path()).len(), 1);
    drop(log);
    assert_eq!(content(&open(dir.path())), (LogId::new(1, 400), vec![]));
}

#[test]
fn a_batch_longer_than_a_segment_is_one_batch() {
    let dir = tempfile::tempdir().unwrap();
    let long: Vec<Entry> = (1..=3).map(|i| long_entry(i, 1, 300_000)).collect();
    {
        let log = open(dir.path());
        now(log.persist_entries(long.clone())).unwrap();
        now(log.persist_entries(entries(4..=4, 1))).unwrap();
        assert_eq!(now(log.get_entries(1..=3)).unwrap(), long);
    }
    assert_eq!(content(&open(dir.path())).1.len(), 4);
}

#[test]
fn a_directory_has_one_user_at_a_time_and_is_free_right_after() {
    let dir = scratch();
    for _ in 0..20 {
        let engine = FileStorageEngine::open(dir.path()).unwrap();
        let log = engine.log_store();
        drop(engine);
        now(log.persist_entries(vec![entry(log.last_index() + 1, 1)])).unwrap();
        match FileStorageEngine::open(dir.path()) {
            Err(Error::Locked { path }) => assert_eq!(path, dir.path().display().to_string()),
            other => panic!("opened twice: {other:?}"),
        }
    }
    assert_eq!(FileStorageEngine::open(dir.path()).unwrap().log_store().last_index(), 20);
}

#[test]
fn the_summary_is_the_one_that_reading_every_entry_gives() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let member = Member::new(1, 0, "a:1", MemberKind::Voter);
    let membership = Membership::new(7, vec![member], ClusterSettings::default());
    let with_membership = |index, term| Entry::new(index, term, EntryKind::Membership, membership.encode());
    now(log.persist_entries(vec![with_membership(1, 1), entry(2, 1), entry(3, 2)])).unwrap();
    now(log.persist_entries(vec![with_membership(4, 2), entry(5, 3), with_membership(6, 4)])).unwrap();
    now(log.replace_from(6, vec![entry(6, 5), entry(7, 5)])).unwrap();
    now(log.purge(LogId::new(1, 2))).unwrap();
    let copy = copy_of_open(dir.path());
    for log in [log.clone(), open(copy.path())] {
        let summary = now(log.summary()).unwrap();
        let mut expected = d_engine_core::LogSummary::new(LogId::new(1, 2));
        for entry in content(&log).1 {
            expected.push(&entry).unwrap();
        }
        assert_eq!(summary, expected);
    }
}

#[test]
fn the_hard_state_is_there_after_every_save() {
    let dir = tempfile::tempdir().unwrap();
    {
        let meta = FileStorageEngine::open(dir.path()).unwrap().meta_store();
        assert_eq!(meta.load_hard_state().unwrap(), None);
        for term in 1..10 {
            let state = HardState::new(term, Some(term % 3), None);
            meta.save_hard_state(&state).unwrap();
            assert_eq!(meta.load_hard_state().unwrap(), Some(state));
        }
    }
    let meta = FileStorageEngine::open(dir.path()).unwrap().meta_store();
    assert_eq!(meta.load_hard_state().unwrap(), Some(HardState::new(9, Some(0), None)));
}

#[test]
fn readers_beside_a_writer_see_whole_batches() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let done = AtomicBool::new(false);
    let reader = || {
        while !done.load(Ordering::Acquire) {
            // Every batch replaces the log by ten entries of one term.
            let all = now(log.get_entries(1..=u64::MAX)).unwrap();
            assert!(all.is_empty() || all.len() == 10, "{} entries", all.len());
            assert!(all.windows(2).all(|pair| pair[0].term == pair[1].term));
        }
    };
    std::thread::scope(|scope| {
        let handles = [scope.spawn(reader), scope.spawn(reader)];
        let flusher = scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                now(log.flush()).unwrap();
            }
        });
        for term in 1..=300 {
            let batch = (1..=10).map(|i| long_entry(i, term, 200)).collect();
            now(log.replace_from(1, batch)).unwrap();
        }
        done.store(true, Ordering::Release);
        for handle in handles {
            handle.join().unwrap();
        }
        flusher.join().unwrap();
    });
}

#[test]
fn random_calls_and_reopens_agree_with_a_vector() {
    for seed in 0..40 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let dir = scratch();
        let mut model = Model::default();
        let mut log = open(dir.path());
        for step in 0..120 {
            let call = model.random_call(&mut rng);
            model.apply(&call);
            call.clone().run(&log).unwrap_or_else(|error| panic!("seed {seed}, step {step}: {call:?}: {error}"));
            match rng.u8(..20) {
                0 => {
                    drop(log);
                    log = open(dir.path());
                }
                // Killed: what was written is in the cache and hence there.
                1 => {
                    let copy = copy_of_open(dir.path());
                    assert_eq!(content(&open(copy.path())), model.content(), "seed {seed}, step {step}: {call:?}");
                }
                2..6 => now(log.flush()).unwrap(),
                _ => {}
            }
            assert_eq!(content(&log), model.content(), "seed {seed}, step {step}: {call:?}");
        }
    }
}

#[test]
fn opening_reads_the_seals_and_the_last_segment_only() {
    let disk = SimDisk::new();
    let open = || FileStorageEngine::open_on(Arc::new(disk.clone()), "data", &small()).unwrap().log_store();
    let membership = |index, term| {
        let member = Member::new(index, 0, "a:1", MemberKind::Voter);
        let membership = Membership::new(index.into(), vec![member], ClusterSettings::default());
        Entry::new(index, term, EntryKind::Membership, membership.encode())
    };
    let log = open();
    for index in 1..=900 {
        let term = 1 + index / 200;
        let entry = if index % 100 == 0 { membership(index, term) } else { long_entry(index, term, 1000) };
        now(log.persist_entries(vec![entry])).unwrap();
    }
    now(log.truncate(880)).unwrap();
    now(log.purge(LogId::new(1, 150))).unwrap();
    let (shown, summary) = (content(&log), now(log.summary()).unwrap());
    drop(log);
    let before = disk.bytes_read();
    let log = open();
    let read = disk.bytes_read() - before;
    assert_eq!(now(log.summary()).unwrap(), summary);
    assert_eq!(summary.memberships.len(), 7);
    assert!(read < 300 << 10 && disk.used() > 800 << 10, "{read} bytes of {}", disk.used());
    assert_eq!(content(&log), shown);
    log.verify().unwrap();
}

#[test]
fn compressed_batches_are_read_by_whoever_does_not_compress() {
    let dir = scratch();
    let mut compressing = small();
    compressing.compression = Compression::Lz4;
    let text = |index: u64| {
        Entry::new(index, 1, EntryKind::Command, format!("the words of entry {index} again and again, ").repeat(100))
    };
    let all: Vec<Entry> = (1..=200).map(text).collect();
    for (at, batch) in all.chunks(5).enumerate() {
        // Both kinds in one log, and in one segment.
        let options = if at % 4 == 3 { small() } else { compressing.clone() };
        let log = FileStorageEngine::open_with(dir.path(), &options).unwrap().log_store();
        now(log.persist_entries(batch.to_vec())).unwrap();
        now(log.replace_from(batch[3].index, batch[3..].to_vec())).unwrap();
    }
    let log = open(dir.path());
    assert_eq!(content(&log).1, all);
    for range in [3..=4, 15..=23, 199..=200] {
        let expected = &all[*range.start() as usize - 1..*range.end() as usize];
        assert_eq!(now(log.get_entries(range)).unwrap(), expected);
    }
    let limited = now(log.read_limited(1..=200, 50_000)).unwrap();
    assert!(limited.iter().map(Entry::encoded_len).sum::<usize>() <= 50_000 && limited.len() > 8);
    log.verify().unwrap();
    let stored: u64 = segments(dir.path()).iter().map(|path| path.metadata().unwrap().len()).sum();
    let raw: usize = all.iter().map(Entry::encoded_len).sum();
    assert!((stored as usize) < raw, "{stored} bytes for {raw}");
}

#[test]
fn a_directory_that_cannot_be_used_is_named_in_the_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "in the way").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = try_open(&path).unwrap_err();
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"in the way");
    assert!(FileStorageEngine::open(dir.path().join("a/b/c")).is_ok());
}

#[test]
fn segments_grow_up_to_their_bound() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    for i in 1..=200 {
        now(log.persist_entries(vec![long_entry(i, 1, 2000)])).unwrap();
    }
    let lengths: Vec<u64> = segments(dir.path()).iter().map(|path| path.metadata().unwrap().len() >> 10).collect();
    assert_eq!(lengths[..4], [16, 32, 64, 64]);
    let options = FileStorageOptions::default();
    assert_eq!((options.segment_bytes_min, options.segment_bytes_max), (1 << 20, 64 << 20));
}
