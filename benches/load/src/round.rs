//! One round: what callers saw, and how it goes from one process to another.

use std::fmt::Display;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::{Cost, Result, nanoseconds};

/// Longer latencies are counted as this.
const LATENCY_MAX: Duration = Duration::from_secs(60);

/// What was seen in one round.
#[derive(Debug)]
pub struct Round {
    pub(crate) seen: Seen,
    pub(crate) took: Duration,
    pub(crate) cost: Cost,
}

/// What callers saw.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) latencies: Histogram<u64>,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
}

impl Seen {
    pub(crate) fn new() -> Result<Self> {
        // Nanoseconds, to three digits.
        let latencies = Histogram::new_with_bounds(1, nanoseconds(LATENCY_MAX), 3)?;
        Ok(Self { latencies, errors: 0, first_error: None })
    }

    pub(crate) fn fail(&mut self, error: impl Display) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| error.to_string());
    }

    pub(crate) fn add(&mut self, other: &Self) -> Result<()> {
        self.latencies.add(&other.latencies)?;
        self.errors += other.errors;
        self.first_error = self.first_error.take().or_else(|| other.first_error.clone());
        Ok(())
    }
}

impl Round {
    /// Calls answered per second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.seen.latencies.len() as f64 / self.took.as_secs_f64()
    }

    /// Calls answered.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.seen.latencies.len()
    }

    /// Calls that failed.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.seen.errors
    }

    /// The error that came first, if there was one.
    #[must_use]
    pub fn first_error(&self) -> Option<&str> {
        self.seen.first_error.as_deref()
    }

    /// Nanoseconds that half of the calls took at most.
    #[must_use]
    pub fn median_ns(&self) -> u64 {
        self.seen.latencies.value_at_quantile(0.5)
    }

    /// Adds what other processes have used for these calls.
    pub fn add_cost(&mut self, used: Cost) {
        self.cost += used;
    }

    /// Everything, for [`Round::from_json`] in another process.
    #[must_use]
    pub fn json(&self) -> Value {
        let latencies: Vec<_> = self
            .seen
            .latencies
            .iter_recorded()
            .map(|counted| [counted.value_iterated_to(), counted.count_at_value()])
            .collect();
        json!({
            "latencies": latencies, "errors": self.seen.errors, "first_error": self.seen.first_error,
            "took_ns": nanoseconds(self.took), "processor_ns": nanoseconds(self.cost.processor),
            "switches": self.cost.switches,
        })
    }

    /// The round that another process saw.
    ///
    /// # Errors
    /// It is none.
    pub fn from_json(value: &Value) -> Result<Self> {
        let number = |name: &str| value[name].as_u64().ok_or_else(|| format!("a round without {name}: {value}"));
        let mut seen = Seen::new()?;
        for counted in value["latencies"].as_array().into_iter().flatten() {
            let (Some(latency), Some(count)) = (counted[0].as_u64(), counted[1].as_u64()) else {
                return Err(format!("a latency is two numbers, not {counted}").into());
            };
            seen.latencies.saturating_record_n(latency, count);
        }
        seen.errors = number("errors")?;
        seen.first_error = value["first_error"].as_str().map(str::to_owned);
        let cost = Cost { processor: Duration::from_nanos(number("processor_ns")?), switches: number("switches")? };
        Ok(Self { seen, took: Duration::from_nanos(number("took_ns")?), cost })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_of_another_process_is_the_round_that_it_saw() {
        let mut seen = Seen::new().unwrap();
        for latency in (1..100_000).chain([LATENCY_MAX.as_nanos() as u64]) {
            seen.latencies.saturating_record(latency);
        }
        seen.fail("refused");
        let cost = Cost { processor: Duration::from_micros(7), switches: 9 };
        let round = Round { seen, took: Duration::from_millis(3), cost };
        let text = round.json().to_string();
        let other = Round::from_json(&serde_json::from_str(&text).unwrap()).unwrap();
        assert_eq!(other.seen.latencies, round.seen.latencies);
        assert_eq!((other.errors(), other.first_error()), (1, Some("refused")));
        assert_eq!((other.took, other.cost), (round.took, cost));
        assert!(Round::from_json(&json!({ "took_ns": 1 })).is_err());
    }
}
