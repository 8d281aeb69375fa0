//! Rounds of several systems in turns: whatever slows the machine down meets all of them, and whoever is not measured
//! sleeps. A ratio is the median of the ratios of the rounds.

use std::time::Duration;

use d_engine_load::{Figures, Load, Round};
use serde_json::{Value, json};

use crate::log::Result;
use crate::subject::{BY_UNARY_CALLS, UNARY_ALONE, Work};
use crate::system::System;

/// How long and how often.
pub struct Rounds {
    pub clients: Vec<usize>,
    pub round: Duration,
    pub rounds: usize,
}

impl Rounds {
    /// Of the last flags of the command line.
    pub fn parse(clients: &str, flags: &[&str]) -> Result<Self> {
        let ["--seconds", seconds, "--rounds", rounds] = *flags else { return Err(crate::USAGE.into()) };
        let seconds: f64 = seconds.parse()?;
        let rounds: usize = rounds.parse()?;
        if !(0.05..=60.0).contains(&seconds) || rounds == 0 {
            return Err("a round takes 0.05 to 60 seconds, and there is at least one".into());
        }
        let clients = clients.split(',').map(str::parse).collect::<std::result::Result<_, _>>()?;
        Ok(Self { clients, round: Duration::from_secs_f64(seconds), rounds })
    }
}

/// The rounds of one subject with so many clients.
struct Series {
    /// The system's place, and the subject's in it.
    system: usize,
    subject: usize,
    name: String,
    clients: usize,
    rounds: Vec<Round>,
    failed: bool,
}

impl Series {
    fn answered(&self) -> u64 {
        self.rounds.iter().map(Round::answered).sum()
    }

    /// How it answered nothing.
    fn silence(&self) -> String {
        let failed: u64 = self.rounds.iter().map(Round::errors).sum();
        let first = self.rounds.iter().find_map(Round::first_error).unwrap_or("no call failed");
        format!("{} answered nothing; {failed} calls failed: {first}", self.name)
    }
}

/// What was found, and what could not be.
#[derive(Default)]
pub struct Found {
    measured: Vec<Value>,
    ratios: Vec<Value>,
    skipped: Vec<Value>,
}

impl Found {
    pub fn skip(&mut self, what: impl Into<String>, why: impl std::fmt::Display) {
        self.skipped.push(json!({ "what": what.into(), "why": why.to_string() }));
    }

    pub fn json(self, systems: &[System]) -> Value {
        let subjects: Vec<_> = systems
            .iter()
            .flat_map(System::subjects)
            .map(|subject| json!({ "name": subject.name, "about": subject.about }))
            .collect();
        json!({ "subjects": subjects, "measured": self.measured, "ratios": self.ratios, "skipped": self.skipped })
    }

    /// Measures `work` of all that can do it, with each number of clients. In every round each system wakes once; the next
    /// round is begun by the next one. What fails altogether is skipped, for the others to go on.
    pub fn measure(&mut self, systems: &mut [System], work: Work, clients: &[usize], rounds: &Rounds) {
        let mut all = series(systems, work, clients);
        for number in 0..rounds.rounds {
            for turn in 0..systems.len() {
                let at = (turn + number) % systems.len();
                let mut turns: Vec<&mut Series> =
                    all.iter_mut().filter(|series| series.system == at && !series.failed).collect();
                if !turns.is_empty() {
                    self.turn(&mut systems[at], work, &mut turns, rounds.round);
                }
            }
        }
        all.retain(|series| !series.failed);
        self.compare(&all, work);
        for series in all {
            let load = Load { clients: series.clients, rate: None, round: rounds.round, rounds: rounds.rounds };
            match Figures::new(&load, series.rounds) {
                Ok(figures) => self.measured.push(figures.named(series.name, work.name()).json()),
                Err(why) => self.skip(format!("{} of {}", work.name(), series.name), why),
            }
        }
    }

    /// One round of all that one system offers.
    fn turn(&mut self, system: &mut System, work: Work, turns: &mut [&mut Series], round: Duration) {
        let woken = system.wake().map_err(|why| why.to_string());
        for series in turns {
            let found = woken.clone().map_err(Into::into);
            match found.and_then(|()| system.round(series.subject, work, series.clients, round)) {
                Ok(round) => series.rounds.push(round),
                Err(why) => {
                    series.failed = true;
                    self.skip(format!("{} of {}, {} clients", work.name(), series.name, series.clients), why);
                }
            }
        }
        if let Err(why) = system.sleep() {
            eprintln!("a system cannot be stopped and goes on beside the others: {why}");
        }
    }

