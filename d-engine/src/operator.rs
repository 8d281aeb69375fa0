//! What an operator asks of the cluster through any of its nodes: members come, go and are replaced, leadership moves.
//!
//! The driver decides whether a change may be made. Here is what it cannot know: who answers at an address, and whether the
//! voters that would be left answer at all.

use std::sync::Arc;
use std::time::Duration;

use d_engine_net::{ClientError, MembershipError, NodeStatus, Operated, Operation, Reason, Result};
use d_engine_raft::{Change, ChangeError, NodeId, Rejection, Status};
use tokio::time::Instant;

use crate::inbox::Refusal;
use crate::shared::{Attempt, Route, Shared, refused, rejected};

/// A new member answers within so long.
#[cfg(feature = "server")]
const PROBE: Duration = Duration::from_secs(2);
/// Between two looks whether a learner has caught up.
const LOOK: Duration = Duration::from_millis(50);

/// Who is at an address, and may become a member.
struct Candidate {
    incarnation: u128,
}

impl Shared {
    /// Does what an operator asks for; passes it on, once, if another node leads.
    pub(crate) async fn operate(self: &Arc<Self>, operation: Operation, forwarded: bool) -> Result<Operated> {
        if operation == Operation::MakeSnapshot {
            return self.snapshot().await.map(|at| Operated::new(at.index));
        }
        let deadline = self.deadline();
        // A leader that was just elected has not heard everybody yet.
        let heard_by = deadline.min(Instant::now() + self.silence_max());
        loop {
            match self.published.leader() {
                Some(leader) if leader != self.id() && !forwarded => {
                    if let Attempt::Done(done) = self.pass_on(leader, &operation, deadline).await? {
                        return Ok(done);
                    }
                }
                None if !forwarded && self.published.failure().is_none() => {}
                _ => match self.operate_here(&operation, deadline).await {
                    Ok(Attempt::Done(done)) => return Ok(done),
                    Ok(Attempt::NotLeader) if forwarded => return Err(self.not_leader()),
                    Ok(Attempt::NotLeader) => {}
                    Err(error) if is_passing(&error) && Instant::now() + LOOK < deadline => {}
                    Err(error) if is_quorum_lost(&error) && Instant::now() < heard_by => {}
                    Err(error) => return Err(error),
                },
            }
            self.wait_for_leader(deadline).await?;
        }
    }

    async fn pass_on(&self, leader: NodeId, operation: &Operation, deadline: Instant) -> Result<Attempt<Operated>> {
        let answer = match &self.route {
            Route::Nowhere => return Err(self.not_leader()),
            Route::InProcess(router) => match router.reach(self.id(), leader) {
                Some(leader) => Box::pin(leader.operate(operation.clone(), true)).await,
                None => return Ok(Attempt::NotLeader),
            },
            #[cfg(feature = "server")]
            Route::Network(network) => match (network.get(), self.published.address_of(leader)) {
                (Some(network), Some(address)) => network.operate(leader, address, operation.clone(), deadline).await,
                _ => return Ok(Attempt::NotLeader),
            },
        };
        let _ = deadline;
        match answer {
            Ok(done) => Ok(Attempt::Done(done)),
            // Certainly without effect there: the next leader may be asked.
            Err(ClientError::NotLeader { .. } | ClientError::Unavailable { .. } | ClientError::ShuttingDown) => {
                Ok(Attempt::NotLeader)
            }
            Err(error) => Err(error),
        }
    }

