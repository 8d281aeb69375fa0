//! The write-ahead log: a sound directory, changed anywhere, with or without mended checksums. It opens or is refused,
//! and what it then shows, it shows again after the next open.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use d_engine_core::{Entry, EntryKind, Error, HardState, LogId, LogStore, MetaStore, StorageEngine, checksum};
use d_engine_file::{Compression, FileLogStore, FileStorageEngine, FileStorageOptions};

use crate::codecs::now;
use crate::disk::MemDisk;
use crate::source::Source;

const PAGE: usize = 4096;
const BATCH_HEADER: usize = 72;
const RECORD: usize = 20;

/// The files of a directory.
type Picture = BTreeMap<PathBuf, Vec<u8>>;

/// What a log shows.
type Log = (LogId, Vec<Entry>);

fn options(compression: Compression) -> FileStorageOptions {
    let mut options = FileStorageOptions::default();
    options.segment_bytes_min = 8 << 10;
    options.segment_bytes_max = 16 << 10;
    options.tail_cache_bytes = 1 << 10;
    options.compression = compression;
    options
}

/// A directory with a few segments: entries of two terms, a truncation, a compressed batch, a purge.
fn sound_log() -> &'static Picture {
    static PICTURE: OnceLock<Picture> = OnceLock::new();
    PICTURE.get_or_init(|| {
        let disk = MemDisk::with(&Picture::new());
        let engine = FileStorageEngine::open_on(disk.clone(), "/d", &options(Compression::Lz4)).expect("memory opens");
        engine.meta_store().save_hard_state(&HardState::new(3, Some(1), None)).expect("memory saves");
        let log = engine.log_store();
        let entry = |index: u64, term: u64| {
            let data = vec![index as u8; if index.is_multiple_of(5) { 5000 } else { 300 }];
            Entry::new(index, term, EntryKind::Command, data)
        };
        for index in 1..=24 {
            now(log.persist_entries(vec![entry(index, 1)])).expect("memory takes it");
        }
        now(log.flush()).expect("memory syncs");
        now(log.truncate(22)).expect("memory takes it");
        now(log.persist_entries(vec![entry(22, 2), entry(23, 2)])).expect("memory takes it");
        now(log.purge(LogId::new(1, 4))).expect("memory takes it");
        now(log.persist_entries(vec![entry(24, 3)])).expect("memory takes it");
        // As a kill would leave it.
        pinned(disk.files())
    })
}

/// The same directory with a uuid and salts that are always the same, so that the same changes have the same effect.
fn pinned(mut picture: Picture) -> Picture {
    for (path, bytes) in &mut picture {
        if path.ends_with("log_state") {
            for slot in bytes.chunks_exact_mut(PAGE).filter(|slot| slot[0] != 0) {
                slot[32..48].fill(7);
                let sum = checksum(&[&slot[12..]]);
                slot[8..12].copy_from_slice(&sum.to_le_bytes());
            }
        } else if is_segment(path) {
            bytes[16..32].fill(7);
            bytes[88..96].fill(5);
            mend_segment(path, bytes);
        }
    }
    picture
}

fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "wal")
}

/// Changes bytes of a sound log, and opens it.
pub fn wal(data: &[u8]) {
    let mut source = Source(data);
    let mend = source.flag();
    let mut picture = sound_log().clone();
    let paths: Vec<PathBuf> = picture.keys().filter(|path| is_segment(path)).cloned().collect();
    let mut changed = false;
    while !source.is_empty() {
        let path = &paths[usize::from(source.byte()) % paths.len()];
        let Some(bytes) = picture.get_mut(path) else { return };
        change(bytes, &mut source);
        changed = true;
    }
    if mend && changed {
        picture.iter_mut().filter(|(path, _)| paths.contains(path)).for_each(|(path, bytes)| mend_segment(path, bytes));
    }
    let disk = MemDisk::with(&picture);
    let Some(shown) = show(&disk) else {
        assert_eq!(disk.files(), picture, "a refused open changes nothing");
        return;
    };
    // The next open has other files before it, and shows the same. A log with damage in it may be refused by then, as soon
    // as that lies before what is known to be synced, and one whose mended headers lie about what was synced as well; what
    // opens shows the same.
    match (show(&disk), shown) {
        (None, Err(_)) => {}
        (None, Ok(_)) if mend => {}
        (again, shown) => assert_eq!(again, Some(shown), "what was opened once opens again"),
    }
}

