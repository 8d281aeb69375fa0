//! Random commands of every kind against a model, in any chunks, on stores with and without views.

#![allow(clippy::unwrap_used, reason = "a test binary: a failed unwrap is a failed test")]

#[allow(dead_code, reason = "shared with the other test binaries, which use the rest")]
mod support;

use std::fs;

use bytes::Bytes;
use d_engine_core::command::{
    KeySpan, KvCompare, KvDelete, KvOp, KvOpResult, KvPut, KvRange, KvTest, KvTxn, LeaseChoice, LeaseMark, LeaseTime,
    Relation, SessionHeader,
};
use d_engine_core::{
    Entry, EntryKind, KvAnswer, KvCommand, KvOutcome, KvQuery, KvRequest, Membership, SnapshotMetadata, StateMachine,
};
use d_engine_kv::{KvStateMachine, SNAPSHOT_FILE};
use d_engine_mem::MemKvStore;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use support::model::Model;
use support::{NoViews, apply, digest, run};

fn key() -> impl Strategy<Value = Bytes> {
    "[a-d]{1,2}".prop_map(Bytes::from)
}

fn value() -> impl Strategy<Value = Bytes> {
    "[xyz]?".prop_map(Bytes::from)
}

fn span() -> impl Strategy<Value = KeySpan> {
    prop_oneof![
        key().prop_map(KeySpan::key),
        key().prop_map(KeySpan::prefix),
        (key(), key()).prop_map(|(start, end)| KeySpan::new(start, Some(end))),
        Just(KeySpan::ALL),
    ]
}

fn put() -> impl Strategy<Value = KvPut> {
    let lease = prop_oneof![
        3 => Just(LeaseChoice::None),
        1 => Just(LeaseChoice::Keep),
        3 => (1u64..5).prop_map(LeaseChoice::Attach),
        1 => (1u64..9).prop_map(LeaseChoice::Ttl),
    ];
    (key(), option::weighted(0.8, value()), lease, any::<bool>()).prop_map(|(key, value, lease, prev)| {
        let mut put = value.map_or_else(|| KvPut::keep_value(key.clone()), |value| KvPut::new(key.clone(), value));
        (put.lease, put.prev) = (lease, prev);
        put
    })
}

fn range() -> impl Strategy<Value = KvRange> {
    (span(), option::of(key()), 0u32..5, any::<(bool, bool, bool)>()).prop_map(
        |(span, after, limit, (reverse, keys_only, count_only))| {
            let mut range = KvRange::new(span);
            (range.after, range.limit) = (after, limit);
            (range.reverse, range.keys_only, range.count_only) = (reverse, keys_only, count_only);
            range
        },
    )
}

fn txn() -> impl Strategy<Value = KvTxn> {
    let relation =
        || prop::sample::select(vec![Relation::Equal, Relation::NotEqual, Relation::Less, Relation::Greater]);
    let test = prop_oneof![
        (relation(), value()).prop_map(|(relation, value)| KvTest::Value(relation, value)),
        (relation(), 0u64..4).prop_map(|(relation, number)| KvTest::Version(relation, number)),
        (relation(), 0u64..20).prop_map(|(relation, number)| KvTest::CreateRevision(relation, number)),
        (relation(), 0u64..20).prop_map(|(relation, number)| KvTest::ModRevision(relation, number)),
        (relation(), 0u64..4).prop_map(|(relation, number)| KvTest::Lease(relation, number)),
        any::<bool>().prop_map(KvTest::Exists),
    ];
    let compare = (key(), test).prop_map(|(key, test)| KvCompare::new(key, test));
    let operation = prop_oneof![
        3 => put().prop_map(KvOp::Put),
        1 => (span(), any::<bool>()).prop_map(|(span, prev)| KvOp::Delete(KvDelete::new(span, prev))),
        1 => range().prop_map(KvOp::Range),
    ];
    let operations = vec(operation, 0..4).boxed();
    (vec(compare, 0..3), operations.clone(), operations)
        .prop_map(|(compares, then, otherwise)| KvTxn::new(compares, then, otherwise))
}

