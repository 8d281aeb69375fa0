//! The lease word: what lets a caller's own thread read the state machine of a leader (§6.4.1), without a queue.
//!
//! The driver loop writes it, before anything leaves that shows what it says: a commit index before any message or answer
//! that tells of it, the end of a lease before anybody is told to campaign. Readers take the word, then the commit index,
//! then the time. A reader that is stopped in between reads a state that was the newest at some moment of its call; what it
//! cannot notice is a clock that stops, which virtual machines may have.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Clock;

/// Commit index and end of the lease of this node, if it leads.
#[derive(Debug, Default)]
pub(crate) struct LeaseWord {
    /// End of the lease on the node's clock, in nanoseconds; 0: there is none.
    until: AtomicU64,
    commit: AtomicU64,
}

impl LeaseWord {
    /// Shows how far the log is committed, and until when this node may answer by itself.
    pub(crate) fn publish(&self, commit: u64, until: Option<Duration>) {
        // First, so that whoever sees a lease sees all that was committed when it was given.
        self.commit.store(commit, Ordering::Release);
        let until = until.map_or(0, |until| u64::try_from(until.as_nanos()).unwrap_or(u64::MAX));
        self.until.store(until, Ordering::Release);
    }

    /// There is no lease, and nobody who renews one.
    pub(crate) fn clear(&self) {
        self.until.store(0, Ordering::Release);
    }

    /// The index that the state must have applied to be the newest; `None`: there is no lease now.
    pub(crate) fn read_index(&self, clock: &dyn Clock) -> Option<u64> {
        let until = self.until.load(Ordering::Acquire);
        if until == 0 {
            return None;
        }
        let commit = self.commit.load(Ordering::Acquire);
        (clock.now() < Duration::from_nanos(until)).then_some(commit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct At(Duration);

    impl Clock for At {
        fn now(&self) -> Duration {
            self.0
        }
    }

    #[test]
    fn a_lease_is_good_until_its_end_and_no_longer() {
        let word = LeaseWord::default();
        let end = Duration::from_millis(500);
        assert_eq!(word.read_index(&At(Duration::ZERO)), None, "there is none at first");
        word.publish(7, Some(end));
        assert_eq!(word.read_index(&At(end - Duration::from_nanos(1))), Some(7));
        assert_eq!(word.read_index(&At(end)), None);
        word.publish(8, None);
        assert_eq!(word.read_index(&At(Duration::ZERO)), None);
        word.publish(9, Some(end));
        word.clear();
        assert_eq!(word.read_index(&At(Duration::ZERO)), None);
    }
}
