//! The same commands on every backend: equal results, equal digests, equal snapshots.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use bytes::Bytes;
use d_engine::command::{
    KeySpan, KvCompare, KvDelete, KvOp, KvPut, KvRange, KvRequest, KvTest, KvTxn, LeaseChoice, LeaseMark, Relation,
    SessionHeader,
};
use d_engine::file::FileKvStore;
use d_engine::mem::MemKvStore;
use d_engine::sled::SledKvStore;
use d_engine::{
    Entry, EntryKind, KvAnswer, KvCommand, KvOutcome, KvQuery, KvStateMachine, Membership, SnapshotMetadata,
    StateMachine,
};
use tempfile::TempDir;

/// Numbers that are the same for the same seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn key(&mut self) -> Bytes {
        format!("k{:02}", self.below(40)).into()
    }

    fn value(&mut self) -> Bytes {
        "v".repeat(usize::try_from(self.below(200)).unwrap()).into()
    }

    fn put(&mut self) -> KvPut {
        let lease = match self.below(6) {
            0 | 1 => LeaseChoice::None,
            2 => LeaseChoice::Keep,
            3 => LeaseChoice::Ttl(1 + self.below(9)),
            _ => LeaseChoice::Attach(1 + self.below(6)),
        };
        let (key, value) = (self.key(), self.value());
        let put = if self.below(5) == 0 { KvPut::keep_value(key) } else { KvPut::new(key, value) };
        if self.below(2) == 0 { put.lease(lease).prev() } else { put.lease(lease) }
    }

    fn span(&mut self) -> KeySpan {
        match self.below(3) {
            0 => KeySpan::key(self.key()),
            1 => KeySpan::prefix(self.key().slice(..2)),
            _ => KeySpan::new(self.key(), Some(self.key())),
        }
    }

    fn txn(&mut self) -> KvTxn {
        let compares = (0..self.below(3))
            .map(|_| KvCompare::new(self.key(), KvTest::Version(Relation::Less, self.below(4))))
            .collect();
        let mut operations = || {
            let operation = |numbers: &mut Self| match numbers.below(4) {
                0 => KvOp::Delete(KvDelete::new(numbers.span(), numbers.below(2) == 0)),
                1 => KvOp::Range(KvRange::new(numbers.span())),
                _ => KvOp::Put(numbers.put()),
            };
            (0..self.below(4)).map(|_| operation(self)).collect()
        };
        let (then, otherwise) = (operations(), operations());
        KvTxn::new(compares, then, otherwise)
    }

    fn command(&mut self, index: u64) -> KvCommand {
        match self.below(16) {
            0..=3 => KvCommand::Put { key: self.key(), value: self.value() },
            4 => KvCommand::Delete { key: self.key() },
            5 | 6 => KvCommand::PutWith(self.put()),
            7 => KvCommand::DeleteRange(KvDelete::new(self.span(), true)),
            8..=10 => KvCommand::Txn(self.txn()),
            11 => KvCommand::LeaseGrant { id: self.below(6), ttl_ms: 1 + self.below(100) },
            12 => KvCommand::LeaseRevoke { id: 1 + self.below(6) },
            13 => KvCommand::LeaseExpire {
                leases: (0..12).map(|n| LeaseMark { id: 1 + self.below(6), began: index.saturating_sub(n) }).collect(),
            },
            14 => KvCommand::LeaseKeepAlive { ids: vec![1 + self.below(6)] },
            _ => KvCommand::SessionOpen,
        }
    }

    fn entry(&mut self, index: u64) -> Entry {
        let header = SessionHeader { session: 1 + self.below(index), sequence: 1 + self.below(4), lowest: 1 };
        let session = if self.below(3) == 0 { Some(header) } else { None };
        Entry::new(index, 1, EntryKind::Command, KvRequest::new(self.command(index), session).encode())
    }
}

fn open(kind: &str, dir: &Path) -> KvStateMachine {
    let dir = dir.join(kind);
    match kind {
        "mem" => KvStateMachine::new(MemKvStore::new()),
        "file" => KvStateMachine::new(FileKvStore::open(dir).unwrap()),
        _ => KvStateMachine::new(SledKvStore::open(dir).unwrap()),
    }
    .unwrap()
}

fn digest(machine: &KvStateMachine) -> [u8; 32] {
    match KvAnswer::decode(&machine.read_at(KvQuery::Digest.encode()).unwrap().0).unwrap() {
        KvAnswer::Digest { digest, .. } => digest,
        other => panic!("{other:?}"),
    }
}

async fn snapshot(machine: &KvStateMachine, dir: &Path) -> SnapshotMetadata {
    std::fs::create_dir_all(dir).unwrap();
    let checksum = machine.generate_snapshot_data(dir.to_path_buf(), machine.last_applied()).await.unwrap();
    let size = std::fs::metadata(dir.join("snapshot.bin")).unwrap().len();
    SnapshotMetadata::new(machine.last_applied(), Membership::default(), checksum, size)
}

const KINDS: [&str; 3] = ["mem", "file", "sled"];

async fn agree(seed: u64) {
    let dir = TempDir::new().unwrap();
    let mut numbers = Numbers(seed);
    let machines = KINDS.map(|kind| open(kind, dir.path()));
    let mut index = 0;
    for _ in 0..12 {
        let chunk: Vec<_> = (0..1 + numbers.below(40))
            .map(|_| {
                index += 1;
                numbers.entry(index)
            })
            .collect();
        let mut results = Vec::new();
        for machine in &machines {
            let found = machine.apply(chunk.clone()).await.unwrap();
            results.push(found.iter().map(|one| KvOutcome::decode(&one.response).unwrap()).collect::<Vec<_>>());
        }
        for (kind, found) in KINDS.iter().zip(&results) {
            assert_eq!(found, &results[0], "{kind}, up to entry {index}, seed {seed}");
        }
        for (kind, machine) in KINDS.iter().zip(&machines) {
            assert_eq!(digest(machine), digest(&machines[0]), "{kind}, after entry {index}, seed {seed}");
        }
    }
    let mut made = Vec::new();
    for (kind, machine) in KINDS.iter().zip(&machines) {
        made.push(snapshot(machine, &dir.path().join(format!("snapshot of {kind}"))).await);
    }
    assert!(made.iter().all(|metadata| *metadata == made[0]), "seed {seed}: {made:?}");
    let others = TempDir::new().unwrap();
    for (from, to) in [("mem", "file"), ("file", "sled"), ("sled", "mem")] {
        let machine = open(to, others.path());
        let file = dir.path().join(format!("snapshot of {from}")).join("snapshot.bin");
        machine.apply_snapshot_from_file(&made[0], file).await.unwrap();
        assert_eq!(digest(&machine), digest(&machines[0]), "from {from} to {to}, seed {seed}");
    }
}

#[tokio::test]
async fn backends_give_equal_results_states_and_snapshots() {
    for seed in 1..=8 {
        agree(seed).await;
    }
}
