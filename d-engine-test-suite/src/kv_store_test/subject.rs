//! A key-value store, as the crash laws see it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use d_engine_core::{Direction, Error, KeyRange, KvStore, WriteBatch, WriteOp, checksum};

use super::KvStoreBuilder;
use crate::crash::Opens;
use crate::subject::{Style, Subject, Unreadable};

/// The store of a builder.
pub(crate) struct Kv<B>(pub(crate) B);

type Map = BTreeMap<Bytes, Bytes>;

/// A call to a store.
#[derive(Debug, Clone)]
pub(crate) enum KvCall {
    Write(WriteBatch),
    ReplaceAll(Vec<(Bytes, Bytes)>),
    Flush,
}

/// The key whose value counts the writes.
const MARKER: &[u8] = b"marker";

fn key(random: &mut fastrand::Rng) -> Bytes {
    crate::entries::key(random.u64(..60))
}

/// A value that tells the call.
fn value(random: &mut fastrand::Rng, number: u64, len: usize) -> Bytes {
    let mut value = format!("{number}:{}:", random.u32(..)).into_bytes();
    let from = value.len();
    value.resize(from + len, 0);
    random.fill(&mut value[from..]);
    value.into()
}

fn batch(random: &mut fastrand::Rng, number: u64, most: usize, len_max: usize) -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.put(MARKER, value(random, number, 0));
    for _ in 0..random.usize(1..most) {
        if random.u8(..4) == 0 {
            batch.delete(key(random));
        } else {
            let len = random.usize(..len_max);
            batch.put(key(random), value(random, number, len));
        }
    }
    batch
}

impl<B: KvStoreBuilder> Subject for Kv<B> {
    type Store = Arc<B::Store>;
    type Call = KvCall;
    type State = Map;

    const NAME: &'static str = "key-value store";

    fn at(dir: &Path) -> Option<Self> {
        B::at(dir).map(Self)
    }

    async fn open(&self) -> Result<Self::Store, Error> {
        self.0.build().await
    }

    fn is_volatile(&self, store: &Self::Store) -> bool {
        store.is_volatile()
    }

    fn survives_power_loss(&self, _: &Self::Store) -> bool {
        self.0.survives_power_loss()
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

    // The contract asks it of the log alone: from the log a state machine is rebuilt.
    fn refused_after(&self, _: &KvCall, _: &Map, _: &mut fastrand::Rng) -> Vec<KvCall> {
        Vec::new()
    }

    fn empty(&self) -> Map {
        Map::new()
    }

    async fn read(&self, store: &Self::Store) -> Result<Map, Unreadable> {
        let pairs = store.scan(KeyRange::ALL, usize::MAX, Direction::Forward)?;
        let mut backward = store.scan(KeyRange::ALL, usize::MAX, Direction::Backward)?;
        backward.reverse();
        if pairs != backward || !pairs.is_sorted_by(|one, next| one.0 < next.0) {
            return Err(Unreadable::Inconsistent("scans in the two directions give different pairs".into()));
        }
        for (key, value) in &pairs {
            if store.get(key)?.as_ref() != Some(value) {
                return Err(Unreadable::Inconsistent(format!("get({key:?}) and scan() give different values")));
            }
        }
        Ok(pairs.into_iter().collect())
    }

    fn call(&self, _state: &Map, style: Style, random: &mut fastrand::Rng, number: u64) -> KvCall {
        match style {
            Style::Flush => return KvCall::Flush,
            Style::Unflushed => return KvCall::Write(batch(random, number, 5, 40)),
            Style::Growing => {
                let mut batch = WriteBatch::new();
                batch.put(format!("growing {number:08}"), value(random, number, 48 << 10));
                return KvCall::Write(batch);
            }
            Style::Mixed => {}
        }
        match random.u8(..100) {
            0..70 => {
                let len_max = if random.u8(..12) == 0 { 20_000 } else { 100 };
                KvCall::Write(batch(random, number, 12, len_max))
            }
            70..76 => {
                let new: Map = (0..random.usize(..80)).map(|_| (key(random), value(random, number, 30))).collect();
                KvCall::ReplaceAll(new.into_iter().collect())
            }
            _ => KvCall::Flush,
        }
    }

    fn flush(&self) -> KvCall {
        KvCall::Flush
    }

    fn is_durable(&self, call: &KvCall) -> bool {
        matches!(call, KvCall::Flush | KvCall::ReplaceAll(_))
    }

    fn effects(&self, state: &Map, call: &KvCall) -> Vec<Map> {
        let mut state = state.clone();
        match call {
            KvCall::Write(batch) => {
                for op in &batch.ops {
                    match op {
                        WriteOp::Put(key, value) => state.insert(key.clone(), value.clone()),
                        WriteOp::Delete(key) => state.remove(key),
                    };
                }
            }
            KvCall::ReplaceAll(pairs) => state = pairs.iter().cloned().collect(),
            KvCall::Flush => {}
        }
        vec![state]
    }

    async fn run(&self, store: &Self::Store, call: KvCall) -> Result<(), Error> {
        match call {
            KvCall::Write(batch) => store.write(batch),
            KvCall::ReplaceAll(pairs) => store.replace_all(&mut pairs.into_iter().map(Ok)),
            KvCall::Flush => store.flush(),
        }
    }

    fn describe(&self, state: &Map) -> String {
        let all: Vec<u8> =
            state.iter().flat_map(|(key, value)| [&key[..], b"\0", &value[..], b"\0"].concat()).collect();
        let marker = state.get(MARKER).map(|value| String::from_utf8_lossy(value).into_owned());
        let marker = marker.unwrap_or_else(|| "none".into());
        format!("{} keys, marker {marker}, checksum {:08x}", state.len(), checksum(&[&all]))
    }
}
