//! The world: nodes, their disks, the network between them, and one clock.

use std::sync::Arc;
use std::time::Duration;

use d_engine_core::EntryKind;
use fastrand::Rng;

use super::agenda::{Agenda, Happening};
use super::checks::Checks;
use super::clients::Clients;
use super::faults::{Fault, FaultCounts, Profile};
use super::mask::{Disturbance, Occurrence};
use super::network::{MAX_NODES, Network};
use super::node::{Node, draw_config, glance};
use super::run::Options;
use super::trace::{Trace, What};
use super::{Breach, Summary};
use crate::{Answer, Command, Driver, Event, Input, Message, NodeId, Role, SnapshotTask};

/// Decides about a message from one node to another: true lets it pass.
pub type Filter = Box<dyn FnMut(NodeId, NodeId, &Message) -> bool>;

/// Several nodes in one seeded world.
pub struct World {
    pub(super) seed: u64,
    pub(super) options: Options,
    pub(super) profile: Profile,
    /// Chance, made anew for each step from seed and time: what is left out of a run changes only what follows from it,
    /// not every later draw.
    pub(super) rng: Rng,
    /// Microseconds since the world began.
    pub(super) now: u64,
    pub(super) steps: u64,
    /// Steps before this one at the same time.
    twins: u64,
    agenda: Agenda,
    pub(super) nodes: Vec<Node>,
    pub(super) network: Network,
    pub(super) filter: Option<Filter>,
    pub(super) partition: u64,
    pub(super) clients: Clients,
    pub(super) checks: Checks,
    pub(super) trace: Trace,
    pub(super) faults: FaultCounts,
    /// Every disturbance so far, kept or left out.
    pub(super) occurred: Vec<Occurrence>,
    /// Faults have stopped.
    pub(super) is_settling: bool,
    /// When they did.
    pub(super) faults_until: Option<u64>,
    commands: Vec<Command>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("seed", &self.seed).field("now", &self.now).finish_non_exhaustive()
    }
}

impl World {
    /// The world of `seed`, before its first step. All nodes have empty disks and are about to start.
    pub fn new(seed: u64, options: Options) -> Self {
        let mut rng = Rng::with_seed(seed);
        let drawn = [3, 3, 3, 3, 3, 5, 5, 5, 5, 1][rng.usize(..10)];
        let nodes = options.nodes.unwrap_or(drawn);
        assert!((1..=MAX_NODES as u64).contains(&nodes), "a world has 1 to {MAX_NODES} nodes");
        let mut profile = Profile::swarm(&mut rng, options.fault_permille);
        let template = draw_config(&mut rng, &options);
        if !options.changes {
            profile.leave_alone();
        }
        if template.lease {
            // Leases trust clocks within the bound that the members share.
            profile.drift_ppm = profile.drift_ppm.min(u64::from(template.clock_drift_ppm));
        }
        if template.max_inflight_messages == 1 {
            profile.be_patient();
        }
        let founders: Vec<_> = (1..=nodes).map(|node| (node, format!("n{node}"))).collect();
        let mut world = Self {
            seed,
            profile,
            rng,
            now: 0,
            steps: 0,
            twins: 0,
            agenda: Agenda::default(),
            nodes: (1..=nodes).map(|id| Node::new(id, &template, &founders)).collect(),
            network: Network::new(),
            filter: None,
            partition: 0,
            clients: Clients::default(),
            checks: Checks::new(options.strict),
            trace: Trace::new(options.trace_lines, options.echo),
            faults: FaultCounts::default(),
            occurred: Vec::new(),
            is_settling: false,
            faults_until: None,
            commands: Vec::new(),
            options,
        };
        for node in 1..=nodes {
            let within = world.rng.u64(0..100_000);
            world.schedule(within, Happening::Restart { node, life: 0 });
        }
        world
    }

    pub(super) fn schedule(&mut self, after: u64, happening: Happening) {
        self.agenda.plan(self.now.saturating_add(after), happening);
    }

    /// The time of the next happening.
    pub(super) fn next_at(&self) -> Option<u64> {
        self.agenda.next_at()
    }

    /// Takes one step; false if nothing is left to happen.
    pub(super) fn step(&mut self) -> Result<bool, Breach> {
        let Some((at, happening)) = self.agenda.pop() else { return Ok(false) };
        self.twins = if at == self.now { self.twins + 1 } else { 0 };
        self.rng = Rng::with_seed(step_seed(self.seed, at, self.twins));
        self.now = at;
        self.steps += 1;
        (self.trace.at, self.trace.step) = (at, self.steps);
        self.happen(happening)?;
        Ok(true)
    }