/// A change of one of several kinds, at a place that the header pages, the batch headers and the rest share.
fn change(bytes: &mut Vec<u8>, source: &mut Source<'_>) {
    let kind = source.byte();
    let place = usize::from(source.u16());
    let at = match kind & 3 {
        0 => place % 104,
        1 => batches(bytes).get(place >> 8).copied().unwrap_or(PAGE) + (place & 0x7f),
        _ => place,
    };
    match (kind >> 2) & 7 {
        0..=4 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = source.byte();
            }
        }
        5 => {
            let new = source.bytes(8);
            if let Some(old) = bytes.get_mut(at..at + new.len()) {
                old.copy_from_slice(new);
            }
        }
        6 => bytes.truncate(at),
        _ => {
            let end = bytes.len().min(at + PAGE);
            if at < end {
                bytes[at..end].fill(0);
            }
        }
    }
}

/// The offsets of what looks like batches.
fn batches(bytes: &[u8]) -> Vec<usize> {
    (PAGE..bytes.len().saturating_sub(BATCH_HEADER)).step_by(8).filter(|at| bytes[*at..].starts_with(b"dBat")).collect()
}

/// Mends the checksums of the header page, of every batch header, every table and all compressed data, as the formats
/// describe them.
fn mend_segment(path: &Path, bytes: &mut [u8]) {
    if bytes.len() < PAGE {
        return;
    }
    let sequence = path.file_stem().and_then(|name| name.to_str()).and_then(|name| u64::from_str_radix(name, 16).ok());
    let sequence = sequence.unwrap_or(0).to_le_bytes();
    let uuid: [u8; 16] = std::array::from_fn(|at| bytes[16 + at]);
    let sum = checksum(&[&uuid, &sequence, &bytes[12..PAGE]]);
    bytes[8..12].copy_from_slice(&sum.to_le_bytes());
    let salt: [u8; 8] = std::array::from_fn(|at| bytes[88 + at]);
    let salt: &[u8] = if salt == [0; 8] { &[] } else { &salt };
    let number = |bytes: &[u8], at: usize| u32::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte])) as usize;
    for at in batches(bytes) {
        let records = number(bytes, at + 16);
        let table = at + BATCH_HEADER;
        if let Some(end) = records.checked_mul(RECORD).map(|len| table + len).filter(|end| *end <= bytes.len()) {
            let sum = checksum(&[&uuid, &sequence, salt, &bytes[table..end]]);
            bytes[at + 8..at + 12].copy_from_slice(&sum.to_le_bytes());
            let data = at.saturating_add(number(bytes, at + 24)).min(bytes.len());
            if bytes[at + 12] & 1 == 1 && end + 4 <= data {
                let sum = checksum(&[&uuid, &sequence, salt, &bytes[end + 4..data]]);
                bytes[end..end + 4].copy_from_slice(&sum.to_le_bytes());
            }
        }
        let sum = checksum(&[&uuid, &sequence, salt, &bytes[at + 8..table]]);
        bytes[at + 4..at + 8].copy_from_slice(&sum.to_le_bytes());
    }
}

/// Opens the log, reads all of it and closes it; `None` if it is refused.
fn show(disk: &Arc<MemDisk>) -> Option<Result<Log, String>> {
    let opened = FileStorageEngine::open_on(disk.clone(), "/d", &options(Compression::None));
    let log = match opened {
        Ok(engine) => engine.log_store(),
        Err(error) => {
            assert!(is_about_files(&error), "opening ends with {error:?}");
            return None;
        }
    };
    let summary = now(log.summary());
    let entries = read(&log);
    if let Err(error) = log.verify() {
        assert!(is_about_files(&error), "verifying ends with {error:?}");
    }
    if let (Ok(summary), Ok((purged, entries))) = (&summary, &entries) {
        let last = entries.last().map_or(*purged, Entry::id);
        assert_eq!((summary.purged, summary.last), (*purged, last), "the summary is the one of the log");
    }
    Some(entries)
}

fn read(log: &FileLogStore) -> Result<Log, String> {
    let purged = log.purged();
    match now(log.get_entries(purged.index + 1..=u64::MAX)) {
        Ok(entries) => {
            let indexes: Vec<u64> = entries.iter().map(|entry| entry.index).collect();
            let expected: Vec<u64> = (purged.index + 1..=log.last_index()).collect();
            assert_eq!(indexes, expected, "a log has no holes");
            Ok((purged, entries))
        }
        Err(error) => {
            assert!(is_about_files(&error), "reading ends with {error:?}");
            // Files have other names after an open; what is damaged is the same.
            let Error::Corrupt { indexes, .. } = error else { return Err(String::new()) };
            Err(format!("{indexes:?}"))
        }
    }
}

fn is_about_files(error: &Error) -> bool {
    matches!(error, Error::Corrupt { .. } | Error::Unsupported { .. } | Error::Io { .. })
}
