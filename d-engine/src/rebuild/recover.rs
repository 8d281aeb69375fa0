//! A cluster of one from the directory of a node that has survived its quorum.
//!
//! The surviving directory is opened as a start opens it, and nothing is applied in it: what is in its log may never have been
//! committed, and its state machine must not hold it if the old cluster comes back after all. The state is handed over to a
//! new directory beside it, the rest of the log is applied there, and the two directories change places in one step.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use d_engine_core::{
    Entry, EntryKind, Error, HardState, Identity, LogId, Member, MemberKind, Membership, SnapshotChecksum,
    SnapshotMetadata, StateMachine,
};
use d_engine_net::SnapshotSource;
use tokio::runtime::Handle;

use super::{Making, NodeStores, OpenStores, RebuildError, blocking, claim};
use crate::clock::{BootClock, Clock as _};
use crate::durable::{exchange, io_error, parent, rename_new, sync_dir};
use crate::marker::{self, REPLACED, RESTORING};
use crate::prepare::{Stores, boot, prepare};
use crate::snapshot_store::SnapshotStore;
use crate::snapshot_transfer::fetched;
use crate::{NodeConfig, NodeId, StartupError};

/// Bytes of entries that are read and applied at once.
const CHUNK_BYTES: usize = 4 << 20;

/// The directory of a stopped node, opened to become a cluster of its own or for an archive; in use until this is dropped.
pub struct Survivor {
    dir: PathBuf,
    open: Arc<OpenStores>,
    stores: NodeStores,
    runtime: Handle,
    term: u64,
    identity: Identity,
    membership: Membership,
    applied: LogId,
    /// The configuration as of what is applied, if anything is.
    applied_membership: Option<Arc<Membership>>,
    last: LogId,
}

/// A cluster of one was made.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovered {
    /// Id of the new cluster.
    pub cluster: u128,
    /// The last entry that its state includes.
    pub at: LogId,
    /// Entries of the log that were applied although this node did not know them to be committed.
    pub applied: u64,
    /// Where the old directory is now.
    pub old: PathBuf,
}

impl Survivor {
    /// Opens the directory of a stopped node, with `open` for its stores. What a start does first is done: an interrupted
    /// installation of a snapshot goes on, what a crash tore off the log is cut. Nothing is applied.
    ///
    /// # Errors
    /// A node runs in it, it is damaged, or it belongs to no cluster.
    pub async fn open(
        dir: impl AsRef<Path>,
        open: impl Fn(&Path) -> Result<NodeStores, Error> + Send + Sync + 'static,
    ) -> Result<Self, RebuildError> {
        let (dir, runtime) = (dir.as_ref().to_path_buf(), Handle::current());
        blocking(move || {
            // Opening the stores of what does not exist would make it.
            let dir = fs::canonicalize(&dir).map_err(StartupError::system("opening the data directory"))?;
            if marker::is_set(&dir, RESTORING) {
                return Err(StartupError::HalfMade { path: dir.display().to_string() }.into());
            }
            let names = fs::read_dir(&dir).map_err(StartupError::system("opening the data directory"))?;
            if names.count() == 0 {
                return Err(not_recoverable(&dir, "it is empty".to_owned()));
            }
            let stores = open(&dir).map_err(RebuildError::storage("opening the data directory"))?;
            Self::look(dir, Arc::new(open), stores, &runtime)
        })
        .await
    }

