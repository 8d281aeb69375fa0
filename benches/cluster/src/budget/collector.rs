//! Keeps what is told under the target `d_engine::budget`, with the time.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use three_nodes::Result;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// One seam that was crossed.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub(super) at: Instant,
    pub(super) stage: String,
    pub(super) node: u64,
    pub(super) peer: u64,
    pub(super) last: u64,
}

/// Hears everything; keeps it while it records.
#[derive(Clone, Default)]
pub(super) struct Collector(Arc<Kept>);

#[derive(Default)]
struct Kept {
    records: AtomicBool,
    told: Mutex<Vec<Told>>,
}

impl Collector {
    /// For the whole process; there is one.
    pub(super) fn install() -> Result<Self> {
        let collector = Self::default();
        tracing::subscriber::set_global_default(collector.clone())?;
        Ok(collector)
    }

    pub(super) fn record(&self, records: bool) {
        self.0.records.store(records, Ordering::Relaxed);
    }

    /// Everything that was told, in the order of time.
    pub(super) fn take(&self) -> Vec<Told> {
        let mut told = std::mem::take(&mut *self.0.told.lock().unwrap_or_else(PoisonError::into_inner));
        told.sort_by_key(|one| one.at);
        told
    }
}

impl Subscriber for Collector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "d_engine::budget"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let at = Instant::now();
        if !self.0.records.load(Ordering::Relaxed) {
            return;
        }
        let mut told = Told { at, stage: String::new(), node: 0, peer: 0, last: 0 };
        event.record(&mut told);
        self.0.told.lock().unwrap_or_else(PoisonError::into_inner).push(told);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

impl Visit for Told {
    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "node" => self.node = value,
            "peer" => self.peer = value,
            "last" => self.last = value,
            _ => {}
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "stage" {
            value.clone_into(&mut self.stage);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}
