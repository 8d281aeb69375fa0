//! Which faults come, in which order: decided by a seed alone.

use std::time::Duration;

use d_engine_raft::NodeId;

/// One fault, from its beginning to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fault {
    /// What happens.
    pub kind: FaultKind,
    /// For how long, where it has an end.
    pub lasts: Duration,
}

/// What may happen to a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultKind {
    /// The node is killed, and started at the end.
    Kill(NodeId),
    /// All nodes are killed, and started at the end.
    KillAll,
    /// The node reaches nobody, and nobody it.
    Isolate(NodeId),
    /// Nobody hears the node.
    Mute(NodeId),
    /// The node hears nobody.
    Deaf(NodeId),
    /// Messages are lost and delayed.
    Weather {
        /// So many of a hundred are lost.
        loss_percent: u8,
        /// Each other one takes so long at most.
        delay_max: Duration,
    },
    /// The node makes a snapshot.
    Snapshot(NodeId),
    /// Leadership is asked to move to the node.
    Transfer(NodeId),
    /// The node loses its directory, and an empty one takes its place.
    Wipe(NodeId),
}

/// The first `count` faults of a seed, for nodes of these ids. Each kind comes once in nine.
pub fn schedule(seed: u64, nodes: &[NodeId], count: usize) -> Vec<Fault> {
    let mut random = Random::new([seed, 0, 0, 0]);
    let mut bag = Vec::new();
    let mut faults = Vec::with_capacity(count);
    while faults.len() < count && !nodes.is_empty() {
        if bag.is_empty() {
            bag = (0..9).collect();
        }
        let kind: u8 = bag.swap_remove(random.place(bag.len()));
        let node = nodes[random.place(nodes.len())];
        let kind = match kind {
            0 => FaultKind::Kill(node),
            1 => FaultKind::KillAll,
            2 => FaultKind::Isolate(node),
            3 => FaultKind::Mute(node),
            4 => FaultKind::Deaf(node),
            5 => {
                let delay_max = Duration::from_millis(random.below(60));
                FaultKind::Weather { loss_percent: random.below(30) as u8, delay_max }
            }
            6 => FaultKind::Snapshot(node),
            7 => FaultKind::Transfer(node),
            _ => FaultKind::Wipe(node),
        };
        faults.push(Fault { kind, lasts: Duration::from_millis(100 + random.below(1400)) });
    }
    faults
}

/// Numbers that follow from a seed (SplitMix64).
pub(super) struct Random(u64);

impl Random {
    /// The parts of the seed, none of which is lost.
    pub(super) fn new(parts: [u64; 4]) -> Self {
        let mut random = Self(0);
        for part in parts {
            random.0 = random.next() ^ part;
        }
        random
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not zero. The bias does not matter here.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn place(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }
}
