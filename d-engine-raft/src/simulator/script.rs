//! Driving a world: whole runs of a seed, and by hand for scenarios.

use std::time::Duration;

use d_engine_core::{Entry, LogId};

use super::agenda::Happening;
use super::clients::Outcome;
use super::node::{MILLION, Node, glance};
use super::run::Options;
use super::trace::What;
use super::world::{Filter, World};
use super::{Breach, Summary, Violation};
use crate::{Change, Input, Message, NodeId, Role, Status};

/// What a step by hand gives; a law that does not hold ends the scenario.
type Result<T> = std::result::Result<T, Box<Violation>>;

/// Virtual time within which a cluster without faults must agree and serve again.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);

impl World {
    /// A world of `nodes` nodes without faults, for a scenario by hand. Formation begins with the first step.
    pub fn calm(seed: u64, nodes: u64) -> Self {
        Self::new(seed, Options { nodes: Some(nodes), fault_permille: 0, ..Options::default() })
    }

    /// The whole run of a seed: `steps` with faults, then peace if `settles`.
    pub(super) fn run(&mut self, steps: u64, settles: bool) -> Result<Summary> {
        self.begin_trouble();
        while self.has_trouble_left(steps) {
            self.step().map_err(|breach| self.violation(breach))?;
        }
        let stopped_at = self.now;
        if settles {
            self.settle()?;
        }
        let mut summary = self.summary();
        summary.settled_after = Duration::from_micros(self.now - stopped_at);
        Ok(summary)
    }

    fn has_trouble_left(&self, steps: u64) -> bool {
        match self.options.until {
            Some(until) => self.next_at().is_some_and(|at| Duration::from_micros(at) <= until),
            None => self.steps < steps,
        }
    }

    /// Ends all faults and demands what must then come: one leader, equal logs, everything applied, a write and reads.
    ///
    /// # Errors
    /// The cluster does not agree or serve within a minute of virtual time, or breaks a law on the way.
    pub fn settle(&mut self) -> Result<()> {
        self.end_faults().map_err(|breach| self.violation(breach))?;
        self.demand("Convergence", SETTLE_LIMIT, Self::has_converged)?;
        for node in self.members() {
            self.demand_service(node)?;
        }
        self.demand("Convergence", SETTLE_LIMIT, Self::has_converged)?;
        if self.all_answered().is_err() {
            // A node that knows no leader gives its reads up after an election timeout.
            self.run_for(self.node(1).config.election_timeout_max * 5)?;
        }
        let checked = self.checks.whole_logs(&self.nodes).and_then(|()| self.all_answered());
        checked.map_err(|breach| self.violation(breach))
    }

    fn all_answered(&self) -> std::result::Result<(), Breach> {
        self.clients.all_answered(|node| self.node(node).life)
    }

    fn end_faults(&mut self) -> std::result::Result<(), Breach> {
        self.is_settling = true;
        self.faults_until = Some(self.now);
        self.trace.note(0, What::Settling, &[]);
        self.profile.stop_faults();
        self.network.heal();
        self.filter = None;
        for node in 1..=self.size() {
            self.node_mut(node).crash_after = None;
            if self.role(node) == Some(Role::Failed) || self.node(node).disk.has_failed() {
                self.crash_node(node, None)?;
            }
            self.wake_up(node)?;
            self.unstall(node)?;
            self.start(node)?;
        }
        Ok(())
    }

    fn demand(&mut self, what: &'static str, limit: Duration, holds: impl Fn(&Self) -> bool) -> Result<()> {
        if self.run_until(limit, |world| holds(world))? {
            return Ok(());
        }
        let detail = format!("not within {} s without faults", limit.as_secs());
        Err(self.violation(Breach::new(what, detail)))
    }

