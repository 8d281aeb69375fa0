//! What loads found, as a table and as plots: figures of `d_engine_load`, in JSON.

use d_engine_plot::{Bar, Group, Page, bars};
use serde_json::Value;

use super::report::{Table, number, thousands, time};

/// All figures.
pub(super) fn table(measured: &[Value]) -> Table {
    let rows = measured.iter().map(|one| {
        let rate = |name: &str| thousands(number(&one["per_second"][name]));
        let latency = |name: &str| match one["latency_ns"][name].as_f64() {
            None | Some(0.0) => "none".to_owned(),
            Some(nanoseconds) => time(nanoseconds / 1e9),
        };
        vec![
            text(&one["work"]),
            one["clients"].to_string(),
            text(&one["api"]),
            format!("{}/s", rate("median")),
            format!("{}–{}", rate("min"), rate("max")),
            latency("p50"),
            latency("p99"),
            latency("p999"),
            latency("max"),
            per_call(one, "cpu_us_per_call", " µs"),
            per_call(one, "switches_per_call", ""),
            errors(one),
        ]
    });
    let head = ["work", "clients", "subject", "calls", "spread", "p50", "p99", "p99.9", "max"];
    Table::new(&[&head[..], &["CPU/call", "switches/call", "errors"]].concat(), rows)
}

/// Rates and latencies, a plot for each kind of work.
pub(super) fn add_plots(page: &mut Page, measured: &[Value]) {
    page.heading("Calls per second");
    add_plots_of(page, measured, "calls per second", |one| {
        let rate = |name: &str| number(&one["per_second"][name]);
        Bar::new(&text(&one["api"]), rate("median")).range(rate("min"), rate("max"))
    });
    page.heading("Latencies");
    add_plots_of(page, measured, "µs", |one| {
        let micros = |name: &str| number(&one["latency_ns"][name]) / 1e3;
        Bar::new(&text(&one["api"]), micros("p50")).range(micros("p50"), micros("p99"))
    });
}

fn add_plots_of(page: &mut Page, measured: &[Value], unit: &str, bar: impl Fn(&Value) -> Bar) {
    let mut works: Vec<String> = measured.iter().map(|one| text(&one["work"])).collect();
    // In the order of measuring.
    works.dedup();
    for work in works {
        page.plot(&bars(&work, unit, &groups(measured, &work, &bar)));
    }
}

/// One group of bars for each number of clients.
fn groups(measured: &[Value], work: &str, bar: impl Fn(&Value) -> Bar) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for one in measured.iter().filter(|one| one["work"] == work) {
        let name = format!("{} clients", one["clients"]);
        if groups.last().is_none_or(|group| group.name != name) {
            groups.push(Group { name, bars: Vec::new() });
        }
        groups.last_mut().expect("one was just pushed if there was none").bars.push(bar(one));
    }
    groups
}

pub(super) fn text(value: &Value) -> String {
    value.as_str().unwrap_or("unknown").to_owned()
}

/// What a call costs, where one was answered.
fn per_call(one: &Value, name: &str, unit: &str) -> String {
    match number(&one["latency_ns"]["p50"]) {
        0.0 => String::new(),
        _ => format!("{:.1}{unit}", number(&one[name])),
    }
}

/// How many calls failed, and how the first one did.
fn errors(one: &Value) -> String {
    match (one["errors"].as_u64(), one["first_error"].as_str()) {
        (Some(count), Some(first)) => format!("{count}: {}", first.chars().take(60).collect::<String>()),
        _ => String::new(),
    }
}
