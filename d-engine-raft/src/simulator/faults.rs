//! Which faults there are, and how a seed chooses among them.

use std::fmt;
use std::ops::AddAssign;

use fastrand::Rng;

/// What can go wrong in a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A message is lost.
    Loss,
    /// A message arrives twice.
    Duplicate,
    /// A message arrives very late.
    Late,
    /// A broken connection is noticed.
    Unreachable,
    /// Two groups cannot talk.
    Partition,
    /// A node, or one link, is cut in one direction only.
    OneWay,
    /// Two groups that one node connects.
    Bridge,
    /// A node loses power.
    Crash,
    /// A node loses power between two of its commands.
    CrashMidStep,
    /// All nodes lose power at once.
    PowerLoss,
    /// A node stops for a while, and runs on.
    Pause,
    /// A disk completes nothing for a while.
    DiskStall,
    /// A disk has no space for a while.
    DiskFull,
    /// A sync fails.
    DiskError,
    /// A read of the log fails.
    ReadError,
    /// A reply arrives from another data directory under the same node id.
    Stranger,
    /// A node loses its disk and comes back empty.
    Wipe,
    /// A snapshot does not arrive, or nobody hears that it did.
    SnapshotLost,
    /// Leadership is challenged while the leader hears nobody, or sleeps.
    Coup,
}

/// Every fault.
pub const FAULTS: [Fault; 19] = [
    Fault::Loss,
    Fault::Duplicate,
    Fault::Late,
    Fault::Unreachable,
    Fault::Partition,
    Fault::OneWay,
    Fault::Bridge,
    Fault::Crash,
    Fault::CrashMidStep,
    Fault::PowerLoss,
    Fault::Pause,
    Fault::DiskStall,
    Fault::DiskFull,
    Fault::DiskError,
    Fault::ReadError,
    Fault::Stranger,
    Fault::Wipe,
    Fault::SnapshotLost,
    Fault::Coup,
];

impl Fault {
    /// What it is called in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::Duplicate => "duplicate",
            Self::Late => "late",
            Self::Unreachable => "unreachable",
            Self::Partition => "partition",
            Self::OneWay => "one-way",
            Self::Bridge => "bridge",
            Self::Crash => "crash",
            Self::CrashMidStep => "crash-mid-step",
            Self::PowerLoss => "power-loss",
            Self::Pause => "pause",
            Self::DiskStall => "disk-stall",
            Self::DiskFull => "disk-full",
            Self::DiskError => "disk-error",
            Self::ReadError => "read-error",
            Self::Stranger => "stranger",
            Self::Wipe => "wipe",
            Self::SnapshotLost => "snapshot-lost",
            Self::Coup => "coup",
        }
    }

    const fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// How often each fault happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FaultCounts([u64; FAULTS.len()]);

impl FaultCounts {
    pub(super) fn add(&mut self, fault: Fault) {
        self.0[fault as usize] += 1;
    }

    /// How many faults happened.
    pub fn sum(&self) -> u64 {
        self.0.iter().sum()
    }

    /// How often `fault` happened.
    pub fn count(&self, fault: Fault) -> u64 {
        self.0[fault as usize]
    }
}

impl AddAssign for FaultCounts {
    fn add_assign(&mut self, other: Self) {
        self.0.iter_mut().zip(other.0).for_each(|(count, more)| *count += more);
    }
}

impl fmt::Display for FaultCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, fault) in FAULTS.iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(f, "{comma}{} {}", fault.name(), self.count(*fault))?;
        }
        Ok(())
    }
}

/// What one seed's world is like. Times are in microseconds, chances in 1/1024.
#[derive(Debug, Clone)]
pub(super) struct Profile {
    enabled: u32,
    loss: u32,
    duplicate: u32,
    late: u32,
    late_max: u64,
    unreachable: u32,
    read_error: u32,
    stranger: u32,
    snapshot_lost: u32,
    /// Chance of a snapshot after an application.
    snapshot: u32,
    /// How long a snapshot travels at most.
    transfer_max: u64,
    /// Mean time between what the operator does; `None`: there is none.
    pub(super) operator_interval: Option<u64>,
    /// Nodes may come back with newer software.
    pub(super) upgrades: bool,
    /// New leaders are crashed soon, again and again (Figure 8).
    pub(super) storms: bool,
    /// Messages of one link may overtake each other.
    pub(super) reorders: bool,
    pub(super) delay_min: u64,
    pub(super) delay_max: u64,
    pub(super) sync_min: u64,
    pub(super) sync_max: u64,
    /// Chance that an event waits for others before the node wakes up.
    pub(super) batching: u32,
    /// Mean time between faults.
    pub(super) fault_interval: u64,
    /// How long crashes, pauses and partitions last at most.
    pub(super) outage_max: u64,
    /// Mean time between client requests.
    pub(super) client_interval: u64,
    /// Requests of a client burst, at most.
    pub(super) client_burst: u64,
    /// Clocks run fast or slow by at most this much, in parts per million.
    pub(super) drift_ppm: u64,
    pub(super) padding_max: usize,
}

