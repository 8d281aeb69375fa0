//! The core with what else must be exactly right around it: filling messages, write order, applying.
//!
//! Sans-IO like the core: a runtime performs the [`Command`]s and reports with [`Event`]s.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use d_engine_core::{Entry, LogId, Membership};

use crate::tail::Tail;
use crate::{
    Action, Append, Body, Boot, Change, Config, Input, Message, NodeId, Raft, Rejection, Restored, StartError, Status,
    Write,
};

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
    /// Change the membership; answered by [`Command::Changed`], [`Command::Lost`] or [`Command::Rejected`].
    ChangeMembership {
        /// The caller's number for it.
        id: u64,
        /// Index of the configuration that the caller looked at.
        base: Option<u64>,
        /// What to change.
        change: Change,
    },
    /// Hand leadership over; answered by [`Command::Transferred`] or [`Command::Rejected`].
    Transfer {
        /// The caller's number for it.
        id: u64,
        /// The voter to lead.
        to: NodeId,
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
    /// A snapshot of the own state is durable and verified: the log before it may go.
    SnapshotMade {
        /// The last entry whose effects it holds.
        last_included: LogId,
    },
    /// Answer to [`Command::SendSnapshot`].
    SnapshotSent {
        /// Its receiver.
        to: NodeId,
        /// As asked.
        session: u64,
        /// The snapshot's last entry if the receiver holds that state now; `None`: try again.
        installed: Option<LogId>,
    },
    /// A leader's snapshot is complete, verified, marked as being installed and durable here; answered by
    /// [`Command::InstallSnapshot`] or [`Command::DiscardSnapshot`].
    SnapshotReceived {
        /// The leader.
        from: NodeId,
        /// Its term.
        term: u64,
        /// The last entry whose effects the snapshot holds.
        last_included: LogId,
        /// The configuration as of that entry.
        membership: Membership,
    },
    /// Answer to [`Command::InstallSnapshot`].
    SnapshotInstalled {
        /// As asked.
        last_included: LogId,
        /// False: the file was bad, the old state stands.
        ok: bool,
    },
    /// Answer to [`Command::ReadLog`].
    LogRead {
        /// As asked.
        ticket: u64,
        /// The entries that fitted, in order; or why there are none.
        entries: Result<Vec<Entry>, String>,
    },
    /// The handshake with a peer succeeded.
    PeerHello {
        /// The peer.
        from: NodeId,
        /// Its data directory.
        incarnation: u128,
        /// Newest feature level that it understands.
        feature_level: u32,
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
    /// Send the newest snapshot to a follower; answered by [`Event::SnapshotSent`].
    SendSnapshot {
        /// Receiver.
        to: NodeId,
        /// Given back in the answer.
        session: u64,
        /// This leader's term.
        term: u64,
    },
    /// Install a received snapshot in the state machine, after every earlier [`Command::Apply`]; answered by
    /// [`Event::SnapshotInstalled`] or [`Event::StorageFailed`]. The purge of the log follows as a write; the mark may be
    /// cleared once that is durable.
    InstallSnapshot {
        /// Which.
        last_included: LogId,
    },
    /// A received snapshot is not needed: delete it.
    DiscardSnapshot {
        /// Which.
        last_included: LogId,
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
    /// A membership change has committed.
    Changed {
        /// The caller's number.
        id: u64,
        /// Index of its last configuration.
        index: u64,
    },
    /// This node leads no more; whether the change takes effect is not known.
    Lost {
        /// The caller's number.
        id: u64,
    },
    /// This node leads no more, as it was asked.
    Transferred {
        /// The caller's number.
        id: u64,
    },
    /// A request is refused; it has had and will have no effect.
    Rejected {
        /// The caller's number.
        id: u64,
        /// Why.
        why: Rejection,
    },
}

/// One node, sans-IO. Times are since an origin of the runtime's choice that never goes back.
#[derive(Debug)]
pub struct Driver {
    raft: Raft,
    tail: Tail,
    commands: VecDeque<Command>,
    /// Messages to a peer that wait, in order, behind one whose entries are being read from the disk.
    outboxes: BTreeMap<NodeId, VecDeque<Outgoing>>,
    next_ticket: u64,
    apply_sent: u64,
    /// Entries that the state machine has been handed and not yet applied: last index and bytes of each handful.
    applying: VecDeque<(u64, usize)>,
    applying_bytes: usize,
    /// Bytes of entries handed to the state machine at once; beyond, it reads them from the log itself.
    max_applying_bytes: usize,
    cold_read_bytes: usize,
}

#[derive(Debug)]
enum Outgoing {
    Ready(Message),
    Reading { ticket: u64, message: Unfilled },
}

impl Outgoing {
    /// Term and replication stream.
    fn stream(&self) -> Option<(u64, u64)> {
        match self {
            Self::Ready(Message { term, body: Body::Append(append), .. }) => Some((*term, append.session)),
            Self::Ready(_) => None,
            Self::Reading { message, .. } => Some((message.term, message.append.session)),
        }
    }
}

/// An AppendEntries whose entries are still to come.
#[derive(Debug)]
struct Unfilled {
    term: u64,
    append: Append,
    entries_term: u64,
    last: u64,
}

impl Driver {
    /// A node that begins with what survived the last run.
    ///
    /// # Errors
    /// The directory's state contradicts itself or the configuration; nothing has been changed.
    pub fn new(config: Config, restored: Restored, boot: Boot, now: Duration) -> Result<Self, StartError> {
        let tail = Tail::new(config.tail_bytes);
        let apply_sent = restored.last_applied.index;
        let (max_applying_bytes, cold_read_bytes) = (config.tail_bytes, config.cold_read_bytes);
        let raft = Raft::new(config, restored, boot, now)?;
        Ok(Self {
            raft,
            tail,
            commands: VecDeque::new(),
            outboxes: BTreeMap::new(),
            next_ticket: 0,
            apply_sent,
            applying: VecDeque::new(),
            applying_bytes: 0,
            max_applying_bytes,
            cold_read_bytes,
        })
    }

    /// Takes one event. What follows from it waits in [`Driver::poll`].
    pub fn handle(&mut self, now: Duration, event: Event) {
        let input = match event {
            Event::LogRead { ticket, entries } => return self.on_log_read(now, ticket, entries),
            Event::Message { from, message } => Input::Message { from, message },
            Event::Propose { id, command } => Input::Propose { id, command },
            Event::Read { id } => Input::Read { id },
            Event::ChangeMembership { id, base, change } => Input::ChangeMembership { id, base, change },
            Event::Transfer { id, to } => Input::Transfer { id, to },
            Event::Persisted { seq } => Input::Persisted { seq },
            Event::StorageFailed { why } => Input::StorageFailed { why },
            Event::Applied { index } => {
                self.applied(index);
                Input::Applied { index }
            }
            Event::SnapshotMade { last_included } => Input::SnapshotMade { last_included },
            Event::SnapshotSent { to, session, installed } => Input::SnapshotSent { to, session, installed },
            Event::SnapshotReceived { from, term, last_included, membership } => {
                Input::SnapshotReceived { from, term, last_included, membership }
            }
            Event::SnapshotInstalled { last_included, ok } => {
                if ok {
                    self.apply_sent = self.apply_sent.max(last_included.index);
                }
                Input::SnapshotInstalled { last_included, ok }
            }
            Event::PeerHello { from, incarnation, feature_level } => {
                Input::PeerHello { from, incarnation, feature_level }
            }
            Event::Unreachable { to } => Input::Unreachable { to },
            Event::Timeout => Input::Timeout,
        };
        self.raft.handle(now, input);
    }

    /// The next command, until `None`. Handle all events that wait before polling: they then share writes and messages.
    pub fn poll(&mut self) -> Option<Command> {
        loop {
            if let Some(command) = self.commands.pop_front() {
                return Some(command);
            }
            let action = self.raft.poll_action()?;
            self.perform(action);
        }
    }

    /// When to send the next [`Event::Timeout`]. Events that arrived before it go first.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.raft.poll_timeout()
    }

    /// What the node can tell about itself.
    pub fn status(&self, now: Duration) -> Status {
        self.raft.status(now)
    }

    /// The core, for the simulator's checks.
    #[cfg(feature = "simulator")]
    pub(crate) fn raft(&self) -> &Raft {
        &self.raft
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Write(write) => {
                self.tail.write(&write);
                self.commands.push_back(Command::Write(write));
            }
            Action::Send { to, message } => self.send(to, message),
            Action::SendEntries { to, term, append, entries_term, last } => {
                self.send_entries(to, Unfilled { term, append, entries_term, last });
            }
            Action::SendSnapshot { to, session, term } => {
                self.commands.push_back(Command::SendSnapshot { to, session, term });
            }
            Action::InstallSnapshot { last_included } => {
                self.commands.push_back(Command::InstallSnapshot { last_included });
            }
            Action::DiscardSnapshot { last_included } => {
                self.commands.push_back(Command::DiscardSnapshot { last_included });
            }
            Action::Apply { up_to } => self.apply(up_to),
            Action::Accepted { id, at } => self.commands.push_back(Command::Accepted { id, at }),
            Action::ReadReady { id, index } => self.commands.push_back(Command::ReadReady { id, index }),
            Action::Changed { id, index } => self.commands.push_back(Command::Changed { id, index }),
            Action::Lost { id } => self.commands.push_back(Command::Lost { id }),
            Action::Transferred { id } => self.commands.push_back(Command::Transferred { id }),
            Action::Reject { id, why } => self.commands.push_back(Command::Rejected { id, why }),
        }
    }

    fn apply(&mut self, up_to: u64) {
        let first = self.apply_sent + 1;
        self.apply_sent = up_to;
        let mut entries = self.tail.range(first, up_to).unwrap_or_default();
        let bytes: usize = entries.iter().map(Entry::encoded_len).sum();
        if !self.applying.is_empty() && self.applying_bytes + bytes > self.max_applying_bytes {
            // A state machine that lags must not keep in memory what has left the tail.
            entries = Vec::new();
        } else {
            self.applying.push_back((up_to, bytes));
            self.applying_bytes += bytes;
        }
        self.commands.push_back(Command::Apply { first, last: up_to, entries });
    }

    fn applied(&mut self, index: u64) {
        while let Some((_, bytes)) = self.applying.pop_front_if(|(last, _)| *last <= index) {
            self.applying_bytes -= bytes;
        }
    }

    fn send(&mut self, to: NodeId, message: Message) {
        if let Body::Append(append) = &message.body {
            self.drop_stale(to, message.term, append.session);
        }
        match self.outboxes.get_mut(&to) {
            // An AppendEntries that overtook an earlier one would be refused.
            Some(outbox) if matches!(message.body, Body::Append(_)) => outbox.push_back(Outgoing::Ready(message)),
            _ => self.commands.push_back(Command::Send { to, message }),
        }
    }

    fn send_entries(&mut self, to: NodeId, message: Unfilled) {
        self.drop_stale(to, message.term, message.append.session);
        let first = message.append.prev.index + 1;
        if let Some(entries) = self.tail.range(first, message.last) {
            return match self.fill(message, entries) {
                Ok(message) => self.send(to, message),
                Err(session) => self.not_sent(to, session, None),
            };
        }
        self.next_ticket += 1;
        let (ticket, last) = (self.next_ticket, message.last);
        self.outboxes.entry(to).or_default().push_back(Outgoing::Reading { ticket, message });
        self.commands.push_back(Command::ReadLog { ticket, first, last, max_bytes: self.cold_read_bytes });
    }

    /// Messages of an older stream say nothing any more, and must not hold up those of the present one.
    fn drop_stale(&mut self, to: NodeId, term: u64, session: u64) {
        let Some(outbox) = self.outboxes.get_mut(&to) else { return };
        outbox.retain(|outgoing| outgoing.stream() == Some((term, session)));
        if outbox.is_empty() {
            self.outboxes.remove(&to);
        }
    }

    /// Fills a message if every entry is there with the right term; it is never shortened. `Err` is its session.
    fn fill(&self, message: Unfilled, entries: Vec<Entry>) -> Result<Message, u64> {
        let Unfilled { term, mut append, entries_term, last } = message;
        let expected = append.prev.index + 1..=last;
        let is_complete = entries.len() as u64 == last - append.prev.index;
        let is_same = expected.zip(&entries).all(|(index, entry)| entry.id() == LogId::new(entries_term, index));
        if !(is_complete && is_same) {
            return Err(append.session);
        }
        append.entries = entries;
        Ok(Message { term, incarnation: self.raft.incarnation(), group: 0, body: Body::Append(append) })
    }

    fn not_sent(&mut self, to: NodeId, session: u64, fitting: Option<u64>) {
        let now = Duration::ZERO;
        self.raft.handle(now, Input::NotSent { to, session, fitting });
    }

    fn on_log_read(&mut self, _now: Duration, ticket: u64, entries: Result<Vec<Entry>, String>) {
        let is_mine = |outgoing: &Outgoing| matches!(outgoing, Outgoing::Reading { ticket: t, .. } if *t == ticket);
        let Some(to) = self.outboxes.iter().find(|(_, outbox)| outbox.iter().any(is_mine)).map(|(to, _)| *to) else {
            return;
        };
        let mut outbox = self.outboxes.remove(&to).unwrap_or_default();
        let Some(at) = outbox.iter().position(is_mine) else { return };
        let Some(Outgoing::Reading { message, .. }) = outbox.remove(at) else { return };
        let wanted = message.last - message.append.prev.index;
        let entries = entries.unwrap_or_default();
        let found = entries.len() as u64;
        match self.fill(message, entries) {
            Ok(message) => outbox.insert(at, Outgoing::Ready(message)),
            Err(session) => {
                let fitting = (found > 0 && found < wanted).then_some(found);
                self.not_sent(to, session, fitting);
            }
        }
        while let Some(Outgoing::Ready(message)) = outbox.pop_front_if(|next| matches!(next, Outgoing::Ready(_))) {
            self.commands.push_back(Command::Send { to, message });
        }
        if !outbox.is_empty() {
            self.outboxes.insert(to, outbox);
        }
    }
}
