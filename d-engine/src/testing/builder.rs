//! What the nodes of a test's cluster are made of.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use d_engine_core::Error;
use d_engine_raft::NodeId;

use super::{Cluster, Seat, TestError};
use crate::local_router::LocalRouter;
use crate::{Node, NodeBuilder, NodeConfig, StartupError};

type Configure = Arc<dyn Fn(NodeConfig) -> NodeConfig + Send + Sync>;
type OpenStores = Arc<dyn Fn(NodeBuilder, &Path) -> Result<NodeBuilder, Error> + Send + Sync>;

/// How to start a node, once or again.
pub(super) struct Options {
    pub(super) seed: u64,
    pub(super) patience: Duration,
    founders: u64,
    configure: Configure,
    /// None: file storage and the built-in key-value machine.
    stores: Option<OpenStores>,
}

pub(super) fn address(id: NodeId) -> String {
    format!("in-process:{id}")
}

impl Options {
    pub(super) async fn start(
        &self,
        id: NodeId,
        directory: PathBuf,
        joins: bool,
        router: &LocalRouter,
    ) -> Result<Node, StartupError> {
        let config = NodeConfig::new(id, &directory)
            .advertise(address(id))
            .election_timeout_ms(500, 1000)
            .heartbeat_interval_ms(50)
            // A test says itself what it stores its data on.
            .allow_unsafe_voters(true);
        let config = match joins {
            true => config.join(address(1)),
            false => config.peers((1..=self.founders).map(|id| (id, address(id)))),
        };
        let config = (self.configure)(config);
        let (_, nobody) = tokio::sync::watch::channel(());
        let builder = match self.stores.clone() {
            None => crate::open(config, nobody).await?,
            Some(open) => {
                const DOING: &str = "opening the node's stores";
                let builder = NodeBuilder::new(config, nobody);
                let open = move || open(builder, &directory).map_err(StartupError::storage(DOING));
                let opened = tokio::task::spawn_blocking(open).await;
                opened.map_err(|error| StartupError::system(DOING)(std::io::Error::other(error)))??
            }
        };
        builder.in_process(router).start().await
    }
}

/// Puts a [`Cluster`] together.
pub struct ClusterBuilder {
    options: Options,
}

impl ClusterBuilder {
    pub(super) fn new(size: u64) -> Self {
        let options = Options {
            seed: 1,
            patience: Duration::from_secs(60),
            founders: size.max(1),
            configure: Arc::new(|config| config),
            stores: None,
        };
        Self { options }
    }

    /// What [`Cluster::faults`] and [`Cluster::weather`] follow from; 1 unless it is set.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.options.seed = seed;
        self
    }

    /// How long the cluster may take until it does what is waited for; 60 s unless it is set.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.options.patience = patience;
        self
    }

    /// Changes the configuration of every node before it starts. Elections take half a second to one unless this changes it.
    #[must_use]
    pub fn configure(mut self, configure: impl Fn(NodeConfig) -> NodeConfig + Send + Sync + 'static) -> Self {
        self.options.configure = Arc::new(configure);
        self
    }

    /// Opens storage engine and state machine in a node's directory, each time that the node starts; file storage and the
    /// built-in key-value machine unless it is set. What is opened must find what it had been told to keep: volatile storage
    /// makes every kill a loss of data.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use d_engine::file::{FileKvStore, FileStorageEngine};
    /// use d_engine::testing::Cluster;
    /// use d_engine::KvStateMachine;
    ///
    /// let builder = Cluster::builder(3).stores(|node, directory| {
    ///     let machine = KvStateMachine::new(FileKvStore::open(directory.join("machine"))?)?; // or your own
    ///     Ok(node
    ///         .storage_engine(Arc::new(FileStorageEngine::open(directory.join("log"))?))
    ///         .state_machine(Arc::new(machine)))
    /// });
    /// # let _ = builder;
    /// ```
    #[must_use]
    pub fn stores(
        mut self,
        open: impl Fn(NodeBuilder, &Path) -> Result<NodeBuilder, Error> + Send + Sync + 'static,
    ) -> Self {
        self.options.stores = Some(Arc::new(open));
        self
    }

    /// Starts all nodes and waits until each can serve.
    ///
    /// # Errors
    /// A node does not start, or the cluster is not ready in time.
    pub async fn start(self) -> Result<Cluster, TestError> {
        let options = self.options;
        let directory = tempfile::Builder::new().prefix("d-engine-testing-").tempdir();
        let directory = directory.map_err(|source| TestError::Directory { path: std::env::temp_dir(), source })?;
        let seats = (1..=options.founders).map(|id| (id, Seat::default())).collect();
        let cluster = Cluster { seats: Mutex::new(seats), router: LocalRouter::new(), options, directory };
        for id in cluster.ids() {
            cluster.restart(id).await?;
        }
        cluster.wait_until_ready().await?;
        Ok(cluster)
    }
}

impl Cluster {
    /// Waits until every node that runs can serve.
    ///
    /// # Errors
    /// One cannot in time.
    pub async fn wait_until_ready(&self) -> Result<(), TestError> {
        for node in self.nodes() {
            let ready = node.wait_ready(self.options.patience).await;
            ready.map_err(|source| TestError::Start { node: node.id(), source })?;
        }
        Ok(())
    }
}
