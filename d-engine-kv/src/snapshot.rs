//! Portable snapshots: leases, sessions and records as the store holds them, in core's block format, equal on every backend.
//!
//! Last applied entry and revision stand in the header, the number of keys is counted; so the bookkeeping record itself
//! is not among the records. Keys keep their store prefix, which says of what kind a record is.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use d_engine_core::snapshot::{
    ChecksumWriter, SnapshotCompression, SnapshotHeader, SnapshotReader, SnapshotWriter, Steady,
};
use d_engine_core::{
    Direction, Error, KvStore, KvView, LogId, Result, SnapshotChecksum, SnapshotMetadata, SnapshotView, compact_pair,
};
use sha2::{Digest, Sha256};

use crate::layout::{BOOKKEEPING_KEY, Bookkeeping, StoreRange, is_user_key};
use crate::record::Record;
use crate::scan::Scan;
use crate::tables::Tables;

/// Name of the file that a snapshot is, in the directory that it is written into.
pub const SNAPSHOT_FILE: &str = "snapshot.bin";

/// Writes the state of `view`, to which `book` belongs, into `dir`, which must exist. Synced on return, the directory
/// too; until then there is no file of that name.
pub(crate) fn write(
    view: &dyn KvView,
    book: &Bookkeeping,
    dir: &Path,
    compression: SnapshotCompression,
) -> Result<SnapshotChecksum> {
    let path = dir.join(SNAPSHOT_FILE);
    let unfinished = path.with_extension("unfinished");
    let doing = |what: &str| format!("{what} snapshot {}", path.display());
    let file = File::create(&unfinished).map_err(|source| Error::io(doing("creating"), source))?;
    let header = SnapshotHeader::new(book.last_applied, book.revision);
    let output = ChecksumWriter::new(BufWriter::new(Steady::new(file)));
    let mut writer = SnapshotWriter::new(output, header)?.with_compression(compression);
    let mut keys = 0;
    for range in [StoreRange::internal(), StoreRange::users()] {
        let mut scan = Scan::new(view, range, Direction::Forward, usize::MAX);
        while let Some((key, value)) = scan.next_pair()? {
            if key != BOOKKEEPING_KEY {
                keys += u64::from(is_user_key(&key));
                writer.push(&key, &value)?;
            }
        }
    }
    let (output, _) = writer.finish()?;
    book.expect_keys(keys)?;
    let (output, checksum) = output.finish();
    let output = output.into_inner().map_err(|error| Error::io(doing("writing"), error.into_error()))?;
    output.into_inner().sync_all().map_err(|source| Error::io(doing("syncing"), source))?;
    fs::rename(&unfinished, &path).map_err(|source| Error::io(doing("renaming"), source))?;
    sync_dir(dir).map_err(|source| Error::io(doing("syncing the directory of"), source))?;
    Ok(checksum)
}

/// Only Unix can, and needs to, sync a directory.
fn sync_dir(dir: &Path) -> std::io::Result<()> {
    if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
}

/// A snapshot file that has been read and checked to its end.
#[derive(Debug)]
pub(crate) struct Verified {
    file: File,
    book: Bookkeeping,
}

impl Verified {
    /// Checks everything there is to check: length, checksum, format, label, and each record.
    ///
    /// # Errors
    /// `Corrupt` for damage, `Invalid` for a snapshot of another entry than the metadata's, `Unsupported` for one that a
    /// newer version wrote, `Io`.
    pub(crate) fn open(metadata: &SnapshotMetadata, path: &Path) -> Result<Self> {
        let shown = path.display();
        let opening = |source| Error::io(format!("opening snapshot {shown}"), source);
        let file = File::open(path).map_err(opening)?;
        let len = file.metadata().map_err(opening)?.len();
        if len != metadata.size {
            return Err(Error::corrupt(format!("snapshot {shown}: {len} bytes, expected {}", metadata.size)));
        }
        let mut input = ChecksumReader { input: file, digest: Sha256::new() };
        let mut reader = SnapshotReader::new(&mut input)?;
        let header = reader.header();
        let mut content = Content::default();
        while let Some((key, value)) = reader.next_record()? {
            content.take_in(&key, value)?;
        }
        let ChecksumReader { input: file, digest } = input;
        if digest.finalize()[..] != *metadata.checksum.as_ref() {
            return Err(Error::corrupt(format!("snapshot {shown}: its checksum is not {}", metadata.checksum)));
        }
        if header.last_included != metadata.last_included {
            return Err(Error::invalid(format!(
                "snapshot {shown} holds the state of {}, its metadata says {}",
                header.last_included, metadata.last_included
            )));
        }
        content.check()?;
        let book = Bookkeeping { last_applied: header.last_included, revision: header.revision, keys: content.keys };
        Ok(Self { file, book })
    }

    /// Replaces everything in `store`, atomically and durably, and returns the bookkeeping that is now in it.
    pub(crate) fn install(mut self, store: &dyn KvStore) -> Result<Bookkeeping> {
        self.file.seek(SeekFrom::Start(0)).map_err(|source| Error::io("reading a snapshot again", source))?;
        let reader = SnapshotReader::new(&self.file)?;
        // Copied, because a store may keep them for long, and they share the memory of a whole block.
        let copied = |(key, value): (Bytes, Bytes)| compact_pair(&key, &value);
        let records = reader.map(|record| record.map(copied));
        // A machine in its initial state has no bookkeeping record.
        let book = (self.book != Bookkeeping::default()).then(|| self.book.to_pair());
        store.replace_all(&mut WithBook { book, records: records.peekable() })?;
        Ok(self.book)
    }
}

