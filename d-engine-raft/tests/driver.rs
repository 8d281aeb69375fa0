//! What the driver fills into messages: exactly the entries that the core meant, or nothing.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use bytes::Bytes;
use d_engine_core::Membership;
use d_engine_core::{ClusterSettings, Entry, EntryKind, HardState, Identity, LogId, LogSummary, Member, MemberKind};
use d_engine_raft::{
    Append, AppendOutcome, AppendReply, Body, Boot, Command, Config, Driver, Event, Input, Message, NodeId, Restored,
    Role,
};

const CLUSTER: u128 = 7;

fn incarnation(node: NodeId) -> u128 {
    100 + u128::from(node)
}

fn entry(index: u64, term: u64) -> Entry {
    Entry::new(index, term, EntryKind::Command, [term as u8, index as u8])
}

/// Node 1 of three, with the entries 1.2 to 1.5 on its disk and nothing in memory.
struct Node {
    driver: Driver,
    now: Duration,
}

impl Node {
    fn new() -> Self {
        let member = |node| Member::new(node, incarnation(node), "a:1", MemberKind::Voter);
        let members = Membership::new(CLUSTER, (1..=3).map(member).collect(), ClusterSettings::new(500, 500, 1));
        let mut log = LogSummary::new(LogId::default());
        log.push(&Entry::new(1, 1, EntryKind::Membership, members.encode())).unwrap();
        (2..=5).for_each(|index| log.push(&entry(index, 1)).unwrap());
        let identity = Identity::unformed(1, incarnation(1)).form(CLUSTER);
        let hard_state = Some(HardState::new(1, None, Some(identity)));
        let restored = Restored { hard_state, log, ..Restored::default() };
        let boot = Boot { seed: 1, incarnation: 0, cluster: 0 };
        let driver = Driver::new(Config::new(1, "a:1"), restored, boot, Duration::ZERO).unwrap();
        Self { driver, now: Duration::ZERO }
    }

    /// Everything that follows; the disk answers at once.
    fn event(&mut self, event: impl Into<Event>) -> Vec<Command> {
        self.driver.handle(self.now, event);
        let mut commands = Vec::new();
        while let Some(command) = self.driver.poll() {
            if let Command::Write(write) = &command {
                self.driver.handle(self.now, Input::Persisted { seq: write.seq });
            }
            commands.push(command);
        }
        commands
    }

    fn hear(&mut self, from: NodeId, term: u64, body: Body) -> Vec<Command> {
        let message = Message { term, incarnation: incarnation(from), group: 0, body };
        self.event(Input::Message { from, message })
    }

    /// Leads in term 2; follower 2 has everything up to entry 1, so that the rest is read from the disk: the ticket, and
    /// the stream.
    fn reading(&mut self) -> (u64, u64) {
        self.now = self.driver.poll_timeout().unwrap();
        let asked = self.event(Input::Timeout);
        let round = asked.iter().find_map(|command| match command {
            Command::Send { message: Message { body: Body::PreVote { round, .. }, .. }, .. } => Some(*round),
            _ => None,
        });
        self.hear(2, 1, Body::PreVoteReply { round: round.unwrap(), granted: true });
        self.hear(2, 2, Body::VoteReply { granted: true });
        assert_eq!(self.driver.status(self.now).role, Role::Leader);
        let hint = LogId::new(1, 1);
        let probed = self.reply(1, AppendOutcome::Rejected { prev: 5, hint });
        let session = appends(&probed)[0].session;
        let commands = self.reply(session, AppendOutcome::Accepted { matched: 1 });
        assert_eq!(with_entries(&commands), 0, "they are not in memory");
        (ticket(&commands), session)
    }

    fn reply(&mut self, session: u64, outcome: AppendOutcome) -> Vec<Command> {
        self.hear(2, 2, Body::AppendReply(AppendReply { session, round: 0, outcome }))
    }
}

fn appends(commands: &[Command]) -> Vec<&Append> {
    commands
        .iter()
        .filter_map(|command| match command {
            Command::Send { message: Message { body: Body::Append(append), .. }, .. } => Some(append),
            _ => None,
        })
        .collect()
}

