//! The status of a node.

use super::{Malformed, id_from_wire, id_to_wire};
use crate::generated::v1;
use crate::{MemberStatus, NodeStatus};

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
        members: status.members.into_iter().map(member_from_wire).collect(),
        failure: status.failure,
        waiting_for: status.waiting_for,
        version: status.version,
        pid: status.pid,
        sync_micros_p50: status.sync_micros_p50,
        sync_micros_p99: status.sync_micros_p99,
    })
}

fn member_to_wire(member: MemberStatus) -> v1::MemberStatus {
    let MemberStatus { node, address, kind, matched, silent_for_ms } = member;
    v1::MemberStatus { node, address, kind, matched, silent_for_ms }
}

fn member_from_wire(member: v1::MemberStatus) -> MemberStatus {
    let v1::MemberStatus { node, address, kind, matched, silent_for_ms } = member;
    MemberStatus { node, address, kind, matched, silent_for_ms }
}
