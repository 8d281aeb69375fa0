//! The search: breadth first, so that the first breach found is one of the nearest.

use std::collections::HashMap;

use super::envelope::Envelope;
use super::forget::Numbering;
use super::history::History;
use super::laws;
use super::replica::{Event, Replica};
use super::store::{Fingerprint, Fingerprints, Store};
use super::tale;
use super::{Bounds, Counterexample, MAX_MESSAGES, MAX_NODES, Outcome, Progress};
use crate::Mutant;
use crate::simulator::Breach;

/// A state of the whole cluster: numbers of what the stores hold, and what is left to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    /// Replicas, by node.
    replicas: [u32; PLACES],
    /// Messages in flight, in ascending order; two equal ones are one.
    pub(super) network: Few,
    history: u32,
    crashes: u8,
    entries: u8,
    duplicates: u8,
}

impl State {
    fn with(mut self, network: Few) -> Self {
        self.network = network;
        self
    }
}

/// A few numbers in ascending order, none twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Few {
    len: u8,
    numbers: [u32; MAX_MESSAGES],
}

impl Few {
    fn from(numbers: &[u32]) -> Self {
        let mut few = Self { len: numbers.len() as u8, ..Self::default() };
        few.numbers[..numbers.len()].copy_from_slice(numbers);
        few
    }

    pub(super) fn as_slice(&self) -> &[u32] {
        &self.numbers[..usize::from(self.len)]
    }
}

/// One step from a state: what happens to which node, and what is in flight afterwards.
#[derive(Debug, Clone)]
pub(super) struct Transition {
    /// Index of the node.
    pub(super) at: usize,
    pub(super) event: Event,
    /// Its disk has done everything before the next step.
    pub(super) syncs: bool,
    /// The message that arrives stays in flight, too.
    pub(super) is_duplicated: bool,
    pub(super) next: Result<State, Breach>,
}

/// What an event makes of a replica; worked out once.
#[derive(Debug, Clone, Copy)]
enum Reaction {
    /// Another replica, and what it sends. `matters`: to laws between nodes.
    Done { replica: u32, sent: Few, matters: bool },
    /// It would leave the bounds.
    Beyond,
    /// Number of a breach.
    Broken(usize),
}

/// A search and everything it has met.
pub(super) struct Search {
    bounds: Bounds,
    numberings: Vec<Numbering>,
    pub(super) replicas: Store<Replica>,
    pub(super) envelopes: Store<Envelope>,
    histories: Store<History>,
    reactions: HashMap<(u32, Event, bool), Reaction>,
    breaches: Vec<Breach>,
    own_events: Vec<Vec<Event>>,
    visited: Fingerprints,
    /// By state: the state it was first reached from, and by which of its transitions.
    parents: Vec<(u32, u32)>,
    scratch: Vec<u32>,
}

/// Looks at every state within `bounds`, or at as many as it takes to find a broken law. Calls `watch` after each of some
/// thousand states.
///
/// # Errors
/// The bounds contradict themselves; the text says how.
pub fn explore(bounds: &Bounds, mut watch: impl FnMut(&Progress)) -> Result<Outcome, String> {
    if !(1..=MAX_NODES).contains(&bounds.nodes) || !(1..=MAX_MESSAGES).contains(&bounds.messages) {
        return Err(format!("a search has 1 to {MAX_NODES} nodes and 1 to {MAX_MESSAGES} messages in flight"));
    }
    let mut search = Search::new(bounds.clone());
    let first = search.first().map_err(|breach| breach.detail)?;
    search.run(first, &mut watch)
}

/// Places for nodes in a state.
const PLACES: usize = MAX_NODES as usize;

/// States between two calls of the watcher.
const WATCHED: usize = 1 << 14;

