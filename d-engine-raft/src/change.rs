//! Changes of the membership (§4): what a change makes of a configuration, and through which steps.
//!
//! Pure functions; the leader decides when a step may be taken.

use d_engine_core::{Member, MemberKind, Membership};

use crate::NodeId;

/// A change of the cluster's membership, as asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// Add a member that receives the log and does not vote (§4.2.1).
    AddLearner {
        /// Its id.
        node: NodeId,
        /// Its data directory.
        incarnation: u128,
        /// Where it is reached.
        address: String,
    },
    /// Let a learner vote.
    Promote {
        /// The learner.
        node: NodeId,
    },
    /// Remove a member.
    Remove {
        /// The member.
        node: NodeId,
    },
    /// Replace a member, dead or wiped, by a new learner in one step.
    Replace {
        /// The member to remove.
        old: NodeId,
        /// Id of the new one; may be the same.
        node: NodeId,
        /// Its data directory.
        incarnation: u128,
        /// Where it is reached.
        address: String,
    },
    /// Tell everybody a member's new address.
    SetAddress {
        /// The member.
        node: NodeId,
        /// Where it is reached.
        address: String,
    },
    /// Let exactly these members vote; the others become learners. Through a joint configuration where more than one
    /// voter changes (§4.3).
    SetVoters {
        /// The voters.
        voters: Vec<NodeId>,
    },
    /// Raise the feature level to what every member understands.
    RaiseFeatureLevel {
        /// The level.
        level: u32,
    },
}

/// Why a change is refused. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// Another change is not finished.
    #[error("another membership change is in progress (entry {index}); wait until it is finished")]
    InProgress {
        /// Index of the configuration that has not committed.
        index: u64,
    },
    /// The caller looked at another configuration than the present one.
    #[error("the membership has changed meanwhile: it is the one of entry {found}, not of {expected}; look again")]
    BaseMoved {
        /// The index that the caller named.
        expected: u64,
        /// The present configuration's index.
        found: u64,
    },
    /// The leader has not committed in its term yet.
    #[error("the leader is new and has not committed an entry yet; try again")]
    LeaderIsNew,
    /// No such member.
    #[error("node {node} is no member")]
    UnknownMember {
        /// The node.
        node: NodeId,
    },
    /// There is such a member already, and not as asked.
    #[error("node {node} is a member already, but not as asked; remove or replace it first")]
    AlreadyMember {
        /// The node.
        node: NodeId,
    },
    /// Everything is as asked for already, and committed: whoever did not hear the answer of an earlier try has it here.
    #[error("nothing to change: the membership of entry {index} is as asked")]
    NoChange {
        /// Index of the present configuration.
        index: u64,
    },
    /// Nobody could vote any more.
    #[error("no voter would be left; a cluster needs at least one")]
    NoVoters,
    /// The learner's log is not there yet.
    #[error("node {node} has {matched} of {last} entries; promote it when it has caught up")]
    NotCaughtUp {
        /// The learner.
        node: NodeId,
        /// Highest index it is known to hold.
        matched: u64,
        /// The leader's last index.
        last: u64,
    },
    /// The node does not understand what the cluster uses.
    #[error("node {node} understands feature level {offers}, the cluster uses {needs}; upgrade the node first")]
    TooOld {
        /// The node.
        node: NodeId,
        /// Newest level that it offered.
        offers: u32,
        /// Level of the cluster.
        needs: u32,
    },
}

impl Change {
    /// Whether `membership` is as this change would make it.
    pub fn is_done_in(&self, membership: &Membership) -> bool {
        self.target(membership).is_ok_and(|target| target == *membership)
    }

