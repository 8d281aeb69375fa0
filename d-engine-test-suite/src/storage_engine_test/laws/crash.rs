//! Laws of crashes, damage and full disks.

use std::path::Path;
use std::time::{Duration, Instant};

use d_engine_core::{Entry, EntryKind, Error, LogId, LogStore, StorageEngine};
use tempfile::TempDir;

use super::{StorageEngineBuilder, expect_log};
use crate::crash::crash_laws;
use crate::law::{LawResult, Why, held, not_checked};
use crate::process::{Child, files_below, open_again};
use crate::storage_engine_test::subject::{Log, Vote};

crash_laws! { StorageEngineBuilder:
    /// A process that is killed has lost nothing that it flushed, and left no half of a call.
    kill_nine_loses_nothing_flushed = kill of Log,
        "flushed entries are acknowledged; losing one, or showing a part of a batch, loses a committed write";
    /// A process that is killed has lost no vote that it saved.
    kill_nine_keeps_the_vote = kill of Vote,
        "a server that forgets its vote votes twice, and two leaders share a term";
    /// A copy of the directory of a stopped process is what a kill at that moment would have left.
    copies_of_a_stopped_process_hold_a_prefix = copies of Log,
        "a crash may come between any two system calls; what was flushed is acknowledged";
    /// Every state that a crash may leave on a simulated disk is the log after a prefix of the calls.
    crash_images_hold_a_prefix = images of Log,
        "the order in which a device keeps unsynced writes is nobody's promise";
    /// After a loss of power everything is there that was flushed, and whole calls only.
    power_cut_loses_nothing_flushed = power_cut of Log,
        "a write that is not synced, or a file whose name is not, is gone with the power; it was acknowledged";
    /// After a loss of power the vote saved last is there.
    power_cut_keeps_the_vote = power_cut of Vote,
        "the vote is answered as soon as it is saved; a server that forgets it votes twice";
    /// Write, kill -9, open, power cut: what the open showed is there.
    what_open_shows_is_durable = open_is_durable of Log,
        "a node acknowledges what it finds on opening; that must not rest on the page cache of a killed process";
    /// A write that was not flushed and is on the disk in part is cut off, and what follows survives the next restart.
    a_torn_tail_is_cut = torn of Log,
        "a crash leaves any part of an unflushed write; a node that does not start then is lost without need";
    /// Damaged files are an error or no damage at all.
    damage_is_corrupt_and_never_a_hole = damage of Log,
        "a log that is silently shorter or other has lost what the node acknowledged, and the node votes as if it had it";
    /// A hard state that cannot be read is an error, never none and never an older one.
    unreadable_hard_state_is_an_error = damage of Vote,
        "a node that takes a damaged vote for no vote, or an older one, votes twice in one term";
    /// After a write or sync that failed nothing is acknowledged any more, until a reopen.
    a_failed_write_or_sync_poisons = failed_calls of Log,
        "after a failed sync the kernel may call pages clean that never reached the disk; a second sync proves nothing";
    /// A save of the hard state that failed is the last one, until a reopen.
    a_failed_save_of_the_vote_poisons = failed_calls of Vote,
        "after a failed sync nobody knows which vote is on the disk; a second sync proves nothing";
    /// A full disk is refused with `NoSpace`; the same call succeeds once there is space, and reads go on.
    a_full_disk_is_clean_and_retryable = full_disk of Log,
        "a full disk is ordinary; a node goes on by itself once there is space, without losing its log";
}

/// Purging a log gives its space back.
pub async fn purge_shrinks_disk_use<B: StorageEngineBuilder>(_builder: &B, _child: &Child) -> LawResult {
    const ENTRIES: u64 = 96;
    const LEN: usize = 256 << 10;
    let why =
        Why("a log that only grows fills the disk, and the snapshots that allow it to be purged were for nothing");
    let dir = why.ok("making a temporary directory", TempDir::new().map_err(Error::from))?;
    let Some(builder) = B::at(dir.path()) else {
        return not_checked("the builder opens no store in a directory of the suite's choice; give it `at(dir)`");
    };
    let engine = why.ok("opening a store in an empty directory", builder.build().await)?;
    if engine.is_volatile() {
        return not_checked("the engine is volatile");
    }
    let log = engine.log_store();
    let mut random = fastrand::Rng::with_seed(11);
    let mut data = vec![0; LEN];
    let mut last = Vec::new();
    for index in 1..=ENTRIES {
        random.fill(&mut data);
        last = vec![Entry::new(index, 1, EntryKind::Command, &data)];
        why.ok("persisting 256 KiB", log.persist_entries(last.clone()).await)?;
        if index.is_multiple_of(8) {
            why.ok("flush()", log.flush().await)?;
        }
    }
    let before = why.ok("measuring the directory", bytes_on_disk(dir.path()).map_err(Error::from))?;
    why.ok("purging all but the last entry", log.purge(LogId::new(1, ENTRIES - 1)).await)?;
    let written = ENTRIES * LEN as u64;
    let limit = before.saturating_sub(written / 4);
    let mut after = why.ok("measuring the directory", shrink(dir.path(), limit).map_err(Error::from))?;
    let again = open_again(|| drop((log, engine)), || builder.build()).await;
    let engine = why.ok("opening the store again", again)?;
    if after > limit {
        after = why.ok("measuring the directory", shrink(dir.path(), limit).map_err(Error::from))?;
    }
    let expected =
        format!("of {before} bytes on the disk, {written} of them entries, at most {limit} are left by a purge");
    why.holds(&expected, after <= limit, format!("{after} bytes, some seconds later"))?;
    let boundary = LogId::new(1, ENTRIES - 1);
    expect_log(&*engine.log_store(), why, "after a purge and a reopen", boundary, &last).await?;
    held()
}

/// Waits a while until a directory takes no more than `limit` bytes; what it takes then.
fn shrink(dir: &Path, limit: u64) -> std::io::Result<u64> {
    let started = Instant::now();
    loop {
        let bytes = bytes_on_disk(dir)?;
        if bytes <= limit || started.elapsed() > Duration::from_secs(5) {
            return Ok(bytes);
        }
        // The store may give space back in the background.
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The blocks of all files, as `du` counts them.
fn bytes_on_disk(dir: &Path) -> std::io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let blocks = |path: &std::path::PathBuf| match std::fs::metadata(path) {
        Ok(metadata) => Ok(metadata.blocks() * 512),
        // Removed in the meantime.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    };
    files_below(dir)?.iter().map(blocks).sum()
}
