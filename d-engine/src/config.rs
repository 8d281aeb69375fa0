//! The configuration of one node: what may be set, the defaults, and what contradicts what.
//!
//! Reading it from a file, the environment and flags is [`load`](NodeConfig::load)'s business; nothing here does I/O.

mod compression;
mod load;
mod problem;
mod settings;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use d_engine_core::command::MAX_KEY_LEN;
use d_engine_net::{COMMAND_LEN_MAX, ENTRIES_LEN_MAX};
use d_engine_raft::NodeId;

pub use compression::Compression;
pub use load::{Explained, Origin};
pub use problem::{ConfigErrors, ConfigProblem, Place};

/// Settings of one node, in the sections of the configuration file.
///
/// Made in code ([`NodeConfig::new`] and the setters), or read from a file, the environment and flags
/// ([`NodeConfig::load`]).
///
/// ```
/// let config = d_engine::NodeConfig::new(1, "./n1")
///     .listen("10.0.0.1:9081")
///     .peers([(1, "10.0.0.1:9081"), (2, "10.0.0.2:9081"), (3, "10.0.0.3:9081")]);
/// config.check()?;
/// # Ok::<(), d_engine::ConfigErrors>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct NodeConfig {
    /// Who and where this node is.
    pub node: NodeSection,
    /// The cluster it founds.
    pub cluster: ClusterSection,
    /// Consensus.
    pub raft: RaftSection,
    /// What callers may ask for.
    pub limits: LimitsSection,
    /// The log.
    pub storage: StorageSection,
    /// Snapshots, which let the log be purged and bring a lagging replica up to date.
    pub snapshot: SnapshotSection,
}

/// Who and where this node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct NodeSection {
    /// Node id, unique in the cluster; 1 or more.
    pub id: NodeId,
    /// Directory of everything the node stores. A node built with stores of its own keeps only its snapshots there, in
    /// `snapshots`; with volatile storage not even these.
    pub data_dir: PathBuf,
    /// Address to serve on, as `ip:port`; none: no network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    /// Address that peers and clients are told, as `host:port`; none: the listen address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertise: Option<String>,
}

/// The cluster this node founds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ClusterSection {
    /// The founding members, this node included; ignored once the directory is formed. Empty: a cluster of one.
    #[serde(with = "settings::peer_map")]
    pub peers: Vec<(NodeId, String)>,
    /// A node of an existing cluster, as `host:port`, at which this one asks to be added while its directory is empty.
    /// Then it founds no cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub join: Option<String>,
    /// Lets storage that does not survive a power cut vote in a cluster of more than one node.
    pub allow_unsafe_voters: bool,
}

/// Consensus. All times are in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RaftSection {
    /// Lower bound of election timeouts; every member must have the same.
    pub election_timeout_min_ms: u64,
    /// Upper bound of election timeouts.
    pub election_timeout_max_ms: u64,
    /// Time between heartbeats of an idle leader.
    pub heartbeat_interval_ms: u64,
    /// Assumed bound of the difference between two clocks' rates, in parts per million; every member must have the same.
    pub clock_drift_ppm: u32,
    /// Lets this node, while it leads, answer reads that ask for it ([`ReadMode::Lease`](crate::ReadMode::Lease)) by its
    /// lease: without a round of messages, at the price of trusting that clocks differ by `clock_drift_ppm` at most and do
    /// not stop. Off by default; then such reads are answered as linearizable ones.
    pub lease_reads: bool,
    /// Messages under way to one follower, at most.
    pub max_inflight_messages: usize,
    /// Bytes of entries under way to one follower, at most.
    pub max_inflight_bytes: usize,
    /// Bytes of entries in one message.
    pub max_message_bytes: usize,
    /// Bytes of entries that are not applied yet, at most.
    pub max_unapplied_bytes: usize,
}

/// What callers may ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct LimitsSection {
    /// Bytes of one value.
    pub max_value_bytes: usize,
    /// Writes and reads under way, at most: from the call to its answer, also while no leader is known. Beyond, callers
    /// are told `Busy` at once.
    pub max_inflight_proposals: usize,
    /// Bytes of commands and queries of the same, at most.
    pub max_inflight_bytes: usize,
    /// Messages of peers that wait to be handled, at most; beyond, they are dropped, which Raft tolerates.
    pub max_waiting_messages: usize,
    /// Deadline of every call, in milliseconds.
    pub request_timeout_ms: u64,
}