impl Search {
    fn new(bounds: Bounds) -> Self {
        let mut numberings = Numbering::all(bounds.nodes);
        if !bounds.symmetry {
            numberings.truncate(1);
        }
        Self {
            bounds,
            numberings,
            replicas: Store::new(),
            envelopes: Store::new(),
            histories: Store::new(),
            reactions: HashMap::new(),
            breaches: Vec::new(),
            own_events: Vec::new(),
            visited: Fingerprints::default(),
            parents: Vec::new(),
            scratch: Vec::new(),
        }
    }

    fn first(&mut self) -> Result<State, Breach> {
        let mut replicas = [0; PLACES];
        for node in 1..=self.bounds.nodes {
            let replica = Replica::formed(node, &self.bounds)?;
            replicas[node as usize - 1] = self.keep(replica);
        }
        let history = self.histories.number(History { led: Vec::new(), chosen: Vec::new() }, &self.numberings);
        let Bounds { crashes, entries, duplicates, .. } = self.bounds;
        Ok(State { replicas, network: Few::default(), history, crashes, entries, duplicates })
    }

    fn keep(&mut self, replica: Replica) -> u32 {
        let events = replica.own_events(&self.bounds);
        let number = self.replicas.number(replica, &self.numberings);
        if number as usize == self.own_events.len() {
            self.own_events.push(events);
        }
        number
    }

    fn run(&mut self, first: State, watch: &mut impl FnMut(&Progress)) -> Result<Outcome, String> {
        let mut layer = vec![(first, 0)];
        self.visited.insert(self.fingerprint(&first));
        self.parents.push((0, 0));
        let (mut progress, mut found) = (Progress::default(), Vec::new());
        while !layer.is_empty() {
            let mut next_layer = Vec::new();
            for (number, (state, id)) in layer.iter().enumerate() {
                if number % WATCHED == 0 {
                    self.report(&mut progress);
                    watch(&progress);
                }
                found.clear();
                self.transitions(state, &mut found);
                for (ordinal, transition) in found.drain(..).enumerate() {
                    progress.steps += 1;
                    match transition.next {
                        Ok(next) if self.visited.insert(self.fingerprint(&next)) => {
                            next_layer.push((next, self.parents.len() as u32));
                            self.parents.push((*id, ordinal as u32));
                        }
                        Ok(_) => {}
                        Err(breach) => {
                            self.report(&mut progress);
                            let counterexample = Some(self.tell(first, *id, ordinal, breach));
                            return Ok(Outcome { progress, is_exhausted: false, counterexample });
                        }
                    }
                }
                if self.parents.len() > self.bounds.states {
                    self.report(&mut progress);
                    return Ok(Outcome { progress, is_exhausted: false, counterexample: None });
                }
            }
            progress.depth += usize::from(!next_layer.is_empty());
            layer = next_layer;
        }
        self.report(&mut progress);
        Ok(Outcome { progress, is_exhausted: true, counterexample: None })
    }

    fn report(&self, progress: &mut Progress) {
        progress.states = self.parents.len();
        progress.replicas = self.replicas.len();
        progress.messages = self.envelopes.len();
    }

    /// The same for states that differ by the names of the nodes only.
    fn fingerprint(&self, state: &State) -> Fingerprint {
        let count = self.numberings.len();
        let left = u128::from(state.crashes) | u128::from(state.entries) << 8 | u128::from(state.duplicates) << 16;
        let left = left.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        let replicas = &state.replicas[..self.bounds.nodes as usize];
        let of = |numbering: usize| {
            // Fingerprints are random, so their sum stands for the set.
            let mut sum = left.wrapping_add(self.histories.prints(state.history, count)[numbering]);
            for replica in replicas {
                sum = sum.wrapping_add(self.replicas.prints(*replica, count)[numbering]);
            }
            for envelope in state.network.as_slice() {
                sum = sum.wrapping_add(self.envelopes.prints(*envelope, count)[numbering]);
            }
            sum
        };
        (0..count).map(of).min().unwrap_or(left)
    }

