//! One node driven by hand: nothing gets stuck for ever, nothing grows without bound, nothing a peer says ends it.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use bytes::Bytes;
use d_engine_core::{
    ClusterSettings, Entry, EntryKind, HardState, Identity, LogId, LogSummary, Member, MemberKind, Membership,
};
use d_engine_raft::{
    Action, Answer, Append, AppendOutcome, AppendReply, Body, Boot, Change, Command, Config, Driver, Event, Input,
    Message, NodeId, Raft, Rejection, Restored, Role, SnapshotTask,
};

const CLUSTER: u128 = 7;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn incarnation(node: NodeId) -> u128 {
    u128::from(node) * 10
}

fn membership(size: u64) -> Membership {
    let member = |node| Member::new(node, incarnation(node), format!("n{node}:1"), MemberKind::Voter);
    Membership::new(CLUSTER, (1..=size).map(member).collect(), ClusterSettings::new(500, 500, 1))
}

/// A formed directory of node 1 in a cluster of `size` voters; its log has commands of these terms behind entry 1.
fn directory(size: u64, terms: &[u64]) -> Restored {
    let mut log = LogSummary::new(LogId::default());
    log.push(&Entry::new(1, 1, EntryKind::Membership, membership(size).encode())).unwrap();
    for (term, index) in terms.iter().zip(2..) {
        log.push(&Entry::new(index, *term, EntryKind::Command, b"x")).unwrap();
    }
    let identity = Identity::unformed(1, incarnation(1)).form(CLUSTER);
    let term = log.last.term;
    Restored { hard_state: Some(HardState::new(term, None, Some(identity))), log, ..Restored::default() }
}

const BOOT: Boot = Boot { seed: 1, incarnation: 10, cluster: 1 };

fn says(from: NodeId, term: u64, body: Body) -> Input {
    Input::Message { from, message: Message { term, incarnation: incarnation(from), group: 0, body } }
}

/// What a leader says in an append, or of what a node has promised.
fn append(session: u64, prev: LogId, commit: u64, entries: Vec<Entry>) -> Body {
    Body::Append(Append { session, prev, commit, matched: 0, receiver: 0, round: 0, entries })
}

/// The core of node 1 with a disk that answers at once, unless it is told not to.
struct Node {
    raft: Raft,
    now: Duration,
    disk_answers: bool,
}

impl Node {
    fn new(config: Config, restored: Restored) -> Self {
        let raft = Raft::new(config, restored, BOOT, Duration::ZERO).unwrap();
        Self { raft, now: Duration::ZERO, disk_answers: true }
    }

    fn give(&mut self, input: Input) -> Vec<Action> {
        self.raft.handle(self.now, input);
        self.drain()
    }

    fn drain(&mut self) -> Vec<Action> {
        let mut all = Vec::new();
        while let Some(action) = self.raft.poll_action() {
            if let (Action::Write(write), true) = (&action, self.disk_answers) {
                let seq = write.seq;
                self.raft.handle(self.now, Input::Persisted { seq });
            }
            all.push(action);
        }
        all
    }

    /// Goes on to the next timeout.
    fn time_out(&mut self) -> Vec<Action> {
        self.now = self.now.max(self.raft.poll_timeout().unwrap());
        self.give(Input::Timeout)
    }

    /// Wins an election with everybody's votes; everybody has the whole log.
    fn elect(&mut self, size: u64) {
        let actions = self.time_out();
        let round = actions.iter().find_map(|action| match action {
            Action::Send { message: Message { body: Body::PreVote { round, .. }, .. }, .. } => Some(*round),
            _ => None,
        });
        let term = self.raft.status(self.now).term;
        for node in 2..=size {
            self.give(says(node, term, Body::PreVoteReply { round: round.unwrap(), granted: true }));
        }
        for node in 2..=size {
            self.give(says(node, term + 1, Body::VoteReply { granted: true }));
        }
        assert_eq!(self.raft.status(self.now).role, Role::Leader);
    }

