//! Anything at all, thrown at a node in every role: it does not panic, nothing goes back, and malformed messages change
//! nothing.

use bytes::Bytes;
use d_engine_core::{Entry, EntryKind, LogId};
use d_engine_raft::{
    Append, AppendOutcome, AppendReply, Body, Change, Input, Message, NodeId, Role, Status, VoteRequest,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::node::{Disk, Node, append, id, incarnation, voters};

/// Small numbers meet each other often; huge ones overflow what is careless.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![12 => 0u64..9, 1 => Just(u64::MAX), 1 => Just(u64::MAX / 2), 1 => any::<u64>()]
}

fn log_id() -> impl Strategy<Value = LogId> {
    (number(), number()).prop_map(|(term, index)| LogId::new(term, index))
}

fn entry() -> impl Strategy<Value = Entry> {
    let data = prop_oneof![
        Just(voters(3).encode()),
        Just(voters(1).encode()),
        Just(Bytes::new()),
        vec(any::<u8>(), 0..40).prop_map(Bytes::from),
    ];
    let kind = prop_oneof![3 => Just(EntryKind::Command), 1 => Just(EntryKind::Noop), 1 => Just(EntryKind::Membership)];
    (number(), number(), kind, data).prop_map(|(index, term, kind, data)| Entry::new(index, term, kind, data))
}

/// Entries that follow `prev` as an honest leader's do, or any.
fn entries(prev: LogId) -> impl Strategy<Value = Vec<Entry>> {
    let first = prev.index.saturating_add(1);
    let fitting = (0u64..9, 0usize..4).prop_map(move |(term, count)| {
        let terms = vec![term; if first < u64::MAX / 2 { count } else { 0 }];
        crate::node::entries(first, &terms)
    });
    prop_oneof![3 => fitting, 1 => vec(entry(), 0..4)]
}

fn any_append() -> impl Strategy<Value = Append> {
    let receiver = prop_oneof![3 => Just(0u128), 1 => Just(incarnation(1))];
    log_id().prop_flat_map(move |prev| {
        (entries(prev), number(), number(), number(), number(), receiver.clone()).prop_map(
            move |(entries, session, commit, matched, round, receiver)| Append {
                session,
                prev,
                commit,
                matched,
                receiver,
                round,
                entries,
            },
        )
    })
}

fn outcome() -> impl Strategy<Value = AppendOutcome> {
    prop_oneof![
        Just(AppendOutcome::Pending),
        Just(AppendOutcome::Stale),
        number().prop_map(|matched| AppendOutcome::Accepted { matched }),
        (number(), log_id()).prop_map(|(prev, hint)| AppendOutcome::Rejected { prev, hint }),
    ]
}

fn body() -> impl Strategy<Value = Body> {
    let granted = any::<bool>();
    prop_oneof![
        1 => Just(Body::FormationProbe),
        1 => Just(Body::FormationEmpty),
        1 => Just(Body::FormationRefused),
        1 => entry().prop_map(Body::Formation),
        1 => (number(), number(), log_id()).prop_map(|(next_term, round, last)| Body::PreVote { next_term, round, last }),
        1 => (number(), granted).prop_map(|(round, granted)| Body::PreVoteReply { round, granted }),
        1 => (log_id(), any::<bool>()).prop_map(|(last, transfer)| Body::RequestVote(VoteRequest { last, transfer })),
        1 => any::<bool>().prop_map(|granted| Body::VoteReply { granted }),
        8 => any_append().prop_map(Body::Append),
        4 => (number(), number(), outcome())
            .prop_map(|(session, round, outcome)| Body::AppendReply(AppendReply { session, round, outcome })),
        1 => number().prop_map(|session| Body::TimeoutNow { session }),
        1 => any::<bool>().prop_map(|own| Body::Welcome { cluster: 7, receiver: if own { incarnation(1) } else { 0 } }),
        1 => (number(), number()).prop_map(|(nonce, counter)| Body::ReadIndex { nonce, counter }),
        1 => (number(), number(), proptest::option::of(number()))
            .prop_map(|(nonce, counter, index)| Body::ReadIndexReply { nonce, counter, index }),
    ]
}

