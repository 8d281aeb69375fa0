//! New clusters from what is left of old ones: a directory from an archive, a cluster of one from a surviving directory.
//!
//! Both make a directory that starts like one whose log is purged up to its snapshot: the state machine holds the snapshot,
//! the snapshot lies in the engine's store with the new membership, the log begins after it, and the hard state, written
//! last, belongs to the new cluster. The new cluster has an id of its own, so that nodes of the old one are refused by name.

mod recover;
mod restore;

use std::path::Path;
use std::sync::Arc;

use d_engine_core::{
    Error, HardState, Identity, LogId, LogStore, Membership, MetaStore, SnapshotChecksum, StateMachine, StorageEngine,
};
use tokio::runtime::Handle;

use crate::durable::make_dir_all;
use crate::marker::{self, RESTORING};
use crate::snapshot_store::{Record, SnapshotStore};
use crate::{NodeId, SharedStateMachine, SnapshotSection, StartupError};
pub use recover::{Recovered, Survivor};
pub use restore::{NewCluster, Restore, restore};

/// What a node keeps its state in, opened in one data directory.
pub struct NodeStores {
    log: Arc<dyn LogStore>,
    meta: Arc<dyn MetaStore>,
    machine: Arc<dyn StateMachine>,
    is_volatile: bool,
}

impl NodeStores {
    /// A storage engine and a state machine, as [`NodeBuilder`](crate::NodeBuilder) takes them.
    pub fn new(engine: Arc<impl StorageEngine>, machine: impl SharedStateMachine) -> Self {
        Self {
            log: engine.log_store(),
            meta: engine.meta_store(),
            machine: machine.into_dyn(),
            is_volatile: engine.is_volatile(),
        }
    }
}

/// Opens the stores of a data directory. Called again for another directory by a recovery.
pub(crate) type OpenStores = dyn Fn(&Path) -> Result<NodeStores, Error> + Send + Sync;

/// Why no new cluster was made. What was there is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RebuildError {
    /// The directory is in use, or holds something.
    #[error(
        "{dir} is not empty, it holds {found}; a cluster is restored only into a directory that is empty or does not \
         exist. Nothing was changed"
    )]
    NotEmpty {
        /// The directory.
        dir: String,
        /// One of the things in it.
        found: String,
    },
    /// The members of the new cluster cannot be these.
    #[error("the members of the new cluster: {why}")]
    Members {
        /// What is wrong.
        why: String,
    },
    /// The state is of a newer version's cluster.
    #[error(
        "the archive comes from a cluster that uses feature level {found}, this build knows {known}; use a newer version of \
         d-engine"
    )]
    TooNew {
        /// Level of the archive.
        found: u32,
        /// Newest level of this build.
        known: u32,
    },
    /// There is nothing to recover, or nothing that can be.
    #[error("{dir} cannot become a cluster of its own: {why}. Nothing was changed")]
    NotRecoverable {
        /// The directory.
        dir: String,
        /// Why not.
        why: String,
    },
    /// The new directory is complete, but could not take the old one's place.
    #[error(
        "the new cluster's directory is complete in {made}, but could not take the place of {dir}: {source}. Start the node \
         with {made} as its data directory, or put it in place by hand; {dir} is the old directory"
    )]
    NotInPlace {
        /// The new directory.
        made: String,
        /// The old one.
        dir: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The directory cannot be read, or not be written.
    #[error(transparent)]
    Startup(#[from] StartupError),
}

impl RebuildError {
    fn storage(doing: &'static str) -> impl FnOnce(Error) -> Self {
        move |source| Self::Startup(StartupError::storage(doing)(source))
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RebuildError> + Send + 'static,
) -> Result<T, RebuildError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(StartupError::system("making the directory")(std::io::Error::other(error)).into()))
}

/// A directory that is being made, and the node that it is to become.
struct Making<'a> {
    dir: &'a Path,
    stores: NodeStores,
    node: NodeId,
    membership: &'a Membership,
    runtime: &'a Handle,
}

