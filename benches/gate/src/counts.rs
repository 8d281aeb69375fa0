//! Counting.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::Error;
use crate::figures::Figures;
use crate::works::{WORKS, Work};

/// Calls before any is counted: buffers have grown to their size then.
const WARM_UP: u64 = 150;
/// Calls that are counted.
const COUNTED: u64 = 200;

/// Counts from outside, by name, what so many calls of a work cost; the directory is for what the tool writes.
type Count = fn(&Work, u64, &Path) -> Result<BTreeMap<String, u64>, Error>;

/// Does `work` so many times, after a warm-up.
pub(crate) fn repeat(work: &Work, times: u64) -> Result<(), Error> {
    let dir = tempfile::tempdir()?;
    let mut call = (work.ready)(dir.path())?;
    for _ in 0..WARM_UP + times {
        call()?;
    }
    Ok(())
}

/// What each operation allocates, and which system calls it makes where strace is there.
pub(crate) fn allocations_and_system_calls() -> Result<Figures, Error> {
    let has_strace = is_there("strace");
    if !has_strace {
        println!("skipped: system calls: strace is missing; to get it on Debian: apt-get install strace");
    }
    let mut figures = Figures::default();
    for work in WORKS {
        let dir = tempfile::tempdir()?;
        let mut call = (work.ready)(dir.path())?;
        for _ in 0..WARM_UP {
            call()?;
        }
        let mut done = Ok(());
        let counted = allocation_counter::measure(|| {
            done = (0..COUNTED).try_for_each(|_| call());
        });
        done?;
        let each = |count: u64| count as f64 / (COUNTED * work.operations) as f64;
        figures.add(work.name, "allocations", each(counted.count_total));
        figures.add(work.name, "allocated bytes", each(counted.bytes_total));
        if has_strace {
            for (name, count) in difference(work, system_calls)? {
                figures.add(work.name, &format!("system call {name}"), count);
            }
        }
    }
    Ok(figures)
}

/// What callgrind counts.
pub(crate) fn instructions() -> Result<Figures, Error> {
    if !is_there("valgrind") {
        return Err("valgrind is missing; to get it on Debian: apt-get install valgrind".into());
    }
    let mut figures = Figures::default();
    for work in WORKS {
        for (name, count) in difference(work, callgrind)? {
            figures.add(work.name, &name, count);
        }
    }
    Ok(figures)
}

fn is_there(tool: &str) -> bool {
    Command::new(tool)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|it| it.success())
}

/// What one operation costs by a count from outside: two runs that differ in the calls alone.
fn difference(work: &Work, count: Count) -> Result<BTreeMap<String, f64>, Error> {
    let dir = tempfile::tempdir()?;
    let (few, many) = (count(work, 0, dir.path())?, count(work, COUNTED, dir.path())?);
    let each = |(name, many): (String, u64)| {
        let more = many.saturating_sub(few.get(&name).copied().unwrap_or_default());
        (name, more as f64 / (COUNTED * work.operations) as f64)
    };
    // One call in two thousand operations is an accident, such as a lock that two threads wanted at once.
    Ok(many.into_iter().map(each).filter(|(_, count)| *count * work.operations as f64 > 0.05).collect())
}

/// This program, doing `work`, below `tool`.
fn below(tool: &mut Command, work: &Work, times: u64) -> Result<String, Error> {
    let program = std::env::current_exe()?;
    let output = tool.arg(program).arg("do").arg(work.name).arg(times.to_string()).stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        let end = said.lines().last().unwrap_or_default();
        return Err(format!("{} under {:?}: {}: {end}", work.name, tool.get_program(), output.status).into());
    }
    Ok(said)
}

/// System calls of the thread that does the work, by name. Those of memory are left out: allocations cause them.
fn system_calls(work: &Work, times: u64, dir: &Path) -> Result<BTreeMap<String, u64>, Error> {
    const OF_MEMORY: [&str; 6] = ["brk", "mmap", "munmap", "mremap", "madvise", "mprotect"];
    let summary = dir.join("strace");
    below(Command::new("strace").args(["-c", "-U", "calls,name", "-o"]).arg(&summary), work, times)?;
    let text = std::fs::read_to_string(&summary)?;
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let count = words.next()?.parse().ok()?;
        Some((words.next()?.to_owned(), count))
    };
    let counts: BTreeMap<String, u64> = text.lines().filter_map(line).collect();
    if counts.is_empty() {
        return Err(format!("strace counted nothing:\n{text}").into());
    }
    Ok(counts.into_iter().filter(|(name, _)| name != "total" && !OF_MEMORY.contains(&name.as_str())).collect())
}

fn callgrind(work: &Work, times: u64, dir: &Path) -> Result<BTreeMap<String, u64>, Error> {
    let out = format!("--callgrind-out-file={}", dir.join("callgrind").display());
    let said = below(Command::new("valgrind").args(["--tool=callgrind", &out]), work, times)?;
    let collected = said.lines().find_map(|line| line.split_once("Collected :"));
    let count = collected.and_then(|(_, count)| count.trim().parse().ok());
    let count = count.ok_or("callgrind did not say how many instructions it collected")?;
    Ok(BTreeMap::from([("instructions".to_owned(), count)]))
}
