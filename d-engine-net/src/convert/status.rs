//! The status of a node.

use super::{Malformed, id_from_wire, id_to_wire};
use crate::generated::v1;
use crate::{MemberStatus, NodeStatus, TransferProgress};

pub(crate) fn status_to_wire(status: NodeStatus) -> v1::NodeStatus {
    v1::NodeStatus {
        node: status.node,
        cluster: id_to_wire(status.cluster),
        incarnation: id_to_wire(status.incarnation),
        role: status.role,
        term: status.term,
        leader: status.leader,
        commit: status.commit,
        applied: status.applied,
        persisted: status.persisted,
        last: status.last,
        members: status.members.into_iter().map(member_to_wire).collect(),
        failure: status.failure,
        waiting_for: status.waiting_for,
        version: status.version,
        pid: status.pid,
        sync_micros_p50: status.sync_micros_p50,
        sync_micros_p99: status.sync_micros_p99,
        purged: status.purged,
        snapshot: status.snapshot,
        receiving: status.receiving.map(progress_to_wire),
    }
}

pub(crate) fn status_from_wire(status: v1::NodeStatus) -> Result<NodeStatus, Malformed> {
    Ok(NodeStatus {
        node: status.node,
        cluster: id_from_wire(&status.cluster, "the cluster of a status")?,
        incarnation: id_from_wire(&status.incarnation, "the incarnation of a status")?,
        role: status.role,
        term: status.term,
        leader: status.leader,
        commit: status.commit,
        applied: status.applied,
        persisted: status.persisted,
        last: status.last,
        members: status.members.into_iter().map(member_from_wire).collect::<Result<_, _>>()?,
        failure: status.failure,
        waiting_for: status.waiting_for,
        version: status.version,
        pid: status.pid,
        sync_micros_p50: status.sync_micros_p50,
        sync_micros_p99: status.sync_micros_p99,
        purged: status.purged,
        snapshot: status.snapshot,
        receiving: status.receiving.map(progress_from_wire),
    })
}

fn member_to_wire(member: MemberStatus) -> v1::MemberStatus {
    let MemberStatus { node, address, kind, matched, silent_for_ms, incarnation, snapshot } = member;
    let (incarnation, snapshot) = (id_to_wire(incarnation), snapshot.map(progress_to_wire));
    v1::MemberStatus { node, address, kind, matched, silent_for_ms, incarnation, snapshot }
}

fn member_from_wire(member: v1::MemberStatus) -> Result<MemberStatus, Malformed> {
    let v1::MemberStatus { node, address, kind, matched, silent_for_ms, incarnation, snapshot } = member;
    // A node of an older version does not say it.
    let incarnation = match &incarnation[..] {
        [] => 0,
        bytes => id_from_wire(bytes, "the incarnation of a member")?,
    };
    let snapshot = snapshot.map(progress_from_wire);
    Ok(MemberStatus { node, address, kind, matched, silent_for_ms, incarnation, snapshot })
}

fn progress_to_wire(progress: TransferProgress) -> v1::TransferProgress {
    v1::TransferProgress { done: progress.done, total: progress.total }
}

fn progress_from_wire(progress: v1::TransferProgress) -> TransferProgress {
    TransferProgress { done: progress.done, total: progress.total }
}
