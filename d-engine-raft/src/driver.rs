//! The core with what else must be exactly right around it: filling messages, write order, applying.
//!
//! Sans-IO like the core: a runtime performs the [`Command`]s and reports with [`Event`]s.

use bytes::Bytes;
use d_engine_core::{Entry, LogId};

use crate::{Message, NodeId, Rejection, Write};

/// What happens to a node.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// A message from another node.
    Message {
        /// Who sent it.
        from: NodeId,
        /// What it says.
        message: Message,
    },
    /// A client's command; answered by [`Command::Accepted`] or [`Command::Rejected`].
    Propose {
        /// The caller's number for it.
        id: u64,
        /// The command.
        command: Bytes,
    },
    /// A client asks for a read index; answered by [`Command::ReadReady`] or [`Command::Rejected`].
    Read {
        /// The caller's number for it.
        id: u64,
    },
    /// The disk holds every [`Command::Write`] up to number `seq`.
    Persisted {
        /// Number of a write.
        seq: u64,
    },
    /// Storage or state machine failed for good.
    StorageFailed {
        /// The cause in plain words.
        why: String,
    },
    /// The state machine has applied everything up to `index`.
    Applied {
        /// Index of an entry.
        index: u64,
    },
    /// Answer to [`Command::ReadLog`].
    LogRead {
        /// As asked.
        ticket: u64,
        /// The entries that fitted, in order; or why there are none.
        entries: Result<Vec<Entry>, String>,
    },
    /// The connection to a peer broke.
    Unreachable {
        /// The peer.
        to: NodeId,
    },
    /// The time of [`Driver::poll_timeout`] has come.
    Timeout,
}

/// What a node wants done.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Command {
    /// Write to the local disk, in order; answered by [`Event::Persisted`] or [`Event::StorageFailed`].
    Write(Write),
    /// Send a message; it may be lost.
    Send {
        /// Receiver.
        to: NodeId,
        /// The message.
        message: Message,
    },
    /// Read entries `first..=last` from the log, beside the disk's writes; answered by [`Event::LogRead`].
    ReadLog {
        /// Names the request in its answer.
        ticket: u64,
        /// First index.
        first: u64,
        /// Last index.
        last: u64,
        /// Stop once this many bytes of entries are reached.
        max_bytes: usize,
    },
    /// Apply entries `first..=last`, in order; answered by [`Event::Applied`] or [`Event::StorageFailed`].
    Apply {
        /// First index.
        first: u64,
        /// Last index.
        last: u64,
        /// The entries, no-ops and memberships included; empty: read them from the log.
        entries: Vec<Entry>,
    },
    /// The proposal has a place in the log. If an entry of another term is applied there, it was not applied.
    Accepted {
        /// The caller's number.
        id: u64,
        /// The place.
        at: LogId,
    },
    /// A read may be answered once `index` is applied here.
    ReadReady {
        /// The caller's number.
        id: u64,
        /// The read index.
        index: u64,
    },
    /// A proposal or read is refused; it has had and will have no effect.
    Rejected {
        /// The caller's number.
        id: u64,
        /// Why.
        why: Rejection,
    },
}

use crate::{Boot, Config, Restored, StartError, Status};
use std::time::Duration;

/// One node, sans-IO. Times are since an origin of the runtime's choice that never goes back.
#[derive(Debug)]
pub struct Driver {}

impl Driver {
    /// A node that begins with what survived the last run.
    ///
    /// # Errors
    /// The directory's state contradicts itself or the configuration; nothing has been changed.
    pub fn new(config: Config, restored: Restored, boot: Boot, now: Duration) -> Result<Self, StartError> {
        let _ = (config, restored, boot, now);
        Ok(Self {})
    }

    /// Takes one event. What follows from it waits in [`Driver::poll`].
    pub fn handle(&mut self, now: Duration, event: Event) {
        let _ = (now, event);
    }

    /// The next command, until `None`. Handle all events that wait before polling: they then share writes and messages.
    pub fn poll(&mut self) -> Option<Command> {
        None
    }

    /// When to send the next [`Event::Timeout`].
    pub fn poll_timeout(&self) -> Option<Duration> {
        None
    }

    /// What the node can tell about itself.
    pub fn status(&self, now: Duration) -> Status {
        let _ = now;
        todo!()
    }
}
