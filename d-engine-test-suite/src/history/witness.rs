//! The revisions as a witness: if every answer is right in their order, and the order respects who was answered before whom
//! was asked, then the history is linearizable.
//!
//! A revision is given once, to one command. What is known of each comes from acknowledged writes, from records that were
//! read, and from watches; they must agree. Writes whose fate nobody was told appear where somebody saw them. The indexes of
//! the log's entries must respect time too; they are no order of effects, since a retried write of a session is answered
//! with the entry of its repetition.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use super::{Action, Answer, Change, Key, Operation, Seen, Value};

/// Everything in which the answers and what watches told (`changes`, of all keys, complete for each revision that is told at
/// all) contradict each other or time, in words; empty: the history is linearizable. No key exists at first.
pub fn witness(operations: &[Operation], changes: &[Change]) -> Vec<String> {
    let mut witness = Witness::new(operations);
    witness.acknowledged_writes();
    witness.told_changes(changes);
    witness.records_read();
    witness.replay();
    witness.time();
    witness.violations
}

type Effects = Vec<(Key, Option<Value>)>;

struct Witness<'a> {
    operations: &'a [Operation],
    /// Who put a value.
    writers: HashMap<Value, usize>,
    /// Writes without an answer that remove a key; whoever asked first comes first.
    lost_deletes: HashMap<Key, VecDeque<usize>>,
    /// Values that somebody was told.
    told: HashSet<Value>,
    /// What each revision changed, as far as it is known.
    revisions: BTreeMap<u64, Effects>,
    /// Where writes without an answer took effect.
    placed: HashMap<usize, u64>,
    /// The changes of each key, by revision.
    keys: HashMap<Key, BTreeMap<u64, Option<Value>>>,
    violations: Vec<String>,
}

impl<'a> Witness<'a> {
    fn new(operations: &'a [Operation]) -> Self {
        let mut witness = Self {
            operations,
            writers: HashMap::new(),
            lost_deletes: HashMap::new(),
            told: HashSet::new(),
            revisions: BTreeMap::new(),
            placed: HashMap::new(),
            keys: HashMap::new(),
            violations: Vec::new(),
        };
        for (place, operation) in operations.iter().enumerate() {
            for (key, action) in &operation.then {
                match action {
                    Action::Put(value) => {
                        if witness.writers.insert(*value, place).is_some() {
                            witness.violations.push(format!("two puts have the value {value}"));
                        }
                    }
                    Action::Delete if operation.answer.is_none() => {
                        witness.lost_deletes.entry(*key).or_default().push_back(place);
                    }
                    Action::Delete | Action::Read => {}
                }
            }
            for seen in operation.answer.iter().flat_map(|answer| &answer.seen) {
                if let Seen::Record(Some((value, _))) | Seen::Value(Some(value)) = seen {
                    witness.told.insert(*value);
                }
            }
        }
        for lost in witness.lost_deletes.values_mut() {
            lost.make_contiguous().sort_by_key(|place| operations[*place].called);
        }
        witness
    }

    fn violation(&mut self, text: String) {
        self.violations.push(text);
    }

    /// Each has its revision for itself.
    fn acknowledged_writes(&mut self) {
        let operations = self.operations;
        for (operation, answer) in answered(operations) {
            let mut changes = operation.changes();
            if changes.is_empty() {
                continue;
            }
            changes.sort_unstable();
            let revision = answer.revision;
            if let Some(others) = self.revisions.insert(revision, changes) {
                self.violation(format!("revision {revision} was given twice: to {operation:?} and to {others:?}"));
            }
        }
    }

    /// A watch says of each revision what its writer was told, or shows a write whose writer was told nothing.
    fn told_changes(&mut self, changes: &[Change]) {
        let mut told: BTreeMap<u64, Effects> = BTreeMap::new();
        for change in changes {
            told.entry(change.revision).or_default().push((change.key, change.value));
        }
        for (revision, mut effects) in told {
            effects.sort_unstable();
            match self.revisions.get(&revision) {
                Some(known) if *known == effects => {}
                Some(known) => {
                    let text = format!("revision {revision} is {known:?} to its writer, and {effects:?} to a watch");
                    self.violation(text);
                }
                None => self.unacknowledged(revision, effects),
            }
        }
    }

