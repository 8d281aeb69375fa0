//! The leader lease (§6.4.1): for how long no other leader can exist, counted from when a confirmed round was *sent*.

use std::collections::VecDeque;
use std::time::Duration;

use crate::{Config, Mutant};

/// Rounds whose sending times are kept; older ones can only give shorter leases.
const KEPT: usize = 64;

/// A leader's lease.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lease {
    sent: VecDeque<(u64, Duration)>,
    until: Duration,
    ended: bool,
}

impl Lease {
    /// A round is being sent.
    pub(crate) fn sent(&mut self, round: u64, now: Duration) {
        if self.sent.len() == KEPT {
            self.sent.pop_front();
        }
        self.sent.push_back((round, now));
    }

    /// A quorum has echoed every round up to `round`: each voter among them protects this leader for the minimum election
    /// timeout by its own clock, which may run faster than this one by the drift bound.
    pub(crate) fn confirmed(&mut self, round: u64, now: Duration, config: &Config) {
        while let Some((_, at)) = self.sent.pop_front_if(|(sent, _)| *sent <= round) {
            let at = if config.breaks(Mutant::LeaseFromConfirmation) { now } else { at };
            let drift = 2 * config.clock_drift_ppm;
            self.until = self.until.max(at + config.election_timeout_min * (1_000_000 - drift) / 1_000_000);
        }
    }

    /// For the rest of this term there is none: somebody was told to campaign, and that cannot be recalled.
    pub(crate) fn end(&mut self) {
        self.ended = true;
    }

    /// Until when no other leader can exist; `None`: not known.
    pub(crate) fn until(&self) -> Option<Duration> {
        (!self.ended && !self.until.is_zero()).then_some(self.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_counts_from_the_sending_of_the_newest_confirmed_round() {
        let config = Config { clock_drift_ppm: 100_000, ..Config::new(1, "a:1") };
        let (mut lease, now) = (Lease::default(), Duration::from_millis(400));
        assert_eq!(lease.until(), None);
        lease.sent(1, Duration::from_millis(100));
        lease.sent(2, Duration::from_millis(200));
        lease.sent(3, Duration::from_millis(300));
        lease.confirmed(2, now, &config);
        assert_eq!(lease.until(), Some(Duration::from_millis(600)), "200 ms + 0.8 × 500 ms");
        lease.confirmed(1, now, &config);
        assert_eq!(lease.until(), Some(Duration::from_millis(600)), "older rounds do not extend it");
        lease.end();
        lease.confirmed(3, now, &config);
        assert_eq!(lease.until(), None);
    }
}
