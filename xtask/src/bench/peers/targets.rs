//! What figures beside others must reach.

use serde_json::Value;

use super::super::report::{number, thousands, time};
use super::Found;

const IN_PROCESS: &str = "d-engine in process";
const OVER_GRPC: &str = "d-engine over gRPC";
const BY_UNARY_CALLS: &str = "d-engine by unary calls";
const CONSENSUS: &str = "d-engine consensus";
/// What plain calls can at best reach.
const UNARY_ALONE: &str = "unary gRPC alone";
const ETCD: &str = "etcd";
const OPENRAFT: &str = "openraft";
const PUBLISHED: &str = "published 0.2 in process";
const PUBLISHED_GRPC: &str = "published 0.2 over gRPC";
/// What a figure must reach.
#[derive(Clone, Copy)]
enum Target {
    /// So many times the calls per second of another.
    Times(&'static str, f64),
    /// So much of the median latency of another at most.
    OfMedian(&'static str, f64),
    /// Calls per second.
    Rate(f64),
    /// Seconds at most, of half of the calls.
    Median(f64),
    /// Seconds at most, of 99 of 100 calls.
    P99(f64),
}

/// The targets: subject, work, clients.
const TARGETS: &[(&str, &str, u64, Target)] = &[
    (IN_PROCESS, "put", 1, Target::Median(200e-6)),
    (IN_PROCESS, "put", 1, Target::Times(ETCD, 3.0)),
    (IN_PROCESS, "put", 100, Target::Times(PUBLISHED, 3.0)),
    (IN_PROCESS, "put", 1000, Target::Times(PUBLISHED, 3.0)),
    (IN_PROCESS, "put", 100, Target::Rate(200_000.0)),
    (IN_PROCESS, "put", 1000, Target::Rate(300_000.0)),
    (IN_PROCESS, "put", 100, Target::P99(5e-3)),
    (IN_PROCESS, "get", 100, Target::Rate(600_000.0)),
    (IN_PROCESS, "get-lease", 1, Target::Rate(3_000_000.0)),
    (OVER_GRPC, "put", 1, Target::OfMedian(ETCD, 0.6)),
    (OVER_GRPC, "put", 100, Target::Times(ETCD, 5.0)),
    (OVER_GRPC, "put", 100, Target::Times(PUBLISHED_GRPC, 5.0)),
    (OVER_GRPC, "put", 100, Target::Rate(85_000.0)),
    (OVER_GRPC, "get", 100, Target::Times(ETCD, 10.0)),
    (OVER_GRPC, "get", 100, Target::Times(PUBLISHED_GRPC, 5.0)),
    (OVER_GRPC, "get", 100, Target::Rate(115_000.0)),
    (BY_UNARY_CALLS, "get", 100, Target::Times(UNARY_ALONE, 0.7)),
    (CONSENSUS, "put", 64, Target::Times(OPENRAFT, 1.0)),
    (CONSENSUS, "put", 1024, Target::Times(OPENRAFT, 1.0)),
];

/// One line of the table of targets.
pub(super) struct Judged {
    pub(super) what: String,
    pub(super) target: String,
    pub(super) found: String,
    pub(super) met: Option<bool>,
}

/// All targets.
pub(super) fn judged(found: &Found) -> Vec<Judged> {
    TARGETS.iter().map(|(subject, work, clients, target)| judge(found, subject, work, *clients, *target)).collect()
}

fn judge(found: &Found, subject: &str, work: &str, clients: u64, target: Target) -> Judged {
    let is_it = |one: &&Value| one["work"] == work && one["clients"] == clients;
    let measured = || found.measured.iter().find(|one| is_it(one) && one["api"] == subject);
    let seconds = |name: &str| measured().map(|one| number(&one["latency_ns"][name]) / 1e9);
    let ratio = |against: &str| {
        found.ratios.iter().find(|one| is_it(one) && one["subject"] == subject && one["against"] == against)
    };
    let reaches = |number: Option<f64>, holds: &dyn Fn(f64) -> bool| number.map(holds);
    let (target, shown, met) = match target {
        Target::Times(against, least) => {
            let found = ratio(against);
            let met = found.and_then(|one| one["ratio"].as_f64()).map(|ratio| ratio >= least);
            let spread = |one: &Value| match (one["lowest"].as_f64(), one["highest"].as_f64()) {
                (Some(lowest), Some(highest)) => format!(" ({lowest:.2}–{highest:.2})"),
                _ => String::new(),
            };
            let told = found.map(|one| times(one, "ratio") + &spread(one));
            (format!("≥ {least} × {against}"), told, met)
        }
        Target::OfMedian(against, most) => {
            let found = ratio(against);
            let met = found.and_then(|one| one["p50_ratio"].as_f64()).map(|ratio| ratio < most);
            (format!("p50 < {most} × {against}"), found.map(|one| times(one, "p50_ratio")), met)
        }
        Target::Rate(least) => {
            let shown = |rate: f64| format!("{}/s", thousands(rate));
            let rate = |name: &str| measured().map(|one| number(&one["per_second"][name]));
            let found = rate("median");
            let spread =
                rate("min").zip(rate("max")).map(|(min, max)| format!("{}–{}", thousands(min), thousands(max)));
            let told = found.zip(spread).map(|(rate, spread)| format!("{} ({spread})", shown(rate)));
            (format!("≥ {}", shown(least)), told, reaches(found, &|rate| rate >= least))
        }
        Target::Median(most) => {
            let found = seconds("p50");
            (format!("p50 < {}", time(most)), found.map(time), reaches(found, &|seconds| seconds < most))
        }
        Target::P99(most) => {
            let found = seconds("p99");
            (format!("p99 < {}", time(most)), found.map(time), reaches(found, &|seconds| seconds < most))
        }
    };
    let what = format!("{subject}: {work}, {clients} clients");
    Judged { what, target, found: shown.unwrap_or_else(|| "not measured".to_owned()), met }
}

/// A ratio, or why there is none.
pub(super) fn times(ratio: &Value, name: &str) -> String {
    match (ratio[name].as_f64(), ratio["why"].as_str()) {
        (Some(ratio), _) => format!("{ratio:.2} ×"),
        (None, Some(why)) => why.to_owned(),
        (None, None) => "not measured".to_owned(),
    }
}
