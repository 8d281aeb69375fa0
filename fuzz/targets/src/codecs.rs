//! Decoders: whatever the bytes, an answer or an error; and what was decoded means the same after another round.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use d_engine::NodeConfig;
use d_engine_core::snapshot::{SnapshotFooter, SnapshotReader, SnapshotWriter};
use d_engine_core::{
    Direction, Entry, EntryKind, Error, HardState, KeyRange, KvAnswer, KvCommand, KvOutcome, KvQuery, KvStore,
    Membership, StateMachine, checksum, slot as slots,
};
use d_engine_kv::KvStateMachine;
use d_engine_mem::MemKvStore;
use d_engine_net::fuzzing;

use crate::source::Source;

/// The bytes with the checksum at their front mended: all formats of core begin with one of everything behind it.
fn mended(bytes: &[u8]) -> Vec<u8> {
    let mut mended = bytes.to_vec();
    if mended.len() >= 4 {
        let sum = checksum(&[&mended[4..]]);
        mended[..4].copy_from_slice(&sum.to_le_bytes());
    }
    mended
}

/// Entries, hard states and memberships as they are stored.
pub fn entry(data: &[u8]) {
    for bytes in [data.to_vec(), mended(data)] {
        if let Ok(entry) = Entry::decode(Bytes::from(bytes.clone())) {
            assert_eq!(entry.encode(), bytes, "an entry keeps its bytes");
            let made = Entry::new(entry.index, entry.term, entry.kind, &entry.data);
            assert_eq!(
                (made.encode(), made.id()),
                (entry.encode(), entry.id()),
                "an entry made anew has the same bytes"
            );
        }
        if let Ok(state) = HardState::decode(&bytes) {
            assert_eq!(HardState::decode(&state.encode()).ok(), Some(state), "a hard state survives its encoding");
        }
        if let Ok(membership) = Membership::decode(&bytes) {
            let again = Membership::decode(&membership.encode()).ok();
            assert_eq!(again.as_ref(), Some(&membership), "a membership survives its encoding");
        }
    }
}

/// A slot file: any file, and one whose slots have mended checksums.
pub fn slot(data: &[u8]) {
    const TAG: [u8; 4] = *b"fuzz";
    let _ = slots::load(TAG, data);
    let mut source = Source(data);
    let mut file = slots::new_file(TAG, source.bytes(40)).expect("the payload is short");
    while !source.is_empty() {
        // Its header, or its payload behind it.
        let (place, value) = (source.byte(), source.byte());
        let slot = usize::from(place >> 6) * slots::SLOT_LEN;
        file[slot + usize::from(place & 63)] = value;
    }
    for slot in file.chunks_exact_mut(slots::SLOT_LEN) {
        let sum = checksum(&[&slot[12..]]);
        slot[8..12].copy_from_slice(&sum.to_le_bytes());
    }
    if let Ok(newest) = slots::load(TAG, &file) {
        let encoded = slots::encode(TAG, newest.generation, &newest.payload).expect("a payload that was there fits");
        let again = slots::load(TAG, &[encoded, vec![0; slots::SLOT_LEN * 3]].concat()).expect("a slot loads");
        assert_eq!(again, newest, "a slot survives its encoding");
    }
}

/// A snapshot: any bytes, and bytes of which every section has a mended checksum.
pub fn snapshot(data: &[u8]) {
    read_snapshot(data);
    read_snapshot(&mended_snapshot(data));
}

fn read_snapshot(bytes: &[u8]) {
    let _ = SnapshotFooter::read(&mut std::io::Cursor::new(bytes));
    let Ok(mut reader) = SnapshotReader::new(bytes) else { return };
    let header = reader.header();
    let mut records = Vec::new();
    loop {
        match reader.next_record() {
            Ok(Some(record)) => records.push(record),
            Ok(None) => break,
            Err(_) => return assert!(reader.footer().is_none(), "after an error there is no footer"),
        }
    }
    let footer = reader.footer().cloned().expect("a snapshot that was read whole has a footer");
    assert_eq!(SnapshotFooter::read(&mut std::io::Cursor::new(bytes)).ok().as_ref(), Some(&footer));
    let mut writer = SnapshotWriter::new(Vec::new(), header).expect("memory takes it");
    for (key, value) in &records {
        writer.push(key, value).expect("records of a snapshot are in order");
    }
    let (_, written) = writer.finish().expect("memory takes it");
    assert_eq!((written.records, written.digest), (footer.records, footer.digest), "equal records, equal digests");
}

