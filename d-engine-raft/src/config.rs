//! Settings of one replica's consensus.

use std::time::Duration;

use crate::NodeId;

/// Settings of one replica. All of them are local but `election_timeout_min`, which every member must share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// Address that peers and clients are told.
    pub address: String,
    /// Members to found a cluster with, this node included. Empty: a cluster of one. Ignored once formed.
    pub founders: Vec<(NodeId, String)>,
    /// Wait to be added by the leader of an existing cluster. Ignored once formed.
    pub join: bool,
    /// Election timeouts are drawn from `election_timeout_min..election_timeout_max`; the lower bound is also how long a
    /// voter protects a leader it has heard (§4.2.3).
    pub election_timeout_min: Duration,
    /// Upper bound of election timeouts, and how long a leader goes on without hearing from a quorum.
    pub election_timeout_max: Duration,
    /// Time between heartbeats of an idle leader.
    pub heartbeat_interval: Duration,
    /// Serve reads from a leader lease (§6.4.1): no round of messages, at the price of trusting clock rates.
    pub lease: bool,
    /// Newest feature level that this node understands.
    pub feature_level: u32,
    /// Assumed bound of the difference between two clocks' rates, in parts per million.
    pub clock_drift_ppm: u32,
    /// AppendEntries messages under way to one follower, at most.
    pub max_inflight_messages: usize,
    /// Bytes of entries under way to one follower, at most.
    pub max_inflight_bytes: usize,
    /// Bytes of entries in one message; a single larger entry still travels alone.
    pub max_message_bytes: usize,
    /// Bytes of entries that are not applied here yet, at most; beyond, proposals are refused as busy.
    pub max_unapplied_bytes: usize,
    /// Bytes of one command, at most.
    pub max_command_bytes: usize,
    /// Reads that wait for their index, at most; beyond, reads are refused as busy.
    pub max_pending_reads: usize,
    /// Entries kept in the log behind a snapshot, at most, for followers that still need them.
    pub max_entries_behind_snapshot: u64,
    /// Bytes that one read of entries which are no longer in memory may return.
    pub cold_read_bytes: usize,
    /// Bytes of recent entries kept in memory for followers and apply.
    pub tail_bytes: usize,
    /// The rule to break, for the tests of the tests.
    #[cfg(feature = "mutants")]
    pub mutant: crate::Mutant,
}

/// The newest feature level that this build understands.
pub const FEATURE_LEVEL: u32 = 1;
/// The feature level that every cluster begins with; its leader raises it once every member offers more.
pub(crate) const FIRST_FEATURE_LEVEL: u32 = 1;
/// Entries that may be with the state machine at once.
pub(crate) const MAX_APPLYING_ENTRIES: u64 = 1 << 14;
/// Entries that may be unapplied at a leader; their sizes are kept in memory.
pub(crate) const MAX_UNAPPLIED_ENTRIES: u64 = 1 << 16;

impl Config {
    /// Defaults for node `node`, reached at `address`.
    pub fn new(node: NodeId, address: impl Into<String>) -> Self {
        Self {
            node,
            address: address.into(),
            founders: Vec::new(),
            join: false,
            election_timeout_min: Duration::from_millis(500),
            election_timeout_max: Duration::from_millis(1000),
            heartbeat_interval: Duration::from_millis(100),
            lease: false,
            feature_level: FEATURE_LEVEL,
            clock_drift_ppm: 500,
            max_inflight_messages: 64,
            max_inflight_bytes: 16 << 20,
            max_message_bytes: 1 << 20,
            max_unapplied_bytes: 64 << 20,
            max_command_bytes: 4 << 20,
            max_pending_reads: 1 << 16,
            max_entries_behind_snapshot: 1 << 20,
            cold_read_bytes: 4 << 20,
            tail_bytes: 16 << 20,
            #[cfg(feature = "mutants")]
            mutant: crate::Mutant::None,
        }
    }

    /// Every contradiction between the settings.
    pub fn errors(&self) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        let (min, max, beat) = (self.election_timeout_min, self.election_timeout_max, self.heartbeat_interval);
        if self.node == 0 {
            errors.push(ConfigError::new("node.id", "must be 1 or more"));
        }
        if beat.is_zero() {
            errors.push(ConfigError::new("raft.heartbeat_interval_ms", "must be more than 0 ms"));
        }
        if min < beat * 3 {
            let why = format!("must be at least 3 heartbeats: {} ms < 3 × {} ms", min.as_millis(), beat.as_millis());
            errors.push(ConfigError::new("raft.election_timeout_min_ms", why));
        }
        if self.clock_drift_ppm > 400_000 {
            let why = format!("must be at most 400000: {} leaves no time for a lease", self.clock_drift_ppm);
            errors.push(ConfigError::new("raft.clock_drift_ppm", why));
        }
        if max <= min {
            let why =
                format!("must be more than election_timeout_min_ms: {} ms ≤ {} ms", max.as_millis(), min.as_millis());
            errors.push(ConfigError::new("raft.election_timeout_max_ms", why));
        }
        if self.max_inflight_messages == 0 || self.max_inflight_bytes == 0 || self.max_message_bytes == 0 {
            errors.push(ConfigError::new("raft.max_inflight_messages", "windows must be more than 0"));
        }
        if !self.founders.is_empty() && !self.founders.iter().any(|(node, _)| *node == self.node) {
            errors.push(ConfigError::new("cluster.peers", format!("must list this node, {}", self.node)));
        }
        errors
    }
}

/// One setting that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {why}")]
pub struct ConfigError {
    /// The key as it stands in the configuration file.
    pub key: String,
    /// What is wrong with it, with the values involved.
    pub why: String,
}

impl ConfigError {
    /// An error for the setting at `key`.
    pub fn new(key: impl Into<String>, why: impl Into<String>) -> Self {
        Self { key: key.into(), why: why.into() }
    }
}
