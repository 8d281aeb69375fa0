//! What a law is to the suite: a question with one of three answers, and words for the one that hurts.

use std::fmt::{self, Debug};
use std::future::Future;
use std::io::Write;
use std::pin::Pin;

use d_engine_core::Error;

/// What checking a law gave.
pub type LawResult = Result<Outcome, Violation>;

/// What is known of a law that was not broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was checked and holds.
    Held,
    /// It could not be checked; nothing is known.
    NotChecked {
        /// Why not.
        why: String,
    },
    /// It is broken, and the builder knows it.
    KnownFailure {
        /// What the builder says about it.
        evidence: String,
    },
}

impl Outcome {
    /// The outcome of a law that this version cannot check; the reason comes from the lists of the macros, which begin
    /// each with "not checked: " for the test harness to print.
    #[doc(hidden)]
    pub fn unchecked(why: &str) -> Self {
        Self::NotChecked { why: why.trim_start_matches("not checked: ").to_owned() }
    }
}

/// A broken law, in words for the adaptor's author.
#[derive(Clone)]
pub struct Violation {
    expected: String,
    found: String,
    why: &'static str,
}

impl Violation {
    /// What was expected, and what was found.
    pub(crate) fn parts(&self) -> (&str, &str) {
        (&self.expected, &self.found)
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n  expected: {}\n  found:    {}\n  why:      {}", self.expected, self.found, self.why)
    }
}

/// The same as `Display`: tests print errors this way.
impl Debug for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Violation {}