/// Messages with any of the entries that were to be read.
fn with_entries(commands: &[Command]) -> usize {
    appends(commands).iter().filter(|append| append.prev.index < 5 && !append.entries.is_empty()).count()
}

fn ticket(commands: &[Command]) -> u64 {
    let ticket = commands.iter().find_map(|command| match command {
        Command::ReadLog { ticket, first: 2, last: 5, .. } => Some(*ticket),
        _ => None,
    });
    ticket.unwrap()
}

#[test]
fn entries_that_are_read_from_the_disk_are_sent_whole_and_before_newer_ones() {
    let mut node = Node::new();
    let (ticket, _) = node.reading();
    let proposed = node.event(Input::Propose { id: 1, command: Bytes::from_static(b"new") });
    assert!(appends(&proposed).iter().all(|append| append.prev.index < 5), "newer ones wait behind them");
    let sent = node.event(Event::LogRead { ticket, entries: Ok((2..=5).map(|index| entry(index, 1)).collect()) });
    let ranges: Vec<_> = appends(&sent).iter().map(|append| (append.prev.index, append.end())).collect();
    assert_eq!(ranges, [(1, 5), (5, 6), (6, 7)]);
}

/// A message of a leader that was deposed meanwhile: its indexes hold another leader's entries now.
#[test]
fn a_message_of_a_deposed_leader_is_not_filled_with_what_replaced_its_entries() {
    let mut node = Node::new();
    let (ticket, _) = node.reading();
    let entries: Vec<_> = (2..=5).map(|index| entry(index, 3)).collect();
    let prev = LogId::new(1, 1);
    let append = Append { session: 1, prev, commit: 1, matched: 0, receiver: 0, round: 0, entries: entries.clone() };
    node.hear(3, 3, Body::Append(append));
    assert_eq!(node.driver.status(node.now).last, LogId::new(3, 5));
    let sent = node.event(Event::LogRead { ticket, entries: Ok(entries) });
    assert_eq!(with_entries(&sent), 0, "{sent:?}");
}

/// Whatever a read gives that is not what was asked for, nothing is sent, and the leader asks again later.
#[test]
fn a_read_that_is_short_wrong_or_failed_becomes_no_message_with_a_gap() {
    let read = |indexes: &[u64], term| Ok(indexes.iter().map(|index| entry(*index, term)).collect::<Vec<_>>());
    for entries in
        [read(&[2, 3, 4, 5], 9), read(&[3, 4, 5], 1), read(&[2, 4, 5, 6], 1), read(&[], 1), Err("EIO".into())]
    {
        let mut node = Node::new();
        let (ticket, _) = node.reading();
        let sent = node.event(Event::LogRead { ticket, entries: entries.clone() });
        assert_eq!(with_entries(&sent), 0, "{entries:?}: {sent:?}");
        node.now = node.driver.poll_timeout().unwrap();
        let beat = node.event(Input::Timeout);
        let again = appends(&beat).into_iter().find(|append| append.prev.index == 1).unwrap();
        let session = again.session;
        let commands = node.reply(session, AppendOutcome::Accepted { matched: 1 });
        assert!(commands.iter().any(|command| matches!(command, Command::ReadLog { .. })), "{entries:?}: asked again");
    }
}

/// A read that ends early because of its size is asked for again in the size that fits; it is never sent short.
#[test]
fn a_read_that_ended_early_is_asked_for_again_in_smaller_pieces() {
    let mut node = Node::new();
    let (ticket, _) = node.reading();
    let sent = node.event(Event::LogRead { ticket, entries: Ok(vec![entry(2, 1), entry(3, 1)]) });
    assert_eq!(with_entries(&sent), 0);
    let again = appends(&sent).into_iter().find(|append| append.prev.index == 1).unwrap();
    let session = again.session;
    let commands = node.reply(session, AppendOutcome::Accepted { matched: 1 });
    let pieces = commands.iter().filter_map(|command| match command {
        Command::ReadLog { first, last, .. } => Some((*first, *last)),
        _ => None,
    });
    assert_eq!(pieces.collect::<Vec<_>>(), [(2, 3), (4, 5)]);
}