    /// A change that no acknowledged write made.
    fn unacknowledged(&mut self, revision: u64, effects: Effects) {
        let writer = effects.iter().find_map(|(_, value)| *value);
        match writer.map(|value| (value, self.writers.get(&value).copied())) {
            Some((value, None)) => self.violation(format!("revision {revision} sets {value}, which nobody wrote")),
            Some((value, Some(writer))) => self.place(writer, value, revision),
            // Revisions come here in their order: if any of several lost deletes can have been it, the one asked for first can,
            // and leaves the later ones to later revisions.
            None => {
                for (key, _) in &effects {
                    let lost = self.lost_deletes.get_mut(key).and_then(VecDeque::pop_front);
                    match lost {
                        Some(delete) => drop(self.placed.insert(delete, revision)),
                        None => {
                            self.violation(format!("revision {revision} removes key {key}, which nobody asked for"))
                        }
                    }
                }
            }
        }
        self.revisions.entry(revision).or_insert(effects);
    }

    /// The put of `value` was seen to have taken effect at `revision`.
    fn place(&mut self, writer: usize, value: Value, revision: u64) {
        let operation = &self.operations[writer];
        let known = match &operation.answer {
            Some(answer) if answer.succeeded => Some(answer.revision),
            Some(_) => {
                return self.violation(format!("{value} is there, but its put was refused: {operation:?}"));
            }
            None => self.placed.get(&writer).copied(),
        };
        match known {
            Some(known) if known != revision => {
                self.violation(format!("the put of {value} took effect at revision {known}, and again at {revision}"));
            }
            Some(_) => {}
            None => {
                self.placed.insert(writer, revision);
                let effect = |(key, action): &(Key, Action)| match action {
                    Action::Read => None,
                    Action::Put(value) => Some((*key, Some(*value))),
                    Action::Delete => Some((*key, None)),
                };
                let mut effects: Effects = operation.then.iter().filter_map(effect).collect();
                effects.sort_unstable();
                if let Some(others) = self.revisions.get(&revision).filter(|others| **others != effects) {
                    let text = format!("revision {revision} sets {value}, but it was given to {others:?}");
                    return self.violation(text);
                }
                self.revisions.insert(revision, effects);
                for (key, _) in operation.then.iter().filter(|(_, action)| *action == Action::Delete) {
                    if let Some(lost) = self.lost_deletes.get_mut(key) {
                        lost.retain(|delete| *delete != writer);
                    }
                }
            }
        }
    }

    /// A record names its writer and its revision.
    fn records_read(&mut self) {
        let operations = self.operations;
        for (operation, answer) in answered(operations) {
            for seen in &answer.seen {
                let (Seen::Record(Some((value, _))) | Seen::Value(Some(value))) = seen else { continue };
                let Some(writer) = self.writers.get(value).copied() else {
                    self.violation(format!("{value} was read, which nobody wrote: {operation:?}"));
                    continue;
                };
                if self.operations[writer].called > answer.answered {
                    self.violation(format!("{value} was read before it was written: {operation:?}"));
                }
                if let Seen::Record(Some((_, revision))) = seen {
                    self.place(writer, *value, *revision);
                }
            }
        }
    }

