//! The machine that measures: what it is, and whether it has something else to do.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Share of the processors that others may use.
const BUSY_MAX: f64 = 0.1;
/// A sync that nobody disturbs takes less, and nearly always the same.
const SYNC_MAX: Duration = Duration::from_millis(3);
const SYNC_SPREAD_MAX: u32 = 4;
const SYNCS: u64 = 300;
const PAGE: u64 = 4096;

/// Facts that a figure means nothing without.
pub(crate) struct Machine {
    processors: usize,
    processor: String,
    kernel: String,
    rustc: String,
    memory: String,
    mount: Option<Mount>,
    free_bytes: u64,
    load: String,
    syncs: Vec<Syncs>,
    /// Share of the processors in use when the measuring began.
    busy: Option<f64>,
}

/// How long a sync of one page takes.
#[derive(Clone, Copy)]
struct Syncs {
    median: Duration,
    ninth_tenth: Duration,
}

/// What a directory stands on.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    device: String,
    kind: String,
}

impl Machine {
    pub(crate) fn look(dir: &Path) -> Result<Self, String> {
        let dir = dir.canonicalize().map_err(|error| format!("could not find {}: {error}", dir.display()))?;
        let statistics = rustix::fs::statvfs(&dir)
            .map_err(|error| format!("could not ask for the free space of {}: {error}", dir.display()))?;
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let rustc = std::process::Command::new("rustc").arg("--version").output();
        Ok(Self {
            processors: thread::available_parallelism().map_or(1, usize::from),
            processor: field(&read("/proc/cpuinfo"), "model name"),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_string(),
            rustc: rustc.map(|found| String::from_utf8_lossy(&found.stdout).trim().to_string()).unwrap_or_default(),
            memory: field(&read("/proc/meminfo"), "MemTotal"),
            mount: mount_of(&read("/proc/mounts"), &dir),
            free_bytes: statistics.f_bavail * statistics.f_frsize,
            load: read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" "),
            syncs: Vec::new(),
            busy: None,
        })
    }

    /// Whether a figure of this directory is one of a disk, and what is measured has room on it.
    pub(crate) fn check_place(&self, space_bytes: u64) -> Result<(), String> {
        if let Some(mount) = &self.mount
            && ["tmpfs", "ramfs", "devtmpfs"].contains(&mount.kind.as_str())
        {
            return Err(format!(
                "the directory is in memory ({}), where a sync costs nothing; name one on a disk with --dir",
                mount.kind
            ));
        }
        if self.free_bytes < space_bytes {
            let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
            return Err(format!(
                "the directory has {:.1} GiB of space, {:.0} are needed; name another one with --dir",
                gib(self.free_bytes),
                gib(space_bytes)
            ));
        }
        Ok(())
    }

    /// An error if others use the processors. The load average alone would still tell of what ended a minute ago.
    pub(crate) fn cpu_is_busy(&mut self) -> Result<(), String> {
        let times = || processor_times(&fs::read_to_string("/proc/stat").unwrap_or_default());
        let Some(before) = times() else { return Ok(()) };
        thread::sleep(Duration::from_secs(2));
        let Some(after) = times() else { return Ok(()) };
        let busy = busy_share(before, after);
        self.busy = Some(busy);
        if busy > BUSY_MAX {
            return Err(format!(
                "the machine is busy: others use {:.0} % of its processors (load average {})",
                busy * 100.0,
                self.load
            ));
        }
        Ok(())
    }

    /// An error if syncs are slow or take very different times.
    pub(crate) fn disk_is_busy(&mut self, dir: &Path) -> Result<(), String> {
        let syncs = measure_syncs(dir)?;
        self.syncs.push(syncs);
        if syncs.ninth_tenth > SYNC_MAX || syncs.ninth_tenth > syncs.median * SYNC_SPREAD_MAX {
            return Err(format!(
                "the disk is busy: half of the syncs of one page take more than {:.0?}, a tenth more than {:.0?}",
                syncs.median, syncs.ninth_tenth
            ));
        }
        Ok(())
    }

    /// Syncs once more at the end: what changed meanwhile shows.
    pub(crate) fn look_again(&mut self, dir: &Path) {
        self.syncs.extend(measure_syncs(dir));
    }

    /// Name and value of each fact.
    pub(crate) fn facts(&self) -> Vec<(&'static str, String)> {
        let mut facts = vec![
            ("processors", format!("{} × {}", self.processors, self.processor)),
            ("memory", self.memory.clone()),
            ("kernel", self.kernel.clone()),
            ("compiler", self.rustc.clone()),
            ("load average", self.load.clone()),
        ];
        if let Some(Mount { device, kind }) = &self.mount {
            facts.push(("disk", format!("{kind} on {device}, {} GiB free", self.free_bytes >> 30)));
        }
        if let Some(busy) = self.busy {
            facts.push(("used by others", format!("{:.0} % of the processors", busy * 100.0)));
        }
        for (name, syncs) in ["sync of a page before", "and after"].into_iter().zip(&self.syncs) {
            facts.push((name, format!("median {:.1?}, nine of ten under {:.1?}", syncs.median, syncs.ninth_tenth)));
        }
        facts
    }

    pub(crate) fn json(&self) -> Value {
        let facts: serde_json::Map<_, _> =
            self.facts().into_iter().map(|(name, value)| (name.to_string(), json!(value))).collect();
        facts.into()
    }
}

