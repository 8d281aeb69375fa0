//! A cluster in one process, under faults: for tests of applications and of state machines.
//!
//! Each node is what runs in production, with its threads and its storage in a directory; only the network between them is
//! made of channels, so that it can be cut, delayed and made to lose. What a test needs is awaited, never slept for.
//!
//! The seed decides the schedule of [`Cluster::faults`] and which messages [`Cluster::weather`] loses; threads and clocks
//! are real, so two runs of a seed suffer the same faults and need not interleave in the same way. A node that is killed
//! loses its memory and what it had not handed to the operating system; the loss of power is what `d-engine-test-suite`
//! tests storage for.
//!
//! ```
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let cluster = d_engine::testing::Cluster::builder(3).seed(7).start().await?;
//! for fault in cluster.faults(3) {
//!     cluster.suffer(&fault).await?; // a kill, a partition, a lost directory, bad weather …
//!     cluster.wait_for_leader().await?.put("colour", "blue").await?;
//! }
//! cluster.digests_agree().await?;
//! # Ok(())
//! # }
//! ```

mod builder;
mod error;
mod fault;
mod network;
mod suffering;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use d_engine_core::LogId;
use d_engine_net::{ClientError, Digest, NodeStatus, Operation, Reply};
use d_engine_raft::NodeId;
use tokio::time::{Instant, sleep};

use crate::local_router::LocalRouter;
use crate::{Node, StartupError};

pub use builder::ClusterBuilder;
pub use error::TestError;
pub use fault::{Fault, FaultKind, schedule};
pub(crate) use network::Weather;

use builder::{Options, address};

/// Between two looks whether something has come about.
const LOOK: Duration = Duration::from_millis(5);
/// A leader that nobody confirms for so long is looked for again.
const CONFIRMED_WITHIN: Duration = Duration::from_millis(500);

/// A cluster of this process, which a test makes suffer. Dropping it ends the nodes and removes their directories.
///
/// ```
/// use d_engine::testing::Cluster;
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let cluster = Cluster::builder(3).seed(7).start().await?;
/// cluster.any().put("color", "green").await?;
///
/// // The leader loses everybody; the other two go on.
/// let old = cluster.wait_for_leader().await?.id();
/// cluster.isolate(old);
/// let new = cluster.wait_for_leader().await?;
/// assert_ne!(new.id(), old);
/// new.put("color", "blue").await?;
///
/// // It comes back after a kill, and no replica has lost anything.
/// cluster.heal();
/// cluster.kill(old).await?;
/// cluster.restart(old).await?;
/// cluster.wait_until_level().await?;
/// cluster.digests_agree().await?;
/// assert_eq!(cluster.node(old)?.get("color").await?.value.as_deref(), Some(&b"blue"[..]));
/// # Ok(())
/// # }
/// ```
///
/// With a state machine of one's own, [`ClusterBuilder::stores`] opens it. Methods that change which nodes there are, or
/// what they suffer, are for one task of the test; handles of nodes are for all of them.
pub struct Cluster {
    seats: Mutex<BTreeMap<NodeId, Seat>>,
    router: LocalRouter,
    options: Options,
    directory: tempfile::TempDir,
}

/// A place for a node, running or not.
#[derive(Default)]
struct Seat {
    node: Option<Node>,
    /// Its directory was new when the cluster was not: it waits to be added instead of founding one.
    joins: bool,
}

impl Cluster {
    /// Begins a cluster of `size` nodes, with ids from 1.
    pub fn builder(size: u64) -> ClusterBuilder {
        ClusterBuilder::new(size)
    }

    /// A cluster of `size` nodes with file storage and the built-in key-value machine, ready to serve.
    ///
    /// # Errors
    /// A node does not start, or the cluster is not ready in time.
    pub async fn start(size: u64) -> Result<Self, TestError> {
        Self::builder(size).start().await
    }

