//! Changes of the membership (§4): one at a time (§4.1), learners (§4.2.1), a leader that goes (§4.2.2), joint consensus
//! (§4.3).

use crate::node::{Node, append, id, incarnation, membership, millis, voters};
use d_engine_core::MemberKind::{Demoting, Joining, Learner, Leaving, Voter};
use d_engine_core::{Entry, EntryKind, Membership};
use d_engine_raft::{Answer, Append, AppendOutcome, Body, Change, ChangeError, Input, Rejection, Role};

fn learner(node: u64) -> Change {
    Change::AddLearner { node, incarnation: incarnation(node), address: format!("n{node}") }
}

/// A leader among these, everybody up to date with the log of three entries.
fn leader_of(members: &Membership) -> Node {
    let mut node = Node::with_members(members, &[]);
    node.lead_and_commit();
    node
}

/// An AppendEntries with one membership.
fn configure(prev: d_engine_core::LogId, term: u64, members: &Membership, commit: u64) -> Append {
    let entry = Entry::new(prev.index + 1, term, EntryKind::Membership, members.encode());
    Append { entries: vec![entry], ..append(prev, &[], commit) }
}

/// §4.1: the newest configuration in the log is in force, committed or not.
#[test]
fn a_configuration_takes_effect_when_it_is_appended() {
    let mut node = leader_of(&voters(3));
    let out = node.change(1, learner(4));
    assert!(out.heartbeats().iter().any(|(to, _)| *to == 4), "it is sent to at once: {out:?}");
    assert!(node.status().membership.member(4).is_some() && node.status().commit == 2);
}

/// §4.1: ... so is the one before, once the newer one is overwritten.
#[test]
fn a_configuration_that_is_overwritten_is_out_of_force() {
    let mut node = Node::with_log(3, &[]);
    node.store(2, 1, configure(id(1, 1), 1, &voters(5), 0));
    assert_eq!(node.status().membership, voters(5));
    node.store(3, 2, append(id(1, 1), &[2], 0));
    assert_eq!(node.status().membership, voters(3));
}

/// §4.1: a voter that is added counts at once, for commits too.
#[test]
fn a_new_voter_counts_before_its_configuration_has_committed() {
    let mut node = leader_of(&membership(&[(1, Voter), (2, Voter), (3, Voter), (4, Learner)]));
    node.change(1, Change::Promote { node: 4 });
    node.persist();
    assert_eq!(node.accepts(2, 3).answers().len(), 0, "two of four");
    let out = node.accepts(4, 3);
    assert_eq!(out.answers(), [&Answer::Changed { id: 1, index: 3 }]);
}

/// §4.1: one change at a time.
#[test]
fn a_second_change_is_refused_until_the_first_has_committed() {
    let mut node = leader_of(&voters(3));
    node.change(1, learner(4));
    let second = node.change(2, learner(5));
    assert_eq!(second.refusals(), ["another membership change is in progress (entry 3); wait until it is finished"]);
    node.persist();
    assert_eq!(node.accepts(2, 3).answers(), [&Answer::Changed { id: 1, index: 3 }]);
    assert_eq!(node.change(3, learner(5)).refusals(), [""; 0]);
}

/// §4.1 as corrected in 2015: no change before the leader has committed in its term.
#[test]
fn a_leader_that_has_committed_nothing_yet_changes_nothing() {
    let mut node = Node::with_log(3, &[]);
    node.lead();
    let early = node.change(1, learner(4));
    assert_eq!(early.refusals(), ["the leader is new and has not committed an entry yet; try again"]);
    node.persist();
    node.accepts(2, 1);
    node.accepts(2, 2);
    assert_eq!(node.change(2, learner(4)).refusals(), [""; 0]);
}

/// Rule of this implementation: a change names the configuration that it was made for.
#[test]
fn a_change_made_for_another_configuration_is_refused() {
    let mut node = leader_of(&voters(3));
    let out = node.input(Input::ChangeMembership { id: 1, base: Some(9), change: learner(4) });
    assert_eq!(
        out.refusals(),
        ["the membership has changed meanwhile: it is the one of entry 1, not of 9; look again"]
    );
    let out = node.input(Input::ChangeMembership { id: 2, base: Some(1), change: learner(4) });
    assert_eq!(out.refusals(), [""; 0]);
}

