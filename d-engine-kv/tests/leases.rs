//! Leases: virtual time, several machines that apply one log, and leaders that come and go.

#![allow(clippy::unwrap_used, reason = "a test binary: a failed unwrap is a failed test")]

#[allow(dead_code, reason = "shared with the other test binaries, which use the rest")]
mod support;

use std::time::Duration;

use bytes::Bytes;
use d_engine_core::command::{KvLease, KvPut, LeaseChoice};
use d_engine_core::{Entry, EntryKind, KvAnswer, KvCommand, KvOutcome, KvQuery, KvReject, StateMachine};
use d_engine_kv::KvStateMachine;
use d_engine_mem::MemKvStore;
use proptest::collection::vec;
use proptest::prelude::*;
use support::{apply, digest, put, value};

const TICK: Duration = Duration::from_millis(100);

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Replicas that apply the same log, one of which leads. Each has a clock of its own.
struct Cluster {
    machines: Vec<KvStateMachine>,
    /// How far each clock is ahead of the first one.
    skews: Vec<Duration>,
    leader: usize,
    index: u64,
    now: Duration,
    /// Entries that the leader's machine has asked for.
    proposed: Vec<KvCommand>,
}

impl Cluster {
    fn new(size: u64) -> Self {
        let machines: Vec<_> = (0..size).map(|_| KvStateMachine::new(MemKvStore::new()).unwrap()).collect();
        let skews = (0..size).map(|n| Duration::from_secs(1_000 * n)).collect();
        let mut cluster = Self { machines, skews, leader: 0, index: 0, now: ms(5), proposed: Vec::new() };
        cluster.lead(0);
        cluster
    }

    fn leader(&self) -> &KvStateMachine {
        &self.machines[self.leader]
    }

    fn lead(&mut self, leader: usize) {
        self.leader = leader;
        for (node, machine) in self.machines.iter().enumerate() {
            machine.leadership(node == leader, self.now + self.skews[node]);
        }
    }

    fn run(&mut self, command: &KvCommand) -> KvOutcome {
        self.index += 1;
        let entry = Entry::new(self.index, 1, EntryKind::Command, command.encode());
        let mut responses: Vec<Bytes> = self
            .machines
            .iter()
            .map(|machine| apply(machine, vec![entry.clone()]).unwrap().remove(0).response)
            .collect();
        responses.dedup();
        assert_eq!(responses.len(), 1, "every replica answers the same");
        KvOutcome::decode(&responses[0]).unwrap()
    }

    fn grant(&mut self, ttl_ms: u64) -> u64 {
        match self.run(&KvCommand::LeaseGrant { id: 0, ttl_ms }) {
            KvOutcome::LeaseGranted { id, .. } => id,
            other => panic!("{other:?}"),
        }
    }

    fn attach(&mut self, key: &str, lease: u64) {
        let put = KvPut::new(key.to_owned(), "v").lease(LeaseChoice::Attach(lease));
        assert!(matches!(self.run(&KvCommand::PutWith(put)), KvOutcome::Done { .. }));
    }

    /// Lets time pass in ticks, and applies what the leader finds due.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now = (self.now + TICK).min(until);
            self.tick();
        }
    }

    fn tick(&mut self) {
        for (node, machine) in self.machines.iter().enumerate() {
            machine.leadership(node == self.leader, self.now + self.skews[node]);
            let due = machine.due(self.now + self.skews[node]);
            assert!(node == self.leader || due.is_empty(), "only the leader proposes");
            self.proposed.extend(due.iter().map(|command| KvCommand::decode(command).unwrap()));
        }
        for command in std::mem::take(&mut self.proposed) {
            self.run(&command);
        }
    }

    fn lease(&self, node: usize, id: u64) -> Option<KvLease> {
        let (answer, _) = self.machines[node].read_at(KvQuery::Lease { id, keys: true }.encode()).unwrap();
        match KvAnswer::decode(&answer).unwrap() {
            KvAnswer::Lease { lease, .. } => lease,
            other => panic!("{other:?}"),
        }
    }

    fn leases(&self) -> Vec<u64> {
        let (answer, _) = self.leader().read_at(KvQuery::Leases { after: 0, limit: 0 }.encode()).unwrap();
        match KvAnswer::decode(&answer).unwrap() {
            KvAnswer::Leases { ids, more: false, .. } => ids,
            other => panic!("{other:?}"),
        }
    }

    fn keep(&mut self, id: u64) -> KvOutcome {
        self.run(&KvCommand::LeaseKeepAlive { ids: vec![id] })
    }
}

