//! What the examples of the simulator share: numbers on the command line, and how far a run has come.
#![allow(dead_code, clippy::print_stdout, reason = "a part of each command-line tool")]

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How often a terminal's bar is drawn again, and how often anybody else gets a line.
const REDRAWN: Duration = Duration::from_millis(200);
const SAID: Duration = Duration::from_secs(5);
const WIDTH: usize = 24;

/// How far a run of many seeds has come, on standard output.
pub(crate) struct Progress {
    of: u64,
    began: Instant,
    is_terminal: bool,
    shown: Mutex<Instant>,
}

impl Progress {
    /// Of a run of `of` seeds that begins now.
    pub(crate) fn new(of: u64) -> Self {
        let began = Instant::now();
        Self { of, began, is_terminal: std::io::stdout().is_terminal(), shown: Mutex::new(began) }
    }

    /// `seeds` are done, with `steps` steps and `violations`.
    pub(crate) fn show(&self, seeds: u64, steps: u64, violations: usize) {
        let Ok(mut shown) = self.shown.lock() else { return };
        if shown.elapsed() < if self.is_terminal { REDRAWN } else { SAID } {
            return;
        }
        *shown = Instant::now();
        let speed = self.speed(seeds, steps);
        if !self.is_terminal {
            return println!("{seeds:>8} of {} seeds, {speed}, {violations} violations", self.of);
        }
        let full = (WIDTH as u64 * seeds / self.of.max(1)) as usize;
        let bar = "█".repeat(full) + &"░".repeat(WIDTH.saturating_sub(full));
        print!("\r{bar} {seeds} of {} seeds, {speed}, {violations} violations \x1b[K", self.of);
        // A terminal that is gone is no reason to stop.
        let _ = std::io::stdout().flush();
    }

    /// Seeds and steps in a second so far.
    pub(crate) fn speed(&self, seeds: u64, steps: u64) -> String {
        let seconds = self.began.elapsed().as_secs_f64().max(0.001);
        format!("{:.0} seeds/s, {:.2} M steps/s", seeds as f64 / seconds, steps as f64 / seconds / 1e6)
    }

    /// Time since the run began.
    pub(crate) fn took(&self) -> Duration {
        self.began.elapsed()
    }

    /// Takes the bar away.
    pub(crate) fn end(&self) {
        if self.is_terminal {
            print!("\r\x1b[K");
        }
    }
}

/// A number on the command line; underscores may group its digits.
pub(crate) fn number(flag: &str, text: &str) -> Result<u64, String> {
    text.replace('_', "").parse().map_err(|_| format!("{flag} needs a number, and {text:?} is none"))
}

/// A number of threads or seeds, which must not be zero.
pub(crate) fn positive(flag: &str, text: &str) -> Result<u64, String> {
    match number(flag, text)? {
        0 => Err(format!("{flag} must be at least 1")),
        number => Ok(number),
    }
}

/// As many threads as there are processors.
pub(crate) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
