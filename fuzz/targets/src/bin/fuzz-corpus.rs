//! Works on the corpora: writes the seeds into a directory (`fuzz-corpus DIR`), or runs files through a target
//! (`fuzz-corpus TARGET FILE…`), as to see again what libFuzzer has found.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool talks on its standard streams")]

use std::path::Path;
use std::process::ExitCode;

use fuzz_targets::{TARGETS, seeds, target};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match &arguments[..] {
        [dir] => write(Path::new(dir)),
        [name, files @ ..] if !files.is_empty() => run(name, files),
        _ => Err("usage: fuzz-corpus DIR, or fuzz-corpus TARGET FILE…".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn write(dir: &Path) -> Result<(), String> {
    for (name, _) in TARGETS {
        let dir = dir.join(name);
        std::fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        for (number, seed) in seeds(name).iter().enumerate() {
            let path = dir.join(format!("seed-{number:03}"));
            std::fs::write(&path, seed).map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    Ok(())
}

fn run(name: &str, files: &[String]) -> Result<(), String> {
    let target = target(name).ok_or_else(|| {
        let names: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
        format!("there is no target {name}; the targets are {}", names.join(", "))
    })?;
    for file in files {
        target(&std::fs::read(file).map_err(|error| format!("{file}: {error}"))?);
        println!("{file}: nothing is wrong");
    }
    Ok(())
}
