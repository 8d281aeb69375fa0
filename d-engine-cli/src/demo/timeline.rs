//! What the writes around the leader's death looked like over time: how many were acknowledged, and how long they took.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use d_engine_plot::{Line, Mark, lines};

/// What counts together.
const STEP: Duration = Duration::from_millis(50);
/// What comes later is not shown.
const LENGTH: Duration = Duration::from_secs(60);

/// Counts of steps of time since the load began.
#[derive(Debug)]
pub(super) struct Timeline {
    steps: Vec<Step>,
}

#[derive(Debug, Default)]
struct Step {
    acked: AtomicU64,
    /// Nanoseconds of all acknowledged writes together, and of the slowest.
    took: AtomicU64,
    longest: AtomicU64,
}

impl Timeline {
    pub(super) fn new() -> Self {
        Self { steps: (0..LENGTH.as_nanos() / STEP.as_nanos()).map(|_| Step::default()).collect() }
    }

    /// A write that was acknowledged `at` nanoseconds after the load began, and took `took`.
    pub(super) fn acked(&self, at: u64, took: u64) {
        let place = u128::from(at) / STEP.as_nanos();
        let Some(step) = usize::try_from(place).ok().and_then(|place| self.steps.get(place)) else { return };
        step.acked.fetch_add(1, Ordering::Relaxed);
        step.took.fetch_add(took, Ordering::Relaxed);
        step.longest.fetch_max(took, Ordering::Relaxed);
    }

    /// The plots, of a load that ended after `until` nanoseconds, with what happened.
    pub(super) fn plots(&self, until: u64, marks: &[(u64, String)]) -> [String; 2] {
        let seconds = |nanos: u64| Duration::from_nanos(nanos).as_secs_f64();
        let marks: Vec<Mark> = marks.iter().map(|(at, text)| Mark { at: seconds(*at), text: text.clone() }).collect();
        // The last step is not whole.
        let shown =
            self.steps.iter().zip(1_u32..).take_while(|(_, number)| STEP * *number <= Duration::from_nanos(until));
        let (mut rate, mut mean, mut longest) = (Vec::new(), Vec::new(), Vec::new());
        for (step, number) in shown {
            let at = (STEP * number).as_secs_f64();
            let acked = step.acked.load(Ordering::Relaxed);
            #[allow(clippy::cast_precision_loss, reason = "a point of a plot")]
            rate.push((at, acked as f64 / STEP.as_secs_f64()));
            if let Some(average) = step.took.load(Ordering::Relaxed).checked_div(acked) {
                mean.push((at, seconds(average) * 1e3));
                longest.push((at, seconds(step.longest.load(Ordering::Relaxed)) * 1e3));
            }
        }
        let line = |name: &str, points| Line { name: name.to_owned(), points };
        [
            lines("Acknowledged writes", "seconds", "per second", &[line("writes", rate)], &marks),
            lines("Latency of writes", "seconds", "ms", &[line("mean", mean), line("longest", longest)], &marks),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plots_end_with_the_load_and_show_what_happened() {
        let timeline = Timeline::new();
        timeline.acked(10_000_000, 1_000_000);
        timeline.acked(60_000_000, 3_000_000);
        timeline.acked(u64::MAX, 1);
        let [rate, latency] = timeline.plots(120_000_000, &[(70_000_000, "kill -9".to_owned())]);
        assert!(rate.contains("kill -9") && latency.contains("longest"));
        assert_eq!(rate.matches("polyline points").count(), 1);
        let points = rate.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        assert_eq!(points.split(' ').count(), 2, "two whole steps: {points}");
    }
}
