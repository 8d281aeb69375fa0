//! Messages between nodes: one connection for each direction of each pair, opened by the node that sends.
//!
//! Messages may be lost, as Raft allows; they are never invented, altered or attributed to another node.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use d_engine_raft::Message;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::inbound::Claims;
use crate::outbound::Link;
use crate::{Hello, SnapshotAnswer, SnapshotOffer};

/// What peers bring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerEvent {
    /// Messages from another node that came together, in order.
    Messages {
        /// Who sent them, as its Hello said.
        from: u64,
        /// What they say.
        messages: Vec<Message>,
    },
    /// What was sent to a peer since it was connected may be lost.
    Unreachable {
        /// The peer.
        to: u64,
        /// The cause in plain words.
        why: String,
    },
    /// A peer has said who it is, on a stream that it has opened.
    Hello {
        /// What it says of itself.
        hello: Hello,
    },
    /// The peer has accepted this node's stream.
    Connected {
        /// The peer.
        to: u64,
    },
}

/// Takes what peers bring. Called from many tasks, in order for each peer; must not block, since it runs on the tasks
/// that carry the network, and [`Peers::send`] may call it on the sender's thread.
pub type PeerSink = Arc<dyn Fn(PeerEvent) + Send + Sync>;

/// Streams to and from all peers.
pub struct Peers {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
}

/// What all streams share.
pub(crate) struct Shared {
    pub(crate) hello: watch::Receiver<Hello>,
    pub(crate) sink: PeerSink,
    pub(crate) claims: Claims,
    pub(crate) stop: watch::Receiver<bool>,
    links: Mutex<BTreeMap<u64, Arc<Link>>>,
    addresses: Mutex<Addresses>,
    tasks: Mutex<JoinSet<()>>,
    runtime: Handle,
    warned: Mutex<HashSet<String>>,
}

/// Where peers are.
#[derive(Default)]
struct Addresses {
    /// As the node was told.
    named: BTreeMap<u64, String>,
    /// As those say who have a stream to this node, and whether that counts more than what the node was told.
    said: BTreeMap<u64, (String, bool)>,
}

impl Addresses {
    fn to_dial(&self) -> BTreeMap<u64, String> {
        let mut wanted = self.named.clone();
        for (node, (address, is_advertised)) in &self.said {
            if *is_advertised || !wanted.contains_key(node) {
                wanted.insert(*node, address.clone());
            }
        }
        wanted
    }
}

impl Peers {
    /// Starts without any address.
    ///
    /// `hello` is what this node says of itself; when it changes, open streams say so.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(hello: watch::Receiver<Hello>, sink: PeerSink) -> Self {
        let (stop, stopped) = watch::channel(false);
        let shared = Shared {
            hello,
            sink,
            claims: Claims::default(),
            stop: stopped,
            links: Mutex::default(),
            addresses: Mutex::default(),
            tasks: Mutex::default(),
            runtime: Handle::current(),
            warned: Mutex::default(),
        };
        Self { shared: Arc::new(shared), stop }
    }

    /// Says where the peers are, as `host:port`; this node itself is left out. Peers that are not named are not dialled
    /// any more, unless they have dialled this node and said where they are; one whose address changed is dialled anew.
    pub fn set_addresses(&self, addresses: Vec<(u64, String)>) {
        lock(&self.shared.addresses).named = addresses.into_iter().collect();
        self.shared.dial();
    }

    /// Sends messages, those to each peer in their order; never waits. What a connection has no room for at once is queued.
    /// When a peer's queue is full or nobody knows its address, its messages are dropped, and [`PeerEvent::Unreachable`]
    /// says so once.
    pub fn send(&self, messages: impl IntoIterator<Item = (u64, Message)>) {
        let mut links: Vec<Arc<Link>> = Vec::new();
        for (to, message) in messages {
            let known = links.iter().find(|link| link.to() == to).cloned();
            match known
                .or_else(|| lock(&self.shared.links).get(&to).cloned().inspect(|link| links.push(Arc::clone(link))))
            {
                Some(link) => link.queue(message, &self.shared),
                None => tracing::debug!(to, "a message was dropped: the peer's address is not known"),
            }
        }
        for link in links {
            link.flush();
        }
    }

    /// [`offer_snapshot`](crate::offer_snapshot) to a peer whose address is known.
    ///
    /// # Errors
    /// In plain words why the peer cannot be reached or does not take it.
    pub async fn offer_snapshot(&self, to: u64, offer: SnapshotOffer) -> Result<SnapshotAnswer, String> {
        let address = lock(&self.shared.addresses).to_dial().remove(&to);
        let address = address.ok_or_else(|| format!("the address of node {to} is not known"))?;
        let hello = self.shared.hello.borrow().clone();
        crate::offer_snapshot(&address, &hello, to, offer).await
    }

    /// Ends all connections in both directions and joins the tasks that send. Afterwards nothing is sent, and no further frame
    /// is received.
    pub async fn shutdown(&self) {
        self.stop.send_replace(true);
        lock(&self.shared.links).clear();
        let mut tasks = std::mem::take(&mut *lock(&self.shared.tasks));
        while tasks.join_next().await.is_some() {}
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(lock(&self.shared.links).keys()).finish()
    }
}

