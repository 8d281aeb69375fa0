//! Opening a log: what was read becomes durable, and the place for the next write is found.
//!
//! Nothing is written before everything has been read and found sound. What the disk may never have got (it stood in the
//! cache when a process died, or a sync failed) is written anew into a fresh segment; the old bytes stay as they are.

use std::path::Path;
use std::sync::Arc;

use d_engine_core::{Error, LogId, Result};

use crate::FileStorageOptions;
use crate::active::Active;
use crate::batch::{self, Batch, Place};
use crate::log_index::LogIndex;
use crate::log_state::{self, LogState};
use crate::replay::{LastSegment, check_follows, replay};
use crate::segment::{FIRST_BATCH, Position, SegmentHeader, new_salt, page_up, sequence_of};
use crate::shared::Shared;
use crate::slot_file::SlotFile;
use crate::wal::{Prepared, STEP, WalDir};

/// An opened log.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) shared: Shared,
    pub(crate) index: LogIndex,
    pub(crate) active: Active,
    /// Files to be written again.
    pub(crate) spares: Vec<Prepared>,
}

/// Opens the log whose state file is at `state_path`.
pub(crate) fn open_log(wal: WalDir, state_path: &Path, options: &FileStorageOptions) -> Result<Opened> {
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
    let spares = wal.leftovers(&names, options.spare_segments_max)?;
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
    Ok(Opened { shared, index, active, spares })
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
        salt: new_salt(),
        seal_length: 0,
    };
    wal.activate(&prepared, &header, &[])?;
    index.push_segment(header.sequence, Arc::clone(&prepared.file), 0);
    Ok(Active::new(&header, prepared.file, FIRST_BATCH))
}

/// A new segment that continues where the last proof of the one before it ends, with a seal of that one and the unproven
/// batches in it.
fn fresh_segment(wal: &WalDir, last: LastSegment, index: &mut LogIndex) -> Result<Active> {
    let (last_index, last_term) = index.last();
    let seal = index.seal(last.proven, index.purged()).map(|seal| seal.encode()).unwrap_or_default();
    let mut header = SegmentHeader {
        uuid: last.header.uuid,
        sequence: last.header.sequence + 1,
        previous: LogId::new(last_term.unwrap_or(0), last_index),
        previous_end: last.proven,
        length: 0,
        salt: new_salt(),
        seal_length: batch::seal_batch_len(&seal),
    };
    let needed: u64 = last.unproven.iter().map(|batch| batch.change.encoded_len()).sum();
    let mut prepared = wal.begin_prepared()?;
    wal.extend_prepared(&mut prepared, page_up(header.first_batch() + needed).max(last.header.length))?;
    header.length = prepared.length;
    index.push_segment(header.sequence, Arc::clone(&prepared.file), header.previous_end);

    let synced = Position::new(last.header.sequence, last.proven);
    let mut content = Vec::new();
    let place = Place { position: FIRST_BATCH, previous_end: FIRST_BATCH, synced };
    batch::encode_seal(&seal, &header.seed(), place, &mut content);
    let end = rewrite(wal, &prepared, &header, synced, last.unproven, index)?;
    wal.activate(&prepared, &header, &content)?;
    Ok(Active::new(&header, prepared.file, end))
}

/// Writes the batches into the segment of `header`, behind its seal; says where they end.
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
    let mut end = header.first_batch();
    for Batch { change, header: old, .. } in batches {
        check_follows(index, &change).map_err(|why| {
            let path = wal.segment_path(header.sequence - 1);
            Error::corrupt(format!("{} offset {}: {why}; {}", path.display(), old.place.position, crate::RECOVERY))
        })?;
        let body = change.encode(&seed, Place { position: end, previous_end: end, synced }, None, &mut bytes);
        gathered.extend_from_slice(&bytes);
        end += bytes.len() as u64;
        index.apply(change, body, false);
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
