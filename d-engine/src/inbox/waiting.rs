//! What has come for the driver, and what of it may wait.

use std::task::Waker;
use std::time::{Duration, Instant};

use d_engine_raft::{Event, Input};

use super::calls::{Answered, Caller, Calls};
use super::{Applied, Bounds, Inbound, NotTaken};
use crate::queue::move_all;

/// What the driver sees coming.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outlook {
    /// Proposals wait until there are so many,
    pub(crate) proposals_min: usize,
    /// or until then.
    pub(crate) proposals_at: Option<Instant>,
    /// Reads may wait: they could join nothing before the round under way has ended.
    pub(crate) reads_wait: bool,
    /// What was applied may wait: nothing more is to be handed to the state machine.
    pub(crate) applied_waits: bool,
    /// When to look although nothing has come.
    pub(crate) wake_at: Option<Instant>,
}

/// A caller that gathers comes back within so long, or the driver's own thread does its part: its task may not be polled, or
/// its thread be busy with something else.
const GATHERING_MAX: Duration = Duration::from_millis(1);

/// By the clock of the application's runtime, which tests may stop.
type Deadline = tokio::time::Instant;

/// Between two looks for late calls.
const LOOKS_APART: Duration = Duration::from_millis(5);

/// So many calls under way are a crowd: others are about to call, too.
pub(super) const CROWD_MIN: usize = 8;

/// One in so many of those that call is enough: were all of them gathered, other threads would have nothing to do meanwhile.
const SHARE: usize = 2;

/// A caller is about to drive; what others bring may wait for it.
#[derive(Debug, Clone, Copy)]
struct Gathering {
    number: u64,
    count: usize,
    until: Instant,
}

/// What a call of a crowd is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gathered {
    /// Nothing: somebody else drives.
    Waits,
    /// To let others go first, and drive then. The number of the gathering.
    Begins(u64),
    /// To drive: there are enough together.
    Enough,
}

/// What has come and is not taken.
pub(super) struct Waiting {
    pub(super) items: Vec<Inbound>,
    pub(super) proposals: Vec<Inbound>,
    /// How many calls are among both, and how many bytes their commands have.
    calls: usize,
    bytes: usize,
    /// Calls that wait for their answer, here or elsewhere.
    writes: Calls<Applied>,
    reads: Calls<()>,
    /// The time of the first of them that may be late, and when to look for it.
    late: Option<(Deadline, Instant)>,
    /// Of items, such that may wait.
    pub(super) has_reads: bool,
    pub(super) has_applied: bool,
    /// Something must be handled now.
    pub(super) is_urgent: bool,
    gathering: Option<Gathering>,
    /// How often callers have begun to gather.
    gatherings: u64,
    pub(super) outlook: Outlook,
    /// Until when the driver's own thread sleeps.
    pub(super) sleeps_until: Option<Option<Instant>>,
    /// Its own thread is to drive.
    pub(super) is_called: bool,
    pub(super) closed: bool,
}

impl Waiting {
    pub(super) fn new() -> Self {
        Self {
            items: Vec::new(),
            proposals: Vec::new(),
            calls: 0,
            bytes: 0,
            writes: Calls::new(),
            reads: Calls::new(),
            late: None,
            has_reads: false,
            has_applied: false,
            is_urgent: false,
            gathering: None,
            gatherings: 0,
            outlook: Outlook {
                proposals_min: 0,
                proposals_at: None,
                reads_wait: false,
                applied_waits: false,
                wake_at: None,
            },
            sleeps_until: None,
            is_called: false,
            closed: false,
        }
    }

    /// Whether it need not be handled now.
    fn may_wait(&mut self, inbound: &Inbound) -> bool {
        match inbound {
            Inbound::Propose { .. } => {
                let Outlook { proposals_min, proposals_at, .. } = self.outlook;
                self.proposals.len() + 1 < proposals_min && proposals_at.is_none_or(|at| Instant::now() < at)
            }
            // By a lease it may be answered at once.
            Inbound::Read { by_lease, .. } => {
                self.has_reads = true;
                self.outlook.reads_wait && !by_lease
            }
            Inbound::Event(event) if matches!(**event, Event::Input(Input::Applied { .. })) => {
                self.has_applied = true;
                self.outlook.applied_waits
            }
            _ => false,
        }
    }

    /// Whether another call of so many bytes may be added. That calls under way are bounded is not enough: calls may end, and
    /// others begin, faster than the driver takes what they leave.
    pub(super) fn check_room(&self, bytes: usize, bounds: &Bounds) -> Result<(), NotTaken> {
        if self.closed {
            return Err(NotTaken::Closed);
        }
        let fits = self.calls < bounds.callers && self.bytes.saturating_add(bytes) <= bounds.bytes;
        if fits { Ok(()) } else { Err(NotTaken::Busy) }
    }

    /// Begins a write that is late from `until` on.
    pub(super) fn begin_write(&mut self, until: Deadline) -> (Caller<Applied>, Answered<Applied>) {
        self.look_at(until);
        self.writes.begin(until)
    }

