//! The house rules that a machine can read: which crate may know which, and that the documents name what there is.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use toml::{Table, Value};

/// Crates that may depend on anything.
const FREE: &[&str] = &["examples/", "benches/", "chaos", "fuzz/", "xtask"];

/// Who may depend on whom.
const NORMAL: &[(&str, &[&str])] = &[
    ("d-engine-core", &[]),
    ("d-engine-raft", &["d-engine-core"]),
    ("d-engine-kv", &["d-engine-core"]),
    ("d-engine-test-suite", &["d-engine-core"]),
    ("d-engine-mem", &["d-engine-core"]),
    ("d-engine-rocksdb", &["d-engine-core"]),
    ("d-engine-sled", &["d-engine-core"]),
    ("d-engine-file", &["d-engine-core", "d-engine-mem"]),
    ("d-engine-net", &["d-engine-core", "d-engine-raft", "d-engine-kv"]),
    ("d-engine", &["d-engine-core", "d-engine-raft", "d-engine-kv", "d-engine-net"]),
    // The load generator, the plots and the processes are no part of the engine, and know nothing of its code.
    (
        "d-engine-cli",
        &[
            "d-engine",
            "d-engine-net",
            "d-engine-raft",
            "d-engine-test-suite",
            "d-engine-load",
            "d-engine-plot",
            "d-engine-processes",
        ],
    ),
];

/// Who may depend on whom behind a feature.
const OPTIONAL: &[(&str, &[&str])] = &[
    ("d-engine-raft", &["d-engine-test-suite"]),
    ("d-engine", &["d-engine-mem", "d-engine-file", "d-engine-rocksdb", "d-engine-sled", "d-engine-test-suite"]),
];

/// Who may depend on whom in tests, beside the edges above.
const DEV: &[(&str, &[&str])] = &[
    ("d-engine-mem", &["d-engine-test-suite", "d-engine-kv"]),
    ("d-engine-file", &["d-engine-test-suite", "d-engine-kv"]),
    ("d-engine-rocksdb", &["d-engine-test-suite", "d-engine-kv"]),
    ("d-engine-sled", &["d-engine-test-suite", "d-engine-kv"]),
    ("d-engine-raft", &["d-engine-mem"]),
    ("d-engine-kv", &["d-engine-mem", "d-engine-file"]),
    ("d-engine-test-suite", &["d-engine-mem"]),
];

/// Crates of others that only these may know.
const OUTSIDE: &[(&str, &[&str])] =
    &[("tonic", &["d-engine-net"]), ("tonic-prost", &["d-engine-net"]), ("prost", &["d-engine-net"]), ("bincode", &[])];

/// One member of the workspace.
struct Member {
    /// Its directory, relative to the root.
    path: String,
    name: String,
    manifest: Table,
}

/// A dependency as a manifest states it.
#[derive(Clone)]
struct Edge {
    to: String,
    dev: bool,
    optional: bool,
    /// It stands with a version, its own or the workspace's: publishing then needs it to be published before.
    versioned: bool,
}

impl Member {
    fn parse(path: &str, text: &str) -> Self {
        let manifest: Table = text.parse().unwrap_or_else(|error| panic!("{path}/Cargo.toml: {error}"));
        let name = manifest["package"]["name"].as_str().unwrap().to_string();
        Self { path: path.to_string(), name, manifest }
    }

    fn is_free(&self) -> bool {
        FREE.iter().any(|free| self.path == *free || (free.ends_with('/') && self.path.starts_with(free)))
    }

