//! Quorums: one piece of code decides votes, commits, read rounds and whether a leader is still connected.

use std::borrow::Cow;

use d_engine_core::{MemberKind, Membership};

use crate::change::leave_joint;
use crate::{Config, Mutant, NodeId};

/// The largest value that a quorum of the configuration has reached; absent voters count as zero. A joint configuration
/// needs a majority of both halves (§4.3). Zero without voters.
pub fn quorum_value(membership: &Membership, value: impl Fn(NodeId) -> u64) -> u64 {
    let new = majority_value(membership.voters(), &value);
    if membership.is_joint() { new.min(majority_value(membership.old_voters(), &value)) } else { new }
}

/// The configuration that decides: itself, unless the rule that it does is broken.
pub(crate) fn deciding<'a>(membership: &'a Membership, config: &Config) -> Cow<'a, Membership> {
    if config.breaks(Mutant::JointUsesOneMajority) && membership.is_joint() {
        return Cow::Owned(leave_joint(membership));
    }
    if config.breaks(Mutant::LearnersCount) {
        let mut membership = membership.clone();
        let learners = membership.members.iter_mut().filter(|member| member.kind == MemberKind::Learner);
        learners.for_each(|member| member.kind = MemberKind::Voter);
        return Cow::Owned(membership);
    }
    Cow::Borrowed(membership)
}

/// Whether a quorum of the configuration fulfils `holds`.
pub fn has_quorum(membership: &Membership, holds: impl Fn(NodeId) -> bool) -> bool {
    quorum_value(membership, |node| u64::from(holds(node))) == 1
}

fn majority_value(voters: impl Iterator<Item = NodeId>, value: impl Fn(NodeId) -> u64) -> u64 {
    const FEW: usize = 16;
    let mut few = [0u64; FEW];
    let mut many = Vec::new();
    let mut count = 0;
    for voter in voters {
        let value = value(voter);
        if count < FEW {
            few[count] = value;
        } else {
            if many.is_empty() {
                many.extend_from_slice(&few);
            }
            many.push(value);
        }
        count += 1;
    }
    let values = if count <= FEW { &mut few[..count] } else { &mut many[..] };
    values.sort_unstable_by(|a, b| b.cmp(a));
    // In descending order, the value at n/2 is reached by n/2 + 1 of n: the smallest majority.
    values.get(count / 2).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use d_engine_core::{ClusterSettings, Member};

    fn membership(kinds: &[MemberKind]) -> Membership {
        let members = kinds.iter().zip(1..).map(|(kind, node)| Member::new(node, 0, "", *kind)).collect();
        Membership::new(1, members, ClusterSettings::default())
    }

    /// The definition, by trying every value.
    fn naive(membership: &Membership, values: &[u64]) -> u64 {
        let reached = |voters: Vec<NodeId>, value: u64| {
            voters.iter().filter(|node| values[**node as usize - 1] >= value).count() > voters.len() / 2
        };
        let candidates = values.iter().copied().chain([0]);
        let holds = |value: u64| {
            reached(membership.voters().collect(), value)
                && (!membership.is_joint() || reached(membership.old_voters().collect(), value))
        };
        candidates.filter(|value| holds(*value)).max().unwrap_or(0)
    }

    #[test]
    fn hand_worked_quorums() {
        use MemberKind::{Joining, Learner, Leaving, Voter};
        let value =
            |kinds: &[MemberKind], values: &[u64]| quorum_value(&membership(kinds), |node| values[node as usize - 1]);
        assert_eq!(value(&[], &[]), 0);
        assert_eq!(value(&[Voter], &[7]), 7);
        assert_eq!(value(&[Voter, Voter], &[7, 3]), 3);
        assert_eq!(value(&[Voter, Voter, Voter], &[7, 3, 5]), 5);
        assert_eq!(value(&[Voter, Voter, Voter, Voter], &[9, 7, 3, 5]), 5);
        assert_eq!(value(&[Voter, Learner, Learner], &[2, 9, 9]), 2);
        assert_eq!(value(&[Leaving, Joining], &[4, 9]), 4);
        assert_eq!(value(&[Voter, Voter, Leaving, Joining], &[9, 1, 8, 3]), 3);
    }

    proptest::proptest! {
        #[test]
        fn quorum_value_equals_its_definition(
            kinds in proptest::collection::vec(0u8..5, 1..20),
            values in proptest::collection::vec(0u64..6, 20),
        ) {
            use MemberKind::{Demoting, Joining, Leaving, Learner, Voter};
            let kinds: Vec<_> = kinds.iter().map(|k| [Voter, Learner, Joining, Leaving, Demoting][*k as usize]).collect();
            let membership = membership(&kinds);
            proptest::prop_assume!(membership.voters().count() > 0);
            proptest::prop_assume!(!membership.is_joint() || membership.old_voters().count() > 0);
            let found = quorum_value(&membership, |node| values[node as usize - 1]);
            proptest::prop_assert_eq!(found, naive(&membership, &values));
        }
    }
}
