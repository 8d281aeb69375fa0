//! Messages between nodes.

use std::sync::Arc;

use d_engine_raft::Message;
use tokio::sync::watch;

use crate::Hello;

/// What peers bring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerEvent {
    /// A message from another node.
    Message {
        /// Who sent it, as its Hello said.
        from: u64,
        /// What it says.
        message: Message,
    },
    /// What was sent to a peer since the last event may be lost.
    Unreachable {
        /// The peer.
        to: u64,
        /// The cause in plain words.
        why: String,
    },
    /// The peer has accepted this node's stream.
    Connected {
        /// The peer.
        to: u64,
    },
}

/// Takes what peers bring. Called from many tasks, in order for each peer; must not block.
pub type PeerSink = Arc<dyn Fn(PeerEvent) + Send + Sync>;

/// One stream to every peer.
pub struct Peers {}

impl Peers {
    /// Starts without any address; call it within a tokio runtime.
    pub fn start(hello: watch::Receiver<Hello>, sink: PeerSink) -> Self {
        let _ = (hello, sink);
        unimplemented!("follows")
    }

    /// Says where the peers are; peers that are not named are not dialled any more.
    pub fn set_addresses(&self, addresses: Vec<(u64, String)>) {
        let _ = addresses;
    }

    /// Queues a message; never waits. When the peer's queue is full, the message is dropped.
    pub fn send(&self, to: u64, message: Message) {
        let _ = (to, message);
    }

    /// Ends all streams and joins their tasks.
    pub async fn shutdown(&self) {}
}
