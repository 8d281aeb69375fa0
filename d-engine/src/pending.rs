//! Callers that wait: for their number to be answered, for their entry to be applied, for a read index to be reached.

use std::collections::{BTreeMap, VecDeque};

use d_engine_core::{Entry, EntryKind, LogId};
use d_engine_raft::Rejection;

use crate::inbox::{Applied, Caller, Pruning, Refusal};

/// Values under consecutive numbers; taking one is a look-up by position.
pub(crate) struct Numbered<T> {
    first: u64,
    slots: VecDeque<Option<T>>,
}

impl<T> Numbered<T> {
    pub(crate) fn new() -> Self {
        Self { first: 0, slots: VecDeque::new() }
    }

    /// Keeps a value and numbers it.
    pub(crate) fn insert(&mut self, value: T) -> u64 {
        self.slots.push_back(Some(value));
        self.first + self.slots.len() as u64 - 1
    }

    /// Gives the value of a number out, once.
    pub(crate) fn take(&mut self, number: u64) -> Option<T> {
        let place = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let value = self.slots.get_mut(place)?.take();
        while let Some(None) = self.slots.front() {
            self.slots.pop_front();
            self.first += 1;
        }
        value
    }
}

/// Callers whose command has a place in the log, in the order of the places.
pub(crate) struct PendingWrites {
    waiting: VecDeque<(LogId, Caller<Applied>)>,
    pruning: Pruning,
}

/// What the application of a chunk decides for a caller.
pub(crate) enum Decided {
    /// The caller's own entry is in the chunk: its response is the answer.
    Applied(LogId, Caller<Applied>),
    /// Another entry is at the place: the command certainly has no effect.
    Replaced(Caller<Applied>),
    /// The place was passed without being seen.
    Passed(Caller<Applied>),
}

impl PendingWrites {
    pub(crate) fn new() -> Self {
        Self { waiting: VecDeque::new(), pruning: Pruning::new() }
    }

