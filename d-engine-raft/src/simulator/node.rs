//! A node of the world: driver, disk, state machine and clock.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use d_engine_core::{Entry, EntryKind, LogId, Membership};
use fastrand::Rng;

use super::Options;
use super::checks::Glance;
use super::clients::{KEYS, decode};
use super::disk::Disk;
use super::duties::Duties;
use super::snapshots::{Shelf, Snapshot};
use crate::{Config, Driver, Event, NodeId, Role};

/// A node with everything around it. A crash ends a life; what was meant for an earlier life is dropped.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) life: u32,
    pub(super) driver: Option<Driver>,
    pub(super) disk: Disk,
    pub(super) machine: Machine,
    pub(super) shelf: Shelf,
    pub(super) is_paused: bool,
    /// Crash after this many more commands.
    pub(super) crash_after: Option<u32>,
    pub(super) config: Config,
    pub(super) inbox: Vec<Event>,
    pub(super) is_wake_scheduled: bool,
    /// When the earliest scheduled timer fires.
    pub(super) timer_at: u64,
    pub(super) clock: Clock,
    pub(super) duties: Duties,
    pub(super) last_role: (Option<Role>, u64),
    pub(super) last_commit: u64,
    /// Accepted proposals, in order of their places, that wait to be applied.
    pub(super) waiting: VecDeque<(LogId, u64)>,
    /// Reads that wait for an index.
    pub(super) reading: Vec<(u64, u64)>,
}

/// The replicated state machine: a few registers.
#[derive(Debug, Default)]
pub(super) struct Machine {
    pub(super) applied: u64,
    /// What it has applied for certain even after a crash.
    pub(super) synced: u64,
    /// Index of the last write to each key.
    pub(super) written: [u64; KEYS],
    /// The newest configuration it has applied.
    pub(super) membership: Option<Arc<Membership>>,
    /// What it has been told to do.
    pub(super) orders: VecDeque<Order>,
    pub(super) ordered: u64,
}

/// What a state machine is told to do, one thing after the other.
#[derive(Debug)]
pub(super) enum Order {
    Apply { first: u64, last: u64, entries: Vec<Entry> },
    Install(LogId),
}

/// A clock that runs fast or slow, from an origin of its own.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Clock {
    pub(super) began: u64,
    pub(super) origin: u64,
    /// Microseconds of this clock in a second of true time.
    pub(super) rate: u64,
}

pub(super) const MILLION: u64 = 1_000_000;

impl Clock {
    pub(super) fn local(&self, now: u64) -> Duration {
        Duration::from_micros(self.origin + (now - self.began) * self.rate / MILLION)
    }

    /// The first true time at which the clock shows `local` or later.
    pub(super) fn global(&self, local: Duration) -> u64 {
        let since = (local.as_nanos().div_ceil(1000) as u64).saturating_sub(self.origin);
        self.began.saturating_add((since.saturating_mul(MILLION)).div_ceil(self.rate))
    }
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
        purged: raft.log.purged(),
    }
}

impl Node {
    pub(super) fn new(id: NodeId, template: &Config, founders: &[(NodeId, String)]) -> Self {
        let config = Config { node: id, address: format!("n{id}"), founders: founders.to_vec(), ..template.clone() };
        Self {
            id,
            life: 0,
            driver: None,
            disk: Disk::default(),
            machine: Machine::default(),
            shelf: Shelf::default(),
            is_paused: false,
            crash_after: None,
            config,
            inbox: Vec::new(),
            is_wake_scheduled: false,
            timer_at: u64::MAX,
            clock: Clock { rate: MILLION, ..Clock::default() },
            duties: Duties::default(),
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
    pub(super) fn wait_for(&mut self, at: LogId, request: u64) {
        let position = self.waiting.partition_point(|(other, _)| other.index <= at.index);
        self.waiting.insert(position, (at, request));
    }

    /// Whether a restart would find this entry in the log or behind its purge boundary.
    pub(super) fn secures(&self, id: LogId) -> bool {
        let log = &self.disk.durable;
        match &self.shelf.marked {
            // The machine holds a snapshot that the log does not know of: the restart purges the log first.
            Some(marked) if marked.at.index <= self.machine.synced && !log.holds(marked.at) => {
                id.index < marked.at.index || id == marked.at
            }
            _ => log.holds(id),
        }
    }

    /// The data directory, as far as the disk knows it for certain.
    pub(super) fn incarnation(&self) -> Option<u128> {
        self.disk.hard_state?.identity.map(|identity| identity.incarnation)
    }

    /// Whether it has nothing left to do but to wait.
    pub(super) fn is_idle(&self) -> bool {
        self.inbox.is_empty() && self.machine.orders.is_empty() && self.disk.unsynced_steps() == 0
    }
}

impl Machine {
    pub(super) fn replay(entries: &[Entry]) -> Self {
        let mut machine = Self::default();
        entries.iter().for_each(|entry| machine.apply(entry));
        (machine.synced, machine.ordered) = (machine.applied, machine.applied);
        machine
    }

    pub(super) fn apply(&mut self, entry: &Entry) {
        if let Some((_, key)) = decode(entry) {
            self.written[key] = entry.index;
        }
        if entry.kind == EntryKind::Membership {
            self.membership = Membership::decode(&entry.data).ok().map(Arc::new);
        }
        self.applied = entry.index;
    }

    /// Takes over the state of a snapshot, whole and durably.
    pub(super) fn install(&mut self, snapshot: &Snapshot) {
        let at = snapshot.at.index;
        (self.applied, self.synced, self.ordered) = (at, at, at);
        self.written = snapshot.written;
        self.membership = Some(Arc::clone(&snapshot.membership));
    }
}

/// Windows and timings: the smaller, the more often their limits are met.
pub(super) fn draw_config(rng: &mut Rng, options: &Options) -> Config {
    let mut config = Config::new(1, "");
    #[cfg(feature = "mutants")]
    {
        config.mutant = options.mutant;
    }
    config.lease = options.lease;
    if options.fault_permille == 0 {
        // Whoever makes a snapshot by hand wants to see the log purged.
        config.max_entries_behind_snapshot = 0;
        return config;
    }
    let heartbeat = rng.u64(20..150);
    config.heartbeat_interval = Duration::from_millis(heartbeat);
    config.election_timeout_min = Duration::from_millis(heartbeat * rng.u64(3..8));
    config.election_timeout_max = config.election_timeout_min * rng.u32(12..30) / 10;
    config.lease |= rng.u8(..3) == 0;
    config.clock_drift_ppm = [500, 10_000, 100_000][rng.usize(..3)];
    config.max_inflight_messages = [1, 2, 4, 64][rng.usize(..4)];
    config.max_inflight_bytes = [200, 2_000, 16 << 20][rng.usize(..3)];
    config.max_message_bytes = [100, 400, 1 << 20][rng.usize(..3)];
    config.max_unapplied_bytes = [500, 10_000, 64 << 20][rng.usize(..3)];
    config.max_pending_reads = [2, 1 << 16][rng.usize(..2)];
    config.max_entries_behind_snapshot = [0, 3, 20, 1 << 20][rng.usize(..4)];
    config.tail_bytes = [0, 300, 3_000, 16 << 20][rng.usize(..4)];
    config
}