impl Making<'_> {
    fn snapshots(&self) -> Result<SnapshotStore, Error> {
        let kept = SnapshotSection::default().kept;
        SnapshotStore::open(&self.dir.join("snapshots"), kept, self.membership.cluster)
    }

    /// Keeps what was built in the snapshot store as the snapshot of `at`.
    fn keep(&self, snapshots: &SnapshotStore, at: LogId, sum: SnapshotChecksum) -> Result<Arc<Record>, Error> {
        snapshots.keep_built(at, self.membership.clone(), sum)?;
        snapshots.newest().ok_or_else(|| Error::invalid("the snapshot is not in its store"))
    }

    /// The state machine holds the state of `at`, and the store its snapshot: lets the log begin after it, and says, last,
    /// who the directory is.
    fn finish(self, at: LogId, term: u64) -> Result<(), Error> {
        let NodeStores { log, meta, machine, .. } = &self.stores;
        machine.flush()?;
        self.runtime.block_on(log.purge(at))?;
        self.runtime.block_on(log.flush())?;
        let (purged, last, applied) = (log.purged(), log.last_index(), machine.last_applied());
        if (purged, last, applied) != (at, at.index, at) {
            return Err(Error::invalid(format!(
                "the log is purged up to {purged} and ends at {last}, the state is that of {applied}; all should be {at}"
            )));
        }
        let member = self.membership.member(self.node);
        let incarnation = member.ok_or_else(|| Error::invalid("the node is no member"))?.incarnation;
        let identity = Identity::unformed(self.node, incarnation).form(self.membership.cluster);
        meta.save_hard_state(&HardState::new(term.max(at.term), None, Some(identity)))?;
        meta.flush()?;
        machine.stop()
    }
}

/// Claims an empty directory, which is made if it is missing, for what is to be made in it.
fn claim(dir: &Path) -> Result<(), RebuildError> {
    if marker::is_set(dir, RESTORING) {
        return Err(StartupError::HalfMade { path: dir.display().to_string() }.into());
    }
    make_dir_all(dir).map_err(RebuildError::storage("making the new data directory"))?;
    if let Some(found) = content(dir)?.into_iter().next() {
        return Err(RebuildError::NotEmpty { dir: dir.display().to_string(), found });
    }
    let why = "A directory for a new cluster is being made here. If nothing is at work any more, it was interrupted:\n\
               nothing in this directory was ever in service; remove all of it and begin anew.\n";
    match marker::set(dir, RESTORING, why).map_err(RebuildError::storage("marking the new data directory"))? {
        true => Ok(()),
        // Somebody else was faster.
        false => Err(StartupError::HalfMade { path: dir.display().to_string() }.into()),
    }
}

/// Names in a directory but for what a file system puts into its root.
fn content(dir: &Path) -> Result<Vec<String>, RebuildError> {
    let list = || {
        let names = std::fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.collect::<std::io::Result<Vec<_>>>()
    };
    let names = list().map_err(StartupError::system("listing the new data directory"))?;
    Ok(names.into_iter().filter(|name| name != "lost+found").collect())
}

/// Takes back a claim and everything that was made since, the marker last. What cannot be removed stays marked.
fn abandon(dir: &Path, has_existed: bool) {
    let remove = || -> std::io::Result<()> {
        for name in content(dir).map_err(std::io::Error::other)? {
            let path = dir.join(&name);
            if name == RESTORING {
                continue;
            }
            if path.is_dir() { std::fs::remove_dir_all(&path)? } else { std::fs::remove_file(&path)? }
        }
        std::fs::remove_file(dir.join(RESTORING))?;
        if has_existed { Ok(()) } else { std::fs::remove_dir(dir) }
    };
    if let Err(error) = remove() {
        tracing::warn!(dir = %dir.display(), %error, "a half-made directory stays; the file {RESTORING} in it says so");
    }
}
