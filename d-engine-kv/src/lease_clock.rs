//! The leader's count of the time that leases have left, by its own monotonic clock.
//!
//! It decides nothing: what it finds due goes through the log as a command, which does nothing to a lease whose time has
//! begun anew since. A lease that begins or is renewed counts from the first time that is told after its entry was applied, and
//! a new leader begins with what the log said was left last: so no lease ends early, and one ends late by at most the time
//! since the last note per change of leader.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use d_engine_core::KvCommand;
use d_engine_core::command::{LeaseMark, LeaseTime};

use crate::leases::Lease;

/// How often the log is told how much is left of a lease that lasts longer than this.
const NOTE_INTERVAL: Duration = Duration::from_secs(60);
/// After this time a proposal that has not been applied is taken for lost, and made again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Told the time after a longer gap than this, the clock ends nothing at first: keep-alives may have waited meanwhile. They
/// have had their turn when it is told the next time, however long that took.
const GAP_MAX: Duration = Duration::from_millis(500);

/// How many leases one expiry names, at first and at least: it is halved while proposals are lost, because one may be larger
/// than the node takes.
const EXPIRY_LEN: (usize, usize) = (16_384, 1_024);
/// How many leases one note names.
const NOTE_LEN: usize = 2_048;

/// One lease on the leader.
#[derive(Debug)]
struct Count {
    began: u64,
    /// What was left when the count began.
    remaining: Duration,
    /// When it ends; `None`: the count begins when the time is told next.
    end: Option<Duration>,
    /// Where it stands in `ends`.
    due: Duration,
    /// Its expiry was proposed.
    proposed: bool,
    /// Where it stands in `notes`.
    note: Option<Duration>,
}

/// Empty unless this node leads.
#[derive(Debug)]
pub(crate) struct LeaseClock {
    leads: bool,
    now: Duration,
    /// Nothing was ended when the time was told last.
    has_listened: bool,
    counts: HashMap<u64, Count>,
    /// Leases whose count has not begun.
    fresh: Vec<u64>,
    /// The others by the time at which to look at them.
    ends: BTreeSet<(Duration, u64)>,
    /// Those that last long by the time at which to tell the log what is left.
    notes: BTreeSet<(Duration, u64)>,
    expiry_len: usize,
}

impl Default for LeaseClock {
    fn default() -> Self {
        Self {
            leads: false,
            now: Duration::ZERO,
            has_listened: false,
            counts: HashMap::new(),
            fresh: Vec::new(),
            ends: BTreeSet::new(),
            notes: BTreeSet::new(),
            expiry_len: EXPIRY_LEN.0,
        }
    }
}

impl LeaseClock {
    pub(crate) const fn leads(&self) -> bool {
        self.leads
    }

    /// This node begins to lead: every lease has what the log said last.
    pub(crate) fn begin<'a>(&mut self, now: Duration, leases: impl Iterator<Item = (u64, &'a Lease)>) {
        self.end();
        self.leads = true;
        self.now = now;
        for (id, lease) in leases {
            self.restart(id, Some(lease));
        }
        self.begin_counts();
    }

    /// This node leads no more.
    pub(crate) fn end(&mut self) {
        *self = Self::default();
    }

    /// A lease has begun, was renewed, or (`None`) has ended.
    pub(crate) fn restart(&mut self, id: u64, lease: Option<&Lease>) {
        if !self.leads {
            return;
        }
        if let Some(count) = self.counts.remove(&id) {
            self.ends.remove(&(count.due, id));
            if let Some(note) = count.note {
                self.notes.remove(&(note, id));
            }
        }
        if let Some(lease) = lease {
            let remaining = Duration::from_millis(lease.remaining_ms);
            let count =
                Count { began: lease.began, remaining, end: None, due: Duration::ZERO, proposed: false, note: None };
            self.counts.insert(id, count);
            self.fresh.push(id);
        }
    }

    /// What is left of a lease, in milliseconds, if this node leads.
    pub(crate) fn remaining_ms(&self, id: u64) -> Option<u64> {
        let count = self.counts.get(&id)?;
        let remaining = count.end.map_or(count.remaining, |end| end.saturating_sub(self.now));
        Some(u64::try_from(remaining.as_millis()).unwrap_or(u64::MAX))
    }

    /// The commands to propose at `now`.
    pub(crate) fn due(&mut self, now: Duration) -> Vec<KvCommand> {
        if !self.leads {
            return Vec::new();
        }
        let gap = now.saturating_sub(self.now);
        self.now = self.now.max(now);
        self.begin_counts();
        let mut commands = Vec::new();
        self.has_listened = gap > GAP_MAX && !self.has_listened;
        if !self.has_listened
            && let Some(expire) = self.expire()
        {
            commands.push(expire);
        }
        while let Some(note) = self.note() {
            commands.push(note);
        }
        commands
    }

    /// Begins the counts that wait for a time behind the entry that restarted them.
    fn begin_counts(&mut self) {
        for id in std::mem::take(&mut self.fresh) {
            // Not there: ended meanwhile. Counting already: named twice.
            let Some(count) = self.counts.get_mut(&id).filter(|count| count.end.is_none()) else { continue };
            let end = self.now.saturating_add(count.remaining);
            (count.end, count.due) = (Some(end), end);
            self.ends.insert((end, id));
            if count.remaining > NOTE_INTERVAL {
                let note = self.now + NOTE_INTERVAL;
                count.note = Some(note);
                self.notes.insert((note, id));
            }
        }
    }

    fn expire(&mut self) -> Option<KvCommand> {
        let mut leases = Vec::new();
        let mut lost = false;
        while let Some((due, id)) = self.ends.first().copied()
            && due <= self.now
            && leases.len() < self.expiry_len
        {
            self.ends.pop_first();
            let Some(count) = self.counts.get_mut(&id) else { continue };
            leases.push(LeaseMark { id, began: count.began });
            lost |= std::mem::replace(&mut count.proposed, true);
            count.due = self.now + RETRY_AFTER;
            self.ends.insert((count.due, id));
        }
        if lost {
            self.expiry_len = (self.expiry_len / 2).max(EXPIRY_LEN.1);
        }
        leases.sort_unstable_by_key(|mark| mark.id);
        (!leases.is_empty()).then_some(KvCommand::LeaseExpire { leases })
    }

    fn note(&mut self) -> Option<KvCommand> {
        let mut leases = Vec::new();
        while let Some((due, id)) = self.notes.first().copied()
            && due <= self.now
            && leases.len() < NOTE_LEN
        {
            self.notes.pop_first();
            let Some(count) = self.counts.get_mut(&id) else { continue };
            count.note = None;
            let left = count.end.map_or(count.remaining, |end| end.saturating_sub(self.now));
            if left.is_zero() {
                continue;
            }
            // Rounded up: a lease never ends early.
            let remaining_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).saturating_add(1);
            leases.push(LeaseTime { mark: LeaseMark { id, began: count.began }, remaining_ms });
            let next = self.now + NOTE_INTERVAL;
            count.note = Some(next);
            self.notes.insert((next, id));
        }
        leases.sort_unstable_by_key(|time| time.mark.id);
        (!leases.is_empty()).then_some(KvCommand::LeaseCheckpoint { leases })
    }
}