    /// Every step from a state, always in the same order.
    pub(super) fn transitions(&mut self, state: &State, found: &mut Vec<Transition>) {
        for number in state.network.as_slice() {
            let at = self.envelopes.get(*number).to as usize - 1;
            self.happen(state, at, Event::Arrive(*number), false, found);
            if state.duplicates > 0 {
                self.happen(state, at, Event::Arrive(*number), true, found);
            }
        }
        for at in 0..self.bounds.nodes as usize {
            let replica = state.replicas[at];
            for event in 0..self.own_events[replica as usize].len() {
                let event = self.own_events[replica as usize][event];
                self.happen(state, at, event, false, found);
            }
            let replica = self.replicas.get(replica);
            let (own, newest) =
                (replica.raft.term, self.all(state).map(|replica| replica.raft.term).max().unwrap_or(0));
            let (leads, steps) = (replica.leads().is_some(), replica.unsynced_steps());
            if own < newest {
                self.happen(state, at, Event::Learn(newest), false, found);
            }
            if leads && state.entries > 0 {
                self.happen(state, at, Event::Propose(self.bounds.entries - state.entries), false, found);
            }
            if state.crashes > 0 {
                (0..=steps).for_each(|survive| self.happen(state, at, Event::Crash(survive), false, found));
            }
        }
    }

    /// An event at a node, with a disk that is quick, and with one that lags if another one may.
    fn happen(&mut self, state: &State, at: usize, event: Event, is_duplicated: bool, found: &mut Vec<Transition>) {
        let step = Transition { at, event, is_duplicated, syncs: true, next: Ok(*state) };
        let lags = |at: usize| self.replicas.get(state.replicas[at]).lags();
        let (is_late, others) =
            (lags(at), (0..self.bounds.nodes as usize).filter(|other| *other != at && lags(*other)));
        let may_lag = others.count() < self.bounds.lagging;
        if !is_late {
            self.react(state, step.clone(), found);
        }
        if is_late || may_lag {
            self.react(state, Transition { syncs: false, ..step }, found);
        }
    }

    fn react(&mut self, state: &State, step: Transition, found: &mut Vec<Transition>) {
        let Transition { at, event, syncs, is_duplicated, .. } = step;
        let before = state.replicas[at];
        let known = self.reactions.get(&(before, event, syncs)).copied();
        let (replica, sent, matters) = match known.unwrap_or_else(|| self.work_out(before, event, syncs)) {
            Reaction::Done { replica, sent, matters } => (replica, sent, matters),
            Reaction::Beyond => return,
            Reaction::Broken(breach) => {
                let next = Err(self.breaches[breach].clone());
                return found.push(Transition { next, ..step });
            }
        };
        let was_late = self.replicas.get(before).lags();
        if !syncs && !was_late && !self.replicas.get(replica).lags() {
            // Nothing was written: the same as with a quick disk.
            return;
        }
        let mut next = *state;
        next.replicas[at] = replica;
        match event {
            Event::Crash(_) => next.crashes -= 1,
            Event::Propose(_) => next.entries -= 1,
            Event::Arrive(_) if is_duplicated => next.duplicates -= 1,
            _ => {}
        }
        if matters {
            match self.judge(&next, before, at) {
                Ok(history) => next.history = history,
                Err(breach) => return found.push(Transition { next: Err(breach), ..step }),
            }
        }
        let arrived = if let Event::Arrive(number) = event { Some(number).filter(|_| !is_duplicated) } else { None };
        self.deliver(next, at, arrived, sent, |network| {
            found.push(Transition { next: Ok(next.with(network)), ..step.clone() });
        });
    }