    /// The members as they should be in the end; the present ones if that has been reached already.
    pub(crate) fn target(&self, current: &Membership) -> Result<Membership, ChangeError> {
        let mut target = current.clone();
        match self {
            Self::AddLearner { node, incarnation, address } => {
                if !is_in(current, *node, *incarnation, address) {
                    add_learner(&mut target, *node, *incarnation, address)?;
                }
            }
            Self::Promote { node } => {
                member_mut(&mut target, *node)?.kind = MemberKind::Voter;
            }
            Self::Remove { node } => target.members.retain(|member| member.node != *node),
            Self::Replace { old, node, incarnation, address } => {
                let has_gone = old == node || current.member(*old).is_none();
                if !(has_gone && is_in(current, *node, *incarnation, address)) {
                    remove(&mut target, *old)?;
                    add_learner(&mut target, *node, *incarnation, address)?;
                }
            }
            Self::SetAddress { node, address } => member_mut(&mut target, *node)?.address.clone_from(address),
            Self::SetVoters { voters } => set_voters(&mut target, voters)?,
            Self::RaiseFeatureLevel { level } => {
                target.settings.feature_level = target.settings.feature_level.max(*level);
            }
        }
        target.members.sort_by_key(|member| member.node);
        if target.voters().next().is_none() {
            return Err(ChangeError::NoVoters);
        }
        Ok(target)
    }
}

/// Whether there is this very member, with a vote or without one.
fn is_in(membership: &Membership, node: NodeId, incarnation: u128, address: &str) -> bool {
    membership.member(node).is_some_and(|member| member.incarnation == incarnation && member.address == address)
}

fn add_learner(membership: &mut Membership, node: NodeId, incarnation: u128, address: &str) -> Result<(), ChangeError> {
    if membership.member(node).is_some() {
        return Err(ChangeError::AlreadyMember { node });
    }
    membership.members.push(Member::new(node, incarnation, address, MemberKind::Learner));
    Ok(())
}

fn member_mut(membership: &mut Membership, node: NodeId) -> Result<&mut Member, ChangeError> {
    membership.members.iter_mut().find(|member| member.node == node).ok_or(ChangeError::UnknownMember { node })
}

fn remove(membership: &mut Membership, node: NodeId) -> Result<(), ChangeError> {
    member_mut(membership, node)?;
    membership.members.retain(|member| member.node != node);
    Ok(())
}

fn set_voters(membership: &mut Membership, voters: &[NodeId]) -> Result<(), ChangeError> {
    for node in voters {
        member_mut(membership, *node)?;
    }
    for member in &mut membership.members {
        let votes = voters.contains(&member.node);
        member.kind = if votes { MemberKind::Voter } else { MemberKind::Learner };
    }
    Ok(())
}

/// The first step from `current` to `target`, neither of them joint: the target itself if at most one voter changes
/// (§4.1: any two majorities then overlap), else the joint configuration of both (§4.3).
///
/// A voter that keeps its id and changes its data directory is another voter.
pub(crate) fn first_step(current: &Membership, target: &Membership) -> Membership {
    let same = |a: &Member, b: &Membership| b.member(a.node).is_some_and(|b| b.incarnation == a.incarnation);
    let is_voter = |member: &Member| member.kind == MemberKind::Voter;
    let in_both = |a: &Member, b: &Membership| same(a, b) && b.member(a.node).is_some_and(is_voter);
    let leaving = current.members.iter().filter(|m| is_voter(m) && !in_both(m, target)).count();
    let joining = target.members.iter().filter(|m| is_voter(m) && !in_both(m, current)).count();
    if leaving + joining <= 1 {
        return target.clone();
    }
    let mut joint = target.clone();
    for member in &mut joint.members {
        member.kind = match (is_voter(member), in_both(member, current)) {
            (true, true) => MemberKind::Voter,
            (true, false) => MemberKind::Joining,
            (false, true) => MemberKind::Demoting,
            (false, false) => MemberKind::Learner,
        };
    }
    for member in current.members.iter().filter(|member| is_voter(member) && target.member(member.node).is_none()) {
        joint.members.push(Member::new(member.node, member.incarnation, &member.address, MemberKind::Leaving));
    }
    joint.members.sort_by_key(|member| member.node);
    joint
}

/// C_new of a joint configuration.
pub(crate) fn leave_joint(joint: &Membership) -> Membership {
    let mut target = joint.clone();
    target.members.retain(|member| member.kind != MemberKind::Leaving);
    for member in &mut target.members {
        member.kind = match member.kind {
            MemberKind::Voter | MemberKind::Joining => MemberKind::Voter,
            MemberKind::Learner | MemberKind::Demoting | MemberKind::Leaving => MemberKind::Learner,
        };
    }
    target
}

