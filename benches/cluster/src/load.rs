//! Callers, closed loop or open loop, and what they saw.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::{CreationError, Histogram};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use three_nodes::Result;
use tokio::time::{Instant, sleep_until};

/// Longer latencies are counted as this.
const LATENCY_MAX: Duration = Duration::from_secs(60);

/// How to call.
pub(crate) struct Load {
    /// Callers; in an open loop the calls that may be under way at once.
    pub(crate) clients: usize,
    /// Calls per second of an open loop.
    pub(crate) rate: Option<u64>,
    pub(crate) round: Duration,
    pub(crate) rounds: usize,
}

/// One round.
struct Round {
    latencies: Histogram<u64>,
    errors: u64,
    took: Duration,
    processor: Duration,
}

impl Load {
    /// Calls `call` with random numbers: one round to warm up, then those that count.
    pub(crate) async fn run<F, E>(&self, call: impl Fn(u64) -> F + Clone + Send + 'static) -> Result<Figures>
    where
        F: Future<Output = std::result::Result<(), E>> + Send + 'static,
        E: Send + 'static,
    {
        self.round(call.clone()).await?;
        let mut rounds = Vec::new();
        for _ in 0..self.rounds {
            rounds.push(self.round(call.clone()).await?);
        }
        Ok(Figures::new(self, rounds))
    }

    async fn round<F, E>(&self, call: impl Fn(u64) -> F + Clone + Send + 'static) -> Result<Round>
    where
        F: Future<Output = std::result::Result<(), E>> + Send + 'static,
        E: Send + 'static,
    {
        let (begun, processor) = (Instant::now(), processor_time());
        let until = begun + self.round;
        let next = Arc::new(AtomicU64::new(0));
        let callers: Vec<_> = (0..self.clients)
            .map(|_| {
                let arrivals = self.rate.map(|rate| Arrivals { rate, begun, next: Arc::clone(&next) });
                tokio::spawn(caller(arrivals, until, call.clone()))
            })
            .collect();
        let mut round = Round { latencies: histogram()?, errors: 0, took: Duration::ZERO, processor: Duration::ZERO };
        for caller in callers {
            let (latencies, errors) = caller.await??;
            round.latencies.add(latencies)?;
            round.errors += errors;
        }
        round.took = begun.elapsed();
        round.processor = processor_time().saturating_sub(processor);
        Ok(round)
    }
}

/// When the calls of an open loop are due. They arrive in bursts on whole milliseconds, as finely as timers go.
struct Arrivals {
    rate: u64,
    begun: Instant,
    next: Arc<AtomicU64>,
}

impl Arrivals {
    fn next_due(&self) -> Instant {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.begun + Duration::from_millis((number * 1000).div_ceil(self.rate.max(1)))
    }
}

async fn caller<F, E>(
    arrivals: Option<Arrivals>,
    until: Instant,
    call: impl Fn(u64) -> F,
) -> std::result::Result<(Histogram<u64>, u64), CreationError>
where
    F: Future<Output = std::result::Result<(), E>>,
{
    let (mut latencies, mut errors) = (histogram()?, 0);
    loop {
        // A call that begins late because others took long has waited since it was due: that belongs to its latency.
        let due = match &arrivals {
            Some(arrivals) => arrivals.next_due(),
            None => Instant::now(),
        };
        if due >= until {
            return Ok((latencies, errors));
        }
        if arrivals.is_some() {
            sleep_until(due).await;
        }
        match call(fastrand::u64(..)).await {
            Ok(()) => latencies.saturating_record(nanoseconds(due.elapsed())),
            Err(_) => errors += 1,
        }
    }
}

/// Nanoseconds, to three digits.
fn histogram() -> std::result::Result<Histogram<u64>, CreationError> {
    Histogram::new_with_bounds(1, nanoseconds(LATENCY_MAX), 3)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What this process has used of the processors: nodes and callers.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// What one measurement found.
#[derive(Default)]
pub(crate) struct Figures {
    api: String,
    work: String,
    clients: usize,
    offered: Option<u64>,
    /// Calls per second of each round, ascending.
    rates: Vec<f64>,
    errors: u64,
    /// Nanoseconds at 0.5, 0.99, 0.999 and 1.
    quantiles: [u64; 4],
    /// Of nodes and callers together.
    processor_us_per_call: f64,
}

impl Figures {
    pub(crate) const HEADINGS: &str = "api       work       callers      calls/s (min–max)             p50       p99     \
                                       p99.9       max   CPU/call  errors";

    fn new(load: &Load, rounds: Vec<Round>) -> Self {
        let mut rates: Vec<f64> =
            rounds.iter().map(|round| round.latencies.len() as f64 / round.took.as_secs_f64()).collect();
        rates.sort_by(f64::total_cmp);
        let mut all = Histogram::new_from(&rounds[0].latencies);
        let (mut errors, mut processor) = (0, Duration::ZERO);
        for round in &rounds {
            // The same bounds.
            let _ = all.add(&round.latencies);
            errors += round.errors;
            processor += round.processor;
        }
        Self {
            clients: load.clients,
            offered: load.rate,
            rates,
            errors,
            quantiles: [0.5, 0.99, 0.999, 1.0].map(|quantile| all.value_at_quantile(quantile)),
            processor_us_per_call: processor.as_secs_f64() * 1e6 / (all.len().max(1)) as f64,
            ..Self::default()
        }
    }

    /// With what was measured.
    pub(crate) fn named(self, api: String, work: String) -> Self {
        Self { api, work, ..self }
    }

    fn median(&self) -> f64 {
        self.rates.get(self.rates.len() / 2).copied().unwrap_or(0.0)
    }

    fn extremes(&self) -> (f64, f64) {
        (self.rates.first().copied().unwrap_or(0.0), self.rates.last().copied().unwrap_or(0.0))
    }

    pub(crate) fn line(&self) -> String {
        let (min, max) = self.extremes();
        let [p50, p99, p999, longest] = self.quantiles.map(|ns| format!("{:.0?}", Duration::from_nanos(ns)));
        let rate = format!("{:.0} ({min:.0}–{max:.0})", self.median());
        format!(
            "{:<9} {:<10} {:>7}  {rate:>26}  {p50:>8}  {p99:>8}  {p999:>8}  {longest:>8}  {:>6.1} µs  {:>6}",
            self.api, self.work, self.clients, self.processor_us_per_call, self.errors,
        )
    }

    pub(crate) fn json(&self) -> Value {
        let (min, max) = self.extremes();
        let [p50, p99, p999, longest] = self.quantiles;
        json!({
            "api": self.api, "work": self.work, "clients": self.clients, "offered_per_second": self.offered,
            "per_second": { "median": self.median(), "min": min, "max": max },
            "latency_ns": { "p50": p50, "p99": p99, "p999": p999, "max": longest },
            "cpu_us_per_call": self.processor_us_per_call, "errors": self.errors,
        })
    }
}
