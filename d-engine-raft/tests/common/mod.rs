//! Drivers joined by hand: messages arrive at once, the disk answers at once. The smallest cluster there is.
#![allow(dead_code, clippy::unwrap_used, reason = "a part of each test binary, and of tests only")]

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use d_engine_core::{EntryKind, LogId};
use d_engine_raft::{Answer, Boot, Command, Config, Driver, Event, Input, Rejection, Restored, Role, SnapshotTask};

pub(crate) struct Cluster {
    pub(crate) now: Duration,
    pub(crate) nodes: BTreeMap<u64, Driver>,
    pub(crate) down: Vec<u64>,
    pub(crate) queue: VecDeque<(u64, Input)>,
    pub(crate) applied: BTreeMap<u64, Vec<(u64, Bytes)>>,
    pub(crate) accepted: Vec<(u64, LogId)>,
    pub(crate) ready: Vec<(u64, u64)>,
    pub(crate) rejected: Vec<(u64, Rejection)>,
    /// Newest snapshot of each node, and who sends one to whom.
    pub(crate) snapshots: BTreeMap<u64, LogId>,
    sending: BTreeMap<u64, (u64, u64)>,
    /// Requests that were answered, membership changes and transfers.
    pub(crate) done: Vec<u64>,
    pub(crate) lost: Vec<u64>,
}

impl Cluster {
    /// Founders, all empty.
    pub(crate) fn new(size: u64) -> Self {
        Self::at_level(size, 1)
    }

    /// Founders that understand this feature level.
    pub(crate) fn at_level(size: u64, feature_level: u32) -> Self {
        let founders: Vec<_> = (1..=size).map(|node| (node, format!("n{node}:1"))).collect();
        let config =
            |node| Config { founders: founders.clone(), feature_level, ..Config::new(node, format!("n{node}:1")) };
        let mut cluster = Self::empty();
        (1..=size).for_each(|node| cluster.start(config(node)));
        cluster
    }

    /// An empty node that waits to be added.
    pub(crate) fn join(&mut self, node: u64) {
        self.start(Config { join: true, ..Config::new(node, format!("n{node}:1")) });
    }

    fn start(&mut self, config: Config) {
        let node = config.node;
        let boot = Boot { seed: node, incarnation: incarnation(node), cluster: 7 };
        let driver = Driver::new(config, Restored::default(), boot, self.now).unwrap();
        self.nodes.insert(node, driver);
    }

    fn empty() -> Self {
        Self {
            now: Duration::ZERO,
            nodes: BTreeMap::new(),
            down: Vec::new(),
            queue: VecDeque::new(),
            applied: BTreeMap::new(),
            accepted: Vec::new(),
            ready: Vec::new(),
            rejected: Vec::new(),
            snapshots: BTreeMap::new(),
            sending: BTreeMap::new(),
            done: Vec::new(),
            lost: Vec::new(),
        }
    }

    pub(crate) fn perform(&mut self, node: u64, command: Command) {
        match command {
            Command::Write(write) => self.queue.push_back((node, Input::Persisted { seq: write.seq })),
            Command::Send { to, message } => self.queue.push_back((to, Input::Message { from: node, message })),
            Command::Apply { last, entries, .. } => {
                let commands = entries.iter().filter(|entry| entry.kind == EntryKind::Command);
                let log = self.applied.entry(node).or_default();
                log.extend(commands.map(|entry| (entry.index, entry.data.clone())));
                self.queue.push_back((node, Input::Applied { index: last }));
            }
            Command::Answer(Answer::Accepted { id, at }) => self.accepted.push((id, at)),
            Command::Answer(Answer::ReadReady { id, index }) => self.ready.push((id, index)),
            Command::Answer(Answer::Rejected { id, why }) => self.rejected.push((id, why)),
            Command::Snapshot(SnapshotTask::Send { to, session, term }) => {
                let status = self.nodes[&node].status(self.now);
                let (last_included, membership) = (self.snapshots[&node], status.membership);
                self.sending.insert(to, (node, session));
                let event = Input::SnapshotReceived { from: node, term, last_included, membership };
                self.queue.push_back((to, event));
            }
            Command::Snapshot(SnapshotTask::Install { last_included }) => {
                let (from, session) = self.sending[&node];
                let state: Vec<_> = self.applied.get(&from).cloned().unwrap_or_default();
                let state = state.into_iter().filter(|(index, _)| *index <= last_included.index).collect();
                self.applied.insert(node, state);
                self.queue.push_back((node, Input::SnapshotInstalled { last_included, ok: true }));
                let event = Input::SnapshotSent { to: node, session, installed: Some(last_included) };
                self.queue.push_back((from, event));
            }
            Command::Answer(Answer::Changed { id, .. }) | Command::Answer(Answer::Transferred { id }) => {
                self.done.push(id)
            }
            Command::Answer(Answer::Lost { id }) => self.lost.push(id),
            other => panic!("unexpected {other:?}"),
        }
    }

    /// Delivers until nothing is under way.
    pub(crate) fn settle(&mut self) {
        loop {
            for node in self.nodes.keys().copied().collect::<Vec<_>>() {
                while let Some(command) = self.nodes.get_mut(&node).and_then(Driver::poll) {
                    self.perform(node, command);
                }
            }
            let Some((to, event)) = self.queue.pop_front() else { return };
            let node = self.nodes.get_mut(&to).filter(|_| !self.down.contains(&to));
            if let Some(node) = node {
                node.handle(self.now, event);
            }
        }
    }

    /// Lets time pass to the next timeout of a node that is up.
    pub(crate) fn tick(&mut self) {
        let up = self.nodes.iter().filter(|(node, _)| !self.down.contains(node));
        let (at, node) = up.filter_map(|(node, driver)| Some((driver.poll_timeout()?, *node))).min().unwrap();
        self.now = self.now.max(at);
        self.queue.push_back((node, Input::Timeout));
        self.settle();
    }

    pub(crate) fn leader(&mut self) -> u64 {
        for _ in 0..1000 {
            self.tick();
            let up = self.nodes.iter().filter(|(node, _)| !self.down.contains(node));
            let mut leaders = up.filter(|(_, driver)| {
                let status = driver.status(self.now);
                status.role == Role::Leader && status.commit == status.last.index
            });
            if let Some((node, _)) = leaders.next() {
                return *node;
            }
        }
        panic!("no leader");
    }

    pub(crate) fn event(&mut self, node: u64, event: impl Into<Event>) {
        self.nodes.get_mut(&node).unwrap().handle(self.now, event);
        self.settle();
    }
}

/// Incarnation of a node's only directory.
pub(crate) fn incarnation(node: u64) -> u128 {
    100 + u128::from(node)
}
