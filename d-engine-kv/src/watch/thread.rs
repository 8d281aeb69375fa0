//! The thread that hands changes out to watchers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::task::Waker;

use bytes::Bytes;
use d_engine_core::WatchSink;
use d_engine_core::command::{KeySpan, KvChange, KvWatch, WatchEnd, WatchMessage};
use hashbrown::HashMap;

use super::history::History;
use super::index::Index;
use super::{Arrival, Shared};
use crate::layout::user_key;
use crate::overlay::Change;
use crate::record::Record;

/// A message ends once its changes have so many bytes.
const MESSAGE_BYTES: usize = 1 << 20;

struct Watcher {
    span: KeySpan,
    from_revision: u64,
    prev: bool,
    progress: bool,
    sink: Box<dyn WatchSink>,
    /// The first change that it has not seen; counts only while it is behind.
    number: u64,
    /// The revision that it was told last.
    told: u64,
}

/// What became of a message.
#[derive(PartialEq)]
enum Told {
    Yes,
    /// The sink is full; the message is to come again.
    Later,
    /// The sink takes nothing any more.
    Never,
}

struct Thread<'a> {
    shared: &'a Arc<Shared>,
    watchers: HashMap<u64, Watcher>,
    next_id: u64,
    /// Those that have seen everything up to `number`.
    index: Index,
    number: u64,
    /// Those that have not, in the order of their ids.
    behind: BTreeSet<u64>,
    /// Empty; its memory is used for each change.
    concerned: Vec<u64>,
}

/// The message about one change by itself, without and with the record before it: many watchers may be told the same.
#[derive(Default)]
struct SameMessage([Option<Bytes>; 2]);

pub(super) fn run(shared: &Arc<Shared>) {
    let number = shared.lock().history.end();
    let mut thread = Thread {
        shared,
        watchers: HashMap::new(),
        next_id: 0,
        index: Index::default(),
        number,
        behind: BTreeSet::new(),
        concerned: Vec::new(),
    };
    thread.serve();
    thread.end_all();
}