#[test]
fn a_lease_ends_with_its_keys_neither_early_nor_much_late() {
    let mut cluster = Cluster::new(3);
    let id = cluster.grant(5_000);
    cluster.attach("a", id);
    cluster.attach("b", id);
    cluster.run(&put("c", "v"));
    cluster.pass(ms(4_900));
    assert_eq!(cluster.leases(), [id]);
    let lease = cluster.lease(0, id).unwrap();
    assert_eq!((lease.key_count, lease.keys), (2, vec![Bytes::from("a"), Bytes::from("b")]));
    assert!((1..=300).contains(&lease.remaining_ms), "{}", lease.remaining_ms);
    cluster.pass(ms(400));
    assert_eq!(cluster.leases(), [0; 0]);
    for machine in &cluster.machines {
        assert_eq!((value(machine, "a"), value(machine, "b"), value(machine, "c")), (None, None, Some("v".into())));
        assert_eq!(digest(machine), digest(cluster.leader()));
    }
}

#[test]
fn a_kept_alive_lease_stays_and_one_that_was_not_goes() {
    let mut cluster = Cluster::new(1);
    let (kept, left) = (cluster.grant(1_000), cluster.grant(1_000));
    for _ in 0..10 {
        cluster.pass(ms(700));
        assert_eq!(cluster.keep(kept), KvOutcome::LeasesKept { revision: 0, ttls_ms: vec![1_000] });
    }
    assert_eq!(cluster.leases(), [kept]);
    assert_eq!(cluster.keep(left), KvOutcome::LeasesKept { revision: 0, ttls_ms: vec![0] });
}

#[test]
fn a_keep_alive_in_front_of_an_expiry_in_the_log_wins() {
    let mut cluster = Cluster::new(1);
    let id = cluster.grant(1_000);
    cluster.attach("a", id);
    cluster.pass(ms(900));
    let mut due = Vec::new();
    while due.is_empty() {
        cluster.now += TICK;
        due = cluster.leader().due(cluster.now);
    }
    cluster.keep(id);
    let expire = KvCommand::decode(&due[0]).unwrap();
    assert!(matches!(cluster.run(&expire), KvOutcome::LeasesEnded { leases: 0, keys: 0, .. }));
    assert_eq!(value(cluster.leader(), "a"), Some("v".into()));
    cluster.pass(ms(900));
    assert_eq!(cluster.leases(), [id], "its time began anew");
    cluster.pass(ms(400));
    assert_eq!(cluster.leases(), [0; 0]);
}

#[test]
fn an_expiry_of_a_lease_that_was_granted_anew_ends_nothing() {
    let mut cluster = Cluster::new(1);
    let grant = KvCommand::LeaseGrant { id: 7, ttl_ms: 1_000 };
    for renewals in 0..3 {
        cluster.run(&grant);
        (0..renewals).for_each(|_| _ = cluster.keep(7));
        let mut due = Vec::new();
        while due.is_empty() {
            cluster.now += TICK;
            due = cluster.leader().due(cluster.now);
        }
        // Under way, one behind the other: the end of the old one, and the beginning of the new one.
        cluster.run(&KvCommand::LeaseRevoke { id: 7 });
        cluster.run(&grant);
        (0..renewals).for_each(|_| _ = cluster.keep(7));
        let outcome = cluster.run(&KvCommand::decode(&due[0]).unwrap());
        assert!(matches!(outcome, KvOutcome::LeasesEnded { leases: 0, .. }), "{renewals} renewals: {outcome:?}");
        cluster.pass(ms(900));
        assert_eq!(cluster.leases(), [7]);
        cluster.run(&KvCommand::LeaseRevoke { id: 7 });
    }
}

#[test]
fn leases_end_although_every_look_comes_late() {
    let mut cluster = Cluster::new(1);
    let id = cluster.grant(1_000);
    cluster.attach("a", id);
    for _ in 0..5 {
        cluster.now += ms(700);
        cluster.tick();
    }
    assert_eq!((cluster.leases(), value(cluster.leader(), "a")), (vec![], None));
}

