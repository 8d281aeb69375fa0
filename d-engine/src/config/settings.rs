//! Every key of the configuration with its meaning, and how a value from a file, the environment or a flag becomes a
//! setting.

use std::path::PathBuf;

use d_engine_raft::NodeId;

use super::{Compression, NodeConfig};

/// One key.
pub(super) struct Setting {
    /// `section.name`.
    pub(super) key: &'static str,
    /// What it means, in one line.
    pub(super) about: &'static str,
    /// Puts a value in.
    pub(super) set: fn(&mut NodeConfig, &Value) -> Result<(), String>,
    /// The present value as text.
    pub(super) show: fn(&NodeConfig) -> String,
}

/// A value before its meaning is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// From the environment or a flag: anything.
    Text(String),
    /// A string of the file.
    String(String),
    /// An integer of the file.
    Integer(String),
    /// A truth value of the file.
    Boolean(bool),
    /// A list of the file.
    List(Vec<Value>),
    /// A table of the file.
    Table(Vec<(String, Value)>),
    /// Another kind of value, by its name.
    Other(&'static str),
}

impl Value {
    fn describe(&self) -> String {
        match self {
            Self::Text(text) | Self::String(text) => format!("\"{text}\""),
            Self::Integer(text) => format!("the integer {text}"),
            Self::Boolean(truth) => format!("{truth}"),
            Self::List(_) => "a list".into(),
            Self::Table(_) => "a table".into(),
            Self::Other(kind) => (*kind).into(),
        }
    }

    fn string(&self) -> Result<String, String> {
        match self {
            Self::Text(text) | Self::String(text) => Ok(text.clone()),
            other => Err(format!("must be a string, found {}", other.describe())),
        }
    }

    fn compression(&self) -> Result<Compression, String> {
        self.string()?.parse()
    }

    fn path(&self) -> Result<PathBuf, String> {
        self.string().map(PathBuf::from)
    }

    fn number<T: std::str::FromStr>(&self) -> Result<T, String> {
        let wrong = || format!("must be a whole number, 0 or more, found {}", self.describe());
        match self {
            Self::Text(text) | Self::Integer(text) => text.trim().parse().map_err(|_| wrong()),
            _ => Err(wrong()),
        }
    }

    fn boolean(&self) -> Result<bool, String> {
        match self {
            Self::Boolean(truth) => Ok(*truth),
            Self::Text(text) if text == "true" => Ok(true),
            Self::Text(text) if text == "false" => Ok(false),
            other => Err(format!("must be true or false, found {}", other.describe())),
        }
    }

    /// A table `1 = "host:port"`, a list of `"1=host:port"`, or such a list in one text, with commas.
    fn peers(&self) -> Result<Vec<(NodeId, String)>, String> {
        match self {
            Self::Table(pairs) => pairs.iter().map(|(node, address)| Ok((node_id(node)?, address.string()?))).collect(),
            Self::List(items) => items.iter().map(|item| parse_peer(&item.string()?)).collect(),
            Self::Text(text) | Self::String(text) => {
                text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(parse_peer).collect()
            }
            other => Err(format!("must be a table or a list such as [\"1=host:9081\"], found {}", other.describe())),
        }
    }
}

fn parse_peer(text: &str) -> Result<(NodeId, String), String> {
    let (node, address) = text
        .split_once('=')
        .ok_or_else(|| format!("\"{text}\" is no member; write id=host:port, such as 1=h1:9081"))?;
    Ok((node_id(node)?, address.trim().to_owned()))
}

fn node_id(text: &str) -> Result<NodeId, String> {
    text.trim().parse().map_err(|_| format!("\"{text}\" is no node id; ids are whole numbers, 1 or more"))
}

macro_rules! setting {
    ($section:ident . $name:ident, $read:ident, $show:expr, $about:literal) => {
        Setting {
            key: concat!(stringify!($section), ".", stringify!($name)),
            about: $about,
            set: |config, value| {
                config.$section.$name = value.$read()?;
                Ok(())
            },
            show: |config| ($show)(&config.$section.$name),
        }
    };
}

fn plain(value: &impl ToString) -> String {
    value.to_string()
}

fn optional(value: &Option<String>) -> String {
    value.clone().unwrap_or_else(|| "(none)".into())
}

fn list(peers: &[(NodeId, String)]) -> String {
    peers.iter().map(|(node, address)| format!("{node}={address}")).collect::<Vec<_>>().join(",")
}

