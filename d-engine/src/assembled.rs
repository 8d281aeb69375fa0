//! Starts a node: reads what survived, connects it, and gives each part its thread.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;

use d_engine_core::StateMachine;
use d_engine_net::Hello;
use d_engine_raft::Input;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::applying::Applying;
use crate::builder::Storage;
use crate::clock::Clock;
use crate::disk::{Disk, DiskQueue, SyncLatencies};
use crate::ending::{Ending, spawn};
use crate::inbox::{Bounds, Inbox};
use crate::local_router::LocalRouter;
use crate::machine_clock::MachineClock;
use crate::node::Node;
use crate::prepare::{Stores, prepare};
use crate::published::Published;
use crate::runtime::{Runtime, Work};
use crate::shared::{Parts, Route, Shared};
use crate::snapshot_policy::{Progress, Snapshots};
use crate::state_machine_handler::{ApplyQueue, StateMachineHandler};
use crate::wire::Wire;
use crate::writer::Writer;
use crate::{NodeConfig, StartupError};

/// Everything a node needs, checked and not started.
pub struct Assembled {
    pub(crate) config: NodeConfig,
    pub(crate) shutdown: watch::Receiver<()>,
    pub(crate) storage: Storage,
    pub(crate) machine: Arc<dyn StateMachine>,
    pub(crate) router: Option<LocalRouter>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Assembled {
    /// Starts the node; call it within a tokio runtime, which must outlive the node. Elections may still be ahead:
    /// [`Node::wait_ready`] waits for them.
    ///
    /// # Errors
    /// The listen address is taken, the storage cannot be read, or the directory's state forbids it; nothing runs then.
    pub async fn start(self) -> Result<Node, StartupError> {
        let Self { mut config, shutdown, storage, machine, router, clock } = self;
        if !storage.is_volatile {
            crate::marker::check(&config.node.data_dir)?;
        }
        let listening = listen(&mut config, router.is_none()).await?;
        let Storage { log, meta, is_volatile, never_waits, .. } = storage;
        let prepared = {
            let (config, clock, runtime) = (config.clone(), Arc::clone(&clock), Handle::current());
            let (log, meta, machine) = (Arc::clone(&log), Arc::clone(&meta), Arc::clone(&machine));
            // Reads the log, which may take a while.
            let prepare = move || {
                let stores = Stores { log: &*log, meta: &*meta, machine: &*machine, is_volatile };
                prepare(&config, stores, &*clock, &runtime)
            };
            tokio::task::spawn_blocking(prepare)
                .await
                .map_err(|error| StartupError::system("preparing the node")(std::io::Error::other(error)))??
        };
        let applied = Arc::new(AtomicU64::new(prepared.applied.at.index));
        let inbox = Arc::new(Inbox::new(Bounds {
            callers: config.limits.max_inflight_proposals,
            bytes: config.limits.max_inflight_bytes,
            messages: config.limits.max_waiting_messages,
        }));
        let hello = Hello {
            address: config.advertised(),
            is_advertised: config.node.advertise.is_some(),
            feature_level: d_engine_raft::FEATURE_LEVEL,
            election_timeout_min_ms: config.raft.election_timeout_min_ms,
            clock_drift_ppm: config.raft.clock_drift_ppm,
            ..Hello::new(config.node.id, 0)
        };
        let published = Arc::new(Published::new(prepared.driver.status(clock.now()), hello));
        let latencies = Arc::new(SyncLatencies::default());
        let route = match (&router, &listening) {
            (Some(router), _) => Route::InProcess(router.clone()),
            #[cfg(feature = "server")]
            (None, Some(_)) => Route::Network(std::sync::OnceLock::new()),
            _ => Route::Nowhere,
        };
        let shared = Arc::new(Shared::new(Parts {
            config,
            inbox: Arc::clone(&inbox),
            published: Arc::clone(&published),
            applied: Arc::clone(&applied),
            clock: Arc::clone(&clock),
            latencies: Arc::clone(&latencies),
            route,
            machine: Arc::clone(&machine),
            snapshots: Arc::clone(&prepared.snapshots),
        }));
        let wire = connect(&shared, router, listening);

        let runtime = Handle::current();
        let (disk_queue, apply_queue) = (Arc::new(DiskQueue::new()), Arc::new(ApplyQueue::new()));
        let here = never_waits.then(|| (Arc::clone(&log), Arc::clone(&meta)));
        let disk = Disk::new(Arc::clone(&log), meta, runtime.clone(), latencies, Arc::clone(&prepared.snapshots));
        let snapshots = Snapshots {
            node: shared.id(),
            machine: Arc::clone(&machine),
            policy: shared.config.snapshot.clone(),
            runtime: runtime.clone(),
            queue: Arc::clone(&apply_queue),
            progress: Progress::new(prepared.applied, &prepared.snapshots),
            store: prepared.snapshots,
        };
        let handler = StateMachineHandler::new(
            machine,
            Arc::clone(&log),
            runtime.clone(),
            shared.config.storage.read_chunk_bytes,
            Arc::clone(&applied),
            snapshots,
            MachineClock::new(shared.id(), Arc::clone(&clock), published.leadership()),
        );
        let driver = Runtime {
            driver: prepared.driver,
            clock,
            inbox: Arc::clone(&inbox),
            writer: Writer::new(Arc::clone(&disk_queue), here, runtime.clone()),
            applying: Arc::new(Applying::new(Arc::clone(&apply_queue))),
            log,
            wire,
            published,
            applied,
            tokio: runtime,
            snapshots: Arc::clone(&shared.snapshots),
            transfer_bytes_per_s: shared.config.snapshot.transfer_bytes_per_s,
            work: Work::new(),
        };
        let threads = spawn_threads(shared.id(), (disk, Arc::clone(&disk_queue)), handler, driver)
            .map_err(StartupError::system("starting the node's threads"));
        let threads = match threads {
            Ok(threads) => threads,
            Err(error) => {
                #[cfg(feature = "server")]
                if let Some(network) = shared.network() {
                    network.abort();
                }
                // Those that did start end with their queues.
                inbox.close();
                disk_queue.close();
                apply_queue.close();
                return Err(error);
            }
        };
        let ending = Arc::new(Ending::new(Arc::clone(&shared), threads));
        watch_shutdown(shutdown, &ending);
        shared.take_place();
        Ok(Node::new(shared, ending))
    }
}

/// Takes the listen address, so that an address in use is noticed before anything else happens. Port 0 becomes the port
/// that the system chose.
async fn listen(config: &mut NodeConfig, wanted: bool) -> Result<Option<TcpListener>, StartupError> {
    let Some(address) = config.node.listen.clone().filter(|_| wanted) else { return Ok(None) };
    if cfg!(not(feature = "server")) {
        return Err(StartupError::MissingPart { part: "network (feature `server` is off)", method: "in_process" });
    }
    let failed = |source| StartupError::Listen { address: address.clone(), source };
    let listener = TcpListener::bind(&address).await.map_err(failed)?;
    config.node.listen = Some(listener.local_addr().map_err(failed)?.to_string());
    Ok(Some(listener))
}

/// Joins the node with its peers.
fn connect(shared: &Arc<Shared>, router: Option<LocalRouter>, listener: Option<TcpListener>) -> Wire {
    let from = shared.id();
    if let Some(router) = router {
        router.join(from, shared);
        return Wire::InProcess { from, router };
    }
    #[cfg(feature = "server")]
    if let (Route::Network(network), Some(listener)) = (&shared.route, listener) {
        let sink = crate::network::sink(Arc::clone(&shared.inbox), Arc::downgrade(shared));
        let peers = Arc::new(d_engine_net::Peers::start(shared.published.hello(), sink));
        let wire = Wire::Network { from, peers: Arc::clone(&peers) };
        wire.set_members(&shared.config.cluster.peers);
        wire.set_members(&shared.published.members());
        network.get_or_init(|| Arc::new(crate::network::Network::start(listener, shared, peers)));
        return wire;
    }
    #[cfg(not(feature = "server"))]
    drop(listener);
    Wire::Nowhere
}

fn spawn_threads(
    node: u64,
    (disk, writes): (Disk, Arc<DiskQueue>),
    handler: StateMachineHandler,
    driver: Runtime,
) -> std::io::Result<Vec<JoinHandle<()>>> {
    let inbox = &driver.inbox;
    let fail = |inbox: &Arc<Inbox>| {
        let inbox = Arc::clone(inbox);
        move |why| inbox.complete(Input::StorageFailed { why })
    };
    let (queue, to) = (Arc::clone(&writes), Arc::clone(inbox));
    let after = (Arc::clone(&writes), fail(inbox));
    let disk = spawn(
        format!("d-engine-{node}-disk"),
        move || disk.run(&queue, &to),
        move |why| {
            after.0.abandon();
            after.1(why);
        },
    )?;
    let (applying, to) = (Arc::clone(&driver.applying), Arc::clone(inbox));
    let after = (Arc::clone(&driver.applying), fail(inbox));
    let apply = spawn(
        format!("d-engine-{node}-apply"),
        move || applying.run(handler, &to),
        move |why| {
            after.0.queue().abandon();
            after.1(why);
        },
    )?;
    let queues = CloseOnDrop { disk: writes, applying: Arc::clone(&driver.applying) };
    let (published, inbox) = (Arc::clone(&driver.published), Arc::clone(inbox));
    let (late, tokio) = (Arc::clone(&inbox), Handle::current());
    let run = move || {
        // The clock that deadlines go by is the application's.
        let _within = tokio.enter();
        driver.run();
        drop(queues);
        late.end_calls();
    };
    let driver = spawn(format!("d-engine-{node}-driver"), run, move |why| {
        published.fail(why);
        // Nobody answers any more: those that wait are told so by being dropped.
        inbox.abandon();
    })?;
    Ok(vec![driver, disk, apply])
}

/// Whatever ends the driver loop, the threads behind it end as well.
struct CloseOnDrop {
    disk: Arc<DiskQueue>,
    applying: Arc<Applying>,
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.disk.close();
        self.applying.queue().close();
    }
}

/// Ends the node when the builder's watch fires or its sender goes. A sender that is gone already means that nobody ever
/// meant to use it.
fn watch_shutdown(mut shutdown: watch::Receiver<()>, ending: &Arc<Ending>) {
    if shutdown.has_changed().is_err() {
        return;
    }
    let node = Arc::downgrade(ending);
    let task = tokio::spawn(async move {
        // A change and the sender's end mean the same.
        let _ = shutdown.changed().await;
        if let Some(node) = node.upgrade() {
            node.shut_down().await;
        }
    });
    ending.own(task.abort_handle());
}