impl Thread<'_> {
    fn serve(&mut self) {
        let mut idle = false;
        loop {
            let mut state = self.shared.lock();
            if idle
                && !(state.woken || state.progress || state.end_all || state.stop || !state.arrived.is_empty())
                && state.history.end() == self.number
            {
                state.waits = true;
                state = self.shared.news.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.stop {
                // Those who came last are told, too.
                let arrived = std::mem::take(&mut state.arrived);
                drop(state);
                arrived.into_iter().for_each(|arrival| self.welcome(arrival));
                return;
            }
            state.woken = false;
            let arrived = std::mem::take(&mut state.arrived);
            let (progress, end_all) = (std::mem::take(&mut state.progress), std::mem::take(&mut state.end_all));
            drop(state);
            arrived.into_iter().for_each(|arrival| self.welcome(arrival));
            if end_all {
                self.end_all();
            }
            let advanced = self.advance();
            let caught_up = self.catch_up();
            idle = !advanced && !caught_up;
            if progress {
                self.tell_progress();
            }
        }
    }

    fn welcome(&mut self, arrival: Arrival) {
        let Arrival { watch, mut sink, number, revision } = arrival;
        let KvWatch { span, from_revision, prev, progress, .. } = watch;
        sink.set_waker(Waker::from(Arc::clone(self.shared)));
        // Of a watch from the past nothing is told yet: should the history pass it by, it begins where it wanted to begin.
        let told = if from_revision == 0 { revision } else { revision.min(from_revision - 1) };
        if !sink.offer(WatchMessage::Created { revision }.encode()) {
            sink.end(WatchMessage::Ended(WatchEnd::Slow { next_revision: told + 1 }).encode());
            return;
        }
        let id = self.next_id;
        self.next_id += 1;
        self.watchers.insert(id, Watcher { span, from_revision, prev, progress, sink, number, told });
        self.behind.insert(id);
    }

    /// Hands the next changes to those who have seen everything before; whether there were any.
    fn advance(&mut self) -> bool {
        let state = self.shared.lock();
        let history = &state.history;
        if self.number < history.first() {
            // The history went past this thread: everybody looks for a way of his own.
            let first = history.first();
            drop(state);
            let behind = self.number;
            let all: Vec<_> = self.watchers.keys().copied().filter(|id| !self.behind.contains(id)).collect();
            all.into_iter().for_each(|id| self.fall_behind(id, behind));
            self.number = first;
            return true;
        }
        let part = history.read(self.number);
        drop(state);
        let Some(part) = part else { return false };
        let mut rest = part.changes();
        while let Some(first) = rest.first() {
            let len = rest.iter().take_while(|change| change.revision == first.revision).count();
            let (group, behind) = rest.split_at(len);
            self.hand_out(self.number, group);
            self.number += len as u64;
            rest = behind;
        }
        true
    }

    /// Hands the changes of one revision, numbered from `number` on, to whom they concern.
    fn hand_out(&mut self, number: u64, group: &[Change]) {
        // Most revisions are one change, and whoever is concerned by one change alone is told the same as the others.
        if let [change] = group {
            let mut concerned = std::mem::take(&mut self.concerned);
            self.index.each(&change.key, |id| concerned.push(id));
            let mut message = SameMessage::default();
            for id in concerned.drain(..) {
                self.hand_to(id, &[(number, change)], &mut message);
            }
            self.concerned = concerned;
            return;
        }
        let mut concerned: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (place, change) in group.iter().enumerate() {
            self.index.each(&change.key, |id| concerned.entry(id).or_default().push(place));
        }
        let mut messages: BTreeMap<usize, SameMessage> = BTreeMap::new();
        for (id, places) in concerned {
            let changes: Vec<_> = places.iter().map(|place| (number + *place as u64, &group[*place])).collect();
            self.hand_to(id, &changes, messages.entry(places[0]).or_default());
        }
    }

    /// Hands changes of one revision to a watcher; if it is a single one, it may be in `message` already.
    fn hand_to(&mut self, id: u64, changes: &[(u64, &Change)], message: &mut SameMessage) {
        let Some(watcher) = self.watchers.get_mut(&id) else { return };
        match watcher.tell(changes, message) {
            (Told::Yes, _) => {}
            (Told::Later, number) => self.fall_behind(id, number),
            (Told::Never, _) => self.end_slow(id, changes[0].1.revision),
        }
    }

    /// The watcher goes on by itself from `number`.
    fn fall_behind(&mut self, id: u64, number: u64) {
        if let Some(watcher) = self.watchers.get_mut(&id) {
            watcher.number = number;
            self.index.remove(id, &watcher.span);
            self.behind.insert(id);
        }
    }

    /// Brings those forward who are behind, a step each; whether one of them can go on at once.
    fn catch_up(&mut self) -> bool {
        let mut moved = false;
        let ids: Vec<_> = self.behind.iter().copied().collect();
        for id in ids {
            moved |= self.catch_up_one(id);
        }
        moved
    }

    fn catch_up_one(&mut self, id: u64) -> bool {
        let Some(watcher) = self.watchers.get_mut(&id) else { return false };
        let state = self.shared.lock();
        let history = &state.history;
        if watcher.number < history.first() {
            if watcher.from_revision >= history.first_revision() {
                // All that it wants is there or still to come.
                watcher.number = history.first();
                return true;
            }
            let end = watcher.missed(history);
            drop(state);
            self.end(id, end);
            return true;
        }
        // Not past the others, who stand between two revisions: there it joins them.
        let Some(left) = self.number.checked_sub(watcher.number) else { return false };
        let part = if left > 0 { history.read(watcher.number) } else { None };
        drop(state);
        let part = part.as_ref().map_or(&[][..], |part| part.changes());
        let part = &part[..part.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
        let next = watcher.number + part.len() as u64;
        let numbered = (watcher.number..).zip(part);
        let changes: Vec<_> = numbered.filter(|(_, change)| watcher.wants(change)).collect();
        let mut rest = &changes[..];
        while let Some((_, first)) = rest.first() {
            let revision = first.revision;
            let len = rest.partition_point(|(_, change)| change.revision == revision);
            let (group, behind) = rest.split_at(len);
            match watcher.tell(group, &mut SameMessage::default()) {
                (Told::Yes, _) => rest = behind,
                (Told::Later, number) => {
                    let moved = watcher.number != number;
                    watcher.number = number;
                    // Its waker says when there is room again.
                    return moved && watcher.sink.is_ready();
                }
                (Told::Never, _) => {
                    self.end_slow(id, revision);
                    return true;
                }
            }
        }
        watcher.number = next;
        if next == self.number {
            self.index.insert(id, &watcher.span);
            self.behind.remove(&id);
            return false;
        }
        true
    }

    /// Ends every watcher: the node serves no more.
    fn end_all(&mut self) {
        let stopped = WatchMessage::Ended(WatchEnd::Stopped).encode();
        self.index = Index::default();
        self.behind.clear();
        for (_, watcher) in self.watchers.drain() {
            watcher.sink.end(stopped.clone());
        }
    }

    fn end_slow(&mut self, id: u64, next_revision: u64) {
        self.end(id, WatchEnd::Slow { next_revision });
    }

    fn end(&mut self, id: u64, end: WatchEnd) {
        if let Some(watcher) = self.watchers.remove(&id) {
            if !self.behind.remove(&id) {
                self.index.remove(id, &watcher.span);
            }
            watcher.sink.end(WatchMessage::Ended(end).encode());
        }
    }

    /// Tells those who ask for it that they have seen everything, if they have.
    fn tell_progress(&mut self) {
        let revision = {
            let state = self.shared.lock();
            if state.history.end() != self.number {
                return;
            }
            state.history.revision()
        };
        let message = WatchMessage::Progress { revision }.encode();
        for (id, watcher) in &mut self.watchers {
            let is_due = watcher.progress && watcher.told < revision && watcher.from_revision <= revision;
            if is_due && !self.behind.contains(id) && watcher.sink.is_ready() && watcher.sink.offer(message.clone()) {
                watcher.told = revision;
            }
        }
    }
}

impl Watcher {
    fn wants(&self, change: &Change) -> bool {
        change.revision >= self.from_revision && self.span.contains(&change.key[1..])
    }

    /// Why it cannot go on: the history has moved past it.
    fn missed(&self, history: &History) -> WatchEnd {
        if history.was_reset_behind(self.number) {
            return WatchEnd::Compacted { first_revision: history.first_revision() };
        }
        WatchEnd::Slow { next_revision: self.from_revision.max(self.told + 1) }
    }

    /// Tells changes of one revision, in as many messages as they need; `Later` with the number of the first that could not
    /// be told.
    fn tell(&mut self, changes: &[(u64, &Change)], same: &mut SameMessage) -> (Told, u64) {
        let mut rest = changes;
        while let Some((number, first)) = rest.first() {
            if first.revision < self.from_revision {
                break;
            }
            if !self.sink.is_ready() {
                return (Told::Later, *number);
            }
            let (message, len) = match changes {
                [_] => (same.0[usize::from(self.prev)].get_or_insert_with(|| self.message(rest).0).clone(), 1),
                _ => self.message(rest),
            };
            if !self.sink.offer(message) {
                return (Told::Never, *number);
            }
            rest = &rest[len..];
        }
        if let Some((_, last)) = changes.last() {
            self.told = last.revision;
        }
        (Told::Yes, 0)
    }

    /// One message of the first changes, and how many they are.
    fn message(&self, changes: &[(u64, &Change)]) -> (Bytes, usize) {
        let revision = changes[0].1.revision;
        let (mut told, mut bytes) = (Vec::new(), 0);
        for (_, change) in changes {
            if bytes >= MESSAGE_BYTES {
                break;
            }
            let change = self.change(change);
            bytes += change.encoded_len();
            told.push(change);
        }
        let len = told.len();
        let more = len < changes.len();
        (WatchMessage::Changes { revision, changes: told, more }.encode(), len)
    }

    fn change(&self, change: &Change) -> KvChange {
        let key = user_key(&change.key);
        let record = |bytes: &Option<Bytes>| {
            bytes.clone().and_then(|bytes| Record::decode(bytes).ok()).map(|record| record.with_key(key.clone()))
        };
        let prev = if self.prev { record(&change.prev) } else { None };
        match record(&change.record) {
            Some(record) => KvChange::Put { record, prev },
            None => KvChange::Delete { key, prev },
        }
    }
}