/// §4.1: servers answer whoever asks, whatever their own configuration says.
#[test]
fn a_stranger_gets_votes_and_its_entries_are_taken() {
    let mut node = Node::with_log(3, &[]);
    assert!(node.votes_for(9, 2, id(1, 1)), "this node's configuration does not hold node 9 yet");
    let out = node.store(9, 2, append(id(1, 1), &[2], 0));
    assert_eq!((node.status().leader, out.outcomes()), (Some(9), vec![AppendOutcome::Accepted { matched: 2 }]));
}

/// §4.1: the asker's configuration decides which answers count.
#[test]
fn answers_of_strangers_and_of_other_directories_do_not_count() {
    let mut node = Node::with_log(3, &[]);
    node.campaign();
    node.persist();
    node.hear(9, 2, Body::VoteReply { granted: true });
    let message =
        d_engine_raft::Message { term: 2, incarnation: 999, group: 0, body: Body::VoteReply { granted: true } };
    node.input(Input::Message { from: 2, message });
    assert_eq!((node.role(), node.status().bad_messages.stranger), (Role::Candidate, 2));
    node.hear(2, 2, Body::VoteReply { granted: true });
    assert_eq!(node.role(), Role::Leader);
}

/// §4.2.1: a learner receives the log and counts for nothing.
#[test]
fn a_learner_gets_entries_and_does_not_count() {
    let mut node = leader_of(&membership(&[(1, Voter), (2, Voter), (3, Voter), (4, Learner)]));
    let out = node.propose(1);
    assert!(out.entries().iter().any(|(to, _, _)| *to == 4));
    node.persist();
    node.accepts(4, 3);
    assert_eq!(node.status().commit, 2);
    let mut candidate = Node::with_members(&membership(&[(1, Voter), (2, Voter), (3, Voter), (4, Learner)]), &[]);
    candidate.campaign();
    assert!(candidate.persist().asked().iter().all(|(to, _)| *to != 4), "nor is it asked");
    candidate.hear(4, 2, Body::VoteReply { granted: true });
    assert_eq!(candidate.role(), Role::Candidate);
}

/// §4.2.1: a learner does not campaign.
#[test]
fn a_learner_never_campaigns() {
    let node = Node::with_members(&membership(&[(1, Learner), (2, Voter), (3, Voter)]), &[]);
    assert_eq!(node.raft.poll_timeout(), None);
}

/// §4.2.1: a learner is promoted once it has caught up.
#[test]
fn a_learner_is_promoted_once_it_has_caught_up() {
    let mut node = leader_of(&voters(3));
    node.change(1, learner(4));
    node.persist();
    node.accepts(2, 3);
    let early = node.change(2, Change::Promote { node: 4 });
    assert_eq!(early.refusals(), ["node 4 has 0 of 3 entries; promote it when it has caught up"]);
    node.accepts(4, 3);
    assert_eq!(node.change(3, Change::Promote { node: 4 }).refusals(), [""; 0]);
}

/// §4.2.1: caught up means: less than a window behind.
#[test]
fn a_learner_that_is_a_window_behind_is_not_promoted() {
    let mut node = leader_of(&membership(&[(1, Voter), (2, Learner)]));
    (0..4_097).for_each(|id| drop(node.propose(id)));
    let why = node.change(1, Change::Promote { node: 2 }).refusals();
    assert_eq!(why, ["node 2 has 2 of 4099 entries; promote it when it has caught up"]);
    node.accepts(2, 3);
    assert_eq!(node.change(2, Change::Promote { node: 2 }).refusals(), [""; 0]);
}

