//! A simulated disk for the toy log: its power goes at a chosen operation, and what was not synced may be cut anywhere.

use std::io::{Error, Result};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use d_engine_test_suite::SimulatedDisk;
use tempfile::TempDir;

use crate::toy_log::ToyEngine;

/// What a toy file asks before each operation.
#[derive(Debug)]
pub(crate) struct Power {
    left: AtomicU64,
    /// Bytes of the records that no loss of power takes away.
    synced: Mutex<u64>,
}

impl Power {
    pub(crate) fn spend(&self) -> Result<()> {
        let spent = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        spent.map(drop).map_err(|_| Error::other("the power is gone"))
    }

    pub(crate) fn synced(&self, bytes: u64) {
        *self.synced.lock().unwrap() = bytes;
    }
}

pub(crate) struct ToyDisk {
    dir: TempDir,
    power: Arc<Power>,
}

impl ToyDisk {
    pub(crate) fn new(synced: u64) -> Self {
        let power = Arc::new(Power { left: AtomicU64::new(u64::MAX), synced: Mutex::new(synced) });
        Self { dir: TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap(), power }
    }

    fn records(&self) -> PathBuf {
        self.dir.path().join("records")
    }
}

impl SimulatedDisk<ToyEngine> for ToyDisk {
    fn open(&self) -> d_engine_core::Result<Arc<ToyEngine>> {
        Ok(Arc::new(ToyEngine::open(self.dir.path(), Some(self.power.clone()))?))
    }

    fn burn_after(&self, operations: u64) {
        self.power.left.store(operations, Ordering::Relaxed);
    }

    fn is_dead(&self) -> bool {
        self.power.left.load(Ordering::Relaxed) == 0
    }

    fn after_power_cut(&self, seed: u64) -> Box<dyn SimulatedDisk<ToyEngine>> {
        let synced = *self.power.synced.lock().unwrap();
        let after = Self::new(0);
        if let Ok(mut bytes) = std::fs::read(self.records()) {
            let kept = fastrand::Rng::with_seed(seed).u64(synced.min(bytes.len() as u64)..=bytes.len() as u64);
            bytes.truncate(kept as usize);
            std::fs::write(after.records(), bytes).unwrap();
            after.power.synced(kept);
        }
        Box::new(after)
    }
}
