//! Random histories against a model of the log that is a vector.

use std::sync::Arc;

use d_engine_core::{Entry, LogId, LogStore, StorageEngine};

use super::{StorageEngineBuilder, expect_log, fresh, reopen};
use crate::entries::entries;
use crate::law::{LawResult, Violation, Why, held};

const HISTORIES: u64 = 12;
const STEPS: usize = 60;

/// The log as a vector behind a boundary.
#[derive(Default)]
struct Model {
    purged: LogId,
    entries: Vec<Entry>,
}

impl Model {
    fn last(&self) -> LogId {
        self.entries.last().map_or(self.purged, Entry::id)
    }

    fn truncate(&mut self, from: u64) {
        self.entries.retain(|entry| entry.index < from);
    }

    fn purge(&mut self, up_to: LogId) {
        if up_to.index <= self.purged.index {
            return;
        }
        if self.entries.iter().any(|entry| entry.id() == up_to) {
            self.entries.retain(|entry| entry.index > up_to.index);
        } else {
            self.entries.clear();
        }
        self.purged = up_to;
    }
}

/// Any order of calls, with reopens in between where the engine is not volatile, leaves what the model says.
pub async fn random_histories_match_the_model<B: StorageEngineBuilder>(builder: &B) -> LawResult {
    let why = Why("the other laws check calls one by one; a cluster makes them in every order");
    for seed in 0..HISTORIES {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut engine = fresh(builder, why).await?;
        let mut model = Model::default();
        for step in 0..STEPS {
            let what;
            (engine, what) = one_step(builder, why, engine, &mut model, &mut random).await?;
            let when = format!("after step {step}, {what}, of the history with seed {seed}");
            expect_log(&*engine.log_store(), why, &when, model.purged, &model.entries).await?;
        }
    }
    held()
}

/// Makes a random call on both and says which.
async fn one_step<B: StorageEngineBuilder>(
    builder: &B,
    why: Why,
    engine: Arc<B::Engine>,
    model: &mut Model,
    random: &mut fastrand::Rng,
) -> Result<(Arc<B::Engine>, String), Violation> {
    let log = engine.log_store();
    let (first, last) = (model.purged.index + 1, model.last());
    let what = match random.u8(..100) {
        0..45 => {
            let term = (last.term + u64::from(random.u8(..4) == 0)).max(1);
            let batch = entries(last.index + 1, last.index + random.u64(1..=12), term);
            let what = format!("persist of {} entries", batch.len());
            why.ok(&what, log.persist_entries(batch.clone()).await)?;
            model.entries.extend(batch);
            what
        }
        45..57 => {
            let from = random.u64(first..=last.index + 2);
            let what = format!("truncate({from})");
            why.ok(&what, log.truncate(from).await)?;
            model.truncate(from);
            what
        }
        57..70 => {
            let from = random.u64(first..=last.index + 1);
            let batch = entries(from, from + random.u64(0..8), last.term + 1);
            let what = format!("replace_from({from}) by {} entries", batch.len());
            why.ok(&what, log.replace_from(from, batch.clone()).await)?;
            model.truncate(from);
            model.entries.extend(batch);
            what
        }
        70..82 => {
            let present = random.choice(&model.entries).map_or(model.purged, Entry::id);
            purge(why, &*log, model, present).await?
        }
        82..85 => {
            let installed = LogId::new(last.term + 1, random.u64(1..=last.index + 20));
            purge(why, &*log, model, installed).await?
        }
        85 => {
            why.ok("reset()", log.reset().await)?;
            *model = Model::default();
            "reset()".to_owned()
        }
        86..96 => {
            why.ok("flush()", log.flush().await)?;
            "flush()".to_owned()
        }
        _ if engine.is_volatile() => "nothing".to_owned(),
        _ => {
            if random.bool() {
                why.ok("flush()", log.flush().await)?;
            }
            drop(log);
            return Ok((reopen(builder, why, engine).await?, "reopen".to_owned()));
        }
    };
    Ok((engine, what))
}

async fn purge<L: LogStore>(why: Why, log: &L, model: &mut Model, up_to: LogId) -> Result<String, Violation> {
    let what = format!("purge({up_to})");
    why.ok(&what, log.purge(up_to).await)?;
    model.purge(up_to);
    Ok(what)
}