#[test]
fn a_plain_put_detaches_and_another_lease_takes_over() {
    let mut cluster = Cluster::new(1);
    let (first, second) = (cluster.grant(1_000), cluster.grant(60_000));
    for key in ["plain", "moved", "kept", "gone"] {
        cluster.attach(key, first);
    }
    cluster.run(&put("plain", "w"));
    cluster.attach("moved", second);
    cluster.run(&KvCommand::PutWith(KvPut::new("kept", "w").lease(LeaseChoice::Keep)));
    cluster.pass(ms(1_500));
    let values = ["plain", "moved", "kept", "gone"].map(|key| value(cluster.leader(), key));
    assert_eq!(values, [Some("w".into()), Some("v".into()), None, None]);
    assert_eq!(cluster.lease(0, second).unwrap().keys, ["moved"]);
}

#[test]
fn a_put_with_a_time_has_a_lease_to_itself() {
    let mut cluster = Cluster::new(1);
    let put_for = |ttl_ms| KvCommand::PutWith(KvPut::new("k", "v").lease(LeaseChoice::Ttl(ttl_ms)));
    cluster.run(&put_for(1_000));
    cluster.pass(ms(900));
    cluster.run(&put_for(1_000));
    assert_eq!(cluster.leases().len(), 1, "the lease before went with its last key");
    cluster.pass(ms(900));
    assert_eq!(value(cluster.leader(), "k"), Some("v".into()));
    cluster.pass(ms(400));
    assert_eq!(value(cluster.leader(), "k"), None);
    cluster.run(&put_for(1_000));
    cluster.run(&put("k", "stays"));
    assert_eq!(cluster.leases(), [0; 0]);
    let refused = KvOutcome::Rejected(KvReject::InvalidTtl { ttl_ms: 0, limit_ms: 315_360_000_000 });
    assert_eq!(cluster.run(&put_for(0)), refused);
}

#[test]
fn an_unknown_lease_is_refused_and_nothing_changes() {
    let mut cluster = Cluster::new(1);
    let before = digest(cluster.leader());
    let refused = KvOutcome::Rejected(KvReject::LeaseNotFound { id: 9 });
    assert_eq!(cluster.run(&KvCommand::LeaseRevoke { id: 9 }), refused);
    assert_eq!(cluster.run(&KvCommand::PutWith(KvPut::new("k", "v").lease(LeaseChoice::Attach(9)))), refused);
    assert_eq!(digest(cluster.leader()), before);
}

#[test]
fn a_new_leader_gives_back_at_most_what_was_not_noted() {
    let mut cluster = Cluster::new(2);
    let (long, short) = (cluster.grant(300_000), cluster.grant(10_000));
    cluster.pass(ms(9_000));
    // The short one begins anew, the long one is as it was: nothing was noted yet.
    cluster.lead(1);
    cluster.pass(ms(9_000));
    assert_eq!(cluster.leases().len(), 2);
    cluster.pass(ms(1_500));
    assert_eq!(cluster.leases(), [long]);
    assert!(cluster.lease(1, short).is_none());
    cluster.pass(ms(200_000));
    // Notes come every minute, so this change costs less than that.
    cluster.lead(0);
    let remaining = cluster.lease(0, long).unwrap().remaining_ms;
    assert!((89_000..=89_500 + 60_200).contains(&remaining), "{remaining}");
    cluster.pass(ms(remaining - 200));
    assert_eq!(cluster.leases(), [long]);
    cluster.pass(ms(500));
    assert_eq!(cluster.leases(), [0; 0]);
}

#[test]
fn ten_thousand_leases_that_end_together_are_one_entry() {
    let mut cluster = Cluster::new(1);
    let grant = |n: u64| KvCommand::LeaseGrant { id: n, ttl_ms: 1_000 };
    let attach = |n: u64| KvCommand::PutWith(KvPut::new(format!("k{n}"), "").lease(LeaseChoice::Attach(n)));
    let commands: Vec<_> = (1..=10_000).flat_map(|n| [grant(n), attach(n)]).collect();
    apply(cluster.leader(), support::entries(1, &commands)).unwrap();
    cluster.index = commands.len() as u64;
    let revision = 10_000;
    // The count begins at the first tick after the entries.
    cluster.pass(ms(100));
    while cluster.proposed.is_empty() {
        cluster.now += TICK;
        let due = cluster.leader().due(cluster.now);
        cluster.proposed = due.iter().map(|command| KvCommand::decode(command).unwrap()).collect();
    }
    let [expire] = &cluster.proposed[..] else { panic!("{} proposals", cluster.proposed.len()) };
    let outcome = cluster.run(&expire.clone());
    assert_eq!(outcome, KvOutcome::LeasesEnded { revision: revision + 1, leases: 10_000, keys: 10_000 });
    assert!(cluster.leader().is_empty());
}

