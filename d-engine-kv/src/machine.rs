//! The state machine: one store, one writer, reads from any thread.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use d_engine_core::command::{KvWatch, check_key};
use d_engine_core::snapshot::SnapshotCompression;
use d_engine_core::{
    ApplyResult, Direction, Entry, Error, KeyRange, KvAnswer, KvCommand, KvQuery, KvRequest, KvStore, KvView, LogId,
    Result, SnapshotChecksum, SnapshotMetadata, SnapshotView, StateMachine, WatchSink,
};

use crate::evaluate::evaluate;
use crate::layout::{BOOKKEEPING_KEY, Bookkeeping, store_key, with_store_key};
use crate::lease_clock::LeaseClock;
use crate::query::answer;
use crate::record::Record;
use crate::shown_book::ShownBook;
use crate::snapshot;
use crate::tables::Tables;
use crate::watch::{HISTORY_BYTES, Watches};

/// How often watchers that ask for it are told how far they have come.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// The built-in key-value state machine over a [`KvStore`], which it has to itself.
///
/// Entries carry encoded [`KvRequest`]s and answer with encoded [`KvOutcome`](d_engine_core::KvOutcome)s; an entry that had
/// been applied before answers with nothing. [`read_at`](StateMachine::read_at) takes an encoded [`KvQuery`] and gives an
/// encoded [`KvAnswer`]; [`watch`](StateMachine::watch) takes an encoded [`KvWatch`] and gives encoded
/// [`WatchMessage`](d_engine_core::command::WatchMessage)s. Each chunk is one batch of the store: records, leases, sessions,
/// last applied entry, revision and number of keys become visible, and durable, together.
pub struct KvStateMachine {
    store: Arc<dyn KvStore>,
    /// Whether several keys can be read at one point in time without holding `applying`.
    has_views: bool,
    /// Held exclusively while a chunk is applied or the state is replaced; shared by readers of stores without views,
    /// for which it is what makes several reads one point in time.
    applying: RwLock<Live>,
    /// What the store's bookkeeping record says; never ahead of it.
    book: ShownBook,
    clock: Mutex<Clock>,
    watches: Watches,
    compression: SnapshotCompression,
    running: AtomicBool,
}

/// What belongs to whoever applies.
struct Live {
    tables: Tables,
    /// A chunk was evaluated and not written: the tables are not the store's.
    stale: bool,
}

