//! When a leader takes the proposals that wait.
//!
//! A group costs three syncs and their messages, for one proposal as for a hundred. So the next one leaves when it is as
//! large as what is under way, not one for each proposal that comes; with one caller, or few, nothing waits.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Groups of proposals under way at once; the others wait meanwhile, and make a larger group.
const GROUPS_MAX: usize = 2;
/// Nor does another group leave while so many proposals are under way: they share the price among enough.
const GROUP_LEN: usize = 32;
/// But no longer than this, so that a distant majority does not set the pace.
const GROUP_INTERVAL: Duration = Duration::from_millis(2);

/// The groups of proposals that have no majority yet.
pub(crate) struct Groups {
    /// Last index of each.
    under_way: VecDeque<u64>,
    /// When the last one left.
    latest: Instant,
}

impl Groups {
    pub(crate) fn new() -> Self {
        Self { under_way: VecDeque::new(), latest: Instant::now() }
    }

    /// `tail`: last index and commit index, while this node leads.
    pub(crate) fn see(&mut self, tail: Option<(u64, u64)>) {
        let Some((last, commit)) = tail else { return self.under_way.clear() };
        self.under_way.retain(|end| *end > commit);
        if last > commit && self.under_way.back().is_none_or(|end| *end < last) {
            self.under_way.push_back(last);
            self.latest = Instant::now();
        }
    }

    /// How many proposals make the next group, and from when on fewer do; `tail` as in [`see`](Groups::see).
    pub(crate) fn next(&self, tail: Option<(u64, u64)>) -> (usize, Option<Instant>) {
        let in_flight =
            tail.map_or(0, |(last, commit)| usize::try_from(last.saturating_sub(commit)).unwrap_or(usize::MAX));
        let at = self.latest + GROUP_INTERVAL;
        if in_flight == 0 || Instant::now() >= at {
            return (0, None);
        }
        let is_open = self.under_way.len() < GROUPS_MAX && in_flight < GROUP_LEN;
        (if is_open { in_flight } else { usize::MAX }, Some(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_waits_until_it_is_as_large_as_what_is_under_way() {
        let mut groups = Groups::new();
        let mut next = |tail| {
            groups.see(tail);
            groups.next(tail).0
        };
        assert_eq!(next(None), 0, "who does not lead refuses at once");
        assert_eq!(next(Some((7, 7))), 0, "nothing is under way");
        assert_eq!(next(Some((9, 7))), 2);
        assert_eq!(next(Some((12, 7))), usize::MAX, "two groups are under way");
        assert_eq!(next(Some((12, 9))), 3, "one of them has its majority");
        assert_eq!(next(Some((12, 12))), 0);
        assert_eq!(next(Some((12 + GROUP_LEN as u64, 12))), usize::MAX, "a large one is enough");
        assert_eq!(next(None), 0);
    }

    #[test]
    fn no_proposal_waits_long_for_a_distant_majority() {
        let mut groups = Groups::new();
        let tail = Some((1000, 1));
        groups.see(tail);
        let (min, at) = groups.next(tail);
        assert_eq!((min, at), (usize::MAX, Some(groups.latest + GROUP_INTERVAL)));
        groups.latest = Instant::now().checked_sub(GROUP_INTERVAL).unwrap();
        assert_eq!(groups.next(tail), (0, None));
    }
}