    /// Every answer against the state at its revision.
    fn replay(&mut self) {
        for (revision, effects) in &self.revisions {
            for (key, value) in effects {
                self.keys.entry(*key).or_default().insert(*revision, *value);
            }
        }
        let operations = self.operations;
        let mut in_order: Vec<_> = answered(operations).collect();
        in_order.sort_by_key(|(operation, answer)| (answer.revision, operation.changes().is_empty()));
        for (operation, answer) in in_order {
            // A write saw the state before it, everything else that of its revision.
            let until = if operation.changes().is_empty() { answer.revision } else { answer.revision - 1 };
            let at = At { operation, answer, until };
            let held = operation.when.iter().all(|(key, expected)| self.state(*key, until).1 == *expected);
            if answer.succeeded {
                operation.when.iter().for_each(|(key, expected)| self.sees(&at, *key, Seen::Value(*expected)));
                let seen = operation.then.iter().zip(&answer.seen);
                seen.for_each(|((key, _), seen)| self.sees(&at, *key, *seen));
                continue;
            }
            operation.otherwise.iter().zip(&answer.seen).for_each(|(key, seen)| self.sees(&at, *key, *seen));
            let holds = operation.when.iter().all(|(key, expected)| self.state(*key, until).1 == *expected);
            if held && holds {
                self.violation(format!("a comparison that held was said to fail: {operation:?}"));
            }
        }
    }

    /// Revision and value of the newest change of `key` up to `until`.
    fn state(&self, key: Key, until: u64) -> (u64, Option<Value>) {
        let newest = self.keys.get(&key).and_then(|changes| changes.range(..=until).next_back());
        newest.map_or((0, None), |(revision, value)| (*revision, *value))
    }

    fn sees(&mut self, at: &At<'_>, key: Key, seen: Seen) {
        let (revision, value) = self.state(key, at.until);
        let is_so = match seen {
            Seen::Nothing => true,
            Seen::Record(record) => record == value.map(|value| (value, revision)),
            Seen::Value(seen) => seen == value,
            Seen::Existed(existed) => existed == value.is_some(),
        };
        if is_so || self.explained_by_a_lost_write(at, key, seen, revision) {
            return;
        }
        let Operation { called, client, .. } = at.operation;
        let state = value.map_or("does not exist".to_owned(), |value| format!("is {value} of revision {revision}"));
        self.violation(format!(
            "key {key} {state} at revision {}, but client {client} was told {seen:?}; called at {called}, answered at {}: \
             {:?}",
            at.until, at.answer.answered, at.operation
        ));
    }

    /// Whether a write whose fate nobody was told, and whose effect nobody saw otherwise, makes `seen` right: it took a
    /// revision that nobody has.
    fn explained_by_a_lost_write(&mut self, at: &At<'_>, key: Key, seen: Seen, after: u64) -> bool {
        let operations = self.operations;
        let is_early = |place: &usize| operations[*place].called <= at.answer.answered;
        let unplaced =
            |witness: &Self, place: &usize| operations[*place].answer.is_none() && !witness.placed.contains_key(place);
        let (writer, value) = match seen {
            Seen::Record(None) | Seen::Value(None) | Seen::Existed(false) => {
                let lost = self.lost_deletes.get(&key).into_iter().flatten();
                // The latest one that may be it: earlier ones may be others.
                let found = lost.filter(|place| is_early(place) && unplaced(self, place)).copied();
                (found.max_by_key(|place| operations[*place].called), None)
            }
            Seen::Value(Some(value)) => {
                (self.writers.get(&value).copied().filter(|place| unplaced(self, place)), Some(value))
            }
            Seen::Existed(true) => {
                let of_key = self.writers.iter().filter(|(value, place)| {
                    operations[**place].then.contains(&(key, Action::Put(**value))) && !self.told.contains(value)
                });
                let found = of_key.filter(|(_, place)| is_early(place) && unplaced(self, place));
                let found =
                    found.max_by_key(|(_, place)| operations[**place].called).map(|(value, place)| (*place, *value));
                (found.map(|(place, _)| place), found.map(|(_, value)| value))
            }
            Seen::Nothing | Seen::Record(Some(_)) => (None, None),
        };
        let Some(writer) = writer else { return false };
        let Some(free) = (after + 1..=at.until).rev().find(|revision| !self.revisions.contains_key(revision)) else {
            return false;
        };
        self.placed.insert(writer, free);
        self.revisions.insert(free, vec![(key, value)]);
        self.keys.entry(key).or_default().insert(free, value);
        true
    }