/// The log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct StorageSection {
    /// Bytes of recent entries kept in memory for followers and apply.
    pub tail_bytes: usize,
    /// Bytes read from the log at once, where the entries are no longer in memory.
    pub read_chunk_bytes: usize,
    /// Bytes of the log's longest segment; purging frees whole segments.
    pub segment_bytes_max: u64,
}

/// Snapshots. One is built beside the node's work once the log has grown by any of the thresholds since the last one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SnapshotSection {
    /// Entries applied since the last snapshot.
    pub entries: u64,
    /// Bytes of entries applied since the last snapshot; never fewer than the last snapshot has, so that a large state is
    /// not written more often than the log.
    pub bytes: u64,
    /// Seconds since the last snapshot, if anything was applied; 0: time does not matter.
    pub interval_s: u64,
    /// How many snapshots are kept on disk.
    pub kept: usize,
    /// Entries that stay in the log behind a snapshot, at most, for replicas that still need them.
    pub max_entries_behind: u64,
    /// Bytes of a snapshot sent to one replica in a second, at most.
    pub transfer_bytes_per_s: u64,
    /// How snapshots are stored; heeded by the built-in key-value machine where the node opens it.
    pub compression: Compression,
}

impl Default for SnapshotSection {
    fn default() -> Self {
        Self {
            entries: 1_000_000,
            bytes: 256 << 20,
            interval_s: 0,
            kept: 2,
            max_entries_behind: 1 << 20,
            transfer_bytes_per_s: 32 << 20,
            compression: Compression::None,
        }
    }
}

impl Default for NodeSection {
    fn default() -> Self {
        Self { id: 1, data_dir: PathBuf::from("data"), listen: None, advertise: None }
    }
}

impl Default for RaftSection {
    fn default() -> Self {
        Self {
            election_timeout_min_ms: 500,
            election_timeout_max_ms: 1000,
            heartbeat_interval_ms: 100,
            clock_drift_ppm: 500,
            lease_reads: false,
            max_inflight_messages: 64,
            max_inflight_bytes: 16 << 20,
            max_message_bytes: 1 << 20,
            max_unapplied_bytes: 64 << 20,
        }
    }
}

impl Default for LimitsSection {
    fn default() -> Self {
        Self {
            max_value_bytes: 1 << 20,
            max_inflight_proposals: 1 << 16,
            max_inflight_bytes: 256 << 20,
            max_waiting_messages: 1 << 14,
            request_timeout_ms: 5000,
        }
    }
}

impl Default for StorageSection {
    fn default() -> Self {
        Self { tail_bytes: 16 << 20, read_chunk_bytes: 1 << 20, segment_bytes_max: 64 << 20 }
    }
}

/// Made in code.
impl NodeConfig {
    /// Defaults for node `id`, which stores under `data_dir` and has no network.
    pub fn new(id: NodeId, data_dir: impl Into<PathBuf>) -> Self {
        Self::default().id(id).data_dir(data_dir)
    }

    /// The embedded default: node 1, a cluster of one, no network.
    pub fn for_dir(data_dir: impl Into<PathBuf>) -> Self {
        Self::new(1, data_dir)
    }

    /// Sets `node.id`.
    #[must_use]
    pub fn id(mut self, id: NodeId) -> Self {
        self.node.id = id;
        self
    }