    /// A write at the leader and a read at `node` are answered; clients try again when refused.
    fn demand_service(&mut self, node: NodeId) -> Result<()> {
        let deadline = self.now + SETTLE_LIMIT.as_micros() as u64;
        let (mut write, mut read) = (None, None);
        while self.now < deadline {
            let is_open = |world: &Self, id: Option<u64>| {
                id.is_some_and(|id| matches!(world.outcome(id), Outcome::Unknown | Outcome::Accepted(_)))
            };
            let is_done =
                |world: &Self, id: Option<u64>| id.is_some_and(|id| matches!(world.outcome(id), Outcome::Done(_)));
            if is_done(self, write) && is_done(self, read) {
                return Ok(());
            }
            if !is_open(self, write) && !is_done(self, write) {
                write = self.leader().map(|leader| self.propose(leader)).transpose()?;
            }
            if !is_open(self, read) && !is_done(self, read) {
                read = Some(self.read(node)?);
            }
            self.run_for(Duration::from_millis(10))?;
        }
        let detail = format!("node {node}: write {write:?}, read {read:?} not answered without faults");
        Err(self.violation(Breach::new("Service", detail)))
    }

    /// Nodes whose data directories are members of the newest committed configuration.
    pub fn members(&self) -> Vec<NodeId> {
        let Some(membership) = self.checks.configurations.newest() else { return (1..=self.size()).collect() };
        let is_member = |node: &&Node| {
            membership.member(node.id).is_some_and(|member| node.incarnation() == Some(member.incarnation))
        };
        self.nodes.iter().filter(is_member).map(|node| node.id).collect()
    }

    /// One leader, all logs of members equal, everything applied, no configuration under way.
    fn has_converged(&self) -> bool {
        let Some(leader) = self.leader() else { return false };
        let members = self.members();
        if !members.contains(&leader) || self.checks.configurations.newest().is_some_and(|newest| newest.is_joint()) {
            return false;
        }
        let log = &self.node(leader).disk.durable;
        let applied = |node: &Node| node.machine.applied;
        self.nodes.iter().filter(|node| members.contains(&node.id)).all(|node| {
            let Some(driver) = &node.driver else { return false };
            let glance = glance(driver);
            node.is_idle()
                && (glance.role == Role::Leader) == (node.id == leader)
                && node.disk.durable.last() == log.last()
                && applied(node) == log.last_index()
                && glance.applied == log.last_index()
        })
    }

    /// Runs for `time` of virtual time.
    ///
    /// # Errors
    /// A law that does not hold.
    pub fn run_for(&mut self, time: Duration) -> Result<()> {
        self.run_until(time, |_| false).map(|_| ())
    }

    /// Runs until `holds`, for `limit` of virtual time at most; whether it held.
    ///
    /// # Errors
    /// A law that does not hold.
    pub fn run_until(&mut self, limit: Duration, mut holds: impl FnMut(&Self) -> bool) -> Result<bool> {
        let end = self.now + limit.as_micros() as u64;
        loop {
            if holds(self) {
                return Ok(true);
            }
            if self.next_at().is_none_or(|at| at > end) {
                self.now = end;
                return Ok(false);
            }
            self.step().map_err(|breach| self.violation(breach))?;
        }
    }

    /// Takes `count` steps.
    ///
    /// # Errors
    /// A law that does not hold.
    pub fn run_steps(&mut self, count: u64) -> Result<()> {
        for _ in 0..count {
            self.step().map_err(|breach| self.violation(breach))?;
        }
        Ok(())
    }

    /// Number of nodes.
    pub fn size(&self) -> u64 {
        self.nodes.len() as u64
    }

    /// A client proposes a command at `node`; the request's number.
    ///
    /// # Errors
    /// A law that does not hold.
    pub fn propose(&mut self, node: NodeId) -> Result<u64> {
        self.request_write(node).map_err(|breach| self.violation(breach))
    }

    /// A client reads at `node`; the request's number.
    ///
    /// # Errors
    /// A law that does not hold.
    pub fn read(&mut self, node: NodeId) -> Result<u64> {
        self.request_read(node).map_err(|breach| self.violation(breach))
    }

    /// The operator asks `node` for a membership change; the request's number.
    ///
    /// # Errors
    /// A law that does not hold.
    pub fn change(&mut self, node: NodeId, change: Change) -> Result<u64> {
        self.request_change(node, None, change).map_err(|breach| self.violation(breach))
    }