/// The reason of a law, through which its checks are made, so that every violation can name it.
#[derive(Clone, Copy)]
pub(crate) struct Why(pub(crate) &'static str);

impl Why {
    pub(crate) fn violation(self, expected: impl Into<String>, found: impl Into<String>) -> Violation {
        Violation { expected: expected.into(), found: found.into(), why: self.0 }
    }

    pub(crate) fn equal<T: PartialEq + Debug>(self, what: &str, found: T, expected: T) -> Result<(), Violation> {
        if found == expected {
            return Ok(());
        }
        Err(self.violation(format!("{what} is {}", brief(&expected)), brief(&found)))
    }

    pub(crate) fn holds(self, expected: &str, condition: bool, found: impl Into<String>) -> Result<(), Violation> {
        if condition { Ok(()) } else { Err(self.violation(expected, found)) }
    }

    /// The value of a call that must succeed.
    pub(crate) fn ok<T>(self, doing: &str, result: Result<T, Error>) -> Result<T, Violation> {
        result
            .map_err(|error| self.violation(format!("{doing} succeeds"), format!("the error \"{error}\" ({error:?})")))
    }

    /// A call that must fail, in one of the ways that `accepted` names.
    pub(crate) fn refused<T>(
        self,
        doing: &str,
        result: Result<T, Error>,
        wanted: &str,
        accepted: impl Fn(&Error) -> bool,
    ) -> Result<(), Violation> {
        match result {
            Err(error) if accepted(&error) => Ok(()),
            Err(error) => Err(self.violation(format!("{doing} is refused with {wanted}"), format!("{error:?}"))),
            Ok(_) => Err(self.violation(format!("{doing} is refused with {wanted}"), "it succeeded")),
        }
    }
}

pub(crate) fn held() -> LawResult {
    Ok(Outcome::Held)
}

pub(crate) fn not_checked(why: impl Into<String>) -> LawResult {
    Ok(Outcome::NotChecked { why: why.into() })
}

/// The outcome of a law for which this machine lacks something, which `remedy` gets. A broken law where `CI` is set and
/// the process is root: there nothing is left out unnoticed.
pub(crate) fn missing(why: Why, what: &str, remedy: &str) -> LawResult {
    let ci = std::env::var("CI").is_ok_and(|ci| ci == "true" || ci == "1");
    if ci && rustix::process::geteuid().is_root() {
        let expected = format!("this law is checked where CI is set and the tests run as root; {remedy}");
        return Err(why.violation(expected, what));
    }
    not_checked(format!("{what}; {remedy}"))
}

/// A broken law that the builder knows of does not fail; it is printed for what it is.
pub(crate) fn weigh(law: &str, known: &[(&str, &str)], result: LawResult) -> LawResult {
    match (result, known.iter().find(|(name, _)| *name == law)) {
        (Err(violation), Some((_, evidence))) => {
            let (expected, found) = violation.parts();
            Ok(Outcome::KnownFailure { evidence: format!("{evidence} (expected: {expected}; found: {found})") })
        }
        (result, _) => result,
    }
}

/// Debug text that stays readable when the value is a long list.
fn brief(value: &impl Debug) -> String {
    let mut text = format!("{value:?}");
    if let Some((cut, _)) = text.char_indices().nth(600) {
        text.truncate(cut);
        text.push_str(" …");
    }
    text
}

/// Runs one law as the body of a `#[test]`, on a runtime of its own.
///
/// # Panics
/// If the law is broken.
pub fn run_as_test(law: &str, check: Pin<Box<dyn Future<Output = LawResult> + '_>>) {
    if let Err(violation) = report(law, on_a_runtime(check)) {
        panic!("the law `{law}` is broken{violation}");
    }
}

/// Waits for a future on a runtime of its own. Boxed, so that the runtime is compiled once and not for each law.
pub(crate) fn on_a_runtime<T>(future: Pin<Box<dyn Future<Output = T> + '_>>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a test process may start two threads");
    runtime.block_on(future)
}

/// Collects the laws of one run.
#[derive(Default)]
pub(crate) struct Report {
    held: usize,
    not_checked: usize,
    known_failures: usize,
    broken: Vec<(&'static str, Violation)>,
}

impl Report {
    pub(crate) fn add(&mut self, law: &'static str, result: LawResult) {
        match report(law, result) {
            Ok(Outcome::Held) => self.held += 1,
            Ok(Outcome::NotChecked { .. }) => self.not_checked += 1,
            Ok(Outcome::KnownFailure { .. }) => self.known_failures += 1,
            Err(violation) => self.broken.push((law, violation)),
        }
    }

    /// Prints the totals.
    ///
    /// # Errors
    /// `Backend` with every broken law.
    pub(crate) fn finish(self, suite: &str) -> Result<(), Error> {
        let (held, not_checked, known, broken) = (self.held, self.not_checked, self.known_failures, self.broken.len());
        say(&format!("{suite}: {held} laws held, {not_checked} not checked, {known} known failures, {broken} broken"));
        if self.broken.is_empty() { Ok(()) } else { Err(Error::backend(Broken(self.broken))) }
    }
}

/// Prints what would otherwise look like success.
fn report(law: &str, result: LawResult) -> LawResult {
    match &result {
        Ok(Outcome::NotChecked { why }) => say(&format!("law {law}: not checked, {why}")),
        Ok(Outcome::KnownFailure { evidence }) => say(&format!("law {law}: known failure, {evidence}")),
        Ok(Outcome::Held) => {}
        Err(violation) => say(&format!("law {law}: broken{violation}")),
    }
    result
}

/// Written to the stream itself: the test harness hides what passing tests print with macros, and a law that was not
/// checked must not look like one that held.
pub(crate) fn say(line: &str) {
    // A closed stream is no reason to fail a law.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Several broken laws as one error.
struct Broken(Vec<(&'static str, Violation)>);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(law, violation)| write!(f, "\nthe law `{law}` is broken{violation}"))
    }
}

impl Debug for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Broken {}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[(&str, &str)] = &[("a law", "seen with strace")];

    #[test]
    fn a_known_failure_is_neither_held_nor_broken() {
        let broken = || Err(Why("it matters").violation("one", "two"));
        let evidence = "seen with strace (expected: one; found: two)".to_owned();
        assert_eq!(weigh("a law", KNOWN, broken()).unwrap(), Outcome::KnownFailure { evidence });
        assert!(weigh("another law", KNOWN, broken()).is_err());
        assert_eq!(weigh("a law", KNOWN, held()).unwrap(), Outcome::Held);
    }
}
