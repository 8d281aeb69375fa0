//! Snapshots that travel between backends: what one store's view writes, every other one installs.

use std::fs::File;

use bytes::Bytes;
use d_engine_core::snapshot::{SnapshotFooter, SnapshotHeader, SnapshotReader, SnapshotWriter};
use d_engine_core::{Direction, Error, KeyRange, KvStore, KvView, SnapshotChecksum, WriteBatch};
use tempfile::tempfile;

use crate::law::{Violation, Why};

const WHY: Why = Why("a cluster may mix backends: a follower on one installs the snapshot of a leader on another");
/// Pairs read from a view at a time.
const PAGE: usize = 100;

/// Checks that a snapshot of any of the stores is a snapshot of all: the view of each is written to a file in the
/// portable format, and each other one, with something else in it, is replaced by that file. The digests are equal.
///
/// The stores come with their names, and are left with the content of one of them.
///
/// # Errors
/// The pair of stores that does not agree, and what it does not agree on.
///
/// ```
/// use d_engine_mem::MemKvStore;
///
/// let (one, other) = (MemKvStore::new(), MemKvStore::new());
/// d_engine_test_suite::snapshot_matrix(&[("one", &one), ("other", &other)])?;
/// # Ok::<(), d_engine_test_suite::Violation>(())
/// ```
pub fn snapshot_matrix(stores: &[(&str, &dyn KvStore)]) -> Result<(), Violation> {
    for (seed, (from_name, from)) in (1..).zip(stores) {
        fill(*from, seed)?;
        let (file, written) = write(from_name, *from)?;
        for (to_name, to) in stores.iter().filter(|(name, _)| name != from_name) {
            let what = format!("the snapshot of {from_name}, installed in {to_name}");
            fill(*to, seed + 1000)?;
            install(&what, &file, *to)?;
            let (_, shown) = write(to_name, *to)?;
            WHY.equal(&format!("the digest of {what}"), shown.digest, written.digest)?;
            WHY.equal(&format!("the number of records of {what}"), shown.records, written.records)?;
        }
    }
    Ok(())
}

/// Random content: several blocks, empty values, keys of every byte.
fn fill(store: &dyn KvStore, seed: u64) -> Result<(), Violation> {
    let mut random = fastrand::Rng::with_seed(seed);
    WHY.ok("replace_all() by nothing", store.replace_all(&mut std::iter::empty()))?;
    for _ in 0..20 {
        let mut batch = WriteBatch::new();
        for _ in 0..50 {
            let mut bytes = |most: usize| {
                let mut bytes = vec![0; random.usize(..most)];
                random.fill(&mut bytes);
                Bytes::from(bytes)
            };
            let key = [b"k".as_slice(), &bytes(12)].concat();
            batch.put(key, bytes(4000));
        }
        let key = format!("k{}", random.u8(..));
        batch.put(key, "");
        WHY.ok("write()", store.write(batch))?;
    }
    Ok(())
}

/// Writes a store's content as it is at one moment.
fn write(name: &str, store: &dyn KvStore) -> Result<(File, SnapshotFooter), Violation> {
    let doing = format!("writing a snapshot of {name}");
    let mut written = None;
    let viewed = store.with_view(&mut |view| {
        written = Some(write_view(view)?);
        Ok(())
    });
    if !WHY.ok(&doing, viewed)? {
        // No views, and nobody writes meanwhile.
        written = Some(WHY.ok(&doing, write_view(&Now(store)))?);
    }
    written.ok_or_else(|| WHY.violation("with_view() runs its function, or says that it did not", "neither"))
}

fn write_view(view: &dyn KvView) -> Result<(File, SnapshotFooter), Error> {
    let mut writer = SnapshotWriter::new(tempfile()?, SnapshotHeader::default())?;
    let mut after: Option<Bytes> = None;
    loop {
        let start = after.as_deref().map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let page = view.scan(KeyRange { start, end: std::ops::Bound::Unbounded }, PAGE, Direction::Forward)?;
        for (key, value) in &page {
            writer.push(key, value)?;
        }
        match page.into_iter().last() {
            Some((key, _)) => after = Some(key),
            None => return writer.finish(),
        }
    }
}

fn install(what: &str, mut file: &File, store: &dyn KvStore) -> Result<(), Violation> {
    use std::io::Seek;
    WHY.ok("rewinding a file", file.rewind().map_err(Error::from))?;
    let reader = WHY.ok(&format!("reading {what}"), SnapshotReader::new(file))?;
    WHY.ok(what, store.replace_all(&mut { reader }))
}

/// A store as it is.
struct Now<'a>(&'a dyn KvStore);

impl KvView for Now<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.0.get(key)
    }

    fn scan(&self, range: KeyRange<'_>, limit: usize, direction: Direction) -> Result<Vec<(Bytes, Bytes)>, Error> {
        self.0.scan(range, limit, direction)
    }
}

/// The digest of a store's content: equal for equal content, whatever the backend.
///
/// # Errors
/// What the store says.
pub fn content_digest(store: &dyn KvStore) -> Result<SnapshotChecksum, Violation> {
    write("a store", store).map(|(_, footer)| footer.digest)
}