/// The value of a `name : value` line.
fn field(text: &str, name: &str) -> String {
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.split_once(':').map_or("unknown", |(_, value)| value.trim()).to_string()
}

/// The line of `/proc/mounts` with the longest path that leads to `dir`; of equal ones the last.
fn mount_of(mounts: &str, dir: &Path) -> Option<Mount> {
    let lines = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        Some((words.next()?, words.next()?, words.next()?))
    });
    let (device, _, kind) = lines.filter(|(_, path, _)| dir.starts_with(path)).max_by_key(|(_, path, _)| path.len())?;
    Some(Mount { device: device.to_string(), kind: kind.to_string() })
}

/// Total and idle time of all processors since the start, in ticks, of `/proc/stat`.
fn processor_times(stat: &str) -> Option<(u64, u64)> {
    let ticks: Vec<u64> =
        stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().map_while(|word| word.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; what follows is counted in user already.
    let idle = ticks.get(3)? + ticks.get(4)?;
    Some((ticks.iter().take(8).sum(), idle))
}

fn busy_share((total, idle): (u64, u64), (total_after, idle_after): (u64, u64)) -> f64 {
    let passed = total_after.saturating_sub(total).max(1);
    1.0 - idle_after.saturating_sub(idle).min(passed) as f64 / passed as f64
}

fn measure_syncs(dir: &Path) -> Result<Syncs, String> {
    let path = dir.join("syncs");
    let measured = syncs_in(&path).map_err(|error| format!("could not sync {}: {error}", path.display()));
    let _ = fs::remove_file(&path);
    measured
}

fn syncs_in(path: &Path) -> std::io::Result<Syncs> {
    let file = File::create(path)?;
    file.write_all_at(&vec![0; (SYNCS * PAGE) as usize], 0)?;
    file.sync_all()?;
    let mut times = Vec::new();
    for page in 0..SYNCS {
        let start = Instant::now();
        file.write_all_at(&[1; PAGE as usize], page * PAGE)?;
        file.sync_data()?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    Ok(Syncs { median: times[times.len() / 2], ninth_tenth: times[times.len() * 9 / 10] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_with_the_longest_path_counts() {
        let mounts = "/dev/vda / ext4 rw 0 0\ntmpfs /dev/shm tmpfs rw 0 0\n/dev/vdb /data xfs rw 0 0\n";
        let kind = |dir: &str| mount_of(mounts, Path::new(dir)).map(|mount| mount.kind);
        assert_eq!(kind("/dev/shm/x").as_deref(), Some("tmpfs"));
        assert_eq!(kind("/data/x").as_deref(), Some("xfs"));
        assert_eq!(kind("/database").as_deref(), Some("ext4"));
    }

    #[test]
    fn what_is_not_idle_is_busy() {
        let before = processor_times("cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1").unwrap();
        let after = processor_times("cpu  140 0 110 740 110 0 0 0 0 0\ncpu0 1").unwrap();
        assert_eq!(before, (1000, 800));
        assert!((busy_share(before, after) - 0.5).abs() < 1e-9);
        assert_eq!(processor_times("nothing"), None);
    }

    #[test]
    fn a_directory_in_memory_or_without_space_is_refused() {
        let mut machine = Machine::look(&std::env::temp_dir()).unwrap();
        machine.mount = Some(Mount { device: "tmpfs".into(), kind: "tmpfs".into() });
        assert!(machine.check_place(0).unwrap_err().contains("in memory"));
        machine.mount = None;
        assert!(machine.check_place(u64::MAX).unwrap_err().contains("of space"));
        machine.check_place(0).unwrap();
    }
}
