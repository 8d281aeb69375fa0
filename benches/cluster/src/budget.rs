//! Where the time of one call goes: what three nodes in this process tell at the seams of its way (`d_engine::budget`), put
//! together call by call.
//!
//! A write is followed by the index of its entry, a read by time alone, so that reads are those of one caller.

mod collector;
mod legs;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster_bench::{Api, Cluster, Engine, Target, Works};
use serde_json::{Value, json};
use three_nodes::Result;

use collector::Collector;
use legs::{Legs, Sample};

/// What to measure.
pub(crate) struct Budget {
    pub(crate) api: Api,
    pub(crate) works: Works,
    pub(crate) engine: Engine,
    pub(crate) clients: usize,
    pub(crate) round: Duration,
    pub(crate) keys: u64,
    pub(crate) value_bytes: usize,
}

impl Budget {
    /// Measures on nodes with their data below `dir`.
    pub(crate) async fn measure(&self, dir: &Path) -> Result<Legs> {
        if self.works != Works::Put && (self.works != Works::Get || self.clients != 1) {
            return Err("a budget is one of puts, or of linearizable gets of one caller".into());
        }
        let collector = Collector::install()?;
        let cluster = Cluster::start(dir, self.engine).await?;
        let target = Arc::new(cluster.target(self.api, self.keys, self.value_bytes)?);
        target.fill().await?;
        self.calls(&target, self.round / 4).await?;
        collector.record(true);
        let samples = self.calls(&target, self.round).await?;
        collector.record(false);
        let leader = cluster.leader()?.0.id();
        cluster.stop().await?;
        let told = collector.take();
        let is_single = self.clients == 1;
        Ok(match self.works {
            Works::Put => legs::of_writes(&told, leader, &samples, is_single),
            _ => legs::of_reads(&told, leader, &samples),
        })
    }

    async fn calls(&self, target: &Arc<Target>, round: Duration) -> Result<Vec<Sample>> {
        let until = Instant::now() + round;
        let mut callers = Vec::new();
        for _ in 0..self.clients {
            let (target, works) = (Arc::clone(target), self.works);
            callers.push(tokio::spawn(async move {
                let mut samples = Vec::new();
                while Instant::now() < until {
                    let called = Instant::now();
                    let index = target.index(works, fastrand::u64(..)).await?;
                    samples.push(Sample { called, returned: Instant::now(), index });
                }
                Ok::<_, d_engine::ClientError>(samples)
            }));
        }
        let mut samples = Vec::new();
        for caller in callers {
            samples.extend(caller.await??);
        }
        Ok(samples)
    }
}

impl Legs {
    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "{} of {} calls were followed through\n{:<62} {:>10} {:>10}\n",
            self.followed, self.calls, "leg", "median", "p99"
        );
        for leg in &self.legs {
            let micros = |duration: Duration| format!("{:.1} µs", duration.as_secs_f64() * 1e6);
            let (median, p99) = leg.quantiles();
            text.push_str(&format!("{:<62} {:>10} {:>10}\n", leg.name, micros(median), micros(p99)));
        }
        text
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let legs = self.legs.iter().map(|leg| {
            let (median, p99) = leg.quantiles();
            json!({ "leg": leg.name, "median_us": median.as_secs_f64() * 1e6, "p99_us": p99.as_secs_f64() * 1e6 })
        });
        json!({ "calls": self.calls, "followed": self.followed, "legs": legs.collect::<Vec<_>>() })
    }
}
