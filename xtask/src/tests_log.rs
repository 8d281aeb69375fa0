//! Reads the output of `cargo test`: how many passed, which failed, and what the failed ones said.

/// Lines kept of what one failed test printed.
const LINES_PER_FAILURE: usize = 40;

/// What the output said so far.
#[derive(Debug, Default)]
pub(crate) struct TestsLog {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
    /// The tests that were left aside, and why.
    pub(crate) ignored_tests: Vec<(String, String)>,
    /// What each failed test printed, its name first.
    pub(crate) failures: Vec<Vec<String>>,
    target: String,
    in_failure: bool,
}

impl TestsLog {
    /// Takes one line and answers what to show of it.
    pub(crate) fn line(&mut self, line: &str) -> Option<String> {
        if let Some(target) = target(line) {
            self.target = target;
            self.in_failure = false;
        } else if let Some(result) = line.strip_prefix("test result: ") {
            self.in_failure = false;
            return self.result(result);
        } else if let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" ----")) {
            self.failures.push(vec![format!("{}: {}", self.target, name.trim_end_matches(" stdout"))]);
            self.in_failure = true;
        } else if let Some((name, reason)) = ignored(line) {
            self.ignored_tests.push((name.to_string(), reason.to_string()));
        } else if line == "failures:" {
            // Stands before the outputs and again before the list of names.
            self.in_failure = false;
        } else if self.in_failure
            && let Some(failure) = self.failures.last_mut()
            && failure.len() <= LINES_PER_FAILURE
        {
            failure.push(line.to_string());
        }
        None
    }

    /// Reads `ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.02s`.
    fn result(&mut self, result: &str) -> Option<String> {
        let count = |what: &str| -> u64 {
            let number = result.split([';', '.']).find_map(|part| part.trim().strip_suffix(what));
            number.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
        };
        let (passed, failed, ignored) = (count("passed"), count("failed"), count("ignored"));
        self.passed += passed;
        self.failed += failed;
        self.ignored += ignored;
        if passed + failed == 0 {
            return None;
        }
        let time = result.rsplit_once("finished in ").map_or("", |(_, time)| time);
        let failed = if failed > 0 { format!(", {failed} FAILED") } else { String::new() };
        Some(format!("{:<44} {passed:>4} passed{failed}  {time}", self.target))
    }
}

/// Reads `test NAME ... ignored, REASON`.
fn ignored(line: &str) -> Option<(&str, &str)> {
    let (name, reason) = line.strip_prefix("test ")?.split_once(" ... ignored")?;
    Some((name, reason.strip_prefix(", ").unwrap_or("no reason is given")))
}

/// The test target that a line of cargo announces.
fn target(line: &str) -> Option<String> {
    let line = line.trim_start();
    if let Some(doc) = line.strip_prefix("Doc-tests ") {
        return Some(format!("{} (doctests)", doc.replace('_', "-")));
    }
    let (source, path) = line.strip_prefix("Running ")?.rsplit_once(" (")?;
    let file = path.trim_end_matches(')').rsplit(['/', '\\']).next()?;
    let name = file.rsplit_once('-').map_or(file, |(name, _)| name).replace('_', "-");
    Some(if source.starts_with("unittests") { name } else { format!("{source}, {name}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "   Compiling d-engine-core v0.3.0
     Running unittests src/lib.rs (target/debug/deps/d_engine_core-0123456789abcdef)

running 3 tests
test a ... ok
test b ... FAILED
test c ... ignored, needs a quiet machine

failures:

---- b stdout ----
thread 'b' panicked at src/lib.rs:1:1:
left is not right

failures:
    b

test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.20s

error: test failed, to rerun pass `-p d-engine-core --lib`
     Running tests/guide.rs (target/debug/deps/guide-0123456789abcdef)
test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s
   Doc-tests d_engine_core
test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.31s
";

    #[test]
    fn counts_are_summed_over_targets_and_doctests() {
        let mut log = TestsLog::default();
        let shown: Vec<String> = OUTPUT.lines().filter_map(|line| log.line(line)).collect();
        assert_eq!((log.passed, log.failed, log.ignored), (15, 1, 2));
        assert_eq!(log.ignored_tests, [("c".to_string(), "needs a quiet machine".to_string())]);
        assert_eq!(shown.len(), 3);
        assert!(shown[0].starts_with("d-engine-core ") && shown[0].contains("1 FAILED"), "{}", shown[0]);
        assert!(shown[1].starts_with("tests/guide.rs, guide "), "{}", shown[1]);
    }

    #[test]
    fn what_a_failed_test_printed_is_kept_with_its_name() {
        let mut log = TestsLog::default();
        OUTPUT.lines().for_each(|line| drop(log.line(line)));
        assert_eq!(log.failures.len(), 1);
        assert_eq!(log.failures[0][0], "d-engine-core: b");
        assert_eq!(log.failures[0][2], "left is not right");
        assert!(!log.failures[0].iter().any(|line| line.contains("    b")));
    }
}
