//! Opening a log: what was read becomes durable, and the place for the next write is found.
//!
//! Nothing is written before everything has been read and found sound. What the disk may never have got (it stood in the
//! cache when a process died, or a sync failed) is written anew into a fresh segment; the old bytes stay as they are.

use std::path::Path;
use std::sync::Arc;

use d_engine_core::{Error, LogId, Result};

use crate::FileStorageOptions;
use crate::batch::{Batch, Place};
use crate::log_index::LogIndex;
use crate::log_state::{self, LogState};
use crate::replay::{LastSegment, check_follows, replay};
use crate::segment::{FIRST_BATCH, Position, Seed, SegmentHeader, page_up, sequence_of};
use crate::shared::Shared;
use crate::slot_file::SlotFile;
use crate::vfs::VfsFile;
use crate::wal::{Prepared, STEP, WalDir};

/// The segment that is being written.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) sequence: u64,
    pub(crate) file: Arc<dyn VfsFile>,
    /// Length of the file.
    pub(crate) length: u64,
    /// Where the last batch ends.
    pub(crate) end: u64,
    pub(crate) seed: Seed,
}

impl Active {
    pub(crate) fn new(header: &SegmentHeader, file: Arc<dyn VfsFile>, end: u64) -> Self {
        Self { sequence: header.sequence, file, length: header.length, end, seed: header.seed() }
    }

    pub(crate) fn position(&self) -> Position {
        Position::new(self.sequence, self.end)
    }
}

/// Opens the log whose state file is at `state_path`.
pub(crate) fn open_log(
    wal: WalDir,
    state_path: &Path,
    options: &FileStorageOptions,
) -> Result<(Shared, LogIndex, Active)> {
    let (file, payload) = SlotFile::open(wal.disk.as_ref(), state_path, log_state::TAG)?;
    let state = LogState::decode(&payload).map_err(|error| file.name(error))?;
    let listing = |e| Error::io(format!("listing {}", wal.path().display()), e);
    let names = wal.disk.list(wal.path()).map_err(listing)?;
    let mut sequences: Vec<u64> = names.iter().filter_map(|name| sequence_of(name)).collect();
    sequences.sort_unstable();
    let leftovers = sequences.partition_point(|sequence| *sequence < state.first_segment);
    let replayed = replay(&wal, &state, &sequences[leftovers..], options.tail_cache_bytes)?;

    file.settle(&payload)?;
    for sequence in &sequences[..leftovers] {
        wal.remove(*sequence)?;
    }
    wal.disk
        .sync_dir(wal.path())
        .map_err(|e| Error::io(format!("syncing the directory {}", wal.path().display()), e))?;
    let mut index = replayed.index;
    let active = match replayed.last {
        None => first_segment(&wal, &state, &mut index, options)?,
        Some(last) if last.unproven.is_empty() && !last.torn => Active::new(&last.header, last.file, last.proven),
        Some(last) => fresh_segment(&wal, last, &mut index)?,
    };
    let shared = Shared::new(wal, state, file, active.position());
    shared.save_state(|_| {})?;
    Ok((shared, index, active))
}

fn first_segment(wal: &WalDir, state: &LogState, index: &mut LogIndex, options: &FileStorageOptions) -> Result<Active> {
    let mut prepared = wal.begin_prepared()?;
    wal.extend_prepared(&mut prepared, options.segment_bytes_min)?;
    let header = SegmentHeader {
        uuid: state.uuid,
        sequence: state.first_segment,
        previous: state.purged,
        previous_end: 0,
        length: prepared.length,
    };
    wal.activate(&prepared, &header)?;
    index.push_segment(header.sequence, Arc::clone(&prepared.file));
    Ok(Active::new(&header, prepared.file, FIRST_BATCH))
}

/// A new segment that continues where the last proof of the one before it ends, with the unproven batches in it.
fn fresh_segment(wal: &WalDir, last: LastSegment, index: &mut LogIndex) -> Result<Active> {
    let needed: u64 = last.unproven.iter().map(|batch| batch.change.encoded_len()).sum();
    let mut prepared = wal.begin_prepared()?;
    wal.extend_prepared(&mut prepared, page_up(FIRST_BATCH + needed).max(last.header.length))?;
    let (last_index, last_term) = index.last();
    let header = SegmentHeader {
        uuid: last.header.uuid,
        sequence: last.header.sequence + 1,
        previous: LogId::new(last_term.unwrap_or(0), last_index),
        previous_end: last.proven,
        length: prepared.length,
    };
    index.push_segment(header.sequence, Arc::clone(&prepared.file));
    let synced = Position::new(last.header.sequence, last.proven);
    let end = rewrite(wal, &prepared, &header, synced, last.unproven, index)?;
    wal.activate(&prepared, &header)?;
    Ok(Active::new(&header, prepared.file, end))
}

fn rewrite(
    wal: &WalDir,
    prepared: &Prepared,
    header: &SegmentHeader,
    synced: Position,
    batches: Vec<Batch>,
    index: &mut LogIndex,
) -> Result<u64> {
    let seed = header.seed();
    let mut bytes = Vec::new();
    let mut gathered: Vec<u8> = Vec::new();
    let mut end = FIRST_BATCH;
    for Batch { change, header: old, .. } in batches {
        check_follows(index, &change).map_err(|why| {
            let path = wal.segment_path(header.sequence - 1);
            Error::corrupt(format!("{} offset {}: {why}; {}", path.display(), old.place.position, crate::RECOVERY))
        })?;
        change.encode(&seed, Place { position: end, previous_end: end, synced }, &mut bytes);
        gathered.extend_from_slice(&bytes);
        let data_start = end + change.data_start();
        end += bytes.len() as u64;
        index.apply(change, data_start, false);
        if gathered.len() as u64 >= STEP {
            let at = end - gathered.len() as u64;
            prepared.file.write_all_at(&gathered, at).map_err(|e| writing(wal, header, e))?;
            gathered.clear();
        }
    }
    let at = end - gathered.len() as u64;
    prepared.file.write_all_at(&gathered, at).map_err(|e| writing(wal, header, e))?;
    Ok(end)
}

fn writing(wal: &WalDir, header: &SegmentHeader, error: std::io::Error) -> Error {
    Error::io(format!("rewriting the end of the log into {}", wal.segment_path(header.sequence).display()), error)
}