    fn work_out(&mut self, before: u32, event: Event, syncs: bool) -> Reaction {
        let arrives = if let Event::Arrive(number) = event { Some(self.envelopes.get(number)) } else { None };
        let was = self.replicas.get(before);
        let reaction = match was.after(event, arrives, syncs, self.bounds.strict) {
            Err(breach) => {
                self.breaches.push(breach);
                Reaction::Broken(self.breaches.len() - 1)
            }
            Ok(reaction) if reaction.replica.raft.sessions > 1 + self.bounds.streams => Reaction::Beyond,
            Ok(reaction) => {
                let is = &reaction.replica;
                let matters = is.raft.commit > was.raft.commit
                    || is.leads() != was.leads()
                    || is.visible != was.visible
                    || is.durable != was.durable;
                let replica = self.keep(reaction.replica);
                let sent = reaction.sent.into_iter();
                let mut sent: Vec<_> = sent.map(|envelope| self.envelopes.number(envelope, &self.numberings)).collect();
                sent.sort_unstable();
                sent.dedup();
                Reaction::Done { replica, sent: Few::from(&sent), matters }
            }
        };
        self.reactions.insert((before, event, syncs), reaction);
        reaction
    }

    /// The laws between nodes; what is to be remembered from now on.
    fn judge(&mut self, next: &State, before: u32, at: usize) -> Result<u32, Breach> {
        let replicas: Vec<_> = self.all(next).collect();
        let history = self.histories.get(next.history);
        match laws::between(history, self.replicas.get(before), replicas[at], &replicas)? {
            Some(history) => Ok(self.histories.number(history, &self.numberings)),
            None => Ok(next.history),
        }
    }

    pub(super) fn all(&self, state: &State) -> impl Iterator<Item = &Replica> {
        state.replicas[..self.bounds.nodes as usize].iter().map(|number| self.replicas.get(*number))
    }

    /// Every network that may follow. A message is lost only when another one takes its place: until then a lost one and
    /// one that never arrives are the same.
    fn deliver(&mut self, next: State, at: usize, arrived: Option<u32>, sent: Few, mut visit: impl FnMut(Few)) {
        let mut all = std::mem::take(&mut self.scratch);
        all.clear();
        let is_void = |number: &u32| {
            let envelope = self.envelopes.get(*number);
            self.bounds.mutant == Mutant::None
                && envelope.is_void_for(self.replicas.get(next.replicas[envelope.to as usize - 1]))
        };
        let concerns = |number: &u32| self.envelopes.get(*number).to as usize == at + 1;
        let left = next.network.as_slice().iter().filter(|number| Some(**number) != arrived);
        all.extend(left.filter(|number| !(concerns(number) && is_void(number))));
        all.extend(sent.as_slice().iter().filter(|number| !is_void(number)));
        all.sort_unstable();
        all.dedup();
        let room = self.bounds.messages;
        if all.len() <= room {
            visit(Few::from(&all));
        } else {
            let mut chosen = Vec::with_capacity(room);
            choose(&all, room, &mut chosen, &mut visit);
        }
        self.scratch = all;
    }

    /// The way from the beginning to transition `ordinal` of state `id`, in words.
    fn tell(&mut self, first: State, id: u32, ordinal: usize, breach: Breach) -> Counterexample {
        let mut path = vec![ordinal];
        let mut at = id;
        while at != 0 {
            let (parent, ordinal) = self.parents[at as usize];
            path.push(ordinal as usize);
            at = parent;
        }
        let (mut state, mut steps, mut found) = (first, Vec::new(), Vec::new());
        for ordinal in path.into_iter().rev() {
            found.clear();
            self.transitions(&state, &mut found);
            let transition = found.swap_remove(ordinal);
            steps.push(tale::step(self, &state, &transition));
            if let Ok(next) = transition.next {
                state = next;
            }
        }
        let nodes = self.all(&state).map(tale::node).collect();
        Counterexample { property: breach.property.to_owned(), detail: breach.detail, steps, nodes }
    }
}

/// Every choice of `room` of `all`, each in order.
fn choose(all: &[u32], room: usize, chosen: &mut Vec<u32>, visit: &mut impl FnMut(Few)) {
    if room == 0 {
        return visit(Few::from(chosen));
    }
    for (at, number) in all.iter().enumerate().take(all.len() + 1 - room) {
        chosen.push(*number);
        choose(&all[at + 1..], room - 1, chosen, visit);
        chosen.pop();
    }
}
