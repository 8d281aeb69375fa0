//! The laws one by one. Each begins with an empty store.

mod content;
mod crash;
mod model;
mod reopen;

use std::sync::Arc;

use bytes::Bytes;
pub use content::*;
pub use crash::*;
use d_engine_core::{Direction, Error, KeyRange, KvStore, KvView, Result, WriteBatch};
pub use model::*;
pub use reopen::*;

use super::KvStoreBuilder;
use crate::law::{Violation, Why};
use crate::process::open_again;

type Pair = (Bytes, Bytes);

/// An empty store, also where `cleanup` leaves something behind.
async fn fresh<B: KvStoreBuilder>(builder: &B, why: Why) -> Result<Arc<B::Store>, Violation> {
    why.ok("cleanup()", builder.cleanup().await)?;
    let store = why.ok("build()", open_again(|| {}, || builder.build()).await)?;
    if !why.ok("scan()", store.scan(KeyRange::ALL, 1, Direction::Forward))?.is_empty() {
        let emptied = store.replace_all(&mut std::iter::empty());
        why.ok("replace_all() by nothing, of a store that cleanup() did not empty", emptied)?;
    }
    Ok(store)
}

/// The same place again, after the store is gone.
async fn reopen<B: KvStoreBuilder>(builder: &B, why: Why, store: Arc<B::Store>) -> Result<Arc<B::Store>, Violation> {
    let reopened = open_again(|| drop(store), || builder.build()).await;
    why.ok("build() right after the last handle was dropped", reopened)
}

fn puts<'a>(pairs: impl IntoIterator<Item = &'a Pair>) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for (key, value) in pairs {
        batch.put(key.clone(), value.clone());
    }
    batch
}

fn pair(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Pair {
    (key.into(), value.into())
}

/// `n` pairs in key order, with `value` as a part of every value.
fn numbered(n: u64, value: &str) -> Vec<Pair> {
    (0..n).map(|i| pair(crate::entries::key(i), format!("{value} {i}"))).collect()
}

/// Checks the whole content of a store by scans in both directions and by `get`.
fn expect_content<S: KvStore>(store: &S, why: Why, when: &str, expected: &[Pair]) -> Result<(), Violation> {
    let found = why.ok("scan() of everything", store.scan(KeyRange::ALL, usize::MAX, Direction::Forward))?;
    why.equal(&format!("scan() of everything {when}"), &found[..], expected)?;
    let mut found = why.ok("scan() backward", store.scan(KeyRange::ALL, usize::MAX, Direction::Backward))?;
    found.reverse();
    why.equal(&format!("scan() of everything, backward and turned round, {when}"), &found[..], expected)?;
    for (key, value) in expected {
        let found = why.ok("get()", store.get(key))?;
        why.equal(&format!("get({key:?}) {when}"), found.as_ref(), Some(value))?;
    }
    Ok(())
}

/// The content of a view.
fn content(view: &dyn KvView) -> Result<Vec<Pair>, Error> {
    view.scan(KeyRange::ALL, usize::MAX, Direction::Forward)
}
