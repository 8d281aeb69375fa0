//! The parent's view of a process that writes.

use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

use d_engine_core::Error;

use super::Lab;
use crate::law::{Violation, Why};
use crate::process::{PATIENCE, Process, Said};
use crate::subject::{History, Style, Subject};

/// A writing process, and what may be on its disk.
pub(super) struct Writer<'a, S: Subject> {
    pub(super) process: Process,
    pub(super) history: History<'a, S>,
    /// Calls up to the last that the process said was durable.
    durable: u64,
    /// The same when its disk was about to lose its power.
    certain: Option<u64>,
    why: Why,
    /// What the process said when a call of it failed.
    pub(super) failure: Option<String>,
}

/// Which calls a writing process makes: a style and how many; `u64::MAX` until it is killed. After each phase it waits.
pub(super) type Phases<'p> = &'p [(Style, u64)];

pub(super) const FOR_EVER: Phases<'static> = &[(Style::Mixed, u64::MAX)];

impl<S: Subject> Lab<'_, S> {
    /// Starts a process that opens the store of `dir`, which must show `state`, and writes.
    pub(super) fn writer(
        &self,
        dir: &Path,
        state: &S::State,
        seed: u64,
        phases: Phases<'_>,
        wrapper: &[OsString],
    ) -> Result<Writer<'_, S>, Violation> {
        let phases: Vec<String> = phases.iter().map(|(style, calls)| format!("{}:{calls}", style.name())).collect();
        let (seed_text, phases) = (OsString::from(seed.to_string()), OsString::from(phases.join(",")));
        let job = ["write".as_ref(), S::NAME.as_ref(), dir.as_os_str(), &seed_text, &phases];
        let process = self.child.start(self.why, &job, wrapper)?;
        Ok(Writer::watching(self, process, state, seed))
    }

    /// The same, once the process has opened the store.
    pub(super) fn open_writer(
        &self,
        dir: &Path,
        state: &S::State,
        seed: u64,
        phases: Phases<'_>,
    ) -> Result<Writer<'_, S>, Violation> {
        let mut writer = self.writer(dir, state, seed, phases, &[])?;
        let shown = writer.wait_for("open")?;
        self.why.equal("what another process finds on opening", shown, self.subject.describe(state))?;
        Ok(writer)
    }
}

impl<'a, S: Subject> Writer<'a, S> {
    /// A process that does another job, but tells of its calls in the same way.
    pub(super) fn watching(lab: &'a Lab<'_, S>, process: Process, state: &S::State, seed: u64) -> Self {
        let history = History::new(&lab.subject, state.clone(), seed, lab.durable_writes);
        Self { process, history, durable: 0, certain: None, why: lab.why, failure: None }
    }

    /// Waits until the process says the word; the text after it.
    pub(super) fn wait_for(&mut self, word: &str) -> Result<String, Violation> {
        loop {
            match self.hear(PATIENCE)? {
                Said::Line(line) => {
                    if let Some(rest) = line.strip_prefix(word) {
                        return Ok(rest.trim_start_matches(crate::process::FIELD).to_owned());
                    }
                    self.note(&line);
                    self.expect_no_failure()?;
                }
                Said::Nothing => return Err(self.hangs()),
                Said::End => return Err(self.died()),
            }
        }
    }

    /// Lets the process write until so many more calls are durable or the time is over.
    pub(super) fn let_run(&mut self, durable_calls: u32, time: Duration) -> Result<(), Violation> {
        let until = Instant::now() + time;
        for _ in 0..durable_calls {
            match self.hear(until.saturating_duration_since(Instant::now()))? {
                Said::Line(line) => self.note(&line),
                Said::Nothing => break,
                Said::End => return Err(self.died()),
            }
            self.expect_no_failure()?;
        }
        Ok(())
    }

    /// Takes in everything that the process had said before it was stopped or killed.
    pub(super) fn drain(&mut self) -> Result<(), Violation> {
        while let Said::Line(line) = self.hear(Duration::ZERO)? {
            self.note(&line);
        }
        Ok(())
    }

    /// Its disk is about to lose its power. What the process says after this is no promise any more: a sync that is under
    /// way while ext4 is shut down may report success without anything on the disk (seen with strace on Linux 6.18).
    pub(super) fn loses_power(&mut self) -> Result<(), Violation> {
        self.drain()?;
        self.certain = Some(self.durable);
        Ok(())
    }

    /// kill -9.
    pub(super) fn kill(&mut self) -> Result<(), Violation> {
        let killed = self.process.kill().map_err(|error| Error::io("killing the writing process", error));
        self.why.ok("killing the writing process", killed)?;
        self.drain()
    }

    /// The states that its disk may show now, with the process killed or stopped.
    pub(super) fn possible(&mut self) -> Vec<S::State> {
        self.history.settle_at(self.certain.unwrap_or(self.durable));
        let mut ahead = self.history.clone();
        while ahead.calls < self.durable {
            ahead.step(Style::Mixed);
        }
        ahead.settle_anywhere();
        ahead.possible
    }

    /// Calls that the process said were durable.
    pub(super) fn durable(&self) -> u64 {
        self.durable
    }

    pub(super) fn note(&mut self, line: &str) {
        let (word, rest) = line.split_once(crate::process::FIELD).unwrap_or((line, ""));
        match word {
            "durable" => self.durable = rest.parse().unwrap_or(self.durable),
            "failed" => self.failure = Some(rest.to_owned()),
            _ => {}
        }
    }

    pub(super) fn hear(&mut self, patience: Duration) -> Result<Said, Violation> {
        let said = self.process.listen(patience).map_err(|error| Error::io("listening to the writing process", error));
        self.why.ok("listening to the writing process", said)
    }

    fn expect_no_failure(&self) -> Result<(), Violation> {
        match &self.failure {
            None => Ok(()),
            Some(failure) => Err(self.why.violation("the calls of the writing process succeed", failure)),
        }
    }

    pub(super) fn died(&mut self) -> Violation {
        let found = self.failure.clone().unwrap_or_else(|| self.process.post_mortem());
        self.why.violation("the writing process goes on until it is killed", found)
    }

    pub(super) fn still_alive(&self, what: &str, call: &str) -> Violation {
        let expected = format!("after {what} every later write fails until the store is reopened");
        let failure = self.failure.as_deref().unwrap_or("an error");
        self.why.violation(expected, format!("a later call succeeded, {call}; the first failure was: {failure}"))
    }

    pub(super) fn hangs(&self) -> Violation {
        let found = format!("it said nothing for {} s", PATIENCE.as_secs());
        self.why.violation("the writing process gets on with its calls", found)
    }
}