const WARNED_MAX: usize = 256;

impl Shared {
    /// Brings the links in line with the addresses.
    fn dial(self: &Arc<Self>) {
        let this_node = self.hello.borrow().node;
        let mut links = lock(&self.links);
        let mut tasks = lock(&self.tasks);
        // Links that ended are joined here, so that they do not pile up.
        while tasks.try_join_next().is_some() {}
        let mut wanted = lock(&self.addresses).to_dial();
        wanted.remove(&this_node);
        links.retain(|node, link| {
            let stays = wanted.contains_key(node);
            if !stays {
                link.close();
            }
            stays
        });
        if self.is_stopped() {
            return;
        }
        for (node, address) in wanted {
            if let Some(link) = links.get(&node) {
                link.set_address(address);
                continue;
            }
            let link = Arc::new(Link::new(node, address));
            tasks.spawn_on(link.clone().run(self.clone()), &self.runtime);
            links.insert(node, link);
        }
    }

    /// A peer has said who and where it is.
    pub(crate) fn greeted_by(self: &Arc<Self>, hello: &Hello) {
        if !hello.address.is_empty() {
            let said = (hello.address.clone(), hello.is_advertised);
            let before = lock(&self.addresses).said.insert(hello.node, said.clone());
            if before != Some(said) {
                self.dial();
            }
        }
        (self.sink)(PeerEvent::Hello { hello: hello.clone() });
    }

    /// A peer's stream has ended, and no other has taken its place.
    pub(crate) fn left_by(self: &Arc<Self>, node: u64) {
        if lock(&self.addresses).said.remove(&node).is_some() {
            self.dial();
        }
    }

    /// Logs a cause once, not once per attempt.
    pub(crate) fn warn_once(&self, why: &str) {
        let mut warned = lock(&self.warned);
        if warned.len() >= WARNED_MAX {
            warned.clear();
        }
        if warned.insert(why.to_owned()) {
            tracing::warn!("peer refused: {why}");
        }
    }

    /// A peer has dialled this node, so it lives: dial it at once.
    pub(crate) fn heard_from(&self, node: u64) {
        if let Some(link) = lock(&self.links).get(&node) {
            link.dial_now();
        }
    }

    pub(crate) fn is_stopped(&self) -> bool {
        *self.stop.borrow() || self.stop.has_changed().is_err()
    }

    /// Completes when the peers are shut down or dropped.
    pub(crate) async fn stopped(&self) {
        let mut stop = self.stop.clone();
        let _ = stop.wait_for(|stopped| *stopped).await;
    }
}

/// The data under these locks stays consistent at every point where its holder could panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