    // A poisoned lock is used on: nothing that can panic runs under it.
    fn seats(&self) -> MutexGuard<'_, BTreeMap<NodeId, Seat>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ids of all nodes, running or not.
    pub fn ids(&self) -> Vec<NodeId> {
        self.seats().keys().copied().collect()
    }

    /// The nodes that run.
    pub fn nodes(&self) -> Vec<Node> {
        self.seats().values().filter_map(|seat| seat.node.clone()).collect()
    }

    /// The node `id`.
    ///
    /// # Errors
    /// It does not run.
    pub fn node(&self, id: NodeId) -> Result<Node, TestError> {
        self.seats().get(&id).and_then(|seat| seat.node.clone()).ok_or(TestError::NotRunning { node: id })
    }

    /// A node to ask: the leader if there is one, else any that runs.
    ///
    /// # Panics
    /// No node runs.
    pub fn any(&self) -> Node {
        self.leader().or_else(|| self.nodes().pop()).expect("a node that runs; every one of them was killed")
    }

    /// Where the node `id` keeps what it stores.
    pub fn directory(&self, id: NodeId) -> PathBuf {
        self.directory.path().join(format!("n{id}"))
    }

    /// The seed of this cluster's faults.
    pub fn seed(&self) -> u64 {
        self.options.seed
    }

    /// The node that leads in the highest term, as far as the nodes themselves know; it may have been deposed since.
    pub fn leader(&self) -> Option<Node> {
        let terms = self.nodes().into_iter().map(|node| (node.status(), node));
        let leaders = terms.filter(|(status, _)| status.role == "leader");
        leaders.max_by_key(|(status, _)| status.term).map(|(_, node)| node)
    }

    /// Waits until a node leads that a majority confirms.
    ///
    /// # Errors
    /// There is none in time.
    pub async fn wait_for_leader(&self) -> Result<Node, TestError> {
        let started = Instant::now();
        loop {
            if let Some(leader) = self.leader()
                && leader.wait_ready(CONFIRMED_WITHIN).await.is_ok()
                && leader.is_leader()
            {
                return Ok(leader);
            }
            self.go_on(started, || "a confirmed leader".into()).await?;
        }
    }

    /// Proposes a command through whichever node serves, and asks again where it certainly had no effect.
    ///
    /// # Errors
    /// [`ClientError::Unknown`] if it may have been applied, `Rejected`, or the last error when the patience ends.
    pub async fn propose(&self, command: impl Into<Bytes>) -> Result<Reply, ClientError> {
        let command = command.into();
        self.ask(|node| {
            let command = command.clone();
            async move { node.propose(command).await }
        })
        .await
    }

    /// Asks the state machine through whichever node serves; the answer includes every write answered before the call.
    ///
    /// # Errors
    /// `Rejected`, or the last error when the patience ends.
    pub async fn read(&self, query: impl Into<Bytes>) -> Result<Reply, ClientError> {
        let query = query.into();
        self.ask(|node| {
            let query = query.clone();
            async move { node.read(query).await }
        })
        .await
    }

    /// Asks one node after the other, the leader first, until one serves.
    async fn ask<T, F: Future<Output = Result<T, ClientError>>>(
        &self,
        call: impl Fn(Node) -> F,
    ) -> Result<T, ClientError> {
        let started = Instant::now();
        let mut last = ClientError::unavailable("no node runs");
        loop {
            for node in self.leader().into_iter().chain(self.nodes()) {
                match call(node).await {
                    Ok(answer) => return Ok(answer),
                    Err(error @ (ClientError::Unknown | ClientError::Rejected { .. })) => return Err(error),
                    Err(error) => last = error,
                }
            }
            if started.elapsed() > self.options.patience {
                return Err(last);
            }
            sleep(LOOK).await;
        }
    }

    /// Makes a snapshot of the node's state, and waits until it is durable; gives its last entry.
    ///
    /// # Errors
    /// It does not run, or the snapshot cannot be made.
    pub async fn snapshot(&self, id: NodeId) -> Result<LogId, TestError> {
        let made = self.node(id)?.snapshot().await;
        made.map_err(|source| TestError::Call { doing: format!("making a snapshot of node {id}"), source })
    }

