//! What an operator should know about how a node was started, once it is known which cluster it belongs to.

use std::net::IpAddr;

use d_engine::{NodeConfig, NodeStatus};

/// The term of the first leader of a cluster; the formation itself is term 1. A lone node that starts again is elected again,
/// in a later one.
const FIRST_TERM_LED: u64 = 2;

/// What the flags and files said, to be held against the membership.
#[derive(Debug)]
pub(super) struct Notes {
    node: u64,
    peers: Vec<(u64, String)>,
    listen: Option<String>,
    advertise: Option<String>,
}

impl Notes {
    pub(super) fn new(config: &NodeConfig) -> Self {
        Self {
            node: config.node.id,
            peers: config.cluster.peers.clone(),
            listen: config.node.listen.clone(),
            advertise: config.node.advertise.clone(),
        }
    }

    /// One line for each difference from what the membership has.
    pub(super) fn on(&self, status: &NodeStatus) -> Vec<String> {
        [self.peers_without_effect(status), self.moved(status)].into_iter().flatten().collect()
    }

    /// A line if this start has founded a cluster that nobody asked for, now that a leader is elected in `term`.
    pub(super) fn new_cluster(&self, status: &NodeStatus, term: u64) -> Option<String> {
        let alone = self.peers.is_empty() && status.members.len() == 1;
        (alone && term <= FIRST_TERM_LED).then(|| {
            format!(
                "note: node {} founds a NEW cluster of one, {:032x}, because its directory is empty and no --peers are \
                 given; a member of an existing cluster must not be started like this",
                self.node, status.cluster
            )
        })
    }

    fn peers_without_effect(&self, status: &NodeStatus) -> Option<String> {
        if self.peers.is_empty() {
            return None;
        }
        let mut differences = Vec::new();
        for member in &status.members {
            match self.peers.iter().find(|(node, _)| *node == member.node) {
                None => differences.push(format!("node {} is a member too", member.node)),
                Some((_, address)) if *address != member.address => {
                    differences.push(format!("node {} is at {}, not {address}", member.node, member.address));
                }
                Some(_) => {}
            }
        }
        let unknown = self.peers.iter().filter(|(node, _)| status.members.iter().all(|member| member.node != *node));
        differences.extend(unknown.map(|(node, _)| format!("node {node} is no member")));
        (!differences.is_empty()).then(|| {
            let differences = differences.join(", ");
            format!("note: --peers have no effect, because the cluster is formed already; in it {differences}")
        })
    }

    fn moved(&self, status: &NodeStatus) -> Option<String> {
        let known = &status.members.iter().find(|member| member.node == self.node)?.address;
        let told = self.advertise.as_ref().or(self.listen.as_ref())?;
        let same = match &self.advertise {
            Some(advertise) => advertise == known,
            None => may_be(known, told),
        };
        // Without an address the cluster was founded inside a program, where nobody looks for it.
        (!same && !known.is_empty()).then(|| {
            format!(
                "WARNING: the membership has node {} at {known}, but it is at {told} now: peers and clients will look for \
                 it at {known}",
                self.node
            )
        })
    }
}

/// Whether who dials `known` may reach `listen`: nothing is looked up, so a name may be any machine's.
fn may_be(known: &str, listen: &str) -> bool {
    match (known.rsplit_once(':'), listen.rsplit_once(':')) {
        (Some((host, port)), Some((_, listening))) if host.trim_matches(['[', ']']).parse::<IpAddr>().is_err() => {
            port == listening
        }
        _ => known == listen,
    }
}

#[cfg(test)]
mod tests {
    use d_engine::MemberStatus;

    use super::*;

    fn formed(members: &[(u64, &str)]) -> NodeStatus {
        let member = |(node, address): &(u64, &str)| MemberStatus {
            node: *node,
            address: (*address).to_owned(),
            ..MemberStatus::default()
        };
        NodeStatus { cluster: 0xabc, members: members.iter().map(member).collect(), ..NodeStatus::default() }
    }

    fn config(listen: &str) -> NodeConfig {
        NodeConfig::for_dir("x").listen(listen)
    }

    #[test]
    fn only_an_empty_directory_without_peers_founds_a_cluster_of_one() {
        let status = formed(&[(1, "10.0.0.1:9081")]);
        let config = config("10.0.0.1:9081");
        let notes = Notes::new(&config);
        let said = notes.new_cluster(&status, FIRST_TERM_LED).unwrap();
        assert!(said.contains("NEW cluster of one, 00000000000000000000000000000abc"), "{said}");
        assert!(notes.new_cluster(&status, FIRST_TERM_LED + 1).is_none(), "a later start");
        assert!(notes.new_cluster(&formed(&[(1, "a:1"), (2, "b:1")]), FIRST_TERM_LED).is_none());
        assert!(Notes::new(&config.peers([(1, "10.0.0.1:9081")])).new_cluster(&status, FIRST_TERM_LED).is_none());
    }

    #[test]
    fn peers_that_differ_from_the_membership_are_named() {
        let status = formed(&[(1, "a:1"), (2, "b:1"), (3, "c:1")]);
        let config = config("127.0.0.1:1").peers([(1, "a:1"), (2, "b:2"), (4, "d:1")]);
        let said = Notes::new(&config).on(&status);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(
            said[0].ends_with("node 2 is at b:1, not b:2, node 3 is a member too, node 4 is no member"),
            "{said:?}"
        );
    }

    #[test]
    fn an_address_that_nobody_will_look_at_is_a_warning() {
        let status = formed(&[(1, "10.0.0.1:9081")]);
        let warned = |config: NodeConfig, status| !Notes::new(&config).on(status).is_empty();
        assert!(!warned(config("10.0.0.1:9081"), &status));
        assert!(warned(config("10.0.0.1:9082"), &status));
        assert!(warned(config("10.0.0.1:9081").advertise("elsewhere:9081"), &status));
        assert!(!warned(config("0.0.0.0:9081").advertise("10.0.0.1:9081"), &status));
        let by_name = formed(&[(1, "node1:9081")]);
        assert!(!warned(config("10.0.0.1:9081"), &by_name));
        assert!(warned(config("10.0.0.1:9082"), &by_name));
        assert!(!warned(config("10.0.0.1:9081"), &formed(&[(1, "")])));
    }
}
