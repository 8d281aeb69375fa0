//! A node of a new cluster from an archive.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use d_engine_core::snapshot::ChecksumWriter;
use d_engine_core::{Error, LogId, Member, MemberKind, Membership, SnapshotChecksum};
use tokio::runtime::Handle;

use super::{Making, NodeStores, RebuildError, abandon, blocking, claim};
use crate::NodeId;
use crate::archive::Archive;
use crate::durable::io_error;
use crate::marker::{self, RESTORING};

/// Which node of which new cluster is made from an archive.
///
/// The cluster's id, and each directory's, follow from the archive, the members and the name: each node is restored by a
/// call of its own, on its own machine, and those with equal archive, members and name form one cluster. That is why each
/// node of it may be restored once only: a node that loses its directory later has voted and acknowledged, and is replaced
/// by an empty one ([`Node::replace`](crate::Node::replace)), never restored again.
#[derive(Debug, Clone)]
pub struct Restore {
    node: NodeId,
    members: Vec<(NodeId, String)>,
    name: String,
}

/// A directory of a new cluster was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct NewCluster {
    /// Its id.
    pub cluster: u128,
    /// The last entry of the state that it begins with.
    pub at: LogId,
}

impl Restore {
    /// Node `node` of a cluster with these voters, at their addresses (`host:port`).
    pub fn new(node: NodeId, members: impl IntoIterator<Item = (NodeId, impl Into<String>)>) -> Self {
        let mut members: Vec<_> = members.into_iter().map(|(node, address)| (node, address.into())).collect();
        members.sort();
        Self { node, members, name: String::new() }
    }

    /// Tells the cluster from others that are restored from the same archive with the same members.
    #[must_use]
    pub fn cluster_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    fn check(&self) -> Result<(), RebuildError> {
        let fail = |why: String| Err(RebuildError::Members { why });
        if !self.members.iter().any(|(node, _)| *node == self.node) {
            let list: Vec<_> = self.members.iter().map(|(node, _)| node.to_string()).collect();
            return fail(format!(
                "node {} is not among them ({}); name every member, this one too",
                self.node,
                list.join(", ")
            ));
        }
        for (place, (node, address)) in self.members.iter().enumerate() {
            if *node == 0 {
                return fail("node ids are whole numbers, 1 or more".to_owned());
            }
            let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
            if port.is_none_or(|(_, port)| port.parse::<u16>().map_or(true, |port| port == 0)) {
                return fail(format!("\"{address}\" of node {node} is no address; write host:port"));
            }
            if let Some((other, _)) = self.members[..place].iter().find(|(other, at)| other == node || at == address) {
                return fail(format!("nodes {other} and {node} have the same id or the same address, {address}"));
            }
        }
        Ok(())
    }

    /// The configuration of the new cluster; the settings are the old one's.
    fn membership(&self, archive: &Archive) -> Membership {
        let mut facts = Facts::new("d-engine: id of a restored cluster, version 1");
        facts.add(archive.checksum().as_ref());
        for (node, address) in &self.members {
            facts.add(&node.to_le_bytes());
            facts.add(address.as_bytes());
        }
        facts.add(self.name.as_bytes());
        let cluster = facts.id();
        let member = |(node, address): &(NodeId, String)| {
            let mut facts = Facts::new("d-engine: id of a restored directory, version 1");
            facts.add(&cluster.to_le_bytes());
            facts.add(&node.to_le_bytes());
            Member::new(*node, facts.id(), address, MemberKind::Voter)
        };
        let settings = archive.head().metadata.membership.settings;
        Membership::new(cluster, self.members.iter().map(member).collect(), settings)
    }
}

/// An id that follows from facts, and from nothing else.
struct Facts(ChecksumWriter<std::io::Sink>);

impl Facts {
    fn new(subject: &str) -> Self {
        let mut facts = Self(ChecksumWriter::new(std::io::sink()));
        facts.add(subject.as_bytes());
        facts
    }

    /// With its length, so that no two lists of facts are the same bytes.
    fn add(&mut self, fact: &[u8]) {
        let len = (fact.len() as u64).to_le_bytes();
        let written = self.0.write_all(&len).and_then(|()| self.0.write_all(fact));
        debug_assert!(written.is_ok(), "a sink takes everything");
    }

    fn id(self) -> u128 {
        let sum: SnapshotChecksum = self.0.finish().1;
        let bytes = sum.as_ref().first_chunk::<16>().copied().unwrap_or_default();
        // 0 means no cluster.
        u128::from_le_bytes(bytes).max(1)
    }
}

/// Makes `dir`, which is empty or does not exist, the data directory of a node of a new cluster whose state is the
/// archive's. `open` opens the stores in it, which the node is started with afterwards. The other members are made by calls of
/// their own.
///
/// # Errors
/// Whatever is wrong with the request, the archive or the directory; the directory is then as it was. Only a process that is
/// killed in the middle, or a power cut, leaves a directory that neither a start nor a second restore takes, with a file
/// `RESTORING` in it.
pub async fn restore(
    archive: Archive,
    dir: impl Into<PathBuf>,
    request: Restore,
    open: impl FnOnce(&Path) -> Result<NodeStores, Error> + Send + 'static,
) -> Result<NewCluster, RebuildError> {
    let (dir, runtime) = (dir.into(), Handle::current());
    blocking(move || {
        request.check()?;
        let (found, known) = (archive.head().metadata.membership.settings.feature_level, d_engine_raft::FEATURE_LEVEL);
        if found > known {
            return Err(RebuildError::TooNew { found, known });
        }
        let has_existed = dir.exists();
        claim(&dir)?;
        let membership = request.membership(&archive);
        let made = open(&dir).and_then(|stores| {
            let making = Making { dir: &dir, stores, node: request.node, membership: &membership, runtime: &runtime };
            fill(making, archive)
        });
        let made = made.and_then(|at| marker::clear(&dir, RESTORING).map(|()| at));
        match made {
            Ok(at) => Ok(NewCluster { cluster: membership.cluster, at }),
            Err(error) => {
                abandon(&dir, has_existed);
                Err(RebuildError::storage("restoring the archive")(error))
            }
        }
    })
    .await
}

fn fill(making: Making<'_>, mut archive: Archive) -> Result<LogId, Error> {
    let machine = &making.stores.machine;
    if making.stores.is_volatile {
        return Err(Error::invalid("storage that forgets everything at its end cannot hold a restored cluster"));
    }
    machine.start()?;
    let (at, sum, digest) = {
        let head = archive.head();
        (head.metadata.last_included, head.metadata.checksum, head.digest)
    };
    let snapshots = making.snapshots()?;
    let path = snapshots.begin_build()?.join("snapshot");
    let copy = |archive: &mut Archive| -> Result<(), Error> {
        let mut file = File::create(&path).map_err(io_error("creating", &path))?;
        std::io::copy(&mut archive.snapshot()?, &mut file).map_err(io_error("writing", &path))?;
        Ok(())
    };
    copy(&mut archive)?;
    let record = making.keep(&snapshots, at, sum)?;
    if record.digest != digest {
        return Err(Error::corrupt(format!("{}: it has changed since it was verified", archive.path().display())));
    }
    let (record, path) = snapshots.newest_path().unwrap_or((record, path));
    making.runtime.block_on(machine.apply_snapshot_from_file(&record.metadata, path))?;
    making.finish(at, at.term)?;
    Ok(at)
}
