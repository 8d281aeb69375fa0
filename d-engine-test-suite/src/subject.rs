//! What the crash laws need to know of a store, and the histories that they write into it.
//!
//! The laws of crashes are the same for the log, the hard state, a key-value store and a state machine: after a crash
//! the store is in the state after some prefix of its calls. They are written once, over [`Subject`].

use std::fmt::Debug;
use std::path::Path;

use d_engine_core::Error;

use crate::crash::Opens;

/// A store as the crash laws see it: calls, and the state that they lead to.
pub(crate) trait Subject: Sized {
    /// An open store.
    type Store;
    /// One call.
    type Call: Debug + Clone;
    /// Everything that the store holds.
    type State: Clone + PartialEq;

    /// By which the child process knows what to write.
    const NAME: &'static str;

    /// The store in a directory; `None` if the builder cannot say.
    fn at(dir: &Path) -> Option<Self>;

    /// Opens it.
    async fn open(&self) -> Result<Self::Store, Error>;

    /// Whether a restart forgets everything.
    fn is_volatile(&self, store: &Self::Store) -> bool;

    /// Whether what was flushed survives a loss of power.
    fn survives_power_loss(&self, store: &Self::Store) -> bool;

    /// Whether calls need no flush to be durable.
    fn writes_are_durable(&self, _store: &Self::Store) -> bool {
        false
    }

    /// A new, empty disk that can lose power, where the builder has one.
    fn simulated_disk(&self) -> Option<Box<dyn Opens<Self::Store>>>;

    /// Whether damage to the end is never taken for a torn write.
    fn tells_torn_tail_from_damage(&self) -> bool;

    /// Whether a full disk is refused with `NoSpace` and costs nothing.
    fn refuses_cleanly_when_full(&self) -> bool;

    /// Calls that are legal in a state and must fail after another has failed, until the store is reopened.
    fn refused_after(&self, failed: &Self::Call, state: &Self::State, random: &mut fastrand::Rng) -> Vec<Self::Call>;

    /// The state of a new store.
    fn empty(&self) -> Self::State;

    /// Reads everything, by every way that could disagree.
    async fn read(&self, store: &Self::Store) -> Result<Self::State, Unreadable>;

    /// A call that is legal in a state; `number` makes its content unlike that of every other call.
    fn call(&self, state: &Self::State, style: Style, random: &mut fastrand::Rng, number: u64) -> Self::Call;

    /// The call that makes durable what was written.
    fn flush(&self) -> Self::Call;

    /// Whether everything up to this call is durable once it has returned.
    fn is_durable(&self, call: &Self::Call) -> bool;

    /// The states that a call leads through; the last one is where it ends.
    fn effects(&self, state: &Self::State, call: &Self::Call) -> Vec<Self::State>;

    /// Makes the call.
    async fn run(&self, store: &Self::Store, call: Self::Call) -> Result<(), Error>;

    /// A state in words, other for every other state.
    fn describe(&self, state: &Self::State) -> String;
}

/// Why a state could not be read.
#[derive(Debug)]
pub(crate) enum Unreadable {
    /// A read failed, which is right for damaged data.
    Refused(Error),
    /// Two ways of reading disagree, which is never right.
    Inconsistent(String),
}

impl From<Error> for Unreadable {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl Unreadable {
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Refused(error) => format!("reading it fails with \"{error}\" ({error:?})"),
            Self::Inconsistent(what) => what.clone(),
        }
    }
}

/// Which calls a history makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// All kinds, with flushes.
    Mixed,
    /// Writes that are small and not flushed.
    Unflushed,
    /// One flush.
    Flush,
    /// Writes of tens of kilobytes that only add.
    Growing,
}

impl Style {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Mixed => "mixed",
            Self::Unflushed => "unflushed",
            Self::Flush => "flush",
            Self::Growing => "growing",
        }
    }

    pub(crate) fn of(name: &str) -> Option<Self> {
        [Self::Mixed, Self::Unflushed, Self::Flush, Self::Growing].into_iter().find(|style| style.name() == name)
    }
}

/// The calls that follow from a state and a seed. Writer and judge make the same ones.
pub(crate) struct History<'a, S: Subject> {
    subject: &'a S,
    random: fastrand::Rng,
    durable_writes: bool,
    /// How many calls were made.
    pub(crate) calls: u64,
    /// The state after them.
    pub(crate) state: S::State,
    /// The states that a crash may leave: since the last call that made everything durable.
    pub(crate) possible: Vec<S::State>,
}

impl<S: Subject> Clone for History<'_, S> {
    fn clone(&self) -> Self {
        let (random, state, possible) = (self.random.clone(), self.state.clone(), self.possible.clone());
        Self { subject: self.subject, random, durable_writes: self.durable_writes, calls: self.calls, state, possible }
    }
}

impl<'a, S: Subject> History<'a, S> {
    pub(crate) fn new(subject: &'a S, state: S::State, seed: u64, durable_writes: bool) -> Self {
        let possible = vec![state.clone()];
        Self { subject, random: fastrand::Rng::with_seed(seed), durable_writes, calls: 0, state, possible }
    }

    /// Makes the next call in the model; says what it is and whether everything is durable once it has returned.
    pub(crate) fn step(&mut self, style: Style) -> (S::Call, bool) {
        self.calls += 1;
        let call = match style {
            Style::Flush => self.subject.flush(),
            style => self.subject.call(&self.state, style, &mut self.random, self.calls),
        };
        let effects = self.subject.effects(&self.state, &call);
        if let Some(last) = effects.last() {
            self.state = last.clone();
        }
        self.possible.extend(effects);
        let durable = self.durable_writes || self.subject.is_durable(&call);
        (call, durable)
    }

    /// The present state is durable: no other is possible any more.
    pub(crate) fn settle(&mut self) {
        self.possible = vec![self.state.clone()];
    }

    /// Makes calls until `calls` were made, the last of which is known to be durable.
    pub(crate) fn settle_at(&mut self, calls: u64) {
        while self.calls < calls {
            self.step(Style::Mixed);
        }
        self.settle();
    }

    /// What a crash may leave of a writer of whom nothing is known but that it has not told of the next durable call.
    pub(crate) fn settle_anywhere(&mut self) {
        while !self.step(Style::Mixed).1 {}
    }
}