impl Profile {
    /// No faults, short delays.
    pub(super) fn calm() -> Self {
        Self {
            enabled: 0,
            loss: 0,
            duplicate: 0,
            late: 0,
            late_max: 0,
            unreachable: 0,
            read_error: 0,
            stranger: 0,
            snapshot_lost: 0,
            snapshot: 0,
            transfer_max: 2_000,
            operator_interval: None,
            upgrades: false,
            storms: false,
            reorders: false,
            delay_min: 200,
            delay_max: 2_000,
            sync_min: 100,
            sync_max: 2_000,
            batching: 256,
            fault_interval: u64::MAX / 4,
            outage_max: 1_000_000,
            client_interval: 20_000,
            client_burst: 1,
            drift_ppm: 0,
            padding_max: 0,
        }
    }

    /// What this seed draws, swarm style: about half of the faults, each as hard as it comes. `permille` scales how
    /// often faults happen.
    pub(super) fn swarm(rng: &mut Rng, permille: u32) -> Self {
        if permille == 0 {
            return Self::calm();
        }
        let enabled = rng.u32(..) | if rng.u8(..4) == 0 { rng.u32(..) } else { 0 };
        let mut chance = |fault: Fault, max: f64| {
            let drawn = log_uniform(rng, 1.0, max) as u32;
            if enabled & fault.bit() == 0 { 0 } else { (drawn * permille / 1000).min(512) }
        };
        let loss = chance(Fault::Loss, 200.0);
        let duplicate = chance(Fault::Duplicate, 200.0);
        let late = chance(Fault::Late, 60.0);
        let unreachable = chance(Fault::Unreachable, 512.0);
        let read_error = chance(Fault::ReadError, 8.0);
        let stranger = chance(Fault::Stranger, 60.0);
        let snapshot_lost = chance(Fault::SnapshotLost, 512.0);
        let delay_min = log_uniform(rng, 50.0, 5_000.0) as u64;
        let sync_min = log_uniform(rng, 100.0, 1_000.0) as u64;
        Self {
            enabled,
            loss,
            duplicate,
            late,
            late_max: log_uniform(rng, 50_000.0, 5_000_000.0) as u64,
            unreachable,
            read_error,
            stranger,
            snapshot_lost,
            snapshot: if rng.u8(..3) == 0 { 0 } else { log_uniform(rng, 2.0, 300.0) as u32 },
            transfer_max: log_uniform(rng, 2_000.0, 3_000_000.0) as u64,
            operator_interval: rng.bool().then(|| log_uniform(rng, 30_000.0, 2_000_000.0) as u64),
            upgrades: rng.u8(..4) == 0,
            storms: rng.u8(..6) == 0,
            reorders: rng.bool(),
            delay_min,
            delay_max: delay_min + log_uniform(rng, 100.0, 50_000.0) as u64,
            sync_min,
            sync_max: sync_min + log_uniform(rng, 100.0, 20_000.0) as u64,
            batching: if rng.bool() { rng.u32(0..1024) } else { 0 },
            fault_interval: log_uniform(rng, 30_000.0, 3_000_000.0) as u64 * 1000 / u64::from(permille),
            outage_max: log_uniform(rng, 30_000.0, 4_000_000.0) as u64,
            client_interval: log_uniform(rng, 2_000.0, 200_000.0) as u64,
            client_burst: if rng.bool() { 1 } else { rng.u64(1..20) },
            drift_ppm: if rng.bool() { 0 } else { log_uniform(rng, 10.0, 100_000.0) as u64 },
            padding_max: if rng.bool() { 0 } else { rng.usize(0..300) },
        }
    }

    /// No more faults, and no delay is long.
    pub(super) fn stop_faults(&mut self) {
        (self.enabled, self.storms) = (0, false);
        (self.loss, self.duplicate, self.late, self.unreachable) = (0, 0, 0, 0);
        (self.read_error, self.stranger, self.snapshot_lost) = (0, 0, 0);
        self.transfer_max = self.transfer_max.min(5_000);
        self.delay_min = self.delay_min.min(1_000);
        self.delay_max = self.delay_max.min(2_000);
        self.sync_max = self.sync_max.min(self.sync_min + 1_000);
    }

