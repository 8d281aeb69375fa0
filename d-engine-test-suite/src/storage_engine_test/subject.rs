//! The log and the hard state, as the crash laws see them.

use std::path::Path;
use std::sync::Arc;

use d_engine_core::{
    Entry, EntryKind, Error, HardState, Identity, LogId, LogStore, MetaStore, StorageEngine, checksum,
};

use super::StorageEngineBuilder;
use crate::crash::Opens;
use crate::subject::{Style, Subject, Unreadable};

/// The log of an engine.
pub(crate) struct Log<B>(pub(crate) B);

/// What a log holds.
#[derive(Clone, PartialEq)]
pub(crate) struct LogState {
    purged: LogId,
    entries: Vec<Entry>,
}

impl LogState {
    fn last(&self) -> LogId {
        self.entries.last().map_or(self.purged, Entry::id)
    }

    fn without(&self, from: u64) -> Self {
        let entries = self.entries.iter().filter(|entry| entry.index < from).cloned().collect();
        Self { purged: self.purged, entries }
    }

    fn with(mut self, entries: &[Entry]) -> Self {
        self.entries.extend_from_slice(entries);
        self
    }

    fn purged(&self, up_to: LogId) -> Self {
        if up_to.index <= self.purged.index {
            return self.clone();
        }
        let keeps = self.entries.iter().any(|entry| entry.id() == up_to);
        let entries = self.entries.iter().filter(|entry| keeps && entry.index > up_to.index).cloned().collect();
        Self { purged: up_to, entries }
    }
}

/// A call to a log.
#[derive(Debug, Clone)]
pub(crate) enum LogCall {
    Persist(Vec<Entry>),
    Truncate(u64),
    ReplaceFrom(u64, Vec<Entry>),
    Purge(LogId),
    Reset,
    Flush,
}

/// Bytes that tell the call, so that those of an earlier life are not taken for those of a later one; incompressible
/// where they are long.
fn data(random: &mut fastrand::Rng, number: u64, len: usize) -> Vec<u8> {
    let mut data = number.to_le_bytes().to_vec();
    data.extend(random.u64(..).to_le_bytes());
    data.resize(len.max(16), 0);
    random.fill(&mut data[16..]);
    data
}

fn batch(random: &mut fastrand::Rng, from: u64, term: u64, number: u64, len_max: usize) -> Vec<Entry> {
    let to = from + random.u64(1..6);
    let mut entry = |index| {
        let kind = if random.u8(..10) == 0 { EntryKind::Noop } else { EntryKind::Command };
        let len = random.usize(..len_max);
        Entry::new(index, term, kind, data(random, number, len))
    };
    (from..=to).map(&mut entry).collect()
}

impl<B: StorageEngineBuilder> Subject for Log<B> {
    type Store = Arc<B::Engine>;
    type Call = LogCall;
    type State = LogState;

    const NAME: &'static str = "log";

    fn at(dir: &Path) -> Option<Self> {
        B::at(dir).map(Self)
    }

    async fn open(&self) -> Result<Self::Store, Error> {
        self.0.build().await
    }

    fn is_volatile(&self, store: &Self::Store) -> bool {
        store.is_volatile()
    }

    fn survives_power_loss(&self, store: &Self::Store) -> bool {
        store.survives_power_loss()
    }

    fn writes_are_durable(&self, store: &Self::Store) -> bool {
        store.log_store().is_write_durable()
    }

    fn tells_torn_tail_from_damage(&self) -> bool {
        self.0.tells_torn_tail_from_damage()
    }

    fn simulated_disk(&self) -> Option<Box<dyn Opens<Self::Store>>> {
        Some(Box::new(self.0.simulated_disk()?))
    }

    fn refuses_cleanly_when_full(&self) -> bool {
        self.0.refuses_cleanly_when_full()
    }

    fn refused_after(&self, _: &LogCall, state: &LogState, random: &mut fastrand::Rng) -> Vec<LogCall> {
        vec![self.call(state, Style::Unflushed, random, 0), LogCall::Flush]
    }

    fn empty(&self) -> LogState {
        LogState { purged: LogId::default(), entries: Vec::new() }
    }

