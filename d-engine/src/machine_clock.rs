//! What the apply thread tells the state machine of the time and of leadership, and proposes for it.

use std::sync::Arc;
use std::time::Duration;

use d_engine_core::StateMachine;
use d_engine_raft::NodeId;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::inbox::Inbox;
use crate::published::Leadership;

/// How often the machine is told.
const INTERVAL: Duration = Duration::from_millis(100);

/// Belongs to the apply thread, between whose chunks the machine is told.
pub(crate) struct MachineClock {
    node: NodeId,
    clock: Arc<dyn Clock>,
    leadership: watch::Receiver<Leadership>,
    /// The term of the last entry that was applied.
    applied_term: u64,
    next: Duration,
}

impl MachineClock {
    pub(crate) fn new(node: NodeId, clock: Arc<dyn Clock>, leadership: watch::Receiver<Leadership>) -> Self {
        Self { node, clock, leadership, applied_term: 0, next: Duration::ZERO }
    }

    /// How long the apply thread may sleep.
    pub(crate) fn wait(&self) -> Duration {
        self.next.saturating_sub(self.clock.now())
    }

    /// Whether this node leads, as everybody sees it.
    pub(crate) fn leads(&self) -> bool {
        self.leadership.borrow().leader == Some(self.node)
    }

    /// An entry of this term has been applied.
    pub(crate) fn applied(&mut self, term: u64) {
        self.applied_term = term;
    }

    /// Tells the machine, if it is time, and proposes what it finds due. A proposal that is not taken, or lost, is the
    /// machine's to make again.
    pub(crate) fn maybe_tell(&mut self, machine: Option<&dyn StateMachine>, inbox: &Inbox) {
        let now = self.clock.now();
        if now < self.next {
            return;
        }
        self.next = now + INTERVAL;
        // None: it has failed.
        let Some(machine) = machine else { return };
        let Leadership { term, leader } = *self.leadership.borrow();
        // Once an entry of its own term has applied, everything of earlier leaders has.
        let leads = leader == Some(self.node) && term == self.applied_term;
        machine.leadership(leads, now);
        if leads {
            for command in machine.due(now) {
                // Nobody waits for the answer.
                drop(inbox.propose(command));
            }
        }
    }
}
