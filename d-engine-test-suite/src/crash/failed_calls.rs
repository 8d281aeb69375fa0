//! Failed system calls: strace answers a write or a sync with an input/output error in place of the kernel.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use d_engine_core::Error;

use super::writer::Writer;
use super::{Lab, enter};
use crate::law::{LawResult, Violation, Why, held, missing, not_checked};
use crate::process::{Child, PATIENCE, Said, counted, files_below, open_patiently, say_to_parent};
use crate::subject::{History, Style, Subject};

/// The system calls by which files are written and synced.
const CALLS_SEEN: &str = "fsync,fdatasync,sync_file_range,syncfs,write,pwrite64,writev,pwritev,pwritev2";
const REMEDY: &str = "install strace (apt-get install strace) and let it trace (in a container: --cap-add SYS_PTRACE)";
/// Calls of a writing process.
const CALLS: u64 = 60;
const SEED: u64 = 21;
/// A call of each kind fails for the first time, the second, …
const PLACES: u64 = 5;

/// A write or sync that fails is an error of the call or of a later one; nothing is acknowledged after it, and what was
/// acknowledged before is there after a reopen.
pub(crate) async fn failed_calls<S: Subject>(child: &Child, why: Why) -> LawResult {
    let lab = enter!(S, child, why);
    if let Err(what) = strace_works(lab.dir()) {
        return missing(why, &what, REMEDY);
    }
    let seen = observe(&lab).await?;
    if seen.paths.is_empty() {
        return not_checked("strace saw the store neither write nor sync a file");
    }
    // One at a time: strace counts each system call for itself.
    for call in &seen.calls {
        for place in 1..=PLACES {
            if !one_failure(&lab, &seen.paths, call, place).await? {
                break;
            }
        }
    }
    held()
}

fn strace_works(dir: &Path) -> Result<(), String> {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o"]).arg(dir.join("strace")).args(["-e", "inject=fsync:error=EIO", "true"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let output = counted(|| command.spawn()).and_then(std::process::Child::wait_with_output);
    let output = output.map_err(|error| format!("strace: {error}"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("strace failed: {}", complaint.trim())) }
}

/// A store with a few calls in it, and what is known of its files.
struct Prepared<S: Subject> {
    subject: S,
    dir: PathBuf,
    state: S::State,
    /// Files that the store has: what fails on one of them must not go unnoticed. A file that is only being made may be
    /// given up.
    files: Vec<PathBuf>,
}

/// Lets one call fail in a new store; whether a call did fail.
async fn one_failure<S: Subject>(
    lab: &Lab<'_, S>,
    paths: &BTreeSet<PathBuf>,
    call: &str,
    place: u64,
) -> Result<bool, Violation> {
    let why = lab.why;
    let Some(prepared) = prepare(lab).await? else { return Ok(false) };
    let (mut writer, trace) = start(lab, &prepared, paths, call, Some(place))?;
    let what = format!("the {place}. {call} of a thread that fails with EIO");
    let ended = hear_out(&mut writer, &what)?;
    let trace = why.ok("reading what strace saw", fs::read_to_string(&trace).map_err(Error::from))?;
    let mut failed = trace.lines().filter(|line| line.ends_with("(INJECTED)"));
    let had_before = |line: &str| prepared.files.iter().any(|file| line.contains(&format!("<{}>", file.display())));
    if ended && let Some(line) = failed.clone().find(|line| had_before(line)) {
        let expected = format!("{what} is an error of the call that needed it, or of a later one");
        return Err(why.violation(expected, format!("all {CALLS} calls of the process succeeded; strace says: {line}")));
    }
    lab.look_for(&prepared.subject, &writer.possible(), &format!("after {what}")).await?;
    Ok(failed.next().is_some())
}

/// What a store does with its files.
struct Seen {
    /// The files and directories that it writes and syncs, below its own.
    paths: BTreeSet<PathBuf>,
    /// By which system calls.
    calls: BTreeSet<String>,
}

/// Looks on at a run in which nothing fails.
async fn observe<S: Subject>(lab: &Lab<'_, S>) -> Result<Seen, Violation> {
    let mut seen = Seen { paths: BTreeSet::new(), calls: BTreeSet::new() };
    let Some(prepared) = prepare(lab).await? else { return Ok(seen) };
    let (mut writer, trace) = start(lab, &prepared, &seen.paths, CALLS_SEEN, None)?;
    hear_out(&mut writer, "nothing")?;
    let trace = lab.why.ok("reading what strace saw", fs::read_to_string(&trace).map_err(Error::from))?;
    // 4711 fdatasync(7</place/records>) = 0
    for line in trace.lines() {
        let Some((before, rest)) = line.split_once('<') else { continue };
        let Some((path, _)) = rest.split_once('>') else { continue };
        let Some((call, _)) = before.split_once('(') else { continue };
        if let Ok(inside) = Path::new(path).strip_prefix(&prepared.dir) {
            seen.paths.insert(inside.to_owned());
            seen.calls.extend(call.split_whitespace().last().map(str::to_owned));
        }
    }
    Ok(seen)
}

