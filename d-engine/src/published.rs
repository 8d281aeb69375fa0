//! What the driver loop shows to everybody else: the status, who leads, who the members are.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use d_engine_net::{Hello, TransferProgress};
use d_engine_raft::{NodeId, Role, Status};
use tokio::sync::watch;

use crate::lease_word::LeaseWord;

/// Who leads, as one node knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Leadership {
    /// The node's term.
    pub term: u64,
    /// The leader of that term, if it is known.
    pub leader: Option<NodeId>,
}

pub(crate) struct Published {
    status: Mutex<Status>,
    leadership: watch::Sender<Leadership>,
    /// The leader's id, 0 if none is known: read by every call.
    leader: AtomicU64,
    /// What callers read by who trust this node's lease.
    pub(crate) lease: LeaseWord,
    hello: watch::Sender<Hello>,
    /// Snapshots on their way to replicas.
    transfers: Mutex<BTreeMap<NodeId, TransferProgress>>,
}

impl Published {
    /// `hello` holds what peers are told beside the identity.
    pub(crate) fn new(status: Status, hello: Hello) -> Self {
        let identity = status.identity;
        Self {
            leadership: watch::Sender::new(leadership(&status)),
            leader: AtomicU64::new(status.leader.unwrap_or(0)),
            lease: LeaseWord::default(),
            hello: watch::Sender::new(Hello { cluster: identity.cluster, incarnation: identity.incarnation, ..hello }),
            status: Mutex::new(status),
            transfers: Mutex::default(),
        }
    }

    /// Shows a new status. Returns the members to dial, if they are others than before.
    pub(crate) fn publish(&self, status: Status) -> Option<Vec<(NodeId, String)>> {
        let now = leadership(&status);
        let identity = status.identity;
        let before = std::mem::replace(&mut *self.lock(), status);
        let moved = leadership(&before) != now;
        if moved {
            self.leader.store(now.leader.unwrap_or(0), Ordering::Release);
            self.leadership.send_replace(now);
        }
        if before.identity != identity {
            self.hello.send_modify(|hello| {
                hello.cluster = identity.cluster;
                hello.incarnation = identity.incarnation;
            });
        }
        let status = self.lock();
        if moved || before.role != status.role {
            tracing::info!(node = status.node, term = now.term, role = ?status.role, leader = ?now.leader, "role");
        }
        (before.membership.members != status.membership.members).then(|| members(&status))
    }

    /// The node ended by a fault of its own: it takes part no more.
    pub(crate) fn fail(&self, why: String) {
        self.lease.clear();
        let mut status = self.status();
        status.role = Role::Failed;
        status.leader = None;
        status.failure.get_or_insert(why);
        self.publish(status);
    }

    /// How far a snapshot to `to` is; `None`: none is on its way.
    pub(crate) fn note_transfer(&self, to: NodeId, progress: Option<TransferProgress>) {
        let mut transfers = self.transfers.lock().unwrap_or_else(PoisonError::into_inner);
        match progress {
            Some(progress) => transfers.insert(to, progress),
            None => transfers.remove(&to),
        };
    }

    pub(crate) fn transfer_to(&self, to: NodeId) -> Option<TransferProgress> {
        self.transfers.lock().unwrap_or_else(PoisonError::into_inner).get(&to).copied()
    }

    pub(crate) fn status(&self) -> Status {
        self.lock().clone()
    }

    pub(crate) fn node(&self) -> NodeId {
        self.lock().node
    }

    pub(crate) fn failure(&self) -> Option<String> {
        self.lock().failure.clone()
    }

    pub(crate) fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    /// The leader, if one is known; a load.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        Some(self.leader.load(Ordering::Acquire)).filter(|leader| *leader != 0)
    }

    /// Where a member is reached.
    pub(crate) fn address_of(&self, node: NodeId) -> Option<String> {
        self.lock().membership.member(node).map(|member| member.address.clone())
    }

    /// The members to dial; none while the node belongs to no cluster.
    #[cfg(feature = "server")]
    pub(crate) fn members(&self) -> Vec<(NodeId, String)> {
        members(&self.lock())
    }

    #[cfg(feature = "server")]
    pub(crate) fn hello(&self) -> watch::Receiver<Hello> {
        self.hello.subscribe()
    }

    // A poisoned lock is used on: the value under it is replaced whole.
    fn lock(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn leadership(status: &Status) -> Leadership {
    Leadership { term: status.term, leader: status.leader }
}

fn members(status: &Status) -> Vec<(NodeId, String)> {
    status.membership.members.iter().map(|member| (member.node, member.address.clone())).collect()
}
