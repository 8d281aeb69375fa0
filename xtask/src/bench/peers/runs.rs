//! Several runs of the same measurement: medians of theirs, and how far they are from each other.

use serde_json::{Value, json};

/// The figures of all runs: what was measured the same way is one. Of one run they are its own.
pub(super) fn measured(runs: &[Vec<Value>]) -> Vec<Value> {
    let alike = |a: &Value, b: &Value| ["api", "work", "clients"].iter().all(|name| a[*name] == b[*name]);
    groups(runs, alike).into_iter().map(|all| if all.len() == 1 { all[0].clone() } else { merged(&all) }).collect()
}

/// The ratios of all runs, in the same way.
pub(super) fn ratios(runs: &[Vec<Value>]) -> Vec<Value> {
    let alike =
        |a: &Value, b: &Value| ["subject", "against", "work", "clients"].iter().all(|name| a[*name] == b[*name]);
    groups(runs, alike)
        .into_iter()
        .map(|all| if all.len() == 1 { all[0].clone() } else { merged_ratio(&all) })
        .collect()
}

/// In the order of the first appearance.
fn groups(runs: &[Vec<Value>], alike: impl Fn(&Value, &Value) -> bool) -> Vec<Vec<&Value>> {
    let mut groups: Vec<Vec<&Value>> = Vec::new();
    for one in runs.iter().flatten() {
        match groups.iter_mut().find(|group| alike(group[0], one)) {
            Some(group) => group.push(one),
            None => groups.push(vec![one]),
        }
    }
    groups
}

fn merged(all: &[&Value]) -> Value {
    let mut found = all[0].clone();
    let rates = sorted(all, |one| &one["per_second"]["median"]);
    let middle = |of: fn(&Value) -> &Value| median(&sorted(all, of));
    found["per_second"] = json!({ "median": median(&rates), "min": rates.first(), "max": rates.last() });
    found["latency_ns"] = json!({
        "p50": middle(|one| &one["latency_ns"]["p50"]), "p99": middle(|one| &one["latency_ns"]["p99"]),
        "p999": middle(|one| &one["latency_ns"]["p999"]), "max": middle(|one| &one["latency_ns"]["max"]),
    });
    found["cpu_us_per_call"] = json!(middle(|one| &one["cpu_us_per_call"]));
    found["switches_per_call"] = json!(middle(|one| &one["switches_per_call"]));
    found["errors"] = json!(all.iter().filter_map(|one| one["errors"].as_u64()).sum::<u64>());
    found["first_error"] =
        all.iter().map(|one| &one["first_error"]).find(|error| !error.is_null()).cloned().unwrap_or_default();
    found["runs"] = json!(all.len());
    found
}

fn merged_ratio(all: &[&Value]) -> Value {
    let mut found = all[0].clone();
    let ratios = sorted(all, |one| &one["ratio"]);
    found["ratio"] = json!(median(&ratios));
    found["lowest"] = json!(ratios.first());
    found["highest"] = json!(ratios.last());
    found["p50_ratio"] = json!(median(&sorted(all, |one| &one["p50_ratio"])));
    // Where there is a ratio, it is of those runs in which both were answered.
    found["why"] = all.iter().map(|one| &one["why"]).find(|why| !why.is_null()).cloned().unwrap_or_default();
    found["runs"] = json!(ratios.len());
    found
}

/// The numbers among them, ascending.
fn sorted<'a>(all: &[&'a Value], of: impl Fn(&'a Value) -> &'a Value) -> Vec<f64> {
    let mut numbers: Vec<f64> = all.iter().filter_map(|one| of(one).as_f64()).collect();
    numbers.sort_by(f64::total_cmp);
    numbers
}

fn median(sorted: &[f64]) -> Option<f64> {
    sorted.get(sorted.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(rate: f64, p50: u64, error: Option<&str>) -> Value {
        json!({ "api": "a", "work": "put", "clients": 1, "per_second": { "median": rate, "min": 0.0, "max": 1e9 },
            "latency_ns": { "p50": p50, "p99": 2 * p50, "p999": 3 * p50, "max": 4 * p50 },
            "cpu_us_per_call": 1.0, "switches_per_call": 2.0, "errors": u64::from(error.is_some()), "first_error": error })
    }

    #[test]
    fn figures_of_three_runs_are_their_medians_and_spread() {
        let runs =
            [figures(3.0, 30, None), figures(1.0, 10, Some("refused")), figures(2.0, 20, None)].map(|one| vec![one]);
        let found = measured(&runs);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0]["per_second"], json!({ "median": 2.0, "min": 1.0, "max": 3.0 }));
        assert_eq!((&found[0]["latency_ns"]["p50"], &found[0]["errors"]), (&json!(20.0), &json!(1)));
        assert_eq!(found[0]["first_error"], "refused");
        assert_eq!(measured(&runs[..1])[0], runs[0][0], "one run keeps the spread of its rounds");
    }

    #[test]
    fn a_run_in_which_a_peer_was_silent_is_left_out_of_the_ratio_and_is_named() {
        let ratio = |ratio: Option<f64>| {
            json!({ "subject": "a", "against": "b", "work": "put", "clients": 1, "ratio": ratio, "p50_ratio": ratio,
                "why": ratio.is_none().then_some("b answered nothing") })
        };
        let found = ratios(&[vec![ratio(Some(4.0))], vec![ratio(None)], vec![ratio(Some(2.0))]]);
        assert_eq!((&found[0]["ratio"], &found[0]["lowest"], &found[0]["runs"]), (&json!(4.0), &json!(2.0), &json!(2)));
        assert_eq!(found[0]["why"], "b answered nothing");
        let found = ratios(&[vec![ratio(None)], vec![ratio(None)]]);
        assert!(found[0]["ratio"].is_null());
    }
}
