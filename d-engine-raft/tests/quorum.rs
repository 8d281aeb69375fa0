//! Quorum arithmetic: which index is committed, and how an election stands (§3.4, §3.6, §4.2.1, §4.3), by hand and
//! against the definition.

#![allow(clippy::unwrap_used, reason = "tests")]

use d_engine_core::MemberKind::{self, Demoting, Joining, Learner, Leaving, Voter};
use d_engine_core::{ClusterSettings, Member, Membership};
use d_engine_raft::{NodeId, has_quorum, quorum_value};
use proptest::prelude::*;

/// Nodes 1, 2, ... of these kinds.
fn membership(kinds: &[MemberKind]) -> Membership {
    let members = kinds.iter().zip(1..).map(|(kind, node)| Member::new(node, 0, "", *kind)).collect();
    Membership::new(1, members, ClusterSettings::default())
}

fn committed(kinds: &[MemberKind], matched: &[u64]) -> u64 {
    quorum_value(&membership(kinds), |node| matched.get(node as usize - 1).copied().unwrap_or(0))
}

/// How an election stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    Won,
    Lost,
    Open,
}
use Stand::{Lost, Open, Won};

/// By the answers so far: `y` grants, `n` refuses, `.` has not answered. As an election counts them.
fn stand(kinds: &[MemberKind], answers: &str) -> Stand {
    let membership = membership(kinds);
    let said = |node: NodeId, what| answers.as_bytes()[node as usize - 1] == what;
    if has_quorum(&membership, |node| said(node, b'y')) {
        Won
    } else if has_quorum(&membership, |node| !said(node, b'n')) {
        Open
    } else {
        Lost
    }
}

const V: MemberKind = Voter;
const L: MemberKind = Learner;
const J: MemberKind = Joining;
const G: MemberKind = Leaving;
const D: MemberKind = Demoting;

/// Kinds, what each holds, what is committed.
const COMMITS: &[(&[MemberKind], &[u64], u64)] = &[
    (&[], &[], 0),
    (&[V], &[7], 7),
    (&[V], &[], 0),
    (&[V, V], &[7, 3], 3),
    (&[V, V], &[7], 0),
    (&[V, V, V], &[7, 3, 5], 5),
    (&[V, V, V], &[7, 7, 0], 7),
    (&[V, V, V], &[9], 0),
    (&[V, V, V, V], &[9, 7, 3, 5], 5),
    (&[V, V, V, V], &[9, 9, 3, 3], 3),
    (&[V, V, V, V, V], &[1, 2, 3, 4, 5], 3),
    (&[V, V, V, V, V], &[9, 9, 9, 0, 0], 9),
    // Learners hold what they hold.
    (&[L, L, L], &[9, 9, 9], 0),
    (&[V, L, L], &[2, 9, 9], 2),
    (&[V, V, V, L, L], &[5, 3, 1, 9, 9], 3),
    // Disjoint halves: 1, 2, 3 and 4, 5, 6.
    (&[G, G, G, J, J, J], &[5, 6, 7, 8, 9, 10], 6),
    (&[G, G, G, J, J, J], &[8, 9, 10, 5, 6, 7], 6),
    (&[G, G, G, J, J, J], &[9, 9, 9, 9, 0, 0], 0),
    (&[D, J], &[4, 9], 4),
    // Overlapping halves: 1, 2, 3 and 1, 2, 4.
    (&[V, V, G, J], &[9, 1, 8, 3], 3),
    (&[V, V, D, J], &[5, 5, 0, 0], 5),
    (&[V, V, G, J], &[9, 0, 9, 0], 0),
    // One half within the other: 1, 2, 3 and 1; 1 and 1, 2, 3.
    (&[V, D, D], &[9, 4, 2], 4),
    (&[V, D, D], &[2, 9, 9], 2),
    (&[V, J, J], &[9, 4, 2], 4),
    // A half without anybody agrees to nothing.
    (&[G, G, G], &[9, 9, 9], 0),
    (&[J, J, J], &[9, 9, 9], 0),
    (&[D, L], &[9, 9], 0),
];

#[test]
fn hand_worked_commits() {
    for (kinds, matched, expected) in COMMITS {
        assert_eq!(committed(kinds, matched), *expected, "{kinds:?} {matched:?}");
    }
}

/// Kinds, answers, how the election stands.
const VOTES: &[(&[MemberKind], &str, Stand)] = &[
    (&[V], ".", Open),
    (&[V], "y", Won),
    (&[V], "n", Lost),
    (&[V, V], "y.", Open),
    (&[V, V], "yn", Lost),
    (&[V, V], "yy", Won),
    (&[V, V, V], "y..", Open),
    (&[V, V, V], "yn.", Open),
    (&[V, V, V], "yy.", Won),
    (&[V, V, V], "ynn", Lost),
    (&[V, V, V, V], "yy..", Open),
    (&[V, V, V, V], "yynn", Lost),
    (&[V, V, V, V, V], "yynn.", Open),
    (&[V, V, V, V, V], "yyynn", Won),
    (&[V, V, V, V, V], "nnn..", Lost),
    (&[V, L, L], ".yy", Open),
    (&[V, L, L], "ynn", Won),
    (&[V, V, V, L, L], "y..yy", Open),
    (&[G, G, G, J, J, J], "yyy...", Open),
    (&[G, G, G, J, J, J], "yy.yy.", Won),
    (&[G, G, G, J, J, J], "nn.yyy", Lost),
    (&[G, G, G, J, J, J], "yyynn.", Lost),
    (&[V, V, G, J], "yy..", Won),
    (&[V, V, G, J], "y.y.", Open),
    (&[V, V, D, J], "y.nn", Open),
    (&[V, V, D, J], "ynn.", Lost),
    (&[V, D, D], "y..", Open),
    (&[V, D, D], "yy.", Won),
    (&[V, D, D], "nyy", Lost),
    (&[J, J, J], "yyy", Lost),
    (&[G, G], "yy", Lost),
    (&[], "", Lost),
];