    /// The operator asks `node` to hand leadership over to `to`; the request's number.
    ///
    /// # Errors
    /// A law that does not hold.
    pub fn transfer(&mut self, node: NodeId, to: NodeId) -> Result<u64> {
        self.request_transfer(node, to).map_err(|breach| self.violation(breach))
    }

    /// Another node starts with an empty disk and waits to be added; its id.
    ///
    /// # Errors
    /// A law that does not hold.
    pub fn join(&mut self) -> Result<NodeId> {
        self.found_node().map_err(|breach| self.violation(breach))
    }

    /// The data directory of a node; `None` before it is durable.
    pub fn incarnation(&self, node: NodeId) -> Option<u128> {
        self.node(node).incarnation()
    }

    /// The node begins to make a snapshot of what its machine has applied.
    ///
    /// # Errors
    /// A law that does not hold.
    pub fn make_snapshot(&mut self, node: NodeId) -> Result<()> {
        self.begin_snapshot(node).map_err(|breach| self.violation(breach))
    }

    /// The last entry in the node's newest snapshot.
    pub fn snapshot(&self, node: NodeId) -> Option<LogId> {
        self.node(node).shelf.newest.as_ref().map(|snapshot| snapshot.at)
    }

    /// Whether a snapshot lies at the node, received and not purged for yet.
    pub fn is_receiving(&self, node: NodeId) -> bool {
        self.node(node).shelf.marked.is_some()
    }

    /// The purge boundary of the log on the node's disk.
    pub fn purged(&self, node: NodeId) -> LogId {
        self.node(node).disk.durable.purged()
    }

    /// What the client of request `id` knows.
    pub fn outcome(&self, id: u64) -> Outcome {
        self.clients.outcome(id)
    }

    /// A node loses power. `survive` of its unsynced steps (four to a write: hard state, purge, truncation, append) have reached
    /// the disk; `None`: the seed decides.
    ///
    /// # Errors
    /// A law that does not hold.
    pub fn crash(&mut self, node: NodeId, survive: Option<usize>) -> Result<()> {
        self.crash_node(node, survive).map_err(|breach| self.violation(breach))
    }

    /// A node that is down starts with what its disk kept.
    ///
    /// # Errors
    /// It refuses to start, or a law does not hold.
    pub fn restart(&mut self, node: NodeId) -> Result<()> {
        self.start(node).map_err(|breach| self.violation(breach))
    }

    /// A node that is down loses its disk.
    pub fn wipe(&mut self, node: NodeId) {
        assert!(self.node(node).driver.is_none(), "only a node that is down can be wiped");
        self.trace.note(node, What::Wiped, &[]);
        let node = &mut self.nodes[node as usize - 1];
        let disk = std::mem::take(&mut node.disk);
        if let Some(identity) = disk.hard_state.and_then(|state| state.identity) {
            self.checks.configurations.bury(identity.incarnation, disk.durable);
        }
        (node.machine, node.shelf) = Default::default();
    }

    /// A node stops in the middle of what it does, until [`World::resume`].
    pub fn pause(&mut self, node: NodeId) {
        self.node_mut(node).is_paused = true;
    }

    /// A paused node runs on.
    ///
    /// # Errors
    /// A law that does not hold.
    pub fn resume(&mut self, node: NodeId) -> Result<()> {
        self.wake_up(node).map_err(|breach| self.violation(breach))
    }

    /// The node's disk completes nothing more, until [`World::release_disk`].
    pub fn stall_disk(&mut self, node: NodeId) {
        self.node_mut(node).disk.stalled = true;
    }

    /// A stalled disk goes on.
    ///
    /// # Errors
    /// A law that does not hold.
    pub fn release_disk(&mut self, node: NodeId) -> Result<()> {
        self.unstall(node).map_err(|breach| self.violation(breach))
    }

    /// A sync of the node's disk fails; the node is told, and what it covered is not durable. Later syncs would succeed.
    ///
    /// # Errors
    /// A law that does not hold.
    pub fn fail_sync(&mut self, node: NodeId) -> Result<()> {
        self.node_mut(node).disk.fail();
        let why = "the simulated disk failed to sync".to_owned();
        self.give(node, Input::StorageFailed { why }).map_err(|breach| self.violation(breach))
    }

