//! The state machine: one store, one writer, reads from any thread.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use async_trait::async_trait;
use bytes::Bytes;
use d_engine_core::{
    ApplyResult, Direction, Entry, Error, KeyRange, KvCommand, KvOutcome, KvQuery, KvStore, KvView, LogId, Result,
    SnapshotChecksum, SnapshotMetadata, SnapshotView, StateMachine,
};

use crate::evaluate::{evaluate, unknown};
use crate::layout::{Bookkeeping, with_store_key};
use crate::query::answer;
use crate::record::Record;
use crate::snapshot;

/// The built-in key-value state machine over a [`KvStore`], which it has to itself.
///
/// Entries carry encoded [`KvCommand`](d_engine_core::KvCommand)s and answer with encoded [`KvOutcome`]s; an entry that
/// had been applied before answers with nothing. [`read_at`](StateMachine::read_at) takes an encoded [`KvQuery`] and
/// gives an encoded [`KvAnswer`](d_engine_core::KvAnswer). Each chunk is one batch of the store: records, last applied
/// entry, revision and number of keys become visible, and durable, together.
pub struct KvStateMachine {
    store: Arc<dyn KvStore>,
    /// Held exclusively while a chunk is applied or the state is replaced; shared by readers of stores without views,
    /// for which it is what makes several reads one point in time.
    applying: RwLock<()>,
    /// What the store's bookkeeping record says; never ahead of it.
    book: Mutex<Bookkeeping>,
    running: AtomicBool,
}

impl KvStateMachine {
    /// A machine that continues where the store stands.
    ///
    /// # Errors
    /// `Invalid` for a store that holds other data, `Unsupported` for one that a newer version wrote, and what the store
    /// itself says.
    pub fn new(store: impl KvStore) -> Result<Self> {
        Self::from_arc(Arc::new(store))
    }

    /// [`new`](KvStateMachine::new) for a store that is shared already. Nothing else may write to it.
    ///
    /// # Errors
    /// As [`new`](KvStateMachine::new).
    pub fn from_arc(store: Arc<dyn KvStore>) -> Result<Self> {
        let book = Bookkeeping::open(&Present(&*store))?;
        Ok(Self { store, applying: RwLock::new(()), book: Mutex::new(book), running: AtomicBool::new(false) })
    }

    /// Applies the chunk and returns one outcome per entry, `None` for an entry that had been applied before.
    fn apply_now(&self, chunk: &[Entry]) -> Result<Vec<Option<KvOutcome>>> {
        let _applying = self.applying.write().unwrap_or_else(PoisonError::into_inner);
        let before = *self.book();
        let evaluated = evaluate(&*self.store, before, chunk)?;
        if let Some(batch) = evaluated.batch {
            self.store.write(batch)?;
            *self.book() = evaluated.book;
        }
        Ok(evaluated.outcomes)
    }

    /// Runs `f` on one point in time: a view of the store, or the store itself with writers held off.
    fn at_one_point(&self, f: &mut dyn FnMut(&dyn KvView) -> Result<()>) -> Result<()> {
        if self.store.with_view(f)? {
            return Ok(());
        }
        let _no_writer = self.applying.read().unwrap_or_else(PoisonError::into_inner);
        f(&Present(&*self.store))
    }

    // A poisoned lock is used on: what it guards is replaced whole, after the store's write has returned.
    fn book(&self) -> MutexGuard<'_, Bookkeeping> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl StateMachine for KvStateMachine {
    fn start(&self) -> Result<(), Error> {
        self.running.store(true, Ordering::Release);
        Ok(())
    }

    fn stop(&self) -> Result<(), Error> {
        self.running.store(false, Ordering::Release);
        Ok(())
    }

