//! Puts a node together and checks that nothing is missing; starts nothing.

use std::sync::Arc;

use d_engine_core::{LogStore, MetaStore, StateMachine, StorageEngine};
use tokio::sync::watch;

use crate::assembled::Assembled;
use crate::clock::{BootClock, Clock};
use crate::local_router::LocalRouter;
use crate::node::Node;
use crate::{NodeConfig, StartupError};

/// Puts a node together.
///
/// ```no_run
/// # async fn doc() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use d_engine::{KvStateMachine, NodeBuilder, NodeConfig};
/// # use d_engine::file::{FileKvStore, FileStorageEngine};
///
/// let (_stop, shutdown_rx) = tokio::sync::watch::channel(());
/// let node = NodeBuilder::new(NodeConfig::for_dir("./data"), shutdown_rx)
///     .storage_engine(Arc::new(FileStorageEngine::open("./data/log")?))
///     .state_machine(Arc::new(KvStateMachine::new(FileKvStore::open("./data/kv")?)?))
///     .start()
///     .await?;
/// # let _ = node;
/// # Ok(())
/// # }
/// ```
pub struct NodeBuilder {
    config: NodeConfig,
    shutdown: watch::Receiver<()>,
    storage: Option<Storage>,
    machine: Option<Arc<dyn StateMachine>>,
    router: Option<LocalRouter>,
    clock: Arc<dyn Clock>,
}

/// A shared state machine: an `Arc` of one, also of a `dyn StateMachine`. Nothing else implements it.
pub trait SharedStateMachine: sealed::Sealed {
    /// The machine without its type.
    fn into_dyn(self) -> Arc<dyn StateMachine>;
}

impl<M: StateMachine> SharedStateMachine for Arc<M> {
    fn into_dyn(self) -> Arc<dyn StateMachine> {
        self
    }
}

impl SharedStateMachine for Arc<dyn StateMachine> {
    fn into_dyn(self) -> Arc<dyn StateMachine> {
        self
    }
}

mod sealed {
    pub trait Sealed {}
    impl<M: ?Sized> Sealed for std::sync::Arc<M> {}
}

pub(crate) struct Storage {
    pub(crate) log: Arc<dyn LogStore>,
    pub(crate) meta: Arc<dyn MetaStore>,
    pub(crate) is_volatile: bool,
    pub(crate) never_waits: bool,
    survives_power_loss: bool,
}

impl NodeBuilder {
    /// Begins a node.
    ///
    /// When `shutdown` changes, the node ends as with [`Node::shutdown`]; so it does when the sender is dropped while the
    /// node runs, because then nobody is left to end it. A sender that is gone before the start says nothing: such a node
    /// runs until it is shut down or dropped.
    pub fn new(config: NodeConfig, shutdown: watch::Receiver<()>) -> Self {
        Self { config, shutdown, storage: None, machine: None, router: None, clock: Arc::new(BootClock) }
    }

    /// Where the log and the hard state are kept; required.
    #[must_use]
    pub fn storage_engine(mut self, engine: Arc<impl StorageEngine>) -> Self {
        self.storage = Some(Storage {
            is_volatile: engine.is_volatile(),
            never_waits: engine.never_waits(),
            survives_power_loss: engine.survives_power_loss(),
            log: engine.log_store(),
            meta: engine.meta_store(),
        });
        self
    }

    /// The two parts of a storage engine on their own; durable ones.
    #[must_use]
    pub fn storage_parts(mut self, log: Arc<dyn LogStore>, meta: Arc<dyn MetaStore>) -> Self {
        self.storage = Some(Storage { log, meta, is_volatile: false, never_waits: false, survives_power_loss: true });
        self
    }

    /// What committed entries do; required. The machine is flushed and stopped when the node ends.
    #[must_use]
    pub fn state_machine(mut self, machine: impl SharedStateMachine) -> Self {
        self.machine = Some(machine.into_dyn());
        self
    }

    /// Joins the node with others of this process instead of a network; for tests.
    #[must_use]
    pub fn in_process(mut self, router: &LocalRouter) -> Self {
        self.router = Some(router.clone());
        self
    }

    /// The clock that consensus goes by; for tests.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Checks that nothing is missing or contradicts itself. Nothing is started.
    ///
    /// # Errors
    /// The missing part, every contradiction of the configuration, or storage that must not vote.
    pub fn build(self) -> Result<Assembled, StartupError> {
        let missing = |part, method| StartupError::MissingPart { part, method };
        let storage = self.storage.ok_or(missing("storage engine", "storage_engine"))?;
        let machine = self.machine.ok_or(missing("state machine", "state_machine"))?;
        self.config.check()?;
        // Who joins votes beside at least one other.
        let joined = if self.config.cluster.join.is_some() { 2 } else { 0 };
        let members = self.config.cluster.peers.len().max(joined);
        if members > 1 && !self.config.cluster.allow_unsafe_voters {
            let what = match () {
                () if storage.is_volatile => "forgets everything when its process ends",
                () if !storage.survives_power_loss => "does not survive a loss of power",
                () => "",
            };
            if !what.is_empty() {
                return Err(StartupError::UnsafeVoter { what, members });
            }
        }
        Ok(Assembled {
            config: self.config,
            shutdown: self.shutdown,
            storage,
            machine,
            router: self.router,
            clock: self.clock,
        })
    }

    /// [`build`](NodeBuilder::build) and [`Assembled::start`].
    ///
    /// # Errors
    /// As these two.
    pub async fn start(self) -> Result<Node, StartupError> {
        self.build()?.start().await
    }
}
