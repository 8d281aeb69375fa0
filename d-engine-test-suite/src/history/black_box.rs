//! The search for an order of one key's operations, after Wing and Gong, with the memory of Lowe.
//!
//! The search goes forward from the beginning: whatever was called before the first answer that is still to be explained may
//! come next. Two things keep it short. What changes nothing and fits the present state may always come at once. And two
//! ways that carried out the same operations and lead to the same value have the same future, so the second is not followed.

use std::collections::HashSet;

use super::{Action, Key, Operation, Seen, Value};

/// What the search found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// There is such an order.
    Linearizable,
    /// There is none.
    Violated,
    /// Not found within the steps that were allowed.
    Unknown,
}

/// Whether the operations on `key`, which does not exist at first, can have happened in one order, each between its call and
/// its answer. Operations on several keys count with what they mean for this one. Follows at most `steps_max` steps.
pub fn black_box(operations: &[Operation], key: Key, steps_max: u64) -> Verdict {
    let mut steps: Vec<Step> = operations.iter().filter_map(|operation| Step::of(operation, key)).collect();
    steps.sort_by_key(|step| step.called);
    Search::new(steps).run(steps_max)
}

/// An operation as one key sees it.
#[derive(Debug, Clone, Copy)]
struct Step {
    called: u64,
    /// `u64::MAX`: never, and it need not happen.
    answered: u64,
    test: Test,
    action: Action,
    seen: Seen,
}

/// What must be so before the step.
#[derive(Debug, Clone, Copy)]
enum Test {
    Anything,
    Is(Option<Value>),
    IsNot(Option<Value>),
}

impl Step {
    fn of(operation: &Operation, key: Key) -> Option<Self> {
        let expected = operation.when.iter().find(|(tested, _)| *tested == key).map(|(_, value)| *value);
        let place = operation.then.iter().position(|(changed, _)| *changed == key);
        let action = place.map_or(Action::Read, |place| operation.then[place].1);
        let step = Self {
            called: operation.called,
            answered: u64::MAX,
            test: expected.map_or(Test::Anything, Test::Is),
            action,
            seen: Seen::Nothing,
        };
        let Some(answer) = &operation.answer else { return (action != Action::Read).then_some(step) };
        let answered = answer.answered;
        if answer.succeeded {
            let seen = place.and_then(|place| answer.seen.get(place)).copied().unwrap_or(Seen::Nothing);
            return (place.is_some() || expected.is_some()).then_some(Self { answered, seen, ..step });
        }
        let read = operation.otherwise.iter().position(|read| *read == key);
        let seen = read.and_then(|place| answer.seen.get(place)).copied().unwrap_or(Seen::Nothing);
        // With several comparisons, which of them failed is not said.
        let test = match expected {
            Some(expected) if operation.when.len() == 1 => Test::IsNot(expected),
            _ => Test::Anything,
        };
        Some(Self { answered, test, action: Action::Read, seen, ..step })
    }

    /// The value afterwards, if the step fits this one.
    fn apply(&self, value: Option<Value>) -> Option<Option<Value>> {
        let fits = match self.test {
            Test::Anything => true,
            Test::Is(expected) => value == expected,
            Test::IsNot(other) => value != other,
        };
        let is_seen = match self.seen {
            Seen::Nothing => true,
            Seen::Record(record) => record.map(|(value, _)| value) == value,
            Seen::Value(seen) => seen == value,
            Seen::Existed(existed) => existed == value.is_some(),
        };
        (fits && is_seen).then_some(match self.action {
            Action::Read => value,
            Action::Put(new) => Some(new),
            Action::Delete => None,
        })
    }

    const fn must_happen(&self) -> bool {
        self.answered != u64::MAX
    }
}

/// A place on the way: what may come next, and how the way led here.
struct Place {
    value: Option<Value>,
    candidates: Vec<usize>,
    next: usize,
    /// The step that led here.
    came_by: usize,
}

struct Search {
    /// In the order of their calls.
    steps: Vec<Step>,
    done: Vec<bool>,
    /// Of the steps that must happen, how many are not done.
    left: usize,
    /// Every step before it is done, or need not be.
    first: usize,
    /// A sum of random numbers, one for each step that is done: names the set.
    name: u128,
    names: Vec<u128>,
}

