//! `cargo xtask bench kv`: what the key-value state machine costs on the stores in memory and in files.
//!
//! One benchmark, `machine` of d-engine-kv: criterion leaves what it has measured in files, and prints what it judges itself
//! as lines of JSON.

use super::report::Report;
use super::{Measured, Places, RUN_LIMIT, cargo_for, in_scratch, quiet};
use crate::{Failed, process, root};

const PACKAGE: &str = "d-engine-kv";
const BENCH: &str = "machine";
/// Two checkpoints and a snapshot of a million keys of 256 bytes, and as much again.
const SPACE_BYTES: u64 = 2 << 30;

/// Measures the key-value state machine.
pub(crate) fn kv(arguments: &Measured) -> Result<(), Failed> {
    in_scratch("kv", arguments, measure)
}

fn measure(places: &Places, force: bool) -> Result<Report, Failed> {
    let (mut machine, ()) = quiet(&places.scratch, SPACE_BYTES, force, || Ok(places.build(PACKAGE, BENCH)?))?;

    eprintln!("… measuring {BENCH} of {PACKAGE}");
    let mut command = cargo_for(PACKAGE, &["bench", "--locked", "-p", PACKAGE, "--bench", BENCH, "--", "--noplot"]);
    command.current_dir(root());
    command.env("CRITERION_HOME", places.criterion());
    command.env("D_ENGINE_BENCH_DIR", &places.scratch);
    command.env("D_ENGINE_BENCH_JSON", "1");
    let log = places.logs.join("machine.log");
    let mut report = Report::default();
    let ended = process::run(&mut command, &log, RUN_LIMIT, |line| {
        if line.starts_with('{')
            && let Ok(found) = serde_json::from_str(line)
        {
            report.add_figure(&found);
        }
        None
    });
    ended.map_err(|end| format!("{BENCH} of {PACKAGE} {end}; {}", log.display()))?;
    report.add_criterion(&places.criterion())?;
    machine.look_again(&places.scratch);
    report.machine = Some(machine);
    Ok(report)
}