    fn look(dir: PathBuf, open: Arc<OpenStores>, stores: NodeStores, runtime: &Handle) -> Result<Self, RebuildError> {
        let NodeStores { log, meta, machine, is_volatile } = &stores;
        if *is_volatile {
            return Err(not_recoverable(&dir, "its storage forgets everything at its end".to_owned()));
        }
        let hard_state = meta.load_hard_state().map_err(RebuildError::storage("reading the hard state"))?;
        let identity = hard_state.and_then(|state| state.identity).filter(|identity| identity.formed);
        let (Some(HardState { term, .. }), Some(identity)) = (hard_state, identity) else {
            return Err(not_recoverable(&dir, "it belongs to no cluster".to_owned()));
        };
        let parts = Stores { log: &**log, meta: &**meta, machine: &**machine, is_volatile: false };
        let prepared = prepare(&NodeConfig::new(identity.node, &dir), parts, &BootClock, runtime)?;
        let membership = prepared.driver.status(BootClock.now()).membership;
        let (applied, applied_membership) = (machine.last_applied(), prepared.applied.membership.clone());
        drop(prepared);
        let index = log.last_index();
        let last = match runtime.block_on(log.entry(index)) {
            Ok(Some(entry)) => entry.id(),
            // Everything is purged.
            Ok(None) | Err(Error::Compacted { .. }) => log.purged(),
            Err(error) => return Err(RebuildError::storage("reading the log")(error)),
        };
        if membership.member(identity.node).is_none() {
            return Err(not_recoverable(&dir, format!("node {} was removed from its cluster", identity.node)));
        }
        let runtime = runtime.clone();
        Ok(Self { dir, open, stores, runtime, term, identity, membership, applied, applied_membership, last })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The node whose directory it is.
    pub fn node(&self) -> NodeId {
        self.identity.node
    }

    /// The newest configuration in its log: the old cluster.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// The last entry that the node has applied: all up to it was committed.
    pub fn applied(&self) -> LogId {
        self.applied
    }

    /// The last entry of its log. Those after [`applied`](Survivor::applied) may or may not have been committed, and
    /// committed ones may be missing after it.
    pub fn last(&self) -> LogId {
        self.last
    }

    /// A snapshot of the state as the node has applied it, for [`archive::save`](crate::archive::save). What its log holds
    /// beyond [`applied`](Survivor::applied) is not in it.
    ///
    /// # Errors
    /// Nothing was applied yet, or the state cannot be written into the directory's own place for unfinished snapshots.
    pub async fn into_snapshot(self) -> Result<Box<dyn SnapshotSource>, RebuildError> {
        blocking(move || self.snapshot().map_err(RebuildError::storage("making a snapshot"))).await
    }

    fn snapshot(&self) -> Result<Box<dyn SnapshotSource>, Error> {
        let membership = self.applied_membership.as_deref().cloned();
        let membership = membership.filter(|_| self.applied.index > 0);
        let membership = membership.ok_or_else(|| Error::invalid("nothing has been applied in this directory yet"))?;
        // Under this name the next start removes it, should it stay.
        let place = SnapshotStore::temporary(self.dir.join("snapshots").join("building"), 1);
        let sum = self.write_snapshot(&place.begin_build()?)?;
        place.keep_built(self.applied, membership, sum)?;
        let newest = place.open_newest()?;
        let (record, file) = newest.ok_or_else(|| Error::invalid("the snapshot is not where it was written"))?;
        Ok(fetched(self.node(), &record, file, u64::MAX))
    }

    fn write_snapshot(&self, dir: &Path) -> Result<SnapshotChecksum, Error> {
        let machine = &self.stores.machine;
        match machine.begin_snapshot()? {
            Some(view) => view.write(dir),
            None => self.runtime.block_on(machine.generate_snapshot_data(dir.to_path_buf(), self.applied)),
        }
    }

    /// Makes the directory one of a new cluster of which this node is the only member, with everything in its log applied.
    /// The old directory is kept beside it, marked so that no node starts in it.
    ///
    /// What the lost majority had acknowledged and this node has not received is gone for good; what this node has received and
    /// the majority had not, becomes part of the state. Nodes of the old cluster are refused by the new one; they come in
    /// with empty directories.
    ///
    /// # Errors
    /// The log cannot be applied, there is no space, or the directories cannot change places. Before they have, the old
    /// directory is where it was and has lost nothing.
    pub async fn force_new_cluster(self) -> Result<Recovered, RebuildError> {
        blocking(move || self.rebuild()).await
    }

    fn rebuild(self) -> Result<Recovered, RebuildError> {
        let random = boot()?;
        let (node, cluster) = (self.identity.node, random.cluster.max(1));
        let address = self.membership.member(node).map(|member| member.address.clone()).unwrap_or_default();
        let member = Member::new(node, random.incarnation, address, MemberKind::Voter);
        let membership = Membership::new(cluster, vec![member], self.membership.settings);
        let suffix = format!("{:08x}", cluster >> 96);
        let made = beside(&self.dir, &format!("recovering-{suffix}"));
        claim(&made)?;
        let filled = self.fill(&made, &membership).and_then(|at| {
            marker::clear(&made, RESTORING)?;
            Ok(at)
        });
        let at = filled.map_err(|error| {
            if let Err(error) = fs::remove_dir_all(&made) {
                tracing::warn!(dir = %made.display(), %error, "a half-made directory stays");
            }
            RebuildError::storage("making the new cluster's directory")(error)
        })?;
        let (dir, applied) = (self.dir.clone(), self.last.index.saturating_sub(self.applied.index));
        self.retire(cluster).map_err(RebuildError::storage("marking the old directory"))?;
        let old = swap(&dir, &made, &beside(&dir, &format!("replaced-{suffix}")))?;
        Ok(Recovered { cluster, at, applied, old })
    }

    /// Builds the new directory; gives the last entry of its state.
    fn fill(&self, dir: &Path, membership: &Membership) -> Result<LogId, Error> {
        let runtime = &self.runtime;
        let stores = (self.open)(dir)?;
        let making = Making { dir, stores, node: self.identity.node, membership, runtime };
        let machine = Arc::clone(&making.stores.machine);
        machine.start()?;
        if self.applied.index > 0 {
            let handover = dir.join("handover");
            fs::create_dir(&handover).map_err(io_error("making", &handover))?;
            self.hand_over(&handover, membership, &*machine)?;
            fs::remove_dir_all(&handover).map_err(io_error("removing", &handover))?;
        }
        self.apply_rest(&*machine)?;
        let at = machine.last_applied();
        if at.index == 0 {
            return Err(Error::invalid("nothing was ever written to this cluster; found a new one instead"));
        }
        let snapshots = making.snapshots()?;
        let build = snapshots.begin_build()?;
        let sum = runtime.block_on(machine.generate_snapshot_data(build, at))?;
        making.keep(&snapshots, at, sum)?;
        drop((snapshots, machine));
        making.finish(at, self.term.max(self.last.term))?;
        Ok(at)
    }

    /// Gives the state as the node has applied it to another machine.
    fn hand_over(&self, dir: &Path, membership: &Membership, to: &dyn StateMachine) -> Result<(), Error> {
        let sum = self.write_snapshot(dir)?;
        let mut files = fs::read_dir(dir).map_err(io_error("listing", dir))?;
        let file = files.next().ok_or_else(|| Error::invalid("the state machine has written no snapshot"))?;
        let path = file.map_err(io_error("listing", dir))?.path();
        let size = fs::metadata(&path).map_err(io_error("reading", &path))?.len();
        let metadata = SnapshotMetadata::new(self.applied, membership.clone(), sum, size);
        self.runtime.block_on(to.apply_snapshot_from_file(&metadata, path))
    }

    /// Applies what the log holds beyond the applied state.
    fn apply_rest(&self, machine: &dyn StateMachine) -> Result<(), Error> {
        let (log, runtime) = (&self.stores.log, &self.runtime);
        let mut next = self.applied.index + 1;
        while next <= self.last.index {
            let entries = runtime.block_on(log.read_limited(next..=self.last.index, CHUNK_BYTES))?;
            let Some(last) = entries.last().map(|entry| entry.index) else {
                return Err(Error::corrupt(format!("the log ends before entry {next}, but should at {}", self.last)));
            };
            let commands: Vec<Entry> = entries.into_iter().filter(|entry| entry.kind == EntryKind::Command).collect();
            if !commands.is_empty() {
                runtime.block_on(machine.apply(commands))?;
            }
            next = last + 1;
        }
        Ok(())
    }

    /// Closes the old directory; from here on nobody starts in it.
    fn retire(self, cluster: u128) -> Result<(), Error> {
        let why = format!(
            "The new cluster {cluster:032x} has been made from this directory and takes its place. If this directory still\n\
             has its old name, that was interrupted: recover it again. Remove this file only to go back to the old cluster,\n\
             once the new one is given up: what was written to one is not in the other.\n"
        );
        // There already: an earlier recovery was interrupted just here.
        marker::set(&self.dir, REPLACED, &why)?;
        self.stores.machine.stop()
    }
}

impl std::fmt::Debug for Survivor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Survivor({}, node {}, last entry {})", self.dir.display(), self.identity.node, self.last)
    }
}

fn not_recoverable(dir: &Path, why: String) -> RebuildError {
    RebuildError::NotRecoverable { dir: dir.display().to_string(), why }
}

/// A name beside a directory's that begins with it.
fn beside(dir: &Path, suffix: &str) -> PathBuf {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    dir.with_file_name(format!("{name}.{suffix}"))
}

/// Lets the two directories change places, in one step, and gives the old one its name. Durable on return.
fn swap(dir: &Path, made: &Path, old: &Path) -> Result<PathBuf, RebuildError> {
    exchange(dir, made).map_err(|source| RebuildError::NotInPlace {
        made: made.display().to_string(),
        dir: dir.display().to_string(),
        source,
    })?;
    // The old directory has the new one's name until here: it is not known by that, but by its marker.
    sync_dir(parent(dir)).map_err(RebuildError::storage("syncing the directory above"))?;
    match rename_new(made, old) {
        Ok(()) => Ok(old.to_path_buf()),
        Err(error) => {
            tracing::warn!(%error, "the old directory keeps a name that is not meant for it");
            Ok(made.to_path_buf())
        }
    }
}
