//! A second process to write, to be killed, stopped and starved: the test binary itself, run again for one test.
//!
//! The macros make that test; it returns at once unless the environment names a job. What the process says goes to its
//! standard output, one line each, marked so that what the test harness prints does not matter.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use d_engine_core::Error;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tempfile::TempDir;

use crate::law::{Violation, Why};

const JOB: &str = "D_ENGINE_TEST_SUITE_JOB";
const MARK: char = '\u{2}';
/// Between the fields of a job or of a line.
pub(crate) const FIELD: char = '\u{1f}';
/// How long a process may say nothing before it counts as hanging.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Names the test that runs as another process; without one, the laws that need another process are not checked.
#[derive(Debug, Clone)]
#[doc(hidden)]
pub struct Child {
    test: Option<String>,
    variables: Vec<(String, String)>,
}

impl Child {
    /// The test `child` of the module, which `module_path!()` names with its crate.
    pub fn of(module_path: &str) -> Self {
        let module = module_path.split_once("::").map_or(module_path, |(_, module)| module);
        Self { test: Some(format!("{module}::child")), variables: Vec::new() }
    }

    /// No test to run.
    pub const fn none() -> Self {
        Self { test: None, variables: Vec::new() }
    }

    /// The same with a variable in its environment.
    #[must_use]
    pub fn with_variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    pub(crate) fn is_there(&self) -> bool {
        self.test.is_some()
    }

    /// Starts the process. `wrapper` is a command line to put in front, such as that of strace.
    pub(crate) fn start(&self, why: Why, job: &[&OsStr], wrapper: &[OsString]) -> Result<Process, Violation> {
        let doing = "starting the test binary once more";
        why.ok(doing, self.spawn(job, wrapper).map_err(|error| Error::io(doing, error)))
    }

    fn spawn(&self, job: &[&OsStr], wrapper: &[OsString]) -> std::io::Result<Process> {
        let scratch = TempDir::new()?;
        let complaints = scratch.path().join("stderr");
        let test = self.test.as_deref().unwrap_or_default();
        let mut line: Vec<OsString> = wrapper.to_vec();
        line.push(std::env::current_exe()?.into());
        line.extend([test, "--exact", "--nocapture", "--test-threads=1"].map(OsString::from));
        let mut command = Command::new(&line[0]);
        command
            .args(&line[1..])
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .env(JOB, job.join(OsStr::new("\u{1f}")))
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&complaints)?);
        let mut child = counted(|| command.spawn())?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            unreachable!("both were asked for as pipes");
        };
        Ok(Process { child, input, output, heard: Vec::new(), complaints, _scratch: scratch })
    }
}

/// Processes that are being started, and when the last one was.
struct Starts {
    under_way: u32,
    last: Option<Instant>,
}

static STARTS: Mutex<Starts> = Mutex::new(Starts { under_way: 0, last: None });

/// Time after its start in which a process may still hold what this one had open then: the system wakes the parent before
/// it closes the files of the child, which may have to wait for a processor in between.
const SETTLING: Duration = Duration::from_secs(1);

impl Starts {
    // A poisoned lock is used on: two plain values are under it.
    fn lock() -> MutexGuard<'static, Self> {
        STARTS.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn may_hold_locks() -> bool {
        let starts = Self::lock();
        starts.under_way > 0 || starts.last.is_some_and(|at| at.elapsed() < SETTLING)
    }
}

/// Runs `start`, which makes a process.
///
/// For a moment the new process holds what this one has open, the locks of other tests' stores too: a store that is
/// closed meanwhile can still be locked. [`open_again`] knows whether that can be so.
pub(crate) fn counted<T>(start: impl FnOnce() -> T) -> T {
    Starts::lock().under_way += 1;
    let result = start();
    let mut starts = Starts::lock();
    starts.under_way -= 1;
    starts.last = Some(Instant::now());
    result
}

/// Opens a store that was just closed, by whatever `close` drops. `Locked` counts only if no process was being started.
pub(crate) async fn open_again<T, F>(close: impl FnOnce(), open: impl Fn() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    close();
    for _ in 0..ATTEMPTS {
        let may_be_held = Starts::may_hold_locks();
        let result = open().await;
        if !matches!(result, Err(Error::Locked { .. })) || !(may_be_held || Starts::may_hold_locks()) {
            return result;
        }
        std::thread::sleep(PAUSE);
    }
    open().await
}

const ATTEMPTS: u32 = 2000;
const PAUSE: Duration = Duration::from_millis(2);