/// What this node has been told of the time.
#[derive(Default)]
struct Clock {
    leases: LeaseClock,
    progress_told: Duration,
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
        let tables = Tables::load(&Present(&*store))?;
        let has_views = store.with_view(&mut |_| Ok(()))?;
        Ok(Self {
            store,
            has_views,
            applying: RwLock::new(Live { tables, stale: false }),
            book: ShownBook::new(book),
            clock: Mutex::default(),
            watches: Watches::new(book.revision, HISTORY_BYTES),
            compression: SnapshotCompression::None,
            running: AtomicBool::new(false),
        })
    }

    /// How many bytes of changes are kept for watchers that are behind or ask for a past revision; 16 MiB if not set. What
    /// was kept so far is forgotten, and watchers that there are are ended.
    #[must_use]
    pub fn with_watch_history(mut self, bytes: usize) -> Self {
        let revision = self.book.now().revision;
        self.watches = Watches::new(revision, bytes);
        self
    }

    /// How its snapshots are stored; as they are if not set. Those of others are read in any case, and the digest of a
    /// state is the same either way.
    #[must_use]
    pub fn with_snapshot_compression(mut self, compression: SnapshotCompression) -> Self {
        self.compression = compression;
        self
    }

    /// Applies the chunk and returns one encoded outcome per entry, empty for an entry that had been applied before.
    fn apply_now(&self, chunk: &[Entry]) -> Result<Vec<Bytes>> {
        let mut live = self.applying.write().unwrap_or_else(PoisonError::into_inner);
        if live.stale {
            live.tables = Tables::load(&Present(&*self.store))?;
        }
        // Until the batch is written, or if anything below fails or panics.
        live.stale = true;
        let before = self.book.now();
        let evaluated = evaluate(&*self.store, before, &mut live.tables, chunk)?;
        if let Some(batch) = evaluated.batch {
            self.book.change(|| self.store.write(batch).map(|()| evaluated.book))?;
            self.restart_leases(&mut live.tables);
            self.watches.publish(evaluated.changes);
        }
        live.stale = false;
        Ok(evaluated.responses)
    }

    /// Tells the leader's clock which leases have begun, were renewed or have ended.
    fn restart_leases(&self, tables: &mut Tables) {
        let restarted = tables.leases.take_restarted();
        if restarted.is_empty() {
            return;
        }
        let mut clock = self.clock();
        for id in restarted {
            clock.leases.restart(id, tables.leases.get(id));
        }
    }

    /// The whole state was replaced by what the store now holds.
    fn replaced(&self, live: &mut Live, book: Bookkeeping) -> Result<()> {
        live.stale = true;
        self.clock().leases.end();
        self.watches.reset(book.revision);
        live.tables = Tables::load(&Present(&*self.store))?;
        live.stale = false;
        Ok(())
    }

    /// Runs `f` on one point in time: a view of the store, or the store itself with writers held off.
    fn at_one_point(&self, f: &mut dyn FnMut(&dyn KvView) -> Result<()>) -> Result<()> {
        if self.store.with_view(f)? {
            return Ok(());
        }
        let _no_writer = self.applying.read().unwrap_or_else(PoisonError::into_inner);
        f(&Present(&*self.store))
    }

    /// The answer to any question, and the entry after which it is true.
    fn answer_now(&self, query: &KvQuery) -> Result<(KvAnswer, LogId)> {
        if let KvQuery::Get { key } = query {
            return self.get_record(key);
        }
        let mut found = None;
        self.at_one_point(&mut |view| {
            let book = Bookkeeping::load(view)?;
            found = Some((answer(view, &book, query)?, book.last_applied));
            Ok(())
        })?;
        let (mut answer, last_applied) = found.ok_or_else(view_not_run)?;
        if let KvAnswer::Lease { lease: Some(lease), .. } = &mut answer
            && let Some(remaining_ms) = self.clock().leases.remaining_ms(lease.id)
        {
            lease.remaining_ms = remaining_ms;
        }
        Ok((answer, last_applied))
    }

    /// The most frequent question. It takes no view: as long as there is one, a store in memory copies what a writer changes.
    fn get_record(&self, key: &Bytes) -> Result<(KvAnswer, LogId)> {
        check_key(key).map_err(|reject| Error::invalid(reject.to_string()))?;
        let no_writer = || self.applying.read().unwrap_or_else(PoisonError::into_inner);
        let _no_writer = (!self.has_views).then(no_writer);
        if let Some((record, book)) = self.book.beside(|| with_store_key(key, |key| self.store.get(key)))? {
            return answer_get(key, record, &book);
        }
        // Somebody writes: both in one look.
        let found = self.store.get_many(&[Bytes::from_static(BOOKKEEPING_KEY), store_key(key)])?;
        let Ok([book, record]) = <[_; 2]>::try_from(found) else {
            return Err(Error::backend("KvStore::get_many did not give one value for each of two keys"));
        };
        answer_get(key, record, &Bookkeeping::of(book)?)
    }

    fn clock(&self) -> MutexGuard<'_, Clock> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
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
        self.watches.stop();
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
        Ok(stored.map(Record::decode).transpose()?.map(Record::into_value))
    }

    async fn apply_chunk(&self, chunk: Vec<Entry>) -> Result<(), Error> {
        self.apply_now(&chunk).map(|_| ())
    }

    async fn apply(&self, chunk: Vec<Entry>) -> Result<Vec<ApplyResult>, Error> {
        let responses = self.apply_now(&chunk)?;
        Ok(chunk.iter().zip(responses).map(|(entry, response)| ApplyResult::new(entry.index, response)).collect())
    }

    fn never_waits(&self) -> bool {
        self.store.never_waits()
    }

    fn check_command(&self, command: &[u8]) -> Result<(), Error> {
        KvRequest::decode_bytes(Bytes::copy_from_slice(command)).map(drop)
    }

    fn read_at(&self, query: Bytes) -> Result<(Bytes, LogId), Error> {
        // A damaged question is the caller's fault; `Corrupt` would tell the engine that this replica's data is damaged.
        let query = KvQuery::decode_bytes(query).map_err(|error| match error {
            Error::Corrupt { place, .. } => Error::invalid(format!("the bytes are no query: {place}")),
            other => other,
        })?;
        let (answer, last_applied) = self.answer_now(&query)?;
        Ok((answer.encode(), last_applied))
    }

    fn answer(&self, query: &KvQuery) -> Result<Option<(KvAnswer, LogId)>, Error> {
        self.answer_now(query).map(Some)
    }

    fn len(&self) -> usize {
        usize::try_from(self.book.now().keys).unwrap_or(usize::MAX)
    }

    fn last_applied(&self) -> LogId {
        self.book.now().last_applied
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
            written = Some(snapshot::write(view, &book, &dir, self.compression)?);
            Ok(())
        })?;
        written.ok_or_else(view_not_run)
    }

    async fn apply_snapshot_from_file(&self, metadata: &SnapshotMetadata, path: PathBuf) -> Result<(), Error> {
        let verified = snapshot::Verified::open(metadata, &path)?;
        let mut live = self.applying.write().unwrap_or_else(PoisonError::into_inner);
        let book = self.book.change(|| verified.install(&*self.store))?;
        self.replaced(&mut live, book)
    }

    fn begin_snapshot(&self) -> Result<Option<Box<dyn SnapshotView>>, Error> {
        snapshot::begin(self.store.clone(), self.compression)
    }

    fn flush(&self) -> Result<(), Error> {
        self.store.flush()
    }

    async fn reset(&self) -> Result<(), Error> {
        let mut live = self.applying.write().unwrap_or_else(PoisonError::into_inner);
        let emptied = || self.store.replace_all(&mut std::iter::empty()).map(|()| Bookkeeping::default());
        let book = self.book.change(emptied)?;
        self.replaced(&mut live, book)
    }

    fn leadership(&self, leads: bool, now: Duration) {
        let live = self.applying.read().unwrap_or_else(PoisonError::into_inner);
        let mut clock = self.clock();
        match (leads, clock.leases.leads()) {
            // Tables that are not the store's would give a lease a wrong time; the next chunk loads them.
            (true, false) if !live.stale => clock.leases.begin(now, live.tables.leases.iter()),
            (false, true) => clock.leases.end(),
            _ => {}
        }
        if now.saturating_sub(clock.progress_told) >= PROGRESS_INTERVAL {
            clock.progress_told = now;
            self.watches.tell_progress();
        }
    }

    fn due(&self, now: Duration) -> Vec<Bytes> {
        self.clock().leases.due(now).iter().map(KvCommand::encode).collect()
    }

    fn watch(&self, request: Bytes, sink: Box<dyn WatchSink>) -> Result<(), Error> {
        let watch = KvWatch::decode_bytes(request).map_err(|error| match error {
            Error::Corrupt { place, .. } => Error::invalid(format!("the bytes are no watch request: {place}")),
            other => other,
        })?;
        self.watches.watch(watch, sink)
    }

    fn end_watches(&self) {
        self.watches.end_all();
    }
}

impl fmt::Debug for KvStateMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvStateMachine").field("book", &self.book.now()).finish_non_exhaustive()
    }
}

fn answer_get(key: &Bytes, record: Option<Bytes>, book: &Bookkeeping) -> Result<(KvAnswer, LogId)> {
    let record = record.map(Record::decode).transpose()?.map(|record| record.with_key(key.clone()));
    Ok((KvAnswer::Get { record, revision: book.revision }, book.last_applied))
}

fn view_not_run() -> Error {
    Error::backend("KvStore::with_view answered that it had run its closure, and it had not")
}

/// A store as it is now: one point in time only while nobody writes.
pub(crate) struct Present<'a>(pub(crate) &'a dyn KvStore);

impl KvView for Present<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.0.get(key)
    }

    fn scan(&self, range: KeyRange<'_>, limit: usize, direction: Direction) -> Result<Vec<(Bytes, Bytes)>, Error> {
        self.0.scan(range, limit, direction)
    }
}
