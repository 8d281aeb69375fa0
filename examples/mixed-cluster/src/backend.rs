//! The three backends: a node on one, and its data without a node.

use std::fs;
use std::path::Path;

use d_engine::file::{FileKvStore, FileStorageEngine};
use d_engine::rocksdb::{RocksKvStore, RocksStorageEngine};
use d_engine::sled::{SledKvStore, SledStorageEngine};
use d_engine::{KvAnswer, KvQuery, KvStateMachine, Membership, Node, NodeConfig, SnapshotMetadata, StateMachine};
use three_nodes::{Result, start};

/// What keeps the log and the data of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    Files,
    RocksDb,
    Sled,
}

pub(crate) const ALL: [Backend; 3] = [Backend::Files, Backend::RocksDb, Backend::Sled];

impl Backend {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::RocksDb => "RocksDB",
            Self::Sled => "sled",
        }
    }

    /// A node whose log and data are below `dir`.
    pub(crate) async fn start(self, config: NodeConfig, dir: &Path) -> Result<Node> {
        let (log, data) = (dir.join("log"), dir.join("data"));
        match self {
            Self::Files => start(config, FileStorageEngine::open(log)?, FileKvStore::open(data)?).await,
            Self::RocksDb => start(config, RocksStorageEngine::open(log)?, RocksKvStore::open(data)?).await,
            Self::Sled => start(config, SledStorageEngine::open(log)?, SledKvStore::open(data)?).await,
        }
    }

    /// The data below `dir`, without a node.
    pub(crate) fn machine(self, dir: &Path) -> Result<KvStateMachine> {
        let data = dir.join("data");
        Ok(match self {
            Self::Files => KvStateMachine::new(FileKvStore::open(data)?)?,
            Self::RocksDb => KvStateMachine::new(RocksKvStore::open(data)?)?,
            Self::Sled => KvStateMachine::new(SledKvStore::open(data)?)?,
        })
    }
}

/// The digest of the machine's whole state.
pub(crate) fn digest(machine: &KvStateMachine) -> Result<[u8; 32]> {
    match KvAnswer::decode(&machine.read_at(KvQuery::Digest.encode())?.0)? {
        KvAnswer::Digest { digest, .. } => Ok(digest),
        other => Err(format!("the machine was asked for its digest and answered {other:?}").into()),
    }
}

/// Makes a snapshot of the machine in `dir`.
pub(crate) async fn make_snapshot(machine: &KvStateMachine, dir: &Path) -> Result<SnapshotMetadata> {
    fs::create_dir_all(dir)?;
    let last = machine.last_applied();
    let checksum = machine.generate_snapshot_data(dir.to_path_buf(), last).await?;
    let size = fs::metadata(dir.join(SNAPSHOT))?.len();
    Ok(SnapshotMetadata::new(last, Membership::default(), checksum, size))
}

/// The name of a snapshot's file.
pub(crate) const SNAPSHOT: &str = "snapshot.bin";
