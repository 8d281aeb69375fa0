//! `cargo verify`: judges the whole tree and never writes to it.
//!
//! Every step has a title, a log in `target/verify/` and a time. A step that fails is reported with the end of its log,
//! and the steps that do not need it still run. The last line alone reads `N passed, N failed, N skipped`: tests count
//! one each, every other step counts one.

use std::time::Instant;

use crate::Failed;
use run::Run;
use steps::{STEPS, Step};

mod rocksdb;
mod run;
mod steps;

/// Prints the steps that would run.
pub(crate) fn list(only: &[String]) -> Result<(), Failed> {
    for step in chosen(only)? {
        println!("{:<17}{}", step.name, step.title);
    }
    Ok(())
}

/// Runs the steps named in `only` and those they need; all of them if it is empty.
pub(crate) fn verify(only: &[String]) -> Result<(), Failed> {
    let started = Instant::now();
    let steps = chosen(only)?;
    let mut run = Run::new()?;
    for (number, step) in steps.iter().enumerate() {
        println!("[{}/{}] {}: {}", number + 1, steps.len(), step.name, step.title);
        run.step(step);
    }
    run.summary(started.elapsed())
}

fn chosen(only: &[String]) -> Result<Vec<&'static Step>, Failed> {
    if let Some(unknown) = only.iter().find(|name| all_steps().all(|step| step.name != **name)) {
        let names: Vec<_> = all_steps().map(|step| step.name).collect();
        return Err(Failed::Because(format!("there is no step {unknown}; the steps are {}", names.join(", "))));
    }
    let named = |step: &Step| only.is_empty() || only.iter().any(|name| name == step.name);
    let needed = |step: &Step| all_steps().any(|other| named(other) && other.needs.contains(&step.name));
    Ok(all_steps().filter(|step| named(step) || needed(step)).collect())
}

fn all_steps() -> impl Iterator<Item = &'static Step> {
    STEPS.iter().chain(rocksdb::STEPS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chosen_step_brings_the_steps_it_needs() {
        let names = |only: &[&str]| -> Vec<&str> {
            let only: Vec<String> = only.iter().map(ToString::to_string).collect();
            chosen(&only).ok().unwrap().iter().map(|step| step.name).collect()
        };
        assert_eq!(names(&["tests"]), ["build", "tests"]);
        assert_eq!(names(&["docs", "format"]), ["format", "docs"]);
        assert_eq!(names(&[]).len(), all_steps().count());
        assert!(chosen(&["no-such-step".to_string()]).is_err());
    }

    #[test]
    fn steps_need_only_steps_before_them() {
        let steps: Vec<&Step> = all_steps().collect();
        for (place, step) in steps.iter().enumerate() {
            for needed in step.needs {
                assert!(steps[..place].iter().any(|before| before.name == *needed), "{} needs {needed}", step.name);
            }
        }
    }
}
