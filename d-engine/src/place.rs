//! A node's place in its cluster: asking to be added, noticing that it was removed, following addresses that change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use d_engine_net::NodeStatus;
use d_engine_raft::{NodeId, Status};

use crate::shared::Shared;

/// After a leader was last known, so many looks pass before the others are asked why.
const LOOKS: u32 = 2;

/// What a node knows about its place that consensus does not.
#[derive(Debug, Default)]
pub(crate) struct PlaceInCluster {
    /// The cluster goes on without this node.
    removed: Option<String>,
    /// Why nobody has added this node yet.
    not_added: Option<String>,
    /// Addresses that peers have set for others to use, with their data directories.
    said: BTreeMap<NodeId, (u128, String)>,
    /// Learners, with their data directories, that this node promotes once they have caught up.
    followed: BTreeSet<(NodeId, u128)>,
}

impl Shared {
    fn in_cluster<T>(&self, use_it: impl FnOnce(&mut PlaceInCluster) -> T) -> T {
        // What is under the lock is consistent wherever its holder could panic.
        use_it(&mut self.place.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Why this node was removed from its cluster, if it was. Asked by every call: usually one load.
    pub(crate) fn removed(&self) -> Option<String> {
        let is_removed = self.is_removed.load(Ordering::Relaxed);
        if is_removed { self.in_cluster(|place| place.removed.clone()) } else { None }
    }

    fn set_removed(&self, why: Option<String>) {
        let is_removed = why.is_some();
        self.in_cluster(|place| place.removed = why);
        self.is_removed.store(is_removed, Ordering::SeqCst);
        if is_removed {
            self.end_watches();
        }
    }

    /// Why this node does not serve although consensus has not failed.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.in_cluster(|place| place.removed.clone().or_else(|| place.not_added.clone()))
    }

    /// A peer has said where it wants to be reached.
    #[cfg(feature = "server")]
    pub(crate) fn note_address(&self, node: NodeId, incarnation: u128, address: String) {
        self.in_cluster(|place| place.said.insert(node, (incarnation, address)));
    }

    /// Whether nobody followed this learner before.
    pub(crate) fn begin_to_follow(&self, node: NodeId, incarnation: u128) -> bool {
        self.in_cluster(|place| place.followed.insert((node, incarnation)))
    }

    pub(crate) fn cease_to_follow(&self, node: NodeId, incarnation: u128) {
        self.in_cluster(|place| place.followed.remove(&(node, incarnation)));
    }

    /// Starts what looks after the node's place.
    pub(crate) fn take_place(self: &Arc<Self>) {
        let every = Duration::from_millis(self.config.raft.election_timeout_max_ms);
        let shared = Arc::downgrade(self);
        self.own(look_after(shared, every));
        #[cfg(feature = "server")]
        if let (Some(address), crate::shared::Route::Network(_)) = (&self.config.cluster.join, &self.route)
            && self.published.status().identity.cluster == 0
        {
            self.own(join(Arc::downgrade(self), address.clone(), every));
        }
    }

    /// Asks the others, when no leader has been known for a while, whether the cluster goes on without this node.
    async fn look_for_removal(&self, status: &Status) {
        let others = status.membership.members.iter().filter(|member| member.node != status.node);
        for member in others {
            let Ok(theirs) = self.ask_status(member.node, &member.address).await else { continue };
            if let Some(why) = removed_by(&theirs, status) {
                tracing::error!(node = status.node, %why, "this node stops serving");
                return self.set_removed(Some(why));
            }
        }
    }

    /// Tells the cluster addresses that members have set anew, if this node leads.
    async fn follow_addresses(self: &Arc<Self>, status: &Status) {
        if status.leader != Some(status.node) {
            return;
        }
        let said = self.in_cluster(|place| place.said.clone());
        let own =
            self.config.node.advertise.clone().map(|address| (status.node, (status.identity.incarnation, address)));
        for (node, (incarnation, address)) in said.into_iter().chain(own) {
            let member = status.membership.member(node).filter(|member| member.incarnation == incarnation);
            if member.is_some_and(|member| member.address != address) {
                tracing::info!(node, address, "a member has another address now");
                let operation = d_engine_net::Operation::Move { node, address };
                if let Err(error) = self.operate(operation, true).await {
                    tracing::debug!(node, %error, "the address is told the cluster later");
                }
            }
        }
    }
}

/// Whether `theirs`, the status of a leader of this node's cluster, no longer has this node as a member.
fn removed_by(theirs: &NodeStatus, own: &Status) -> Option<String> {
    let is_member =
        |member: &d_engine_net::MemberStatus| member.node == own.node && member.incarnation == own.identity.incarnation;
    let leads = theirs.role == "leader" && theirs.cluster == own.identity.cluster;
    (leads && !theirs.members.iter().any(is_member)).then(|| {
        format!(
            "node {} was removed from its cluster, as node {}, which leads it, says. It may be added again; otherwise stop it",
            own.node, theirs.node
        )
    })
}

async fn look_after(shared: Weak<Shared>, every: Duration) {
    let mut looks_without_leader = 0;
    loop {
        tokio::time::sleep(every).await;
        let Some(shared) = shared.upgrade().filter(|shared| shared.is_open()) else { return };
        let status = shared.published.status();
        if status.failure.is_some() {
            shared.end_watches();
        }
        if status.leader.is_some() || !status.identity.formed {
            looks_without_leader = 0;
            shared.set_removed(None);
        } else {
            looks_without_leader += 1;
            if looks_without_leader >= LOOKS {
                shared.look_for_removal(&status).await;
            }
        }
        shared.follow_addresses(&status).await;
    }
}

/// Asks at `address` to be added as a learner, until a leader has welcomed this directory.
#[cfg(feature = "server")]
async fn join(shared: Weak<Shared>, address: String, every: Duration) {
    let connection = d_engine_net::Connection::new(&address);
    loop {
        let Some(shared) = shared.upgrade().filter(|shared| shared.is_open()) else { return };
        if shared.published.status().identity.cluster != 0 {
            return shared.in_cluster(|place| place.not_added = None);
        }
        let operation = d_engine_net::Operation::AddLearner {
            node: shared.id(),
            address: shared.config.advertised(),
            promote: true,
        };
        let deadline = tokio::time::Instant::now() + shared.config.request_timeout();
        // Asked for again until the leader's welcome has arrived.
        let why = connection.operate(operation, false, deadline).await.err();
        if let Some(error) = &why {
            tracing::warn!(node = shared.id(), address, %error, "this node is not added yet");
        }
        let why = why.map(|error| format!("node {} asks at {address} to be added: {error}", shared.id()));
        shared.in_cluster(|place| place.not_added = why);
        drop(shared);
        tokio::time::sleep(every).await;
    }
}