    fn happen(&mut self, happening: Happening) -> Result<(), Breach> {
        match happening {
            Happening::Arrive { from, to, message } => self.arrive(from, to, message),
            Happening::Wake { node, life } if self.lives(node, life) => {
                self.node_mut(node).is_wake_scheduled = false;
                self.run_node(node)
            }
            Happening::Timer { node, life } if self.lives(node, life) => self.timer_fires(node),
            Happening::Synced { node, life } if self.lives(node, life) => self.synced(node),
            Happening::Apply { node, life } if self.lives(node, life) => self.obey(node),
            Happening::ReadLog { node, life, ticket, first, last, max_bytes } if self.lives(node, life) => {
                self.read_log(node, ticket, first, last, max_bytes)
            }
            Happening::Broken { node, life, to } if self.lives(node, life) => {
                self.trace.note(node, What::Unreachable, &[to]);
                self.give(node, Input::Unreachable { to })
            }
            Happening::Restart { node, life } if self.node(node).life == life => self.start(node),
            Happening::Resume { node, life } if self.lives(node, life) => self.wake_up(node),
            Happening::Unstall { node, life } if self.lives(node, life) => self.unstall(node),
            Happening::Full { node, life } if self.lives(node, life) && self.node(node).disk.is_refusing() => {
                self.trace.note(node, What::Full, &[]);
                self.give(node, Input::StorageFull { why: "the simulated disk is full".to_owned() })
            }
            Happening::Free { node, life } if self.lives(node, life) => self.free_disk(node),
            Happening::Heal { partition } => {
                if partition == self.partition {
                    self.network.heal();
                }
                Ok(())
            }
            Happening::Inject => self.inject_fault(),
            Happening::Request => self.request(),
            Happening::Operate => self.operate(),
            Happening::Hurry => self.operate_once(),
            Happening::Deafen { node, but, restarts } => self.deafen(node, but, restarts),
            Happening::Depose { node, life } if self.lives(node, life) => self.depose(node),
            Happening::Ask { node } => self.ask(node),
            Happening::Sleep { node, life, wakes_after } if self.lives(node, life) && !self.is_settling => {
                self.sleep(node, life, wakes_after);
                Ok(())
            }
            Happening::Build { node, life } if self.lives(node, life) => self.build(node),
            Happening::SnapshotArrives { to, term, snapshot, receipt } => {
                self.snapshot_arrives(to, term, snapshot, receipt)
            }
            Happening::SnapshotAnswered { node, life, to, session, installed } if self.lives(node, life) => {
                let at = installed.unwrap_or_default();
                self.trace.note(node, What::SnapshotAnswered, &[to, at.term, at.index, session]);
                self.give(node, Input::SnapshotSent { to, session, installed })
            }
            Happening::Hello { node, life, from, incarnation, feature_level } if self.lives(node, life) => {
                self.trace.note(node, What::Hello, &[from, u64::from(feature_level)]);
                self.give(node, Input::PeerHello { from, incarnation, feature_level })
            }
            _ => Ok(()),
        }
    }

    pub(super) fn node(&self, node: NodeId) -> &Node {
        &self.nodes[node as usize - 1]
    }

    pub(super) fn node_mut(&mut self, node: NodeId) -> &mut Node {
        &mut self.nodes[node as usize - 1]
    }

    pub(super) fn lives(&self, node: NodeId, life: u32) -> bool {
        let node = self.node(node);
        node.life == life && node.driver.is_some()
    }

    /// Gives an event to a node, now or together with others that come soon.
    pub(super) fn give(&mut self, id: NodeId, event: impl Into<Event>) -> Result<(), Breach> {
        let waits = self.profile.waits_for_more(&mut self.rng);
        let node = self.node_mut(id);
        if node.driver.is_none() {
            return Ok(());
        }
        node.inbox.push(event.into());
        if node.is_paused || node.is_wake_scheduled {
            return Ok(());
        }
        if waits {
            node.is_wake_scheduled = true;
            let life = node.life;
            let after = self.rng.u64(0..1_000);
            self.schedule(after, Happening::Wake { node: id, life });
            return Ok(());
        }
        self.run_node(id)
    }

