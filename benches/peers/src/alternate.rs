//! Rounds of several subjects in turns: whatever slows the machine down meets all of them.
//!
//! A ratio is the median of the ratios of the rounds; the first subject that can do the work is compared with the others.

use std::time::Duration;

use async_trait::async_trait;
use d_engine_load::{Figures, Load, Round};
use serde_json::{Value, json};

use crate::log::Result;

/// One kind of call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Writes a key that exists.
    Put,
    /// Reads a key, linearizable.
    Get,
    /// Reads a key by the lease of the leader, which trusts clocks.
    GetLease,
    /// Reads the copy of one node, which may be old.
    GetLocal,
}

impl Work {
    pub const ALL: [Self; 4] = [Self::Put, Self::Get, Self::GetLease, Self::GetLocal];

    pub fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::GetLease => "get-lease",
            Self::GetLocal => "get-local",
        }
    }
}

/// Something that is called.
#[async_trait(?Send)]
pub trait Subject {
    fn name(&self) -> &'static str;

    /// The version, and what an acknowledged write is worth.
    fn about(&self) -> String;

    fn can(&self, work: Work) -> bool;

    /// Is called before anything is measured.
    async fn fill(&mut self) -> Result<()>;

    /// One round of this load.
    async fn round(&self, work: Work, load: &Load) -> Result<Round>;

    /// Ends what was started.
    async fn stop(self: Box<Self>) -> Result<()>;
}

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

    fn load(&self, clients: usize) -> Load {
        Load { clients, rate: None, round: self.round, rounds: self.rounds }
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

    pub fn json(self, subjects: &[Box<dyn Subject>]) -> Value {
        let subjects: Vec<_> =
            subjects.iter().map(|subject| json!({ "name": subject.name(), "about": subject.about() })).collect();
        json!({ "subjects": subjects, "measured": self.measured, "ratios": self.ratios, "skipped": self.skipped })
    }

    /// Measures `work` of all that can do it. What fails altogether is skipped, for the others to go on.
    pub async fn measure(&mut self, subjects: &[Box<dyn Subject>], work: Work, clients: usize, rounds: &Rounds) {
        let load = rounds.load(clients);
        let warm_up = Load { round: load.round / 2, ..load.clone() };
        let mut able = Vec::new();
        for subject in subjects.iter().filter(|subject| subject.can(work)) {
            match subject.round(work, &warm_up).await {
                Ok(_) => able.push((subject, Vec::new())),
                Err(why) => self.skip(format!("{} of {}, {clients} clients", work.name(), subject.name()), why),
            }
        }
        for number in 0..rounds.rounds {
            let mut turn = 0;
            while turn < able.len() {
                let at = (turn + number) % able.len();
                let (subject, of_subject) = &mut able[at];
                match subject.round(work, &load).await {
                    Ok(round) => of_subject.push(round),
                    Err(why) => {
                        self.skip(format!("{} of {}, {clients} clients", work.name(), subject.name()), why);
                        able.remove(at);
                        continue;
                    }
                }
                turn += 1;
            }
        }
        self.compare(&able, work, clients);
        for (subject, of_subject) in able {
            match Figures::new(&load, of_subject) {
                Ok(figures) => self.measured.push(figures.named(subject.name(), work.name()).json()),
                Err(why) => self.skip(format!("{} of {}", work.name(), subject.name()), why),
            }
        }
    }

    /// Every subject of ours with every other one.
    fn compare(&mut self, able: &[(&Box<dyn Subject>, Vec<Round>)], work: Work, clients: usize) {
        let is_ours = |name: &str| name.starts_with("d-engine ");
        for (ours, our_rounds) in able.iter().filter(|(subject, _)| is_ours(subject.name())) {
            for (peer, peer_rounds) in able.iter().filter(|(subject, _)| !is_ours(subject.name())) {
                let mut rates: Vec<f64> =
                    our_rounds.iter().zip(peer_rounds).map(|(a, b)| a.per_second() / b.per_second()).collect();
                let mut medians: Vec<f64> = our_rounds
                    .iter()
                    .zip(peer_rounds)
                    .map(|(a, b)| a.median_ns() as f64 / b.median_ns() as f64)
                    .collect();
                rates.sort_by(f64::total_cmp);
                medians.sort_by(f64::total_cmp);
                let (Some(lowest), Some(highest)) = (rates.first(), rates.last()) else { continue };
                self.ratios.push(json!({
                    "subject": ours.name(), "against": peer.name(), "work": work.name(), "clients": clients,
                    "ratio": rates[rates.len() / 2], "lowest": lowest, "highest": highest,
                    "p50_ratio": medians[medians.len() / 2], "rounds": rates.len(),
                }));
            }
        }
    }
}
