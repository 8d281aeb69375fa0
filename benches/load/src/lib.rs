//! Callers, closed loop or open loop, and what they saw. It knows nothing of what is called.
//!
//! [`Load::round`] is one round; whoever compares several subjects alternates the rounds between them and makes
//! [`Figures`] of each one's own.

mod cost;
mod notes;
mod round;

pub use cost::Cost;
pub use round::Round;

use std::error::Error;
use std::fmt::Display;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until, timeout_at};

use notes::{Board, Notes};
use round::Seen;

/// What measuring returns.
pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// How long after the end of a round a call may still be under way before it is given up, as an error.
const GRACE: Duration = Duration::from_secs(10);

/// How to call.
#[derive(Debug, Clone)]
pub struct Load {
    /// Callers; in an open loop the calls that may be under way at once.
    pub clients: usize,
    /// Calls per second of an open loop.
    pub rate: Option<u64>,
    /// How long calls begin.
    pub round: Duration,
    /// Rounds of [`Load::run`] that count.
    pub rounds: usize,
}

impl Load {
    /// Calls `call` with random numbers: one round to warm up, then those that count.
    ///
    /// # Errors
    /// A caller panicked.
    pub async fn run<F, E>(&self, call: impl Fn(u64) -> F + Clone + Send + 'static) -> Result<Figures>
    where
        F: Future<Output = std::result::Result<(), E>> + Send + 'static,
        E: Display + Send + 'static,
    {
        self.round(call.clone()).await?;
        let mut rounds = Vec::new();
        for _ in 0..self.rounds {
            rounds.push(self.round(call.clone()).await?);
        }
        Figures::new(self, rounds)
    }

    /// One round, that counts or does not.
    ///
    /// # Errors
    /// A caller panicked. Calls that fail are counted, and are no error of the round.
    pub async fn round<F, E>(&self, call: impl Fn(u64) -> F + Clone + Send + 'static) -> Result<Round>
    where
        F: Future<Output = std::result::Result<(), E>> + Send + 'static,
        E: Display + Send + 'static,
    {
        let (begun, before) = (Instant::now(), Cost::of_this_process());
        let until = begun + self.round;
        let next = Arc::new(AtomicU64::new(0));
        let board = Board::new()?;
        let mut callers = Vec::new();
        for caller in 0..self.clients {
            let arrivals = self.rate.map(|rate| Arrivals { rate, begun, next: Arc::clone(&next) });
            let (mut notes, call) = (Notes::new(&board, caller), call.clone());
            callers.push(tokio::spawn(async move {
                if timeout_at(until + GRACE, calls(arrivals, until, call, &mut notes)).await.is_err() {
                    notes.failed(format_args!("no answer {} s after the end of the round", GRACE.as_secs()));
                }
            }));
        }
        for caller in callers {
            caller.await?;
        }
        let (took, cost) = (begun.elapsed(), Cost::of_this_process().since(before));
        Ok(Round { seen: board.seen()?, took, cost })
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

async fn calls<F, E>(arrivals: Option<Arrivals>, until: Instant, call: impl Fn(u64) -> F, notes: &mut Notes)
where
    F: Future<Output = std::result::Result<(), E>>,
    E: Display,
{
    let mut answered = Instant::now();
    loop {
        // A call that begins late because others took long has waited since it was due: that belongs to its latency.
        let due = arrivals.as_ref().map_or(answered, Arrivals::next_due);
        if due >= until {
            return;
        }
        if arrivals.is_some() {
            sleep_until(due).await;
        }
        let outcome = call(fastrand::u64(..)).await;
        answered = Instant::now();
        match outcome {
            Ok(()) => notes.took(nanoseconds(answered.saturating_duration_since(due))),
            Err(error) => notes.failed(error),
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What one measurement found.
#[derive(Debug, Default)]
pub struct Figures {
    api: String,
    work: String,
    clients: usize,
    offered: Option<u64>,
    /// Calls per second of each round, ascending.
    rates: Vec<f64>,
    errors: u64,
    first_error: Option<String>,
    /// Nanoseconds at 0.5, 0.99, 0.999 and 1.
    quantiles: [u64; 4],
    /// Of callers, and of whatever else is in this process or was added.
    processor_us_per_call: f64,
    /// Changes of context of the same processes.
    switches_per_call: f64,
}

impl Figures {
    /// Names the columns of [`Figures::line`].
    pub const HEADINGS: &str = "api       work       callers      calls/s (min–max)             p50       p99     \
                                p99.9       max   CPU/call  errors";

    /// The figures of rounds with this load.
    ///
    /// # Errors
    /// None: all rounds count in the same bounds.
    pub fn new(load: &Load, rounds: Vec<Round>) -> Result<Self> {
        let mut rates: Vec<f64> = rounds.iter().map(Round::per_second).collect();
        rates.sort_by(f64::total_cmp);
        let (mut all, mut cost) = (Seen::new()?, Cost::default());
        for round in rounds {
            cost += round.cost;
            all.add(&round.seen)?;
        }
        let answered = all.latencies.len().max(1) as f64;
        Ok(Self {
            clients: load.clients,
            offered: load.rate,
            rates,
            errors: all.errors,
            first_error: all.first_error,
            quantiles: [0.5, 0.99, 0.999, 1.0].map(|quantile| all.latencies.value_at_quantile(quantile)),
            processor_us_per_call: cost.processor.as_secs_f64() * 1e6 / answered,
            switches_per_call: cost.switches as f64 / answered,
            ..Self::default()
        })
    }

    /// With what was measured.
    #[must_use]
    pub fn named(self, api: impl Into<String>, work: impl Into<String>) -> Self {
        Self { api: api.into(), work: work.into(), ..self }
    }

    /// Calls per second: the median of the rounds.
    #[must_use]
    pub fn median(&self) -> f64 {
        self.rates.get(self.rates.len() / 2).copied().unwrap_or(0.0)
    }

    /// Calls per second of the slowest and of the fastest round.
    #[must_use]
    pub fn extremes(&self) -> (f64, f64) {
        (self.rates.first().copied().unwrap_or(0.0), self.rates.last().copied().unwrap_or(0.0))
    }

    /// What was called, as it was named.
    #[must_use]
    pub fn work(&self) -> &str {
        &self.work
    }

    /// Callers.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.clients
    }

    /// The error that came first, if there was one.
    #[must_use]
    pub fn first_error(&self) -> Option<&str> {
        self.first_error.as_deref()
    }

    /// Nanoseconds that half of all calls took at most, and 99 of 100.
    #[must_use]
    pub fn latencies_ns(&self) -> (u64, u64) {
        (self.quantiles[0], self.quantiles[1])
    }

    /// One line for people, in the columns of [`Figures::HEADINGS`].
    #[must_use]
    pub fn line(&self) -> String {
        let (min, max) = self.extremes();
        let [p50, p99, p999, longest] = self.quantiles.map(|ns| format!("{:.0?}", Duration::from_nanos(ns)));
        let rate = format!("{:.0} ({min:.0}–{max:.0})", self.median());
        format!(
            "{:<9} {:<10} {:>7}  {rate:>26}  {p50:>8}  {p99:>8}  {p999:>8}  {longest:>8}  {:>6.1} µs  {:>6}",
            self.api, self.work, self.clients, self.processor_us_per_call, self.errors,
        )
    }

    /// The same for programs.
    #[must_use]
    pub fn json(&self) -> Value {
        let (min, max) = self.extremes();
        let [p50, p99, p999, longest] = self.quantiles;
        json!({
            "api": self.api, "work": self.work, "clients": self.clients, "offered_per_second": self.offered,
            "per_second": { "median": self.median(), "min": min, "max": max },
            "latency_ns": { "p50": p50, "p99": p99, "p999": p999, "max": longest },
            "cpu_us_per_call": self.processor_us_per_call, "switches_per_call": self.switches_per_call,
            "errors": self.errors, "first_error": self.first_error,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(rate: Option<u64>) -> Load {
        Load { clients: 2, rate, round: Duration::from_secs(1), rounds: 2 }
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_loop_calls_at_its_rate_and_counts_the_wait_of_late_calls() {
        let slow = |_| async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            Ok::<(), String>(())
        };
        // Two callers of 100 ms manage 20 calls per second.
        let found = load(Some(10)).run(slow).await.unwrap();
        assert!((9.0..=11.0).contains(&found.median()) && found.latencies_ns().1 < 120_000_000, "{}", found.line());
        let late = load(Some(40)).run(slow).await.unwrap();
        assert!(late.latencies_ns().1 > 300_000_000, "{}", late.line());
    }

    #[tokio::test(start_paused = true)]
    async fn failed_calls_are_counted_and_the_first_error_is_kept() {
        let fails = |_| async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            Err::<(), _>("refused")
        };
        let found = load(None).run(fails).await.unwrap();
        assert_eq!((found.errors, found.first_error(), found.median()), (40, Some("refused"), 0.0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_never_answered_ends_as_an_error() {
        let round = load(None).round(|_| std::future::pending::<std::result::Result<(), String>>()).await.unwrap();
        assert_eq!(round.errors(), 2);
    }
}
