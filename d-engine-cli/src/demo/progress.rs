//! What the demo says while it runs: a bar on a terminal, plain lines elsewhere. All of it on standard error.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::{print_error, thousands};

/// Parts of the work after each of which a plain line is printed.
const PLAIN_PARTS: u64 = 4;

pub(super) struct Progress {
    terminal: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal() }
    }

    pub(super) fn say(&self, line: impl AsRef<str>) {
        print_error(line.as_ref());
    }

    /// Begins to count `total` pieces of `what`.
    pub(super) fn bar(&self, what: &'static str, total: u64) -> Bar {
        let drawn = self.terminal.then(|| {
            let style = ProgressStyle::with_template("{msg:<6} {bar:40} {human_pos}/{human_len}  {per_sec}");
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10));
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_message(what);
            bar
        });
        Bar { what, total, done: Arc::default(), drawn }
    }
}

/// A count on its way; clones count together.
#[derive(Clone)]
pub(super) struct Bar {
    what: &'static str,
    total: u64,
    done: Arc<AtomicU64>,
    drawn: Option<ProgressBar>,
}

impl Bar {
    pub(super) fn add(&self, count: u64) {
        let done = self.done.fetch_add(count, Ordering::Relaxed) + count;
        if let Some(bar) = &self.drawn {
            bar.set_position(done);
        } else if done < self.total && part(done, self.total) > part(done - count, self.total) {
            print_error(format_args!("{}: {} of {}", self.what, thousands(done), thousands(self.total)));
        }
    }

    pub(super) fn finish(&self, took: Duration) {
        if let Some(bar) = &self.drawn {
            bar.finish_and_clear();
        }
        let done = self.done.load(Ordering::Relaxed);
        let line = format!(
            "{}: {} in {:.1} s, {} per s",
            self.what,
            thousands(done),
            took.as_secs_f64(),
            thousands(super::rate(done, took))
        );
        print_error(line);
    }
}

fn part(done: u64, total: u64) -> u64 {
    done * PLAIN_PARTS / total.max(1)
}