    /// `node` answers to what the leader sent it.
    fn reply(&mut self, node: NodeId, session: u64, outcome: AppendOutcome) -> Vec<Action> {
        let term = self.raft.status(self.now).term;
        self.give(says(node, term, Body::AppendReply(AppendReply { session, round: 0, outcome })))
    }

    fn accept_all(&mut self, nodes: std::ops::RangeInclusive<NodeId>) -> Vec<Action> {
        let matched = self.raft.status(self.now).last.index;
        nodes.flat_map(|node| self.reply(node, 1, AppendOutcome::Accepted { matched })).collect()
    }
}

fn timeout_now(actions: &[Action]) -> Vec<NodeId> {
    let told = actions.iter().filter_map(|action| match action {
        Action::Send { to, message: Message { body: Body::TimeoutNow { .. }, .. } } => Some(*to),
        _ => None,
    });
    told.collect()
}

fn answers(actions: &[Action]) -> Vec<Answer> {
    let answers = actions.iter().filter_map(|action| match action {
        Action::Answer(answer) => Some(answer.clone()),
        _ => None,
    });
    answers.collect()
}

/// A full leader with two healthy followers hands over, although it has entries that no disk of its own holds.
#[test]
fn a_full_leader_that_cannot_send_its_unwritten_entries_makes_room() {
    let config = Config { tail_bytes: 4 << 10, ..Config::new(1, "n1:1") };
    let mut driver = Driver::new(config, directory(3, &[]), BOOT, Duration::ZERO).unwrap();
    let (mut now, mut is_full, mut handed_over) = (Duration::ZERO, false, false);
    // The two healthy followers acknowledge whatever reaches them.
    let mut pump = |driver: &mut Driver, now: Duration, is_full: bool| {
        let mut inputs: Vec<Event> = Vec::new();
        loop {
            while let Some(command) = driver.poll() {
                match command {
                    Command::Write(write) if !is_full => inputs.push(Input::Persisted { seq: write.seq }.into()),
                    Command::Apply { last, .. } => inputs.push(Input::Applied { index: last }.into()),
                    // The entries wait for space; the log does not have them yet.
                    Command::ReadLog { ticket, .. } => inputs.push(Event::LogRead { ticket, entries: Ok(Vec::new()) }),
                    Command::Send { to, message } => {
                        let term = message.term;
                        let body = match message.body {
                            Body::PreVote { round, .. } => Body::PreVoteReply { round, granted: true },
                            Body::RequestVote(_) => Body::VoteReply { granted: true },
                            Body::Append(append) => Body::AppendReply(AppendReply {
                                session: append.session,
                                round: append.round,
                                outcome: AppendOutcome::Accepted { matched: append.end() },
                            }),
                            Body::TimeoutNow { .. } => {
                                handed_over = true;
                                continue;
                            }
                            _ => continue,
                        };
                        inputs.push(says(to, term, body).into());
                    }
                    _ => {}
                }
            }
            if inputs.is_empty() {
                return handed_over;
            }
            inputs.drain(..).for_each(|event| driver.handle(now, event));
        }
    };
    for step in 0..1000 {
        now = now.max(driver.poll_timeout().unwrap());
        driver.handle(now, Input::Timeout);
        pump(&mut driver, now, is_full);
        if step == 20 {
            assert_eq!(driver.leadership().1, Role::Leader);
            // One burst of more than the tail holds meets a full disk.
            for id in 0..16 {
                driver.handle(now, Input::Propose { id, command: Bytes::from(vec![0; 1 << 10]) });
            }
            is_full = true;
            pump(&mut driver, now, is_full);
            driver.handle(now, Input::StorageFull { why: "full".into() });
        }
    }
    let handed_over = pump(&mut driver, now, is_full);
    let is_leader = driver.leadership().1 == Role::Leader;
    assert!(handed_over || !is_leader, "two healthy voters of three wait for the third one's disk, {now:?} by now");
}