/// The records of a snapshot with the bookkeeping record in its place among them.
struct WithBook<I: Iterator<Item = Result<(Bytes, Bytes)>>> {
    book: Option<(Bytes, Bytes)>,
    records: std::iter::Peekable<I>,
}

impl<I: Iterator<Item = Result<(Bytes, Bytes)>>> Iterator for WithBook<I> {
    type Item = Result<(Bytes, Bytes)>;

    fn next(&mut self) -> Option<Self::Item> {
        let is_books_turn = match self.records.peek() {
            Some(Ok((key, _))) => *key > BOOKKEEPING_KEY,
            Some(Err(_)) => false,
            None => true,
        };
        if is_books_turn && let Some(book) = self.book.take() {
            return Some(Ok(book));
        }
        self.records.next()
    }
}

/// What has been read of a snapshot, as far as its parts must fit each other.
#[derive(Default)]
pub(crate) struct Content {
    pub(crate) tables: Tables,
    pub(crate) keys: u64,
    /// Keys with a lease, by lease.
    leased: BTreeMap<u64, u64>,
}

impl Content {
    pub(crate) fn take_in(&mut self, key: &[u8], value: Bytes) -> Result<()> {
        if !is_user_key(key) {
            return self.tables.take_in(key, &value);
        }
        let record = Record::decode(value)?;
        self.keys += 1;
        if record.lease != 0 {
            *self.leased.entry(record.lease).or_default() += 1;
        }
        Ok(())
    }

    /// That records and leases agree, and results and sessions.
    pub(crate) fn check(&self) -> Result<()> {
        self.tables.loaded()?;
        let counted = self.tables.leases.iter().filter(|(_, lease)| lease.keys > 0).map(|(id, lease)| (id, lease.keys));
        if counted.eq(self.leased.iter().map(|(id, keys)| (*id, *keys))) {
            return Ok(());
        }
        Err(Error::corrupt("a snapshot of the key-value state: its keys and its leases do not agree"))
    }
}

/// Passes reads on and computes the checksum of every byte.
struct ChecksumReader<R> {
    input: R,
    digest: Sha256,
}

impl<R: Read> Read for ChecksumReader<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let n = self.input.read(out)?;
        self.digest.update(&out[..n]);
        Ok(n)
    }
}

/// A view of the store's present state, held open by a thread of its own; `None` for a store without views.
///
/// Views live on the stack of `with_view`, so that a store needs no owned view type and no unsafe code: a thread stands
/// in there until the snapshot is written or given up.
pub(crate) fn begin(
    store: Arc<dyn KvStore>,
    compression: SnapshotCompression,
) -> Result<Option<Box<dyn SnapshotView>>> {
    let (opened, has_opened) = sync_channel::<LogId>(1);
    let (order, orders) = sync_channel::<PathBuf>(1);
    let hold_view = move || {
        let mut written = None;
        store.with_view(&mut |view| {
            let book = Bookkeeping::load(view)?;
            // Errors of the channels mean that the other side has gone: then there is nothing to do.
            if opened.send(book.last_applied).is_ok()
                && let Ok(dir) = orders.recv()
            {
                written = Some(write(view, &book, &dir, compression)?);
            }
            Ok(())
        })?;
        Ok(written)
    };
    let thread = thread::Builder::new()
        .name("kv-snapshot".into())
        .spawn(hold_view)
        .map_err(|source| Error::io("starting the thread of a snapshot", source))?;
    match has_opened.recv() {
        Ok(last_applied) => Ok(Some(Box::new(HeldView { last_applied, order: Some(order), thread: Some(thread) }))),
        Err(_) => join(thread).map(|_| None),
    }
}

type SnapshotThread = JoinHandle<Result<Option<SnapshotChecksum>>>;

struct HeldView {
    last_applied: LogId,
    order: Option<SyncSender<PathBuf>>,
    thread: Option<SnapshotThread>,
}

impl SnapshotView for HeldView {
    fn last_applied(&self) -> LogId {
        self.last_applied
    }

    fn write(mut self: Box<Self>, dir: &Path) -> Result<SnapshotChecksum, Error> {
        let (Some(order), Some(thread)) = (self.order.take(), self.thread.take()) else {
            unreachable!("both are there until write or drop, and each of them ends the view");
        };
        // A thread that has died answers through join.
        let _ = order.send(dir.to_path_buf());
        join(thread)?.ok_or_else(|| Error::backend("the snapshot's thread ended without writing it"))
    }
}

impl Drop for HeldView {
    fn drop(&mut self) {
        drop(self.order.take());
        if let Some(thread) = self.thread.take() {
            // Unwritten: nobody is left to hear how the thread ended.
            let _ = thread.join();
        }
    }
}

fn join(thread: SnapshotThread) -> Result<Option<SnapshotChecksum>> {
    thread.join().unwrap_or_else(|_| Err(Error::backend("the snapshot's thread panicked")))
}
