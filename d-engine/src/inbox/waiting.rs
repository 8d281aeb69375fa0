//! What has come for the driver, and what of it may wait.

use std::time::Instant;

use d_engine_raft::{Event, Input};

use super::Inbound;

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

/// What has come and is not taken.
pub(super) struct Waiting {
    pub(super) items: Vec<Inbound>,
    pub(super) proposals: Vec<Inbound>,
    /// Of items, such that may wait.
    pub(super) has_reads: bool,
    pub(super) has_applied: bool,
    /// Something must be handled now.
    pub(super) is_urgent: bool,
    /// A caller is about to drive; what others bring may wait for it.
    is_gathering: bool,
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
            has_reads: false,
            has_applied: false,
            is_urgent: false,
            is_gathering: false,
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
            Inbound::Event(Event::Input(Input::Applied { .. })) => {
                self.has_applied = true;
                self.outlook.applied_waits
            }
            _ => false,
        }
    }

    /// Adds one; true: it must be handled now.
    pub(super) fn add(&mut self, inbound: Inbound) -> bool {
        let is_urgent = !self.may_wait(&inbound);
        self.is_urgent |= is_urgent;
        match inbound {
            Inbound::Propose { .. } => self.proposals.push(inbound),
            _ => self.items.push(inbound),
        }
        is_urgent
    }

    /// Whether a call may wait for others.
    pub(super) fn may_gather(call: &Inbound) -> bool {
        matches!(call, Inbound::Propose { .. } | Inbound::Read { by_lease: false, .. })
    }

    /// Adds a call that waits for others; true: its caller is the one to gather them.
    pub(super) fn gather(&mut self, call: Inbound) -> bool {
        let was_urgent = self.is_urgent;
        let is_urgent = self.add(call);
        self.is_urgent = was_urgent;
        is_urgent && !std::mem::replace(&mut self.is_gathering, true)
    }

    /// The caller that gathered has come back; true: something is urgent.
    pub(super) fn gathered(&mut self) -> bool {
        self.is_gathering = false;
        let is_late = self.outlook.proposals_at.is_some_and(|at| Instant::now() >= at);
        self.is_urgent |= is_late && !self.proposals.is_empty();
        self.see(self.outlook);
        self.is_urgent
    }

    /// What may wait follows from what the driver sees coming now.
    pub(super) fn see(&mut self, outlook: Outlook) {
        self.outlook = outlook;
        let proposals = self.proposals.len();
        let may_drive = !self.is_gathering;
        self.is_urgent |= may_drive && proposals > 0 && proposals >= outlook.proposals_min
            || may_drive && self.has_reads && !outlook.reads_wait
            || self.has_applied && !outlook.applied_waits;
    }

    /// When the driver's own thread is to look.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let proposals_at = self.outlook.proposals_at.filter(|_| !self.proposals.is_empty());
        self.outlook.wake_at.into_iter().chain(proposals_at).min()
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
