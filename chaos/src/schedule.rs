//! Which faults come, in which order: decided by the seed alone.

use std::fmt;

use fastrand::Rng;

use crate::network::Id;

/// Whom a fault hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// Whoever leads at that moment.
    Leader,
    Node(Id),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// kill -9, and a start later.
    Kill,
    /// kill -9 of all, and a start of all later.
    KillAll,
    /// SIGSTOP, and SIGCONT later.
    Pause,
    /// Nothing from or to other nodes.
    Isolate,
    /// Nothing to other nodes.
    Mute,
    /// Nothing from other nodes.
    Deaf,
    /// Nothing between it and the next one.
    Cut,
    /// Leadership is asked to move there.
    Transfer,
    /// It makes a snapshot.
    Snapshot,
    /// Its directory is lost, and it is replaced by an empty node of the same id.
    Replace,
    /// It is removed, added with an empty directory as a learner, and promoted.
    Readd,
    /// It is cut off, and the next one killed meanwhile.
    CutAndKill,
    /// It is cut off while the next one is paused.
    CutAndPause,
    /// The leader is killed, and the one elected in its place.
    KillSuccessor,
    /// The leader is cut off, and the one elected in its place paused.
    PauseSuccessor,
    /// It is killed while it makes a snapshot.
    KillInSnapshot,
    /// It is killed while leadership moves there.
    KillInTransfer,
    /// Its directory is lost, and it is killed while the empty one catches up.
    KillInReplace,
}

impl Kind {
    /// Whether a second fault begins before the first has ended.
    pub(crate) fn is_overlap(self) -> bool {
        OVERLAPS.contains(&self)
    }

    /// Whether directories are lost or members change.
    pub(crate) fn changes_members(self) -> bool {
        matches!(self, Self::Replace | Self::Readd | Self::KillInReplace)
    }
}

/// The kinds in which faults meet.
pub(crate) const OVERLAPS: [Kind; 7] = [
    Kind::CutAndKill,
    Kind::CutAndPause,
    Kind::KillSuccessor,
    Kind::PauseSuccessor,
    Kind::KillInSnapshot,
    Kind::KillInTransfer,
    Kind::KillInReplace,
];

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) target: Target,
    pub(crate) lasts_ms: u64,
    /// Quiet time afterwards.
    pub(crate) rest_ms: u64,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?} for {} ms", self.kind, self.target, self.lasts_ms)
    }
}

/// Every kind comes once in each round, in an order of its own.
pub(crate) const KINDS: [Kind; 22] = [
    Kind::Kill,
    Kind::Pause,
    Kind::Isolate,
    Kind::Mute,
    Kind::Deaf,
    Kind::Cut,
    Kind::Transfer,
    Kind::Snapshot,
    Kind::Kill,
    Kind::KillAll,
    Kind::Isolate,
    Kind::Replace,
    Kind::Transfer,
    Kind::Readd,
    Kind::Pause,
    Kind::CutAndKill,
    Kind::CutAndPause,
    Kind::KillSuccessor,
    Kind::PauseSuccessor,
    Kind::KillInSnapshot,
    Kind::KillInTransfer,
    Kind::KillInReplace,
];

/// The faults of one round.
pub(crate) fn round(rng: &mut Rng, nodes: u64) -> Vec<Fault> {
    let mut kinds = KINDS;
    rng.shuffle(&mut kinds);
    let fault = |kind: Kind| {
        let node = Target::Node(rng.u64(1..=nodes));
        let target = if rng.bool() { Target::Leader } else { node };
        // Only a node has somewhere to be moved to, replaced, or added again.
        let is_moved = kind.changes_members() || matches!(kind, Kind::Transfer | Kind::KillInTransfer);
        let target = if is_moved { node } else { target };
        Fault { kind, target, lasts_ms: rng.u64(200..1_800), rest_ms: rng.u64(200..900) }
    };
    kinds.map(fault).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_faults_again_and_every_kind_in_each_round() {
        let rounds = |seed| {
            let mut rng = Rng::with_seed(seed);
            [round(&mut rng, 3), round(&mut rng, 3)]
        };
        assert_eq!(rounds(7), rounds(7));
        assert_ne!(rounds(7), rounds(8));
        for kind in KINDS {
            assert!(rounds(7).iter().all(|round| round.iter().any(|fault| fault.kind == kind)));
        }
    }
}