    /// Handles everything that waits, then performs what follows.
    pub(super) fn run_node(&mut self, id: NodeId) -> Result<(), Breach> {
        let (now, is_strict) = (self.now, self.options.strict);
        let node = self.node_mut(id);
        let local = node.clock.local(now);
        let Some(driver) = node.driver.as_mut().filter(|_| !node.is_paused) else { return Ok(()) };
        let mut inbox = std::mem::take(&mut node.inbox);
        let mut breach = Ok(());
        for event in inbox.drain(..) {
            let stale = node.duties.before(driver.raft(), now, &event);
            driver.handle(local, event);
            if let Some(stale) = stale.filter(|_| is_strict) {
                breach = breach.and(stale.check(id, driver.raft()));
            }
        }
        node.inbox = inbox;
        breach?;
        let mut commands = std::mem::take(&mut self.commands);
        let driver = self.node_mut(id).driver.as_mut().expect("checked above");
        while let Some(command) = driver.poll() {
            commands.push(command);
        }
        let result = self.observe(id, &commands).and_then(|()| self.perform_all(id, &mut commands));
        commands.clear();
        self.commands = commands;
        result?;
        self.set_timer(id);
        Ok(())
    }

    /// Checks the node after its step, with everything it has decided to write visible in its log.
    fn observe(&mut self, id: NodeId, commands: &[Command]) -> Result<(), Breach> {
        let at = id as usize - 1;
        let node = &mut self.nodes[at];
        let glance = glance(node.driver.as_ref().expect("a node is observed after it ran"));
        let before = self.checks.configurations.in_force(&node.disk.visible).map(Arc::clone);
        let mut is_reshaped = false;
        for command in commands {
            if let Command::Write(write) = command {
                self.checks.writing(node, glance.role, write)?;
                node.disk.show(write)?;
                is_reshaped |= write.purge.is_some()
                    || write.replace_from.is_some()
                    || write.entries.iter().any(|entry| entry.kind == EntryKind::Membership);
            }
        }
        if is_reshaped {
            self.nodes[at].duties.begin(self.now);
            self.checks.configured(&self.nodes[at])?;
            self.checks.feature_levels(&self.nodes[at], &self.nodes)?;
        }
        let node = &mut self.nodes[at];
        if node.last_role != (Some(glance.role), glance.term) {
            node.last_role = (Some(glance.role), glance.term);
            node.duties.begin(self.now);
            if glance.role == Role::Leader {
                self.somebody_leads(id);
            }
            self.trace.note(id, What::Role, &[glance.role as u64, glance.term]);
        }
        self.demand_duties(at, commands)?;
        let node = &mut self.nodes[at];
        if node.last_commit != glance.commit {
            node.last_commit = glance.commit;
            self.trace.note(id, What::Committed, &[glance.commit]);
        }
        self.checks.observe(&self.nodes[at], glance, before, &self.nodes, &mut self.clients)
    }

    /// What a leader owes. What only delays others is demanded if [`Options::strict`].
    fn demand_duties(&mut self, at: usize, commands: &[Command]) -> Result<(), Breach> {
        let node = &mut self.nodes[at];
        let Some(driver) = node.driver.as_ref().filter(|_| self.options.strict) else { return Ok(()) };
        let membership = self.checks.configurations.in_force(&node.disk.visible).map(|membership| &**membership);
        // A clock may be slow by a tenth, and the core looks once in a heartbeat.
        let limit = node.config.election_timeout_max * 5 / 4 + node.config.heartbeat_interval * 3;
        node.duties.after(node.id, driver.raft(), commands, membership, self.now, limit.as_micros() as u64)
    }

    fn perform_all(&mut self, id: NodeId, commands: &mut Vec<Command>) -> Result<(), Breach> {
        for command in commands.drain(..) {
            if let Some(left) = &mut self.node_mut(id).crash_after {
                if *left == 0 {
                    self.faults.add(Fault::CrashMidStep);
                    return self.crash_for_a_while(id);
                }
                *left -= 1;
            }
            self.perform(id, command)?;
        }
        Ok(())
    }

