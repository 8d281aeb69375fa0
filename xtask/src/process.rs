//! One child process with a log: every line goes to the file and to a watcher, in the order in which it was written.
//!
//! A process that says nothing for a while gets a line that it is still there; one that passes its limit is ended with
//! everything it started.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// How long a process may be silent on the terminal before a line says that it still runs.
const SIGN_OF_LIFE: Duration = Duration::from_secs(30);

/// Runs `command` to its end and keeps its output, both streams in order, in `log`. Each line is shown to `watch`, which
/// answers what to print of it.
///
/// # Errors
/// The process could not be started, ended with a failure, or ran longer than `limit`; the text says which.
pub(crate) fn run(
    command: &mut Command,
    log: &Path,
    limit: Duration,
    mut watch: impl FnMut(&str) -> Option<String>,
) -> Result<(), String> {
    let started = Instant::now();
    let mut file = File::create(log).map_err(|error| format!("could not create {}: {error}", log.display()))?;
    let (mut child, lines) = spawn(command)?;
    let mut last_line = String::new();
    let mut printed = Instant::now();
    loop {
        let received = lines.recv_timeout(Duration::from_secs(1));
        match received {
            Ok(line) => {
                // A log that cannot be written is no reason to fail what it logs.
                let _ = writeln!(file, "{line}");
                if let Some(short) = watch(&line) {
                    println!("        {short}");
                    printed = Instant::now();
                }
                if !line.trim().is_empty() {
                    last_line = line;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if printed.elapsed() >= SIGN_OF_LIFE {
            let shown: String = last_line.trim().chars().take(90).collect();
            // Not part of what the command has to say, which may be read by a program.
            eprintln!("        … {}: {shown}", duration(started.elapsed()));
            printed = Instant::now();
        }
        if started.elapsed() >= limit {
            kill_with_descendants(&mut child);
            return Err(format!("ran longer than {} and was ended", duration(limit)));
        }
    }
    let status = child.wait().map_err(|error| format!("its end could not be awaited: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("ended with {status}")) }
}

/// Starts `command` with both streams in one pipe, so that their order is the order of writing.
fn spawn(command: &mut Command) -> Result<(Child, mpsc::Receiver<String>), String> {
    let (reader, writer) = std::io::pipe().map_err(|error| format!("could not make a pipe: {error}"))?;
    let second = writer.try_clone().map_err(|error| format!("could not duplicate a pipe: {error}"))?;
    command.stdin(Stdio::null()).stdout(writer).stderr(second);
    let child = command
        .spawn()
        .map_err(|error| format!("could not start {}: {error}", command.get_program().to_string_lossy()))?;
    // The command keeps its ends of the pipe; without this the reader would never see the end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let (sender, lines) = mpsc::channel();
    // Ends with the pipe; a receiver that is gone ends it at the next line.
    thread::spawn(move || {
        let mut reader = BufReader::new(reader);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes).is_ok_and(|read| read > 0) {
            let line = String::from_utf8_lossy(&bytes).trim_end_matches(['\n', '\r']).to_string();
            if sender.send(line).is_err() {
                break;
            }
            bytes.clear();
        }
    });
    Ok((child, lines))
}

/// Ends `child` and what it started. Not by process group: a group of its own would no longer hear Ctrl-C.
fn kill_with_descendants(child: &mut Child) {
    let mut doomed = vec![child.id()];
    let mut next = 0;
    while next < doomed.len() {
        let parent = doomed[next];
        doomed.extend(children_of(parent));
        next += 1;
    }
    for pid in doomed.iter().skip(1) {
        let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// Processes whose parent is `parent`; none where there is no `/proc`.
fn children_of(parent: u32) -> Vec<u32> {
    let Ok(directory) = std::fs::read_dir("/proc") else { return Vec::new() };
    directory
        .flatten()
        .filter_map(|process| process.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| parent_in(&stat) == Some(parent))
        })
        .collect()
}

/// The parent named by a line of `/proc/PID/stat`: the second field after the command's closing parenthesis.
fn parent_in(stat: &str) -> Option<u32> {
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// A duration for people.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..120 => format!("{seconds} s"),
        _ => format!("{} min {:02} s", seconds / 60, seconds % 60),
    }
}

/// Whether a program can be started and ends well; what it says is not shown.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_both_streams_arrive_in_order_and_stay_in_the_log() {
        let log = std::env::temp_dir().join(format!("d-engine-xtask-{}-order", std::process::id()));
        let mut seen = Vec::new();
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two >&2; printf three; exit 3"]);
        let ended = run(&mut command, &log, Duration::from_secs(60), |line| {
            seen.push(line.to_string());
            None
        });
        assert!(ended.unwrap_err().contains("3"));
        assert_eq!(seen, ["one", "two", "three"]);
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "one\ntwo\nthree\n");
        std::fs::remove_file(&log).unwrap();
    }

    #[test]
    fn a_process_over_its_limit_is_ended_with_its_children() {
        let log = std::env::temp_dir().join(format!("d-engine-xtask-{}-limit", std::process::id()));
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 600 & echo $!; wait"]);
        let mut grandchild = String::new();
        let ended = run(&mut command, &log, Duration::from_millis(500), |line| {
            grandchild = line.to_string();
            None
        });
        assert!(ended.unwrap_err().contains("longer"));
        if Path::new("/proc/self").exists() {
            // The signal is sent; the system may need a moment to carry it out.
            let until = Instant::now() + Duration::from_secs(20);
            let stat = || std::fs::read_to_string(format!("/proc/{grandchild}/stat")).unwrap_or_default();
            let has_ended = || stat().is_empty() || stat().contains(") Z ");
            while !has_ended() && Instant::now() < until {
                std::thread::yield_now();
            }
            assert!(has_ended(), "{}", stat());
        }
        std::fs::remove_file(&log).unwrap();
    }

    #[test]
    fn the_parent_is_found_behind_a_command_with_blanks_and_parentheses() {
        assert_eq!(parent_in("12 (a (b) c) S 7 12 12 0"), Some(7));
    }
}