/// §4.2.2: a leader that removes itself manages the cluster until the change commits, and does not count itself.
#[test]
fn a_leader_that_removes_itself_leads_without_counting_itself_until_that_commits() {
    let mut node = leader_of(&voters(3));
    node.change(1, Change::Remove { node: 1 });
    node.persist();
    node.accepts(2, 3);
    assert_eq!((node.role(), node.status().commit), (Role::Leader, 2), "one of two remaining voters");
    let out = node.accepts(3, 3);
    assert_eq!(out.answers(), [&Answer::Changed { id: 1, index: 3 }]);
    assert_eq!(node.role(), Role::Follower);
    assert!(out.heartbeats().iter().all(|(_, append)| append.commit == 3), "they learn that it has committed");
    assert_eq!(out.heartbeats().len(), 2);
}

/// §4.2.2: whoever is removed may campaign until its removal has committed.
#[test]
fn a_node_whose_removal_may_not_have_committed_campaigns() {
    let mut node = Node::with_log(2, &[]);
    node.store(2, 1, configure(id(1, 1), 1, &membership(&[(2, Voter)]), 1));
    node.append(2, 1, append(id(1, 2), &[], 1));
    assert!(node.raft.poll_timeout().is_some());
    node.timeout();
    assert_eq!(node.role(), Role::PreCandidate);
    node.append(2, 1, append(id(1, 2), &[], 2));
    node.timeout();
    assert_eq!((node.role(), node.raft.poll_timeout()), (Role::Follower, None), "now it is gone for good");
}

/// §4.3: more than one voter changes through a joint configuration; one voter does not need it (§4.1).
#[test]
fn several_voters_change_through_a_joint_configuration_and_one_does_not() {
    let mut node = leader_of(&membership(&[(1, Voter), (2, Voter), (3, Voter), (4, Learner), (5, Learner)]));
    node.change(1, Change::SetVoters { voters: vec![1, 2, 4] });
    let kinds: Vec<_> = node.status().membership.members.iter().map(|member| member.kind).collect();
    assert_eq!(kinds, [Voter, Voter, Demoting, Joining, Learner]);
    let mut node = leader_of(&voters(3));
    node.change(1, Change::SetVoters { voters: vec![1, 2] });
    assert!(!node.status().membership.is_joint());
}

/// §4.3: a joint configuration commits with a majority of both halves, and only then C_new is appended.
#[test]
fn a_joint_configuration_needs_both_majorities_and_is_left_once_it_has_committed() {
    let mut node = leader_of(&membership(&[(1, Voter), (2, Voter), (3, Voter), (4, Learner), (5, Learner)]));
    node.change(1, Change::SetVoters { voters: vec![1, 4, 5] });
    node.persist();
    node.accepts(4, 3);
    node.accepts(5, 3);
    assert_eq!((node.status().commit, node.status().last), (2, id(2, 3)), "all of the new half, one of the old");
    let out = node.accepts(2, 3);
    assert_eq!((node.status().commit, node.status().last), (3, id(2, 4)), "C_new follows");
    assert_eq!(out.answers(), Vec::<&Answer>::new(), "the change is not done yet");
    assert!(!node.status().membership.is_joint());
    node.persist();
    let out = node.accepts(4, 4);
    assert_eq!(out.answers(), [&Answer::Changed { id: 1, index: 4 }], "C_new needs the new majority alone");
}

/// §4.3: elections in a joint configuration need both majorities.
#[test]
fn an_election_in_a_joint_configuration_needs_both_majorities() {
    let joint = membership(&[(1, Voter), (2, Demoting), (3, Leaving), (4, Joining), (5, Joining)]);
    let mut node = Node::with_members(&joint, &[]);
    node.campaign();
    assert_eq!(node.persist().asked().len(), 4, "everybody who votes in a half");
    node.hear(4, 2, Body::VoteReply { granted: true });
    node.hear(5, 2, Body::VoteReply { granted: true });
    assert_eq!(node.role(), Role::Candidate, "all of the new half, one of the old");
    node.hear(3, 2, Body::VoteReply { granted: true });
    assert_eq!(node.role(), Role::Leader);
}