    /// Its dependencies in every table, those of single targets included.
    fn edges(&self) -> Vec<Edge> {
        let mut tables = vec![&self.manifest];
        if let Some(Value::Table(targets)) = self.manifest.get("target") {
            tables.extend(targets.values().filter_map(Value::as_table));
        }
        let kinds = [("dependencies", false), ("build-dependencies", false), ("dev-dependencies", true)];
        let mut edges = Vec::new();
        for (table, (kind, dev)) in tables.into_iter().flat_map(|table| kinds.map(|kind| (table, kind))) {
            let Some(Value::Table(dependencies)) = table.get(kind) else { continue };
            for (key, value) in dependencies {
                let field = |name: &str| value.get(name);
                edges.push(Edge {
                    to: field("package").and_then(Value::as_str).unwrap_or(key).to_string(),
                    dev,
                    optional: field("optional").and_then(Value::as_bool).unwrap_or(false),
                    versioned: value.is_str() || field("version").is_some() || field("workspace").is_some(),
                });
            }
        }
        edges
    }
}

/// Every breach of the house rules by these members.
fn breaches(members: &[Member]) -> Vec<String> {
    let names: BTreeSet<&str> = members.iter().map(|member| member.name.as_str()).collect();
    let mut found = Vec::new();
    for member in members {
        if member.manifest.get("lints").and_then(|lints| lints.get("workspace")) != Some(&Value::Boolean(true)) {
            found.push(format!("{} lacks `[lints] workspace = true`", member.name));
        }
        for edge in member.edges() {
            if edge.to == "bincode" {
                found.push(format!("{} uses bincode; core has the codecs", member.name));
            }
            if member.is_free() {
                continue;
            }
            let inside = names.contains(edge.to.as_str()) || edge.to.starts_with("d-engine");
            if inside && let Some(breach) = inner_breach(member, &edge) {
                found.push(breach);
            }
            if !inside && !edge.dev && !allowed_outside(&member.name, &edge.to) {
                found.push(format!("{} must not depend on {}", member.name, edge.to));
            }
        }
        if !member.is_free() && NORMAL.iter().all(|(name, _)| *name != member.name) {
            found.push(format!("{} has no place in the house: say in this test what it may depend on", member.name));
        }
    }
    found.extend(versioned_circles(members));
    found
}

fn allows(table: &[(&str, &[&str])], from: &str, to: &str) -> bool {
    table.iter().any(|(name, targets)| *name == from && targets.contains(&to))
}

fn allowed_outside(from: &str, to: &str) -> bool {
    OUTSIDE.iter().all(|(name, users)| *name != to || users.contains(&from))
}

fn inner_breach(member: &Member, edge: &Edge) -> Option<String> {
    let (from, to) = (member.name.as_str(), edge.to.as_str());
    if allows(NORMAL, from, to) {
        return None;
    }
    if allows(OPTIONAL, from, to) {
        let needed = !edge.dev && !edge.optional;
        return needed.then(|| format!("{from} may depend on {to} only behind a feature"));
    }
    // On itself, to switch on its own features for its tests.
    if edge.dev && (from == to || allows(DEV, from, to)) {
        return None;
    }
    let kind = if edge.dev { " even in tests" } else { "" };
    Some(format!("{from} must not depend on {to}{kind}"))
}

/// Dev-dependencies with a version that close a circle: none of its crates could be published first.
fn versioned_circles(members: &[Member]) -> Vec<String> {
    let edges: BTreeMap<&str, Vec<Edge>> =
        members.iter().map(|member| (member.name.as_str(), member.edges())).collect();
    let mut found = Vec::new();
    for (from, edge) in edges.iter().flat_map(|(from, edges)| edges.iter().map(move |edge| (*from, edge))) {
        if edge.dev && edge.versioned && reaches(&edges, &edge.to, from) {
            found.push(format!("{from} must name {} by path alone in its tests: they form a circle", edge.to));
        }
    }
    found
}