    /// Who was answered before another asked comes before it.
    fn time(&mut self) {
        let operations = self.operations;
        let mut answers: Vec<&Answer> = answered(operations).map(|(_, answer)| answer).collect();
        answers.sort_by_key(|answer| answer.answered);
        let mut calls: Vec<usize> = (0..operations.len()).collect();
        calls.sort_by_key(|place| operations[*place].called);
        let mut answers = answers.into_iter().peekable();
        let (mut index, mut revision) = (0, 0);
        for place in calls {
            let operation = &operations[place];
            while let Some(answer) = answers.next_if(|answer| answer.answered < operation.called) {
                index = index.max(answer.index);
                revision = revision.max(answer.revision);
            }
            let is_old = match &operation.answer {
                Some(answer) => {
                    let is_index_old = answer.index < index + u64::from(operation.is_write());
                    let takes_revision = !operation.changes().is_empty();
                    is_index_old || answer.revision < revision + u64::from(takes_revision)
                }
                None => self.placed.get(&place).is_some_and(|placed| *placed <= revision),
            };
            if is_old {
                self.violation(format!(
                    "index {index} and revision {revision} were told before this was called, and it came before them: \
                     {operation:?}, placed at {:?}",
                    self.placed.get(&place)
                ));
            }
        }
    }
}

/// An answer that is looked at.
struct At<'a> {
    operation: &'a Operation,
    answer: &'a Answer,
    /// It saw the state after this revision.
    until: u64,
}

