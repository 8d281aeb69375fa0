//! The world: nodes, their disks, the network between them, and one clock.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use d_engine_core::{Entry, LogId};
use fastrand::Rng;

use super::checks::{Checks, Glance};
use super::clients::{Clients, KEYS, decode};
use super::disk::Disk;
use super::faults::{Fault, FaultCounts, Profile};
use super::network::{MAX_NODES, Network};
use super::run::{Options, Violation};
use super::trace::{Trace, What};
use super::{Breach, Summary};
use crate::{AppendOutcome, Body, Boot, Command, Config, Driver, Event, Message, NodeId, Restored, Role};

/// Decides about a message from one node to another: true lets it pass.
pub type Filter = Box<dyn FnMut(NodeId, NodeId, &Message) -> bool>;

/// Something that is going to happen.
#[derive(Debug)]
pub(super) enum Happening {
    Arrive { from: NodeId, to: NodeId, message: Message },
    Wake { node: NodeId, life: u32 },
    Timer { node: NodeId, life: u32 },
    Synced { node: NodeId, life: u32 },
    Apply { node: NodeId, life: u32 },
    ReadLog { node: NodeId, life: u32, ticket: u64, first: u64, last: u64, max_bytes: usize },
    Broken { node: NodeId, life: u32, to: NodeId },
    Restart { node: NodeId, life: u32 },
    Resume { node: NodeId, life: u32 },
    Unstall { node: NodeId, life: u32 },
    Heal { partition: u64 },
    Inject,
    Request,
}

/// A node with everything around it. A crash ends a life; what was meant for an earlier life is dropped.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) life: u32,
    pub(super) driver: Option<Driver>,
    pub(super) disk: Disk,
    pub(super) machine: Machine,
    pub(super) is_paused: bool,
    /// Crash after this many more commands.
    pub(super) crash_after: Option<u32>,
    config: Config,
    inbox: Vec<Event>,
    is_wake_scheduled: bool,
    /// When the earliest scheduled timer fires.
    timer_at: u64,
    clock: Clock,
    last_role: (Option<Role>, u64),
    last_commit: u64,
    /// Accepted proposals, in order of their places, that wait to be applied.
    waiting: VecDeque<(LogId, u64)>,
    /// Reads that wait for an index.
    reading: Vec<(u64, u64)>,
}

/// The replicated state machine: a few registers.
#[derive(Debug, Default)]
pub(super) struct Machine {
    pub(super) applied: u64,
    /// What it has applied for certain even after a crash.
    synced: u64,
    /// Index of the last write to each key.
    written: [u64; KEYS],
    /// What it has been told to apply.
    orders: VecDeque<(u64, u64, Vec<Entry>)>,
    ordered: u64,
}

/// A clock that runs fast or slow, from an origin of its own.
#[derive(Debug, Default, Clone, Copy)]
struct Clock {
    began: u64,
    origin: u64,
    /// Microseconds of this clock in a second of true time.
    rate: u64,
}

const MILLION: u64 = 1_000_000;

impl Clock {
    fn local(&self, now: u64) -> Duration {
        Duration::from_micros(self.origin + (now - self.began) * self.rate / MILLION)
    }

    /// The first true time at which the clock shows `local` or later.
    fn global(&self, local: Duration) -> u64 {
        let since = (local.as_nanos().div_ceil(1000) as u64).saturating_sub(self.origin);
        self.began.saturating_add((since.saturating_mul(MILLION)).div_ceil(self.rate))
    }
}

