//! The core with what else must be exactly right around it: filling messages, write order, applying.
//!
//! Sans-IO like the core: a runtime performs the [`Command`]s and reports with [`Event`]s.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use d_engine_core::{Entry, LogId};

use crate::config::MAX_APPLYING_ENTRIES;
use crate::raft::Part;
use crate::tail::Tail;
use crate::{
    Action, Answer, Append, Body, Boot, Config, Input, Message, NodeId, Raft, Restored, Role, SnapshotTask, StartError,
    Status, Write,
};

/// What happens to a node.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// Something that the core decides about.
    Input(Input),
    /// Answer to [`Command::ReadLog`].
    LogRead {
        /// As asked.
        ticket: u64,
        /// The entries that fitted, in order; or why there are none.
        entries: Result<Vec<Entry>, String>,
    },
}

impl From<Input> for Event {
    fn from(input: Input) -> Self {
        Self::Input(input)
    }
}

/// What a node wants done.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Command {
    /// Write to the local disk, in order; answered by [`Input::Persisted`] or [`Input::StorageFailed`].
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
    /// Apply entries `first..=last`, in order; answered by [`Input::Applied`] or [`Input::StorageFailed`].
    Apply {
        /// First index.
        first: u64,
        /// Last index.
        last: u64,
        /// The entries, no-ops and memberships included; empty: read them from the log.
        entries: Vec<Entry>,
    },
    /// Work on a snapshot.
    Snapshot(SnapshotTask),
    /// An answer to whoever asked for something.
    Answer(Answer),
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
    pub fn handle(&mut self, now: Duration, event: impl Into<Event>) {
        let input = match event.into() {
            Event::LogRead { ticket, entries } => return self.on_log_read(ticket, entries),
            Event::Input(input) => input,
        };
        let is_persisted = matches!(input, Input::Persisted { .. });
        let is_installed = matches!(input, Input::SnapshotInstalled { .. });
        if let Input::Applied { index } = &input {
            self.applied(*index);
        }
        self.raft.handle(now, input);
        if is_persisted {
            self.tail.persisted(self.raft.writes.persisted_index());
        }
        if is_installed {
            self.apply_sent = self.apply_sent.max(self.raft.applied);
        }
    }

    /// The next command, until `None`. Handle all events that wait before polling: they then share writes and messages.
    pub fn poll(&mut self) -> Option<Command> {
        loop {
            if let Some(answer) = self.raft.poll_answer() {
                return Some(Command::Answer(answer));
            }
            if let Some(command) = self.commands.pop_front() {
                return Some(command);
            }
            let action = self.raft.poll_action()?;
            self.perform(action);
        }
    }

    /// When to send the next [`Input::Timeout`]. Events that arrived before it go first.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.raft.poll_timeout()
    }

    /// What the node can tell about itself.
    pub fn status(&self, now: Duration) -> Status {
        self.raft.status(now)
    }

    /// Term, part and leader, without the cost of a whole status.
    pub fn leadership(&self) -> (u64, Role, Option<NodeId>) {
        self.raft.leadership()
    }

    /// The log's last index and the commit index, of a leader.
    pub fn uncommitted(&self) -> Option<(u64, u64)> {
        matches!(self.raft.part, Part::Leader(_)).then(|| (self.raft.log.last().index, self.raft.commit))
    }

    /// Whether a question of who leads is under way, which no read that comes now can join.
    pub fn is_asking(&self) -> bool {
        self.raft.is_asking()
    }

    /// Whether something that was handed to the state machine is not known to be applied.
    pub fn is_applying(&self) -> bool {
        self.raft.applied < self.raft.apply_sent
    }

    /// Whether the state machine has as much as it may: only [`Input::Applied`] brings it more.
    pub fn is_apply_full(&self) -> bool {
        self.raft.apply_sent >= self.raft.applied + MAX_APPLYING_ENTRIES
    }

    /// Whether this node takes part no more, for good. A directory that was refused by founders may still be welcomed.
    pub fn has_failed(&self) -> bool {
        matches!(self.raft.part, Part::Failed(_))
    }

    /// The commit index, and until when this leader may answer reads by itself: what a reader in the node's own process
    /// goes by. To be shown, at the latest, before a command of [`Driver::poll`] is performed.
    pub fn read_point(&self) -> (u64, Option<Duration>) {
        (self.raft.commit, self.raft.lease_until())
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
            Action::Snapshot(task) => self.commands.push_back(Command::Snapshot(task)),
            Action::Apply { up_to } => self.apply(up_to),
            Action::Answer(answer) => self.commands.push_back(Command::Answer(answer)),
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

    fn send(&mut self, to: NodeId, mut message: Message) {
        if let Body::Append(append) = &message.body {
            self.drop_stale(to, message.term, append.session);
        }
        if let (Some(outbox), Body::Append(append)) = (self.outboxes.get_mut(&to), &mut message.body) {
            if !append.entries.is_empty() {
                // An AppendEntries that overtook an earlier one would be refused.
                return outbox.push_back(Outgoing::Ready(message));
            }
            // A heartbeat overtakes: it refers to what the receiver has acknowledged. A slow read silences no leader.
            let Some(prev) = self.raft.log.id_at(append.matched) else { return };
            append.prev = prev;
        }
        self.commands.push_back(Command::Send { to, message });
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

    fn on_log_read(&mut self, ticket: u64, entries: Result<Vec<Entry>, String>) {
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