fn message() -> impl Strategy<Value = (NodeId, Message)> {
    (0u64..6, number(), any::<bool>(), 0u64..20, body()).prop_map(|(from, term, is_member, group, body)| {
        let incarnation = if is_member { incarnation(from) } else { 0 };
        (from, Message { term, incarnation, group: u64::from(group == 0), body })
    })
}

/// What happens to a node. Reports of its own disk and machine are honest.
#[derive(Debug, Clone)]
enum Step {
    Message(NodeId, Box<Message>),
    Again,
    Persist,
    Applied,
    Timeout,
    Later(u64),
    Propose,
    Read,
    Transfer(NodeId),
    Change(Change),
    NotSent(NodeId, u64, Option<u64>),
    Unreachable(NodeId),
    Hello(NodeId, u32),
    Full,
    Freed,
    SnapshotSent(NodeId, u64, Option<LogId>),
}

fn change() -> impl Strategy<Value = Change> {
    let node = 1u64..6;
    prop_oneof![
        (1u64..6).prop_map(|node| Change::AddLearner { node, incarnation: incarnation(node), address: String::new() }),
        node.clone().prop_map(|node| Change::Promote { node }),
        node.clone().prop_map(|node| Change::Remove { node }),
        vec(node, 0..4).prop_map(|voters| Change::SetVoters { voters }),
        (0u32..3).prop_map(|level| Change::RaiseFeatureLevel { level }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let fitting = proptest::option::of(number());
    prop_oneof![
        20 => message().prop_map(|(from, message)| Step::Message(from, Box::new(message))),
        3 => Just(Step::Again),
        6 => Just(Step::Persist),
        4 => Just(Step::Applied),
        3 => Just(Step::Timeout),
        1 => (0u64..3_000).prop_map(Step::Later),
        2 => Just(Step::Propose),
        2 => Just(Step::Read),
        1 => (0u64..6).prop_map(Step::Transfer),
        1 => change().prop_map(Step::Change),
        1 => (0u64..6, number(), fitting).prop_map(|(to, session, fitting)| Step::NotSent(to, session, fitting)),
        1 => (0u64..6).prop_map(Step::Unreachable),
        1 => (0u64..6, 0u32..3).prop_map(|(from, level)| Step::Hello(from, level)),
        1 => Just(Step::Full),
        1 => Just(Step::Freed),
        1 => (0u64..6, number(), proptest::option::of(0u64..3)).prop_map(|(to, session, at)| {
            Step::SnapshotSent(to, session, at.map(|index| LogId::new(1, index)))
        }),
    ]
}

const ROLES: [Role; 5] = [Role::Unformed, Role::Follower, Role::PreCandidate, Role::Candidate, Role::Leader];

/// A node in this role, in term 2 or about to be.
fn node_in(role: Role) -> Node {
    let mut node = match role {
        Role::Unformed => Node::empty(),
        Role::Leader => Node::leader(3, &[1]),
        _ => Node::with_log(3, &[1, 2]),
    };
    node.drain();
    match role {
        Role::Follower => drop(node.append(2, 2, append(id(2, 3), &[], 2))),
        Role::PreCandidate => drop(node.timeout()),
        Role::Candidate => drop(node.campaign()),
        _ => {}
    }
    node.persist();
    assert_eq!(node.role(), role);
    node
}

fn take(node: &mut Node, step: Step, last: &mut Option<(NodeId, Message)>) {
    let input = match step {
        Step::Message(from, message) => {
            *last = Some((from, (*message).clone()));
            Input::Message { from, message: *message }
        }
        Step::Again => {
            let Some((from, message)) = last.clone() else { return };
            Input::Message { from, message }
        }
        Step::Persist => return drop(node.persist()),
        Step::Applied => Input::Applied { index: node.handed_out },
        Step::Timeout => {
            if node.raft.poll_timeout().is_some() {
                node.timeout();
            }
            return;
        }
        Step::Later(millis) => {
            node.now += crate::node::millis(millis);
            return;
        }
        Step::Propose => Input::Propose { id: 1, command: Bytes::from_static(b"x") },
        Step::Read => Input::Read { id: 2, by_lease: true },
        Step::Transfer(to) => Input::Transfer { id: 3, to },
        Step::Change(change) => Input::ChangeMembership { id: 4, base: None, change },
        Step::NotSent(to, session, fitting) => Input::NotSent { to, session, fitting },
        Step::Unreachable(to) => Input::Unreachable { to },
        Step::Hello(from, feature_level) => Input::PeerHello { from, incarnation: incarnation(from), feature_level },
        Step::Full => Input::StorageFull { why: "full".into() },
        Step::Freed => Input::StorageFreed,
        Step::SnapshotSent(to, session, installed) => Input::SnapshotSent { to, session, installed },
    };
    node.input(input);
}

/// A vote stays with its term: a newer term, or the same vote.
fn vote_stays(before: &Disk, after: &Disk) -> bool {
    let (before, after) = (before.hard_state, after.hard_state);
    after.term > before.term || before.voted_for.is_none() || before.voted_for == after.voted_for
}

/// Entries up to `commit`, on disk.
fn committed(node: &Node, commit: u64) -> Vec<Entry> {
    node.disk.log.iter().take_while(|entry| entry.index <= commit).cloned().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Figure 2, state: whatever comes, terms, votes, commit and what is committed stay.
    #[test]
    fn nothing_that_was_promised_is_taken_back(role in 0usize..5, steps in vec(step(), 0..60)) {
        let mut node = node_in(ROLES[role]);
        let mut last = None;
        for step in steps {
            let (before, disk) = (node.status(), node.disk.clone());
            let kept = committed(&node, before.commit.min(before.persisted));
            take(&mut node, step.clone(), &mut last);
            let after = node.status();
            prop_assert!(after.term >= before.term, "{step:?}");
            prop_assert!(after.commit >= before.commit, "{step:?}");
            prop_assert!(after.commit <= after.last.index && after.applied <= after.commit, "{step:?}: {after:?}");
            prop_assert!(vote_stays(&disk, &node.disk), "{step:?}: {:?}, then {:?}", disk.hard_state, node.disk.hard_state);
            prop_assert!(node.disk.hard_state.term >= disk.hard_state.term, "{step:?}");
            prop_assert!(node.disk.log.starts_with(&kept), "{step:?}: a committed entry is gone");
            prop_assert!(!(before.role == Role::Failed) || after.role == Role::Failed, "{step:?}");
        }
    }

    /// A message that is counted as malformed, impossible or of another group has no other effect on log, term, commit.
    #[test]
    fn a_message_that_is_dropped_changes_no_log(role in 0usize..5, messages in vec(message(), 1..30)) {
        let mut node = node_in(ROLES[role]);
        for (from, message) in messages {
            let before = node.status();
            let pending = node.pending.len();
            node.input(Input::Message { from, message: message.clone() });
            let after = node.status();
            if counted(&after) > counted(&before) {
                let unreadable = after.bad_messages.malformed > before.bad_messages.malformed;
                prop_assert_eq!((after.last, after.commit), (before.last, before.commit), "{:?}", message);
                prop_assert!(after.term == before.term || unreadable, "{:?}", message);
                prop_assert!(node.pending.len() == pending || unreadable, "{:?}", message);
            }
        }
    }
}

/// Messages that no honest sender sends.
fn counted(status: &Status) -> u64 {
    let bad = status.bad_messages;
    bad.malformed + bad.impossible + bad.other_group + bad.rival_leader + bad.unformed
}