/// Several nodes in one seeded world.
pub struct World {
    pub(super) seed: u64,
    pub(super) options: Options,
    pub(super) profile: Profile,
    pub(super) rng: Rng,
    /// Microseconds since the world began.
    pub(super) now: u64,
    pub(super) steps: u64,
    queue: BinaryHeap<Reverse<(u64, u64, u32)>>,
    queued: u64,
    slots: Vec<Option<Happening>>,
    free: Vec<u32>,
    pub(super) nodes: Vec<Node>,
    pub(super) network: Network,
    pub(super) filter: Option<Filter>,
    pub(super) partition: u64,
    pub(super) clients: Clients,
    pub(super) checks: Checks,
    pub(super) trace: Trace,
    pub(super) faults: FaultCounts,
    /// Faults have stopped.
    pub(super) is_settling: bool,
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
        let nodes = options.nodes.unwrap_or_else(|| [3, 3, 3, 3, 3, 5, 5, 5, 5, 1][rng.usize(..10)]);
        assert!((1..=MAX_NODES as u64).contains(&nodes), "a world has 1 to {MAX_NODES} nodes");
        let mut profile = Profile::swarm(&mut rng, options.fault_permille);
        let template = draw_config(&mut rng, &options);
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
            queue: BinaryHeap::new(),
            queued: 0,
            slots: Vec::new(),
            free: Vec::new(),
            nodes: (1..=nodes).map(|id| Node::new(id, &template, &founders)).collect(),
            network: Network::new(),
            filter: None,
            partition: 0,
            clients: Clients::default(),
            checks: Checks::new(options.strict),
            trace: Trace::new(options.trace_lines, options.echo),
            faults: FaultCounts::default(),
            is_settling: false,
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
        self.queued += 1;
        self.queue.push(Reverse((self.now.saturating_add(after), self.queued, slot)));
    }

    /// The time of the next happening.
    pub(super) fn next_at(&self) -> Option<u64> {
        self.queue.peek().map(|Reverse((at, _, _))| *at)
    }

    /// Takes one step; false if nothing is left to happen.
    pub(super) fn step(&mut self) -> Result<bool, Breach> {
        let Some(Reverse((at, _, slot))) = self.queue.pop() else { return Ok(false) };
        let happening = self.slots[slot as usize].take().expect("a queued slot is filled until it is popped");
        self.free.push(slot);
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
            Happening::Apply { node, life } if self.lives(node, life) => self.apply(node),
            Happening::ReadLog { node, life, ticket, first, last, max_bytes } if self.lives(node, life) => {
                self.read_log(node, ticket, first, last, max_bytes)
            }
            Happening::Broken { node, life, to } if self.lives(node, life) => {
                self.trace.note(node, What::Unreachable, &[to]);
                self.give(node, Event::Unreachable { to })
            }
            Happening::Restart { node, life } if self.node(node).life == life => self.start(node),
            Happening::Resume { node, life } if self.lives(node, life) => self.wake_up(node),
            Happening::Unstall { node, life } if self.lives(node, life) => self.unstall(node),
            Happening::Heal { partition } => {
                if partition == self.partition {
                    self.network.heal();
                }
                Ok(())
            }
            Happening::Inject => self.inject_fault(),
            Happening::Request => self.request(),
            _ => Ok(()),
        }
    }

    pub(super) fn node(&self, node: NodeId) -> &Node {
        &self.nodes[node as usize - 1]
    }

    pub(super) fn node_mut(&mut self, node: NodeId) -> &mut Node {
        &mut self.nodes[node as usize - 1]
    }

    fn lives(&self, node: NodeId, life: u32) -> bool {
        let node = self.node(node);
        node.life == life && node.driver.is_some()
    }

    /// Gives an event to a node, now or together with others that come soon.
    pub(super) fn give(&mut self, id: NodeId, event: Event) -> Result<(), Breach> {
        let waits = self.profile.waits_for_more(&mut self.rng);
        let node = self.node_mut(id);
        if node.driver.is_none() {
            return Ok(());
        }
        node.inbox.push(event);
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

    fn arrive(&mut self, from: NodeId, to: NodeId, message: Message) -> Result<(), Breach> {
        if self.network.is_cut(from, to) || self.node(to).driver.is_none() {
            self.trace.message(to, from, &message, What::Lost);
            self.maybe_notice(from, to);
            return Ok(());
        }
        self.trace.message(to, from, &message, What::Got);
        self.give(to, Event::Message { from, message })
    }

    /// Handles everything that waits, then performs what follows.
    pub(super) fn run_node(&mut self, id: NodeId) -> Result<(), Breach> {
        let now = self.now;
        let node = self.node_mut(id);
        let local = node.clock.local(now);
        let Some(driver) = node.driver.as_mut().filter(|_| !node.is_paused) else { return Ok(()) };
        for event in node.inbox.drain(..) {
            driver.handle(local, event);
        }
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
        for command in commands {
            if let Command::Write(write) = command {
                self.checks.writing(id, glance.role, &node.disk.visible, write)?;
                node.disk.show(write)?;
            }
        }
        if node.last_role != (Some(glance.role), glance.term) {
            node.last_role = (Some(glance.role), glance.term);
            self.trace.note(id, What::Role, &[glance.role as u64, glance.term]);
        }
        if node.last_commit != glance.commit {
            node.last_commit = glance.commit;
            self.trace.note(id, What::Committed, &[glance.commit]);
        }
        self.checks.observe(&self.nodes[at], glance, &self.nodes, &mut self.clients)
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
            Command::Accepted { id: request, at } => {
                self.trace.note(id, What::Accepted, &[request, at.term, at.index]);
                self.clients.accepted(request, at)?;
                self.node_mut(id).wait_for(at, request);
                self.answer(id)
            }
            Command::ReadReady { id: request, index } => {
                self.trace.note(id, What::ReadReady, &[request, index]);
                self.clients.read_ready(request, index)?;
                self.node_mut(id).reading.push((index, request));
                self.answer(id)
            }
            Command::Rejected { id: request, why } => {
                self.trace.rejected(id, request, &why);
                self.clients.rejected(request)
            }
        }
    }

    /// Puts a message on its way.
    pub(super) fn send(&mut self, from: NodeId, to: NodeId, message: Message) {
        let passes = self.filter.as_mut().is_none_or(|filter| filter(from, to, &message));
        let is_known = (1..=self.nodes.len() as u64).contains(&to);
        let is_lost = self.profile.loses(&mut self.rng);
        if !passes || !is_known || is_lost || self.network.is_cut(from, to) {
            self.trace.message(from, to, &message, What::Lost);
            if is_lost {
                self.faults.add(Fault::Loss);
            }
            self.maybe_notice(from, to);
            return;
        }
        self.trace.message(from, to, &message, What::Sent);
        if self.profile.duplicates(&mut self.rng) {
            self.faults.add(Fault::Duplicate);
            self.travel(from, to, message.clone());
        }
        if self.profile.meets_stranger(&mut self.rng)
            && let Some(reply) = stranger(&message)
        {
            self.faults.add(Fault::Stranger);
            let incarnation = self.rng.u128(..);
            self.travel(from, to, Message { incarnation, ..reply });
        }
        self.travel(from, to, message);
    }

    fn travel(&mut self, from: NodeId, to: NodeId, message: Message) {
        let mut after = self.profile.delay(&mut self.rng);
        if let Some(more) = self.profile.lateness(&mut self.rng) {
            self.faults.add(Fault::Late);
            after += more;
        } else if !self.profile.reorders {
            after = self.network.in_order(from, to, self.now + after) - self.now;
        }
        self.schedule(after, Happening::Arrive { from, to, message });
    }

    /// The sender of a lost message may learn that the connection broke.
    fn maybe_notice(&mut self, from: NodeId, to: NodeId) {
        if self.profile.notices_loss(&mut self.rng) {
            self.faults.add(Fault::Unreachable);
            let after = self.profile.delay(&mut self.rng);
            let life = self.node(from).life;
            self.schedule(after, Happening::Broken { node: from, life, to });
        }
    }

    fn set_timer(&mut self, id: NodeId) {
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

    fn timer_fires(&mut self, id: NodeId) -> Result<(), Breach> {
        let now = self.now;
        let node = self.node_mut(id);
        if node.timer_at > now {
            return Ok(());
        }
        node.timer_at = u64::MAX;
        let due = node.driver.as_ref().and_then(Driver::poll_timeout);
        if due.is_some_and(|due| due <= node.clock.local(now)) {
            self.trace.note(id, What::TimedOut, &[]);
            return self.give(id, Event::Timeout);
        }
        self.set_timer(id);
        Ok(())
    }

    /// Begins to sync what waits, unless a sync is under way.
    pub(super) fn begin_sync(&mut self, id: NodeId) {
        let after = self.profile.sync_time(&mut self.rng);
        let node = self.node_mut(id);
        if node.disk.wants_sync() {
            node.disk.begin_sync();
            let life = node.life;
            self.schedule(after, Happening::Synced { node: id, life });
        }
    }

    fn synced(&mut self, id: NodeId) -> Result<(), Breach> {
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
                self.give(id, Event::Persisted { seq })
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

    fn read_log(&mut self, id: NodeId, ticket: u64, first: u64, last: u64, max_bytes: usize) -> Result<(), Breach> {
        let entries = if self.profile.fails_to_read(&mut self.rng) {
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
    fn order(&mut self, id: NodeId, first: u64, last: u64, entries: Vec<Entry>) -> Result<(), Breach> {
        self.trace.note(id, What::Applying, &[first, last]);
        self.checks.applying(self.node(id), last)?;
        let machine = &mut self.node_mut(id).machine;
        if first != machine.ordered + 1 || last < first {
            let detail = format!("node {id} applies {first}..={last} after {}", machine.ordered);
            return Err(Breach::new("Entries Are Applied In Order", detail));
        }
        machine.ordered = last;
        machine.orders.push_back((first, last, entries));
        if machine.orders.len() == 1 {
            self.begin_apply(id);
        }
        Ok(())
    }

    fn begin_apply(&mut self, id: NodeId) {
        let after = self.rng.u64(10..1_000);
        let life = self.node(id).life;
        self.schedule(after, Happening::Apply { node: id, life });
    }

    fn apply(&mut self, id: NodeId) -> Result<(), Breach> {
        let syncs = self.rng.u8(..4) == 0;
        let node = &mut self.nodes[id as usize - 1];
        let Some((first, last, mut entries)) = node.machine.orders.pop_front() else { return Ok(()) };
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
        let has_more = !node.machine.orders.is_empty();
        if has_more {
            self.begin_apply(id);
        }
        self.trace.note(id, What::Applied, &[last]);
        self.answer(id)?;
        self.give(id, Event::Applied { index: last })
    }

    /// Answers the clients whose index has been applied.
    fn answer(&mut self, id: NodeId) -> Result<(), Breach> {
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
        let applied = node.machine.applied;
        let last_applied = LogId::new(node.disk.durable.term(applied), applied);
        let last = node.disk.durable.last();
        let restored = Restored {
            hard_state: node.disk.hard_state,
            log: node.disk.summary(),
            last_applied,
            ..Restored::default()
        };
        let term = node.disk.hard_state.map_or(0, |state| state.term);
        self.trace.note(id, What::Started, &[term, last.term, last.index, applied]);
        node.clock = clock;
        let driver = Driver::new(node.config.clone(), restored, boot, clock.local(self.now))
            .map_err(|error| Breach::new("An Honest Disk Is Accepted", format!("node {id}: {error}")))?;
        node.driver = Some(driver);
        node.timer_at = u64::MAX;
        self.checks.started(id, &node.disk.hard_state);
        self.run_node(id)
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
        let unsynced = node.disk.unsynced_steps();
        let survive = survive.unwrap_or_else(|| if rng.bool() { rng.usize(0..=unsynced) } else { 0 }).min(unsynced);
        node.disk.lose_power(survive, |write, steps, hard, log| checks.landing(id, write, steps, hard, log))?;
        let kept = if rng.bool() { node.machine.applied } else { rng.u64(node.machine.synced..=node.machine.applied) };
        node.machine = Machine::replay(&checks.chosen()[..kept as usize]);
        let last = node.disk.durable.last();
        self.trace.note(id, What::Crashed, &[survive as u64, unsynced as u64, last.term, last.index]);
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
            trace_hash: self.trace.hash(),
        }
    }

    pub(super) fn violation(&self, breach: Breach) -> Box<Violation> {
        let mut trace = self.trace.lines();
        for node in &self.nodes {
            let (durable, visible) = (node.disk.durable.last(), node.disk.visible.last());
            let state = match &node.driver {
                Some(driver) => format!("{:?}", glance(driver)),
                None => "down".to_owned(),
            };
            trace.push(format!("node {}: disk {:?} {durable}, log {visible}, {state}", node.id, node.disk.hard_state));
        }
        Box::new(Violation {
            seed: self.seed,
            step: self.steps,
            time: Duration::from_micros(self.now),
            property: breach.property.to_owned(),
            detail: breach.detail,
            trace,
        })
    }

    /// A panic inside a node, as a violation.
    pub(super) fn panicked(&self, panic: &(dyn std::any::Any + Send)) -> Box<Violation> {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_default();
        Box::new(Violation {
            seed: self.seed,
            step: self.steps,
            time: Duration::from_micros(self.now),
            property: "No Panic".to_owned(),
            detail: text,
            trace: self.trace.lines(),
        })
    }
}

/// What another data directory, which has everything and grants everything, would say in place of this reply.
fn stranger(message: &Message) -> Option<Message> {
    let mut message = message.clone();
    match &mut message.body {
        Body::VoteReply { granted } | Body::PreVoteReply { granted, .. } => *granted = true,
        Body::AppendReply(reply) => reply.outcome = AppendOutcome::Accepted { matched: message.term << 8 },
        Body::ReadIndexReply { index, .. } => *index = Some(1),
        _ => return None,
    }
    Some(message)
}

/// What the checks need to know of a node.
pub(super) fn glance(driver: &Driver) -> Glance {
    let raft = driver.raft();
    Glance {
        role: raft.role(),
        term: raft.term,
        commit: raft.commit,
        applied: raft.applied,
        persisted: raft.writes.persisted_index(),
        last: raft.log.last(),
    }
}

impl Node {
    fn new(id: NodeId, template: &Config, founders: &[(NodeId, String)]) -> Self {
        let config = Config { node: id, address: format!("n{id}"), founders: founders.to_vec(), ..template.clone() };
        Self {
            id,
            life: 0,
            driver: None,
            disk: Disk::default(),
            machine: Machine::default(),
            is_paused: false,
            crash_after: None,
            config,
            inbox: Vec::new(),
            is_wake_scheduled: false,
            timer_at: u64::MAX,
            clock: Clock { rate: MILLION, ..Clock::default() },
            last_role: (None, 0),
            last_commit: 0,
            waiting: VecDeque::new(),
            reading: Vec::new(),
        }
    }

    /// The time on the node's clock.
    pub(super) fn local_time(&self, now: u64) -> Duration {
        self.clock.local(now)
    }

    /// A proposal waits for its place. Places of an older term that were truncated may lie behind newer ones.
    fn wait_for(&mut self, at: LogId, request: u64) {
        let position = self.waiting.partition_point(|(other, _)| other.index <= at.index);
        self.waiting.insert(position, (at, request));
    }

    /// Whether it has nothing left to do but to wait.
    pub(super) fn is_idle(&self) -> bool {
        self.inbox.is_empty() && self.machine.orders.is_empty() && self.disk.unsynced_steps() == 0
    }
}

impl Machine {
    fn replay(entries: &[Entry]) -> Self {
        let mut machine = Self::default();
        entries.iter().for_each(|entry| machine.apply(entry));
        (machine.synced, machine.ordered) = (machine.applied, machine.applied);
        machine
    }

    fn apply(&mut self, entry: &Entry) {
        if let Some((_, key)) = decode(entry) {
            self.written[key] = entry.index;
        }
        self.applied = entry.index;
    }
}

/// Windows and timings: the smaller, the more often their limits are met.
fn draw_config(rng: &mut Rng, options: &Options) -> Config {
    let mut config = Config::new(1, "");
    #[cfg(feature = "mutants")]
    {
        config.mutant = options.mutant;
    }
    if options.fault_permille == 0 {
        return config;
    }
    let heartbeat = rng.u64(20..150);
    config.heartbeat_interval = Duration::from_millis(heartbeat);
    config.election_timeout_min = Duration::from_millis(heartbeat * rng.u64(3..8));
    config.election_timeout_max = config.election_timeout_min * rng.u32(12..30) / 10;
    config.max_inflight_messages = [1, 2, 4, 64][rng.usize(..4)];
    config.max_inflight_bytes = [200, 2_000, 16 << 20][rng.usize(..3)];
    config.max_message_bytes = [100, 400, 1 << 20][rng.usize(..3)];
    config.max_unapplied_bytes = [500, 10_000, 64 << 20][rng.usize(..3)];
    config.max_pending_reads = [2, 1 << 16][rng.usize(..2)];
    config.tail_bytes = [0, 300, 3_000, 16 << 20][rng.usize(..4)];
    config
}
