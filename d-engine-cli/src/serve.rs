//! serve: one node, until it is interrupted.
//!
//! Prints one line when it listens and one when it knows a leader; what happens later goes to the log on standard error.

mod notes;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use d_engine::mem::{MemKvStore, MemStorageEngine};
use d_engine::{Error, KvStateMachine, Node, NodeBuilder, NodeConfig, NodeStatus, StartError, StartupError};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

use crate::output::{Failure, print, print_error};
use notes::Notes;

const DEFAULT_LISTEN: &str = "127.0.0.1:9081";
/// How often the node is looked at for what its operator should know.
const LOOK: Duration = Duration::from_secs(2);
/// How long a child whose parent is gone may take to end in order. What it has acknowledged is on disk already.
const ORPHAN: Duration = Duration::from_millis(400);

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Directory of everything the node stores
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Node id, unique in the cluster
    #[arg(long, value_name = "N")]
    id: Option<String>,
    /// Address to serve on; 127.0.0.1:9081 if nothing says otherwise
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<String>,
    /// Address that peers and clients are told, if it is not the one to listen on
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// The members of a new cluster, this node included; has no effect once the directory belongs to a cluster
    #[arg(long, value_name = "1=HOST:PORT,…")]
    peers: Option<String>,
    /// A node of an existing cluster, at which an empty directory asks to be added
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "peers")]
    join: Option<String>,
    /// Where the log and the data are kept
    #[arg(long, value_enum, default_value_t)]
    engine: Engine,
    /// Lets memory storage, which a restart empties, vote in a cluster of several nodes
    #[arg(long)]
    allow_unsafe_voters: bool,
    /// Configuration file; the environment (D_ENGINE__SECTION__KEY) and flags win over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Any other key of the configuration
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
    /// What to log, as in `info` or `d_engine=debug`
    #[arg(long, value_name = "FILTER", env = "RUST_LOG", default_value = "warn")]
    log: String,
    /// Writes the log as JSON
    #[arg(long)]
    log_json: bool,
    /// Ends when standard input does: a child that outlives nobody
    #[arg(long, hide = true)]
    exit_with_parent: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Engine {
    /// Files in the data directory, synced
    #[default]
    File,
    /// Memory; a restart forgets everything
    Mem,
}

impl Engine {
    /// As the flag takes it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Mem => "mem",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::value_variants().iter().copied().find(|engine| engine.name() == name)
    }
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write SECTION.KEY=VALUE, such as raft.heartbeat_interval_ms=50")?;
    Ok((key.to_owned(), value.to_owned()))
}

pub(crate) async fn serve(arguments: Serve) -> Result<(), Failure> {
    log_to_stderr(&arguments)?;
    let config = arguments.load()?;
    let id = config.node.id;
    let listen = config.node.listen.clone().unwrap_or_default();
    if arguments.data.is_none() && arguments.config.is_none() && arguments.engine == Engine::File {
        print_error(format_args!("note: no --data; the node stores under ./{}", config.node.data_dir.display()));
    }
    if listen.parse::<SocketAddr>().is_ok_and(|address| !address.ip().is_loopback()) {
        print_error(format_args!(
            "WARNING: {listen} can be reached from the network, and there is no encryption and no authentication: whoever \
             reaches it can read and change everything. Keep it inside a network you trust."
        ));
    }
    let parent_gone = parent_gone(arguments.exit_with_parent);
    let notes = Notes::new(&config);
    let (stop, shutdown) = watch::channel(());
    let node = arguments.start(config, shutdown).await.map_err(|error| start_failure(&error))?;
    print(format_args!("node {id} listens on {listen}, process {}", std::process::id()));
    tokio::select! {
        () = interrupted() => {}
        () = parent_gone => {}
        () = accompany(&node, &notes) => {}
    }
    tracing::info!(node = id, "stopping");
    drop(stop);
    node.shutdown().await.map_err(|error| Failure::new(error).next("d-engine serve, once the cause is repaired"))
}

impl Serve {
    /// The configuration with the flags as its top layer; all errors at once.
    fn load(&self) -> Result<NodeConfig, Failure> {
        let text = |key: &str, value: Option<String>| value.map(|value| (key.to_owned(), value));
        let data = self.data.as_ref().map(|dir| dir.display().to_string());
        let mut flags: Vec<(String, String)> = self.settings.clone();
        flags.extend(text("node.data_dir", data));
        flags.extend(text("node.id", self.id.clone()));
        flags.extend(text("node.listen", self.listen.clone()));
        flags.extend(text("node.advertise", self.advertise.clone()));
        flags.extend(text("cluster.peers", self.peers.clone()));
        flags.extend(text("cluster.join", self.join.clone()));
        if self.allow_unsafe_voters {
            flags.push(("cluster.allow_unsafe_voters".to_owned(), "true".to_owned()));
        }
        // Where no file may say it, the default stands below the environment.
        let default = self.config.is_none().then(|| ("D_ENGINE__NODE__LISTEN".to_owned(), DEFAULT_LISTEN.to_owned()));
        let environment =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let config = NodeConfig::load(self.config.as_deref(), default.into_iter().chain(environment), flags)
            .map_err(|errors| Failure::usage(errors).next("d-engine serve --help"))?;
        let unset = config.node.listen.is_none();
        Ok(if unset { config.listen(DEFAULT_LISTEN) } else { config })
    }

    async fn start(&self, config: NodeConfig, shutdown: watch::Receiver<()>) -> Result<Node, StartupError> {
        let builder = match self.engine {
            Engine::File => d_engine::open(config, shutdown).await?,
            Engine::Mem => {
                let machine = KvStateMachine::new(MemKvStore::new())
                    .map_err(|source| StartupError::Storage { doing: "opening the state machine", source })?
                    .with_snapshot_compression(config.snapshot.compression.into());
                NodeBuilder::new(config, shutdown)
                    .storage_engine(Arc::new(MemStorageEngine::new()))
                    .state_machine(Arc::new(machine))
            }
        };
        builder.start().await
    }
}

