//! The shortest way to a node: file storage in one directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use d_engine_file::{FileKvStore, FileStorageEngine, FileStorageOptions};
use d_engine_kv::KvStateMachine;
use tokio::sync::watch;

use crate::{Node, NodeBuilder, NodeConfig, NodeStores, StartupError};

/// How long the one node of its cluster may take until it can serve.
const READY: Duration = Duration::from_secs(30);

/// Starts one file-backed node with the built-in key-value machine in `dir`, a cluster of its own, ready to write when
/// this returns. It has no network, and runs until it is shut down or its last handle is dropped.
///
/// # Errors
/// The directory is in use, damaged or of another node.
pub async fn start(dir: impl Into<PathBuf>) -> Result<Node, StartupError> {
    // Nobody can fire this watch; a sender that is gone before the start means just that.
    let (_, shutdown) = watch::channel(());
    let node = open(NodeConfig::for_dir(dir), shutdown).await?.start().await?;
    node.wait_ready(READY).await?;
    Ok(node)
}

/// A builder with file storage and the built-in key-value machine in the configuration's data directory: the log and the
/// hard state in `log`, the machine in `kv`.
///
/// # Errors
/// The configuration contradicts itself, or the directory is in use or damaged.
pub async fn open(config: NodeConfig, shutdown: watch::Receiver<()>) -> Result<NodeBuilder, StartupError> {
    config.check()?;
    // Before anything in it is opened, which changes it.
    crate::marker::check(&config.node.data_dir)?;
    let (dir, storage) = (config.node.data_dir.clone(), config.storage.clone());
    let compression = config.snapshot.compression;
    let (engine, machine) = tokio::task::spawn_blocking(move || open_stores(&dir, &storage))
        .await
        .map_err(|error| StartupError::system("opening the data directory")(std::io::Error::other(error)))??;
    let machine = machine.with_snapshot_compression(compression.into());
    Ok(NodeBuilder::new(config, shutdown).storage_engine(Arc::new(engine)).state_machine(Arc::new(machine)))
}

/// The stores of a data directory as [`open`] has them, for [`restore`](crate::restore()) and [`Survivor`](crate::Survivor).
///
/// # Errors
/// The directory is in use or damaged.
pub fn file_stores(dir: &Path) -> Result<NodeStores, d_engine_core::Error> {
    let engine = FileStorageEngine::open(dir.join("log"))?;
    let machine = KvStateMachine::new(FileKvStore::open(dir.join("kv"))?)?;
    Ok(NodeStores::new(Arc::new(engine), Arc::new(machine)))
}

fn open_stores(
    dir: &Path,
    storage: &crate::StorageSection,
) -> Result<(FileStorageEngine, KvStateMachine), StartupError> {
    let mut options = FileStorageOptions::default();
    options.segment_bytes_max = storage.segment_bytes_max;
    options.tail_cache_bytes = storage.tail_bytes;
    let engine =
        FileStorageEngine::open_with(dir.join("log"), &options).map_err(StartupError::storage("opening the log"))?;
    let store = FileKvStore::open(dir.join("kv")).map_err(StartupError::storage("opening the key-value store"))?;
    let machine = KvStateMachine::new(store).map_err(StartupError::storage("opening the state machine"))?;
    Ok((engine, machine))
}
