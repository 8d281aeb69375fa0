//! Nodes on this machine as processes: ports that stay theirs, start, kill, pause, and what they use. It knows the command
//! line of `d-engine serve` and nothing else of the engine; a program that is a node itself is started the same way.

mod usage;

use std::fmt::Display;
use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process};

pub use usage::Usage;

/// Ports on loopback that nobody listens on, below those from which the system takes the local ports of connections: a
/// node that is dialled while it is down would otherwise, now and then, be found to have its port taken by the dialling.
/// No two calls in a process get the same port before all have been given. Another process may take one before it is used.
///
/// # Errors
/// There are no such ports.
pub fn free_ports(count: usize) -> Result<Vec<u16>, String> {
    const FIRST: u32 = 10_000;
    const LAST: u32 = 32_000;
    static NEXT: LazyLock<AtomicU32> = LazyLock::new(|| {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        AtomicU32::new(std::process::id().wrapping_mul(97).wrapping_add(time.subsec_nanos()))
    });
    // Held until all are found, so that no other process finds one of them meanwhile.
    let mut held = Vec::new();
    for _ in FIRST..LAST {
        if held.len() == count {
            return Ok(held.into_iter().map(|(port, _)| port).collect());
        }
        let port = FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % (LAST - FIRST);
        let port = u16::try_from(port).map_err(|_| format!("{port} is no port"))?;
        held.extend(TcpListener::bind(("127.0.0.1", port)).map(|listener| (port, listener)));
    }
    Err(format!("no {count} free ports on 127.0.0.1 between {FIRST} and {LAST}"))
}

/// `d-engine serve` of `program` for node `id`; what more it is to be told is added by the caller.
#[must_use]
pub fn serve(program: &Path, id: u64, data: &Path, listen: &str) -> Command {
    let mut command = Command::new(program);
    command.args(["serve", "--data"]).arg(data).args(["--id", &id.to_string(), "--listen", listen]);
    command
}

/// The founders as `--peers` takes them.
pub fn peers<A: Display>(members: impl IntoIterator<Item = (u64, A)>) -> String {
    let each: Vec<String> = members.into_iter().map(|(id, address)| format!("{id}={address}")).collect();
    each.join(",")
}

/// Whose end is the node's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// It ends with this process, even if that is killed: by `--exit-with-parent`, or because it reads standard input.
    WithParent,
    /// It can [outlive](Process::leave) this process, and what interrupts this one leaves it alone.
    Detached,
}

/// One node that was started, and is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Option<Child>,
}

impl Process {
    /// Starts `command` with both output streams appended to the file `log`.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(mut command: Command, log: &Path, lifetime: Lifetime) -> io::Result<Self> {
        let log = File::options().create(true).append(true).open(log)?;
        command.stderr(log.try_clone()?).stdout(log);
        match lifetime {
            // The pipe closes with this process.
            Lifetime::WithParent => command.stdin(Stdio::piped()),
            Lifetime::Detached => {
                #[cfg(unix)]
                std::os::unix::process::CommandExt::process_group(&mut command, 0);
                command.stdin(Stdio::null())
            }
        };
        Ok(Self { child: Some(command.spawn()?) })
    }

    /// Process id; `None` once it has ended.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// How it has ended by itself, told once; `None` while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        self.child = None;
        Some(status)
    }

    /// `kill -9`, and waits; nothing for one that has ended.
    ///
    /// # Errors
    /// What the system says.
    pub fn kill(&mut self) -> io::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        child.kill()?;
        child.wait().map(drop)
    }

    /// Asks it to end in order.
    pub fn terminate(&self) {
        // It may have ended by itself.
        let _ = self.signal(Signal::TERM);
    }

    /// Stops it where it is, or lets it go on.
    ///
    /// # Errors
    /// What the system says.
    pub fn pause(&self, pause: bool) -> io::Result<()> {
        self.signal(if pause { Signal::STOP } else { Signal::CONT })
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        match &self.child {
            Some(child) => kill_process(Pid::from_child(child), signal).map_err(io::Error::from),
            None => Ok(()),
        }
    }

    /// What it has used so far; `None` once it has ended, or where the system does not tell.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        Usage::of(self.pid()?)
    }

    /// Leaves it to itself.
    pub fn leave(mut self) {
        self.child = None;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_are_different_and_free() {
        let mut given = Vec::new();
        // Another process may be quicker now and then, not every time.
        let all_free = (0..5).any(|_| {
            let ports = free_ports(3).unwrap();
            given.extend_from_slice(&ports);
            ports.iter().all(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        });
        assert!(all_free, "none of {given:?} could be had together");
        let count = given.len();
        given.sort_unstable();
        given.dedup();
        assert_eq!(given.len(), count, "a port was given twice: {given:?}");
    }

    #[test]
    fn founders_are_written_as_the_flag_takes_them() {
        assert_eq!(peers([(1, "a:1"), (2, "b:2")]), "1=a:1,2=b:2");
    }

    #[test]
    fn a_process_is_killed_once_and_its_end_is_told_once() {
        let log = std::env::temp_dir().join(format!("d-engine-processes-{}", std::process::id()));
        let mut sleeping = Command::new("sleep");
        sleeping.arg("600");
        let mut process = Process::start(sleeping, &log, Lifetime::WithParent).unwrap();
        assert!(process.pid().is_some() && process.ended().is_none());
        process.pause(true).unwrap();
        process.kill().unwrap();
        assert!(process.pid().is_none() && process.ended().is_none() && process.usage().is_none());
        process.kill().unwrap();
        let mut short = Process::start(Command::new("true"), &log, Lifetime::Detached).unwrap();
        let status = loop {
            if let Some(status) = short.ended() {
                break status;
            }
            std::thread::yield_now();
        };
        assert!(status.success() && short.ended().is_none());
        std::fs::remove_file(&log).unwrap();
    }
}