fn log_to_stderr(arguments: &Serve) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&arguments.log)
        .map_err(|error| Failure::usage(format!("--log: {error}")).next("d-engine serve --log info"))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    if arguments.log_json {
        log.json().init()
    } else {
        log.init()
    }
    Ok(())
}

fn start_failure(error: &StartupError) -> Failure {
    match error {
        StartupError::Config(_) => Failure::usage(error).next("d-engine serve --help"),
        StartupError::UnsafeVoter { .. } => Failure::usage(error).next("d-engine serve --engine file …"),
        StartupError::Listen { .. } => Failure::new(error).next("d-engine serve --listen 127.0.0.1:PORT …"),
        StartupError::Locked { .. } => Failure::new(error).next("d-engine status"),
        StartupError::Directory(StartError::OtherNode { found, .. }) => {
            Failure::new(error).next(format!("d-engine serve --id {found} …"))
        }
        StartupError::Storage { source: Error::Unsupported { .. }, .. } => {
            Failure::new(error).next("d-engine --version")
        }
        StartupError::HalfMade { .. } => Failure::new(error).next("d-engine snapshot restore FILE --dir EMPTY_DIR …"),
        StartupError::Replaced { path } => {
            Failure::new(error).next(format!("d-engine recover --force-new-cluster {path}"))
        }
        // Another directory would make another node, of a cluster that it founds: see first what the cluster is like.
        StartupError::Directory(_) | StartupError::Storage { source: Error::Corrupt { .. }, .. } => {
            Failure::new(error).next("d-engine status --endpoints ANOTHER_NODE")
        }
        _ => Failure::new(error).next("d-engine serve, once the cause is repaired"),
    }
}

/// Tells the operator what matters; ends when the node has.
async fn accompany(node: &Node, notes: &Notes) {
    let mut leadership = node.watch_leadership();
    let mut look = tokio::time::interval(LOOK);
    look.tick().await;
    let mut announced = false;
    let mut noted = false;
    let mut told_failure = false;
    loop {
        let leader = *leadership.borrow_and_update();
        let status = node.status();
        if !noted && status.cluster != 0 && !status.members.is_empty() {
            noted = true;
            notes.on(&status).iter().for_each(print_error);
        }
        if let (Some(id), false) = (leader.leader, announced) {
            announced = true;
            notes.new_cluster(&status, leader.term).iter().for_each(print_error);
            print(format_args!("node {}: node {id} leads in term {}", node.id(), leader.term));
        }
        tokio::select! {
            changed = leadership.changed() => if changed.is_err() { return },
            _ = look.tick() => {
                let status = node.status();
                if let (Some(failure), false) = (&status.failure, told_failure) {
                    told_failure = true;
                    print_error(format_args!("node {} no longer takes part: {failure}{}", node.id(), remedy(&status)));
                }
                if !status.waiting_for.is_empty() {
                    let waiting: Vec<String> = status.waiting_for.iter().map(u64::to_string).collect();
                    print_error(format_args!("node {} waits for these nodes to found the cluster: {}", node.id(), waiting.join(", ")));
                }
            }
        }
    }
}

/// What makes a node that has failed take part again; nothing if a restart would not.
fn remedy(status: &NodeStatus) -> &'static str {
    let failure = status.failure.as_deref().unwrap_or_default().to_ascii_lowercase();
    match status.role.as_str() {
        "failed" if failure.contains("no space left") => "; free some space, then restart the node",
        _ => "",
    }
}

/// Returns at Ctrl-C or SIGTERM.
pub(crate) async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = terminate.recv() => return,
                ended = tokio::signal::ctrl_c() => if ended.is_ok() { return },
            }
        }
    }
    if tokio::signal::ctrl_c().await.is_err() {
        // Without a handler the signal ends the process by itself.
        std::future::pending::<()>().await;
    }
}

/// Returns when standard input ends, if `wanted`. The process ends soon afterwards, whatever it is doing.
fn parent_gone(wanted: bool) -> impl Future<Output = ()> {
    let (gone, waiting) = tokio::sync::oneshot::channel::<()>();
    if wanted {
        // A thread of its own: a read from standard input cannot be given up, and would hold a runtime's shutdown.
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            let _ = gone.send(());
            std::thread::sleep(ORPHAN);
            std::process::exit(1);
        });
    }
    async move {
        match wanted {
            true => drop(waiting.await),
            false => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(why: &str) -> NodeStatus {
        NodeStatus { role: "failed".into(), failure: Some(why.into()), ..NodeStatus::default() }
    }

    #[test]
    fn a_full_disk_asks_for_space_and_a_restart() {
        assert!(remedy(&failed("writing the log: No space left on device (os error 28)")).contains("then restart"));
        assert_eq!(remedy(&failed("damaged data at x")), "");
    }

    #[test]
    fn a_damaged_directory_leads_to_no_other_directory() {
        let damaged = StartupError::Storage { doing: "opening the log", source: Error::corrupt("x") };
        let old = StartupError::Directory(StartError::HardStateOld { term: 1, last: 2 });
        for error in [damaged, old] {
            assert_eq!(start_failure(&error).next.unwrap(), "d-engine status --endpoints ANOTHER_NODE");
        }
        let other = StartupError::Directory(StartError::OtherNode { found: 2, expected: 1 });
        assert_eq!(start_failure(&other).next.unwrap(), "d-engine serve --id 2 …");
    }
}
