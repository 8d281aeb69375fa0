//! Starts, crashes and pauses.

use super::Breach;
use super::agenda::Happening;
use super::mask::Disturbance;
use super::node::{Clock, MILLION, Machine};
use super::trace::What;
use super::world::World;
use crate::{Boot, Driver, NodeId, Restored};

impl World {
    /// Starts a node with what its disk holds.
    pub(super) fn start(&mut self, id: NodeId) -> Result<(), Breach> {
        let boot = Boot { seed: self.rng.u64(..), incarnation: self.rng.u128(..), cluster: self.rng.u128(..) };
        let drift = self.profile.drift_ppm;
        let rate = MILLION + self.rng.u64(0..=drift) - self.rng.u64(0..=drift);
        let clock = Clock { began: self.now, origin: self.rng.u64(0..MILLION * 1000), rate };
        let node = &mut self.nodes[id as usize - 1];
        if node.driver.is_some() {
            return Ok(());
        }
        let restored = self.restored(id);
        if !self.resume_installation(id, &restored)? {
            let life = self.node(id).life;
            let after = self.profile.outage(&mut self.rng);
            self.schedule(after, Happening::Restart { node: id, life });
            return Ok(());
        }
        let restored = self.restored(id);
        if self.profile.upgrades && self.rng.u8(..4) == 0 && self.occurs(Disturbance::Operator) {
            self.node_mut(id).config.feature_level += 1;
        }
        let node = &mut self.nodes[id as usize - 1];
        let (applied, last) = (node.machine.applied, node.disk.durable.last());
        let term = node.disk.hard_state.map_or(0, |state| state.term);
        self.trace.note(id, What::Started, &[term, last.term, last.index, applied]);
        node.clock = clock;
        let driver = Driver::new(node.config.clone(), restored, boot, clock.local(self.now))
            .map_err(|error| Breach::new("An Honest Disk Is Accepted", format!("node {id}: {error}")))?;
        node.driver = Some(driver);
        node.timer_at = u64::MAX;
        self.checks.started(id, &node.disk.hard_state);
        self.shake_hands(id);
        self.maybe_ask_at_once(id);
        self.run_node(id)
    }

    /// What a start finds. A machine that has forgotten more than the log has purged begins with the newest snapshot.
    fn restored(&mut self, id: NodeId) -> Restored {
        let node = &mut self.nodes[id as usize - 1];
        if let Some(snapshot) = &node.shelf.newest
            && node.machine.applied < snapshot.at.index
        {
            node.machine.install(snapshot);
        }
        Restored {
            hard_state: node.disk.hard_state,
            log: node.disk.summary(),
            snapshot: node.shelf.newest.as_ref().map(|snapshot| (snapshot.at, (*snapshot.membership).clone())),
            last_applied: self.checks.id_of(node.machine.applied),
        }
    }

    /// A node loses power: the machine and the disk keep what is synced, and perhaps some of what is not.
    pub(super) fn crash_node(&mut self, id: NodeId, survive: Option<usize>) -> Result<(), Breach> {
        let checks = &mut self.checks;
        let rng = &mut self.rng;
        let node = &mut self.nodes[id as usize - 1];
        if node.driver.take().is_none() {
            return Ok(());
        }
        node.life += 1;
        (node.is_paused, node.is_wake_scheduled, node.crash_after) = (false, false, None);
        (node.last_role, node.last_commit) = ((None, 0), 0);
        node.inbox.clear();
        node.waiting.clear();
        node.reading.clear();
        node.shelf.building = None;
        let receipt = node.shelf.receipt.take();
        let unsynced = node.disk.unsynced_steps();
        let survive = survive.unwrap_or_else(|| if rng.bool() { rng.usize(0..=unsynced) } else { 0 }).min(unsynced);
        node.disk.lose_power(survive, |write, steps, hard, log| checks.landing(id, write, steps, hard, log))?;
        let kept = if rng.bool() { node.machine.applied } else { rng.u64(node.machine.synced..=node.machine.applied) };
        node.machine = Machine::replay(&checks.chosen()[..kept as usize]);
        let last = node.disk.durable.last();
        self.trace.note(id, What::Crashed, &[survive as u64, unsynced as u64, last.term, last.index]);
        if let Some(receipt) = receipt {
            self.answer_sender(receipt, id, None);
        }
        Ok(())
    }

    /// A paused node runs on.
    pub(super) fn wake_up(&mut self, id: NodeId) -> Result<(), Breach> {
        if !std::mem::take(&mut self.node_mut(id).is_paused) {
            return Ok(());
        }
        self.trace.note(id, What::Resumed, &[]);
        self.timer_fires(id)?;
        self.run_node(id)
    }
}
