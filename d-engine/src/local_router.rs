//! Joins nodes of one process without a network: for tests, and for looking at a cluster in a debugger.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use async_trait::async_trait;
use bytes::Bytes;
use d_engine_core::LogId;
use d_engine_net::{SnapshotAnswer, SnapshotOffer, SnapshotSink};
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
    /// From whom to whom nothing gets through.
    cut: BTreeSet<(NodeId, NodeId)>,
    #[cfg(feature = "testing")]
    weather: Option<Arc<crate::testing::Weather>>,
}

impl Net {
    fn lets_through(&self, from: NodeId, to: NodeId) -> bool {
        let is_isolated = self.isolated.contains(&from) || self.isolated.contains(&to);
        !is_isolated && !self.cut.contains(&(from, to))
    }
}

impl LocalRouter {
    /// A router without nodes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Loses every message from and to `node` from now on.
    pub fn isolate(&self, node: NodeId) {
        self.change().isolated.insert(node);
    }

    /// Ends [`isolate`](LocalRouter::isolate).
    pub fn heal(&self, node: NodeId) {
        self.change().isolated.remove(&node);
    }

    /// Loses every message of these pairs of sender and receiver from now on.
    #[cfg(feature = "testing")]
    pub(crate) fn cut(&self, pairs: impl IntoIterator<Item = (NodeId, NodeId)>) {
        self.change().cut.extend(pairs);
    }

    /// Ends every [`cut`](LocalRouter::cut).
    #[cfg(feature = "testing")]
    pub(crate) fn mend(&self) {
        self.change().cut.clear();
    }

    /// Loses and delays messages from now on; `None`: no more.
    #[cfg(feature = "testing")]
    pub(crate) fn set_weather(&self, weather: Option<Arc<crate::testing::Weather>>) {
        self.change().weather = weather;
    }

    // A poisoned lock is used on: nothing that can panic runs under it.
    fn look(&self) -> RwLockReadGuard<'_, Net> {
        self.net.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> RwLockWriteGuard<'_, Net> {
        self.net.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn join(&self, node: NodeId, shared: &Arc<Shared>) {
        self.change().nodes.insert(node, Arc::downgrade(shared));
    }

    /// The node `to`, if `from` can ask it and hear its answer, and it takes calls.
    pub(crate) fn reach(&self, from: NodeId, to: NodeId) -> Option<Arc<Shared>> {
        let is_heard = self.look().lets_through(to, from);
        self.connected(from, to).filter(|shared| is_heard && shared.is_open())
    }

    /// The node `to`, if a message from `from` gets there.
    fn connected(&self, from: NodeId, to: NodeId) -> Option<Arc<Shared>> {
        let net = self.look();
        if net.lets_through(from, to) { net.nodes.get(&to)?.upgrade() } else { None }
    }

    /// Offers a snapshot; the connection may break at any chunk.
    pub(crate) async fn offer_snapshot(
        &self,
        from: NodeId,
        to: NodeId,
        offer: SnapshotOffer,
    ) -> Result<SnapshotAnswer, String> {
        let Some(receiver) = self.reach(from, to) else { return Err(unreachable(to)) };
        Ok(match receiver.take_snapshot(offer).await? {
            SnapshotAnswer::Accepted(sink) => {
                SnapshotAnswer::Accepted(Box::new(Line { router: self.clone(), from, to, sink }))
            }
            held => held,
        })
    }

    /// Carries messages, or loses them. What one peer is told arrives at once, in order: it then handles it in one round.
    pub(crate) fn send(&self, from: NodeId, messages: &mut Vec<(NodeId, Message)>) {
        #[cfg(feature = "testing")]
        {
            // Not within the condition, which would keep the lock while the message is carried.
            let weather = self.look().weather.clone();
            if let Some(weather) = weather {
                return messages.drain(..).for_each(|(to, message)| weather.carry(self, from, to, message));
            }
        }
        // Stable: the order of what goes to one peer stays.
        messages.sort_by_key(|(to, _)| *to);
        let mut messages = messages.drain(..).peekable();
        while let Some((to, first)) = messages.next() {
            let mut together = vec![first];
            while let Some((_, message)) = messages.next_if(|(next, _)| *next == to) {
                together.push(message);
            }
            self.deliver(from, to, together);
        }
    }

    /// Hands messages over now.
    pub(crate) fn deliver(&self, from: NodeId, to: NodeId, messages: Vec<Message>) {
        // A node that takes no calls any more still hands leadership over: its inbox says when it has ended.
        if self.connected(from, to).is_some_and(|receiver| receiver.inbox.deliver(from, messages)) {
            return;
        }
        if let Some(sender) = self.connected(from, from) {
            sender.inbox.complete(Input::Unreachable { to });
        }
    }
}

fn unreachable(node: NodeId) -> String {
    format!("node {node} cannot be reached")
}

/// The way of a snapshot's chunks.
struct Line {
    router: LocalRouter,
    from: NodeId,
    to: NodeId,
    sink: Box<dyn SnapshotSink>,
}

impl Line {
    fn check(&self) -> Result<(), String> {
        self.router.reach(self.from, self.to).map(|_| ()).ok_or_else(|| unreachable(self.to))
    }
}

#[async_trait]
impl SnapshotSink for Line {
    fn offset(&self) -> u64 {
        self.sink.offset()
    }

    async fn write(&mut self, offset: u64, chunk: Bytes) -> Result<(), String> {
        self.check()?;
        self.sink.write(offset, chunk).await
    }

    async fn finish(self: Box<Self>) -> Result<Option<LogId>, String> {
        self.check()?;
        self.sink.finish().await
    }
}

impl std::fmt::Debug for LocalRouter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalRouter").finish_non_exhaustive()
    }
}