    async fn operate_here(self: &Arc<Self>, operation: &Operation, deadline: Instant) -> Result<Attempt<Operated>> {
        let status = self.published.status();
        // Only a leader knows who answers. One that has failed says so below.
        if status.leader != Some(status.node) && status.failure.is_none() {
            return Ok(Attempt::NotLeader);
        }
        match operation.clone() {
            Operation::AddLearner { node, address, promote } => {
                let Candidate { incarnation } = self.probe(node, &address, &status, None).await?;
                let done = self.change(Change::AddLearner { node, incarnation, address }, deadline).await?;
                self.follow_learner(&done, promote, node, incarnation);
                Ok(done)
            }
            Operation::Promote { node } => self.change(Change::Promote { node }, deadline).await,
            Operation::Remove { node } => {
                check_quorum_without(node, &status, self.silence_max())?;
                self.change(Change::Remove { node }, deadline).await
            }
            Operation::Replace { old, node, address, promote } => {
                let Candidate { incarnation } = self.probe(node, &address, &status, Some(old)).await?;
                let replace = Change::Replace { old, node, incarnation, address };
                if !replace.is_done_in(&status.membership) {
                    check_quorum_without(old, &status, self.silence_max())?;
                }
                let done = self.change(replace, deadline).await?;
                self.follow_learner(&done, promote, node, incarnation);
                Ok(done)
            }
            Operation::Move { node, address } => self.change(Change::SetAddress { node, address }, deadline).await,
            Operation::Transfer { to } => self.transfer(to, deadline).await,
            other => {
                let why = format!("this node does not know the operation {other:?}");
                Err(Reason::Unsupported { why }.into())
            }
        }
    }

    /// A voter that has been silent for longer does not count as one that answers.
    fn silence_max(&self) -> Duration {
        Duration::from_millis(self.config.raft.election_timeout_max_ms)
    }

    async fn change(&self, change: Change, deadline: Instant) -> Result<Attempt<Operated>> {
        let node = subject(&change);
        let term = self.published.status().term;
        let answer = self.inbox_open()?.change(change).map_err(refused)?;
        match tokio::time::timeout_at(deadline, answer).await {
            Ok(Ok(Ok(index))) => Ok(Attempt::Done(Operated::new(index))),
            Ok(Ok(Err(Refusal::Rejected(Rejection::NotLeader { .. })))) => Ok(Attempt::NotLeader),
            Ok(Ok(Err(Refusal::Rejected(Rejection::Change(ChangeError::LeaderIsNew))))) => Ok(Attempt::NotLeader),
            Ok(Ok(Err(Refusal::Rejected(Rejection::Change(ChangeError::NoChange { index }))))) => {
                self.done_already(index, term).await
            }
            Ok(Ok(Err(Refusal::Rejected(Rejection::Change(error))))) => Err(membership_error(node, error).into()),
            Ok(Ok(Err(Refusal::Rejected(rejection)))) => Err(rejected(rejection)),
            Ok(Ok(Err(Refusal::Unknown(why)))) => {
                tracing::warn!(why, "the fate of a membership change is not known");
                Err(ClientError::Unknown)
            }
            // Taken in and not answered: it may be in the log.
            Ok(Ok(Err(Refusal::Stopping)) | Err(_)) | Err(_) => Err(ClientError::Unknown),
        }
    }

    /// The membership of entry `index` was as asked for when this node led in `term`, or an earlier one. A leader that has
    /// been deposed without knowing says that too: only a round in the same term proves that no other leader has changed it.
    async fn done_already(&self, index: u64, term: u64) -> Result<Attempt<Operated>> {
        self.confirm_read(false).await?;
        let status = self.published.status();
        let has_led = status.leader == Some(status.node) && status.term == term;
        Ok(if has_led { Attempt::Done(Operated::new(index)) } else { Attempt::NotLeader })
    }

