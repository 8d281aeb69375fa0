//! What the seed does to the world: faults from outside, and client requests.

use super::Breach;
use super::agenda::Happening;
use super::faults::{Fault, log_uniform};
use super::mask::Disturbance;
use super::trace::What;
use super::world::World;
use crate::{Input, NodeId, Role};

impl World {
    /// Begins to inject faults and requests.
    pub(super) fn begin_trouble(&mut self) {
        if self.options.fault_permille > 0 {
            self.schedule(0, Happening::Inject);
        }
        self.schedule(0, Happening::Request);
        if self.profile.operator_interval.is_some() {
            self.schedule(1_000_000, Happening::Operate);
        }
    }

    /// One fault, if the one drawn is on, and the time of the next.
    pub(super) fn inject_fault(&mut self) -> Result<(), Breach> {
        if self.is_settling {
            return Ok(());
        }
        let after = self.around(self.profile.fault_interval);
        self.schedule(after, Happening::Inject);
        let Some(fault) = self.profile.draw_fault(&mut self.rng) else { return Ok(()) };
        let victim = self.draw_victim();
        if !self.occurs(fault) {
            return Ok(());
        }
        if fault != Fault::CrashMidStep {
            self.faults.add(fault);
        }
        match fault {
            Fault::Partition | Fault::OneWay | Fault::Bridge => {
                self.cut_links(fault, victim);
                Ok(())
            }
            Fault::Crash => self.crash_for_a_while(victim),
            Fault::CrashMidStep => {
                self.node_mut(victim).crash_after = Some(self.rng.u32(..20));
                Ok(())
            }
            Fault::PowerLoss => (1..=self.size()).try_for_each(|node| self.crash_for_a_while(node)),
            Fault::Pause => {
                self.pause_for_a_while(victim);
                Ok(())
            }
            Fault::DiskStall => {
                self.stall_for_a_while(victim);
                Ok(())
            }
            Fault::DiskFull => {
                self.fill_disk(victim);
                Ok(())
            }
            Fault::DiskError => self.fail_disk(victim),
            Fault::Coup => self.coup(victim),
            Fault::Loss
            | Fault::Duplicate
            | Fault::Late
            | Fault::Unreachable
            | Fault::ReadError
            | Fault::Stranger
            | Fault::Wipe
            | Fault::SnapshotLost => Ok(()),
        }
    }

    /// Somebody is made to challenge a leader that cannot hear of it.
    fn coup(&mut self, victim: NodeId) -> Result<(), Breach> {
        let Some(leader) = self.leader() else { return Ok(()) };
        let (timeout, beat) = {
            let config = &self.node(leader).config;
            (config.election_timeout_max.as_micros() as u64, config.heartbeat_interval.as_micros() as u64)
        };
        let (within, restarts) = match self.rng.u8(..4) {
            0 => {
                self.request_transfer(leader, victim)?;
                (self.profile.delay_max * 4, false)
            }
            1 => {
                // Between a heartbeat and its answers, which then wait until the leader wakes up.
                let due = self.node(leader).driver.as_ref().and_then(crate::Driver::poll_timeout);
                let due = due.map_or(0, |due| self.node(leader).clock.global(due).saturating_sub(self.now));
                let after = due + self.rng.u64(1..=self.profile.delay_max);
                let life = self.node(leader).life;
                let wakes_after = self.rng.u64(timeout..timeout * 3);
                self.schedule(after, Happening::Sleep { node: leader, life, wakes_after });
                (due + beat, false)
            }
            restarts => {
                self.network.cut(leader, victim);
                (timeout * 2, restarts == 2)
            }
        };
        let after = self.rng.u64(0..=within);
        self.schedule(after, Happening::Deafen { node: leader, but: victim, restarts });
        Ok(())
    }

    /// A node has become leader: the operator is quick, and so is whoever raises storms.
    pub(super) fn somebody_leads(&mut self, node: NodeId) {
        if self.profile.operator_interval.is_some() && self.rng.u8(..4) == 0 {
            let after = self.rng.u64(0..2_000);
            self.schedule(after, Happening::Hurry);
        }
        if !self.profile.storms || self.rng.u8(..3) == 0 {
            return;
        }
        let life = self.node(node).life;
        // Between the first entry of its term and what a quorum says to it.
        let after = log_uniform(&mut self.rng, 200.0, 8.0 * self.profile.delay_max as f64) as u64;
        self.schedule(after, Happening::Depose { node, life });
        for _ in 0..self.rng.u8(..4) {
            let within = self.rng.u64(0..=after);
            self.schedule(within, Happening::Ask { node: None });
        }
    }