    /// Sets `node.data_dir`.
    #[must_use]
    pub fn data_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.node.data_dir = dir.into();
        self
    }

    /// Sets `node.listen`.
    #[must_use]
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.node.listen = Some(address.into());
        self
    }

    /// Sets `node.advertise`.
    #[must_use]
    pub fn advertise(mut self, address: impl Into<String>) -> Self {
        self.node.advertise = Some(address.into());
        self
    }

    /// Sets `cluster.peers`: the founding members, this node included.
    #[must_use]
    pub fn peers<A: Into<String>>(mut self, peers: impl IntoIterator<Item = (NodeId, A)>) -> Self {
        self.cluster.peers = peers.into_iter().map(|(node, address)| (node, address.into())).collect();
        self
    }

    /// Sets `cluster.join`: a node of the cluster that this one asks to be added to.
    #[must_use]
    pub fn join(mut self, address: impl Into<String>) -> Self {
        self.cluster.join = Some(address.into());
        self
    }

    /// Sets `cluster.allow_unsafe_voters`.
    #[must_use]
    pub fn allow_unsafe_voters(mut self, allow: bool) -> Self {
        self.cluster.allow_unsafe_voters = allow;
        self
    }

    /// Sets the bounds of election timeouts, in milliseconds.
    #[must_use]
    pub fn election_timeout_ms(mut self, min: u64, max: u64) -> Self {
        self.raft.election_timeout_min_ms = min;
        self.raft.election_timeout_max_ms = max;
        self
    }

    /// Sets `raft.heartbeat_interval_ms`.
    #[must_use]
    pub fn heartbeat_interval_ms(mut self, interval: u64) -> Self {
        self.raft.heartbeat_interval_ms = interval;
        self
    }

    /// Sets `raft.lease_reads`.
    #[must_use]
    pub fn lease_reads(mut self, offer: bool) -> Self {
        self.raft.lease_reads = offer;
        self
    }

    /// Sets `limits.request_timeout_ms`.
    #[must_use]
    pub fn request_timeout_ms(mut self, timeout: u64) -> Self {
        self.limits.request_timeout_ms = timeout;
        self
    }
}

/// Seen by the node.
impl NodeConfig {
    /// Every contradiction between the settings.
    ///
    /// # Errors
    /// All of them at once.
    pub fn check(&self) -> Result<(), ConfigErrors> {
        let problems: Vec<_> = self.problems().into_iter().map(|(key, why)| ConfigProblem::new(key, why)).collect();
        if problems.is_empty() { Ok(()) } else { Err(ConfigErrors::new(problems)) }
    }

