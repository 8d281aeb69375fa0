//! Which data directory speaks for each peer at the moment, so that two nodes with one id are noticed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use super::Refused;
use crate::Hello;
use crate::peer::{Shared, lock};

/// The connections that are listened to.
#[derive(Default)]
pub(crate) struct Claims {
    of_node: Mutex<HashMap<u64, (u128, Arc<Superseded>)>>,
}

/// Whether another connection has taken a claim over.
#[derive(Default)]
struct Superseded {
    is: AtomicBool,
    told: Notify,
}

/// Held by a connection; the next one of the same data directory takes it over.
pub(super) struct Claim {
    node: u64,
    superseded: Arc<Superseded>,
    shared: Arc<Shared>,
}

impl Claims {
    pub(super) fn claim(shared: &Arc<Shared>, hello: &Hello) -> Result<Claim, Refused> {
        let superseded = Arc::new(Superseded::default());
        let entry = (hello.incarnation, Arc::clone(&superseded));
        match lock(&shared.claims.of_node).entry(hello.node) {
            Entry::Occupied(mut held) if held.get().0 == hello.incarnation => {
                let (_, older) = held.insert(entry);
                older.is.store(true, Ordering::Release);
                older.told.notify_one();
            }
            Entry::Occupied(held) => {
                let (node, there, here) = (hello.node, held.get().0, hello.incarnation);
                return Err(Refused::because(format!(
                    "two nodes claim the id {node}: data directories {there:032x} and {here:032x}; give each node its own id"
                )));
            }
            Entry::Vacant(free) => {
                free.insert(entry);
            }
        }
        Ok(Claim { node: hello.node, superseded, shared: Arc::clone(shared) })
    }
}

impl Claim {
    /// Completes when another connection has taken it over.
    pub(super) async fn superseded(&self) {
        self.superseded.told.notified().await;
    }

    pub(super) fn holds(&self) -> bool {
        !self.superseded.is.load(Ordering::Acquire)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut of_node = lock(&self.shared.claims.of_node);
        if of_node.get(&self.node).is_some_and(|(_, current)| Arc::ptr_eq(current, &self.superseded)) {
            of_node.remove(&self.node);
            drop(of_node);
            self.shared.left_by(self.node);
        }
    }
}