const NOWHERE: usize = usize::MAX;

impl Search {
    fn new(steps: Vec<Step>) -> Self {
        let mut rng = fastrand::Rng::with_seed(1);
        let names = steps.iter().map(|_| rng.u128(..)).collect();
        let left = steps.iter().filter(|step| step.must_happen()).count();
        Self { done: vec![false; steps.len()], steps, left, first: 0, name: 0, names }
    }

    fn run(mut self, steps_max: u64) -> Verdict {
        let mut seen = HashSet::new();
        let mut way = vec![self.place(None, NOWHERE)];
        let mut taken = 0;
        while self.left > 0 {
            let Some(place) = way.last_mut() else { return Verdict::Violated };
            let Some(step) = place.candidates.get(place.next).copied() else {
                let came_by = place.came_by;
                way.pop();
                if came_by != NOWHERE {
                    self.undo(came_by);
                }
                continue;
            };
            place.next += 1;
            let Some(value) = self.steps[step].apply(place.value) else { continue };
            taken += 1;
            if taken > steps_max {
                return Verdict::Unknown;
            }
            self.carry_out(step);
            if seen.insert((self.name, value)) {
                let place = self.place(value, step);
                way.push(place);
            } else {
                self.undo(step);
            }
        }
        Verdict::Linearizable
    }

    fn carry_out(&mut self, step: usize) {
        self.done[step] = true;
        self.left -= usize::from(self.steps[step].must_happen());
        self.name = self.name.wrapping_add(self.names[step]);
    }

    fn undo(&mut self, step: usize) {
        self.done[step] = false;
        self.left += usize::from(self.steps[step].must_happen());
        self.name = self.name.wrapping_sub(self.names[step]);
        self.first = self.first.min(step);
    }

