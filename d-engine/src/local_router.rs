//! Joins nodes of one process without a network: for tests, and for looking at a cluster in a debugger.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock, Weak};

use d_engine_raft::{Input, Message, NodeId};

use crate::shared::Shared;

/// Carries messages between the nodes of one process. Clones are handles of the same router.
///
/// Give it to each node with [`NodeBuilder::in_process`](crate::NodeBuilder::in_process); the nodes find each other by
/// their ids. [`isolate`](LocalRouter::isolate) cuts a node off without stopping it.
#[derive(Clone, Default)]
pub struct LocalRouter {
    net: Arc<RwLock<Net>>,
}

#[derive(Default)]
struct Net {
    nodes: BTreeMap<NodeId, Weak<Shared>>,
    isolated: BTreeSet<NodeId>,
}

impl LocalRouter {
    /// A router without nodes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Loses every message from and to `node` from now on.
    pub fn isolate(&self, node: NodeId) {
        self.net.write().unwrap_or_else(PoisonError::into_inner).isolated.insert(node);
    }

    /// Ends [`isolate`](LocalRouter::isolate).
    pub fn heal(&self, node: NodeId) {
        self.net.write().unwrap_or_else(PoisonError::into_inner).isolated.remove(&node);
    }

    pub(crate) fn join(&self, node: NodeId, shared: &Arc<Shared>) {
        self.net.write().unwrap_or_else(PoisonError::into_inner).nodes.insert(node, Arc::downgrade(shared));
    }

    /// The node `to`, if `from` can reach it and it takes calls.
    pub(crate) fn reach(&self, from: NodeId, to: NodeId) -> Option<Arc<Shared>> {
        self.connected(from, to).filter(|shared| shared.is_open())
    }

    /// The node `to`, unless one of the two is isolated.
    fn connected(&self, from: NodeId, to: NodeId) -> Option<Arc<Shared>> {
        let net = self.net.read().unwrap_or_else(PoisonError::into_inner);
        if net.isolated.contains(&from) || net.isolated.contains(&to) {
            return None;
        }
        net.nodes.get(&to)?.upgrade()
    }

    pub(crate) fn send(&self, from: NodeId, to: NodeId, message: Message) {
        // A node that takes no calls any more still hands leadership over: its inbox says when it has ended.
        if self.connected(from, to).is_some_and(|receiver| receiver.inbox.deliver(from, message)) {
            return;
        }
        if let Some(sender) = self.connected(from, from) {
            sender.inbox.complete(Input::Unreachable { to });
        }
    }
}

impl std::fmt::Debug for LocalRouter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalRouter").finish_non_exhaustive()
    }
}
