//! What calls cost the machine.

use std::fs;
use std::ops::AddAssign;
use std::time::Duration;

use d_engine_processes::Usage;
use rustix::time::{ClockId, clock_gettime};

/// What the calls of a round cost the processes that take part.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// User and system time.
    pub processor: Duration,
    /// Changes of context of the threads that live, voluntary or not; 0 where there is no `/proc`.
    pub switches: u64,
}

impl Cost {
    /// Of this process: nodes and callers.
    #[must_use]
    pub fn of_this_process() -> Self {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        let processor = Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0));
        Self { processor, switches: switches("self") }
    }

    /// Of another process; nothing of one that has ended.
    #[must_use]
    pub fn of(process: u32) -> Self {
        let processor = Usage::of(process).map(|usage| usage.cpu).unwrap_or_default();
        Self { processor, switches: switches(&process.to_string()) }
    }

    /// What was used since an earlier look.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            processor: self.processor.saturating_sub(before.processor),
            // Threads that have ended since take their count with them.
            switches: self.switches.saturating_sub(before.switches),
        }
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.processor += other.processor;
        self.switches += other.switches;
    }
}

fn switches(process: &str) -> u64 {
    let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let counts = |status: String| -> u64 {
        let lines = status.lines().filter_map(|line| line.split_once("ctxt_switches:"));
        lines.filter_map(|(_, count)| count.trim().parse::<u64>().ok()).sum()
    };
    threads.filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok()).map(counts).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_looks_the_same_from_within_and_from_without() {
        let wait = || std::thread::sleep(Duration::from_millis(1));
        let before = (Cost::of_this_process(), Cost::of(std::process::id()));
        let begun = std::time::Instant::now();
        while begun.elapsed() < Duration::from_millis(200) {
            std::hint::black_box(0);
        }
        (0..20).for_each(|_| wait());
        let (within, without) = (Cost::of_this_process().since(before.0), Cost::of(std::process::id()).since(before.1));
        assert!(within.switches >= 20 && without.switches >= 20, "{within:?} {without:?}");
        assert!(within.processor.abs_diff(without.processor) < Duration::from_millis(500), "{within:?} {without:?}");
    }
}
