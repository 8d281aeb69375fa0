//! Random histories against the standard library's ordered map.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use d_engine_core::{Direction, KeyRange, KvStore, WriteBatch, WriteOp};

use super::{KvStoreBuilder, Pair, expect_content, fresh, reopen};
use crate::law::{LawResult, Violation, Why, held};

const HISTORIES: u64 = 8;
const STEPS: usize = 80;

type Model = BTreeMap<Bytes, Bytes>;

/// Any order of calls, with flushes and reopens in between where the store is not volatile, leaves what the model says.
pub async fn random_histories_match_the_model<B: KvStoreBuilder>(builder: &B) -> LawResult {
    let why = Why("the other laws check calls one by one; a state machine makes them in every order");
    for seed in 0..HISTORIES {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut store = fresh(builder, why).await?;
        let mut model = Model::new();
        for step in 0..STEPS {
            match random.u8(..20) {
                0 => {
                    let new: Model = (0..random.usize(..400)).map(|_| (key(&mut random), value(&mut random))).collect();
                    let mut pairs = new.iter().map(|(key, value)| Ok((key.clone(), value.clone())));
                    why.ok("replace_all()", store.replace_all(&mut pairs))?;
                    model = new;
                }
                1 if !store.is_volatile() => {
                    why.ok("flush()", store.flush())?;
                    store = reopen(builder, why, store).await?;
                }
                2 => why.ok("flush()", store.flush())?,
                _ => {
                    let batch = batch(&mut random);
                    apply(&mut model, &batch);
                    why.ok("write()", store.write(batch))?;
                }
            }
            let when = format!("after step {step} of the history with seed {seed}");
            expect_scans(&*store, why, &when, &model, &mut random)?;
        }
        let all: Vec<Pair> = model.into_iter().collect();
        expect_content(&*store, why, &format!("at the end of the history with seed {seed}"), &all)?;
    }
    held()
}

fn key(random: &mut fastrand::Rng) -> Bytes {
    let len = random.usize(1..4);
    (0..len).map(|_| random.u8(b'a'..=b'h')).collect::<Vec<_>>().into()
}

fn value(random: &mut fastrand::Rng) -> Bytes {
    vec![random.u8(..); random.usize(..20)].into()
}

fn batch(random: &mut fastrand::Rng) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for _ in 0..random.usize(..40) {
        if random.u8(..3) == 0 {
            batch.delete(key(random));
        } else {
            batch.put(key(random), value(random));
        }
    }
    batch
}

fn apply(model: &mut Model, batch: &WriteBatch) {
    for op in &batch.ops {
        match op {
            WriteOp::Put(key, value) => model.insert(key.clone(), value.clone()),
            WriteOp::Delete(key) => model.remove(key),
        };
    }
}

fn expect_scans<S: KvStore>(
    store: &S,
    why: Why,
    when: &str,
    model: &Model,
    random: &mut fastrand::Rng,
) -> Result<(), Violation> {
    for _ in 0..4 {
        let (start, end) = (key(random), key(random));
        let range = KeyRange { start: bound(&start, random), end: bound(&end, random) };
        let limit = random.usize(..60);
        let within: Vec<Pair> = model
            .iter()
            .filter(|(key, _)| range.contains(key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        let (direction, expected): (_, Vec<Pair>) = if random.bool() {
            (Direction::Forward, within.into_iter().take(limit).collect())
        } else {
            (Direction::Backward, within.into_iter().rev().take(limit).collect())
        };
        let doing = format!("scan({range:?}, {limit}, {direction:?}) {when}");
        why.equal(&doing, why.ok(&doing, store.scan(range, limit, direction))?, expected)?;
        why.equal(&format!("get({start:?}) {when}"), why.ok("get()", store.get(&start))?, model.get(&start).cloned())?;
    }
    Ok(())
}

fn bound<'a>(key: &'a Bytes, random: &mut fastrand::Rng) -> Bound<&'a [u8]> {
    match random.u8(..3) {
        0 => Bound::Included(key),
        1 => Bound::Excluded(key),
        _ => Bound::Unbounded,
    }
}
