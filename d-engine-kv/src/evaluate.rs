//! What a chunk of commands does: from the entries and the records they touch to one batch and one outcome per entry.
//!
//! It reads the store and never writes it: a chunk that cannot be evaluated leaves no trace there. Its results depend on
//! entries and stored state alone.

use bytes::Bytes;
use d_engine_core::command::{EncodedPut, SessionHeader, check_key};
use d_engine_core::{
    Entry, EntryKind, Error, KvCommand, KvOutcome, KvReject, KvRequest, KvStore, LogId, Result, WriteBatch,
};

use crate::layout::{Bookkeeping, result_key};
use crate::overlay::{Change, Overlay};
use crate::run::Run;
use crate::sessions::Admission;
use crate::tables::Tables;

/// A chunk's effects, not yet written.
#[derive(Debug)]
pub(crate) struct Evaluated {
    /// The encoded outcome of each entry, in order; empty for an entry that had been applied before.
    pub(crate) responses: Vec<Bytes>,
    /// What to write, the new bookkeeping included; `None` if every entry had been applied before.
    pub(crate) batch: Option<WriteBatch>,
    /// The bookkeeping after the chunk.
    pub(crate) book: Bookkeeping,
    /// What watchers are told once the batch is written.
    pub(crate) changes: Vec<Change>,
}

/// Evaluates `chunk` on top of the state that `book` and `tables` describe. After an error, and if the batch is not written
/// in the end, the tables are to be loaded anew.
///
/// # Errors
/// `Invalid` for indexes that do not increase and for entries that are no commands; `Unsupported` for a command of a newer
/// version; what the store says.
pub(crate) fn evaluate(
    store: &dyn KvStore,
    book: Bookkeeping,
    tables: &mut Tables,
    chunk: &[Entry],
) -> Result<Evaluated> {
    let mut overlay = Overlay::new(store, book, chunk.len());
    let steps = decode(chunk, book.last_applied, &mut overlay)?;
    let fresh = steps.iter().any(|step| !matches!(step, Step::Skip));
    overlay.load()?;
    let mut responses = Vec::with_capacity(steps.len());
    for (step, entry) in steps.into_iter().zip(chunk) {
        responses.push(match step {
            Step::Skip => Bytes::new(),
            Step::Run { session: None, work } => run(work, entry.index, &mut overlay, tables)?.encode(),
            Step::Run { session: Some(header), work } => {
                run_in_session(header, work, entry.index, &mut overlay, tables, store)?
            }
        });
    }
    let (mut batch, changes, mut book) = overlay.finish();
    let batch = match chunk.last() {
        Some(last) if fresh => {
            book.last_applied = last.id();
            tables.write(&mut batch);
            let (key, value) = book.to_pair();
            batch.put(key, value);
            Some(batch)
        }
        _ => None,
    };
    Ok(Evaluated { responses, batch, book, changes })
}

/// What an entry asks for; or why it is refused, whatever the state.
type Work<'a> = Result<Task<'a>, KvReject>;

enum Task<'a> {
    /// Sets the key at a place.
    Put { value: &'a [u8], place: usize },
    /// A command with the place of its key, where it is about one.
    Other(KvCommand, usize),
}

enum Step<'a> {
    /// Applied before.
    Skip,
    Run {
        session: Option<SessionHeader>,
        work: Work<'a>,
    },
}

fn decode<'a>(chunk: &'a [Entry], last_applied: LogId, overlay: &mut Overlay<'_>) -> Result<Vec<Step<'a>>> {
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
        steps.push(if entry.index <= last_applied.index { Step::Skip } else { decode_command(entry, overlay)? });
    }
    Ok(steps)
}

fn decode_command<'a>(entry: &'a Entry, overlay: &mut Overlay<'_>) -> Result<Step<'a>> {
    if let Some(EncodedPut { session, key, value, .. }) = EncodedPut::of(&entry.data) {
        let work = check_key(key).map(|()| Task::Put { value, place: overlay.reserve(key) });
        return Ok(Step::Run { session, work });
    }
    match KvRequest::decode_bytes(entry.data.clone()) {
        Ok(KvRequest { session, command, .. }) => {
            // Only the limits of every replica: that of values is a server's configuration, on which no result may depend.
            let work = command.check(usize::MAX).map(|()| {
                let place = reserve(&command, overlay);
                Task::Other(command, place)
            });
            Ok(Step::Run { session, work })
        }
        Err(Error::Corrupt { place, .. }) => {
            Ok(Step::Run { session: None, work: Err(KvReject::Malformed { why: place }) })
        }
        Err(Error::Unsupported { what }) => Err(Error::unsupported(format!("entry {}: {what}", entry.id()))),
        Err(other) => Err(other),
    }
}

/// Makes places for the keys that the command names, so that the whole chunk's are read at once.
fn reserve(command: &KvCommand, overlay: &mut Overlay<'_>) -> usize {
    match command {
        KvCommand::Put { key, .. } | KvCommand::Delete { key } | KvCommand::Cas { key, .. } => overlay.reserve(key),
        KvCommand::PutWith(put) => overlay.reserve(&put.key),
        KvCommand::Txn(txn) => {
            for compare in &txn.compares {
                overlay.reserve(&compare.key);
            }
            0
        }
        // Read as they come: rare, or not about keys that can be known in advance.
        _ => 0,
    }
}

fn run(work: Work<'_>, index: u64, overlay: &mut Overlay<'_>, tables: &mut Tables) -> Result<KvOutcome> {
    match work {
        Ok(Task::Put { value, place }) => Ok(Run { index, overlay, tables }.put_value(place, value)),
        // One that is not read in place, as of an older version.
        Ok(Task::Other(KvCommand::Put { value, .. }, place)) => {
            Ok(Run { index, overlay, tables }.put_value(place, &value))
        }
        Ok(Task::Other(command, place)) => Run { index, overlay, tables }.run(command, place),
        Err(reject) => Ok(KvOutcome::Rejected(reject)),
    }
}

fn run_in_session(
    header: SessionHeader,
    work: Work<'_>,
    index: u64,
    overlay: &mut Overlay<'_>,
    tables: &mut Tables,
    store: &dyn KvStore,
) -> Result<Bytes> {
    match tables.sessions.admit(header, index) {
        Err(reject) => Ok(KvOutcome::Rejected(reject).encode()),
        Ok(Admission::Known(response)) => Ok(response),
        Ok(Admission::Stored) => store.get(&result_key(header.session, header.sequence))?.ok_or_else(|| {
            let SessionHeader { session, sequence, .. } = header;
            Error::corrupt(format!("the key-value state: result {sequence} of session {session} is not there"))
        }),
        Ok(Admission::Fresh) => {
            let response = run(work, index, overlay, tables)?.encode();
            tables.sessions.done(header, &response);
            Ok(response)
        }
    }
}