fn command() -> impl Strategy<Value = KvCommand> {
    // How far it is from the true one, which `requests` puts in.
    let mark = || (1u64..5, 0u64..2).prop_map(|(id, began)| LeaseMark { id, began });
    let time = (mark(), 1u64..9).prop_map(|(mark, remaining_ms)| LeaseTime { mark, remaining_ms });
    let of_tables = prop_oneof![
        4 => (0u64..5, 0u64..9).prop_map(|(id, ttl_ms)| KvCommand::LeaseGrant { id, ttl_ms }),
        2 => (1u64..5).prop_map(|id| KvCommand::LeaseRevoke { id }),
        2 => vec(1u64..6, 0..3).prop_map(|ids| KvCommand::LeaseKeepAlive { ids }),
        2 => vec(mark(), 0..4).prop_map(|leases| KvCommand::LeaseExpire { leases }),
        1 => vec(time, 0..4).prop_map(|leases| KvCommand::LeaseCheckpoint { leases }),
        4 => Just(KvCommand::SessionOpen),
        1 => (1u64..40).prop_map(|session| KvCommand::SessionClose { session }),
        1 => (0u32..4).prop_map(|limit| KvCommand::SessionLimit { limit }),
    ];
    prop_oneof![
        4 => support::command(),
        4 => put().prop_map(KvCommand::PutWith),
        2 => (span(), any::<bool>()).prop_map(|(span, prev)| KvCommand::DeleteRange(KvDelete::new(span, prev))),
        4 => txn().prop_map(KvCommand::Txn),
        8 => of_tables,
    ]
}

/// Where a request stands in a session: which of those opened before it, and its numbers.
type Place = Option<(usize, u64, u64)>;

fn requests() -> impl Strategy<Value = Vec<KvRequest>> {
    let place = option::weighted(0.4, (0usize..4, 1u64..1_030, 1u64..4));
    let few = option::weighted(0.6, (0usize..4, 1u64..6, 1u64..4));
    let place = prop_oneof![1 => place, 9 => few];
    vec((command(), place), 0..60).prop_map(|steps| {
        let (mut opened, mut model) = (Vec::new(), Model::default());
        let request = |(index, (mut command, place))| {
            see(&mut command, &model);
            let request = request(index, command, place, &mut opened);
            model.request(index, &request);
            request
        };
        (1u64..).zip(steps).map(request).collect()
    })
}

/// Marks leases as a leader has seen them, some of them as they were once.
fn see(command: &mut KvCommand, model: &Model) {
    let see = |mark: &mut LeaseMark| mark.began = model.mark(mark.id).began.saturating_sub(mark.began);
    match command {
        KvCommand::LeaseExpire { leases } => leases.iter_mut().for_each(see),
        KvCommand::LeaseCheckpoint { leases } => leases.iter_mut().for_each(|time| see(&mut time.mark)),
        _ => {}
    }
}

fn request(index: u64, command: KvCommand, place: Place, opened: &mut Vec<u64>) -> KvRequest {
    if matches!(command, KvCommand::SessionOpen) {
        opened.push(index);
    }
    let header = place.map(|(which, sequence, lowest)| SessionHeader {
        session: opened.iter().rev().nth(which).copied().unwrap_or(7),
        sequence,
        lowest: lowest.min(sequence),
    });
    KvRequest::new(command, header)
}

fn entries(requests: &[KvRequest]) -> Vec<Entry> {
    (1..).zip(requests).map(|(index, request)| Entry::new(index, 1, EntryKind::Command, request.encode())).collect()
}

fn outcomes(machine: &KvStateMachine, chunk: Vec<Entry>) -> Vec<KvOutcome> {
    let results = apply(machine, chunk).unwrap();
    results.iter().map(|result| KvOutcome::decode(&result.response).unwrap()).collect()
}