#[test]
fn a_lost_proposal_is_made_again() {
    let mut cluster = Cluster::new(1);
    let id = cluster.grant(1_000);
    cluster.pass(ms(100));
    let mut proposals = 0;
    for _ in 0..40 {
        cluster.now += TICK;
        proposals += cluster.leader().due(cluster.now).len();
    }
    assert!((2..=4).contains(&proposals), "{proposals}");
    assert_eq!(cluster.leases(), [id]);
}

#[test]
fn after_a_gap_the_leader_listens_before_it_ends_anything() {
    let mut cluster = Cluster::new(1);
    let id = cluster.grant(1_000);
    cluster.pass(ms(100));
    cluster.now += Duration::from_secs(10);
    assert!(cluster.leader().due(cluster.now).is_empty());
    cluster.keep(id);
    cluster.pass(ms(900));
    assert_eq!(cluster.leases(), [id]);
}

#[test]
fn a_restart_and_a_failed_write_keep_the_leases() {
    let store = support::FailingStore::default();
    let machine = KvStateMachine::new(store.clone()).unwrap();
    let grant = KvCommand::LeaseGrant { id: 0, ttl_ms: 1_000 };
    assert_eq!(
        support::outcomes(&machine, 1, std::slice::from_ref(&grant)),
        [KvOutcome::LeaseGranted { revision: 0, id: 1, ttl_ms: 1_000 }]
    );
    store.fail(true);
    assert!(apply(&machine, support::entries(2, std::slice::from_ref(&grant))).is_err());
    store.fail(false);
    let granted = [KvOutcome::LeaseGranted { revision: 0, id: 2, ttl_ms: 1_000 }];
    assert_eq!(
        support::outcomes(&machine, 2, std::slice::from_ref(&grant)),
        granted,
        "the failed chunk has left nothing"
    );
    let machine = KvStateMachine::new(store).unwrap();
    assert_eq!(
        support::outcomes(&machine, 3, &[grant]),
        [KvOutcome::LeaseGranted { revision: 0, id: 3, ttl_ms: 1_000 }]
    );
}

#[derive(Debug, Clone)]
enum Step {
    Grant(u64),
    Keep(usize),
    Pass(u64),
    Lead(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (300u64..4_000).prop_map(Step::Grant),
        3 => (0usize..8).prop_map(Step::Keep),
        4 => (50u64..1_500).prop_map(Step::Pass),
        1 => (0usize..3).prop_map(Step::Lead),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_lease_ends_early_whoever_leads(steps in vec(step(), 0..60)) {
        let mut cluster = Cluster::new(3);
        // Id, TTL and when its time began anew last.
        let mut leases: Vec<(u64, u64, Duration)> = Vec::new();
        let mut changed_at = Duration::ZERO;
        for step in steps {
            match step {
                Step::Grant(ttl_ms) => leases.push((cluster.grant(ttl_ms), ttl_ms, cluster.now)),
                Step::Keep(which) => {
                    if let Some((id, ttl_ms, began)) = leases.get_mut(which)
                        && cluster.keep(*id) == (KvOutcome::LeasesKept { revision: 0, ttls_ms: vec![*ttl_ms] })
                    {
                        *began = cluster.now;
                    }
                }
                Step::Pass(time) => cluster.pass(ms(time)),
                Step::Lead(leader) => {
                    changed_at = cluster.now;
                    cluster.lead(leader);
                }
            }
            let there = cluster.leases();
            for (id, ttl_ms, began) in &leases {
                let due = *began + ms(*ttl_ms);
                let exists = there.contains(id);
                prop_assert!(exists || cluster.now >= due, "lease {} ended early", id);
                let late = due.max(changed_at + ms(*ttl_ms)) + 3 * TICK;
                prop_assert!(!exists || cluster.now <= late, "lease {} is late", id);
            }
        }
    }
}