    async fn read(&self, store: &Self::Store) -> Result<LogState, Unreadable> {
        let log = store.log_store();
        let (purged, last) = (log.purged(), log.last_index());
        let first = purged.index + 1;
        let entries = log.get_entries(first..=u64::MAX).await?;
        let indexes: Vec<u64> = entries.iter().map(|entry| entry.index).collect();
        if indexes.iter().copied().ne(first..first + indexes.len() as u64) {
            return Err(Unreadable::Inconsistent(format!("a log behind {purged} with the indexes {indexes:?}")));
        }
        if last + 1 != first + entries.len() as u64 {
            let text = format!("last_index() is {last}, and there are {} entries behind {purged}", entries.len());
            return Err(Unreadable::Inconsistent(text));
        }
        for entry in &entries {
            if log.entry(entry.index).await?.as_ref() != Some(entry) {
                let text = format!("entry({}) and get_entries() give different entries", entry.index);
                return Err(Unreadable::Inconsistent(text));
            }
        }
        let summary = log.summary().await?;
        if (summary.purged, summary.last.index) != (purged, last) {
            return Err(Unreadable::Inconsistent(format!("summary() is {summary:?} of a log {purged}..={last}")));
        }
        Ok(LogState { purged, entries })
    }

    fn call(&self, state: &LogState, style: Style, random: &mut fastrand::Rng, number: u64) -> LogCall {
        let (first, last) = (state.purged.index + 1, state.last());
        let next = last.index + 1;
        let term = last.term.max(1) + u64::from(random.u8(..8) == 0);
        match style {
            Style::Flush => return LogCall::Flush,
            Style::Unflushed => return LogCall::Persist(batch(random, next, term, number, 60)),
            Style::Growing => {
                let data = data(random, number, 64 << 10);
                return LogCall::Persist(vec![Entry::new(next, term, EntryKind::Command, data)]);
            }
            Style::Mixed => {}
        }
        let len_max = if random.u8(..12) == 0 { 20_000 } else { 300 };
        let somewhere = random.u64(first..=next);
        match random.u8(..100) {
            0..55 => LogCall::Persist(batch(random, next, term, number, len_max)),
            55..62 => LogCall::Truncate(somewhere),
            62..70 => LogCall::ReplaceFrom(somewhere, batch(random, somewhere, term + 1, number, len_max)),
            70..76 => match random.choice(&state.entries) {
                Some(entry) => LogCall::Purge(entry.id()),
                None => LogCall::Purge(LogId::new(term, next + 1)),
            },
            76..78 => LogCall::Purge(LogId::new(term + 1, somewhere + random.u64(..3))),
            78 => LogCall::Reset,
            _ => LogCall::Flush,
        }
    }

    fn flush(&self) -> LogCall {
        LogCall::Flush
    }

    fn is_durable(&self, call: &LogCall) -> bool {
        matches!(call, LogCall::Flush | LogCall::Purge(_) | LogCall::Reset)
    }

    fn effects(&self, state: &LogState, call: &LogCall) -> Vec<LogState> {
        match call {
            LogCall::Persist(entries) => vec![state.clone().with(entries)],
            LogCall::Truncate(from) => vec![state.without(*from)],
            // The provided replace makes two calls.
            LogCall::ReplaceFrom(from, entries) => {
                vec![state.without(*from), state.without(*from).with(entries)]
            }
            LogCall::Purge(up_to) => vec![state.purged(*up_to)],
            LogCall::Reset => vec![self.empty()],
            LogCall::Flush => vec![state.clone()],
        }
    }

    async fn run(&self, store: &Self::Store, call: LogCall) -> Result<(), Error> {
        let log = store.log_store();
        match call {
            LogCall::Persist(entries) => log.persist_entries(entries).await,
            LogCall::Truncate(from) => log.truncate(from).await,
            LogCall::ReplaceFrom(from, entries) => log.replace_from(from, entries).await,
            LogCall::Purge(up_to) => log.purge(up_to).await,
            LogCall::Reset => log.reset().await,
            LogCall::Flush => log.flush().await,
        }
    }