/// A new store with a few calls, so that it has files. Each uses the same directory, so that paths are the same.
async fn prepare<S: Subject>(lab: &Lab<'_, S>) -> Result<Option<Prepared<S>>, Violation> {
    let why = lab.why;
    let dir = lab.dir().join("failing");
    if dir.exists() {
        why.ok("emptying a directory", fs::remove_dir_all(&dir).map_err(Error::from))?;
    }
    why.ok("making a directory", fs::create_dir_all(&dir).map_err(Error::from))?;
    let dir = why.ok("naming a directory", fs::canonicalize(dir).map_err(Error::from))?;
    let Some(subject) = S::at(&dir) else { return Ok(None) };
    let state = lab.look_at(&subject, "when it is new").await?;
    let mut history = History::new(&subject, state, SEED + 77, lab.durable_writes);
    let store = why.ok("opening the store", open_patiently(|| subject.open()).await)?;
    for style in [Style::Unflushed, Style::Unflushed, Style::Flush] {
        let (call, _) = history.step(style);
        why.ok("writing", subject.run(&store, call).await)?;
    }
    drop(store);
    let state = history.state;
    let files = why.ok("listing the files", files_below(&dir).map_err(Error::from))?;
    Ok(Some(Prepared { subject, dir, state, files }))
}

/// Starts the writing process under strace; also where strace writes.
fn start<'a, S: Subject>(
    lab: &'a Lab<'_, S>,
    prepared: &Prepared<S>,
    paths: &BTreeSet<PathBuf>,
    calls: &str,
    fails: Option<u64>,
) -> Result<(Writer<'a, S>, PathBuf), Violation> {
    let trace = lab.dir().join("strace");
    let mut line: Vec<OsString> = ["strace", "-f", "-qq", "-y", "-o"].map(OsString::from).into();
    line.push(trace.clone().into());
    for path in paths {
        line.push("-P".into());
        line.push(prepared.dir.join(path).into());
    }
    line.push("-e".into());
    line.push(format!("trace={calls}").into());
    if let Some(place) = fails {
        line.push("-e".into());
        line.push(format!("inject={calls}:error=EIO:when={place}").into());
    }
    let seed = SEED.to_string();
    let job = ["failed calls".as_ref(), S::NAME.as_ref(), prepared.dir.as_os_str(), OsStr::new(&seed)];
    let process = lab.child.start(lab.why, &job, &line)?;
    Ok((Writer::watching(lab, process, &prepared.state, SEED), trace))
}

/// Listens until the process is done; true if no call of it failed.
fn hear_out<S: Subject>(writer: &mut Writer<'_, S>, what: &str) -> Result<bool, Violation> {
    let mut ended = false;
    loop {
        match writer.hear(PATIENCE)? {
            Said::Line(line) if line == "end" => ended = true,
            Said::Line(line) => match line.strip_prefix("alive") {
                Some(call) => return Err(writer.still_alive(what, call.trim_start_matches(crate::process::FIELD))),
                None => writer.note(&line),
            },
            Said::Nothing => return Err(writer.hangs()),
            Said::End if ended || writer.failure.is_some() => return Ok(ended),
            Said::End => return Err(writer.died()),
        }
    }
}

/// The child's part: writes until a call fails, then tries others, which must fail too.
pub(super) async fn write_until_failure<S: Subject>(dir: &Path, seed: u64) {
    let Some(subject) = S::at(dir) else { return };
    let failed = |calls: u64, error: &Error| say_to_parent(&["failed", &format!("call {calls}: {error} ({error:?})")]);
    let store = match open_patiently(|| subject.open()).await {
        Ok(store) => store,
        Err(error) => return failed(0, &error),
    };
    let Ok(state) = subject.read(&store).await else { return };
    let mut history = History::new(&subject, state, seed, subject.writes_are_durable(&store));
    for _ in 0..CALLS {
        let before = history.state.clone();
        let (call, durable) = history.step(Style::Mixed);
        if let Err(error) = subject.run(&store, call.clone()).await {
            failed(history.calls, &error);
            return try_on(&subject, &store, &call, &before).await;
        }
        if durable {
            say_to_parent(&["durable", &history.calls.to_string()]);
        }
    }
    say_to_parent(&["end"]);
}

/// Calls that must fail after a failed one.
async fn try_on<S: Subject>(subject: &S, store: &S::Store, failed: &S::Call, state: &S::State) {
    let mut random = fastrand::Rng::with_seed(8);
    for _ in 0..3 {
        for call in subject.refused_after(failed, state, &mut random) {
            if subject.run(store, call.clone()).await.is_ok() {
                return say_to_parent(&["alive", &format!("{call:?}")]);
            }
        }
    }
}