    /// Waits until every node that runs has applied everything that is committed. For when nobody writes: else no two nodes
    /// ever stand at the same entry.
    ///
    /// # Errors
    /// Not in time; the error tells where each node is.
    pub async fn wait_until_level(&self) -> Result<(), TestError> {
        let started = Instant::now();
        loop {
            let goal = self.wait_for_leader().await?.status().commit;
            let is_level = |status: &NodeStatus| status.applied == goal && status.failure.is_none();
            if self.nodes().iter().all(|node| is_level(&node.status())) {
                return Ok(());
            }
            self.go_on(started, || "every node at the same entry".into()).await?;
        }
    }

    /// Waits until all are level, and compares the digests of their states: for the built-in key-value machine.
    ///
    /// # Errors
    /// They differ, or are not level in time.
    pub async fn digests_agree(&self) -> Result<Digest, TestError> {
        self.wait_until_level().await?;
        let mut found = Vec::new();
        for node in self.nodes() {
            let doing = || format!("asking node {} for the digest of its state", node.id());
            let digest = node.digest().await.map_err(|source| TestError::Call { doing: doing(), source })?;
            found.push((node.id(), (digest.digest, digest.keys, digest.revision), digest));
        }
        all_equal(found)
    }

    /// Waits until all are level, and compares what each one's own copy answers to `query`: for any state machine. Gives the
    /// answer.
    ///
    /// # Errors
    /// They differ, or are not level in time.
    pub async fn answers_agree(&self, query: impl Into<Bytes>) -> Result<Bytes, TestError> {
        let query = query.into();
        self.wait_until_level().await?;
        let mut found = Vec::new();
        for node in self.nodes() {
            let doing = || format!("asking node {}", node.id());
            let reply = node.read_local(query.clone()).await;
            let reply = reply.map_err(|source| TestError::Call { doing: doing(), source })?;
            found.push((node.id(), reply.response.clone(), reply.response));
        }
        all_equal(found)
    }

    /// Ends a node as kill -9 would: it has no last word, hands nothing over, and flushes nothing.
    ///
    /// # Errors
    /// It does not run, or its storage hangs.
    pub async fn kill(&self, id: NodeId) -> Result<(), TestError> {
        let node = self.stand_up(id)?;
        // First the silence: messages that its threads still make get nowhere.
        self.router.isolate(id);
        node.kill().await.map_err(|source| TestError::End { node: id, source })
    }

    /// Ends a node in good order.
    ///
    /// # Errors
    /// It does not run, had failed before, or its storage hangs.
    pub async fn shut_down(&self, id: NodeId) -> Result<(), TestError> {
        let node = self.stand_up(id)?;
        node.shutdown().await.map_err(|source| TestError::End { node: id, source })
    }

    fn stand_up(&self, id: NodeId) -> Result<Node, TestError> {
        let node = self.seats().get_mut(&id).and_then(|seat| seat.node.take());
        node.ok_or(TestError::NotRunning { node: id })
    }

    /// Starts a node that does not run on what its directory holds. Does not wait for it to be ready.
    ///
    /// # Errors
    /// It runs, or does not start.
    pub async fn restart(&self, id: NodeId) -> Result<Node, TestError> {
        let joins = match self.seats().get(&id) {
            Some(Seat { node: None, joins }) => *joins,
            Some(_) => return Err(TestError::Running { node: id }),
            None => return Err(TestError::NotRunning { node: id }),
        };
        let started = Instant::now();
        let node = loop {
            match self.options.start(id, self.directory(id), joins, &self.router).await {
                Ok(node) => break node,
                // A task of its life before may hold a file for a moment longer.
                Err(StartupError::Locked { .. }) if started.elapsed() < self.options.patience => sleep(LOOK).await,
                Err(source) => return Err(TestError::Start { node: id, source }),
            }
        };
        self.router.heal(id);
        self.seats().entry(id).or_default().node = Some(node.clone());
        Ok(node)
    }

