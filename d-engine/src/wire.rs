//! Where a node's messages go.

use d_engine_net::{SnapshotAnswer, SnapshotOffer};
use d_engine_raft::{Message, NodeId};

use crate::local_router::LocalRouter;

#[derive(Clone)]
pub(crate) enum Wire {
    /// A node without peers says nothing to anybody.
    Nowhere,
    /// To nodes of the same process.
    InProcess { from: NodeId, router: LocalRouter },
    /// To other machines.
    #[cfg(feature = "server")]
    Network { from: NodeId, peers: std::sync::Arc<d_engine_net::Peers> },
}

impl Wire {
    /// Sends messages, or loses them; never waits.
    pub(crate) fn send(&self, messages: &mut Vec<(NodeId, Message)>) {
        match self {
            Self::Nowhere => {
                for (to, _) in messages.drain(..) {
                    tracing::debug!(to, "a message is lost: this node has no network");
                }
            }
            Self::InProcess { from, router } => {
                for (to, message) in messages.drain(..) {
                    crate::budget::sent(*from, to, &message);
                    router.send(*from, to, message);
                }
            }
            #[cfg(feature = "server")]
            Self::Network { from, peers } => {
                messages.iter().for_each(|(to, message)| crate::budget::sent(*from, *to, message));
                peers.send(messages.drain(..));
            }
        }
    }

    /// Offers a snapshot to another node.
    pub(crate) async fn offer_snapshot(&self, to: NodeId, offer: SnapshotOffer) -> Result<SnapshotAnswer, String> {
        match self {
            Self::Nowhere => Err("this node has no network".into()),
            Self::InProcess { from, router } => router.offer_snapshot(*from, to, offer).await,
            #[cfg(feature = "server")]
            Self::Network { peers, .. } => peers.offer_snapshot(to, offer).await,
        }
    }

    /// Says who the members are and where; an empty list changes nothing.
    pub(crate) fn set_members(&self, members: &[(NodeId, String)]) {
        match self {
            Self::Nowhere | Self::InProcess { .. } => {}
            #[cfg(feature = "server")]
            Self::Network { from, peers } => {
                if !members.is_empty() {
                    peers.set_addresses(members.iter().filter(|(node, _)| node != from).cloned().collect());
                }
            }
        }
        let _ = members;
    }
}
