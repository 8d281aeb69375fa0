//! Three drivers joined by hand: messages arrive at once, the disk answers at once. The smallest cluster there is.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use d_engine_core::{EntryKind, LogId};
use d_engine_raft::{Append, Body, Boot, Command, Config, Driver, Event, Message, Rejection, Restored, Role};

struct Cluster {
    now: Duration,
    nodes: BTreeMap<u64, Driver>,
    down: Vec<u64>,
    queue: VecDeque<(u64, Event)>,
    applied: BTreeMap<u64, Vec<(u64, Bytes)>>,
    accepted: Vec<(u64, LogId)>,
    ready: Vec<(u64, u64)>,
    rejected: Vec<(u64, Rejection)>,
}

impl Cluster {
    fn new(size: u64) -> Self {
        let founders: Vec<_> = (1..=size).map(|node| (node, format!("n{node}:1"))).collect();
        let driver = |node: u64| {
            let config = Config { founders: founders.clone(), ..Config::new(node, format!("n{node}:1")) };
            let boot = Boot { seed: node, incarnation: 100 + u128::from(node), cluster: 7 };
            (node, Driver::new(config, Restored::default(), boot, Duration::ZERO).unwrap())
        };
        Self {
            now: Duration::ZERO,
            nodes: (1..=size).map(driver).collect(),
            down: Vec::new(),
            queue: VecDeque::new(),
            applied: BTreeMap::new(),
            accepted: Vec::new(),
            ready: Vec::new(),
            rejected: Vec::new(),
        }
    }

    fn perform(&mut self, node: u64, command: Command) {
        match command {
            Command::Write(write) => self.queue.push_back((node, Event::Persisted { seq: write.seq })),
            Command::Send { to, message } => self.queue.push_back((to, Event::Message { from: node, message })),
            Command::Apply { last, entries, .. } => {
                let commands = entries.iter().filter(|entry| entry.kind == EntryKind::Command);
                let log = self.applied.entry(node).or_default();
                log.extend(commands.map(|entry| (entry.index, entry.data.clone())));
                self.queue.push_back((node, Event::Applied { index: last }));
            }
            Command::Accepted { id, at } => self.accepted.push((id, at)),
            Command::ReadReady { id, index } => self.ready.push((id, index)),
            Command::Rejected { id, why } => self.rejected.push((id, why)),
            other => panic!("unexpected {other:?}"),
        }
    }

    /// Delivers until nothing is under way.
    fn settle(&mut self) {
        loop {
            for node in self.nodes.keys().copied().collect::<Vec<_>>() {
                while let Some(command) = self.nodes.get_mut(&node).and_then(Driver::poll) {
                    self.perform(node, command);
                }
            }
            let Some((to, event)) = self.queue.pop_front() else { return };
            if !self.down.contains(&to) {
                self.nodes.get_mut(&to).unwrap().handle(self.now, event);
            }
        }
    }

    /// Lets time pass to the next timeout of a node that is up.
    fn tick(&mut self) {
        let up = self.nodes.iter().filter(|(node, _)| !self.down.contains(node));
        let (at, node) = up.filter_map(|(node, driver)| Some((driver.poll_timeout()?, *node))).min().unwrap();
        self.now = self.now.max(at);
        self.queue.push_back((node, Event::Timeout));
        self.settle();
    }

    fn leader(&mut self) -> u64 {
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

    fn event(&mut self, node: u64, event: Event) {
        self.nodes.get_mut(&node).unwrap().handle(self.now, event);
        self.settle();
    }
}

#[test]
fn three_empty_nodes_form_a_cluster_and_commit() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.leader();
    cluster.event(leader, Event::Propose { id: 1, command: Bytes::from_static(b"one") });
    let at = cluster.accepted[0].1.index;
    assert_eq!(cluster.applied[&leader], [(at, Bytes::from_static(b"one"))]);
    cluster.tick();
    cluster.tick();
    assert!((1..=3).all(|node| cluster.applied[&node] == cluster.applied[&leader]));
}

#[test]
fn followers_refuse_proposals_and_serve_reads() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.leader();
    let follower = 1 + leader % 3;
    cluster.event(follower, Event::Propose { id: 1, command: Bytes::new() });
    assert_eq!(cluster.rejected, [(1, Rejection::NotLeader { leader: Some(leader) })]);
    cluster.event(leader, Event::Propose { id: 2, command: Bytes::from_static(b"x") });
    let written = cluster.accepted[0].1.index;
    cluster.event(follower, Event::Read { id: 3 });
    assert_eq!(cluster.ready, [(3, written)]);
    assert_eq!(cluster.applied[&follower].len(), 1, "the reply tells the follower what is committed");
}

#[test]
fn the_others_go_on_without_the_leader() {
    let mut cluster = Cluster::new(3);
    let first = cluster.leader();
    cluster.event(first, Event::Propose { id: 1, command: Bytes::from_static(b"kept") });
    cluster.down.push(first);
    let second = cluster.leader();
    assert_ne!(first, second);
    cluster.event(second, Event::Propose { id: 2, command: Bytes::from_static(b"new") });
    let values: Vec<_> = cluster.applied[&second].iter().map(|(_, data)| data.clone()).collect();
    assert_eq!(values, [Bytes::from_static(b"kept"), Bytes::from_static(b"new")]);
}

#[test]
fn one_node_serves_alone() {
    let mut cluster = Cluster::new(1);
    cluster.settle();
    cluster.event(1, Event::Propose { id: 1, command: Bytes::from_static(b"x") });
    cluster.event(1, Event::Read { id: 2 });
    assert_eq!(cluster.applied[&1].len(), 1);
    assert_eq!(cluster.ready.len(), 1);
}

#[test]
fn a_follower_that_has_lost_what_it_acknowledged_says_so_and_stops() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.leader();
    let follower = 1 + leader % 3;
    cluster.event(leader, Event::Propose { id: 1, command: Bytes::from_static(b"x") });
    let status = cluster.nodes[&leader].status(cluster.now);
    let append = Append {
        session: 9,
        prev: status.last,
        commit: status.commit,
        matched: status.last.index + 5,
        round: 0,
        entries: Vec::new(),
    };
    let incarnation = status.identity.incarnation;
    let message = Message { term: status.term, incarnation, group: 0, body: Body::Append(append) };
    cluster.event(follower, Event::Message { from: leader, message });
    let status = cluster.nodes[&follower].status(cluster.now);
    assert_eq!(status.role, Role::Failed);
    assert!(status.failure.unwrap().contains("acknowledged entries up to"));
}