fn reaches(edges: &BTreeMap<&str, Vec<Edge>>, start: &str, goal: &str) -> bool {
    let mut waiting = vec![start.to_string()];
    let mut seen = BTreeSet::new();
    while let Some(name) = waiting.pop() {
        if name == goal {
            return true;
        }
        if seen.insert(name.clone()) {
            waiting.extend(edges.get(name.as_str()).into_iter().flatten().map(|edge| edge.to.clone()));
        }
    }
    false
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn members() -> Vec<Member> {
    let workspace: Table = read("Cargo.toml").parse().unwrap();
    let listed = workspace["workspace"]["members"].as_array().unwrap().clone();
    listed
        .iter()
        .map(|path| path.as_str().unwrap())
        .map(|path| Member::parse(path, &read(&format!("{path}/Cargo.toml"))))
        .collect()
}

#[test]
fn crates_depend_only_in_the_allowed_directions() {
    let breaches = breaches(&members());
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

#[test]
fn the_documents_name_every_crate() {
    for document in ["README.md", "ARCHITECTURE.md"] {
        let text = read(document);
        for member in members() {
            let named = text.contains(&format!("`{}`", member.name)) || text.contains(&format!("`{}`", member.path));
            assert!(named, "{document} does not name `{}`", member.path);
        }
    }
}

#[test]
fn the_snippets_of_the_readme_are_compiled() {
    let places = ["examples/quick-start/src/main.rs", "d-engine/src/lib.rs", "d-engine/src/testing.rs"];
    let sources: Vec<String> = places
        .iter()
        .filter_map(|path| fs::read_to_string(root().join(path)).ok())
        .map(|source| source.lines().map(|line| line.trim_start_matches("//!").trim()).collect::<Vec<_>>().join("\n"))
        .collect();
    let readme = read("README.md");
    for block in readme.split("```rust\n").skip(1) {
        let block = block.split("```").next().unwrap();
        let lines: Vec<&str> = block.trim().lines().map(str::trim).collect();
        let compiled = sources.iter().any(|source| source.contains(&lines.join("\n")));
        assert!(compiled, "this stands in README.md, but neither in {}:\n{block}", places.join(" nor in "));
    }
}

#[test]
fn no_file_points_outside_the_repository() {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output();
    let Some(listed) = listed.ok().filter(|listed| listed.status.success()) else { return };
    let outside = concat!("..", "/shared");
    for path in String::from_utf8(listed.stdout).unwrap().split_terminator('\0') {
        let Ok(text) = fs::read_to_string(root().join(path)) else { continue };
        assert!(!text.contains(outside), "{path} mentions {outside}");
    }
}

/// The feature that breaks rules of consensus on purpose.
const BREAKS: &str = "mutants";

#[test]
fn only_the_tests_of_raft_ask_for_the_feature_that_breaks_rules() {
    let asks = |value: &Value| value.get("features").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut askers = Vec::new();
    for member in members() {
        for kind in ["dependencies", "build-dependencies", "dev-dependencies"] {
            let Some(Value::Table(dependencies)) = member.manifest.get(kind) else { continue };
            let named = dependencies.values().any(|value| asks(value).iter().any(|name| name.as_str() == Some(BREAKS)));
            askers.extend(named.then(|| format!("{} in {kind}", member.name)));
        }
        let Some(Value::Table(features)) = member.manifest.get("features") else { continue };
        let passes = |name: &Value| name.as_str().is_some_and(|name| name.ends_with(&format!("/{BREAKS}")));
        let named = features.values().any(|list| list.as_array().is_some_and(|list| list.iter().any(passes)));
        askers.extend(named.then(|| format!("{} in its features", member.name)));
    }
    assert_eq!(askers, ["d-engine-raft in dev-dependencies"]);
}

/// Features of d-engine-raft in a build of `package`, as cargo resolves them along `edges`.
fn features_of_raft(package: &str, edges: &str) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let tree = ["tree", "--locked", "--offline", "-p", package, "-e", edges, "-i", "d-engine-raft"];
    let tree = Command::new(cargo).args(tree).current_dir(root()).output().unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    String::from_utf8(tree.stdout).unwrap()
}

#[test]
fn no_build_of_the_binary_can_break_rules() {
    let tests = features_of_raft("d-engine-raft", "normal,dev,features");
    assert!(tests.contains(BREAKS), "the tests of raft can:\n{tests}");
    let tree = features_of_raft("d-engine-cli", "normal,build,features");
    assert!(tree.contains("d-engine-cli v"), "{tree}");
    assert!(!tree.contains(BREAKS) && !tree.contains("simulator"), "{tree}");
}

/// A member with the given dependency tables.
fn member(name: &str, tables: &str) -> Member {
    Member::parse(name, &format!("[package]\nname = \"{name}\"\n[lints]\nworkspace = true\n{tables}"))
}

#[track_caller]
fn assert_breach(member: Member, expected: &str) {
    let found = breaches(&[member]);
    assert!(found.iter().any(|breach| breach.contains(expected)), "{found:?}");
}

#[test]
fn forbidden_edges_are_found() {
    assert_breach(
        member("d-engine-core", "[dependencies]\nd-engine-raft.workspace = true"),
        "d-engine-core must not depend on d-engine-raft",
    );
    assert_breach(
        member("d-engine-core", "[dev-dependencies]\nd-engine-mem = { path = \"../d-engine-mem\" }"),
        "d-engine-core must not depend on d-engine-mem even in tests",
    );
    assert_breach(
        member("d-engine-mem", "[dependencies]\nd-engine-kv = { path = \"../d-engine-kv\" }"),
        "d-engine-mem must not depend on d-engine-kv",
    );
    assert_breach(
        member("d-engine-raft", "[target.'cfg(unix)'.dependencies]\nd-engine-net.workspace = true"),
        "d-engine-raft must not depend on d-engine-net",
    );
    assert_breach(
        member("d-engine-kv", "[dependencies]\nstorage = { package = \"d-engine-file\", path = \"../d-engine-file\" }"),
        "d-engine-kv must not depend on d-engine-file",
    );
    assert_breach(
        member("d-engine", "[dependencies]\nd-engine-mem.workspace = true"),
        "d-engine may depend on d-engine-mem only behind a feature",
    );
    assert_breach(member("d-engine-more", ""), "d-engine-more has no place in the house");
}

#[test]
fn forbidden_crates_of_others_are_found() {
    assert_breach(member("d-engine", "[dependencies]\ntonic = \"0.14\""), "d-engine must not depend on tonic");
    assert_breach(member("xtask", "[dependencies]\nbincode = \"1\""), "xtask uses bincode");
    assert_breach(member("xtask", "[dev-dependencies]\nbincode = \"1\""), "xtask uses bincode");
}

#[test]
fn missing_lints_are_found() {
    assert_breach(Member::parse("xtask", "[package]\nname = \"xtask\""), "xtask lacks `[lints] workspace = true`");
}

#[test]
fn circles_in_tests_go_by_path_alone() {
    let suite = || member("d-engine-test-suite", "[dev-dependencies]\nd-engine-mem = { path = \"../d-engine-mem\" }");
    let by_path = member("d-engine-mem", "[dev-dependencies]\nd-engine-test-suite = { path = \"../t\" }");
    assert!(breaches(&[suite(), by_path]).is_empty());
    let by_version = member("d-engine-mem", "[dev-dependencies]\nd-engine-test-suite.workspace = true");
    assert!(breaches(&[suite(), by_version]).concat().contains("they form a circle"));
}

#[test]
fn allowed_edges_pass() {
    let members = [
        member("d-engine", "[dependencies]\nd-engine-file = { workspace = true, optional = true }"),
        member("d-engine-file", "[dependencies]\nd-engine-mem.workspace = true\nd-engine-core.workspace = true"),
        member("examples/any", "[dependencies]\nd-engine-file.workspace = true\ntonic = \"0.14\""),
    ];
    let found = breaches(&members);
    assert!(found.is_empty(), "{found:?}");
}
