//! How quick the state machine has shown to be: whether a thread that has other work may apply a few entries.

use std::time::Duration;

/// What applying may cost a thread that has other work: about as much as waking the one that has not. With four times as much
/// a hundred callers' puts were slower by 7 %.
const COST_MAX: Duration = Duration::from_micros(25);
/// A machine that nothing is known of is slow.
const UNKNOWN: Duration = Duration::from_millis(10);

/// What one entry costs, at the worst of late: it rises at once, and falls slowly. After one chunk that took long, a few
/// dozen that did not are needed.
pub(crate) struct Pace {
    entry: Duration,
    /// It has waited for something: the next time it may wait for long.
    has_waited: bool,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self { entry: UNKNOWN, has_waited: false }
    }

    /// So many entries took so long.
    pub(crate) fn took(&mut self, entries: usize, time: Duration) {
        if let Some(entry) = time.checked_div(u32::try_from(entries).unwrap_or(u32::MAX)) {
            self.entry = entry.max(self.entry * 7 / 8);
        }
    }

    pub(crate) fn waited(&mut self) {
        self.has_waited = true;
    }

    /// Whether so many entries are applied so soon that it is not worth waking a thread for them.
    pub(crate) fn is_quick(&self, entries: usize) -> bool {
        let entries = u32::try_from(entries).unwrap_or(u32::MAX);
        !self.has_waited && self.entry.checked_mul(entries).is_some_and(|cost| cost <= COST_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_micros(5);

    fn quick_after(pace: &mut Pace, entries: usize) -> Option<usize> {
        (0..100).find(|_| {
            pace.took(1, QUICK);
            pace.is_quick(entries)
        })
    }

    #[test]
    fn only_a_machine_that_has_shown_to_be_quick_is_and_only_with_few_entries() {
        let mut pace = Pace::new();
        assert!(!pace.is_quick(1));
        assert!(pace.is_quick(0), "entries that are no commands cost nothing");
        assert!(quick_after(&mut pace, 5).is_some_and(|count| count > 10));
        assert!(!pace.is_quick(6));
        pace.took(100, QUICK * 200);
        assert!(pace.is_quick(2) && !pace.is_quick(3), "ten microseconds each");
    }

    #[test]
    fn after_one_chunk_that_took_long_many_that_do_not_are_needed() {
        let mut pace = Pace::new();
        quick_after(&mut pace, 1);
        pace.took(1, Duration::from_millis(1));
        assert!(!pace.is_quick(1));
        assert!(quick_after(&mut pace, 1).is_some_and(|count| count > 10));
        for _ in 0..1000 {
            pace.took(1, Duration::from_millis(1));
            pace.took(1, QUICK);
            assert!(!pace.is_quick(1), "one that is slow every other time never is");
        }
        pace.waited();
        assert!(quick_after(&mut pace, 1).is_none(), "who has waited may wait again");
    }
}
