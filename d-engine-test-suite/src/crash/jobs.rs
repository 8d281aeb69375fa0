//! The child's side: what the test that runs as another process does.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use super::{damage, failed_calls, full_disk, torn};
use crate::law::{LawResult, Outcome, Violation, Why};
use crate::process::{Child, FIELD, PATIENCE, Said, open_patiently, say_to_parent, wait_for_word};
use crate::subject::{History, Style, Subject};

/// Does the job of this process, if it has one for this subject; ends the process then.
pub(crate) async fn run_job<S: Subject>(job: &[OsString]) {
    let job: Vec<&str> = job.iter().filter_map(|field| field.to_str()).collect();
    let [task, name, dir, arguments @ ..] = &job[..] else { return };
    if *name != S::NAME {
        return;
    }
    let dir = Path::new(dir);
    match (*task, arguments) {
        ("write", [seed, phases]) => write::<S>(dir, number(seed), phases).await,
        ("damage", []) => answer(damage::judge::<S>(dir).await),
        ("torn", [seed]) => answer(torn::judge::<S>(dir, number(seed)).await),
        ("full disk", []) => answer(full_disk::judge::<S>(dir).await),
        ("failed calls", [seed]) => failed_calls::write_until_failure::<S>(dir, number(seed)).await,
        _ => say_to_parent(&["failed", "a job that this process does not know"]),
    }
    std::process::exit(0);
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_default()
}

/// Writes a history, and says after which call everything is durable.
async fn write<S: Subject>(dir: &Path, seed: u64, phases: &str) {
    let Some(subject) = S::at(dir) else { return };
    let store = match open_patiently(|| subject.open()).await {
        Ok(store) => store,
        Err(error) => return say_to_parent(&["failed", &format!("opening: {error} ({error:?})")]),
    };
    let state = match subject.read(&store).await {
        Ok(state) => state,
        Err(unreadable) => return say_to_parent(&["failed", &unreadable.describe()]),
    };
    say_to_parent(&["open", &subject.describe(&state)]);
    let mut history = History::new(&subject, state, seed, subject.writes_are_durable(&store));
    for phase in phases.split(',') {
        let Some((style, calls)) = phase.split_once(':') else { return };
        let Some(style) = Style::of(style) else { return };
        for _ in 0..number(calls) {
            let (call, durable) = history.step(style);
            if let Err(error) = subject.run(&store, call.clone()).await {
                return say_to_parent(&["failed", &format!("call {}: {error} ({error:?})", history.calls)]);
            }
            if durable {
                history.settle();
                say_to_parent(&["durable", &history.calls.to_string()]);
            }
        }
        say_to_parent(&["end"]);
        wait_for_word();
    }
}

/// Tells the parent how a law came out that was judged in this process.
fn answer(result: LawResult) {
    match result {
        Ok(Outcome::Held) => say_to_parent(&["held"]),
        Ok(Outcome::NotChecked { why }) => say_to_parent(&["not checked", &why]),
        Ok(Outcome::KnownFailure { .. }) => unreachable!("only the builder's test knows of failures"),
        Err(violation) => {
            let (expected, found) = violation.parts();
            say_to_parent(&["broken", expected, found]);
        }
    }
}

/// Has a law judged in another process, where a hang, an abort or a signal is a finding and not the end of the tests.
pub(super) fn judged_elsewhere(child: &Child, why: Why, job: &[&OsStr]) -> LawResult {
    let mut process = child.start(why, job, &[])?;
    let mut doing = String::from("starting");
    loop {
        let said = process.listen(PATIENCE).map_err(|error| d_engine_core::Error::io("listening to the judge", error));
        match why.ok("listening to the judging process", said)? {
            Said::Line(line) => {
                let fields: Vec<&str> = line.split(FIELD).collect();
                match fields[..] {
                    ["held"] => return Ok(Outcome::Held),
                    ["not checked", reason] => return Ok(Outcome::NotChecked { why: reason.to_owned() }),
                    ["broken", expected, found] => return Err(why.violation(expected, found)),
                    ["doing", what] => doing = what.to_owned(),
                    _ => return Err(unexpected(why, &doing, line)),
                }
            }
            Said::Nothing => {
                let found = format!("it said nothing for {} s", PATIENCE.as_secs());
                return Err(why.violation(format!("the store answers: {doing}"), found));
            }
            Said::End => return Err(unexpected(why, &doing, process.post_mortem())),
        }
    }
}

fn unexpected(why: Why, doing: &str, found: String) -> Violation {
    why.violation(format!("the store answers, with an error at worst: {doing}"), found)
}

/// Says what comes next, so that the parent knows where the process was if it does not come back.
pub(super) fn announce(doing: &str) {
    say_to_parent(&["doing", doing]);
}
