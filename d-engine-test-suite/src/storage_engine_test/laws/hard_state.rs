//! Laws of term, vote and identity.

use d_engine_core::{HardState, Identity, MetaStore, StorageEngine};

use super::{StorageEngineBuilder, fresh, reopen};
use crate::law::{LawResult, Why, held, not_checked};

fn states() -> [HardState; 5] {
    let identity = Identity::unformed(3, u128::MAX - 5);
    [
        HardState::new(0, None, None),
        HardState::new(1, Some(0), None),
        HardState::new(u64::MAX, Some(u64::MAX), Some(identity)),
        HardState::new(2, None, Some(identity.form(42))),
        HardState::new(3, Some(7), Some(identity.form(u128::MAX))),
    ]
}

/// The state saved last is the one loaded, from every handle.
pub async fn hard_state_comes_back_as_it_was<B: StorageEngineBuilder>(builder: &B) -> LawResult {
    let why = Why("a server that forgets its vote votes twice, and two leaders share a term");
    let engine = fresh(builder, why).await?;
    let meta = engine.meta_store();
    why.ok("load_hard_state() before any was saved", meta.load_hard_state())?;
    for state in states() {
        why.ok(&format!("saving {state:?}"), meta.save_hard_state(&state))?;
        why.equal("the loaded state", why.ok("load_hard_state()", meta.load_hard_state())?, Some(state))?;
        let other = engine.meta_store().load_hard_state();
        why.equal("the state loaded from another handle", why.ok("load_hard_state()", other)?, Some(state))?;
    }
    why.ok("flush() of the hard state", meta.flush())?;
    held()
}

/// A saved state is there after a reopen, without a flush.
pub async fn hard_state_is_durable_on_return<B: StorageEngineBuilder>(builder: &B) -> LawResult {
    let why = Why("the vote is answered as soon as it is saved; after a restart it must still be known");
    let mut engine = fresh(builder, why).await?;
    if engine.is_volatile() {
        return not_checked("the engine is volatile");
    }
    for state in states() {
        why.ok(&format!("saving {state:?}"), engine.meta_store().save_hard_state(&state))?;
        engine = reopen(builder, why, engine).await?;
        let found = why.ok("load_hard_state() after a reopen", engine.meta_store().load_hard_state())?;
        why.equal("the state after a reopen", found, Some(state))?;
    }
    held()
}