    /// No operator and no snapshots.
    pub(super) fn leave_alone(&mut self) {
        (self.operator_interval, self.snapshot, self.upgrades) = (None, 0, false);
    }

    /// Few requests: replication one message at a time would fall behind for minutes.
    pub(super) fn be_patient(&mut self) {
        self.client_interval = self.client_interval.max(20_000);
        self.client_burst = 1;
    }

    pub(super) fn is_on(&self, fault: Fault) -> bool {
        self.enabled & fault.bit() != 0
    }

    pub(super) fn loses(&self, rng: &mut Rng) -> bool {
        hits(rng, self.loss)
    }

    pub(super) fn duplicates(&self, rng: &mut Rng) -> bool {
        hits(rng, self.duplicate)
    }

    pub(super) fn notices_loss(&self, rng: &mut Rng) -> bool {
        hits(rng, self.unreachable)
    }

    pub(super) fn fails_to_read(&self, rng: &mut Rng) -> bool {
        hits(rng, self.read_error)
    }

    pub(super) fn fail_all_reads(&mut self, fails: bool) {
        self.read_error = if fails { 1024 } else { 0 };
    }

    pub(super) fn loses_snapshot(&self, rng: &mut Rng) -> bool {
        hits(rng, self.snapshot_lost)
    }

    pub(super) fn makes_snapshot(&self, rng: &mut Rng) -> bool {
        hits(rng, self.snapshot)
    }

    /// How long a snapshot is on its way.
    pub(super) fn transfer_time(&self, rng: &mut Rng) -> u64 {
        rng.u64(1_000..=self.transfer_max)
    }

    pub(super) fn meets_stranger(&self, rng: &mut Rng) -> bool {
        hits(rng, self.stranger)
    }

    /// How much later than usual a message arrives, if it does.
    pub(super) fn lateness(&self, rng: &mut Rng) -> Option<u64> {
        hits(rng, self.late).then(|| rng.u64(0..=self.late_max))
    }

    pub(super) fn delay(&self, rng: &mut Rng) -> u64 {
        rng.u64(self.delay_min..=self.delay_max)
    }

    pub(super) fn sync_time(&self, rng: &mut Rng) -> u64 {
        rng.u64(self.sync_min..=self.sync_max)
    }

    pub(super) fn waits_for_more(&self, rng: &mut Rng) -> bool {
        hits(rng, self.batching)
    }

    pub(super) fn outage(&self, rng: &mut Rng) -> u64 {
        rng.u64(1..=self.outage_max)
    }

    /// One of the faults that are injected from outside, among those that are on.
    pub(super) fn draw_fault(&self, rng: &mut Rng) -> Option<Fault> {
        const INJECTED: [Fault; 15] = [
            Fault::Partition,
            Fault::Partition,
            Fault::OneWay,
            Fault::Bridge,
            Fault::Crash,
            Fault::Crash,
            Fault::CrashMidStep,
            Fault::CrashMidStep,
            Fault::PowerLoss,
            Fault::Pause,
            Fault::DiskStall,
            Fault::DiskFull,
            Fault::DiskError,
            Fault::Coup,
            Fault::Coup,
        ];
        let fault = INJECTED[rng.usize(..INJECTED.len())];
        self.is_on(fault).then_some(fault)
    }
}

fn hits(rng: &mut Rng, chance: u32) -> bool {
    chance != 0 && rng.u32(..1024) < chance
}

/// Between `min` and `max`, each order of magnitude equally likely. By square roots, which every machine rounds alike;
/// powers it may not.
pub(super) fn log_uniform(rng: &mut Rng, min: f64, max: f64) -> f64 {
    let (mut drawn, mut root) = (min, max / min);
    let bits = rng.u16(..);
    for bit in (0..u16::BITS).rev() {
        root = root.sqrt();
        if bits >> bit & 1 == 1 {
            drawn *= root;
        }
    }
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_of_magnitude_is_equally_likely() {
        let mut rng = Rng::with_seed(1);
        let drawn: Vec<_> = (0..3_000).map(|_| log_uniform(&mut rng, 1.0, 1_000.0)).collect();
        assert!(drawn.iter().all(|drawn| (1.0..1_000.0).contains(drawn)));
        for bound in [1.0, 10.0, 100.0] {
            let within = drawn.iter().filter(|drawn| (bound..bound * 10.0).contains(*drawn)).count();
            assert!((900..1_100).contains(&within), "{within} of 3000 from {bound}");
        }
    }
}