/// One large old entry does not make the rest of a catch-up crawl.
#[test]
fn a_large_old_entry_does_not_shrink_all_later_messages() {
    let mut node = Node::new(Config::new(1, "n1:1"), directory(3, &[1; 10_000]));
    node.elect(3);
    // Node 2 has entry 1 only.
    let last = node.raft.status(node.now).last.index;
    node.reply(2, 1, AppendOutcome::Rejected { prev: last - 1, hint: LogId::new(1, 1) });
    let mut session = 2;
    let mut actions = node.reply(2, session, AppendOutcome::Accepted { matched: 1 });
    let mut lengths = Vec::new();
    // Of the first read only one entry fitted.
    session += 1;
    actions.extend(node.give(Input::NotSent { to: 2, session: 2, fitting: Some(1) }));
    actions.clear();
    actions.extend(node.reply(2, session, AppendOutcome::Accepted { matched: 1 }));
    for _ in 0..2_000 {
        let sent = actions.iter().rev().find_map(|action| match action {
            Action::SendEntries { to: 2, append, last, .. } => Some((*last, *last - append.prev.index)),
            _ => None,
        });
        let Some((matched, length)) = sent else { break };
        lengths.push(length);
        actions = node.reply(2, session, AppendOutcome::Accepted { matched });
    }
    assert!(
        lengths.iter().any(|length| *length >= 256),
        "{} messages, at most {:?} entries each",
        lengths.len(),
        lengths.iter().max()
    );
}

/// A feature level that the leader does not understand itself is refused.
#[test]
fn the_feature_level_is_not_raised_beyond_what_members_offer() {
    let mut node = Node::new(Config::new(1, "n1:1"), directory(1, &[]));
    node.time_out();
    assert_eq!(node.raft.status(node.now).role, Role::Leader);
    let change = Change::RaiseFeatureLevel { level: 99 };
    node.give(Input::ChangeMembership { id: 1, base: None, change });
    let level = node.raft.status(node.now).membership.settings.feature_level;
    assert_eq!(level, 1, "nobody understands it, and it is never lowered");
}

/// Entries that contradict the purge boundary stop the node with a reason.
#[test]
fn an_append_with_other_terms_at_the_purge_boundary_does_not_panic() {
    let mut restored = directory(3, &[3, 3, 3, 3]);
    let mut log = LogSummary::new(LogId::new(3, 5));
    log.push(&Entry::new(6, 3, EntryKind::Command, b"x")).unwrap();
    restored.log = log;
    restored.snapshot = Some((LogId::new(3, 5), membership(3)));
    restored.last_applied = LogId::new(3, 5);
    restored.hard_state = restored.hard_state.map(|state| HardState::new(4, None, state.identity));
    let mut node = Node::new(Config::new(1, "n1:1"), restored);
    let entries = (5..=7).map(|index| Entry::new(index, 2, EntryKind::Command, b"y")).collect();
    node.give(says(2, 4, append(1, LogId::new(1, 4), 5, entries)));
}

/// A snapshot's numbers are checked as a message's are.
#[test]
fn a_snapshot_of_an_impossible_term_does_not_panic() {
    let mut node = Node::new(Config::new(1, "n1:1"), directory(3, &[]));
    node.give(Input::SnapshotReceived {
        from: 2,
        term: u64::MAX,
        last_included: LogId::new(1, 5),
        membership: membership(3),
    });
    node.time_out();
    assert!(node.raft.status(node.now).term < u64::MAX, "whoever campaigns next overflows");
}