    /// What may come next: calls before the first answer that is still to be explained.
    fn place(&mut self, value: Option<Value>, came_by: usize) -> Place {
        while self.steps.get(self.first).is_some_and(|step| !step.must_happen())
            || self.done.get(self.first) == Some(&true)
        {
            self.first += 1;
        }
        // Those that must happen from the first on; the others are few, and may have been called long before.
        let mut answer = u64::MAX;
        let mut required = Vec::new();
        for step in self.first..self.steps.len() {
            if self.steps[step].called > answer {
                break;
            }
            if !self.done[step] && self.steps[step].must_happen() {
                answer = answer.min(self.steps[step].answered);
                required.push(step);
            }
        }
        required.retain(|step| self.steps[*step].called <= answer);
        let changes_nothing = |step: &&usize| self.steps[**step].apply(value) == Some(value);
        if let Some(step) = required.iter().find(changes_nothing) {
            return Place { value, candidates: vec![*step], next: 0, came_by };
        }
        let mut candidates = required;
        // Last of all what need not have happened.
        let optional = self.steps.iter().enumerate().take_while(|(_, step)| step.called <= answer);
        let optional = optional.filter(|(place, step)| !step.must_happen() && !self.done[*place]);
        candidates.extend(optional.map(|(place, _)| place));
        Place { value, candidates, next: 0, came_by }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Answer;
    use super::*;

    /// Every order, one after the other.
    fn by_brute_force(steps: &[Step], done: u32, value: Option<Value>) -> bool {
        let is_left = |place: usize| done & (1 << place) == 0;
        let required: Vec<usize> = (0..steps.len()).filter(|p| is_left(*p) && steps[*p].must_happen()).collect();
        if required.is_empty() {
            return true;
        }
        let answer = required.iter().map(|place| steps[*place].answered).min().unwrap_or(u64::MAX);
        (0..steps.len())
            .filter(|place| is_left(*place) && steps[*place].called <= answer)
            .any(|place| steps[place].apply(value).is_some_and(|value| by_brute_force(steps, done | 1 << place, value)))
    }

    fn told(answered: u64, succeeded: bool, seen: Seen) -> Answer {
        Answer { answered, index: 0, revision: 0, succeeded, seen: vec![seen] }
    }

    /// A few clients at work on a store; now and then an answer is wrong, or missing.
    fn some_history(rng: &mut fastrand::Rng) -> Vec<Operation> {
        let mut value = None;
        let mut operations = Vec::new();
        for number in 0..rng.u64(1..8) {
            // In the order of taking effect, with calls before and answers after.
            let at = 10 * number + 10;
            let (called, answered) = (at - rng.u64(0..25).min(at), at + rng.u64(0..25));
            let new = number + 1;
            let expected = if rng.bool() { value } else { rng.bool().then(|| rng.u64(0..8)) };
            let is_equal = expected == value;
            let wrong = rng.u8(..4) == 0;
            let (operation, answer, after) = match rng.u8(..5) {
                0 | 1 => {
                    let seen = if wrong { rng.bool().then(|| rng.u64(0..8)) } else { value };
                    (Operation::read(0, called, 1), told(answered, true, Seen::Value(seen)), value)
                }
                2 => (Operation::put(0, called, 1, new), told(answered, true, Seen::Nothing), Some(new)),
                3 => {
                    let existed = Seen::Existed(value.is_some() != wrong);
                    (Operation::delete(0, called, 1), told(answered, true, existed), None)
                }
                _ => {
                    let seen = if is_equal { Seen::Nothing } else { Seen::Value(value) };
                    let after = if is_equal { Some(new) } else { value };
                    (Operation::cas(0, called, 1, expected, Some(new)), told(answered, is_equal != wrong, seen), after)
                }
            };
            let is_lost = rng.u8(..6) == 0;
            if !(is_lost && rng.bool()) {
                value = after;
            }
            operations.push(if is_lost { operation } else { operation.answered(answer) });
        }
        operations
    }

    #[test]
    fn the_search_agrees_with_brute_force_on_200_000_histories() {
        let mut rng = fastrand::Rng::with_seed(20_261);
        let mut right = 0;
        for number in 0..200_000 {
            let operations = some_history(&mut rng);
            let steps: Vec<Step> = operations.iter().filter_map(|operation| Step::of(operation, 1)).collect();
            let expected = if by_brute_force(&steps, 0, None) { Verdict::Linearizable } else { Verdict::Violated };
            assert_eq!(black_box(&operations, 1, u64::MAX), expected, "history {number}: {operations:#?}");
            right += u32::from(expected == Verdict::Linearizable);
        }
        assert!((40_000..160_000).contains(&right), "both kinds are tried: {right} of them are right");
    }

    #[test]
    fn a_stale_read_and_a_lost_write_are_found() {
        let put = |called, value| Operation::put(0, called, 1, value).answered(told(called + 5, true, Seen::Nothing));
        let read = |called, value| Operation::read(1, called, 1).answered(told(called + 5, true, Seen::Value(value)));
        let right = [put(0, 1), read(10, Some(1)), put(20, 2), read(30, Some(2))];
        assert_eq!(black_box(&right, 1, 1_000), Verdict::Linearizable);
        let stale = [put(0, 1), put(20, 2), read(30, Some(1))];
        assert_eq!(black_box(&stale, 1, 1_000), Verdict::Violated);
        let lost = [put(0, 1), read(10, None)];
        assert_eq!(black_box(&lost, 1, 1_000), Verdict::Violated);
        let concurrent = [put(0, 1), put(20, 2), read(22, Some(1))];
        assert_eq!(black_box(&concurrent, 1, 1_000), Verdict::Linearizable);
    }

    #[test]
    fn a_thousand_operations_of_eight_clients_with_losses_are_quick() {
        let mut rng = fastrand::Rng::with_seed(3);
        let mut value = None;
        let mut operations = Vec::new();
        for number in 0..1_000_u64 {
            let at = 10 * number + 100;
            let (called, answered) = (at - rng.u64(0..40), at + rng.u64(0..40));
            if rng.bool() {
                operations.push(Operation::read(0, called, 1).answered(told(answered, true, Seen::Value(value))));
            } else {
                let put = Operation::put(0, called, 1, number + 1);
                let is_lost = number % 100 == 0;
                if !is_lost || rng.bool() {
                    value = Some(number + 1);
                }
                let answer = told(answered, true, Seen::Nothing);
                operations.push(if is_lost { put } else { put.answered(answer) });
            }
        }
        assert_eq!(black_box(&operations, 1, 1_000_000), Verdict::Linearizable);
        assert_eq!(black_box(&operations, 1, 10), Verdict::Unknown);
    }
}