    fn perform(&mut self, id: NodeId, command: Command) -> Result<(), Breach> {
        match command {
            Command::Write(write) => {
                self.trace.write(id, &write);
                self.node_mut(id).disk.queue(write);
                self.begin_sync(id);
                Ok(())
            }
            Command::Send { to, message } => {
                self.checks.sending(&self.nodes[id as usize - 1], to, &message)?;
                self.send(id, to, message);
                Ok(())
            }
            Command::ReadLog { ticket, first, last, max_bytes } => {
                self.trace.note(id, What::LogAsked, &[first, last]);
                let after = self.rng.u64(10..2_000);
                let life = self.node(id).life;
                self.schedule(after, Happening::ReadLog { node: id, life, ticket, first, last, max_bytes });
                Ok(())
            }
            Command::Apply { first, last, entries } => self.order(id, first, last, entries),
            Command::Answer(Answer::Accepted { id: request, at }) => {
                self.trace.note(id, What::Accepted, &[request, at.term, at.index]);
                self.clients.accepted(request, at)?;
                self.node_mut(id).wait_for(at, request);
                self.answer(id)
            }
            Command::Answer(Answer::ReadReady { id: request, index }) => {
                self.trace.note(id, What::ReadReady, &[request, index]);
                self.clients.read_ready(request, index)?;
                self.node_mut(id).reading.push((index, request));
                self.answer(id)
            }
            Command::Answer(Answer::Rejected { id: request, why }) => {
                self.trace.rejected(id, request, &why);
                self.clients.rejected(request)
            }
            Command::Snapshot(SnapshotTask::Send { to, session, term }) => self.send_snapshot(id, to, session, term),
            Command::Snapshot(SnapshotTask::Install { last_included }) => self.order_install(id, last_included),
            Command::Snapshot(SnapshotTask::Discard { last_included }) => self.discard_snapshot(id, last_included),
            Command::Answer(Answer::Changed { id: request, index }) => {
                self.trace.note(id, What::Changed, &[request, index]);
                let membership = self.checks.configuration_at(index);
                self.clients.changed(request, index, membership)
            }
            Command::Answer(Answer::Lost { id: request }) => {
                self.trace.note(id, What::LostChange, &[request]);
                self.clients.lost(request)
            }
            Command::Answer(Answer::Transferred { id: request }) => {
                self.trace.note(id, What::Transferred, &[request]);
                self.clients.transferred(request)
            }
        }
    }

    pub(super) fn set_timer(&mut self, id: NodeId) {
        let now = self.now;
        let node = self.node_mut(id);
        let Some(due) = node.driver.as_ref().and_then(Driver::poll_timeout) else { return };
        let due = node.clock.global(due).max(now);
        if due < node.timer_at {
            node.timer_at = due;
            let life = node.life;
            self.schedule(due - now, Happening::Timer { node: id, life });
        }
    }

    pub(super) fn timer_fires(&mut self, id: NodeId) -> Result<(), Breach> {
        let now = self.now;
        let node = self.node_mut(id);
        if node.timer_at > now {
            return Ok(());
        }
        node.timer_at = u64::MAX;
        let due = node.driver.as_ref().and_then(Driver::poll_timeout);
        if due.is_some_and(|due| due <= node.clock.local(now)) {
            self.trace.note(id, What::TimedOut, &[]);
            return self.give(id, Input::Timeout);
        }
        self.set_timer(id);
        Ok(())
    }

    /// What the run has done so far.
    pub(super) fn summary(&self) -> Summary {
        Summary {
            steps: self.steps,
            time: Duration::from_micros(self.now),
            settled_after: Duration::ZERO,
            faults: self.faults,
            elections: self.checks.elections,
            committed: self.checks.chosen().len() as u64,
            acknowledged: self.clients.acknowledged,
            reads: self.clients.reads,
            changes: self.clients.changes,
            transfers: self.clients.transfers,
            snapshots: self.checks.snapshots,
            installed: self.checks.installed,
            trace_hash: self.trace.hash(),
        }
    }

    /// Something that the seed wants to do now: whether this run keeps it.
    pub(super) fn occurs(&mut self, kind: impl Into<Disturbance>) -> bool {
        let occurrence = Occurrence { at: self.now, kind: kind.into() };
        self.occurred.push(occurrence);
        self.options.keeps(occurrence)
    }
}

/// Where chance begins in the step at time `at`, the one after `twins` others of that time.
fn step_seed(seed: u64, at: u64, twins: u64) -> u64 {
    let mut mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ at.wrapping_add(twins << 48);
    for factor in [0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb] {
        mixed = (mixed ^ (mixed >> 31)).wrapping_mul(factor);
    }
    mixed ^ (mixed >> 29)
}
