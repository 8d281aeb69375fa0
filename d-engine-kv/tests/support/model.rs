//! The simplest thing that could be right: one command after the other on maps.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use d_engine_core::command::{
    KeySpan, KvCompare, KvDelete, KvOp, KvOpResult, KvPut, KvRange, KvTest, KvTxn, LeaseChoice, LeaseMark,
};
use d_engine_core::{KvCommand, KvOutcome, KvRecord, KvReject, KvRequest};

/// How many numbers of a session may be in use at once.
pub(crate) const WINDOW: u64 = 1_024;

#[derive(Clone, Debug, PartialEq)]
struct Lease {
    ttl_ms: u64,
    /// Index of the entry that began its time last.
    began: u64,
    owned: bool,
}

#[derive(Clone, Debug)]
struct Session {
    lowest: u64,
    used: u64,
    results: BTreeMap<u64, KvOutcome>,
}

#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) records: BTreeMap<Bytes, KvRecord>,
    pub(crate) revision: u64,
    leases: BTreeMap<u64, Lease>,
    /// Those that there were before the present command.
    attachable: BTreeSet<u64>,
    next_lease: u64,
    sessions: BTreeMap<u64, Session>,
    session_limit: usize,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            records: BTreeMap::new(),
            revision: 0,
            leases: BTreeMap::new(),
            attachable: BTreeSet::new(),
            next_lease: 1,
            sessions: BTreeMap::new(),
            session_limit: 10_000,
        }
    }
}

type Outcome<T> = Result<T, KvReject>;

impl Model {
    pub(crate) fn request(&mut self, index: u64, request: &KvRequest) -> KvOutcome {
        let Some(header) = request.session else {
            return self.run(index, &request.command);
        };
        let Some(session) = self.sessions.get_mut(&header.session) else {
            return KvOutcome::Rejected(KvReject::SessionExpired { session: header.session });
        };
        session.used = index;
        session.lowest = session.lowest.max(header.lowest);
        let lowest = session.lowest;
        session.results.retain(|sequence, _| *sequence >= lowest);
        let (sequence, highest) = (header.sequence, lowest + WINDOW - 1);
        if sequence < lowest || sequence > highest {
            return KvOutcome::Rejected(KvReject::OutOfWindow { sequence, lowest, highest });
        }
        if let Some(outcome) = session.results.get(&sequence) {
            return outcome.clone();
        }
        let outcome = self.run(index, &request.command);
        if let Some(session) = self.sessions.get_mut(&header.session) {
            session.results.insert(sequence, outcome.clone());
        }
        outcome
    }

    pub(crate) fn run(&mut self, index: u64, command: &KvCommand) -> KvOutcome {
        if let Err(reject) = command.check(usize::MAX) {
            return KvOutcome::Rejected(reject);
        }
        self.attachable = self.leases.keys().copied().collect();
        let before = self.clone();
        let outcome = self.perform(index, command, before.revision + 1);
        let outcome = outcome.unwrap_or_else(|reject| {
            *self = before.clone();
            KvOutcome::Rejected(reject)
        });
        self.leases.retain(|id, lease| !lease.owned || self.records.values().any(|record| record.lease == *id));
        outcome
    }