    fn is_running(&self) -> bool {
        self.running.load(Ordering::Acquire)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.get_bytes(key)?.map(Vec::from))
    }

    fn get_bytes(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let stored = with_store_key(key, |store_key| self.store.get(store_key))?;
        Ok(stored.map(Record::decode).transpose()?.map(|record| record.value))
    }

    async fn apply_chunk(&self, chunk: Vec<Entry>) -> Result<(), Error> {
        self.apply_now(&chunk).map(|_| ())
    }

    async fn apply(&self, chunk: Vec<Entry>) -> Result<Vec<ApplyResult>, Error> {
        let outcomes = self.apply_now(&chunk)?;
        let result = |(entry, outcome): (&Entry, Option<KvOutcome>)| {
            ApplyResult::new(entry.index, outcome.map_or_else(Bytes::new, |outcome| outcome.encode()))
        };
        Ok(chunk.iter().zip(outcomes).map(result).collect())
    }

    fn check_command(&self, command: &[u8]) -> Result<(), Error> {
        match KvCommand::decode(command)? {
            KvCommand::Put { .. } | KvCommand::Delete { .. } | KvCommand::Cas { .. } => Ok(()),
            other => Err(unknown(&other)),
        }
    }

    fn read_at(&self, query: Bytes) -> Result<(Bytes, LogId), Error> {
        // A damaged question is the caller's fault; `Corrupt` would tell the engine that this replica's data is damaged.
        let query = KvQuery::decode_bytes(query).map_err(|error| match error {
            Error::Corrupt { place, .. } => Error::invalid(format!("the bytes are no query: {place}")),
            other => other,
        })?;
        let mut found = None;
        self.at_one_point(&mut |view| {
            let book = Bookkeeping::load(view)?;
            found = Some((answer(view, &book, &query)?, book.last_applied));
            Ok(())
        })?;
        let (answer, last_applied) = found
            .ok_or_else(|| Error::backend("KvStore::with_view answered that it ran its closure, and had not run it"))?;
        Ok((answer.encode(), last_applied))
    }

    fn len(&self) -> usize {
        usize::try_from(self.book().keys).unwrap_or(usize::MAX)
    }

    fn last_applied(&self) -> LogId {
        self.book().last_applied
    }

    fn snapshot_metadata(&self) -> Option<SnapshotMetadata> {
        None
    }

    async fn generate_snapshot_data(&self, dir: PathBuf, last_included: LogId) -> Result<SnapshotChecksum, Error> {
        let mut written = None;
        self.at_one_point(&mut |view| {
            let book = Bookkeeping::load(view)?;
            if book.last_applied != last_included {
                return Err(Error::invalid(format!(
                    "a snapshot of {last_included} was asked for, and the state is that of {}",
                    book.last_applied
                )));
            }
            written = Some(snapshot::write(view, &book, &dir)?);
            Ok(())
        })?;
        written.ok_or_else(view_not_run)
    }

    async fn apply_snapshot_from_file(&self, metadata: &SnapshotMetadata, path: PathBuf) -> Result<(), Error> {
        let verified = snapshot::Verified::open(metadata, &path)?;
        let _applying = self.applying.write().unwrap_or_else(PoisonError::into_inner);
        *self.book() = verified.install(&*self.store)?;
        Ok(())
    }

    fn begin_snapshot(&self) -> Result<Option<Box<dyn SnapshotView>>, Error> {
        snapshot::begin(self.store.clone())
    }

    fn flush(&self) -> Result<(), Error> {
        self.store.flush()
    }

    async fn reset(&self) -> Result<(), Error> {
        let _applying = self.applying.write().unwrap_or_else(PoisonError::into_inner);
        self.store.replace_all(&mut std::iter::empty())?;
        *self.book() = Bookkeeping::default();
        Ok(())
    }
}

impl fmt::Debug for KvStateMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvStateMachine").field("book", &*self.book()).finish_non_exhaustive()
    }
}

fn view_not_run() -> Error {
    Error::backend("KvStore::with_view answered that it had run its closure, and it had not")
}

/// A store as it is now: one point in time only while nobody writes.
struct Present<'a>(&'a dyn KvStore);

impl KvView for Present<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.0.get(key)
    }

    fn scan(&self, range: KeyRange<'_>, limit: usize, direction: Direction) -> Result<Vec<(Bytes, Bytes)>, Error> {
        self.0.scan(range, limit, direction)
    }
}