    /// Begins a read that is late from `until` on.
    pub(super) fn begin_read(&mut self, until: Deadline) -> (Caller<()>, Answered<()>) {
        self.look_at(until);
        self.reads.begin(until)
    }

    fn look_at(&mut self, until: Deadline) {
        if self.late.is_none_or(|(before, _)| until < before) {
            let time = until.saturating_duration_since(Deadline::now());
            self.late = Some((until, Instant::now() + time));
        }
    }

    /// Ends the calls that are late by now, if it is time to look; their callers are to be woken. False: no call waits.
    pub(super) fn end_late(&mut self, now: Instant, callers: &mut Vec<Waker>) -> bool {
        if self.late.is_some_and(|(_, at)| at <= now) {
            let clock = Deadline::now();
            let next = [self.writes.end_late(clock, callers), self.reads.end_late(clock, callers)];
            let next = next.into_iter().flatten().min();
            // Of many that are late one after the other, some are found together.
            self.late = next.map(|next| (next, now + next.saturating_duration_since(clock).max(LOOKS_APART)));
        }
        self.late.is_some()
    }

    /// Looks for late calls as soon as that is asked for.
    pub(super) fn look_now(&mut self, now: Instant) {
        self.late = self.late.map(|(until, at)| (until, at.min(now)));
    }

    /// Adds one; true: it must be handled now.
    pub(super) fn add(&mut self, inbound: Inbound) -> bool {
        self.calls += usize::from(inbound.is_call());
        self.bytes += inbound.command_len();
        let is_urgent = !self.may_wait(&inbound);
        self.is_urgent |= is_urgent;
        match inbound {
            Inbound::Propose { .. } => self.proposals.push(inbound),
            _ => self.items.push(inbound),
        }
        is_urgent
    }

    /// Adds a call that may wait for others, if there are many; `crowd` are under way.
    pub(super) fn gather(&mut self, call: Inbound, crowd: usize) -> Gathered {
        let may_gather =
            crowd >= CROWD_MIN && matches!(call, Inbound::Propose { .. } | Inbound::Read { by_lease: false, .. });
        let was_urgent = self.is_urgent;
        if !self.add(call) {
            return Gathered::Waits;
        }
        if !may_gather {
            return Gathered::Enough;
        }
        if let Some(gathering) = &mut self.gathering {
            gathering.count += 1;
            if gathering.count * SHARE >= crowd {
                self.gathering = None;
                return Gathered::Enough;
            }
            self.is_urgent = was_urgent;
            return Gathered::Waits;
        }
        self.is_urgent = was_urgent;
        self.gatherings += 1;
        let number = self.gatherings;
        self.gathering = Some(Gathering { number, count: 1, until: Instant::now() + GATHERING_MAX });
        Gathered::Begins(number)
    }

    /// The caller that gathered has come back; true: something is urgent.
    pub(super) fn gathered(&mut self, number: u64) -> bool {
        self.gathering.take_if(|gathering| gathering.number == number);
        let is_late = self.outlook.proposals_at.is_some_and(|at| Instant::now() >= at);
        self.is_urgent |= is_late && !self.proposals.is_empty();
        self.see(self.outlook);
        self.is_urgent
    }

    /// A round takes what has come, proposals apart: nothing of it waits for who gathers.
    pub(super) fn take_items(&mut self, into: &mut Vec<Inbound>) {
        self.calls -= self.items.iter().filter(|inbound| inbound.is_call()).count();
        move_all(&mut self.items, into);
        (self.is_urgent, self.has_reads, self.has_applied, self.gathering) = (false, false, false, None);
    }

    /// A round takes the proposals.
    pub(super) fn take_proposals(&mut self, into: &mut Vec<Inbound>) {
        self.calls -= self.proposals.len();
        self.bytes = 0;
        move_all(&mut self.proposals, into);
    }

    /// What may wait follows from what the driver sees coming now.
    pub(super) fn see(&mut self, outlook: Outlook) {
        self.outlook = outlook;
        let proposals = self.proposals.len();
        let may_drive = self.gathering.is_none();
        self.is_urgent |= may_drive && proposals > 0 && proposals >= outlook.proposals_min
            || may_drive && self.has_reads && !outlook.reads_wait
            || self.has_applied && !outlook.applied_waits;
    }

    /// When the driver's own thread is to look.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let proposals_at = self.outlook.proposals_at.filter(|_| !self.proposals.is_empty());
        let gathering_until = self.gathering.map(|gathering| gathering.until);
        self.outlook
            .wake_at
            .into_iter()
            .chain(proposals_at)
            .chain(gathering_until)
            .chain(self.late.map(|(_, at)| at))
            .min()
    }

    /// Whether the driver's own thread must be told that it sleeps too long; once, since it looks itself then.
    pub(super) fn must_wake(&mut self) -> bool {
        let wake_at = self.wake_at();
        let is_earlier = |until: Option<Instant>| match (wake_at, until) {
            (Some(wake_at), Some(until)) => wake_at < until,
            (wake_at, None) => wake_at.is_some(),
            (None, Some(_)) => false,
        };
        self.sleeps_until.take_if(|until| is_earlier(*until)).is_some()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty() && self.proposals.is_empty()
    }
}