    /// Adds a node with an empty directory, and waits until it votes.
    ///
    /// # Errors
    /// It does not start, or does not vote in time.
    pub async fn add(&self) -> Result<Node, TestError> {
        let id = self.ids().last().map_or(1, |last| last + 1);
        self.seats().insert(id, Seat { node: None, joins: true });
        let node = self.restart(id).await?;
        self.until_done(Operation::AddLearner { node: id, address: address(id), promote: true }).await?;
        self.until_done(Operation::Promote { node: id }).await?;
        Ok(node)
    }

    /// Takes a node's directory away, as if its disk were lost, and lets an empty one of the same id take its place; waits
    /// until that one votes.
    ///
    /// # Errors
    /// There is no such node, or the empty one does not vote in time.
    pub async fn wipe(&self, id: NodeId) -> Result<Node, TestError> {
        if self.node(id).is_ok() {
            self.kill(id).await?;
        }
        let path = self.directory(id);
        std::fs::remove_dir_all(&path).map_err(|source| TestError::Directory { path, source })?;
        if let Some(seat) = self.seats().get_mut(&id) {
            seat.joins = true;
        }
        let node = self.restart(id).await?;
        self.until_done(Operation::Replace { old: id, node: id, address: address(id), promote: true }).await?;
        self.until_done(Operation::Promote { node: id }).await?;
        Ok(node)
    }

    /// Removes a node from the membership, and ends it.
    ///
    /// # Errors
    /// The removal is refused, or not made in time.
    pub async fn remove(&self, id: NodeId) -> Result<(), TestError> {
        self.until_done(Operation::Remove { node: id }).await?;
        if self.node(id).is_ok() {
            self.kill(id).await?;
        }
        self.seats().remove(&id);
        Ok(())
    }

    /// Asks for a change until it is made: it may be asked for again, whatever became of the answer.
    async fn until_done(&self, operation: Operation) -> Result<(), TestError> {
        let started = Instant::now();
        while let Err(error) = self.any().operate(operation.clone()).await {
            self.go_on(started, || format!("{operation:?} ({error})")).await?;
        }
        Ok(())
    }

    /// Sleeps a little; an error once the patience has ended.
    async fn go_on(&self, started: Instant, what: impl Fn() -> String) -> Result<(), TestError> {
        let within = self.options.patience;
        if started.elapsed() > within {
            return Err(TestError::NotInTime { what: what(), within, seed: self.seed(), found: self.situation() });
        }
        sleep(LOOK).await;
        Ok(())
    }

    /// Where each node is, for a reader.
    fn situation(&self) -> String {
        let of = |(id, seat): (&NodeId, &Seat)| match seat.node.as_ref().map(Node::status) {
            None => format!("node {id} does not run"),
            Some(status) => format!(
                "node {id}: {} in term {}, committed {}, applied {}{}",
                status.role,
                status.term,
                status.commit,
                status.applied,
                status.failure.map(|why| format!(", failed: {why}")).unwrap_or_default()
            ),
        };
        self.seats().iter().map(of).collect::<Vec<_>>().join("; ")
    }
}

/// The value that all nodes have, by what must be equal of it.
fn all_equal<E: PartialEq + std::fmt::Debug, T>(found: Vec<(NodeId, E, T)>) -> Result<T, TestError> {
    let is_equal = found.iter().all(|(_, seen, _)| Some(seen) == found.first().map(|(_, first, _)| first));
    if !is_equal {
        let found: Vec<_> = found.iter().map(|(node, seen, _)| format!("node {node}: {seen:?}")).collect();
        return Err(TestError::Differ { found: found.join("; ") });
    }
    found.into_iter().next().map(|(_, _, value)| value).ok_or(TestError::Differ { found: "no node runs".into() })
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cluster of seed {}: {}", self.seed(), self.situation())
    }
}