fn answered(operations: &[Operation]) -> impl Iterator<Item = (&Operation, &Answer)> {
    operations.iter().filter_map(|operation| Some((operation, operation.answer.as_ref()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(answered: u64, index: u64, revision: u64, succeeded: bool, seen: Seen) -> Answer {
        Answer { answered, index, revision, succeeded, seen: vec![seen] }
    }

    fn put(called: u64, value: Value, revision: u64) -> Operation {
        let answer = told(called + 5, revision + 100, revision, true, Seen::Nothing);
        Operation::put(0, called, 1, value).answered(answer)
    }

    fn read(called: u64, record: Option<(Value, u64)>, revision: u64) -> Operation {
        let answer = told(called + 5, revision + 100, revision, true, Seen::Record(record));
        Operation::read(1, called, 1).answered(answer)
    }

    fn set(revision: u64, value: Value) -> Change {
        Change { revision, key: 1, value: Some(value) }
    }

    #[track_caller]
    fn assert_violated(operations: &[Operation], changes: &[Change], part: &str) {
        let found = witness(operations, changes);
        assert!(found.iter().any(|violation| violation.contains(part)), "{part:?} is not in {found:#?}");
    }

    #[track_caller]
    fn assert_right(operations: &[Operation], changes: &[Change]) {
        assert_eq!(witness(operations, changes), Vec::<String>::new());
    }

    #[test]
    fn a_right_history_is_right_with_and_without_a_watch() {
        let removed = told(45, 103, 3, true, Seen::Existed(true));
        let history = [
            put(0, 7, 1),
            read(10, Some((7, 1)), 1),
            put(20, 8, 2),
            read(30, Some((8, 2)), 2),
            Operation::delete(0, 40, 1).answered(removed),
            read(50, None, 3),
        ];
        assert_right(&history, &[]);
        assert_right(&history, &[set(1, 7), set(2, 8), Change { revision: 3, key: 1, value: None }]);
    }

    #[test]
    fn a_lost_write_is_found() {
        assert_violated(&[put(0, 7, 1), read(10, None, 1)], &[], "client 1 was told Record(None)");
        // The store went back: its revisions are given again.
        assert_violated(&[put(0, 7, 5), put(10, 8, 5)], &[], "revision 5 was given twice");
        assert_violated(&[put(0, 7, 5), read(10, None, 3)], &[], "revision 5 were told before");
    }

    #[test]
    fn a_stale_read_is_found() {
        let history = [put(0, 7, 1), put(10, 8, 2), read(20, Some((7, 1)), 1)];
        assert_violated(&history, &[], "came before them");
        let lies = [put(0, 7, 1), put(10, 8, 2), read(20, Some((7, 1)), 2)];
        assert_violated(&lies, &[], "is 8 of revision 2 at revision 2");
        // While the second write is under way both are right.
        assert_right(&[put(0, 7, 1), put(10, 8, 2), read(12, Some((7, 1)), 1)], &[]);
    }

    #[test]
    fn a_write_without_an_answer_may_be_there_or_not_and_only_once() {
        let lost = || Operation::put(0, 0, 1, 7);
        assert_right(&[lost(), read(10, None, 0)], &[]);
        assert_right(&[lost(), read(10, None, 0), read(20, Some((7, 1)), 1)], &[]);
        assert_violated(&[lost(), read(10, Some((7, 1)), 1), read(20, None, 1)], &[], "was told Record(None)");
        let twice = [lost(), read(10, Some((7, 1)), 1), put(20, 8, 2), read(30, Some((7, 3)), 3)];
        assert_violated(&twice, &[], "took effect at revision 1, and again at 3");
        assert_violated(&[lost()], &[set(1, 7), set(2, 7)], "took effect at revision 1, and again at 2");
    }

    #[test]
    fn a_lost_delete_explains_one_absence_and_needs_a_revision() {
        let lost = || Operation::delete(0, 6, 1);
        assert_right(&[put(0, 7, 1), lost(), read(10, None, 2)], &[]);
        assert_violated(&[put(0, 7, 1), lost(), read(10, None, 1)], &[], "was told Record(None)");
        let again = [put(0, 7, 1), lost(), read(10, None, 2), put(20, 8, 3), read(30, None, 4)];
        assert_violated(&again, &[], "is 8 of revision 3");
    }

    #[test]
    fn of_several_lost_deletes_the_one_asked_for_first_comes_first() {
        let lost = |called| Operation::delete(0, called, 1);
        let removed = |revision| Change { revision, key: 1, value: None };
        // The first one took effect before the second one was asked for, in whatever order their callers gave up.
        for deletes in [[lost(6), lost(30)], [lost(30), lost(6)]] {
            let [first, second] = deletes;
            let history = [put(0, 7, 1), first, put(20, 8, 3), second];
            assert_right(&history, &[set(1, 7), removed(2), set(3, 8)]);
            assert_right(&history, &[set(1, 7), removed(2), set(3, 8), removed(4)]);
        }
        let history = [put(0, 7, 1), put(20, 8, 3), lost(30)];
        assert_violated(&history, &[set(1, 7), removed(2), set(3, 8)], "came before them");
    }

    #[test]
    fn a_compare_and_swap_is_held_to_its_comparison() {
        let cas = |expected, new, succeeded, seen, revision| {
            let answer = told(25, 150, revision, succeeded, seen);
            [put(0, 7, 1), Operation::cas(0, 20, 1, expected, new).answered(answer)]
        };
        assert_right(&cas(Some(7), Some(8), true, Seen::Nothing, 2), &[]);
        assert_right(&cas(Some(6), Some(8), false, Seen::Value(Some(7)), 1), &[]);
        assert_violated(&cas(Some(6), Some(8), true, Seen::Nothing, 2), &[], "was told Value(Some(6))");
        assert_violated(&cas(Some(7), Some(8), false, Seen::Value(Some(7)), 1), &[], "was said to fail");
        assert_violated(&cas(Some(6), Some(8), false, Seen::Value(Some(9)), 1), &[], "which nobody wrote");
    }

    #[test]
    fn a_watch_that_tells_something_else_is_found() {
        assert_violated(&[put(0, 7, 1)], &[set(1, 8)], "to a watch");
        assert_violated(&[put(0, 7, 1)], &[set(1, 7), set(2, 7)], "and again at 2");
        assert_violated(&[put(0, 7, 1)], &[set(2, 9)], "which nobody wrote");
        let removed = Change { revision: 2, key: 1, value: None };
        assert_violated(&[put(0, 7, 1)], &[removed], "which nobody asked for");
    }
}
