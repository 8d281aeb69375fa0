//! What a test is told when its cluster does not do as asked.

use std::path::PathBuf;
use std::time::Duration;

use d_engine_net::ClientError;
use d_engine_raft::NodeId;

use crate::StartupError;

/// Why a [`Cluster`](super::Cluster) did not do as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TestError {
    /// What was waited for has not come about.
    #[error("not within {within:?}: {what}. Seed {seed}; {found}")]
    NotInTime {
        /// What was waited for.
        what: String,
        /// How long.
        within: Duration,
        /// The cluster's seed.
        seed: u64,
        /// Where each node is.
        found: String,
    },
    /// The node was killed, shut down or removed, or never was.
    #[error("node {node} does not run")]
    NotRunning {
        /// The node.
        node: NodeId,
    },
    /// The node runs already.
    #[error("node {node} runs; kill it or shut it down first")]
    Running {
        /// The node.
        node: NodeId,
    },
    /// The node does not start.
    #[error("node {node} does not start: {source}")]
    Start {
        /// The node.
        node: NodeId,
        /// Why.
        source: StartupError,
    },
    /// The node did not end in order.
    #[error("the end of node {node}: {source}")]
    End {
        /// The node.
        node: NodeId,
        /// Why not.
        source: StartupError,
    },
    /// A directory cannot be made or removed.
    #[error("the directory {} cannot be made or removed: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A node did not answer as it should.
    #[error("{doing}: {source}")]
    Call {
        /// What was asked.
        doing: String,
        /// The answer.
        source: ClientError,
    },
    /// Replicas that applied the same entries are not in the same state.
    #[error("replicas that applied the same entries hold different states: {found}")]
    Differ {
        /// What each node has.
        found: String,
    },
}