    /// Deadline of every call.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.limits.request_timeout_ms)
    }

    /// Address that peers and clients are told; empty without a network.
    pub fn advertised(&self) -> String {
        self.node.advertise.clone().or_else(|| self.node.listen.clone()).unwrap_or_default()
    }

    /// The largest command that may be proposed: a compare-and-swap with two of the largest values.
    pub(crate) fn max_command_bytes(&self) -> usize {
        const FRAME: usize = 64;
        self.limits.max_value_bytes.saturating_mul(2).saturating_add(MAX_KEY_LEN + FRAME)
    }

    /// What consensus needs to know.
    pub(crate) fn raft_config(&self) -> d_engine_raft::Config {
        let raft = &self.raft;
        let mut config = d_engine_raft::Config::new(self.node.id, self.advertised());
        config.founders.clone_from(&self.cluster.peers);
        config.join = self.cluster.join.is_some();
        config.election_timeout_min = Duration::from_millis(raft.election_timeout_min_ms);
        config.election_timeout_max = Duration::from_millis(raft.election_timeout_max_ms);
        config.heartbeat_interval = Duration::from_millis(raft.heartbeat_interval_ms);
        config.clock_drift_ppm = raft.clock_drift_ppm;
        config.lease = raft.lease_reads;
        config.max_inflight_messages = raft.max_inflight_messages;
        config.max_inflight_bytes = raft.max_inflight_bytes;
        config.max_message_bytes = raft.max_message_bytes;
        config.max_unapplied_bytes = raft.max_unapplied_bytes;
        config.max_command_bytes = self.max_command_bytes();
        config.max_pending_reads = self.limits.max_inflight_proposals;
        config.tail_bytes = self.storage.tail_bytes;
        config.max_entries_behind_snapshot = self.snapshot.max_entries_behind;
        config
    }

    /// Every contradiction, as key and reason.
    fn problems(&self) -> Vec<(String, String)> {
        let mut problems: Vec<_> =
            self.raft_config().errors().into_iter().map(|error| (error.key, error.why)).collect();
        self.check_addresses(&mut problems);
        self.check_peers(&mut problems);
        let mut at_least_one = |key: &str, value: u64| {
            if value == 0 {
                problems.push((key.into(), "must be 1 or more".into()));
            }
        };
        at_least_one("limits.max_value_bytes", self.limits.max_value_bytes as u64);
        at_least_one("limits.max_inflight_proposals", self.limits.max_inflight_proposals as u64);
        at_least_one("limits.max_waiting_messages", self.limits.max_waiting_messages as u64);
        at_least_one("limits.request_timeout_ms", self.limits.request_timeout_ms);
        at_least_one("storage.read_chunk_bytes", self.storage.read_chunk_bytes as u64);
        at_least_one("snapshot.entries", self.snapshot.entries);
        at_least_one("snapshot.bytes", self.snapshot.bytes);
        at_least_one("snapshot.kept", self.snapshot.kept as u64);
        at_least_one("snapshot.transfer_bytes_per_s", self.snapshot.transfer_bytes_per_s);
        if self.max_command_bytes() > self.raft.max_unapplied_bytes {
            problems.push((
                "raft.max_unapplied_bytes".into(),
                format!(
                    "must hold the largest command, {} bytes for limits.max_value_bytes = {}: {} < {}",
                    self.max_command_bytes(),
                    self.limits.max_value_bytes,
                    self.raft.max_unapplied_bytes,
                    self.max_command_bytes()
                ),
            ));
        }
        if self.max_command_bytes() > self.limits.max_inflight_bytes {
            problems.push((
                "limits.max_inflight_bytes".into(),
                format!(
                    "must hold the largest command, {} bytes for limits.max_value_bytes = {}: {} < {}",
                    self.max_command_bytes(),
                    self.limits.max_value_bytes,
                    self.limits.max_inflight_bytes,
                    self.max_command_bytes()
                ),
            ));
        }
        if self.node.listen.is_some() {
            self.check_wire(&mut problems);
        }
        problems
    }

    /// What the wire cannot carry must not get into the log of a node that has peers or clients elsewhere.
    fn check_wire(&self, problems: &mut Vec<(String, String)>) {
        if self.max_command_bytes() > COMMAND_LEN_MAX {
            problems.push((
                "limits.max_value_bytes".into(),
                format!(
                    "is too large for the network: with limits.max_value_bytes = {} the largest command has {} bytes, and \
                     the wire carries {COMMAND_LEN_MAX}",
                    self.limits.max_value_bytes,
                    self.max_command_bytes()
                ),
            ));
        }
        if self.raft.max_message_bytes > ENTRIES_LEN_MAX {
            problems.push((
                "raft.max_message_bytes".into(),
                format!(
                    "is too large for the network: {} > {ENTRIES_LEN_MAX}, which is what one message carries",
                    self.raft.max_message_bytes
                ),
            ));
        }
    }

    fn check_addresses(&self, problems: &mut Vec<(String, String)>) {
        let node = &self.node;
        if let Some(listen) = &node.listen {
            match listen.parse::<SocketAddr>() {
                Ok(address) if address.ip().is_unspecified() && node.advertise.is_none() => problems.push((
                    "node.advertise".into(),
                    format!(
                        "is needed because node.listen is {listen}, which is an address of every machine: set the \
                         host:port under which peers reach this one"
                    ),
                )),
                Ok(_) => {}
                Err(_) => problems.push((
                    "node.listen".into(),
                    format!("\"{listen}\" is no address to listen on; write ip:port, such as 127.0.0.1:9081"),
                )),
            }
        }
        if let Some(advertise) = &node.advertise
            && let Err(why) = check_host_port(advertise)
        {
            problems.push(("node.advertise".into(), why));
        }
    }

    fn check_peers(&self, problems: &mut Vec<(String, String)>) {
        if let Some(address) = &self.cluster.join {
            if let Err(why) = check_host_port(address) {
                problems.push(("cluster.join".into(), why));
            }
            if !self.cluster.peers.is_empty() {
                let why = "cannot be set beside cluster.peers: a node either founds a cluster or joins one";
                problems.push(("cluster.join".into(), why.into()));
            }
        }
        let peers = &self.cluster.peers;
        for (place, (node, address)) in peers.iter().enumerate() {
            if *node == 0 {
                problems.push(("cluster.peers".into(), "node ids are 1 or more, found 0".into()));
            }
            if let Err(why) = check_host_port(address) {
                problems.push(("cluster.peers".into(), format!("node {node}: {why}")));
            }
            for (other, same) in &peers[..place] {
                if other == node {
                    problems.push(("cluster.peers".into(), format!("lists node {node} twice")));
                } else if same == address {
                    problems.push((
                        "cluster.peers".into(),
                        format!("nodes {other} and {node} have the same address, {address}"),
                    ));
                }
            }
        }
    }
}