#[test]
fn hand_worked_elections() {
    for (kinds, answers, expected) in VOTES {
        assert_eq!(stand(kinds, answers), *expected, "{kinds:?} {answers}");
    }
}

/// More than half of a half, by counting; nobody is more than half of nobody.
fn is_majority(of: &[NodeId], agree: &dyn Fn(NodeId) -> bool) -> bool {
    let mut count = 0;
    for node in of {
        count += usize::from(agree(*node));
    }
    count * 2 > of.len()
}

/// The definition: a majority of each half.
fn agrees(kinds: &[MemberKind], agree: &dyn Fn(NodeId) -> bool) -> bool {
    let of = |half: &[MemberKind]| -> Vec<NodeId> {
        kinds.iter().zip(1..).filter(|(kind, _)| half.contains(kind)).map(|(_, node)| node).collect()
    };
    let is_joint = kinds.iter().any(|kind| [Joining, Leaving, Demoting].contains(kind));
    let new = is_majority(&of(&[Voter, Joining]), agree);
    let old = is_majority(&of(&[Voter, Leaving, Demoting]), agree);
    new && (old || !is_joint)
}

fn kinds(most: usize) -> impl Strategy<Value = Vec<MemberKind>> {
    let any = prop_oneof![Just(Voter), Just(Learner), Just(Joining), Just(Leaving), Just(Demoting)];
    let settled = prop_oneof![Just(Voter), Just(Learner)];
    prop_oneof![proptest::collection::vec(any, 0..most), proptest::collection::vec(settled, 0..most)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_committed_index_is_the_largest_that_a_quorum_holds(
        kinds in kinds(24),
        matched in proptest::collection::vec(0u64..12, 24),
    ) {
        let holds = |index: u64| agrees(&kinds, &|node| matched[node as usize - 1] >= index);
        let largest = (1..12).filter(|index| holds(*index)).max().unwrap_or(0);
        prop_assert_eq!(committed(&kinds, &matched), largest, "{:?} {:?}", kinds, matched);
    }

    #[test]
    fn an_election_is_won_lost_or_open_by_what_the_others_may_still_say(
        kinds in kinds(9),
        answers in proptest::collection::vec(0usize..3, 9),
    ) {
        let answers: String = answers.iter().map(|answer| ['y', 'n', '.'][*answer]).collect();
        let said = |node: NodeId| answers.as_bytes()[node as usize - 1];
        let wins = |open: u32| agrees(&kinds, &|node| said(node) == b'y' || said(node) == b'.' && open >> node & 1 == 1);
        let expected = if wins(0) { Won } else if (0..1 << 10).any(wins) { Open } else { Lost };
        prop_assert_eq!(stand(&kinds, &answers), expected, "{:?} {}", kinds, answers);
    }

    /// Why one leader per term, and no two histories: two quorums of one configuration share a voter.
    #[test]
    fn two_quorums_share_a_voter(kinds in kinds(12), side in any::<u32>()) {
        let membership = membership(&kinds);
        let one = has_quorum(&membership, |node| side >> node & 1 == 1);
        let other = has_quorum(&membership, |node| side >> node & 1 == 0);
        prop_assert!(!(one && other), "{:?} {:b}", kinds, side);
    }

    /// Why a joint configuration may follow the old one and be followed by the new one: its quorums meet those of both.
    #[test]
    fn a_quorum_of_a_joint_configuration_holds_one_of_each_half(kinds in kinds(12), side in any::<u32>()) {
        let joint = membership(&kinds);
        let settled = |votes: &[MemberKind]| {
            let kind = |kind: &MemberKind| if votes.contains(kind) { Voter } else { Learner };
            membership(&kinds.iter().map(kind).collect::<Vec<_>>())
        };
        let agree = |node: NodeId| side >> node & 1 == 1;
        if joint.is_joint() && has_quorum(&joint, agree) {
            prop_assert!(has_quorum(&settled(&[Voter, Leaving, Demoting]), agree));
            prop_assert!(has_quorum(&settled(&[Voter, Joining]), agree));
        }
    }

    /// More acknowledgements never commit less.
    #[test]
    fn an_acknowledgement_never_lowers_the_committed_index(
        kinds in kinds(20),
        mut matched in proptest::collection::vec(0u64..12, 20),
        node in 0usize..20,
    ) {
        let before = committed(&kinds, &matched);
        matched[node] += 3;
        prop_assert!(committed(&kinds, &matched) >= before);
    }
}
