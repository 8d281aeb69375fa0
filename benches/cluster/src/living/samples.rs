//! Memory and processor time of processes while something goes on.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use d_engine_processes::Usage;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::mib;

const INTERVAL: Duration = Duration::from_millis(20);

/// What one process used meanwhile.
#[derive(Debug, Clone, Copy)]
pub(super) struct Used {
    first: Usage,
    last: Usage,
    /// Highest resident memory that was seen.
    pub(super) peak_bytes: u64,
    /// Share of one processor.
    pub(super) cpu: f64,
}

impl Used {
    pub(super) fn json(&self) -> Value {
        json!({
            "mib_before": mib(self.first.resident_bytes), "mib_peak": mib(self.peak_bytes),
            "mib_after": mib(self.last.resident_bytes), "processors": self.cpu,
        })
    }
}

/// Looks at processes until it is told to stop.
pub(super) struct Samples {
    looking: JoinHandle<()>,
    seen: std::sync::Arc<std::sync::Mutex<BTreeMap<u64, Used>>>,
}

impl Samples {
    /// `pids` by node.
    pub(super) fn begin(pids: BTreeMap<u64, u32>) -> Self {
        let seen = std::sync::Arc::new(std::sync::Mutex::new(BTreeMap::<u64, Used>::new()));
        let into = std::sync::Arc::clone(&seen);
        let begun = Instant::now();
        let looking = tokio::spawn(async move {
            loop {
                let found: Vec<_> = pids.iter().filter_map(|(id, pid)| Some((*id, Usage::of(*pid)?))).collect();
                if let Ok(mut seen) = into.lock() {
                    for (id, usage) in found {
                        let used =
                            seen.entry(id).or_insert(Used { first: usage, last: usage, peak_bytes: 0, cpu: 0.0 });
                        used.last = usage;
                        used.peak_bytes = used.peak_bytes.max(usage.resident_bytes);
                        let worked = usage.cpu.saturating_sub(used.first.cpu);
                        used.cpu = worked.as_secs_f64() / begun.elapsed().as_secs_f64().max(1e-3);
                    }
                }
                sleep(INTERVAL).await;
            }
        });
        Self { looking, seen }
    }

    /// What was seen, by node.
    pub(super) fn end(self) -> BTreeMap<u64, Used> {
        self.looking.abort();
        self.seen.lock().map(|seen| seen.clone()).unwrap_or_default()
    }
}

/// For programs: by node.
pub(super) fn json_of(used: &BTreeMap<u64, Used>) -> Value {
    used.iter().map(|(id, used)| (format!("node {id}"), used.json())).collect::<serde_json::Map<_, _>>().into()
}
