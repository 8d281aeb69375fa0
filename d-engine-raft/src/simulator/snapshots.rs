//! Snapshots: made, sent, received, installed, and resumed after a crash at any step.
//!
//! A snapshot is made in two steps, the file and then the metadata that makes it count. A received one is marked as being
//! installed, the machine installs it, the log is purged, the mark is cleared; a restart goes on at the first step that
//! was not done.

use std::sync::Arc;

use d_engine_core::{LogId, Membership};

use super::Breach;
use super::agenda::Happening;
use super::clients::KEYS;
use super::faults::Fault;
use super::mask::Disturbance;
use super::node::Order;
use super::trace::What;
use super::world::World;
use crate::{Input, NodeId, Restored, Resume};

/// A snapshot file with its metadata.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    pub(super) at: LogId,
    /// The configuration as of `at`.
    pub(super) membership: Arc<Membership>,
    pub(super) written: [u64; KEYS],
}

/// A node's snapshots. All but `building` and `receipt` survive a crash.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    pub(super) newest: Option<Arc<Snapshot>>,
    /// Received and marked as being installed.
    pub(super) marked: Option<Arc<Snapshot>>,
    /// Being made; true: the file is durable, the metadata is not.
    pub(super) building: Option<(Arc<Snapshot>, bool)>,
    /// Who waits to hear what became of the marked one.
    pub(super) receipt: Option<Receipt>,
}

/// The sender of a snapshot, and in which of its lives and streams it sent it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Receipt {
    pub(super) from: NodeId,
    pub(super) life: u32,
    pub(super) session: u64,
}

impl Shelf {
    fn keep(&mut self, snapshot: Arc<Snapshot>) {
        if self.newest.as_ref().is_none_or(|newest| newest.at.index < snapshot.at.index) {
            self.newest = Some(snapshot);
        }
    }
}

impl World {
    /// After an application: perhaps it is time for a snapshot.
    pub(super) fn maybe_make_snapshot(&mut self, id: NodeId) -> Result<(), Breach> {
        if self.profile.makes_snapshot(&mut self.rng) && self.occurs(Disturbance::Snapshot) {
            return self.begin_snapshot(id);
        }
        Ok(())
    }

    /// The node begins to write a snapshot of what its machine holds.
    pub(super) fn begin_snapshot(&mut self, id: NodeId) -> Result<(), Breach> {
        let at = self.checks.id_of(self.node(id).machine.applied);
        let node = self.node_mut(id);
        let Some(membership) = node.machine.membership.clone() else { return Ok(()) };
        if node.driver.is_none() || node.shelf.building.is_some() {
            return Ok(());
        }
        let snapshot = Snapshot { at, membership, written: node.machine.written };
        node.shelf.building = Some((Arc::new(snapshot), false));
        self.trace.note(id, What::SnapshotBegun, &[at.term, at.index]);
        self.go_on_building(id);
        Ok(())
    }

    fn go_on_building(&mut self, id: NodeId) {
        let after = self.profile.sync_time(&mut self.rng) * 2;
        let life = self.node(id).life;
        self.schedule(after, Happening::Build { node: id, life });
    }

    pub(super) fn build(&mut self, id: NodeId) -> Result<(), Breach> {
        let fails = self.profile.fails_to_read(&mut self.rng) && self.occurs(Fault::ReadError);
        let shelf = &mut self.node_mut(id).shelf;
        match shelf.building.take() {
            // A failed build is local: the next one may succeed.
            Some(_) if fails => Ok(()),
            Some((snapshot, false)) => {
                shelf.building = Some((snapshot, true));
                self.go_on_building(id);
                Ok(())
            }
            Some((snapshot, true)) => {
                let at = snapshot.at;
                shelf.keep(snapshot);
                self.checks.snapshots += 1;
                self.trace.note(id, What::SnapshotMade, &[at.term, at.index]);
                self.give(id, Input::SnapshotMade { last_included: at })
            }
            None => Ok(()),
        }
    }

    /// The newest snapshot leaves for `to`.
    pub(super) fn send_snapshot(&mut self, from: NodeId, to: NodeId, session: u64, term: u64) -> Result<(), Breach> {
        let node = self.node(from);
        let purged = node.disk.visible.purged();
        let Some(snapshot) = node.shelf.newest.clone().filter(|snapshot| snapshot.at.index >= purged.index) else {
            let detail =
                format!("node {from} has purged its log up to {purged} and has no snapshot that reaches there");
            return Err(Breach::new("Purged ≤ Snapshot", detail));
        };
        let receipt = Receipt { from, life: node.life, session };
        self.trace.note(from, What::SnapshotSent, &[to, snapshot.at.term, snapshot.at.index, session]);
        let after = self.profile.transfer_time(&mut self.rng);
        if self.network.is_cut(from, to) || self.loses_snapshot() {
            self.faults.add(Fault::SnapshotLost);
            self.answer_sender(receipt, to, None);
            return Ok(());
        }
        self.schedule(after, Happening::SnapshotArrives { to, term, snapshot, receipt });
        Ok(())
    }

