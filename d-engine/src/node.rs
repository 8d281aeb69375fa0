//! A running node, as the application sees it.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use d_engine_core::LogId;
use d_engine_net::{ClientError, KeyValue, NodeStatus, Operated, Operation, ReadMode, Reply, Result, SnapshotSource};
use d_engine_raft::NodeId;
use tokio::sync::watch;

use crate::StartupError;
use crate::ending::Ending;
use crate::published::Leadership;
use crate::shared::Shared;

/// Between two questions whether the node can serve.
const ASK_AGAIN: Duration = Duration::from_millis(10);

/// A running node. Clones are handles of the same node.
///
/// The typed calls of the built-in key-value machine (`put`, `get`, `txn`, `watch`, …) are those of [`KeyValue`], the same as a
/// [`Client`](crate::Client)'s; [`propose`](Node::propose) and [`read`](Node::read) are for any machine.
///
/// Every call has a deadline (`limits.request_timeout_ms`): a write whose fate is not known then is
/// [`ClientError::Unknown`], everything else that nobody served is [`ClientError::Unavailable`] and had no effect. Calls
/// may be made on any node: one that does not lead passes a write on, once, and reads its own copy after asking the
/// leader for the read index. While no leader is known, calls wait for one.
///
/// The node ends with [`shutdown`](Node::shutdown), when the builder's watch fires, or when the last handle is dropped,
/// which blocks until its threads have ended. Only `shutdown` lets calls that are under way finish first.
#[derive(Clone)]
pub struct Node {
    shared: Arc<Shared>,
    ending: Arc<Ending>,
    key_value: KeyValue,
}

impl Node {
    pub(crate) fn new(shared: Arc<Shared>, ending: Arc<Ending>) -> Self {
        let key_value = KeyValue::new(shared.clone());
        Self { shared, ending, key_value }
    }

    /// Its node id.
    pub fn id(&self) -> NodeId {
        self.shared.id()
    }

    /// Proposes a command to the state machine; answers once it is committed and applied.
    ///
    /// # Errors
    /// [`ClientError::Unknown`] if the command may have been or may still be applied; every other error says that it was
    /// not and will not be. Dropping the future does not take the command back.
    pub async fn propose(&self, command: impl Into<Bytes>) -> Result<Reply> {
        self.shared.propose(command.into(), false).await
    }

    /// Asks the state machine ([`StateMachine::read_at`](crate::StateMachine::read_at)); the answer includes every write
    /// that was answered before the call.
    ///
    /// # Errors
    /// All of them had no effect; what is not `Rejected` may be asked again.
    pub async fn read(&self, query: impl Into<Bytes>) -> Result<Reply> {
        self.read_in_mode(query, ReadMode::Linearizable).await
    }

    /// Asks the state machine, as fresh as `mode` says. With [`ReadMode::Lease`] on a leader whose lease is valid
    /// ([`NodeConfig::lease_reads`](crate::NodeConfig::lease_reads)), the calling thread reads the state machine at once.
    ///
    /// # Errors
    /// As [`read`](Node::read).
    pub async fn read_in_mode(&self, query: impl Into<Bytes>, mode: ReadMode) -> Result<Reply> {
        self.shared.read(query.into(), mode).await
    }

    /// Asks this node's own copy, which may be old; costs no message.
    ///
    /// # Errors
    /// As [`read`](Node::read).
    pub async fn read_local(&self, query: impl Into<Bytes>) -> Result<Reply> {
        self.read_in_mode(query, ReadMode::Local).await
    }

    /// The value of a key of any state machine ([`StateMachine::get`](crate::StateMachine::get)), as fresh as with
    /// [`read`](Node::read).
    ///
    /// # Errors
    /// As [`read`](Node::read).
    pub async fn read_key(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        self.read_key_in_mode(key, ReadMode::Linearizable).await
    }

    /// The value of a key of any state machine, as fresh as `mode` says; by a valid lease it costs a lookup.
    ///
    /// # Errors
    /// As [`read`](Node::read).
    pub async fn read_key_in_mode(&self, key: impl AsRef<[u8]>, mode: ReadMode) -> Result<Option<Bytes>> {
        self.shared.read_bytes(key.as_ref(), mode).await
    }

    /// What the node knows about itself and its cluster; never waits.
    pub fn status(&self) -> NodeStatus {
        self.shared.status()
    }

    /// Who leads, as this node knows it; changes are seen in order, though not every one.
    pub fn watch_leadership(&self) -> watch::Receiver<Leadership> {
        self.shared.published.leadership()
    }

    /// Whether this node leads, as far as it knows.
    pub fn is_leader(&self) -> bool {
        self.shared.published.leader() == Some(self.id())
    }

    /// Adds the node at `address` to the cluster: first without a vote, and with one as soon as it has caught up, as long
    /// as the leader stays the same. Answers once it is a member; [`status`](Node::status) of the leader shows how far it is.
    ///
    /// The node must run and wait to be added ([`NodeConfig::join`](crate::NodeConfig::join)), or have been a member before. One
    /// that is a member with this address and its present directory stays as it is.
    ///
    /// # Errors
    /// `Rejected` with a [`MembershipError`](crate::MembershipError): nothing has changed.
    /// [`ClientError::Unknown`] if the change may have been made: ask again, and what has been done is answered as done.
    pub async fn add_learner(&self, node: NodeId, address: impl Into<String>) -> Result<Operated> {
        self.operate(Operation::AddLearner { node, address: address.into(), promote: true }).await
    }