/// Heartbeats overtake a slow read of old entries.
#[test]
fn a_slow_read_of_old_entries_does_not_silence_the_leader() {
    let mut driver = Driver::new(Config::new(1, "n1:1"), directory(2, &[1; 100]), BOOT, Duration::ZERO).unwrap();
    let mut now = Duration::ZERO;
    let (mut was_leader, mut read_asked) = (false, None);
    let mut term = 0;
    for _ in 0..60 {
        now = now.max(driver.poll_timeout().unwrap());
        driver.handle(now, Input::Timeout);
        let mut inputs: Vec<Event> = Vec::new();
        loop {
            while let Some(command) = driver.poll() {
                match command {
                    Command::Write(write) => inputs.push(Input::Persisted { seq: write.seq }.into()),
                    Command::ReadLog { .. } if read_asked.is_none() => {
                        (read_asked, term) = (Some(now), driver.leadership().0)
                    }
                    Command::Send { to, message } => {
                        let term = message.term;
                        let body = match message.body {
                            Body::PreVote { round, .. } => Body::PreVoteReply { round, granted: true },
                            Body::RequestVote(_) => Body::VoteReply { granted: true },
                            Body::Append(append) => {
                                let outcome = if append.prev.index > 1 {
                                    AppendOutcome::Rejected { prev: append.prev.index, hint: LogId::new(1, 1) }
                                } else {
                                    AppendOutcome::Accepted { matched: append.end() }
                                };
                                Body::AppendReply(AppendReply { session: append.session, round: append.round, outcome })
                            }
                            _ => continue,
                        };
                        inputs.push(says(to, term, body).into());
                    }
                    _ => {}
                }
            }
            if inputs.is_empty() {
                break;
            }
            inputs.drain(..).for_each(|event| driver.handle(now, event));
        }
        was_leader |= driver.leadership().1 == Role::Leader;
        if read_asked.is_some_and(|at| now > at + ms(1500)) {
            break;
        }
    }
    assert!(was_leader && read_asked.is_some());
    assert_eq!(driver.leadership().0, term, "the follower answers every message at once, but for a second it got none");
}

/// A full leader asks one voter after the other.
#[test]
fn a_full_leader_tries_another_heir_when_the_first_does_not_take_over() {
    let mut node = Node::new(Config::new(1, "n1:1"), directory(5, &[]));
    node.elect(5);
    node.accept_all(2..=5);
    let mut told = timeout_now(&node.give(Input::StorageFull { why: "full".into() }));
    for _ in 0..200 {
        told.extend(timeout_now(&node.time_out()));
        // Everybody answers and holds everything; node 5 cannot save a vote.
        told.extend(timeout_now(&node.accept_all(2..=5)));
    }
    assert!(told.iter().any(|node| *node != 5), "told {} times, always node 5", told.len());
}

/// An operator's transfer goes before one that a full leader began by itself.
#[test]
fn a_full_leader_takes_an_operators_transfer() {
    let mut node = Node::new(Config::new(1, "n1:1"), directory(5, &[]));
    node.elect(5);
    node.accept_all(2..=5);
    node.give(Input::StorageFull { why: "full".into() });
    let mut refused = 0;
    for id in 0..200 {
        node.time_out();
        node.accept_all(2..=5);
        let actions = node.give(Input::Transfer { id, to: 2 });
        refused += answers(&actions).iter().filter(|answer| matches!(answer, Answer::Rejected { .. })).count();
    }
    assert!(refused < 200, "refused {refused} times of 200");
}

/// A follower that waits for space holds no acknowledgement of a stream that has ended.
#[test]
fn a_follower_that_waits_for_space_does_not_gather_acknowledgements() {
    let mut node = Node::new(Config::new(1, "n1:1"), directory(3, &[]));
    node.disk_answers = false;
    let (streams, messages) = (100, 50);
    for session in 1..=streams {
        // The connection broke; the leader starts over at what is durable here.
        for index in 2..2 + messages {
            let prev = LogId::new(if index == 2 { 1 } else { 2 }, index - 1);
            let entry = Entry::new(index, 2, EntryKind::Command, b"x");
            node.give(says(2, 2, append(session, prev, 1, vec![entry])));
        }
    }
    let last = 1000;
    let actions = node.give(Input::Persisted { seq: last });
    let kept = actions
        .iter()
        .filter(|action| matches!(action, Action::Send { message: Message { body: Body::AppendReply(_), .. }, .. }));
    let kept = kept.count() as u64;
    assert!(kept <= 2 * messages, "{kept} acknowledgements were held, of streams that say nothing any more");
}