    /// A new leader loses power, and comes back in time for the election after the next.
    pub(super) fn depose(&mut self, node: NodeId) -> Result<(), Breach> {
        if self.is_settling || !self.occurs(Fault::Crash) {
            return Ok(());
        }
        self.faults.add(Fault::Crash);
        let survive = if self.rng.bool() { Some(usize::MAX) } else { None };
        self.crash_node(node, survive)?;
        let timeout = self.node(node).config.election_timeout_max.as_micros() as u64;
        let (after, life) = (self.rng.u64(0..=timeout * 3), self.node(node).life);
        self.schedule(after, Happening::Restart { node, life });
        Ok(())
    }

    /// The node stops, for longer than its followers wait.
    pub(super) fn sleep(&mut self, node: NodeId, life: u32, wakes_after: u64) {
        self.trace.note(node, What::Injected(Fault::Pause), &[]);
        self.node_mut(node).is_paused = true;
        self.schedule(wakes_after, Happening::Resume { node, life });
    }

    /// The leader hears nobody from now on; clients go on asking it, and everybody else.
    pub(super) fn deafen(&mut self, node: NodeId, but: NodeId, restarts: bool) -> Result<(), Breach> {
        if self.is_settling {
            return Ok(());
        }
        self.trace.note(node, What::Injected(Fault::Coup), &[]);
        let others: Vec<_> = (1..=self.size()).filter(|other| *other != node).collect();
        for other in others.iter().copied() {
            self.network.cut(other, node);
            if restarts && other != but && self.node(other).driver.is_some() {
                self.crash_node(other, None)?;
                let life = self.node(other).life;
                self.schedule(0, Happening::Restart { node: other, life });
            }
        }
        let timeout = self.node(node).config.election_timeout_max.as_micros() as u64;
        for number in 0..20 {
            let after = self.rng.u64(0..timeout * 2);
            let node = if number % 2 == 0 { Some(node) } else { None };
            self.schedule(after, Happening::Ask { node });
        }
        self.partition += 1;
        let (after, partition) = (timeout + self.profile.outage(&mut self.rng), self.partition);
        self.schedule(after, Happening::Heal { partition });
        Ok(())
    }

    /// Clients may be back as soon as their node is, while answers to its former life still travel.
    pub(super) fn maybe_ask_at_once(&mut self, node: NodeId) {
        if self.options.fault_permille == 0 || self.is_settling || self.rng.u8(..3) != 0 {
            return;
        }
        let within = self.node(node).config.heartbeat_interval.as_micros() as u64 * 2;
        for _ in 0..4 {
            let after = self.rng.u64(0..within);
            self.schedule(after, Happening::Ask { node: Some(node) });
        }
    }

    /// A read at a given node, or a write where it is likely to be taken.
    pub(super) fn ask(&mut self, node: Option<NodeId>) -> Result<(), Breach> {
        match (node, self.leader()) {
            _ if self.is_settling => Ok(()),
            (Some(node), _) => self.request_read(node).map(|_| ()),
            (None, Some(leader)) => self.request_write(leader).map(|_| ()),
            (None, None) => Ok(()),
        }
    }

    /// A time around `mean`.
    pub(super) fn around(&mut self, mean: u64) -> u64 {
        self.rng.u64(0..=mean.saturating_mul(2))
    }

    /// Any node, often one that leads.
    pub(super) fn draw_victim(&mut self) -> NodeId {
        let leaders: Vec<_> = (1..=self.size()).filter(|node| self.role(*node) == Some(Role::Leader)).collect();
        if !leaders.is_empty() && self.rng.bool() {
            return leaders[self.rng.usize(..leaders.len())];
        }
        self.rng.u64(1..=self.size())
    }