/// Whether `address` is a `host:port` that others can dial.
fn check_host_port(address: &str) -> Result<(), String> {
    if let Ok(address) = address.parse::<SocketAddr>() {
        return if address.ip().is_unspecified() {
            Err(format!("{address} is an address of every machine; write the one under which this node is reached"))
        } else {
            Ok(())
        };
    }
    let good = address
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && !host.contains(':') && port.parse::<u16>().is_ok());
    if good { Ok(()) } else { Err(format!("\"{address}\" is no address; write host:port, such as node1:9081")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_have_no_contradictions() {
        NodeConfig::default().check().unwrap();
    }

    #[test]
    fn every_contradiction_is_named_with_its_values() {
        let config = NodeConfig::new(4, "x")
            .listen("0.0.0.0:9081")
            .election_timeout_ms(200, 200)
            .peers([(1, "a:1"), (2, "a:1"), (2, "nowhere")])
            .request_timeout_ms(0);
        let text = config.check().unwrap_err().to_string();
        for part in [
            "raft.election_timeout_min_ms must be at least 3 heartbeats: 200 ms < 3 × 100 ms",
            "raft.election_timeout_max_ms must be more than election_timeout_min_ms: 200 ms ≤ 200 ms",
            "node.advertise is needed because node.listen is 0.0.0.0:9081",
            "cluster.peers must list this node, 4",
            "nodes 1 and 2 have the same address, a:1",
            "lists node 2 twice",
            "\"nowhere\" is no address",
            "limits.request_timeout_ms must be 1 or more",
        ] {
            assert!(text.contains(part), "missing: {part}\n{text}");
        }
    }

    #[test]
    fn a_node_with_a_network_allows_nothing_that_the_wire_cannot_carry() {
        let mut config = NodeConfig::for_dir("x");
        config.limits.max_value_bytes = 8 << 20;
        config.raft.max_message_bytes = (32 << 20) + 1;
        config.check().unwrap();
        let text = config.clone().listen("127.0.0.1:9081").check().unwrap_err().to_string();
        for part in [
            "limits.max_value_bytes is too large for the network",
            "limits.max_value_bytes = 8388608 the largest command has 16842816 bytes, and the wire carries 16777216",
            "raft.max_message_bytes is too large for the network: 33554433 > 33554432",
        ] {
            assert!(text.contains(part), "missing: {part}\n{text}");
        }
        config.limits.max_value_bytes = 4 << 20;
        config.raft.max_message_bytes -= 1;
        config.listen("127.0.0.1:9081").check().unwrap();
    }

    #[test]
    fn the_largest_command_fits_the_bytes_under_way() {
        let mut config = NodeConfig::for_dir("x");
        config.limits.max_inflight_bytes = 1 << 20;
        let text = config.check().unwrap_err().to_string();
        assert!(text.contains("limits.max_inflight_bytes must hold the largest command"), "{text}");
    }

    #[test]
    fn an_unspecified_address_is_never_advertised() {
        let config = NodeConfig::for_dir("x").listen("0.0.0.0:9081").advertise("[::]:9081");
        assert!(config.check().unwrap_err().to_string().contains("an address of every machine"));
        let config = NodeConfig::for_dir("x").listen("0.0.0.0:9081").advertise("node1:9081");
        config.check().unwrap();
        assert_eq!(config.advertised(), "node1:9081");
    }

    #[test]
    fn a_configuration_survives_toml() {
        let config = NodeConfig::new(2, "x").listen("127.0.0.1:1").peers([(2, "127.0.0.1:1"), (3, "b:2")]);
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<NodeConfig>(&text).unwrap(), config);
    }
}