/// A voter that waits for space does not say that it would vote.
#[test]
fn a_voter_that_cannot_save_a_vote_grants_no_pre_vote() {
    let mut node = Node::new(Config::new(1, "n1:1"), directory(3, &[]));
    node.disk_answers = false;
    let entry = Entry::new(2, 2, EntryKind::Command, b"x");
    node.give(says(3, 2, append(1, LogId::new(1, 1), 1, vec![entry])));
    node.give(Input::StorageFull { why: "full".into() });
    node.now += ms(5000);
    let actions = node.give(says(2, 2, Body::PreVote { next_term: 3, round: 1, last: LogId::new(2, 2) }));
    let granted = actions.iter().any(|action| {
        matches!(action, Action::Send { message: Message { body: Body::PreVoteReply { granted: true, .. }, .. }, .. })
    });
    assert!(!granted, "its vote would wait for space");
}

/// A snapshot that arrives again while it is being installed is left alone.
#[test]
fn a_snapshot_that_is_being_installed_is_not_discarded() {
    let mut node = Node::new(Config::new(1, "n1:1"), directory(3, &[]));
    let at = LogId::new(1, 50);
    let received = || Input::SnapshotReceived { from: 2, term: 2, last_included: at, membership: membership(3) };
    let install = Action::Snapshot(SnapshotTask::Install { last_included: at });
    let has = |actions: &[Action], task: &Action| actions.iter().any(|a| format!("{a:?}") == format!("{task:?}"));
    assert!(has(&node.give(received()), &install));
    let discard = Action::Snapshot(SnapshotTask::Discard { last_included: at });
    assert!(!has(&node.give(received()), &discard), "its file is being read");
}

/// A transfer that ends because the own disk failed is not reported as done.
#[test]
fn a_transfer_cut_short_by_a_failure_is_not_reported_as_done() {
    let mut node = Node::new(Config::new(1, "n1:1"), directory(3, &[]));
    node.elect(3);
    node.give(Input::Transfer { id: 9, to: 3 });
    let actions = node.give(Input::StorageFailed { why: "input/output error".into() });
    assert_eq!(answers(&actions).iter().filter(|a| matches!(a, Answer::Transferred { .. })).count(), 0);
}

/// During a transfer nothing moves the end that the target has to reach.
#[test]
fn changes_are_refused_during_a_transfer() {
    let mut node = Node::new(Config::new(1, "n1:1"), directory(3, &[]));
    node.elect(3);
    node.accept_all(2..=2);
    node.give(Input::Transfer { id: 1, to: 3 });
    let change = Change::SetAddress { node: 2, address: "b:2".into() };
    let actions = node.give(Input::ChangeMembership { id: 2, base: None, change });
    assert!(
        answers(&actions)
            .iter()
            .any(|a| matches!(a, Answer::Rejected { id: 2, why: Rejection::HandingOver | Rejection::Change(_) }))
    );
}

/// A log that begins after the newest snapshot is refused: its configuration is lost.
#[test]
fn a_snapshot_older_than_the_purge_boundary_is_refused_at_start() {
    let mut restored = directory(3, &[]);
    restored.log = LogSummary::new(LogId::new(1, 100));
    restored.last_applied = LogId::new(1, 100);
    restored.snapshot = Some((LogId::new(1, 50), membership(1)));
    assert!(Raft::new(Config::new(1, "n1:1"), restored, BOOT, Duration::ZERO).is_err());
}

