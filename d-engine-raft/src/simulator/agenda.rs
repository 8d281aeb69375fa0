//! What is going to happen, in order of time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use d_engine_core::LogId;

use super::snapshots::{Receipt, Snapshot};
use crate::{Message, NodeId};

/// Something that is going to happen.
#[derive(Debug)]
pub(super) enum Happening {
    Arrive {
        from: NodeId,
        to: NodeId,
        message: Message,
    },
    Wake {
        node: NodeId,
        life: u32,
    },
    Timer {
        node: NodeId,
        life: u32,
    },
    Synced {
        node: NodeId,
        life: u32,
    },
    Apply {
        node: NodeId,
        life: u32,
    },
    ReadLog {
        node: NodeId,
        life: u32,
        ticket: u64,
        first: u64,
        last: u64,
        max_bytes: usize,
    },
    Broken {
        node: NodeId,
        life: u32,
        to: NodeId,
    },
    Restart {
        node: NodeId,
        life: u32,
    },
    Resume {
        node: NodeId,
        life: u32,
    },
    Unstall {
        node: NodeId,
        life: u32,
    },
    /// The disk has refused a write for want of space.
    Full {
        node: NodeId,
        life: u32,
    },
    Free {
        node: NodeId,
        life: u32,
    },
    Heal {
        partition: u64,
    },
    Inject,
    Request,
    /// The operator does something.
    Operate,
    /// The operator is quick: a new leader is asked at once.
    Hurry,
    Deafen {
        node: NodeId,
        but: NodeId,
        restarts: bool,
    },
    Ask {
        node: Option<NodeId>,
    },
    /// A new leader loses power.
    Depose {
        node: NodeId,
        life: u32,
    },
    Sleep {
        node: NodeId,
        life: u32,
        wakes_after: u64,
    },
    Build {
        node: NodeId,
        life: u32,
    },
    SnapshotArrives {
        to: NodeId,
        term: u64,
        snapshot: Arc<Snapshot>,
        receipt: Receipt,
    },
    SnapshotAnswered {
        node: NodeId,
        life: u32,
        to: NodeId,
        session: u64,
        installed: Option<LogId>,
    },
    /// `node` shakes hands with `from`.
    Hello {
        node: NodeId,
        life: u32,
        from: NodeId,
        incarnation: u128,
        feature_level: u32,
    },
}

/// Everything that is going to happen.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    /// Time, order of planning, and place in `slots`: what moves when the heap is reordered is small.
    queue: BinaryHeap<Reverse<(u64, u64, u32)>>,
    planned: u64,
    slots: Vec<Option<Happening>>,
    free: Vec<u32>,
}

impl Agenda {
    /// Plans something for time `at`, behind what is planned for that time already.
    pub(super) fn plan(&mut self, at: u64, happening: Happening) {
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(happening);
                slot
            }
            None => {
                self.slots.push(Some(happening));
                self.slots.len() as u32 - 1
            }
        };
        self.planned += 1;
        self.queue.push(Reverse((at, self.planned, slot)));
    }

    /// The time of what comes next.
    pub(super) fn next_at(&self) -> Option<u64> {
        self.queue.peek().map(|Reverse((at, _, _))| *at)
    }

    /// What comes next, with its time.
    pub(super) fn pop(&mut self) -> Option<(u64, Happening)> {
        let Reverse((at, _, slot)) = self.queue.pop()?;
        let happening = self.slots[slot as usize].take().expect("a planned slot is filled until its time has come");
        self.free.push(slot);
        Some((at, happening))
    }
}
