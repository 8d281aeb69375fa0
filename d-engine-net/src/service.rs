//! What a node offers to its server, in plain types.

use async_trait::async_trait;
use bytes::Bytes;
use d_engine_core::{KvAnswer, KvQuery, LogId, WatchSink};

use crate::download::SnapshotSource;
use crate::snapshot::{SnapshotAnswer, SnapshotOffer};
use crate::{Operated, Operation, Reason, Result, answer_of};

/// A node as its server sees it. The server checks shape and size of what arrives; the node does the rest.
#[async_trait]
pub trait NodeService: Send + Sync + 'static {
    /// Answers when the command is committed and applied.
    ///
    /// A node that does not lead passes the command on to the leader, once: with `forwarded` it answers
    /// [`NotLeader`](crate::ClientError::NotLeader) instead. Dropping the future does not take the command back.
    ///
    /// # Errors
    /// [`Unknown`](crate::ClientError::Unknown) if the command may have been or may still be applied; every other error
    /// says that it was not and will not be.
    async fn propose(&self, command: Bytes, forwarded: bool) -> Result<Reply>;

    /// Asks the state machine.
    ///
    /// # Errors
    /// Every error but `Rejected` may be answered by asking again, here or elsewhere.
    async fn read(&self, query: Bytes, mode: ReadMode) -> Result<Reply>;

    /// Asks the built-in state machine; what [`read`](NodeService::read) does with the query's bytes, and at a node whose machine
    /// answers in plain types without making any.
    ///
    /// # Errors
    /// As [`read`](NodeService::read).
    async fn ask(&self, query: KvQuery, mode: ReadMode) -> Result<(LogId, KvAnswer)> {
        answer_of(self.read(query.encode(), mode).await?)
    }

    /// Whether this node may lead; asked before a read by lease, which costs no message at the leader alone.
    ///
    /// # Errors
    /// [`NotLeader`](crate::ClientError::NotLeader) if another node is known to lead.
    fn check_leads(&self) -> Result<()> {
        Ok(())
    }

    /// Refuses typed calls unless the state machine speaks the built-in one's language; asked before one is proposed, so
    /// that no log gets commands that its machine cannot read.
    ///
    /// # Errors
    /// `Rejected` for a machine with a language of its own, `ShuttingDown`.
    fn check_key_value(&self) -> Result<()>;

    /// Begins a watch on the node's own state machine, which tells `sink` what happens and, at last, why it ends.
    ///
    /// # Errors
    /// `Rejected` if the machine has no watches or the request is none.
    fn watch(&self, _request: Bytes, _sink: Box<dyn WatchSink>) -> Result<()> {
        Err(Reason::Unsupported { why: "this node has no watches".to_owned() }.into())
    }

    /// What the node knows about itself and its cluster; never waits.
    fn status(&self) -> NodeStatus;

    /// Bytes of one value, at most.
    fn max_value_len(&self) -> usize;

    /// Changes the membership, moves leadership or makes a snapshot. A node that does not lead passes the first two on to
    /// the leader, once, as with [`propose`](NodeService::propose).
    ///
    /// # Errors
    /// [`Unknown`](crate::ClientError::Unknown) if the change may have been made; every other error says that it was not.
    async fn operate(&self, _operation: Operation, _forwarded: bool) -> Result<Operated> {
        Err(Reason::Unsupported { why: "this node takes no orders of operators".to_owned() }.into())
    }

    /// A leader offers a snapshot.
    ///
    /// # Errors
    /// In plain words why this node does not take it.
    async fn take_snapshot(&self, _offer: SnapshotOffer) -> Result<SnapshotAnswer, String> {
        Err("this node takes no snapshots".to_owned())
    }

    /// A snapshot of the node's own state for whoever keeps it. Without `local` it includes every write that was answered
    /// before the call.
    ///
    /// # Errors
    /// `Unavailable` if it cannot be made, or a leader with a quorum is needed and not known.
    async fn fetch_snapshot(&self, _local: bool) -> Result<Box<dyn SnapshotSource>> {
        Err(Reason::Unsupported { why: "this node gives no snapshots away".to_owned() }.into())
    }
}

/// How fresh an answer must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ReadMode {
    /// It includes every write that was answered before the read began.
    #[default]
    Linearizable,
    /// The answering node's own copy: may be old, costs no message.
    Local,
    /// As linearizable, by the leader's lease: without a round of messages, while clocks run at nearly the same rate and do
    /// not stop. Where there is no valid lease, on a node that does not offer it or does not lead, as linearizable.
    Lease,
}

/// The state machine's answer to a command or a query.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reply {
    /// The command's entry; for a query the last entry that the answer includes.
    pub at: LogId,
    /// The answer's bytes.
    pub response: Bytes,
}

/// What a node knows about itself and its cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeStatus {
    /// This node.
    pub node: u64,
    /// Id of its cluster; 0: belongs to none yet.
    pub cluster: u128,
    /// Id of its data directory.
    pub incarnation: u128,
    /// `unformed`, `follower`, `pre-candidate`, `candidate`, `leader` or `failed`.
    pub role: String,
    /// Its term.
    pub term: u64,
    /// The leader it knows of.
    pub leader: Option<u64>,
    /// Highest index known committed.
    pub commit: u64,
    /// Highest index applied.
    pub applied: u64,
    /// Highest index durable here.
    pub persisted: u64,
    /// Index of the last entry of its log.
    pub last: u64,
    /// The newest configuration in its log.
    pub members: Vec<MemberStatus>,
    /// Why it does not take part, if it does not.
    pub failure: Option<String>,
    /// While it belongs to no cluster: the founders that have not answered yet.
    pub waiting_for: Vec<u64>,
    /// Version of the software.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Median time of a sync of the log, in microseconds.
    pub sync_micros_p50: Option<u64>,
    /// 99th percentile of the same.
    pub sync_micros_p99: Option<u64>,
    /// Index up to which its log is purged.
    pub purged: u64,
    /// Index of the last entry in its newest snapshot.
    pub snapshot: Option<u64>,
    /// How much has arrived of a snapshot that is on its way to this node.
    pub receiving: Option<TransferProgress>,
}

/// How far the transfer of a snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TransferProgress {
    /// Bytes that have been sent or have arrived.
    pub done: u64,
    /// Bytes of the snapshot.
    pub total: u64,
}

/// One member of the cluster, as the asked node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemberStatus {
    /// Node id.
    pub node: u64,
    /// `host:port`.
    pub address: String,
    /// `voter`, `learner`, `joining`, `leaving` or `demoting`.
    pub kind: String,
    /// Known to a leader: highest index known to equal its log, durably.
    pub matched: Option<u64>,
    /// Known to a leader: milliseconds since the member's last answer.
    pub silent_for_ms: Option<u64>,
    /// Its data directory.
    pub incarnation: u128,
    /// Known to a leader: how much was sent of a snapshot that is on its way to the member.
    pub snapshot: Option<TransferProgress>,
}