    /// Hands leadership over to `to`, if this node leads.
    pub(crate) async fn transfer(&self, to: NodeId, deadline: Instant) -> Result<Attempt<Operated>> {
        let answer = self.inbox.transfer(to).map_err(refused)?;
        match tokio::time::timeout_at(deadline, answer).await {
            Ok(Ok(Ok(()))) => Ok(Attempt::Done(Operated::default())),
            Ok(Ok(Err(Refusal::Rejected(Rejection::NotLeader { .. })))) => Ok(Attempt::NotLeader),
            Ok(Ok(Err(Refusal::Rejected(Rejection::NoTransfer { to, why })))) => {
                Err(MembershipError::NotTransferred { node: to, why }.into())
            }
            Ok(Ok(Err(Refusal::Rejected(rejection)))) => Err(rejected(rejection)),
            Ok(Ok(Err(Refusal::Unknown(_) | Refusal::Stopping)) | Err(_)) | Err(_) => Err(ClientError::Unknown),
        }
    }

    /// Asks who is at an address, and whether that node may become a member; `leaving` is the one whose place it takes.
    async fn probe(
        &self,
        node: NodeId,
        address: &str,
        status: &Status,
        leaving: Option<NodeId>,
    ) -> Result<Candidate, MembershipError> {
        let unreachable = |why: String| MembershipError::Unreachable { node, address: address.to_owned(), why };
        let found = self.ask_status(node, address).await.map_err(unreachable)?;
        if found.node != node {
            return Err(MembershipError::OtherNode { node, address: address.to_owned(), found: found.node });
        }
        let ours = status.identity.cluster;
        if found.cluster != 0 && found.cluster != ours {
            return Err(MembershipError::OtherCluster {
                node,
                address: address.to_owned(),
                theirs: format!("{:032x}", found.cluster),
                ours: format!("{ours:032x}"),
            });
        }
        let member = status.membership.member(node).filter(|_| leaving != Some(node));
        match member {
            Some(member) if member.incarnation != found.incarnation => Err(MembershipError::OtherDirectory { node }),
            // A member that is as asked for is for the driver to see: it knows what has committed.
            _ => Ok(Candidate { incarnation: found.incarnation }),
        }
    }

    /// What the node at an address says of itself.
    pub(crate) async fn ask_status(&self, node: NodeId, address: &str) -> Result<NodeStatus, String> {
        match &self.route {
            Route::Nowhere => Err("this node has no network".into()),
            Route::InProcess(router) => {
                // Nodes of one process are found by their id.
                let _ = address;
                let reached = router.reach(self.id(), node);
                reached.map(|shared| shared.status()).ok_or_else(|| "it does not run in this process".into())
            }
            #[cfg(feature = "server")]
            Route::Network(_) => {
                let connection = d_engine_net::Connection::new(address);
                connection.status(Instant::now() + PROBE).await.map_err(|error| match error {
                    ClientError::Unavailable { why } => why,
                    other => other.to_string(),
                })
            }
        }
    }

    /// Lets a learner vote once it has caught up, as long as this node leads. Asked for again, it goes on as before.
    fn follow_learner(self: &Arc<Self>, added: &Attempt<Operated>, wanted: bool, node: NodeId, incarnation: u128) {
        if !wanted || !matches!(added, Attempt::Done(_)) || !self.begin_to_follow(node, incarnation) {
            return;
        }
        let shared = Arc::downgrade(self);
        self.own(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                let Some(shared) = shared.upgrade().filter(|shared| shared.is_open()) else { return };
                if !shared.goes_on_with_learner(node, incarnation).await {
                    return shared.cease_to_follow(node, incarnation);
                }
            }
        });
    }

    /// Promotes a learner if it has caught up; false: there is nothing left to wait for.
    async fn goes_on_with_learner(self: &Arc<Self>, node: NodeId, incarnation: u128) -> bool {
        let status = self.published.status();
        let member = status.membership.member(node).filter(|member| member.incarnation == incarnation);
        let is_learner = member.is_some() && !status.membership.is_voter(node);
        if !is_learner || status.leader != Some(status.node) {
            if is_learner {
                tracing::warn!(node, "this node leads no more; promote the learner by hand when it has caught up");
            }
            return false;
        }
        if !status.peers.iter().any(|peer| peer.node == node && peer.replicating) {
            return true;
        }
        match self.change(Change::Promote { node }, self.deadline()).await {
            Ok(Attempt::Done(done)) => {
                tracing::info!(node, index = done.index, "the learner has caught up and votes now");
                false
            }
            Ok(Attempt::NotLeader) => true,
            Err(ClientError::Busy | ClientError::Unknown | ClientError::Unavailable { .. }) => true,
            Err(error) if is_passing(&error) || is_not_caught_up(&error) => true,
            Err(error) => {
                tracing::warn!(node, %error, "the learner is not promoted");
                false
            }
        }
    }

    /// The voter that takes over best when this node stops leading; `None`: it does not lead, or nobody can.
    pub(crate) fn successor(&self) -> Option<NodeId> {
        let status = self.published.status();
        let silence = self.silence_max();
        let answers = |silent: Option<Duration>| silent.is_some_and(|time| time <= silence);
        let peers = status.peers.iter().filter(|peer| {
            peer.replicating && answers(peer.silent_for) && status.membership.voters().any(|node| node == peer.node)
        });
        let best = peers.max_by_key(|peer| peer.matched)?;
        (status.leader == Some(status.node)).then_some(best.node)
    }
}

