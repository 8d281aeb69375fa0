//! What a chunk of commands does: from the entries and the records they touch to one batch and one outcome per entry.
//!
//! It reads the store once per chunk and never writes: a chunk that cannot be evaluated leaves no trace. Its results
//! depend on entries and records alone. The hash map only finds a key's slot; its order is never looked at.

use std::collections::HashMap;

use bytes::Bytes;
use d_engine_core::{Entry, EntryKind, Error, KvCommand, KvOutcome, KvReject, KvStore, LogId, Result, WriteBatch};

use crate::layout::{Bookkeeping, store_key};
use crate::record::Record;

/// A chunk's effects, not yet written.
#[derive(Debug)]
pub(crate) struct Evaluated {
    /// One for each entry, in order; `None` for an entry that had been applied before.
    pub(crate) outcomes: Vec<Option<KvOutcome>>,
    /// What to write, the new bookkeeping included; `None` if every entry had been applied before.
    pub(crate) batch: Option<WriteBatch>,
    /// The bookkeeping after the chunk.
    pub(crate) book: Bookkeeping,
}

/// Evaluates `chunk` on top of the state that `book` describes.
///
/// # Errors
/// `Invalid` for indexes that do not increase and for entries that are no commands; `Unsupported` for a command of a newer
/// version; what the store says. The state is untouched.
pub(crate) fn evaluate(store: &dyn KvStore, mut book: Bookkeeping, chunk: &[Entry]) -> Result<Evaluated> {
    let steps = decode(chunk, book.last_applied)?;
    let (keys, slot_of_step) = collect_keys(&steps);
    let mut slots = load(store, &keys)?;
    let mut fresh = false;
    let mut outcomes = Vec::with_capacity(steps.len());
    for (step, slot) in steps.into_iter().zip(slot_of_step) {
        fresh |= !matches!(step, Step::Skip);
        outcomes.push(match step {
            Step::Skip => None,
            Step::Reject(reject) => Some(KvOutcome::Rejected(reject)),
            Step::Run(command) => Some(run(command, &mut slots[slot], &mut book)?),
        });
    }
    let batch = match chunk.last() {
        Some(last) if fresh => {
            book.last_applied = last.id();
            Some(into_batch(keys, slots, book))
        }
        _ => None,
    };
    Ok(Evaluated { outcomes, batch, book })
}

enum Step {
    /// Applied before.
    Skip,
    Reject(KvReject),
    Run(KvCommand),
}

fn decode(chunk: &[Entry], last_applied: LogId) -> Result<Vec<Step>> {
    let mut before = 0;
    let mut steps = Vec::with_capacity(chunk.len());
    for entry in chunk {
        if entry.index <= before {
            return Err(Error::invalid(format!("entry {} stands behind index {before} in a chunk", entry.id())));
        }
        before = entry.index;
        if entry.kind != EntryKind::Command {
            return Err(Error::invalid(format!("entry {} is a {:?}, not a command", entry.id(), entry.kind)));
        }
        steps.push(if entry.index <= last_applied.index { Step::Skip } else { decode_command(entry)? });
    }
    Ok(steps)
}

fn decode_command(entry: &Entry) -> Result<Step> {
    match KvCommand::decode_bytes(entry.data.clone()) {
        // Only the keys' limits: the limit of values is a server's configuration, on which no result may depend.
        Ok(command @ (KvCommand::Put { .. } | KvCommand::Delete { .. } | KvCommand::Cas { .. })) => {
            Ok(command.check(usize::MAX).map_or_else(Step::Reject, |()| Step::Run(command)))
        }
        Ok(other) => Err(unknown(&other)),
        Err(Error::Corrupt { place, .. }) => Ok(Step::Reject(KvReject::Malformed { why: place })),
        Err(Error::Unsupported { what }) => Err(Error::unsupported(format!("entry {}: {what}", entry.id()))),
        Err(other) => Err(other),
    }
}

/// The distinct keys of the store that the steps touch, in order of first use, and for each step the place of its key
/// (0 for a step without one).
fn collect_keys(steps: &[Step]) -> (Vec<Bytes>, Vec<usize>) {
    let mut places: HashMap<&[u8], usize> = HashMap::with_capacity(steps.len());
    let mut keys = Vec::with_capacity(steps.len());
    let mut slot_of_step = Vec::with_capacity(steps.len());
    for step in steps {
        let Step::Run(KvCommand::Put { key, .. } | KvCommand::Delete { key } | KvCommand::Cas { key, .. }) = step
        else {
            slot_of_step.push(0);
            continue;
        };
        slot_of_step.push(*places.entry(key).or_insert_with_key(|key| {
            keys.push(store_key(key));
            keys.len() - 1
        }));
    }
    (keys, slot_of_step)
}

/// A key's record as the chunk's commands see it.
struct Slot {
    record: Option<Record>,
    stored: bool,
    changed: bool,
}

fn load(store: &dyn KvStore, keys: &[Bytes]) -> Result<Vec<Slot>> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let values = store.get_many(keys)?;
    if values.len() != keys.len() {
        return Err(Error::backend(format!("KvStore::get_many gave {} values for {} keys", values.len(), keys.len())));
    }
    let slot = |value: Option<Bytes>| {
        let stored = value.is_some();
        Ok(Slot { record: value.map(Record::decode).transpose()?, stored, changed: false })
    };
    values.into_iter().map(slot).collect()
}

fn run(command: KvCommand, slot: &mut Slot, book: &mut Bookkeeping) -> Result<KvOutcome> {
    match command {
        KvCommand::Put { value, .. } => {
            slot.put(value, book);
            Ok(KvOutcome::Put { revision: book.revision })
        }
        KvCommand::Delete { .. } => {
            let existed = slot.delete(book);
            Ok(KvOutcome::Deleted { revision: book.revision, existed })
        }
        KvCommand::Cas { expected, value, .. } => {
            let current = slot.record.as_ref().map(|record| &record.value);
            if current != expected.as_ref() {
                return Ok(KvOutcome::Cas { revision: book.revision, succeeded: false, current: current.cloned() });
            }
            match value {
                Some(value) => slot.put(value, book),
                None => _ = slot.delete(book),
            }
            Ok(KvOutcome::Cas { revision: book.revision, succeeded: true, current: None })
        }
        other => Err(unknown(&other)),
    }
}

/// The error for a command that only a newer machine can carry out.
pub(crate) fn unknown(command: &KvCommand) -> Error {
    Error::unsupported(format!("a command that this state machine does not know: {command:?}"))
}

impl Slot {
    fn put(&mut self, value: Bytes, book: &mut Bookkeeping) {
        book.revision += 1;
        self.changed = true;
        self.record = Some(match &self.record {
            Some(record) => record.set(book.revision, value),
            None => {
                book.keys += 1;
                Record::created(book.revision, value)
            }
        });
    }

    fn delete(&mut self, book: &mut Bookkeeping) -> bool {
        if self.record.take().is_none() {
            return false;
        }
        book.revision += 1;
        book.keys -= 1;
        self.changed = true;
        true
    }
}

fn into_batch(keys: Vec<Bytes>, slots: Vec<Slot>, book: Bookkeeping) -> WriteBatch {
    let mut batch = WriteBatch { ops: Vec::with_capacity(keys.len() + 1) };
    for (key, slot) in keys.into_iter().zip(slots) {
        match slot.record {
            Some(record) if slot.changed => batch.put(key, record.encode()),
            None if slot.stored => batch.delete(key),
            _ => {}
        }
    }
    let (key, value) = book.to_pair();
    batch.put(key, value);
    batch
}
