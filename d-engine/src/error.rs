//! Why a node does not start.

use d_engine_raft::StartError;

use crate::ConfigErrors;

/// Why a node does not start. Nothing runs then, and what was stored is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartupError {
    /// The builder was not given everything.
    #[error("the node has no {part}; give it one with NodeBuilder::{method}(..)")]
    MissingPart {
        /// What is missing.
        part: &'static str,
        /// The builder's method that takes it.
        method: &'static str,
    },
    /// The configuration contradicts itself.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// The storage forgets what a voter must remember.
    #[error(
        "the storage engine {what}, so this node must not vote in a cluster of {members} nodes: after a loss of power it \
         could break a promise and the cluster lose acknowledged writes. Choose a durable storage engine, or set \
         cluster.allow_unsafe_voters = true if the data may be lost"
    )]
    UnsafeVoter {
        /// What the engine does.
        what: &'static str,
        /// Founding members.
        members: usize,
    },
    /// Another process has the data directory open.
    #[error("the data directory {path} is in use by another process; stop it or choose another data directory")]
    Locked {
        /// The directory.
        path: String,
    },
    /// The storage cannot be opened or read.
    #[error("{doing}: {source}")]
    Storage {
        /// What was being done.
        doing: &'static str,
        /// What failed.
        source: d_engine_core::Error,
    },
    /// The data directory cannot be used by this node.
    #[error(transparent)]
    Directory(#[from] StartError),
    /// The directory was being made from an archive or for a recovery, and that did not come to its end.
    #[error(
        "{path} is half made: the file RESTORING in it says that it is being made from an archive or for a recovery, or that \
         this was interrupted. Nothing in it was ever in service; if nothing is at work any more, remove all of it and begin \
         anew"
    )]
    HalfMade {
        /// The directory.
        path: String,
    },
    /// A recovery has made a new cluster from this directory.
    #[error(
        "{path} was replaced: the file REPLACED in it says which new cluster was made from it. If it still has its old name, the \
         recovery was interrupted: run it again. Going back to the old cluster means to give up the new one, and then to \
         remove that file"
    )]
    Replaced {
        /// The directory.
        path: String,
    },
    /// The listen address cannot be used.
    #[error(
        "cannot listen on {address}: {source}{}",
        if .source.kind() == std::io::ErrorKind::AddrInUse {
            "; another process uses it, stop that or choose another node.listen"
        } else {
            ""
        }
    )]
    Listen {
        /// The address.
        address: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The operating system refused something else.
    #[error("{doing}: {source}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The node had failed before it ended.
    #[error("the node had stopped taking part: {why}")]
    Failed {
        /// The cause.
        why: String,
    },
    /// The node takes part no more, but threads of it hang.
    #[error(
        "the node has stopped, but its threads {threads} have not ended: the storage that they wait for hangs, and stays \
         open until the process ends"
    )]
    StillRunning {
        /// Their names.
        threads: String,
    },
    /// The node started but was not ready in time.
    #[error("the node was not ready in time: {why}")]
    NotReady {
        /// What it waits for.
        why: String,
    },
}

impl StartupError {
    /// An error of the stores or the machine.
    pub(crate) fn storage(doing: &'static str) -> impl FnOnce(d_engine_core::Error) -> Self {
        move |source| match source {
            d_engine_core::Error::Locked { path } => Self::Locked { path },
            source => Self::Storage { doing, source },
        }
    }

    pub(crate) fn system(doing: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::System { doing, source }
    }
}

/// So that `?` works in functions that return the storage contract's error, as the published guides do.
impl From<StartupError> for d_engine_core::Error {
    fn from(error: StartupError) -> Self {
        match error {
            StartupError::Storage { source, .. } => source,
            StartupError::Locked { path } => Self::Locked { path },
            other => Self::backend(other),
        }
    }
}