    /// Every read of entries that have left the memory fails from now on, or none does any more.
    pub fn fail_log_reads(&mut self, fails: bool) {
        self.profile.fail_all_reads(fails);
    }

    /// The node's clock runs at this many thousandths of true time, until it restarts.
    pub fn set_clock_rate(&mut self, node: NodeId, permille: u64) {
        let now = self.now;
        let clock = &mut self.node_mut(node).clock;
        clock.origin = clock.local(now).as_micros() as u64;
        (clock.began, clock.rate) = (now, permille * MILLION / 1000);
        self.set_timer(node);
    }

    /// What every node assumes of the clocks of the others, in parts per million, from its next start on.
    pub fn assume_clock_drift(&mut self, ppm: u32) {
        self.nodes.iter_mut().for_each(|node| node.config.clock_drift_ppm = ppm);
    }

    /// The node's disk has no space for entries, until [`World::free_disk_space`].
    pub fn fill_disk_space(&mut self, node: NodeId) {
        self.node_mut(node).disk.fill();
    }

    /// The node's disk has space again.
    ///
    /// # Errors
    /// A law that does not hold.
    pub fn free_disk_space(&mut self, node: NodeId) -> Result<()> {
        self.free_disk(node).map_err(|breach| self.violation(breach))
    }

    /// Messages from `from` to `to` are lost from now on, in this direction only.
    pub fn cut(&mut self, from: NodeId, to: NodeId) {
        self.network.cut(from, to);
    }

    /// Messages from `from` to `to` arrive again.
    pub fn restore(&mut self, from: NodeId, to: NodeId) {
        self.network.restore(from, to);
    }

    /// Cuts both directions between these nodes and the others.
    pub fn split(&mut self, side: &[NodeId]) {
        self.network.split(side.iter().fold(0, |bits, node| bits | 1 << node));
    }

    /// Restores every link.
    pub fn heal(&mut self) {
        self.network.heal();
    }

    /// Lets `filter` decide about every message from now on.
    pub fn set_filter(&mut self, filter: impl FnMut(NodeId, NodeId, &Message) -> bool + 'static) {
        let filter: Filter = Box::new(filter);
        self.filter = Some(filter);
    }

    /// Lets every message pass again.
    pub fn clear_filter(&mut self) {
        self.filter = None;
    }

    /// A message appears on the network, as if `from` had sent it (again).
    pub fn inject(&mut self, from: NodeId, to: NodeId, message: Message) {
        self.schedule(0, Happening::Arrive { from, to, message });
    }

    /// The node that leads in the highest term, if one does.
    pub fn leader(&self) -> Option<NodeId> {
        let leads = |node: &&Node| {
            let glance = node.driver.as_ref().map(glance)?;
            (glance.role == Role::Leader).then_some((glance.term, node.id))
        };
        self.nodes.iter().filter_map(|node| leads(&node)).max().map(|(_, node)| node)
    }

    /// The node's part; `None` if it is down.
    pub fn role(&self, node: NodeId) -> Option<Role> {
        self.node(node).driver.as_ref().map(|driver| glance(driver).role)
    }

    /// What the node tells about itself; `None` if it is down.
    pub fn status(&self, node: NodeId) -> Option<Status> {
        let node = self.node(node);
        node.driver.as_ref().map(|driver| driver.status(node.local_time(self.now)))
    }

    /// The log on the node's disk behind its purge boundary, without what is not synced.
    pub fn durable_log(&self, node: NodeId) -> &[Entry] {
        self.node(node).disk.durable.entries()
    }

    /// Every entry that any node ever knew committed.
    pub fn committed(&self) -> &[Entry] {
        self.checks.chosen()
    }

    /// What the node's state machine has applied.
    pub fn applied(&self, node: NodeId) -> u64 {
        self.node(node).machine.applied
    }

    /// Virtual time since the world began.
    pub fn time(&self) -> Duration {
        Duration::from_micros(self.now)
    }

    /// Hash over the trace so far.
    pub fn trace_hash(&self) -> u64 {
        self.trace.hash()
    }
}