/// §4.3: whoever leads once a joint configuration has committed leaves it, inherited ones too.
#[test]
fn an_inherited_joint_configuration_is_left() {
    let joint = membership(&[(1, Voter), (2, Demoting), (3, Demoting), (4, Joining), (5, Joining)]);
    let node = leader_of(&joint);
    assert_eq!(node.status().last, id(2, 3));
    let new = membership(&[(1, Voter), (2, Learner), (3, Learner), (4, Voter), (5, Voter)]);
    assert_eq!(node.status().membership, new);
}

/// §4.2.2, §4.3: a leader that is not in C_new steps down when C_new has committed.
#[test]
fn a_leader_that_is_not_in_the_new_half_steps_down_when_it_has_committed() {
    let mut node = leader_of(&membership(&[(1, Voter), (2, Voter), (3, Learner), (4, Learner)]));
    node.change(1, Change::SetVoters { voters: vec![3, 4] });
    node.persist();
    for from in [2, 3, 4] {
        node.accepts(from, 3);
    }
    assert_eq!((node.role(), node.status().last), (Role::Leader, id(2, 4)));
    node.persist();
    node.accepts(3, 4);
    assert_eq!(node.role(), Role::Leader, "one of two");
    node.accepts(4, 4);
    assert_eq!(node.role(), Role::Follower);
    assert_eq!(node.wait(millis(5_000)).messages(), [], "and it does not campaign");
}

/// A change is answered: done, refused, or not known.
#[test]
fn a_change_whose_leader_is_deposed_is_answered_as_not_known() {
    let mut node = leader_of(&voters(3));
    node.change(5, learner(4));
    let out = node.append(2, 9, append(id(1, 1), &[], 0));
    assert_eq!(out.answers(), [&Answer::Lost { id: 5 }]);
}

/// Another directory under the same id is another member: nothing that its predecessor acknowledged counts for it.
#[test]
fn a_member_replaced_under_the_same_id_inherits_no_acknowledgements() {
    let mut node = leader_of(&membership(&[(1, Voter), (2, Voter), (3, Voter), (4, Learner)]));
    assert_eq!(node.matched(4), 2);
    node.change(1, Change::Replace { old: 4, node: 4, incarnation: 999, address: "n4".into() });
    assert_eq!(node.matched(4), 0);
}

/// What cannot be is refused in words.
#[test]
fn changes_that_cannot_be_are_refused_in_words() {
    let mut node = leader_of(&membership(&[(1, Voter), (2, Learner)]));
    let words = |out: crate::node::Out| out.refusals().join("");
    assert_eq!(words(node.change(1, Change::Promote { node: 9 })), "node 9 is no member");
    assert_eq!(words(node.change(1, Change::SetVoters { voters: vec![1, 9] })), "node 9 is no member");
    let elsewhere = Change::AddLearner { node: 2, incarnation: incarnation(2), address: "elsewhere".into() };
    let refused = "node 2 is a member already, but not as asked; remove or replace it first";
    assert_eq!(words(node.change(1, elsewhere.clone())), refused);
    let as_it_is = "nothing to change: the membership of entry 1 is as asked";
    for done in [learner(2), Change::Promote { node: 1 }, Change::Remove { node: 9 }] {
        assert_eq!(words(node.change(1, done)), as_it_is);
    }
    let nobody = "no voter would be left; a cluster needs at least one";
    assert_eq!(words(node.change(1, Change::Remove { node: 1 })), nobody);
    assert_eq!(words(node.change(1, Change::SetVoters { voters: vec![] })), nobody);
    let level = node.change(1, Change::RaiseFeatureLevel { level: 2 });
    assert_eq!(words(level), "node 1 understands feature level 1, the cluster uses 2; upgrade the node first");
    let mut follower = Node::with_log(3, &[]);
    let out = follower.change(1, learner(4));
    assert_eq!(out.rejections(), [&Rejection::NotLeader { leader: None }]);
    assert!(matches!(
        node.change(1, elsewhere).rejections()[..],
        [Rejection::Change(ChangeError::AlreadyMember { .. })]
    ));
    assert_eq!(node.status().last.index, 2, "nothing was appended");
}
