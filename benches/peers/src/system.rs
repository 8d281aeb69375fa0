//! A system in a process of its own, seen from the process that measures: `serve.rs` is the other side.
//!
//! The process leads a group, so that one signal stops all that it has started. When the process that measures ends, however
//! it ends, the system does too: one that runs sees the end of its standard input, one that is stopped is an orphaned
//! group, which the kernel hangs up.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use d_engine_load::Round;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};

use crate::cluster::Data;
use crate::log::Result;
use crate::subject::Work;

/// How long a system may take for anything but a round.
const PATIENCE: Duration = Duration::from_secs(240);
/// How much longer than it lasts a round may take: calls that are never answered are given up after ten seconds.
const ROUND_PATIENCE: Duration = Duration::from_secs(30);
/// How long a system may take to end in order, with the processes that it has started.
const END: Duration = Duration::from_secs(3);

/// One way to call the system.
#[derive(Debug, Clone)]
pub struct About {
    pub name: String,
    pub about: String,
    works: Vec<String>,
}

impl About {
    pub fn can(&self, work: Work) -> bool {
        self.works.iter().any(|name| name == work.name())
    }
}

/// The process, and what it offers. Stopped unless it is awake.
pub struct System {
    child: Child,
    requests: Option<ChildStdin>,
    answers: Receiver<String>,
    subjects: Vec<About>,
    /// Whether a leader has answered since it woke.
    settled: bool,
    /// Why nothing is asked any more: an answer that comes too late would be taken for the next one.
    broken: Option<String>,
}

impl System {
    /// Starts the system `name` below `dir`, writes the keys, and stops it.
    pub fn start(name: &str, dir: &Path, data: Data) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["system", name]).arg(dir).args([data.keys.to_string(), data.value_bytes.to_string()]);
        let mut child = command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let requests = child.stdin.take();
        let output = child.stdout.take().ok_or("a child without standard output")?;
        let (sender, answers) = mpsc::channel();
        // Ends with the child's output.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(std::result::Result::ok) {
                // What else it prints is its own affair.
                if line.starts_with('{') && sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut system = Self { child, requests, answers, subjects: Vec::new(), settled: false, broken: None };
        let told = system.answer(PATIENCE)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        for one in told["subjects"].as_array().into_iter().flatten() {
            let works = one["works"].as_array().into_iter().flatten().map(text).collect();
            system.subjects.push(About { name: text(&one["name"]), about: text(&one["about"]), works });
        }
        system.ask(&json!({ "do": "fill", "subject": 0 }), PATIENCE)?;
        system.sleep()?;
        Ok(system)
    }

    pub fn subjects(&self) -> &[About] {
        &self.subjects
    }

    /// Continues all its processes.
    pub fn wake(&mut self) -> Result<()> {
        self.settled = false;
        self.signal(Signal::CONT)
    }

    /// Stops all its processes.
    pub fn sleep(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// One round, after one of a quarter of its length that does not count. Waits first until a leader answers.
    pub fn round(&mut self, subject: usize, work: Work, clients: usize, length: Duration) -> Result<Round> {
        self.ask(&json!({ "do": "settle", "subject": subject, "steady": !self.settled }), PATIENCE)?;
        self.settled = true;
        let mut one = |length: Duration| {
            let nanoseconds = u64::try_from(length.as_nanos())?;
            let round = json!({
                "do": "round", "subject": subject, "work": work.name(), "clients": clients, "nanoseconds": nanoseconds,
            });
            self.ask(&round, length + ROUND_PATIENCE)
        };
        one(length / 4)?;
        Round::from_json(&one(length)?)
    }

    fn ask(&mut self, request: &Value, patience: Duration) -> Result<Value> {
        if let Some(why) = &self.broken {
            return Err(why.clone().into());
        }
        let requests = self.requests.as_mut().ok_or("its process has no standard input")?;
        writeln!(requests, "{request}").map_err(|error| format!("its process does not listen: {error}"))?;
        self.answer(patience)
    }

    fn answer(&mut self, patience: Duration) -> Result<Value> {
        let line = match self.answers.recv_timeout(patience) {
            Ok(line) => line,
            Err(why) => {
                let why = match why {
                    RecvTimeoutError::Timeout => format!("its process did not answer within {} s", patience.as_secs()),
                    RecvTimeoutError::Disconnected => "its process has ended".to_owned(),
                };
                self.broken = Some(why.clone());
                return Err(why.into());
            }
        };
        let answer: Value = serde_json::from_str(&line)?;
        match answer["error"].as_str() {
            Some(why) => Err(why.into()),
            None => Ok(answer),
        }
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let group = Pid::from_child(&self.child);
        Ok(kill_process_group(group, signal).map_err(|error| format!("could not send {signal:?}: {error}"))?)
    }
}

impl Drop for System {
    fn drop(&mut self) {
        // It sees the end of its input, and ends what it has started.
        let _ = self.signal(Signal::CONT);
        self.requests = None;
        let begun = Instant::now();
        while begun.elapsed() < END && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(10));
        }
        // Those that do not.
        let _ = self.signal(Signal::KILL);
        let _ = self.child.wait();
    }
}