    /// A caller begins to wait for `at`.
    ///
    /// After a truncation a place is given again while an earlier caller still waits for it. Both wait on: the earlier
    /// entry may live on another node, and only what is applied there decides.
    pub(crate) fn insert(&mut self, at: LogId, caller: Caller<Applied>) {
        if self.waiting.back().is_none_or(|(last, _)| last.index < at.index) {
            self.waiting.push_back((at, caller));
        } else {
            let place = self.waiting.partition_point(|(other, _)| other.index <= at.index);
            self.waiting.insert(place, (at, caller));
        }
        if self.pruning.is_due(self.waiting.len()) {
            self.waiting.retain(|(_, caller)| !caller.has_gone());
            self.pruning.done(self.waiting.len());
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes out the callers that the application of `entries` decides.
    pub(crate) fn decide(&mut self, entries: &[Entry], decided: &mut Vec<Decided>) {
        for entry in entries {
            while let Some((at, _)) = self.waiting.front() {
                if at.index > entry.index {
                    break;
                }
                let Some((at, caller)) = self.waiting.pop_front() else { break };
                decided.push(match at {
                    at if at.index < entry.index => Decided::Passed(caller),
                    at if at == entry.id() && entry.kind == EntryKind::Command => Decided::Applied(at, caller),
                    _ => Decided::Replaced(caller),
                });
            }
        }
    }

    /// Entries up to `index` were taken over with a snapshot: nobody saw what became of a command among them.
    pub(crate) fn pass(&mut self, index: u64) {
        while let Some((_, caller)) = self.waiting.pop_front_if(|(at, _)| at.index <= index) {
            caller.answer(Err(Refusal::Unknown("its place in the log was taken over with a snapshot".into())));
        }
    }

    /// Nothing will be applied any more: tells everybody that their fate is not known.
    pub(crate) fn fail(&mut self, why: &str) {
        for (_, caller) in self.waiting.drain(..) {
            caller.answer(Err(Refusal::Unknown(why.to_owned())));
        }
    }

    /// The node stops.
    pub(crate) fn stop(&mut self) {
        for (_, caller) in self.waiting.drain(..) {
            caller.answer(Err(Refusal::Stopping));
        }
    }
}

/// Tells a caller that its command has no effect because this node did not stay leader.
pub(crate) fn not_leader(caller: Caller<Applied>) {
    caller.answer(Err(Refusal::Rejected(Rejection::NotLeader { leader: None })));
}

/// Readers that wait until their index is applied.
pub(crate) struct PendingReads {
    waiting: BTreeMap<u64, Vec<Caller<()>>>,
    len: usize,
    pruning: Pruning,
}

impl PendingReads {
    pub(crate) fn new() -> Self {
        Self { waiting: BTreeMap::new(), len: 0, pruning: Pruning::new() }
    }

    /// A reader begins to wait for `index`.
    pub(crate) fn insert(&mut self, index: u64, caller: Caller<()>) {
        self.waiting.entry(index).or_default().push(caller);
        self.len += 1;
        if self.pruning.is_due(self.len) {
            self.waiting.retain(|_, callers| {
                callers.retain(|caller| !caller.has_gone());
                !callers.is_empty()
            });
            self.len = self.waiting.values().map(Vec::len).sum();
            self.pruning.done(self.len);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Answers everybody who waits for `applied` or less.
    pub(crate) fn release(&mut self, applied: u64) {
        while let Some(first) = self.waiting.first_entry() {
            if *first.key() > applied {
                break;
            }
            let callers = first.remove();
            self.len -= callers.len();
            for caller in callers {
                caller.answer(Ok(()));
            }
        }
    }

    /// Nothing will be applied any more.
    pub(crate) fn fail(&mut self, why: &str) {
        self.len = 0;
        for caller in std::mem::take(&mut self.waiting).into_values().flatten() {
            caller.answer(Err(Refusal::Rejected(Rejection::Unavailable { why: why.to_owned() })));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inbox::{Answered, Bounds, Inbound, Inbox};
    use bytes::Bytes;

    fn callers(count: usize) -> Vec<(Caller<Applied>, Answered<Applied>)> {
        let inbox = Inbox::new(Bounds { callers: count, bytes: count, messages: 1 });
        let answers: Vec<_> = (0..count).map(|_| inbox.propose(Bytes::new()).unwrap()).collect();
        let mut taken = Vec::new();
        inbox.take_proposals(&mut taken, 0);
        let callers = taken.into_iter().map(|inbound| match inbound {
            Inbound::Propose { caller, .. } => caller,
            _ => panic!("no proposal"),
        });
        callers.zip(answers).collect()
    }

    #[test]
    fn callers_that_have_gone_are_forgotten_before_they_pile_up() {
        let (mut writes, mut reads) = (PendingWrites::new(), PendingReads::new());
        let inbox = Inbox::new(Bounds { callers: 1, bytes: 0, messages: 1 });
        let mut taken = Vec::new();
        let mut kept = Vec::new();
        for index in 0..10 * Pruning::MIN as u64 {
            let answer = inbox.propose(Bytes::new()).unwrap();
            // One in a thousand stays.
            kept.extend((index % 1000 == 0).then_some(answer));
            inbox.take_proposals(&mut taken, 0);
            let mut read = Vec::new();
            drop(inbox.read(false).unwrap());
            inbox.take_all(&mut read);
            taken.append(&mut read);
            for inbound in taken.drain(..) {
                match inbound {
                    Inbound::Propose { caller, .. } => writes.insert(LogId::new(1, index), caller),
                    Inbound::Read { caller, .. } => reads.insert(index, caller),
                    _ => panic!("neither"),
                }
            }
        }
        assert!(writes.waiting.len() <= Pruning::MIN + kept.len() && reads.len <= Pruning::MIN);
        assert_eq!(writes.waiting.iter().filter(|(_, caller)| !caller.has_gone()).count(), kept.len());
        reads.release(u64::MAX);
        assert_eq!(reads.len, 0);
    }

    fn entry(index: u64, term: u64) -> Entry {
        Entry::new(index, term, EntryKind::Command, b"")
    }

    #[test]
    fn numbers_are_consecutive_and_each_is_taken_once() {
        let mut numbered = Numbered::new();
        assert_eq!((numbered.insert('a'), numbered.insert('b'), numbered.insert('c')), (0, 1, 2));
        assert_eq!((numbered.take(1), numbered.take(1), numbered.take(7)), (Some('b'), None, None));
        assert_eq!(numbered.take(0), Some('a'));
        assert_eq!(numbered.insert('d'), 3);
        assert_eq!((numbered.take(2), numbered.take(3), numbered.take(0)), (Some('c'), Some('d'), None));
        assert!(numbered.slots.is_empty());
    }

    #[test]
    fn an_entry_of_another_term_means_that_the_command_has_no_effect() {
        let mut pending = PendingWrites::new();
        let mut answers = Vec::new();
        for (index, (caller, answer)) in (5..).zip(callers(3)) {
            pending.insert(LogId::new(1, index), caller);
            answers.push(answer);
        }
        let mut decided = Vec::new();
        pending.decide(&[entry(5, 1), entry(6, 2)], &mut decided);
        assert!(matches!(decided[..], [Decided::Applied(..), Decided::Replaced(_)]));
        assert_eq!(pending.waiting.len(), 1, "the third waits on");
    }

    #[test]
    fn a_place_given_twice_is_decided_by_what_is_applied_there() {
        let mut pending = PendingWrites::new();
        let mut four = callers(4);
        let (last, mut new_answer) = four.pop().unwrap();
        let mut answers = Vec::new();
        for (index, (caller, answer)) in (5..).zip(four) {
            pending.insert(LogId::new(1, index), caller);
            answers.push(answer);
        }
        pending.insert(LogId::new(3, 6), last);
        assert!(answers.iter_mut().all(Answered::is_pending), "any of them may still be applied");
        let mut decided = Vec::new();
        pending.decide(&[entry(5, 1), entry(6, 1)], &mut decided);
        assert!(matches!(decided[..], [Decided::Applied(..), Decided::Applied(..), Decided::Replaced(_)]));
        assert!(new_answer.is_pending());
        assert_eq!(pending.waiting.len(), 1);
    }
}