fn snapshot(machine: &KvStateMachine, dir: &std::path::Path) -> SnapshotMetadata {
    let last = machine.last_applied();
    let checksum = run(machine.generate_snapshot_data(dir.to_path_buf(), last)).unwrap();
    let size = fs::metadata(dir.join(SNAPSHOT_FILE)).unwrap().len();
    SnapshotMetadata::new(last, Membership::default(), checksum, size)
}

proptest! {
    #[test]
    fn every_chunking_gives_the_model_s_results_and_one_state(
        requests in requests(), ends in vec(1usize..20, 0..20), ranges in vec(range(), 4)
    ) {
        let mut model = Model::default();
        let expected: Vec<_> =
            (1..).zip(&requests).map(|(index, request)| model.request(index, request)).collect();
        let mut digests = Vec::new();
        for views in [true, false] {
            let store = MemKvStore::new();
            let open = || match views {
                true => KvStateMachine::new(store.clone()).unwrap(),
                false => KvStateMachine::new(NoViews(store.clone())).unwrap(),
            };
            let mut machine = open();
            let mut found = Vec::new();
            let mut left = entries(&requests);
            let mut ends = ends.iter().copied();
            while !left.is_empty() {
                // A machine with views gets everything at once; the other one restarts between its chunks.
                let len = if views { left.len() } else { ends.next().unwrap_or(1).min(left.len()) };
                let behind = left.split_off(len);
                found.extend(outcomes(&machine, left));
                left = behind;
                if !views {
                    machine = open();
                }
            }
            prop_assert_eq!(&found, &expected);
            let all = KvAnswer::decode(&machine.read_at(KvQuery::Range(KvRange::new(KeySpan::ALL)).encode()).unwrap().0);
            let records: Vec<_> = model.records.values().cloned().collect();
            prop_assert_eq!(all.unwrap(), KvAnswer::Range { records, more: false, revision: model.revision });
            for range in &ranges {
                let answer = machine.read_at(KvQuery::Range(range.clone()).encode()).unwrap().0;
                let found = match KvAnswer::decode(&answer).unwrap() {
                    KvAnswer::Range { records, more, .. } => KvOpResult::Range { records, more },
                    KvAnswer::Count { count, .. } => KvOpResult::Count { count },
                    other => panic!("{other:?}"),
                };
                prop_assert_eq!(found, model.range(range));
            }
            digests.push(digest(&machine));
        }
        prop_assert_eq!(digests[0], digests[1]);
    }
}

proptest! {
    // Few cases: each syncs files and directories.
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_snapshot_carries_everything_that_later_commands_depend_on(
        requests in requests(), cut in 0usize..60, later in requests()
    ) {
        let mut requests = requests;
        requests.extend(later);
        let all = entries(&requests);
        let (before, after) = all.split_at(cut.min(all.len()));
        let (source, other) =
            (KvStateMachine::new(MemKvStore::new()).unwrap(), KvStateMachine::new(NoViews(MemKvStore::new())).unwrap());
        outcomes(&source, before.to_vec());
        before.iter().for_each(|entry| _ = outcomes(&other, vec![entry.clone()]));
        let dirs = [tempfile::TempDir::new().unwrap(), tempfile::TempDir::new().unwrap()];
        let metadata = [snapshot(&source, dirs[0].path()), snapshot(&other, dirs[1].path())];
        prop_assert_eq!(&metadata[0], &metadata[1], "equal states give equal files");

        let target = KvStateMachine::new(MemKvStore::new()).unwrap();
        outcomes(&target, entries(&[KvCommand::Put { key: "old".into(), value: "x".into() }.into()]));
        run(target.apply_snapshot_from_file(&metadata[0], dirs[0].path().join(SNAPSHOT_FILE))).unwrap();
        prop_assert_eq!(digest(&target), digest(&source));
        prop_assert_eq!(outcomes(&target, after.to_vec()), outcomes(&source, after.to_vec()));
        prop_assert_eq!(digest(&target), digest(&source));
    }
}