/// Mends the checksum of the header, of each section behind it as far as lengths lead, and of the trailer.
fn mended_snapshot(data: &[u8]) -> Vec<u8> {
    const HEADER: usize = 40;
    const SECTION: usize = 20;
    let mut bytes = data.to_vec();
    if bytes.len() < HEADER {
        return bytes;
    }
    let sum = checksum(&[&bytes[..HEADER - 4]]);
    bytes[HEADER - 4..HEADER].copy_from_slice(&sum.to_le_bytes());
    let mut at = HEADER;
    while at + SECTION <= bytes.len() {
        let len = u32::from_le_bytes([bytes[at + 8], bytes[at + 9], bytes[at + 10], bytes[at + 11]]) as usize;
        let Some(end) = (at + SECTION).checked_add(len).filter(|end| *end <= bytes.len()) else { break };
        let sum = checksum(&[&bytes[at + 4..end]]);
        bytes[at..at + 4].copy_from_slice(&sum.to_le_bytes());
        at = end;
    }
    bytes
}

/// Commands, outcomes, queries and answers of the key-value machine.
pub fn command(data: &[u8]) {
    if let Ok(command) = KvCommand::decode(data) {
        assert_eq!(KvCommand::decode(&command.encode()).ok().as_ref(), Some(&command));
        assert_eq!(KvCommand::decode_bytes(Bytes::copy_from_slice(data)).ok(), Some(command));
    }
    if let Ok(outcome) = KvOutcome::decode(data) {
        assert_eq!(KvOutcome::decode(&outcome.encode()).ok(), Some(outcome));
    }
    if let Ok(query) = KvQuery::decode(data) {
        assert_eq!(KvQuery::decode(&query.encode()).ok(), Some(query));
    }
    if let Ok(answer) = KvAnswer::decode(data) {
        assert_eq!(KvAnswer::decode(&answer.encode()).ok(), Some(answer));
    }
}

/// The key-value machine applies any commands, in whatever chunks, to the same state with the same answers.
pub fn machine(data: &[u8]) {
    let mut source = Source(data);
    let mut entries = Vec::new();
    let mut cuts = Vec::new();
    while !source.is_empty() && entries.len() < 64 {
        let control = source.byte();
        let len = usize::from(control & 0x3f);
        entries.push(Entry::new(entries.len() as u64 + 1, 1, EntryKind::Command, source.bytes(len)));
        cuts.push(control & 0x40 != 0);
    }
    let (one, other) = (Replica::new(), Replica::new());
    let mut at_once = Vec::new();
    for entry in &entries {
        match one.apply(vec![entry.clone()]) {
            Some(answers) => at_once.extend(answers),
            // It stops there, and so must the other one, wherever its chunks end.
            None => break,
        }
    }
    let (mut chunked, mut chunk) = (Vec::new(), Vec::new());
    for (entry, cut) in entries.iter().take(at_once.len()).zip(cuts) {
        chunk.push(entry.clone());
        if cut {
            chunked.extend(other.apply(std::mem::take(&mut chunk)).expect("each of them applies by itself"));
        }
    }
    chunked.extend(other.apply(chunk).expect("each of them applies by itself"));
    assert_eq!(at_once, chunked, "the same answers");
    assert_eq!(one.content(), other.content(), "the same state");
    // Any question is answered or refused.
    let _ = one.machine.read_at(Bytes::copy_from_slice(data));
}

struct Replica {
    store: std::sync::Arc<MemKvStore>,
    machine: KvStateMachine,
}

impl Replica {
    fn new() -> Self {
        let store = std::sync::Arc::new(MemKvStore::new());
        let machine = KvStateMachine::from_arc(store.clone()).expect("memory opens");
        machine.start().expect("memory starts");
        Self { store, machine }
    }

    /// The answers; `None` if the machine stops for a command of a newer version.
    fn apply(&self, entries: Vec<Entry>) -> Option<Vec<Bytes>> {
        match now(self.machine.apply(entries)) {
            Ok(results) => Some(results.into_iter().map(|result| result.response).collect()),
            Err(Error::Unsupported { .. }) => None,
            Err(other) => panic!("a command is no reason to fail: {other}"),
        }
    }

    fn content(&self) -> Vec<(Bytes, Bytes)> {
        self.store.scan(KeyRange::ALL, usize::MAX, Direction::Forward).expect("memory reads")
    }
}

/// Runs a future that never waits.
pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a call that never waits waited"),
    }
}

/// What peers and servers say on the wire.
pub fn wire(data: &[u8]) {
    if let Ok(Some(message)) = fuzzing::message(data) {
        let bytes = fuzzing::message_bytes(message.clone());
        assert_eq!(fuzzing::message(&bytes), Ok(Some(message)), "a message survives the wire");
    }
    let _ = fuzzing::hello(data);
    let _ = fuzzing::status(data);
    let _ = fuzzing::error(data);
}

/// A configuration: a file, and variables of the environment.
pub fn config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let parsed = NodeConfig::from_toml("node.toml", &text);
    if let Err(errors) = &parsed {
        assert!(!errors.problems().is_empty(), "what is refused has a reason");
        let _ = errors.to_string();
    }
    if let Ok(config) = parsed {
        assert!(config.check().is_ok(), "what is accepted does not contradict itself");
    }
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    let pairs = pairs.map(|(name, value)| (format!("D_ENGINE__{name}"), value.to_owned()));
    let _ = NodeConfig::load(None, pairs, []);
}