    /// `next` is the revision of whatever changes.
    fn perform(&mut self, index: u64, command: &KvCommand, next: u64) -> Outcome<KvOutcome> {
        Ok(match command {
            KvCommand::Put { key, value } => {
                self.set(next, key, value, 0);
                KvOutcome::Put { revision: self.revision }
            }
            KvCommand::Delete { key } => {
                let existed = self.remove(next, key).is_some();
                KvOutcome::Deleted { revision: self.revision, existed }
            }
            KvCommand::Cas { key, expected, value } => {
                let current = self.records.get(key).map(|record| record.value.clone());
                let succeeded = current == *expected;
                match value {
                    Some(value) if succeeded => self.set(next, key, value, 0),
                    None if succeeded => _ = self.remove(next, key),
                    _ => {}
                }
                let current = if succeeded { None } else { current };
                KvOutcome::Cas { revision: self.revision, succeeded, current }
            }
            KvCommand::PutWith(put) => {
                let result = self.operate(index, next, &KvOp::Put(put.clone()))?;
                KvOutcome::Done { revision: self.revision, result }
            }
            KvCommand::DeleteRange(delete) => {
                let result = self.operate(index, next, &KvOp::Delete(delete.clone()))?;
                KvOutcome::Done { revision: self.revision, result }
            }
            KvCommand::Txn(txn) => self.transact(index, next, txn)?,
            KvCommand::LeaseGrant { id, ttl_ms } => {
                if *id != 0 && self.leases.contains_key(id) {
                    return Err(KvReject::LeaseExists { id: *id });
                }
                let id = if *id == 0 { self.choose_lease() } else { *id };
                self.leases.insert(id, Lease { ttl_ms: *ttl_ms, began: index, owned: false });
                KvOutcome::LeaseGranted { revision: self.revision, id, ttl_ms: *ttl_ms }
            }
            KvCommand::LeaseRevoke { id } => {
                self.leases.get(id).ok_or(KvReject::LeaseNotFound { id: *id })?;
                let keys = self.end_lease(next, *id);
                KvOutcome::LeasesEnded { revision: self.revision, leases: 1, keys }
            }
            KvCommand::LeaseKeepAlive { ids } => {
                let mut ttls_ms = Vec::new();
                for id in ids {
                    let lease = self.leases.get_mut(id);
                    ttls_ms.push(lease.map_or(0, |lease| {
                        lease.began = index;
                        lease.ttl_ms
                    }));
                }
                KvOutcome::LeasesKept { revision: self.revision, ttls_ms }
            }
            KvCommand::LeaseExpire { leases } => {
                let (mut ended, mut keys) = (0, 0);
                for mark in leases {
                    if self.is_as_marked(*mark) {
                        keys += self.end_lease(next, mark.id);
                        ended += 1;
                    }
                }
                KvOutcome::LeasesEnded { revision: self.revision, leases: ended, keys }
            }
            KvCommand::LeaseCheckpoint { leases } => {
                let noted = leases.iter().filter(|time| self.is_as_marked(time.mark)).count() as u64;
                KvOutcome::LeasesNoted { revision: self.revision, leases: noted }
            }
            KvCommand::SessionOpen => {
                self.evict(self.session_limit - 1);
                self.sessions.insert(index, Session { lowest: 1, used: index, results: BTreeMap::new() });
                KvOutcome::SessionOpened { revision: self.revision, session: index, window: WINDOW }
            }
            KvCommand::SessionClose { session } => {
                KvOutcome::SessionClosed { revision: self.revision, existed: self.sessions.remove(session).is_some() }
            }
            KvCommand::SessionLimit { limit } => {
                self.session_limit = *limit as usize;
                KvOutcome::SessionLimitSet {
                    revision: self.revision,
                    limit: *limit,
                    evicted: self.evict(*limit as usize),
                }
            }
            other => panic!("{other:?}"),
        })
    }

    /// What a leader that has seen everything says of a lease; of none at all, something.
    pub(crate) fn mark(&self, id: u64) -> LeaseMark {
        LeaseMark { id, began: self.leases.get(&id).map_or(0, |lease| lease.began) }
    }

    fn is_as_marked(&self, mark: LeaseMark) -> bool {
        self.leases.get(&mark.id).is_some_and(|lease| lease.began == mark.began)
    }

    fn choose_lease(&mut self) -> u64 {
        while self.leases.contains_key(&self.next_lease) {
            self.next_lease += 1;
        }
        self.next_lease += 1;
        self.next_lease - 1
    }

    fn evict(&mut self, limit: usize) -> u64 {
        let mut evicted = 0;
        while self.sessions.len() > limit {
            let oldest = *self.sessions.iter().min_by_key(|(_, session)| session.used).unwrap().0;
            self.sessions.remove(&oldest);
            evicted += 1;
        }
        evicted
    }

    fn end_lease(&mut self, next: u64, id: u64) -> u64 {
        let of_lease = |record: &&KvRecord| record.lease == id;
        let keys: Vec<_> = self.records.values().filter(of_lease).map(|record| record.key.clone()).collect();
        keys.iter().for_each(|key| _ = self.remove(next, key));
        self.leases.remove(&id);
        keys.len() as u64
    }