/// Opens a store of which another process may still hold the lock for a moment.
pub(crate) async fn open_patiently<T, F>(open: impl Fn() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    for _ in 0..ATTEMPTS {
        match open().await {
            Err(Error::Locked { .. }) => std::thread::sleep(PAUSE),
            result => return result,
        }
    }
    open().await
}

/// What was heard of a process.
#[derive(Debug)]
pub(crate) enum Said {
    /// One line.
    Line(String),
    /// Nothing for as long as was waited.
    Nothing,
    /// Its output has ended.
    End,
}

/// A running process. It is killed when dropped.
pub(crate) struct Process {
    child: std::process::Child,
    input: ChildStdin,
    output: ChildStdout,
    heard: Vec<u8>,
    complaints: PathBuf,
    _scratch: TempDir,
}

impl Process {
    /// The next line, waiting for it no longer than told.
    pub(crate) fn listen(&mut self, patience: Duration) -> std::io::Result<Said> {
        let until = Instant::now() + patience;
        loop {
            if let Some(line) = self.take_line() {
                return Ok(Said::Line(line));
            }
            let left = until.saturating_duration_since(Instant::now());
            let timeout = Timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos().into() };
            let mut wanted = [PollFd::new(&self.output, PollFlags::IN)];
            if poll(&mut wanted, Some(&timeout))? == 0 {
                return Ok(Said::Nothing);
            }
            let mut buffer = [0; 4096];
            match self.output.read(&mut buffer)? {
                0 => return Ok(Said::End),
                n => self.heard.extend_from_slice(&buffer[..n]),
            }
        }
    }

    fn take_line(&mut self) -> Option<String> {
        while let Some(end) = self.heard.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.heard.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            if let Some(said) = line.trim_end().strip_prefix(MARK) {
                return Some(said.to_owned());
            }
        }
        None
    }

    /// Lets a process go on that waits in [`wait_for_word`].
    pub(crate) fn send_word(&mut self) -> std::io::Result<()> {
        self.input.write_all(b"\n")
    }

    /// SIGKILL, and waits until the process is gone. What it has said before can still be heard.
    pub(crate) fn kill(&mut self) -> std::io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    /// SIGSTOP, and waits until every thread has stopped.
    pub(crate) fn stop(&self) -> std::io::Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::STOP)?;
        waitid(WaitId::Pid(pid), WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)?;
        Ok(())
    }

    /// SIGCONT.
    pub(crate) fn go_on(&self) -> std::io::Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), Signal::CONT)?)
    }

    /// How a process ended that was not killed, and the end of what it printed to standard error.
    pub(crate) fn post_mortem(&mut self) -> String {
        let status = self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
        let complaints = std::fs::read_to_string(&self.complaints).unwrap_or_default();
        let lines: Vec<&str> = complaints.lines().filter(|line| !line.trim().is_empty()).collect();
        let last = lines[lines.len().saturating_sub(6)..].join("; ");
        format!("the process ended by itself, {status}, and said: {last}")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The job of this process, if it is a child: its fields.
pub(crate) fn job() -> Option<Vec<OsString>> {
    let job = std::env::var_os(JOB)?;
    // Paths of the suite are temporary directories; one that is no UTF-8 could not be split.
    Some(job.to_str()?.split(FIELD).map(OsString::from).collect())
}

/// Says a line to the parent. Without a parent there is nothing left to do.
///
/// By `writev`, which injected failures of `write` leave alone.
pub(crate) fn say_to_parent(fields: &[&str]) {
    let text = fields.join(&FIELD.to_string()).replace('\n', " ");
    let line = format!("\n{MARK}{text}\n");
    let out = std::io::stdout();
    match rustix::io::writev(out.as_fd(), &[IoSlice::new(line.as_bytes())]) {
        Ok(written) if written == line.len() => {}
        _ => std::process::exit(1),
    }
}

/// Waits until the parent sends a word; ends the process if the parent is gone.
pub(crate) fn wait_for_word() {
    let mut word = [0];
    match std::io::stdin().read(&mut word) {
        Ok(1) => {}
        _ => std::process::exit(0),
    }
}

/// Copies a directory with everything below it.
pub(crate) fn copy_dir(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_dir(&entry.path(), &target)?;
        } else if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Every file below a directory, in order.
pub(crate) fn files_below(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files.extend(files_below(&entry.path())?);
        } else {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// A directory in memory where there is one, for what need not be durable.
pub(crate) fn in_memory() -> std::io::Result<TempDir> {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new())
}
