//! Quorums: one piece of code decides votes, commits, read rounds and whether a leader is still connected.

use d_engine_core::Membership;

use crate::NodeId;

/// The largest value that a quorum of the configuration has reached; absent voters count as zero. A joint configuration
/// needs a majority of both halves (§4.3). Zero without voters.
pub fn quorum_value(membership: &Membership, value: impl Fn(NodeId) -> u64) -> u64 {
    let new = majority_value(membership.voters(), &value);
    if membership.is_joint() { new.min(majority_value(membership.old_voters(), &value)) } else { new }
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
