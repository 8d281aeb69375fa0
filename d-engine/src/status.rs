//! What a node tells about itself.

use d_engine_core::{Member, MemberKind};
use d_engine_net::{MemberStatus, NodeStatus, TransferProgress};
use d_engine_raft::{Role, Status};

use crate::clock::milliseconds;
use crate::shared::Shared;

impl Shared {
    pub(crate) fn status(&self) -> NodeStatus {
        let status = self.published.status();
        // What the apply thread has done, the driver may not have heard yet.
        let applied = status.applied.max(self.applied());
        let syncs = self.latencies.percentiles();
        let micros = |time: std::time::Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        NodeStatus {
            node: status.node,
            cluster: status.identity.cluster,
            incarnation: status.identity.incarnation,
            role: role(status.role).to_owned(),
            term: status.term,
            leader: status.leader,
            // What is applied is committed and in the log; the status may be a little older than an answer.
            commit: status.commit.max(applied),
            applied,
            persisted: status.persisted,
            last: status.last.index.max(applied),
            members: status.membership.members.iter().map(|member| self.member_status(member, &status)).collect(),
            failure: match (status.failure.clone(), self.trouble()) {
                (Some(failure), Some(trouble)) => Some(format!("{failure}; {trouble}")),
                (failure, trouble) => failure.or(trouble),
            },
            waiting_for: status.waiting_for.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            sync_micros_p50: syncs.map(|(p50, _)| micros(p50)),
            sync_micros_p99: syncs.map(|(_, p99)| micros(p99)),
            purged: status.purged.index,
            snapshot: self.snapshots.newest().map(|record| record.at().index),
            receiving: self.snapshots.received().map(|(done, total)| TransferProgress { done, total }),
        }
    }

    fn member_status(&self, member: &Member, status: &Status) -> MemberStatus {
        let kind = match member.kind {
            MemberKind::Voter => "voter",
            MemberKind::Learner => "learner",
            MemberKind::Joining => "joining",
            MemberKind::Leaving => "leaving",
            MemberKind::Demoting => "demoting",
        };
        let peer = status.peers.iter().find(|peer| peer.node == member.node);
        MemberStatus {
            node: member.node,
            address: member.address.clone(),
            kind: kind.to_owned(),
            matched: peer.map(|peer| peer.matched),
            silent_for_ms: peer.and_then(|peer| peer.silent_for).map(milliseconds),
            incarnation: member.incarnation,
            snapshot: self.published.transfer_to(member.node),
        }
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Unformed => "unformed",
        Role::Follower => "follower",
        Role::PreCandidate => "pre-candidate",
        Role::Candidate => "candidate",
        Role::Leader => "leader",
        Role::Failed => "failed",
    }
}