/// Every key, in the order of the documentation.
pub(super) const SETTINGS: &[Setting] = &[
    setting!(node.id, number, plain, "node id, unique in the cluster"),
    setting!(node.data_dir, path, |dir: &std::path::Path| dir.display().to_string(), "where the node stores"),
    Setting {
        key: "node.listen",
        about: "address to serve on, ip:port",
        set: |config, value| value.string().map(|text| config.node.listen = Some(text)),
        show: |config| optional(&config.node.listen),
    },
    Setting {
        key: "node.advertise",
        about: "address that peers and clients are told, host:port",
        set: |config, value| value.string().map(|text| config.node.advertise = Some(text)),
        show: |config| optional(&config.node.advertise),
    },
    setting!(cluster.peers, peers, list, "founding members, this node included; ignored once formed"),
    Setting {
        key: "cluster.join",
        about: "node of the cluster that an empty directory asks to be added to, host:port",
        set: |config, value| value.string().map(|text| config.cluster.join = Some(text)),
        show: |config| optional(&config.cluster.join),
    },
    setting!(cluster.allow_unsafe_voters, boolean, plain, "let storage vote that does not survive a power cut"),
    setting!(raft.election_timeout_min_ms, number, plain, "lower bound of election timeouts; equal on every member"),
    setting!(raft.election_timeout_max_ms, number, plain, "upper bound of election timeouts"),
    setting!(raft.heartbeat_interval_ms, number, plain, "time between heartbeats of an idle leader"),
    setting!(
        raft.clock_drift_ppm,
        number,
        plain,
        "bound of the difference of two clocks' rates; equal on every member"
    ),
    setting!(raft.lease_reads, boolean, plain, "let a leader answer reads that ask for it by its lease"),
    setting!(raft.max_inflight_messages, number, plain, "messages under way to one follower"),
    setting!(raft.max_inflight_bytes, number, plain, "bytes of entries under way to one follower"),
    setting!(raft.max_message_bytes, number, plain, "bytes of entries in one message"),
    setting!(raft.max_unapplied_bytes, number, plain, "bytes of entries not applied yet; beyond: Busy"),
    setting!(limits.max_value_bytes, number, plain, "bytes of one value"),
    setting!(limits.max_inflight_proposals, number, plain, "calls that wait for an answer; beyond: Busy"),
    setting!(limits.max_inflight_bytes, number, plain, "bytes of their commands and queries; beyond: Busy"),
    setting!(limits.max_waiting_messages, number, plain, "messages of peers that wait; beyond: dropped"),
    setting!(limits.request_timeout_ms, number, plain, "deadline of every call"),
    setting!(storage.tail_bytes, number, plain, "bytes of recent entries kept in memory"),
    setting!(storage.read_chunk_bytes, number, plain, "bytes read from the log at once"),
    setting!(storage.segment_bytes_max, number, plain, "bytes of the log's longest segment"),
    setting!(snapshot.entries, number, plain, "entries applied since the last snapshot that make another one due"),
    setting!(snapshot.bytes, number, plain, "bytes of entries that make one due; at least the last snapshot's size"),
    setting!(snapshot.interval_s, number, plain, "seconds that make one due, if anything was applied; 0: never"),
    setting!(snapshot.kept, number, plain, "snapshots kept on disk"),
    setting!(snapshot.max_entries_behind, number, plain, "entries kept behind a snapshot for replicas that need them"),
    setting!(snapshot.transfer_bytes_per_s, number, plain, "bytes of a snapshot sent to one replica in a second"),
    setting!(snapshot.compression, compression, plain, "how snapshots are stored: none or lz4"),
];

/// The setting of a key.
pub(super) fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

/// The key that `unknown` was probably meant to be.
pub(super) fn nearest(unknown: &str) -> Option<&'static str> {
    let name = |key: &str| key.rsplit('.').next().map(str::to_owned).unwrap_or_default();
    let near = |key: &'static str| {
        let whole = edit_distance(unknown, key);
        // A key in the wrong section, or without one.
        let moved = edit_distance(&name(unknown), &name(key)) + 1;
        (whole.min(moved), key)
    };
    let (distance, key) = SETTINGS.iter().map(|setting| near(setting.key)).min()?;
    (distance <= 3.min(1 + unknown.len() / 4)).then_some(key)
}

/// How many characters must be inserted, removed or replaced (Levenshtein).
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// `cluster.peers` as a TOML table from node id to address.
pub(super) mod peer_map {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serializer};

    use super::NodeId;

    pub(crate) fn serialize<S: Serializer>(peers: &[(NodeId, String)], to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(peers.iter().map(|(node, address)| (node.to_string(), address)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<(NodeId, String)>, D::Error> {
        let map = BTreeMap::<String, String>::deserialize(from)?;
        map.into_iter()
            .map(|(node, address)| Ok((super::node_id(&node).map_err(serde::de::Error::custom)?, address)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_found_and_no_far_one() {
        assert_eq!(nearest("raft.electon_timeout_min_ms"), Some("raft.election_timeout_min_ms"));
        assert_eq!(nearest("raft.request_timeout_ms"), Some("limits.request_timeout_ms"));
        assert_eq!(nearest("node.listne"), Some("node.listen"));
        assert_eq!(nearest("colour.of.the.sky"), None);
    }

    #[test]
    fn every_setting_is_a_field_and_every_field_a_setting() {
        let full = NodeConfig::default().listen("a").advertise("b").peers([(1, "c")]).join("d");
        let toml::Value::Table(sections) = toml::Value::try_from(&full).unwrap() else { panic!("no table") };
        let mut fields: Vec<_> = sections
            .iter()
            .flat_map(|(section, keys)| {
                keys.as_table().unwrap().keys().map(|key| format!("{section}.{key}")).collect::<Vec<_>>()
            })
            .collect();
        let mut keys: Vec<_> = SETTINGS.iter().map(|setting| setting.key.to_owned()).collect();
        fields.sort();
        keys.sort();
        assert_eq!(fields, keys);
    }
}