/// The node that a change is about, for its errors.
fn subject(change: &Change) -> NodeId {
    match change {
        Change::AddLearner { node, .. } | Change::Promote { node } | Change::Remove { node } => *node,
        Change::Replace { old, .. } => *old,
        Change::SetAddress { node, .. } => *node,
        _ => 0,
    }
}

fn membership_error(node: NodeId, error: ChangeError) -> MembershipError {
    match error {
        ChangeError::InProgress { index } => MembershipError::InProgress { index },
        ChangeError::BaseMoved { found, .. } => MembershipError::InProgress { index: found },
        ChangeError::UnknownMember { node } => MembershipError::UnknownMember { node },
        ChangeError::AlreadyMember { node } => MembershipError::AlreadyMember { node },
        ChangeError::NoVoters => MembershipError::LastVoter { node },
        ChangeError::NotCaughtUp { node, matched, last } => MembershipError::NotCaughtUp { node, matched, last },
        ChangeError::TooOld { node, offers, needs } => {
            MembershipError::TooOld { node, offers: offers.into(), needs: needs.into() }
        }
        // A leader that is new is waited for before, and what has been done already is answered.
        _ => MembershipError::NoChange,
    }
}

/// Whether a refusal ends by itself.
fn is_passing(error: &ClientError) -> bool {
    matches!(error, ClientError::Rejected { why: Reason::Membership(MembershipError::InProgress { .. }) })
}

fn is_quorum_lost(error: &ClientError) -> bool {
    matches!(error, ClientError::Rejected { why: Reason::Membership(MembershipError::QuorumLost { .. }) })
}

fn is_not_caught_up(error: &ClientError) -> bool {
    matches!(error, ClientError::Rejected { why: Reason::Membership(MembershipError::NotCaughtUp { .. }) })
}

/// Refuses to take a voter away if those that are left could not decide anything.
fn check_quorum_without(node: NodeId, status: &Status, silence_max: Duration) -> Result<(), MembershipError> {
    if !status.membership.is_voter(node) {
        return Ok(());
    }
    let left: Vec<_> = status.membership.voters().filter(|voter| *voter != node).collect();
    let answers = |voter: NodeId| {
        let peer = status.peers.iter().find(|peer| peer.node == voter);
        voter == status.node || peer.and_then(|peer| peer.silent_for).is_some_and(|time| time <= silence_max)
    };
    let answering = left.iter().filter(|voter| answers(**voter)).count() as u64;
    let (voters, needed) = (left.len() as u64, left.len() as u64 / 2 + 1);
    match voters {
        0 => Err(MembershipError::LastVoter { node }),
        _ if answering < needed => Err(MembershipError::QuorumLost { node, voters, answering, needed }),
        _ => Ok(()),
    }
}