    /// The last byte has arrived and the file is verified; it is marked and synced, unless there is no place for it.
    pub(super) fn snapshot_arrives(
        &mut self,
        to: NodeId,
        term: u64,
        snapshot: Arc<Snapshot>,
        receipt: Receipt,
    ) -> Result<(), Breach> {
        let is_cut = self.network.is_cut(receipt.from, to);
        let is_known = (1..=self.size()).contains(&to);
        if is_cut || !is_known || self.node(to).driver.is_none() {
            self.faults.add(Fault::SnapshotLost);
            self.answer_sender(receipt, to, None);
            return Ok(());
        }
        let node = self.node_mut(to);
        let purged = node.disk.durable.purged();
        let (synced, is_undecided) = (node.machine.synced, node.shelf.receipt.is_some());
        node.shelf.marked.take_if(|marked| marked.at.index <= purged.index.min(synced) && !is_undecided);
        if node.shelf.marked.is_some() {
            self.answer_sender(receipt, to, None);
            return Ok(());
        }
        let at = snapshot.at;
        let membership = (*snapshot.membership).clone();
        (node.shelf.marked, node.shelf.receipt) = (Some(snapshot), Some(receipt));
        self.trace.note(to, What::SnapshotReceived, &[receipt.from, term, at.term, at.index]);
        self.give(to, Input::SnapshotReceived { from: receipt.from, term, last_included: at, membership })
    }

    /// The node does not want the snapshot it received.
    pub(super) fn discard_snapshot(&mut self, id: NodeId, at: LogId) -> Result<(), Breach> {
        self.trace.note(id, What::SnapshotDiscarded, &[at.term, at.index]);
        let node = self.node_mut(id);
        if node.shelf.marked.take_if(|marked| marked.at == at).is_none() {
            return Err(Breach::new("What Is Discarded Was Received", format!("node {id} discards {at}")));
        }
        let has_it = node.machine.applied >= at.index;
        self.answer_receipt(id, has_it.then_some(at));
        Ok(())
    }

    /// The machine is told to install what was received, after what it was told to apply.
    pub(super) fn order_install(&mut self, id: NodeId, at: LogId) -> Result<(), Breach> {
        let hard_state = self.node(id).disk.hard_state.unwrap_or_default();
        if self.options.strict && hard_state.term < at.term {
            let detail = format!("node {id} installs {at}, but its disk says term {}", hard_state.term);
            return Err(Breach::new("The Disk Speaks First", detail));
        }
        self.give_order(id, Order::Install(at));
        Ok(())
    }

    /// The machine's turn to install: atomically, durably; or the file turns out to be bad.
    pub(super) fn install(&mut self, id: NodeId, at: LogId) -> Result<(), Breach> {
        let is_bad = self.profile.fails_to_read(&mut self.rng) && self.occurs(Fault::ReadError);
        let node = &mut self.nodes[id as usize - 1];
        let Some(snapshot) = node.shelf.marked.clone().filter(|marked| marked.at == at) else {
            return Err(Breach::new("What Is Installed Was Received", format!("node {id} installs {at}")));
        };
        if is_bad {
            node.shelf.marked = None;
            self.answer_receipt(id, None);
            return self.give(id, Input::SnapshotInstalled { last_included: at, ok: false });
        }
        self.checks.installing(id, node.machine.applied, &snapshot)?;
        node.machine.install(&snapshot);
        node.shelf.keep(snapshot);
        self.trace.note(id, What::SnapshotInstalled, &[at.term, at.index]);
        self.answer_receipt(id, Some(at));
        self.answer(id)?;
        self.give(id, Input::SnapshotInstalled { last_included: at, ok: true })
    }

    fn answer_receipt(&mut self, id: NodeId, installed: Option<LogId>) {
        if let Some(receipt) = self.node_mut(id).shelf.receipt.take() {
            self.answer_sender(receipt, id, installed);
        }
    }

    fn loses_snapshot(&mut self) -> bool {
        self.profile.loses_snapshot(&mut self.rng) && self.occurs(Fault::SnapshotLost)
    }

    /// The sender's runtime hears what became of its snapshot, in its own time.
    pub(super) fn answer_sender(&mut self, receipt: Receipt, to: NodeId, installed: Option<LogId>) {
        let is_lost = self.loses_snapshot();
        let after = self.profile.transfer_time(&mut self.rng);
        let installed = installed.filter(|_| !is_lost);
        let Receipt { from, life, session } = receipt;
        self.schedule(after, Happening::SnapshotAnswered { node: from, life, to, session, installed });
    }

    /// Before a node starts: goes on with an installation that a crash has interrupted. False: another crash came.
    pub(super) fn resume_installation(&mut self, id: NodeId, restored: &Restored) -> Result<bool, Breach> {
        let Some(snapshot) = self.node(id).shelf.marked.clone() else { return Ok(true) };
        let comes = self.profile.is_on(Fault::CrashMidStep) && self.rng.u8(..4) == 0;
        let is_interrupted = comes && self.occurs(Fault::CrashMidStep);
        let node = &mut self.nodes[id as usize - 1];
        let step = restored.resume(snapshot.at);
        self.trace.note(id, What::SnapshotResumed, &[step as u64, snapshot.at.term, snapshot.at.index]);
        match step {
            Resume::Discard => {}
            Resume::Install => {
                self.checks.installing(id, node.machine.applied, &snapshot)?;
                node.machine.install(&snapshot);
                node.shelf.keep(Arc::clone(&snapshot));
                if is_interrupted {
                    return Ok(false);
                }
                node.disk.resume_purge(snapshot.at);
            }
            Resume::Purge => {
                node.shelf.keep(Arc::clone(&snapshot));
                node.disk.resume_purge(snapshot.at);
            }
        }
        if is_interrupted {
            return Ok(false);
        }
        node.shelf.marked = None;
        Ok(true)
    }
}
