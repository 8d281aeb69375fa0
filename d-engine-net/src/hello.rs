//! The facts that two peers compare before they talk.

use crate::PROTOCOL_VERSIONS;

/// Who a node is, and what it must agree on with every member of its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Oldest protocol version that it speaks.
    pub protocol_min: u32,
    /// Newest protocol version that it speaks.
    pub protocol_max: u32,
    /// The newest command, entry and snapshot versions that it understands.
    pub feature_level: u32,
    /// Id of its cluster; 0: belongs to none yet, which is compatible with all.
    pub cluster: u128,
    /// Raft group; 0 for now.
    pub group: u64,
    /// Its node id.
    pub node: u64,
    /// Id of its data directory.
    pub incarnation: u128,
    /// Lower bound of election timeouts, in milliseconds.
    pub election_timeout_min_ms: u64,
    /// Assumed bound of the difference between two clocks' rates, in parts per million.
    pub clock_drift_ppm: u32,
    /// Where it is reached, as `host:port`; empty: nowhere.
    pub address: String,
    /// The operator has set the address for others to use: it counts more than the one in the membership.
    pub is_advertised: bool,
}

impl Hello {
    /// The facts of a node that belongs to no cluster yet, with this build's protocol versions and zeros elsewhere.
    pub fn new(node: u64, incarnation: u128) -> Self {
        Self {
            protocol_min: *PROTOCOL_VERSIONS.start(),
            protocol_max: *PROTOCOL_VERSIONS.end(),
            feature_level: 0,
            cluster: 0,
            group: 0,
            node,
            incarnation,
            election_timeout_min_ms: 0,
            clock_drift_ppm: 0,
            address: String::new(),
            is_advertised: false,
        }
    }

    /// Why a node with `local` facts must not talk to one with these, in plain words.
    pub(crate) fn objection(&self, local: &Self) -> Option<String> {
        let remote = self;
        let (here, there) = (local.node, remote.node);
        if remote.node == 0 {
            return Some("the peer's node id is 0; ids begin at 1".to_owned());
        }
        if remote.node == local.node && remote.incarnation == local.incarnation {
            return Some(format!("node {here} reached itself; each peer needs the address of another node"));
        }
        if remote.node == local.node {
            return Some(format!(
                "two nodes claim the id {here}: data directories {:032x} and {:032x}; give each node its own id",
                local.incarnation, remote.incarnation
            ));
        }
        if remote.cluster != 0 && local.cluster != 0 && remote.cluster != local.cluster {
            return Some(format!(
                "node {there} belongs to cluster {:032x}, node {here} to cluster {:032x}",
                remote.cluster, local.cluster
            ));
        }
        if remote.group != local.group {
            return Some(format!("node {there} is in group {}, node {here} in group {}", remote.group, local.group));
        }
        if remote.protocol_max < local.protocol_min || local.protocol_max < remote.protocol_min {
            return Some(format!(
                "node {there} speaks protocol versions {} to {}, node {here} {} to {}; upgrade the older one",
                remote.protocol_min, remote.protocol_max, local.protocol_min, local.protocol_max
            ));
        }
        if remote.election_timeout_min_ms != local.election_timeout_min_ms {
            return Some(format!(
                "election_timeout_min is {} ms on node {there} and {} ms on node {here}; it must be equal on all members",
                remote.election_timeout_min_ms, local.election_timeout_min_ms
            ));
        }
        if remote.clock_drift_ppm != local.clock_drift_ppm {
            return Some(format!(
                "clock_drift_ppm is {} on node {there} and {} on node {here}; it must be equal on all members",
                remote.clock_drift_ppm, local.clock_drift_ppm
            ));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(node: u64) -> Hello {
        Hello { cluster: 7, election_timeout_min_ms: 300, clock_drift_ppm: 500, ..Hello::new(node, u128::from(node)) }
    }

    #[test]
    fn equal_facts_are_compatible_and_an_unformed_node_with_all() {
        assert_eq!(hello(2).objection(&hello(1)), None);
        assert_eq!(Hello { cluster: 0, ..hello(2) }.objection(&hello(1)), None);
        assert_eq!(hello(2).objection(&Hello { cluster: 0, ..hello(1) }), None);
    }

    #[test]
    fn every_refusal_names_its_cause() {
        let refusals = [
            (Hello { node: 0, ..hello(2) }, "id is 0"),
            (hello(1), "reached itself"),
            (Hello { incarnation: 9, ..hello(1) }, "two nodes claim the id 1"),
            (Hello { cluster: 8, ..hello(2) }, "belongs to cluster"),
            (Hello { group: 1, ..hello(2) }, "group 1"),
            (Hello { protocol_min: 5, protocol_max: 6, ..hello(2) }, "versions 5 to 6"),
            (Hello { election_timeout_min_ms: 200, ..hello(2) }, "200 ms on node 2 and 300 ms on node 1"),
            (Hello { clock_drift_ppm: 1, ..hello(2) }, "clock_drift_ppm is 1 on node 2"),
        ];
        for (remote, text) in refusals {
            let why = remote.objection(&hello(1)).unwrap();
            assert!(why.contains(text), "{why}");
        }
    }
}