/// A disk that hung and recovered is a working disk.
#[test]
fn a_leader_whose_disk_recovered_hands_over_again_when_it_hangs_again() {
    let mut node = Node::new(Config::new(1, "n1:1"), directory(3, &[]));
    node.elect(3);
    let mut seqs = 2u64..;
    for round in 0..2 {
        node.accept_all(2..=3);
        node.disk_answers = false;
        let actions = node.give(Input::Propose { id: round, command: Bytes::new() });
        let seq = actions.iter().find_map(|a| if let Action::Write(w) = a { Some(w.seq) } else { None });
        let mut told = Vec::new();
        while told.is_empty() {
            told.extend(timeout_now(&node.time_out()));
            told.extend(timeout_now(&node.accept_all(2..=3)));
            assert_eq!(node.raft.status(node.now).role, Role::Leader, "hang {round}: it asked nobody to take over");
        }
        // The heir does not win; the disk answers.
        node.disk_answers = true;
        node.give(Input::Persisted { seq: seq.or(seqs.next()).unwrap() });
        for _ in 0..30 {
            node.time_out();
            node.accept_all(2..=3);
        }
    }
}

/// A directory that one cluster has welcomed does not tell the founders of another that it is empty.
#[test]
fn a_welcomed_directory_does_not_say_it_is_empty() {
    let config = Config { join: true, ..Config::new(1, "n1:1") };
    let mut node = Node::new(config, Restored::default());
    node.drain();
    node.give(says(2, 5, Body::Welcome { cluster: CLUSTER, receiver: 10 }));
    let actions = node.give(says(3, 0, Body::FormationProbe));
    let says_empty =
        actions.iter().any(|a| matches!(a, Action::Send { message: Message { body: Body::FormationEmpty, .. }, .. }));
    assert!(!says_empty, "it belongs to the cluster of node 2");
}

/// With a disk slower than an election timeout a campaign waits for its own vote.
#[test]
fn a_single_voter_with_a_slow_disk_leads_in_the_end() {
    let mut node = Node::new(Config::new(1, "n1:1"), directory(1, &[]));
    node.disk_answers = false;
    let mut pending: Vec<(Duration, u64)> = Vec::new();
    for _ in 0..200 {
        let next = pending.first().map(|(at, _)| *at).into_iter().chain(node.raft.poll_timeout()).min().unwrap();
        node.now = node.now.max(next);
        let input = match pending.first() {
            Some((at, seq)) if *at <= node.now => Input::Persisted { seq: *seq },
            _ => Input::Timeout,
        };
        if matches!(input, Input::Persisted { .. }) {
            pending.remove(0);
        }
        for action in node.give(input) {
            if let Action::Write(write) = action {
                pending.push((node.now + ms(1100), write.seq));
            }
        }
        if node.raft.status(node.now).role == Role::Leader {
            return;
        }
    }
    let status = node.raft.status(node.now);
    panic!("after {:?} it is a {:?} in term {}", node.now, status.role, status.term);
}

/// Pre-votes for a node that a snapshot has removed meanwhile come to nothing.
#[test]
fn pre_votes_after_a_snapshot_that_removes_the_asker_do_not_panic() {
    let mut node = Node::new(Config::new(1, "n1:1"), directory(3, &[]));
    let members = membership(3).members.into_iter().filter(|member| member.node != 1).collect();
    let without = Membership::new(CLUSTER, members, ClusterSettings::new(500, 500, 1));
    let last_included = LogId::new(1, 50);
    node.give(Input::SnapshotReceived { from: 2, term: 1, last_included, membership: without });
    let round = node.time_out().iter().find_map(|action| match action {
        Action::Send { message: Message { body: Body::PreVote { round, .. }, .. }, .. } => Some(*round),
        _ => None,
    });
    node.give(Input::SnapshotInstalled { last_included, ok: true });
    for from in 2..=3 {
        node.give(says(from, 1, Body::PreVoteReply { round: round.unwrap(), granted: true }));
    }
}