#[cfg(test)]
mod tests {
    use super::*;
    use d_engine_core::ClusterSettings;

    fn membership(voters: &[NodeId], learners: &[NodeId]) -> Membership {
        let member = |kind| move |node: &NodeId| Member::new(*node, u128::from(*node), "a:1", kind);
        let members = voters.iter().map(member(MemberKind::Voter));
        let members = members.chain(learners.iter().map(member(MemberKind::Learner))).collect();
        Membership::new(9, members, ClusterSettings::default())
    }

    fn kinds(membership: &Membership) -> Vec<(NodeId, MemberKind)> {
        membership.members.iter().map(|member| (member.node, member.kind)).collect()
    }

    #[test]
    fn one_voter_at_a_time_needs_no_joint_configuration() {
        let current = membership(&[1, 2, 3], &[4]);
        for change in [Change::Promote { node: 4 }, Change::Remove { node: 3 }, Change::Remove { node: 4 }] {
            let target = change.target(&current).unwrap();
            assert_eq!(first_step(&current, &target), target);
        }
    }

    #[test]
    fn several_voters_change_through_both_majorities() {
        use MemberKind::{Demoting, Joining, Voter};
        let current = membership(&[1, 2, 3], &[4, 5]);
        let target = Change::SetVoters { voters: vec![1, 4, 5] }.target(&current).unwrap();
        let joint = first_step(&current, &target);
        assert_eq!(kinds(&joint), [(1, Voter), (2, Demoting), (3, Demoting), (4, Joining), (5, Joining)]);
        assert_eq!(joint.old_voters().collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(joint.voters().collect::<Vec<_>>(), [1, 4, 5]);
        assert_eq!(leave_joint(&joint), target);
    }

    #[test]
    fn a_replaced_voter_leaves_and_a_learner_comes_in_one_step() {
        let current = membership(&[1, 2, 3], &[]);
        let replace = Change::Replace { old: 3, node: 4, incarnation: 4, address: "d:1".into() };
        let target = replace.target(&current).unwrap();
        assert_eq!(first_step(&current, &target), target);
        assert_eq!(kinds(&target).last(), Some(&(4, MemberKind::Learner)));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let current = membership(&[1], &[2]);
        let refusal = |change: Change| change.target(&current).unwrap_err();
        assert_eq!(refusal(Change::Remove { node: 1 }), ChangeError::NoVoters);
        assert_eq!(refusal(Change::Promote { node: 9 }), ChangeError::UnknownMember { node: 9 });
        let add = |incarnation, address: &str| Change::AddLearner { node: 2, incarnation, address: address.into() };
        assert_eq!(refusal(add(7, "a:1")), ChangeError::AlreadyMember { node: 2 });
        assert_eq!(refusal(add(2, "b:1")), ChangeError::AlreadyMember { node: 2 });
        let replace = |old, incarnation| Change::Replace { old, node: 2, incarnation, address: "a:1".into() };
        assert_eq!(refusal(replace(9, 7)), ChangeError::UnknownMember { node: 9 });
        assert_eq!(refusal(replace(1, 2)), ChangeError::AlreadyMember { node: 2 });
    }

    #[test]
    fn what_has_been_done_already_is_done() {
        let current = membership(&[1, 3], &[2]);
        let add = |node| Change::AddLearner { node, incarnation: u128::from(node), address: "a:1".into() };
        let replace = |old, node| Change::Replace { old, node, incarnation: u128::from(node), address: "a:1".into() };
        let moved = Change::SetAddress { node: 3, address: "a:1".into() };
        // Node 3 was added as a learner and has been promoted since; node 9 has been replaced or removed.
        let again = [add(2), add(3), Change::Promote { node: 3 }, Change::Remove { node: 9 }, moved];
        for change in again.into_iter().chain([replace(9, 2), replace(9, 3), replace(3, 3)]) {
            assert!(change.is_done_in(&current), "{change:?}");
        }
        for change in [add(4), Change::Promote { node: 2 }, Change::Remove { node: 3 }, replace(3, 4), replace(3, 2)] {
            assert!(!change.is_done_in(&current), "{change:?}");
        }
    }
}
