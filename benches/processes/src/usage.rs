//! What a process has used, as the system tells it.

use std::fs;
use std::time::Duration;

/// What a process has used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Time on a processor since its start, in hundredths of a second.
    pub cpu: Duration,
    /// Memory that is in use (VmRSS).
    pub resident_bytes: u64,
}

impl Usage {
    /// That of a process; `None` if there is none, or the system has no `/proc`.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        Some(Self { cpu: cpu_time(&stat)?, resident_bytes: resident_bytes(&status)? })
    }
}

/// User and system time: fields 14 and 15, which the kernel counts in hundredths of a second on every machine.
fn cpu_time(stat: &str) -> Option<Duration> {
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
    let ticks: u64 = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 10))
}

fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_read_from_proc() {
        let stat = "7 (d-engine (x) y) S 1 7 7 0 -1 4194560 100 0 0 0 150 25 0 0 20 0 9 0 12345 1 2";
        assert_eq!(cpu_time(stat), Some(Duration::from_millis(1750)));
        assert_eq!(resident_bytes("VmHWM:\t 9 kB\nVmRSS:\t    1024 kB\n"), Some(1 << 20));
    }
}
