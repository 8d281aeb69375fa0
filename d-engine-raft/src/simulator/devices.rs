//! What a node's disk and state machine do with what they are told, and when.

use d_engine_core::Entry;

use super::Breach;
use super::agenda::Happening;
use super::faults::Fault;
use super::node::Order;
use super::trace::What;
use super::world::World;
use crate::{Event, Input, NodeId};

impl World {
    /// Begins to sync what waits, unless a sync is under way.
    pub(super) fn begin_sync(&mut self, id: NodeId) {
        let after = self.profile.sync_time(&mut self.rng);
        let node = self.node_mut(id);
        if node.disk.wants_sync() {
            node.disk.begin_sync();
            let life = node.life;
            self.schedule(after, Happening::Synced { node: id, life });
        }
        if self.node_mut(id).disk.refuses() {
            let life = self.node(id).life;
            self.schedule(0, Happening::Full { node: id, life });
        }
    }

    pub(super) fn synced(&mut self, id: NodeId) -> Result<(), Breach> {
        let checks = &mut self.checks;
        let node = &mut self.nodes[id as usize - 1];
        if !node.disk.is_syncing() || node.disk.stalled {
            return Ok(());
        }
        let done = node.disk.complete_sync(|write, steps, hard, log| checks.landing(id, write, steps, hard, log))?;
        let last = node.disk.durable.last();
        self.begin_sync(id);
        match done {
            Some(seq) => {
                self.trace.note(id, What::Persisted, &[seq, last.index, last.term]);
                self.give(id, Input::Persisted { seq })
            }
            None => Ok(()),
        }
    }

    /// A stalled disk goes on.
    pub(super) fn unstall(&mut self, id: NodeId) -> Result<(), Breach> {
        let disk = &mut self.node_mut(id).disk;
        if !std::mem::take(&mut disk.stalled) {
            return Ok(());
        }
        if disk.is_syncing() { self.synced(id) } else { Ok(()) }
    }

    /// There is space again: what was refused is written now.
    pub(super) fn free_disk(&mut self, id: NodeId) -> Result<(), Breach> {
        let was_refused = self.node_mut(id).disk.free();
        self.begin_sync(id);
        if was_refused {
            self.trace.note(id, What::Freed, &[]);
            return self.give(id, Input::StorageFreed);
        }
        Ok(())
    }

    pub(super) fn read_log(
        &mut self,
        id: NodeId,
        ticket: u64,
        first: u64,
        last: u64,
        max_bytes: usize,
    ) -> Result<(), Breach> {
        let entries = if self.profile.fails_to_read(&mut self.rng) && self.occurs(Fault::ReadError) {
            self.faults.add(Fault::ReadError);
            Err("the simulated disk cannot read this".to_owned())
        } else {
            Ok(self.node(id).disk.read(first, last, max_bytes))
        };
        let count = entries.as_ref().map_or(0, Vec::len) as u64;
        self.trace.note(id, What::LogRead, &[first, count]);
        self.give(id, Event::LogRead { ticket, entries })
    }

    /// The node tells its state machine to apply.
    pub(super) fn order(&mut self, id: NodeId, first: u64, last: u64, entries: Vec<Entry>) -> Result<(), Breach> {
        self.trace.note(id, What::Applying, &[first, last]);
        self.checks.applying(self.node(id), last)?;
        let machine = &mut self.node_mut(id).machine;
        if first != machine.ordered + 1 || last < first {
            let detail = format!("node {id} applies {first}..={last} after {}", machine.ordered);
            return Err(Breach::new("Entries Are Applied In Order", detail));
        }
        machine.ordered = last;
        self.give_order(id, Order::Apply { first, last, entries });
        Ok(())
    }

    pub(super) fn give_order(&mut self, id: NodeId, order: Order) {
        let orders = &mut self.node_mut(id).machine.orders;
        orders.push_back(order);
        if orders.len() == 1 {
            self.begin_apply(id);
        }
    }

    pub(super) fn begin_apply(&mut self, id: NodeId) {
        let after = self.rng.u64(10..1_000);
        let life = self.node(id).life;
        self.schedule(after, Happening::Apply { node: id, life });
    }

    /// The machine carries out its next order.
    pub(super) fn obey(&mut self, id: NodeId) -> Result<(), Breach> {
        let orders = &mut self.node_mut(id).machine.orders;
        let Some(order) = orders.pop_front() else { return Ok(()) };
        if !orders.is_empty() {
            self.begin_apply(id);
        }
        match order {
            Order::Apply { first, last, entries } => self.apply(id, first, last, entries),
            Order::Install(at) => self.install(id, at),
        }
    }

    fn apply(&mut self, id: NodeId, first: u64, last: u64, mut entries: Vec<Entry>) -> Result<(), Breach> {
        let syncs = self.rng.u8(..4) == 0;
        let node = &mut self.nodes[id as usize - 1];
        if entries.is_empty() {
            entries = node.disk.read(first, last, usize::MAX);
        }
        if !entries.iter().map(|entry| entry.index).eq(first..=last) {
            let detail = format!("node {id} is to apply {first}..={last} but is given other entries");
            return Err(Breach::new("Entries Are Applied In Order", detail));
        }
        for entry in &entries {
            self.checks.applied(id, entry)?;
            node.machine.apply(entry);
        }
        if syncs {
            node.machine.synced = last;
        }
        self.trace.note(id, What::Applied, &[last]);
        self.answer(id)?;
        self.maybe_make_snapshot(id)?;
        self.give(id, Input::Applied { index: last })
    }

    /// Answers the clients whose index has been applied.
    pub(super) fn answer(&mut self, id: NodeId) -> Result<(), Breach> {
        let node = &mut self.nodes[id as usize - 1];
        let machine = &node.machine;
        while let Some((at, request)) = node.waiting.pop_front_if(|(at, _)| at.index <= machine.applied) {
            let entry = &self.checks.chosen()[at.index as usize - 1];
            self.clients.applied(request, at, entry)?;
        }
        let mut at = 0;
        while at < node.reading.len() {
            if node.reading[at].0 <= machine.applied {
                let (_, request) = node.reading.swap_remove(at);
                self.clients.read_done(request, machine.applied, &machine.written)?;
            } else {
                at += 1;
            }
        }
        Ok(())
    }
}
