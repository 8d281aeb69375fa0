//! What each kind of command does to records and tables.

use bytes::Bytes;
use d_engine_core::command::{
    KvOp, KvOpResult, KvPut, KvRange, KvReject, KvTest, KvTxn, LeaseChoice, LeaseMark, MAX_PREV_BYTES,
};
use d_engine_core::{Error, KvCommand, KvOutcome, KvRecord, Result};

use crate::layout::{StoreRange, user_key};
use crate::leases::Granted;
use crate::overlay::Overlay;
use crate::query::{Page, direction};
use crate::record::Record;
use crate::sessions::WINDOW;
use crate::tables::Tables;

/// One command being carried out.
pub(crate) struct Run<'a, 'store> {
    /// The index of its entry.
    pub(crate) index: u64,
    pub(crate) overlay: &'a mut Overlay<'store>,
    pub(crate) tables: &'a mut Tables,
}

/// Why a command did not do what it says: it is refused, or the store has failed.
enum Fault {
    Reject(KvReject),
    Error(Error),
}

impl From<KvReject> for Fault {
    fn from(reject: KvReject) -> Self {
        Self::Reject(reject)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

type Outcome<T> = std::result::Result<T, Fault>;

/// An operation that will not be refused any more.
enum Planned {
    Put { put: KvPut, place: usize },
    Delete { places: Vec<usize>, prev: bool },
    Range(KvRange),
}

impl Run<'_, '_> {
    /// Carries `command` out; `place` is its key's, if it is about one.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) fn run(mut self, command: KvCommand, place: usize) -> Result<KvOutcome> {
        self.overlay.begin();
        let outcome = match self.perform(command, place) {
            Ok(outcome) => outcome,
            Err(Fault::Reject(reject)) => KvOutcome::Rejected(reject),
            Err(Fault::Error(error)) => return Err(error),
        };
        self.tables.leases.remove_emptied();
        Ok(outcome)
    }

    /// Carries [`KvCommand::Put`] out, which is never refused.
    pub(crate) fn put_value(self, place: usize, value: &[u8]) -> KvOutcome {
        self.overlay.begin();
        self.overlay.put(place, value, 0, &mut self.tables.leases);
        self.tables.leases.remove_emptied();
        KvOutcome::Put { revision: self.revision() }
    }

    fn perform(&mut self, command: KvCommand, place: usize) -> Outcome<KvOutcome> {
        Ok(match command {
            KvCommand::Delete { .. } => {
                let existed = self.overlay.delete(place, &mut self.tables.leases);
                KvOutcome::Deleted { revision: self.revision(), existed }
            }
            KvCommand::Cas { expected, value, .. } => self.compare_and_swap(place, expected, value),
            KvCommand::PutWith(put) => self.single(KvOp::Put(put))?,
            KvCommand::DeleteRange(delete) => self.single(KvOp::Delete(delete))?,
            KvCommand::Txn(txn) => self.transact(txn)?,
            KvCommand::LeaseGrant { id, ttl_ms } => {
                let Tables { leases, settings, .. } = &mut *self.tables;
                let granted = Granted { ttl_ms, owned: false, index: self.index };
                let id = leases.grant(id, granted, &mut settings.next_lease)?;
                KvOutcome::LeaseGranted { revision: self.revision(), id, ttl_ms }
            }
            KvCommand::LeaseRevoke { id } => {
                self.tables.leases.expect(id)?;
                let keys = self.end_lease(id)?;
                KvOutcome::LeasesEnded { revision: self.revision(), leases: 1, keys }
            }
            KvCommand::LeaseKeepAlive { ids } => {
                let leases = &mut self.tables.leases;
                let ttls_ms = ids.into_iter().map(|id| leases.keep_alive(id, self.index).unwrap_or(0)).collect();
                KvOutcome::LeasesKept { revision: self.revision(), ttls_ms }
            }
            KvCommand::LeaseExpire { leases } => self.expire(&leases)?,
            KvCommand::LeaseCheckpoint { leases } => {
                let noted = leases.into_iter().filter(|time| self.tables.leases.note(*time)).count();
                KvOutcome::LeasesNoted { revision: self.revision(), leases: noted as u64 }
            }
            KvCommand::SessionOpen => {
                let Tables { sessions, settings, .. } = &mut *self.tables;
                // Before the new one is there, so that it is not the one to go.
                sessions.evict(settings.session_limit.saturating_sub(1));
                sessions.open(self.index);
                KvOutcome::SessionOpened { revision: self.revision(), session: self.index, window: WINDOW }
            }
            KvCommand::SessionClose { session } => {
                let existed = self.tables.sessions.close(session);
                KvOutcome::SessionClosed { revision: self.revision(), existed }
            }
            KvCommand::SessionLimit { limit } => {
                self.tables.settings.session_limit = limit;
                let evicted = self.tables.sessions.evict(limit);
                KvOutcome::SessionLimitSet { revision: self.revision(), limit, evicted }
            }
            other => {
                return Err(
                    Error::unsupported(format!("a command that this state machine does not know: {other:?}")).into()
                );
            }
        })
    }

    fn revision(&self) -> u64 {
        self.overlay.book.revision
    }

    fn compare_and_swap(&mut self, place: usize, expected: Option<Bytes>, value: Option<Bytes>) -> KvOutcome {
        let current = self.overlay.record(place);
        if current.map(Record::value) != expected.as_deref() {
            let current = current.cloned().map(Record::into_value);
            return KvOutcome::Cas { revision: self.revision(), succeeded: false, current };
        }
        match value {
            Some(value) => self.overlay.put(place, &value, 0, &mut self.tables.leases),
            None => _ = self.overlay.delete(place, &mut self.tables.leases),
        }
        KvOutcome::Cas { revision: self.revision(), succeeded: true, current: None }
    }

    fn transact(&mut self, txn: KvTxn) -> Outcome<KvOutcome> {
        let KvTxn { compares, then, otherwise, .. } = txn;
        let mut succeeded = true;
        for compare in &compares {
            let place = self.overlay.place(&compare.key)?;
            succeeded &= holds(&compare.test, self.overlay.record(place))?;
        }
        let results = self.operate(if succeeded { then } else { otherwise })?;
        Ok(KvOutcome::Txn { revision: self.revision(), succeeded, results })
    }

    fn single(&mut self, operation: KvOp) -> Outcome<KvOutcome> {
        let result = self.operate(vec![operation])?.pop();
        let result = result.ok_or_else(|| Error::backend("an operation without a result"))?;
        Ok(KvOutcome::Done { revision: self.revision(), result })
    }

    /// Carries all operations out, or none: what may be refused is found before anything is changed. That is possible because
    /// no key is written twice, so that no operation changes what another one is refused for.
    fn operate(&mut self, operations: Vec<KvOp>) -> Outcome<Vec<KvOpResult>> {
        let mut prev_bytes = 0;
        let mut planned = Vec::with_capacity(operations.len());
        for operation in operations {
            planned.push(self.plan(operation, &mut prev_bytes)?);
        }
        let mut results = Vec::with_capacity(planned.len());
        for operation in planned {
            results.push(self.operate_planned(operation)?);
        }
        Ok(results)
    }

    fn plan(&mut self, operation: KvOp, prev_bytes: &mut usize) -> Outcome<Planned> {
        Ok(match operation {
            KvOp::Put(put) => {
                let place = self.overlay.place(&put.key)?;
                let keeps = put.value.is_none() || put.lease == LeaseChoice::Keep;
                if keeps && self.overlay.record(place).is_none() {
                    return Err(KvReject::KeyNotFound { key: put.key }.into());
                }
                if let LeaseChoice::Attach(id) = put.lease {
                    self.tables.leases.expect(id)?;
                }
                if put.prev {
                    self.count_prev(place, prev_bytes)?;
                }
                Planned::Put { put, place }
            }
            KvOp::Delete(delete) => {
                let places = self.existing(&delete.span)?;
                if delete.prev {
                    places.iter().try_for_each(|place| self.count_prev(*place, prev_bytes))?;
                }
                Planned::Delete { places, prev: delete.prev }
            }
            KvOp::Range(range) => Planned::Range(range),
            other => {
                let what = format!("an operation that this state machine does not know: {other:?}");
                return Err(Error::unsupported(what).into());
            }
        })
    }

    fn existing(&mut self, span: &d_engine_core::command::KeySpan) -> Outcome<Vec<usize>> {
        if let Some(key) = span.single_key() {
            let place = self.overlay.place(key)?;
            return Ok(self.overlay.record(place).map(|_| place).into_iter().collect());
        }
        Ok(self.overlay.existing(StoreRange::of_keys(&span.start, span.end.as_deref()))?)
    }

    fn count_prev(&self, place: usize, bytes: &mut usize) -> Outcome<()> {
        *bytes += self.overlay.record(place).map_or(0, |record| record.bytes().len() + self.overlay.key(place).len());
        if *bytes > MAX_PREV_BYTES {
            return Err(KvReject::ResultTooLarge { limit: MAX_PREV_BYTES as u64 }.into());
        }
        Ok(())
    }

    fn operate_planned(&mut self, operation: Planned) -> Outcome<KvOpResult> {
        match operation {
            Planned::Put { put, place } => self.put(put, place),
            Planned::Delete { places, prev } => {
                let deleted = places.len() as u64;
                let records =
                    if prev { places.iter().filter_map(|place| self.prev(*place)).collect() } else { Vec::new() };
                for place in places {
                    self.overlay.delete(place, &mut self.tables.leases);
                }
                Ok(KvOpResult::Deleted { deleted, prev: records })
            }
            Planned::Range(range) => {
                let mut page = Page::new(&range);
                let walk = self.overlay.walk(StoreRange::of(&range), direction(&range));
                walk.each(&mut |key, record| Ok(page.take(user_key(&key), record)))?;
                Ok(page.into_result())
            }
        }
    }

    fn put(&mut self, put: KvPut, place: usize) -> Outcome<KvOpResult> {
        let KvPut { value, lease, prev, .. } = put;
        let prev = if prev { self.prev(place) } else { None };
        let lease = match lease {
            LeaseChoice::None => 0,
            LeaseChoice::Keep => self.overlay.record(place).map_or(0, |record| record.lease),
            LeaseChoice::Attach(id) => id,
            LeaseChoice::Ttl(ttl_ms) => {
                let Tables { leases, settings, .. } = &mut *self.tables;
                leases.grant(0, Granted { ttl_ms, owned: true, index: self.index }, &mut settings.next_lease)?
            }
            other => {
                let what = format!("a choice of lease that this state machine does not know: {other:?}");
                return Err(Error::unsupported(what).into());
            }
        };
        let value = match value {
            Some(value) => value,
            None => self.overlay.record(place).cloned().map_or_else(Bytes::new, Record::into_value),
        };
        self.overlay.put(place, &value, lease, &mut self.tables.leases);
        Ok(KvOpResult::Put { lease, prev })
    }

    fn prev(&self, place: usize) -> Option<KvRecord> {
        self.overlay.record(place).cloned().map(|record| record.with_key(self.overlay.key(place)))
    }

    fn expire(&mut self, marks: &[LeaseMark]) -> Outcome<KvOutcome> {
        let (mut ended, mut keys) = (0, 0);
        for mark in marks {
            if self.tables.leases.get(mark.id).is_some_and(|lease| lease.began == mark.began) {
                keys += self.end_lease(mark.id)?;
                ended += 1;
            }
        }
        Ok(KvOutcome::LeasesEnded { revision: self.revision(), leases: ended, keys })
    }

    /// Removes a lease and its keys; how many they were.
    fn end_lease(&mut self, id: u64) -> Outcome<u64> {
        let has_keys = self.tables.leases.get(id).is_some_and(|lease| lease.keys > 0);
        let places = if has_keys { self.overlay.leased(id)? } else { Vec::new() };
        let keys = places.len() as u64;
        for place in places {
            self.overlay.delete(place, &mut self.tables.leases);
        }
        self.tables.leases.remove(id);
        Ok(keys)
    }
}

fn holds(test: &KvTest, record: Option<&Record>) -> Result<bool> {
    let number = |of: fn(&Record) -> u64| record.map_or(0, of);
    Ok(match test {
        KvTest::Value(relation, value) => record.is_some_and(|record| relation.holds(record.value(), &value[..])),
        KvTest::Version(relation, version) => relation.holds(&number(|record| record.version), version),
        KvTest::CreateRevision(relation, revision) => {
            relation.holds(&number(|record| record.create_revision), revision)
        }
        KvTest::ModRevision(relation, revision) => relation.holds(&number(|record| record.mod_revision), revision),
        KvTest::Lease(relation, lease) => relation.holds(&number(|record| record.lease), lease),
        KvTest::Exists(exists) => record.is_some() == *exists,
        other => {
            let what = format!("a comparison that this state machine does not know: {other:?}");
            return Err(Error::unsupported(what));
        }
    })
}
