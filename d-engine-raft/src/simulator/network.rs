//! Links between nodes: which are cut, and how long a message takes.

use crate::NodeId;

/// Nodes of a world, at most.
pub const MAX_NODES: usize = 9;

/// The state of every one-way link.
#[derive(Debug, Clone)]
pub(super) struct Network {
    /// Bit `to` of `cut[from]`: messages from `from` to `to` are lost.
    cut: [u16; MAX_NODES + 1],
    /// When the last message of a link arrives: links that keep order deliver nothing earlier.
    latest: [[u64; MAX_NODES + 1]; MAX_NODES + 1],
}

impl Network {
    pub(super) fn new() -> Self {
        Self { cut: [0; MAX_NODES + 1], latest: [[0; MAX_NODES + 1]; MAX_NODES + 1] }
    }

    pub(super) fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cut[from as usize] & (1 << to) != 0
    }

    /// Cuts the link from `from` to `to`, in this direction only.
    pub(super) fn cut(&mut self, from: NodeId, to: NodeId) {
        self.cut[from as usize] |= 1 << to;
    }

    /// Restores the link from `from` to `to`, in this direction only.
    pub(super) fn restore(&mut self, from: NodeId, to: NodeId) {
        self.cut[from as usize] &= !(1 << to);
    }

    pub(super) fn heal(&mut self) {
        self.cut = [0; MAX_NODES + 1];
    }

    /// Cuts both directions between the nodes of `side` and the others; bits are node ids.
    pub(super) fn split(&mut self, side: u16) {
        for from in 1..=MAX_NODES {
            let other = if side & (1 << from) != 0 { !side } else { side };
            self.cut[from] |= other;
        }
    }

    /// Two groups that only `bridge` connects.
    pub(super) fn bridge(&mut self, side: u16, bridge: NodeId) {
        self.split(side);
        self.cut[bridge as usize] = 0;
        for from in 1..=MAX_NODES {
            self.cut[from] &= !(1 << bridge);
        }
    }

    /// When a message sent now arrives, on a link that keeps order, if it would travel until `at`.
    pub(super) fn in_order(&mut self, from: NodeId, to: NodeId, at: u64) -> u64 {
        let latest = &mut self.latest[from as usize][to as usize];
        *latest = at.max(*latest + 1);
        *latest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_cuts_both_directions_between_the_sides_only() {
        let mut network = Network::new();
        network.split(0b0110);
        assert!(network.is_cut(1, 3) && network.is_cut(3, 1) && !network.is_cut(1, 2) && !network.is_cut(3, 4));
        network.heal();
        assert!(!network.is_cut(1, 3));
    }

    #[test]
    fn a_bridge_reaches_both_sides() {
        let mut network = Network::new();
        network.bridge(0b0110, 3);
        assert!(network.is_cut(1, 4) && !network.is_cut(1, 3) && !network.is_cut(3, 4) && !network.is_cut(4, 3));
    }

    #[test]
    fn an_ordered_link_delivers_nothing_before_what_was_sent_earlier() {
        let mut network = Network::new();
        assert_eq!(network.in_order(1, 2, 50), 50);
        assert_eq!(network.in_order(1, 2, 20), 51);
        assert_eq!(network.in_order(2, 1, 20), 20);
    }
}