    fn describe(&self, state: &LogState) -> String {
        let all: Vec<u8> = state.entries.iter().flat_map(|entry| entry.encode().to_vec()).collect();
        let (count, last) = (state.entries.len(), state.last());
        format!("{count} entries behind {}, the last {last}, checksum {:08x}", state.purged, checksum(&[&all]))
    }
}

/// The hard state of an engine, while its log is written as well.
pub(crate) struct Vote<B>(pub(crate) B);

/// A call to an engine.
#[derive(Debug, Clone)]
pub(crate) enum VoteCall {
    Save(HardState),
    /// Appends an entry, whatever the log holds.
    Append(u64),
    FlushLog,
}

impl<B: StorageEngineBuilder> Subject for Vote<B> {
    type Store = Arc<B::Engine>;
    type Call = VoteCall;
    type State = Option<HardState>;

    const NAME: &'static str = "vote";

    fn at(dir: &Path) -> Option<Self> {
        B::at(dir).map(Self)
    }

    async fn open(&self) -> Result<Self::Store, Error> {
        self.0.build().await
    }

    fn is_volatile(&self, store: &Self::Store) -> bool {
        store.is_volatile()
    }

    fn survives_power_loss(&self, store: &Self::Store) -> bool {
        store.survives_power_loss()
    }

    fn tells_torn_tail_from_damage(&self) -> bool {
        // A vote is durable on return: there is no tail of it that nobody was told of.
        true
    }

    fn simulated_disk(&self) -> Option<Box<dyn Opens<Self::Store>>> {
        Some(Box::new(self.0.simulated_disk()?))
    }

    fn refuses_cleanly_when_full(&self) -> bool {
        self.0.refuses_cleanly_when_full()
    }

    fn refused_after(&self, failed: &VoteCall, state: &Option<HardState>, random: &mut fastrand::Rng) -> Vec<VoteCall> {
        match failed {
            VoteCall::Save(_) => vec![self.call(state, Style::Unflushed, random, 0)],
            VoteCall::Append(_) | VoteCall::FlushLog => vec![VoteCall::Append(0), VoteCall::FlushLog],
        }
    }

    fn empty(&self) -> Option<HardState> {
        None
    }

    async fn read(&self, store: &Self::Store) -> Result<Option<HardState>, Unreadable> {
        Ok(store.meta_store().load_hard_state()?)
    }

    fn call(&self, state: &Option<HardState>, style: Style, random: &mut fastrand::Rng, number: u64) -> VoteCall {
        let save = style != Style::Mixed || random.u8(..3) == 0;
        if !save {
            return if random.bool() { VoteCall::Append(number) } else { VoteCall::FlushLog };
        }
        let term = state.map_or(0, |state| state.term) + 1;
        let voted_for = (random.u8(..4) > 0).then(|| random.u64(..9));
        let identity = Identity::unformed(number, u128::from(random.u64(..)));
        let identity = (random.u8(..4) > 0).then(|| if random.bool() { identity.form(5) } else { identity });
        VoteCall::Save(HardState::new(term, voted_for, identity))
    }

    fn flush(&self) -> VoteCall {
        VoteCall::FlushLog
    }

    fn is_durable(&self, call: &VoteCall) -> bool {
        matches!(call, VoteCall::Save(_))
    }

    fn effects(&self, state: &Option<HardState>, call: &VoteCall) -> Vec<Option<HardState>> {
        match call {
            VoteCall::Save(new) => vec![Some(*new)],
            VoteCall::Append(_) | VoteCall::FlushLog => vec![*state],
        }
    }

    async fn run(&self, store: &Self::Store, call: VoteCall) -> Result<(), Error> {
        match call {
            VoteCall::Save(state) => store.meta_store().save_hard_state(&state),
            VoteCall::Append(number) => {
                let log = store.log_store();
                let entry = Entry::new(log.last_index() + 1, 1, EntryKind::Command, number.to_le_bytes());
                log.persist_entries(vec![entry]).await
            }
            VoteCall::FlushLog => store.log_store().flush().await,
        }
    }

    fn describe(&self, state: &Option<HardState>) -> String {
        format!("{state:?}")
    }
}