    /// Every subject of ours with every other one that does the same in another way.
    fn compare(&mut self, all: &[Series], work: Work) {
        let is_ours = |series: &&Series| series.name.starts_with("d-engine ");
        for ours in all.iter().filter(is_ours) {
            let peers = all.iter().filter(|peer| !is_ours(peer) && peer.clients == ours.clients);
            let peers = peers.filter(|peer| peer.name != UNARY_ALONE || ours.name == BY_UNARY_CALLS);
            self.ratios.extend(peers.map(|peer| ratio(ours, peer, work)));
        }
    }
}

/// In the order in which they are told: by clients, then by subject.
fn series(systems: &[System], work: Work, clients: &[usize]) -> Vec<Series> {
    let mut all = Vec::new();
    for &clients in clients {
        for (system, offered) in systems.iter().enumerate() {
            for (subject, about) in offered.subjects().iter().enumerate().filter(|(_, about)| about.can(work)) {
                let (name, rounds) = (about.name.clone(), Vec::new());
                all.push(Series { system, subject, name, clients, rounds, failed: false });
            }
        }
    }
    all
}

/// The ratios of the rounds in which both were answered; why there is none, where one never was.
fn ratio(ours: &Series, peer: &Series, work: Work) -> Value {
    let mut found = json!({
        "subject": ours.name, "against": peer.name, "work": work.name(), "clients": ours.clients,
    });
    if let Some(silent) = [ours, peer].into_iter().find(|series| series.answered() == 0) {
        found["why"] = silent.silence().into();
        return found;
    }
    let pairs: Vec<_> =
        ours.rounds.iter().zip(&peer.rounds).filter(|(a, b)| a.answered() > 0 && b.answered() > 0).collect();
    let sorted = |of: &dyn Fn(&Round) -> f64| {
        let mut ratios: Vec<f64> = pairs.iter().map(|(a, b)| of(a) / of(b)).collect();
        ratios.sort_by(f64::total_cmp);
        ratios
    };
    let (rates, medians) = (sorted(&Round::per_second), sorted(&|round| round.median_ns() as f64));
    let (Some(lowest), Some(highest)) = (rates.first(), rates.last()) else {
        found["why"] = format!("{} and {} were answered in different rounds", ours.name, peer.name).into();
        return found;
    };
    found["ratio"] = rates[rates.len() / 2].into();
    found["lowest"] = (*lowest).into();
    found["highest"] = (*highest).into();
    found["p50_ratio"] = medians[medians.len() / 2].into();
    found["rounds"] = rates.len().into();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str, rounds: &[(u64, u64)]) -> Series {
        let round = |(answered, failed): &(u64, u64)| {
            let latencies = if *answered == 0 { json!([]) } else { json!([[1000, answered]]) };
            Round::from_json(&json!({
                "latencies": latencies, "errors": failed, "first_error": "refused", "took_ns": 1_000_000_000,
                "processor_ns": 0, "switches": 0,
            }))
        };
        let rounds = rounds.iter().map(|one| round(one).unwrap()).collect();
        Series { system: 0, subject: 0, name: name.to_owned(), clients: 1, rounds, failed: false }
    }

    #[test]
    fn a_ratio_is_the_median_of_those_of_the_rounds() {
        let (ours, peer) =
            (series("d-engine x", &[(30, 0), (10, 0), (50, 0)]), series("y", &[(10, 0), (10, 0), (10, 0)]));
        let found = ratio(&ours, &peer, Work::Put);
        assert_eq!((&found["ratio"], &found["lowest"], &found["highest"]), (&json!(3.0), &json!(1.0), &json!(5.0)));
    }

    #[test]
    fn who_answers_nothing_is_named_and_a_silent_round_counts_for_neither() {
        let ours = series("d-engine x", &[(30, 0), (10, 0)]);
        let found = ratio(&ours, &series("y", &[(0, 3), (0, 4)]), Work::Put);
        assert!(found["ratio"].is_null());
        assert_eq!(found["why"], "y answered nothing; 7 calls failed: refused");
        let found = ratio(&ours, &series("y", &[(0, 3), (5, 4)]), Work::Put);
        assert_eq!((&found["ratio"], &found["rounds"]), (&json!(2.0), &json!(1)));
    }
}