    fn transact(&mut self, index: u64, next: u64, txn: &KvTxn) -> Outcome<KvOutcome> {
        let succeeded = txn.compares.iter().all(|compare| self.holds(compare));
        let operations = if succeeded { &txn.then } else { &txn.otherwise };
        let results =
            operations.iter().map(|operation| self.operate(index, next, operation)).collect::<Outcome<_>>()?;
        Ok(KvOutcome::Txn { revision: self.revision, succeeded, results })
    }

    fn holds(&self, KvCompare { key, test, .. }: &KvCompare) -> bool {
        let record = self.records.get(key);
        let nothing = KvRecord::default();
        let numbers = record.unwrap_or(&nothing);
        match test {
            KvTest::Value(relation, value) => record.is_some_and(|record| relation.holds(&record.value, value)),
            KvTest::Version(relation, number) => relation.holds(&numbers.version, number),
            KvTest::CreateRevision(relation, number) => relation.holds(&numbers.create_revision, number),
            KvTest::ModRevision(relation, number) => relation.holds(&numbers.mod_revision, number),
            KvTest::Lease(relation, number) => relation.holds(&numbers.lease, number),
            KvTest::Exists(exists) => record.is_some() == *exists,
            other => panic!("{other:?}"),
        }
    }

    fn operate(&mut self, index: u64, next: u64, operation: &KvOp) -> Outcome<KvOpResult> {
        match operation {
            KvOp::Put(put) => self.put(index, next, put),
            KvOp::Delete(KvDelete { span, prev, .. }) => {
                let keys: Vec<_> = self.records.keys().filter(|key| span.contains(key)).cloned().collect();
                let removed: Vec<_> = keys.iter().map(|key| self.remove(next, key).unwrap()).collect();
                let deleted = removed.len() as u64;
                Ok(KvOpResult::Deleted { deleted, prev: if *prev { removed } else { Vec::new() } })
            }
            KvOp::Range(range) => Ok(self.range(range)),
            other => panic!("{other:?}"),
        }
    }

    fn put(&mut self, index: u64, next: u64, put: &KvPut) -> Outcome<KvOpResult> {
        let before = self.records.get(&put.key).cloned();
        if before.is_none() && (put.value.is_none() || put.lease == LeaseChoice::Keep) {
            return Err(KvReject::KeyNotFound { key: put.key.clone() });
        }
        let lease = match put.lease {
            LeaseChoice::None => 0,
            LeaseChoice::Keep => before.as_ref().unwrap().lease,
            LeaseChoice::Attach(id) if self.attachable.contains(&id) => id,
            LeaseChoice::Attach(id) => return Err(KvReject::LeaseNotFound { id }),
            LeaseChoice::Ttl(ttl_ms) => {
                let id = self.choose_lease();
                self.leases.insert(id, Lease { ttl_ms, began: index, owned: true });
                id
            }
            other => panic!("{other:?}"),
        };
        let value = put.value.clone().unwrap_or_else(|| before.as_ref().unwrap().value.clone());
        self.set(next, &put.key, &value, lease);
        Ok(KvOpResult::Put { lease, prev: before.filter(|_| put.prev) })
    }

    pub(crate) fn range(&self, range: &KvRange) -> KvOpResult {
        let KeySpan { .. } = range.span;
        let mut records: Vec<_> =
            self.records.values().filter(|record| range.span.contains(&record.key)).cloned().collect();
        if range.reverse {
            records.reverse();
        }
        if let Some(after) = &range.after {
            records.retain(|record| if range.reverse { record.key < after } else { record.key > after });
        }
        if range.count_only {
            return KvOpResult::Count { count: records.len() as u64 };
        }
        let limit = if range.limit == 0 { 1_000 } else { range.limit as usize };
        let more = records.len() > limit;
        records.truncate(limit);
        if range.keys_only {
            records.iter_mut().for_each(|record| record.value = Bytes::new());
        }
        KvOpResult::Range { records, more }
    }

    fn set(&mut self, next: u64, key: &Bytes, value: &Bytes, lease: u64) {
        self.revision = next;
        let new = KvRecord::new(key.clone(), value.clone(), next, next, 0);
        let record = self.records.entry(key.clone()).or_insert(new);
        record.value = value.clone();
        record.mod_revision = next;
        record.version += 1;
        record.lease = lease;
    }

    fn remove(&mut self, next: u64, key: &Bytes) -> Option<KvRecord> {
        let removed = self.records.remove(key)?;
        self.revision = next;
        Some(removed)
    }
}