    fn cut_links(&mut self, fault: Fault, victim: NodeId) {
        if self.rng.bool() {
            self.network.heal();
        }
        let all = ((1u32 << (self.size() + 1)) - 2) as u16;
        let side = match self.rng.u8(..3) {
            0 => 1 << victim,
            _ => self.rng.u16(..) & all,
        };
        self.trace.note(victim, What::Injected(fault), &[u64::from(side)]);
        match fault {
            Fault::Bridge => self.network.bridge(side, victim),
            Fault::OneWay => {
                let is_deaf = self.rng.bool();
                let only_one = self.rng.bool().then(|| self.rng.u64(1..=self.size()));
                for other in (1..=self.size()).filter(|other| *other != victim && only_one.is_none_or(|o| o == *other))
                {
                    if is_deaf { self.network.cut(other, victim) } else { self.network.cut(victim, other) }
                }
            }
            _ => self.network.split(side),
        }
        self.partition += 1;
        let (after, partition) = (self.profile.outage(&mut self.rng), self.partition);
        self.schedule(after, Happening::Heal { partition });
    }

    /// A crash now and a restart later.
    pub(super) fn crash_for_a_while(&mut self, node: NodeId) -> Result<(), Breach> {
        self.crash_node(node, None)?;
        let after = if self.rng.u8(..3) == 0 { 0 } else { self.profile.outage(&mut self.rng) };
        let life = self.node(node).life;
        self.schedule(after, Happening::Restart { node, life });
        Ok(())
    }

    fn pause_for_a_while(&mut self, node: NodeId) {
        self.trace.note(node, What::Injected(Fault::Pause), &[]);
        self.node_mut(node).is_paused = true;
        let (after, life) = (self.profile.outage(&mut self.rng), self.node(node).life);
        self.schedule(after, Happening::Resume { node, life });
    }

    fn stall_for_a_while(&mut self, node: NodeId) {
        self.trace.note(node, What::Injected(Fault::DiskStall), &[]);
        self.node_mut(node).disk.stalled = true;
        let (after, life) = (self.profile.outage(&mut self.rng), self.node(node).life);
        self.schedule(after, Happening::Unstall { node, life });
    }

    /// The disk has no space, for a while.
    fn fill_disk(&mut self, node: NodeId) {
        if self.node(node).driver.is_none() {
            return;
        }
        self.trace.note(node, What::Injected(Fault::DiskFull), &[]);
        self.node_mut(node).disk.fill();
        let (after, life) = (self.profile.outage(&mut self.rng), self.node(node).life);
        self.schedule(after, Happening::Free { node, life });
    }

    /// A sync fails; the operator restarts the node later.
    fn fail_disk(&mut self, node: NodeId) -> Result<(), Breach> {
        if self.node(node).driver.is_none() || self.node(node).disk.has_failed() {
            return Ok(());
        }
        self.trace.note(node, What::StorageFailed, &[]);
        self.node_mut(node).disk.fail();
        self.node_mut(node).crash_after = Some(self.rng.u32(..200));
        self.give(node, Input::StorageFailed { why: "the simulated disk failed to sync".to_owned() })
    }

    /// A burst of requests at random nodes, and the time of the next.
    pub(super) fn request(&mut self) -> Result<(), Breach> {
        if self.is_settling {
            return Ok(());
        }
        let after = log_uniform(&mut self.rng, 0.1, 3.0) * self.profile.client_interval as f64;
        self.schedule(after as u64, Happening::Request);
        if !self.occurs(Disturbance::Request) {
            return Ok(());
        }
        for _ in 0..self.rng.u64(1..=self.profile.client_burst) {
            let node = self.draw_victim();
            if self.rng.u8(..3) == 0 {
                self.request_read(node)?
            } else {
                self.request_write(node)?
            };
        }
        Ok(())
    }

    /// A proposal at `node`; its number.
    pub(super) fn request_write(&mut self, node: NodeId) -> Result<u64, Breach> {
        let padding = self.rng.usize(..=self.profile.padding_max);
        let (id, command) = self.clients.propose(&mut self.rng, padding);
        self.trace.note(node, What::Proposed, &[id]);
        self.note_asked(id, node);
        self.give(node, Input::Propose { id, command })?;
        Ok(id)
    }

    /// A read at `node`; its number.
    pub(super) fn request_read(&mut self, node: NodeId) -> Result<u64, Breach> {
        let id = self.clients.read(&mut self.rng);
        self.trace.note(node, What::Asked, &[id]);
        self.note_asked(id, node);
        self.give(node, Input::Read { id, by_lease: true })?;
        Ok(id)
    }

    pub(super) fn note_asked(&mut self, id: u64, node: NodeId) {
        if self.node(node).driver.is_some() {
            let life = self.node(node).life;
            self.clients.asked(id, node, life);
        }
    }
}