/// A full follower forgets a leader that is silent.
#[test]
fn a_full_follower_does_not_name_a_leader_that_is_silent() {
    let mut node = Node::new(Config::new(1, "n1:1"), directory(3, &[]));
    node.give(says(3, 2, append(1, LogId::new(1, 1), 1, Vec::new())));
    node.give(Input::StorageFull { why: "full".into() });
    for _ in 0..20 {
        node.time_out();
    }
    assert_eq!(node.raft.status(node.now).leader, None, "silent for {:?}", node.now);
}

/// While a snapshot travels, the entries behind it are kept for its receiver.
#[test]
fn entries_behind_a_snapshot_that_is_being_sent_are_kept() {
    let config = Config { max_entries_behind_snapshot: 10, ..Config::new(1, "n1:1") };
    let mut node = Node::new(config, directory(3, &[]));
    node.elect(3);
    let mut snapshots = 0;
    let mut sending: Option<(u64, LogId)> = None;
    for round in 0..20 {
        // The cluster writes, node 2 keeps up; a snapshot is made.
        for id in 0..20 {
            node.give(Input::Propose { id: round * 20 + id, command: Bytes::new() });
        }
        node.accept_all(2..=2);
        let status = node.raft.status(node.now);
        node.give(Input::Applied { index: status.commit });
        node.give(Input::SnapshotMade { last_included: status.last });
        // Node 3 has installed what was sent before that; what it has now matches, if the leader still has it.
        let mut actions = Vec::new();
        if let Some((session, at)) = sending.take() {
            actions.extend(node.give(Input::SnapshotSent { to: 3, session, installed: Some(at) }));
        }
        actions.extend(node.time_out());
        let probe = actions.iter().rev().find_map(|action| match action {
            Action::Send { to: 3, message: Message { body: Body::Append(append), .. } } => Some(append.clone()),
            _ => None,
        });
        if let Some(append) = probe {
            let prev = append.prev.index;
            let outcome = match round {
                0 => AppendOutcome::Rejected { prev, hint: LogId::new(1, 1) },
                _ if sending.is_some() => AppendOutcome::Pending,
                _ => AppendOutcome::Accepted { matched: prev },
            };
            let answer = node.reply(3, append.session, outcome);
            let sent = answer.iter().rev().find_map(|action| match action {
                Action::SendEntries { to: 3, last, .. } => Some(*last),
                _ => None,
            });
            actions.extend(answer);
            if let Some(matched) = sent {
                actions.extend(node.reply(3, append.session, AppendOutcome::Accepted { matched }));
            }
        }
        for action in actions {
            if let Action::Snapshot(SnapshotTask::Send { to: 3, session, .. }) = action {
                (snapshots, sending) = (snapshots + 1, Some((session, status.last)));
            }
        }
    }
    assert_eq!(snapshots, 1, "one snapshot, then the entries behind it");
}

/// A follower whose disk hangs loses its leader and finds it again, over and over.
#[test]
fn acknowledgements_do_not_pile_up_behind_a_hung_disk_while_the_leader_comes_and_goes() {
    let mut node = Node::new(Config::new(1, "n1:1"), directory(3, &[]));
    node.disk_answers = false;
    let id = LogId::new(1, 1);
    let mut seqs = Vec::new();
    for _ in 0..100 {
        let mut actions = node.give(says(2, 2, append(1, id, 0, Vec::new())));
        actions.extend(node.time_out());
        seqs.extend(actions.iter().filter_map(|action| match action {
            Action::Write(write) => Some(write.seq),
            _ => None,
        }));
    }
    node.give(says(2, 2, append(1, id, 0, Vec::new())));
    let seq = seqs.into_iter().max().unwrap();
    let released = node.give(Input::Persisted { seq });
    let is_acknowledgement = |action: &&Action| {
        matches!(action, Action::Send { message: Message { body: Body::AppendReply(reply), .. }, .. }
            if matches!(reply.outcome, AppendOutcome::Accepted { .. }))
    };
    assert_eq!(released.iter().filter(is_acknowledgement).count(), 1, "one for the leader that it follows now");
}