    /// Lets a learner vote that has caught up; one that votes already stays as it is.
    ///
    /// # Errors
    /// As [`add_learner`](Node::add_learner).
    pub async fn promote(&self, node: NodeId) -> Result<Operated> {
        self.operate(Operation::Promote { node }).await
    }

    /// Removes a member. It is told, and serves no more. For a node that is no member there is nothing to do.
    ///
    /// # Errors
    /// As [`add_learner`](Node::add_learner); refused if the voters that are left could not decide anything.
    pub async fn remove(&self, node: NodeId) -> Result<Operated> {
        self.operate(Operation::Remove { node }).await
    }

    /// Takes the member `old`, dead or wiped, out and the node at `address` in, in one step; the new one votes once it has
    /// caught up. With the same id for both, a wiped directory comes back. Nothing is left to do if that has happened already.
    ///
    /// # Errors
    /// As [`remove`](Node::remove).
    pub async fn replace(&self, old: NodeId, node: NodeId, address: impl Into<String>) -> Result<Operated> {
        self.operate(Operation::Replace { old, node, address: address.into(), promote: true }).await
    }

    /// Hands leadership over to a voter. Writes are refused as busy meanwhile, for an election timeout at most.
    ///
    /// # Errors
    /// `Rejected` with [`MembershipError::NotTransferred`](crate::MembershipError::NotTransferred): the old leader leads on.
    pub async fn transfer_leadership(&self, to: NodeId) -> Result<Operated> {
        self.operate(Operation::Transfer { to }).await
    }

    /// Any of the above, and more.
    ///
    /// # Errors
    /// As [`add_learner`](Node::add_learner).
    pub async fn operate(&self, operation: Operation) -> Result<Operated> {
        self.shared.operate(operation, false).await
    }

    /// Makes a snapshot of this node's state now and waits until it is durable; answers with the last entry that it
    /// includes. The node makes snapshots by itself as well (section `snapshot` of the configuration), and purges its log
    /// up to them as far as no replica needs it.
    ///
    /// # Errors
    /// [`ClientError::Unavailable`] if it could not be made, with the cause; the node goes on without it.
    pub async fn snapshot(&self) -> Result<LogId> {
        self.shared.snapshot().await
    }

    /// Makes a snapshot of this node's state, to be kept elsewhere: [`archive::save`](crate::archive::save) writes it into a
    /// file. Without `local` it includes every write that was answered before the call; with it, the state is this node's as
    /// it is, which needs no quorum.
    ///
    /// # Errors
    /// [`ClientError::Unavailable`] if it could not be made, or a leader with a quorum is needed and not known.
    pub async fn fetch_snapshot(&self, local: bool) -> Result<Box<dyn SnapshotSource>> {
        self.shared.fetch_snapshot(local).await
    }

    /// Waits until the node can serve: a leader is known and confirmed, and everything committed by then is applied here.
    ///
    /// # Errors
    /// [`StartupError::NotReady`] with what it still waits for.
    pub async fn wait_ready(&self, deadline: Duration) -> Result<(), StartupError> {
        let ready = async {
            loop {
                match self.shared.confirm_read(false).await {
                    Ok(()) => return Ok(()),
                    Err(ClientError::ShuttingDown) => return Err(ClientError::ShuttingDown.to_string()),
                    Err(error) if self.shared.published.failure().is_some() => return Err(error.to_string()),
                    // No leader within a call's deadline; this one's may be longer.
                    Err(_) => tokio::time::sleep(ASK_AGAIN).await,
                }
            }
        };
        match tokio::time::timeout(deadline, ready).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err(StartupError::NotReady { why }),
            Err(_) => Err(StartupError::NotReady { why: self.shared.situation() }),
        }
    }

    /// Ends the node as kill -9 would. Calls under way are told as by [`shutdown`](Node::shutdown).
    #[cfg(feature = "testing")]
    pub(crate) async fn kill(&self) -> Result<(), StartupError> {
        match self.ending.kill().await {
            hanging if hanging.is_empty() => Ok(()),
            hanging => Err(StartupError::StillRunning { threads: hanging.join(", ") }),
        }
    }

    /// Ends the node: takes no more calls, gives those under way a short time, then stops and joins every thread and
    /// task, flushes state machine and log and gives the storage up, so that the directory can be opened again. Calls
    /// that are cut off are told: writes `Unknown`, reads `ShuttingDown`.
    ///
    /// Calling it again, on any handle, waits for the same end.
    ///
    /// # Errors
    /// The node had failed before, with the cause; it has ended all the same. Or a thread of it waits for storage that
    /// hangs: that is not waited for longer than 30 s.
    pub async fn shutdown(&self) -> Result<(), StartupError> {
        let hanging = self.ending.shut_down().await;
        if !hanging.is_empty() {
            return Err(StartupError::StillRunning { threads: hanging.join(", ") });
        }
        match self.shared.published.failure() {
            None => Ok(()),
            Some(why) => Err(StartupError::Failed { why }),
        }
    }
}

/// A node is the key-value store of its cluster, and more. With a state machine of one's own, those calls answer `Rejected`.
impl Deref for Node {
    type Target = KeyValue;

    fn deref(&self) -> &KeyValue {
        &self.key_value
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("id", &self.id()).finish_non_exhaustive()
    }
}
